//! How sockets end.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};
use whispeer::prelude::*;
use whispeer_gateway::{Gateway, Settings, settings};

use super::{API_KEY, KEY, Place, Socket, publication, token};

#[tokio::test]
async fn a_gateway_that_drains_closes_its_sockets_as_going_away() {
    let place = Place::new().await;
    let mut waiting = Socket::open(place.address()).await;
    let mut subscribed = place.subscribed("news").await;
    let closed = async { (waiting.closed().await, subscribed.closed().await) };
    let (_, codes) = tokio::join!(place.gateway.stop(), closed);
    assert_eq!(codes, (1001, 1001));
}

#[tokio::test]
async fn a_bus_that_drains_closes_its_sockets_as_going_away() {
    let Place { bus, mut gateway } = Place::new().await;
    let mut socket = Socket::open(gateway.local_addr()).await;
    socket.connect(&token(&json!({}))).await;
    socket.subscribe("news").await;
    let closed = socket.closed();
    let (_, code, ()) = tokio::join!(bus.stop(), closed, gateway.join());
    assert_eq!(code, 1001);
}

#[tokio::test]
async fn a_gateway_that_is_dropped_leaves_no_sockets_behind() {
    let Place { bus, gateway } = Place::new().await;
    let mut socket = Socket::open(gateway.local_addr()).await;
    socket.connect(&token(&json!({}))).await;
    drop(gateway);
    assert_eq!(socket.closed().await, 1001);
    drop(bus);
}

#[tokio::test]
async fn a_socket_that_goes_is_no_session_any_more() {
    let place = Place::new().await;
    let mut socket = place.subscribed("news").await;
    let client = place.client();
    assert_eq!(client.publish_bytes("news", &[0][..]).await.unwrap(), 1);
    assert_eq!(socket.next().await, publication("news", &json!(0)));
    socket.stream.close(None).await.unwrap();
    while socket.stream.next().await.is_some() {}
    while client.publish_bytes("news", &[0][..]).await.unwrap() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_websocket_has_a_place_among_the_connections_for_as_long_as_it_is_there() {
    let bus = Bus::builder().start().unwrap();
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap());
    settings.turbine = Some(settings::Turbine::new(KEY, API_KEY));
    settings.max_connections = 1;
    let gateway = Gateway::start(&bus, settings).await.unwrap();
    let mut socket = Socket::open(gateway.local_addr()).await;
    socket.connect(&token(&json!({}))).await;
    let ask = async || {
        let mut stream = tokio::net::TcpStream::connect(gateway.local_addr()).await.unwrap();
        let _ =
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    };
    assert_eq!(ask().await, "", "there is no place");
    socket.stream.close(None).await.unwrap();
    while socket.stream.next().await.is_some() {}
    while ask().await.is_empty() {
        tokio::task::yield_now().await;
    }
}

/// The header of a text that goes on in further frames.
fn beginning() -> FrameHeader {
    let opcode = OpCode::Data(Data::Text);
    FrameHeader { opcode, is_final: false, mask: Some([0; 4]), ..FrameHeader::default() }
}

#[tokio::test]
async fn a_message_has_to_be_complete_in_time() {
    let place = Place::new().await;
    let mut socket = place.connected().await;
    let header = beginning();
    let half = Frame::from_payload(header, "{\"id\": 1, ".into());
    socket.stream.send(Message::Frame(half)).await.unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let code = loop {
        // It answers pings, so that it is nobody who has gone.
        match socket.stream.next().await {
            Some(Ok(Message::Ping(_))) => {}
            Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code),
            other => panic!("there came {other:?}"),
        }
    };
    assert_eq!(code, 1008);
    let took = begun.elapsed();
    assert!((Duration::from_secs(29)..Duration::from_secs(32)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn long_messages_that_do_not_end_leave_room_for_short_ones() {
    let bus = Bus::builder().start().unwrap();
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap());
    settings.turbine = Some(settings::Turbine::new(KEY, API_KEY));
    settings.bodies_limit = settings.body_limit;
    let gateway = Gateway::start(&bus, settings).await.unwrap();
    let place = Place { bus, gateway };
    let half = || {
        let header = beginning();
        Message::Frame(Frame::from_payload(header, vec![b' '; 600_000].into()))
    };
    let mut first = place.connected().await;
    first.stream.send(half()).await.unwrap();
    // It is read before what follows it is answered.
    first.stream.send(Message::Ping("x".into())).await.unwrap();
    assert!(matches!(first.stream.next().await, Some(Ok(Message::Pong(_)))));

    let mut second = place.connected().await;
    second.stream.send(half()).await.unwrap();
    assert_eq!(second.closed().await, 1013);
    let long = json!({"channel": "news", "data": "x".repeat(600_000)}).to_string();
    assert_eq!(place.post(&long, &[]).await.status, 503);

    let mut third = place.subscribed("news").await;
    place.publish("news", &json!("short")).await;
    assert_eq!(third.next().await, publication("news", &json!("short")));

    // Its room is free again when the first has gone.
    drop(first);
    while place.post(&long, &[]).await.status != 200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_breaks_the_rules_of_websocket_is_closed_and_nobody_else_notices() {
    let place = Place::new().await;
    let mut other = place.subscribed("news").await;
    let frame = |opcode, payload: &'static [u8]| {
        let header = FrameHeader { opcode, mask: Some([0; 4]), ..FrameHeader::default() };
        Message::Frame(Frame::from_payload(header, payload.into()))
    };
    let hostile = [
        ("a text that is no UTF-8", frame(OpCode::Data(Data::Text), b"\xff\xfe"), 1007),
        ("what goes on with nothing", frame(OpCode::Data(Data::Continue), b"x"), 1002),
        ("an opcode that is none", frame(OpCode::Data(Data::Reserved(5)), b"x"), 1002),
    ];
    for (what, message, code) in hostile {
        let mut socket = place.subscribed("news").await;
        socket.stream.send(message).await.unwrap();
        assert_eq!(socket.closed().await, code, "{what}");
    }
    // No more than its head is read of a huge one, so that it may end without a word.
    let mut huge = place.subscribed("news").await;
    let text = json!({"id": 1, "method": "x".repeat(2 * 1024 * 1024)}).to_string();
    let _ = huge.stream.send(Message::text(text)).await;
    loop {
        match huge.stream.next().await {
            Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1009),
            Some(Err(_)) | None => break,
            other => panic!("there came {other:?}"),
        }
    }

    place.publish("news", &json!("still here")).await;
    assert_eq!(other.next().await, publication("news", &json!("still here")));
}
