//! What is peculiar to WebSocket: who is let in, how its messages carry the stream, and what strangers may do.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use whispeer::Address;
use whispeer::auth::Principal;
use whispeer::bus::BusBuilder;
use whispeer::prelude::*;
use whispeer::proto::{Header, Hello, Kind, Refusal};
use whispeer::transport::{ClientTls, ServerTls, WebSocketOptions};
use whispeer_testkit::certificates::{CLIENT, Certificates};
use whispeer_testkit::wait::{eventually, soon};

use crate::ground::settings;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A bus at `/bus`.
fn start_with(builder: BusBuilder) -> BusHandle {
    builder.listen(&"ws://localhost:0/bus".parse().unwrap()).start().unwrap()
}

/// A bus that lets one origin in, and knows one more name of its own.
fn start() -> BusHandle {
    let options = WebSocketOptions::new().origin("https://app.example.com").host("bus.example.com");
    start_with(Bus::builder().websocket(options))
}

fn address(bus: &BusHandle) -> String {
    bus.local_addrs()[0].to_string()
}

fn port(bus: &BusHandle) -> u16 {
    let Address::WebSocket(address) = &bus.local_addrs()[0] else { panic!("it comes first") };
    address.endpoint().port()
}

/// A request that a browser's page or a program could send.
fn request(path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n{headers}\r\n"
    )
}

const GOOD: &str = "Host: localhost\r\nSec-WebSocket-Protocol: whispeer.v1\r\n";

/// A client that makes its own messages of its frames.
struct Peer {
    stream: TcpStream,
    /// Bytes of the stream that have arrived and not been looked at.
    arrived: Vec<u8>,
}

impl Peer {
    async fn new(bus: &BusHandle) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port(bus))).await.unwrap();
        Self { stream, arrived: Vec::new() }
    }

    /// One that has done the handshake of WebSocket.
    async fn open(bus: &BusHandle) -> Self {
        let mut peer = Self::new(bus).await;
        peer.stream.write_all(request("/bus", GOOD).as_bytes()).await.unwrap();
        let answer = peer.head().await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        peer
    }

    /// One that the bus has welcomed too.
    async fn welcomed(bus: &BusHandle) -> Self {
        let mut peer = Self::open(bus).await;
        peer.message(&hello()).await;
        assert_eq!(peer.frame().await.0.kind, Kind::Welcome);
        peer
    }

    /// Reads a head of HTTP and not a byte more.
    async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon("an answer", self.stream.read_u8()).await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    async fn message(&mut self, bytes: &[u8]) {
        self.stream.write_all(&masked(2, true, bytes)).await.unwrap();
    }

    /// Reads one message or control frame.
    async fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        soon("a message", self.stream.read_exact(&mut head)).await.unwrap();
        assert_eq!(head[0] & 0x80, 0x80, "the bus divides no messages");
        let length = match head[1] {
            126 => u64::from(self.stream.read_u16().await.unwrap()),
            127 => self.stream.read_u64().await.unwrap(),
            length => u64::from(length),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        soon("a payload", self.stream.read_exact(&mut payload)).await.unwrap();
        (head[0] & 0x0f, payload)
    }

    /// The next frame of the stream.
    async fn frame(&mut self) -> (Header, Vec<u8>) {
        loop {
            if let Some(length) = self.arrived.first_chunk() {
                let total = u32::from_le_bytes(*length) as usize + 4;
                if self.arrived.len() >= total {
                    let frame: Vec<u8> = self.arrived.drain(..total).collect();
                    return decoded(&frame).await;
                }
            }
            let (opcode, payload) = self.receive().await;
            assert_eq!(opcode, 2, "{payload:?}");
            self.arrived.extend(payload);
        }
    }

    /// Reads up to the close, and gives its code.
    async fn closed(&mut self) -> u16 {
        loop {
            if let (8, payload) = self.receive().await {
                return u16::from_be_bytes(*payload.first_chunk().unwrap());
            }
        }
    }
}

async fn decoded(frame: &[u8]) -> (Header, Vec<u8>) {
    use whispeer::transport::{Form, Incoming};
    let mut incoming = Incoming::new(Form::Bytes, usize::MAX);
    let mut rest = frame;
    while !rest.is_empty() {
        std::future::poll_fn(|context| incoming.poll_read_from(context, &mut rest)).await.unwrap();
    }
    let (header, content) = incoming.next_frame().unwrap().unwrap();
    (header, content.payload().to_vec())
}

/// A frame of WebSocket as a client sends it.
fn masked(opcode: u8, is_final: bool, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![opcode | if is_final { 0x80 } else { 0 }];
    match payload.len() {
        length @ ..126 => bytes.push(0x80 | length as u8),
        length @ ..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A frame of the bus.
fn frame(kind: Kind, id: u32, sequence: u64, topic: &str, payload: &[u8]) -> Vec<u8> {
    let head = Header::new(kind, id, sequence).encode(0, topic.len(), payload.len());
    [&head[..], topic.as_bytes(), payload].concat()
}

fn hello() -> Vec<u8> {
    frame(Kind::Hello, 0, 0, "", &Hello::default().encode())
}

#[tokio::test]
async fn a_client_comes_in_by_the_address_of_the_bus() {
    let bus = start();
    let client = Client::connect(&address(&bus)).await.unwrap();
    client.ping().await.unwrap();
    let session = &bus.sessions()[0];
    assert_eq!(session.transport, "ws");
    assert!(matches!(session.principal, Principal::Network { .. }), "{:?}", session.principal);
    let elsewhere = address(&bus).replace("/bus", "/other");
    let error = Client::connect(&elsewhere).await.unwrap_err();
    assert!(matches!(error, BusError::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains("404 Not Found: no bus is at this path"), "{error}");
}

#[tokio::test]
async fn over_tls_a_client_is_known_by_its_certificate() {
    let made = Certificates::new();
    let tls = ServerTls::pem(made.server.pem(), made.server.key_pem()).client_ca_pem(made.authority.pem());
    let bus = Bus::builder().tls(tls).listen(&"wss://localhost:0/bus".parse().unwrap()).start().unwrap();
    let trusting = ClientTls::new().ca_pem(made.authority.pem());
    let refused = Client::builder().tls(trusting.clone()).connect(&address(&bus)).await.unwrap_err();
    assert!(refused.to_string().contains("asks for a certificate"), "{refused}");
    let showing = trusting.identity_pem(made.client.pem(), made.client.key_pem());
    let client = Client::builder().tls(showing.clone()).connect(&address(&bus)).await.unwrap();
    client.ping().await.unwrap();
    let session = &bus.sessions()[0];
    assert_eq!(session.transport, "wss");
    assert_eq!(session.principal, Principal::Certificate { name: CLIENT.into() });
    // What is spoken below is agreed on in the handshake of TLS.
    let plain = address(&bus).replace("wss://", "tls://").replace("/bus", "");
    let error = Client::builder().tls(showing).connect(&plain).await.unwrap_err();
    assert!(error.to_string().contains("speaks something else"), "{error}");
}

#[tokio::test]
async fn who_is_not_meant_to_come_in_is_told_what_would_let_him() {
    let bus = start();
    let protocol = "Sec-WebSocket-Protocol: whispeer.v1\r\n";
    for (path, headers, status, hint) in [
        ("/", GOOD, 404, "path"),
        ("/bus", &format!("Host: evil.example.com\r\n{protocol}"), 421, "--websocket-hosts"),
        ("/bus", &format!("{GOOD}Origin: https://evil.example.com\r\n"), 403, "--websocket-origins"),
        ("/bus", &format!("{GOOD}Origin: http://localhost\r\n"), 403, "--websocket-origins"),
        ("/bus", "Host: localhost\r\n", 400, "whispeer.v1"),
    ] {
        let mut peer = Peer::new(&bus).await;
        peer.stream.write_all(request(path, headers).as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon("the end", peer.stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains(hint) && answer.contains("Content-Type: text/plain"), "{answer}");
    }
    for headers in [
        &format!("Host: bus.example.com\r\n{protocol}"),
        &format!("Host: 10.0.0.1:4242\r\n{protocol}"),
        &format!("{GOOD}Origin: https://app.example.com\r\n"),
    ] {
        let mut peer = Peer::new(&bus).await;
        peer.stream.write_all(request("/bus", headers).as_bytes()).await.unwrap();
        let answer = peer.head().await;
        assert!(
            answer.contains("101 ") && answer.contains("sec-websocket-protocol: whispeer.v1"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn who_speaks_something_else_is_told_at_once() {
    let bus = start();
    for said in [&hello()[..], b"\x16\x03\x01\x02\x00", b"POST /bus HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        let mut peer = Peer::new(&bus).await;
        peer.stream.write_all(said).await.unwrap();
        let answer = peer.head().await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let mut peer = Peer::new(&bus).await;
    let long = request("/bus", &format!("{GOOD}Cookie: {}\r\n", "x".repeat(10_000)));
    peer.stream.write_all(long.as_bytes()).await.unwrap();
    assert!(peer.head().await.starts_with("HTTP/1.1 431 "));
    // And what is no WebSocket is known to a client.
    let tcp = listen_and_serve_tcp("localhost:0").await.unwrap();
    let error = Client::connect(&address_of_tcp(&tcp)).await.unwrap_err();
    assert!(error.to_string().contains("does not speak WebSocket"), "{error}");
}

fn address_of_tcp(bus: &BusHandle) -> String {
    bus.local_addrs()[0].to_string().replace("tcp://", "ws://")
}

#[tokio::test]
async fn a_list_with_what_is_no_origin_or_host_is_refused_at_the_start() {
    for options in [WebSocketOptions::new().origin("*"), WebSocketOptions::new().host("a b")] {
        let started =
            Bus::builder().websocket(options).listen(&"ws://localhost:0".parse().unwrap()).start().map(drop);
        assert!(matches!(started, Err(BusError::InvalidSettings(_))), "{started:?}");
    }
}

#[tokio::test]
async fn frames_may_be_many_in_a_message_or_one_in_many() {
    let bus = start();
    let client = Client::connect(&address(&bus)).await.unwrap();
    let mut subscription = client.subscribe_bytes("news").await.unwrap();
    let mut peer = Peer::welcomed(&bus).await;
    let publishes: Vec<u8> =
        (1..=3).flat_map(|sequence| frame(Kind::Publish, 0, sequence, "news", b"it rains")).collect();
    peer.message(&publishes).await;
    for byte in frame(Kind::Publish, 0, 4, "news", b"it rains") {
        peer.message(&[byte]).await;
        peer.message(&[]).await;
    }
    // A message in four frames, with a ping between them.
    let divided = frame(Kind::Publish, 0, 5, "news", b"it rains");
    let last = divided.len() / 10;
    for (index, part) in divided.chunks(10).enumerate() {
        let opcode = if index == 0 { 2 } else { 0 };
        peer.stream.write_all(&masked(opcode, index == last, part)).await.unwrap();
        peer.stream.write_all(&masked(9, true, b"still there?")).await.unwrap();
        assert_eq!(peer.receive().await, (10, b"still there?".to_vec()));
    }
    for _ in 0..5 {
        assert_eq!(soon("a message", subscription.recv()).await.unwrap().1, "it rains");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_division_of_the_stream_into_messages_and_frames_is_the_same_to_the_bus(
        payloads in vec(vec(any::<u8>(), 0..2_000), 1..8),
        parts in vec((0..700usize, any::<bool>()), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bus = start();
            let client = Client::new_memory(&bus.connector()).unwrap();
            let mut subscription = client.subscribe_bytes("news").await.unwrap();
            let mut peer = Peer::welcomed(&bus).await;
            let stream: Vec<u8> = payloads
                .iter()
                .zip(1..)
                .flat_map(|(payload, sequence)| frame(Kind::Publish, 0, sequence, "news", payload))
                .collect();
            let (mut rest, mut parts, mut begun) = (&stream[..], parts.iter().cycle(), false);
            let mut bytes = Vec::new();
            while !rest.is_empty() || begun {
                let (size, is_final) = *parts.next().unwrap();
                let size = (size + usize::from(size == 0 && !begun)).min(rest.len());
                let (part, left) = rest.split_at(size);
                let is_final = is_final || left.is_empty();
                bytes.extend(masked(if begun { 0 } else { 2 }, is_final, part));
                (rest, begun) = (left, !is_final);
            }
            peer.stream.write_all(&bytes).await.unwrap();
            for payload in &payloads {
                let message = soon("a message", subscription.recv()).await.unwrap();
                assert_eq!(&message.1[..], &payload[..]);
            }
        });
    }
}

#[tokio::test]
async fn a_text_ends_the_connection_with_the_code_for_it() {
    let bus = start();
    let mut peer = Peer::welcomed(&bus).await;
    peer.stream.write_all(&masked(1, true, b"hello")).await.unwrap();
    assert_eq!(peer.closed().await, 1003);
    eventually("the session is gone", || bus.stats().sessions == 0).await;
    let mut unmasked = Peer::welcomed(&bus).await;
    unmasked.stream.write_all(b"\x82\x01x").await.unwrap();
    assert_eq!(unmasked.closed().await, 1002);
}

#[tokio::test]
async fn before_its_hello_a_peer_gets_no_memory_for_a_long_message() {
    let bus = start();
    let mut peer = Peer::open(&bus).await;
    // A message of a terabyte whose first frame has a megabyte.
    let head = [&[0x82, 0xff][..], &(1u64 << 40).to_be_bytes(), &[0; 4]].concat();
    let begun = Header::new(Kind::Hello, 0, 0).encode(0, 0, 1 << 20);
    peer.stream.write_all(&[&head[..], &begun[..]].concat()).await.unwrap();
    let (header, payload) = peer.frame().await;
    assert_eq!(header.kind, Kind::Goodbye);
    let reason = Refusal::decode(&payload).unwrap().into_error();
    assert!(matches!(reason, BusError::Protocol { .. }), "{reason:?}");
    assert_eq!(peer.closed().await, 1000);
}

#[tokio::test]
async fn a_message_over_the_frame_limit_ends_nothing_as_long_as_its_frames_are_within() {
    let bus = start_with(settings(|settings| settings.frame_limit = 128 * 1024));
    let client = Client::new_memory(&bus.connector()).unwrap();
    let mut subscription = client.subscribe_bytes("news").await.unwrap();
    let mut peer = Peer::welcomed(&bus).await;
    let payload = vec![b'x'; 100_000];
    let stream: Vec<u8> =
        (1..=5).flat_map(|sequence| frame(Kind::Publish, 0, sequence, "news", &payload)).collect();
    peer.message(&stream).await;
    for _ in 0..5 {
        assert_eq!(soon("a message", subscription.recv()).await.unwrap().1.len(), payload.len());
    }
    peer.message(&Header::new(Kind::Publish, 0, 6).encode(0, 4, 128 * 1024)).await;
    loop {
        let (header, payload) = peer.frame().await;
        if header.kind == Kind::Goodbye {
            let reason = Refusal::decode(&payload).unwrap().into_error();
            assert!(matches!(reason, BusError::Protocol { .. }), "{reason:?}");
            return;
        }
    }
}

#[tokio::test]
async fn a_close_is_answered_and_the_bus_closes_with_a_close() {
    let bus = start();
    let mut peer = Peer::welcomed(&bus).await;
    peer.stream
        .write_all(&masked(8, true, &[&1001u16.to_be_bytes()[..], b"going away"].concat()))
        .await
        .unwrap();
    assert_eq!(peer.closed().await, 1001);
    assert_eq!(soon("the end", peer.stream.read(&mut [0; 10])).await.unwrap(), 0);
    eventually("the session is gone", || bus.stats().sessions == 0).await;

    let mut peer = Peer::welcomed(&bus).await;
    bus.stop().await;
    loop {
        let (header, _) = peer.frame().await;
        if header.kind == Kind::Goodbye {
            break;
        }
    }
    assert_eq!(peer.closed().await, 1000);
}

#[tokio::test]
async fn one_byte_at_a_time_is_slow_and_right() {
    let bus = start();
    let mut peer = Peer::new(&bus).await;
    peer.stream.set_nodelay(true).unwrap();
    for byte in request("/bus", GOOD).bytes() {
        peer.stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(peer.head().await.contains(" 101 "));
    for byte in masked(2, true, &hello()) {
        peer.stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(peer.frame().await.0.kind, Kind::Welcome);
    assert_eq!(bus.stats().sessions_cut_off, 0);
}

#[tokio::test]
async fn who_drips_without_end_is_hung_up_on_in_time() {
    let bus = start_with(settings(|settings| settings.handshake_timeout = Duration::from_millis(300)));
    let start = Instant::now();
    let mut peer = Peer::new(&bus).await;
    peer.stream.set_nodelay(true).unwrap();
    peer.stream.write_all(b"GET /bus HTTP/1.1\r\nX: ").await.unwrap();
    while peer.stream.write_all(b"x").await.is_ok() && start.elapsed() < Duration::from_secs(20) {
        tokio::task::yield_now().await;
        if timeout(Duration::from_millis(1), peer.stream.readable()).await.is_ok() {
            break;
        }
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    eventually("it is noticed", || bus.stats().sessions_cut_off == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_who_say_nothing_keep_no_good_client_out() {
    let bus = start();
    let mut silent = Vec::new();
    for turn in 0..1_000 {
        let mut peer = Peer::new(&bus).await;
        let said: &[u8] = match turn % 3 {
            0 => b"",
            1 => b"GET /bus HTTP/1.1\r\nHost: localhost\r\n",
            _ => b"G",
        };
        peer.stream.write_all(said).await.unwrap();
        silent.push(peer);
    }
    let start = Instant::now();
    let client = timeout(Duration::from_secs(5), Client::connect(&address(&bus))).await.unwrap().unwrap();
    client.ping().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    drop(silent);
}

#[tokio::test]
async fn a_flood_of_pings_is_answered_as_far_as_it_is_read_and_harms_nobody() {
    let bus = start();
    let client = Client::connect(&address(&bus)).await.unwrap();
    let mut flooding = Peer::welcomed(&bus).await;
    let pings: Vec<u8> = std::iter::repeat_n(masked(9, true, &[7; 125]), 1_000).flatten().collect();
    for _ in 0..100 {
        // Nothing of the answers is read.
        soon("the bus reads on", flooding.stream.write_all(&pings)).await.unwrap();
        client.ping().await.unwrap();
    }
    assert_eq!(bus.stats().sessions_cut_off, 0);
    // It is still a session: answers to some pings come, and then one to a frame.
    flooding.message(&frame(Kind::Ping, 0, 77, "", b"")).await;
    loop {
        if let (2, payload) = flooding.receive().await {
            assert_eq!(decoded(&payload).await.0.kind, Kind::Pong);
            break;
        }
    }
}
