//! What cannot be seen from outside: what is counted, and the session that publishes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};
use whispeer::prelude::*;

use super::*;
use crate::Settings;
use crate::gateway::Phase;
use crate::routes::router;
use crate::server::Server;

const KEY: &str = "a secret of 32 bytes and some more";

fn refusal(change: impl FnOnce(&mut settings::Turbine)) -> String {
    let mut settings = settings::Turbine::new(KEY, "a key of the API");
    change(&mut settings);
    Turbine::new(&settings).map(drop).unwrap_err().to_string()
}

#[test]
fn settings_that_cannot_be_used_are_refused() {
    assert!(refusal(|settings| settings.key = "devsecret".into()).contains("can be forged"));
    assert!(refusal(|settings| settings.api_keys = vec!["devkey".into()]).contains("can be guessed"));
    assert!(refusal(|settings| settings.buffer = 0).contains("from 1 to"));
    assert!(refusal(|settings| settings.buffer = u32::MAX).contains("from 1 to"));
}

#[test]
fn each_of_the_keys_is_one_and_nothing_else() {
    let mut settings = settings::Turbine::new(KEY, "one key of the API");
    settings.api_keys.push("another key of the API".into());
    let turbine = Turbine::new(&settings).unwrap();
    assert!(turbine.is_api_key(b"one key of the API") && turbine.is_api_key(b"another key of the API"));
    for wrong in [&b""[..], b"one key of the AP", b"one key of the API ", b"One key of the API"] {
        assert!(!turbine.is_api_key(wrong));
    }
    settings.api_keys.clear();
    assert!(!Turbine::new(&settings).unwrap().is_api_key(b""));
}

/// A gateway whose insides can be looked at.
struct Inside {
    bus: BusHandle,
    shared: Arc<Shared>,
    address: SocketAddr,
    server: JoinHandle<()>,
    phase: watch::Sender<Phase>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Inside {
    async fn new(change: impl FnOnce(&mut settings::Turbine)) -> Self {
        let bus = Bus::builder().start().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut turbine = settings::Turbine::new(KEY, "a key of the API");
        change(&mut turbine);
        let mut settings = Settings::new(address);
        settings.turbine = Some(turbine);
        let (sender, phase) = watch::channel(Phase::Running);
        let shared = Arc::new(Shared::new(bus.view(), settings, &[address], phase.clone()).unwrap());
        let server = Server::new(Arc::clone(&shared), vec![listener], router(&shared));
        let server = tokio::spawn(server.run(phase, Duration::ZERO));
        Self { bus, shared, address, server, phase: sender }
    }

    fn client(&self) -> Client {
        Client::new_memory(&self.bus.connector()).unwrap()
    }

    /// The count of this name and these labels.
    fn count(&self, series: &str) -> u64 {
        let mut text = String::new();
        let encoded = |registry: &_| prometheus_client::encoding::text::encode(&mut text, registry);
        self.shared.metrics.with_registry(encoded).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0, |count| count.parse().unwrap())
    }

    async fn subscribed(&self, channel: &str) -> WebSocketStream<TcpStream> {
        self.subscribed_until(channel, 4_102_444_800).await
    }

    async fn subscribed_until(&self, channel: &str, exp: u64) -> WebSocketStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut socket, _) = client_async(format!("ws://{}/ws", self.address), stream).await.unwrap();
        let claims = json!({"sub": "a", "exp": exp, "channels": []});
        let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(KEY.as_bytes())).unwrap();
        for command in [
            json!({"id": 1, "method": "connect", "params": {"token": token}}),
            json!({"id": 2, "method": "subscribe", "params": {"channel": channel}}),
        ] {
            assert_eq!(ask(&mut socket, &command).await["id"], command["id"]);
        }
        socket
    }
}

async fn ask(socket: &mut WebSocketStream<TcpStream>, command: &Value) -> Value {
    socket.send(Message::text(command.to_string())).await.unwrap();
    next(socket).await
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Value {
    let message = timeout(Duration::from_secs(20), socket.next()).await.expect("it comes in time");
    serde_json::from_str(message.unwrap().unwrap().to_text().unwrap()).unwrap()
}

/// Asks for a pong, and returns how many publications have come before it.
async fn publications_before_pong(socket: &mut WebSocketStream<TcpStream>) -> u64 {
    socket.send(Message::text(r#"{"id":"pong","method":"ping"}"#)).await.unwrap();
    let mut count = 0;
    while next(socket).await.get("method").is_some() {
        count += 1;
    }
    count
}

/// Lets time pass for what goes on elsewhere, until it is so.
async fn until(mut what: impl FnMut() -> bool) {
    let comes = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), comes).await.expect("it comes in time");
}

/// Lets others go on for as long as they have something to do.
async fn turns() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// Sockets that are open.
const SOCKETS: &str = r#"whispeer_gateway_sockets{dialect="turbine"}"#;

/// Messages for which there was no room.
const DROPPED: &str = r#"whispeer_gateway_dropped_total{dialect="turbine",reason="dropped_newest"}"#;

#[tokio::test]
async fn what_a_reader_that_stops_does_not_get_is_dropped_and_counted() {
    const PUBLISHED: u64 = 120;
    let inside = Inside::new(|settings| settings.buffer = 4).await;
    let mut socket = inside.subscribed("news").await;
    // More than the system and the gateway have room for.
    let payload = rmp_serde::to_vec(&"x".repeat(256 * 1024)).unwrap();
    let client = inside.client();
    for _ in 0..PUBLISHED {
        assert_eq!(client.publish_bytes("news", payload.clone()).await.unwrap(), 1, "nobody is held up");
        turns().await;
    }
    let dropped = || inside.count(DROPPED);
    let mut received = 0;
    let balance = async {
        while received + dropped() < PUBLISHED {
            received += publications_before_pong(&mut socket).await;
        }
    };
    timeout(Duration::from_secs(20), balance).await.expect("each was pushed or counted");
    assert_eq!(received + dropped(), PUBLISHED);
    assert!(received > 4 && dropped() > 0, "{received} came");
}

#[tokio::test]
async fn what_waits_for_a_socket_that_ends_is_counted() {
    let inside = Inside::new(|settings| settings.buffer = 16).await;
    let socket = inside.subscribed("news").await;
    let payload = rmp_serde::to_vec(&"x".repeat(512 * 1024)).unwrap();
    let client = inside.client();
    for _ in 0..60 {
        client.publish_bytes("news", payload.clone()).await.unwrap();
        turns().await;
    }
    drop(socket);
    until(|| inside.count(r#"whispeer_gateway_dropped_total{dialect="turbine",reason="closed"}"#) > 0).await;
    until(|| inside.count(SOCKETS) == 0).await;
}

/// How many seconds of a paused clock pass before no socket is open any more.
async fn seconds_to_the_end(inside: &Inside) -> u64 {
    tokio::time::pause();
    let begun = Instant::now();
    while inside.count(SOCKETS) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not end");
        sleep(Duration::from_millis(50)).await;
    }
    begun.elapsed().as_secs()
}

/// A socket that has stopped reading, in the midst of what is written to it.
async fn stalled(inside: &Inside, exp: u64) -> WebSocketStream<TcpStream> {
    let socket = inside.subscribed_until("news", exp).await;
    let payload = rmp_serde::to_vec(&"x".repeat(512 * 1024)).unwrap();
    let client = inside.client();
    for _ in 0..40 {
        client.publish_bytes("news", payload.clone()).await.unwrap();
        turns().await;
    }
    socket
}

#[tokio::test]
async fn a_token_expires_at_its_moment_also_if_the_reader_has_stopped() {
    let inside = Inside::new(|settings| settings.buffer = 4).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let _socket = stalled(&inside, now + 12).await;
    let took = seconds_to_the_end(&inside).await;
    assert!(took <= 12 + 2, "{took} s");
}

#[tokio::test]
async fn a_reader_that_has_stopped_does_not_hold_up_the_end_of_the_gateway() {
    let inside = Inside::new(|settings| settings.buffer = 4).await;
    let _socket = stalled(&inside, 4_102_444_800).await;
    inside.phase.send_replace(Phase::Draining);
    let took = seconds_to_the_end(&inside).await;
    assert!(took <= 3, "{took} s");
    // Each was written, or counted; beside two answers and the message in the midst of which it ended, which is both.
    let sent = inside.count(r#"whispeer_gateway_messages_total{dialect="turbine",direction="out"}"#) - 2;
    let closed = inside.count(r#"whispeer_gateway_dropped_total{dialect="turbine",reason="closed"}"#);
    assert_eq!(sent + inside.count(DROPPED) + closed, 40 + 1);
}

#[tokio::test]
async fn a_message_of_any_length_is_pushed() {
    let inside = Inside::new(|_| {}).await;
    let mut socket = inside.subscribed("news").await;
    let long = "x".repeat(5 * 1024 * 1024);
    inside.client().publish_bytes("news", rmp_serde::to_vec(&long).unwrap()).await.unwrap();
    assert_eq!(next(&mut socket).await["params"]["data"], long);
}

#[tokio::test]
async fn what_goes_unread_and_what_is_refused_is_counted() {
    let inside = Inside::new(|_| {}).await;
    let mut socket = inside.subscribed("secrets").await;
    inside.client().publish_bytes("secrets", &[0xC1, 0x57, 1, 200, 0x2A][..]).await.unwrap();
    next(&mut socket).await;
    assert_eq!(inside.count(r#"whispeer_gateway_sealed_total{dialect="turbine"}"#), 1);
    ask(&mut socket, &json!({"id": 3, "method": "dance"})).await;
    ask(&mut socket, &json!({"id": 4, "method": "subscribe", "params": {"channel": "$bus/stats"}})).await;
    for reason in ["bad_command", "forbidden"] {
        let series = format!(r#"whispeer_gateway_refused_total{{dialect="turbine",reason="{reason}"}}"#);
        assert_eq!(inside.count(&series), 1, "{reason}");
    }
}

#[tokio::test]
async fn who_publishes_over_http_has_one_session_and_another_when_that_has_ended() {
    let inside = Inside::new(|_| {}).await;
    let turbine = inside.shared.turbine.as_ref().unwrap();
    let first = turbine.publisher(&inside.shared).await.unwrap();
    first.ping().await.unwrap();
    let again = turbine.publisher(&inside.shared).await.unwrap();
    assert_eq!(first.session_id(), again.session_id());
    first.close().await.unwrap();
    let second = turbine.publisher(&inside.shared).await.unwrap();
    second.ping().await.unwrap();
    assert_ne!(first.session_id(), second.session_id());
}

#[test]
fn what_the_bus_says_has_a_code() {
    use super::commands::Fault;

    let denied = BusError::Denied { what: "subscribing".into() };
    let full = BusError::LimitReached { what: "sessions".into() };
    let slow = BusError::Overloaded { what: "the bus".into() };
    let gone = BusError::Closed { what: "the bus".into() };
    for (error, code) in [(denied, 403), (full, 429), (slow, 429), (gone, 500)] {
        assert_eq!(Fault::from(&error).code(), code, "{error}");
    }
}
