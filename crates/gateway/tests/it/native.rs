//! The bus's own protocol at `/bus`.

use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use whispeer::bus::Bus;
use whispeer::{BusError, BusHandle, Client};
use whispeer_gateway::{Gateway, Settings};

async fn started() -> (BusHandle, Gateway, String) {
    let bus = Bus::builder().start().unwrap();
    let gateway = Gateway::start(&bus, Settings::new("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let address = format!("ws://{}/bus", gateway.local_addr());
    (bus, gateway, address)
}

#[tokio::test]
async fn clients_of_the_bus_connect_there_as_at_an_address_of_its_own() {
    let (bus, gateway, address) = started().await;
    let (near, far) =
        (Client::new_memory(&bus.connector()).unwrap(), Client::connect(&address).await.unwrap());
    let mut subscription = far.subscribe_bytes("greetings").await.unwrap();
    near.publish_bytes("greetings", "hello").await.unwrap();
    assert_eq!(subscription.recv().await.unwrap().1, "hello");
    let sessions = bus.sessions();
    assert!(sessions.iter().any(|session| session.transport == "ws"), "{sessions:?}");
    far.close().await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn a_client_has_a_place_among_the_connections_of_the_gateway_for_as_long_as_it_is_there() {
    let bus = Bus::builder().start().unwrap();
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap());
    settings.max_connections = 2;
    let gateway = Gateway::start(&bus, settings).await.unwrap();
    let address = format!("ws://{}/bus", gateway.local_addr());
    let [first, second] =
        [Client::connect(&address).await.unwrap(), Client::connect(&address).await.unwrap()];
    let refused = Client::connect(&address).await;
    assert!(matches!(refused, Err(BusError::Connect { .. })), "{refused:?}");
    first.close().await.unwrap();
    let third = loop {
        // The gateway hears of it a moment later.
        match Client::connect(&address).await {
            Ok(third) => break third,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    third.ping().await.unwrap();
    second.ping().await.unwrap();
}

#[tokio::test]
async fn the_bus_decides_who_somebody_is() {
    let policy = whispeer::auth::Policy::from_toml("auth = {}").unwrap();
    let bus = Bus::builder().policy(policy).start().unwrap();
    let gateway = Gateway::start(&bus, Settings::new("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let refused = Client::connect(&format!("ws://{}/bus", gateway.local_addr())).await;
    assert!(matches!(refused, Err(BusError::Denied { .. })), "{refused:?}");
}

#[tokio::test]
async fn who_does_not_ask_for_it_is_told_what_is_there() {
    let (_bus, _gateway, address) = started().await;
    let with = async |name: &'static str, value: &'static str| {
        let mut request = address.as_str().into_client_request().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
        let Err(Error::Http(response)) = connect_async(request).await else { panic!("it is let in") };
        let text = String::from_utf8(response.body().clone().unwrap_or_default()).unwrap();
        (response.status().as_u16(), text)
    };
    let (status, text) = with("sec-websocket-protocol", "chat").await;
    assert_eq!(status, 400);
    assert!(text.contains("whispeer.v1"), "{text}");
    let (status, text) = with("sec-websocket-version", "12").await;
    assert!(status == 400 || status == 426, "{status} {text}");
    assert_eq!(with("origin", "https://evil.example").await.0, 403);
}
