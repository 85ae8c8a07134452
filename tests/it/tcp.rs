//! What is peculiar to TCP.

use whispeer::Address;
use whispeer::prelude::*;

async fn bus() -> (BusHandle, u16) {
    let bus = listen_and_serve_tcp("localhost:0").await.unwrap();
    let Address::Tcp(endpoint) = &bus.local_addrs()[0] else { panic!("it comes first") };
    let port = endpoint.port();
    (bus, port)
}

#[tokio::test]
async fn a_bus_on_a_name_is_reached_by_the_name_and_by_its_address() {
    let (_bus, port) = bus().await;
    assert_ne!(port, 0);
    for host in ["localhost", "127.0.0.1"] {
        Client::connect(&format!("tcp://{host}:{port}")).await.unwrap().ping().await.unwrap();
    }
}

#[tokio::test]
async fn clients_over_tcp_and_over_memory_meet_on_one_bus() {
    let (bus, port) = bus().await;
    let outside = Client::new_tcp(&format!("localhost:{port}")).await.unwrap();
    let inside = Client::new_memory(&bus.connector()).unwrap();
    let mut subscription = outside.subscribe_bytes("news").await.unwrap();
    assert_eq!(inside.publish_bytes("news", "it rains").await.unwrap(), 1);
    assert_eq!(subscription.recv().await.unwrap().1, "it rains");
}

#[tokio::test]
async fn a_bus_that_asks_nobody_is_not_reached_from_other_hosts_unless_that_is_wanted() {
    let everywhere = "tcp://0.0.0.0:0".parse().unwrap();
    let refused = Bus::builder().listen(&everywhere).start().map(drop).unwrap_err();
    assert!(matches!(refused, BusError::Listen { .. }), "{refused:?}");
    assert!(refused.to_string().contains("allow_anyone"), "{refused}");
    Bus::builder().listen(&everywhere).allow_anyone().start().map(drop).unwrap();
}

#[tokio::test]
async fn where_nobody_listens_each_address_is_named_with_its_answer() {
    let (bus, port) = bus().await;
    bus.stop().await;
    let error = Client::connect(&format!("tcp://localhost:{port}")).await.unwrap_err();
    assert!(matches!(error, BusError::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}: nobody listens there")), "{error}");
}

#[tokio::test]
async fn two_buses_do_not_share_a_port() {
    let (_bus, port) = bus().await;
    let second = listen_and_serve_tcp(&format!("localhost:{port}")).await.map(drop).unwrap_err();
    assert!(matches!(second, BusError::AddressInUse { .. }), "{second:?}");
}

#[tokio::test]
async fn the_peer_is_who_connects_and_reads_no_topics_of_the_bus() {
    let (bus, port) = bus().await;
    let client = Client::new_tcp(&format!("localhost:{port}")).await.unwrap();
    client.ping().await.unwrap();
    assert_eq!(bus.sessions()[0].transport, "tcp");
    let refused = client.request_bytes("$bus/stats", "".into()).await.unwrap_err();
    assert!(matches!(refused, BusError::Denied { .. }), "{refused:?}");
}
