//! Encrypted payloads, at a gateway that was given a keyring and at one that was not.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use whispeer::engine::encryption::{Encryption, Key, Keyring};
use whispeer::engine::{Chain, Engines, is_sealed};
use whispeer::prelude::*;
use whispeer::proto::{Content, Encoding};
use whispeer_gateway::{Gateway, Settings, settings};

use crate::http::{Answer, ask};
use crate::{popsub, turbine};

/// The bytes of the key.
const SECRET: &[u8; 32] = b"the key that payloads have here.";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    pears: u32,
}

impl PublishProtocol for Order {
    fn prefix() -> &'static str {
        "orders"
    }
}

impl RequestProtocol for Order {
    type Rsp = Order;

    fn prefix() -> &'static str {
        "price"
    }
}

fn encryption() -> Encryption {
    Encryption::new(&Keyring::with(Key::from_bytes(*SECRET)).unwrap()).unwrap()
}

/// The keyring, for these topics alone.
fn engines(patterns: &[&str]) -> Engines {
    let chain = Chain::new().with(encryption());
    patterns.iter().fold(Engines::new(), |engines, pattern| engines.topic(*pattern, chain.clone()))
}

/// A gateway of the bus.
async fn gateway(bus: &BusHandle, engines: Option<Engines>) -> Gateway {
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap());
    settings.turbine = Some(settings::Turbine::new(turbine::KEY, turbine::API_KEY));
    settings.popsub = Some(popsub::popsub());
    settings.engines = engines;
    Gateway::start(bus, settings).await.unwrap()
}

/// A client that encrypts all, and takes nothing else.
fn member(bus: &BusHandle) -> Client {
    let engines = Engines::new().with(encryption());
    Client::builder().engines(engines).connect_memory(&bus.connector()).unwrap()
}

async fn turbine(gateway: &Gateway, channel: &str) -> turbine::Socket {
    let mut socket = turbine::Socket::open(gateway.local_addr()).await;
    socket.connect(&turbine::token(&json!({}))).await;
    socket.subscribe(channel).await;
    socket
}

async fn popsub(gateway: &Gateway, topic: &str) -> popsub::Socket {
    let mut socket = popsub::Socket::open(gateway.local_addr()).await;
    socket.log_in("admin").await;
    socket.subscribe(topic).await;
    socket.settle().await;
    socket
}

/// The data of the events of a stream.
struct Events(Lines<BufReader<TcpStream>>);

impl Events {
    async fn open(gateway: &Gateway, pattern: &str) -> Self {
        let address = gateway.local_addr();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET /api/v1/subscribe?pattern={pattern} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut events = Self(BufReader::new(stream).lines());
        assert_eq!(events.next().await["patterns"], json!([pattern]));
        events
    }

    async fn next(&mut self) -> Value {
        loop {
            let line = self.0.next_line().await.unwrap().expect("it goes on");
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str(data).unwrap();
            }
        }
    }
}

async fn post(address: SocketAddr, path: &str, body: &Value) -> Answer {
    let key = [("x-api-key".to_owned(), turbine::API_KEY.to_owned())];
    let answer = ask(address, "POST", path, &key, body.to_string().as_bytes()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// How many messages went with the mark, by the dialect.
async fn marked(gateway: &Gateway, dialect: &str) -> u64 {
    let text = ask(gateway.local_addr(), "GET", "/metrics", &[], b"").await.body;
    let name = format!("whispeer_gateway_sealed_total{{dialect=\"{dialect}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

/// What a subscriber of each dialect gets of one message.
struct Readers {
    turbine: turbine::Socket,
    popsub: popsub::Socket,
    events: Events,
}

impl Readers {
    async fn of(gateway: &Gateway, topic: &str) -> Self {
        Self {
            turbine: turbine(gateway, topic).await,
            popsub: popsub(gateway, topic).await,
            events: Events::open(gateway, topic).await,
        }
    }

    async fn next(&mut self) -> [Value; 3] {
        let turbine = self.turbine.next().await["params"]["data"].take();
        [turbine, self.popsub.next().await["payload"].take(), self.events.next().await["payload"].take()]
    }
}

fn is_marked(payload: &Value) -> bool {
    payload.as_object().is_some_and(|object| object.len() == 1 && object["$sealed"].is_string())
}

#[tokio::test]
async fn pages_read_what_is_encrypted_where_the_gateway_has_the_key_and_its_mark_where_not() {
    let bus = Bus::builder().start().unwrap();
    let with = gateway(&bus, Some(engines(&["orders/**"]))).await;
    let without = gateway(&bus, None).await;
    // Each has to keep what it makes of the message from the other, whichever is first.
    let mut readers = [Readers::of(&with, "orders/7").await, Readers::of(&without, "orders/7").await];
    for pears in [3, 4] {
        member(&bus).publish("7", &Order { pears }).await.unwrap();
        let [open, closed] = &mut readers;
        let (open, closed) = tokio::join!(open.next(), closed.next());
        assert_eq!(open, [(); 3].map(|()| json!({"pears": pears})));
        assert!(closed.iter().all(is_marked), "{closed:?}");
    }
    for dialect in ["turbine", "popsub", "http"] {
        assert_eq!((marked(&with, dialect).await, marked(&without, dialect).await), (0, 2), "{dialect}");
    }
}

#[tokio::test]
async fn what_stays_sealed_is_counted_for_each_to_whom_it_is_pushed_in_all_dialects() {
    let bus = Bus::builder().start().unwrap();
    let gateway = gateway(&bus, None).await;
    let mut readers = [Readers::of(&gateway, "orders/7").await, Readers::of(&gateway, "orders/7").await];
    member(&bus).publish("7", &Order { pears: 3 }).await.unwrap();
    for reader in &mut readers {
        assert!(reader.next().await.iter().all(is_marked));
    }
    for dialect in ["turbine", "popsub", "http"] {
        assert_eq!(marked(&gateway, dialect).await, 2, "{dialect}");
    }
    let mut late = popsub(&gateway, "other").await;
    late.subscribe("orders/7").await;
    assert!(is_marked(&late.next().await["payload"]));
    assert_eq!(marked(&gateway, "popsub").await, 3, "it was replayed");
}

#[tokio::test]
async fn who_publishes_is_told_of_subscribers_and_not_of_what_the_gateway_keeps() {
    let bus = Bus::builder().start().unwrap();
    let gateway = gateway(&bus, None).await;
    let address = gateway.local_addr();
    let _subscribed = popsub(&gateway, "orders/7").await;
    // One topic that somebody has left, and one where somebody has published.
    let mut left = popsub(&gateway, "orders/8").await;
    left.unsubscribe("orders/8").await;
    left.publish("orders/9", 1).await;
    left.settle().await;
    for (topic, expected) in [("orders/7", 1), ("orders/8", 0), ("orders/9", 0), ("orders/*", 1), ("none", 0)]
    {
        let path = format!("/api/v1/publish?topic={topic}");
        assert_eq!(post(address, &path, &json!(1)).await.json()["matches"], expected, "{topic}");
        let batch = json!({"messages": [{"topic": topic, "payload": 1}, {"topic": topic, "payload": 2}]});
        let answer = post(address, "/api/v1/publish", &batch).await.json();
        assert_eq!(answer["results"].as_array().unwrap().len(), 2);
        assert!(
            answer["results"].as_array().unwrap().iter().all(|one| one["matches"] == expected),
            "{answer}"
        );
        if !topic.contains('*') {
            let body = json!({"channel": topic, "data": 1});
            let answer = post(address, "/api/publish", &body).await.json();
            assert_eq!(answer["delivered"], expected, "{topic}");
        }
    }
}

#[tokio::test]
async fn what_no_pattern_covers_and_what_has_another_key_stays_sealed() {
    let bus = Bus::builder().start().unwrap();
    let gateway = gateway(&bus, Some(engines(&["orders/**"]))).await;
    let mut outside = Readers::of(&gateway, "secrets/7").await;
    member(&bus).publish_bytes("secrets/7", vec![0x03]).await.unwrap();
    assert!(outside.next().await.iter().all(is_marked));

    let mut strange = Readers::of(&gateway, "orders/8").await;
    let other = Encryption::new(&Keyring::with(Key::generate().unwrap()).unwrap()).unwrap();
    let other = Client::builder().engines(Engines::new().with(other));
    let other = other.connect_memory(&bus.connector()).unwrap();
    other.publish("8", &Order { pears: 1 }).await.unwrap();
    assert!(strange.next().await.iter().all(is_marked));
    for dialect in ["turbine", "popsub", "http"] {
        assert_eq!(marked(&gateway, dialect).await, 2, "{dialect}");
    }
}

#[tokio::test]
async fn a_message_is_opened_once_for_all_sockets_and_comes_again_from_the_replay() {
    let bus = Bus::builder().start().unwrap();
    let gateway = gateway(&bus, Some(engines(&["**"]))).await;
    let mut sockets = [turbine(&gateway, "orders/7").await, turbine(&gateway, "orders/7").await];
    let mut first = popsub(&gateway, "orders/7").await;
    let outsider = Client::new_memory(&bus.connector()).unwrap();
    let mut shared = outsider.subscribe_content("orders/7").await.unwrap();
    member(&bus).publish("7", &Order { pears: 3 }).await.unwrap();
    let told = first.next().await;
    assert_eq!(told["payload"], json!({"pears": 3}));
    for socket in &mut sockets {
        assert_eq!(socket.next().await["params"]["data"], json!({"pears": 3}));
    }
    let mut late = popsub::Socket::open(gateway.local_addr()).await;
    late.log_in("admin").await;
    late.subscribe("orders/7").await;
    // The same text, with the time and the id that were made with it.
    assert_eq!(late.next().await, told);
    // What the gateway has opened is not there for others.
    let (_, content): (_, std::sync::Arc<Content>) = shared.recv().await.unwrap();
    assert!(is_sealed(content.payload()));
    for encoding in [Encoding::Turbine, Encoding::PopSub] {
        assert_eq!(content.encoded(encoding, || "nobody's".into()), "nobody's");
    }
}

#[tokio::test]
async fn what_pages_publish_and_ask_is_read_by_clients_that_take_only_what_is_encrypted() {
    let bus = Bus::builder().start().unwrap();
    let gateway = gateway(&bus, Some(engines(&["orders/**", "price/**"]))).await;
    let (address, member) = (gateway.local_addr(), member(&bus));
    let mut orders = member.subscribe::<Order>("**").await.unwrap();

    post(address, "/api/publish", &json!({"channel": "orders/1", "data": {"pears": 1}})).await;
    let mut socket = popsub(&gateway, "other").await;
    socket.publish("orders/2", json!({"pears": 2})).await;
    socket.settle().await;
    post(address, "/api/v1/publish?topic=orders/3", &json!({"pears": 3})).await;
    for pears in 1..=3 {
        let (topic, order) = orders.recv().await.unwrap();
        assert_eq!((topic.as_str(), order), (&*pears.to_string(), Order { pears }));
    }
    assert_eq!(orders.gaps(), 0);

    let double = |order: Order| async move { Ok(Order { pears: 2 * order.pears }) };
    let _server = member.handle::<Order, _, _>("pears", double).await.unwrap();
    let answer = post(address, "/api/v1/request?topic=price/pears", &json!({"pears": 4})).await;
    assert_eq!(answer.json(), json!({"pears": 8}));
}

#[tokio::test]
async fn what_a_page_has_sealed_itself_is_not_sealed_again() {
    let bus = Bus::builder().start().unwrap();
    let gateway = gateway(&bus, Some(engines(&["orders/**"]))).await;
    let mut arrived = Client::new_memory(&bus.connector()).unwrap().subscribe_bytes("**").await.unwrap();
    let (sealed, mark) = ([0xC1, 0x57, 1, 200, 0x2A, 0xFF], json!({"$sealed": "wVcByCr/"}));
    for topic in ["orders/1", "other"] {
        post(gateway.local_addr(), "/api/publish", &json!({"channel": topic, "data": mark})).await;
        post(gateway.local_addr(), &format!("/api/v1/publish?topic={topic}"), &mark).await;
        for _ in 0..2 {
            assert_eq!(arrived.recv().await.unwrap().1, sealed[..]);
        }
    }
}

#[tokio::test]
async fn settings_show_nothing_of_the_keys_and_patterns_that_are_none_are_told() {
    let bus = Bus::builder().start().unwrap();
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap());
    settings.engines = Some(engines(&["orders/**"]));
    let shown = format!("{settings:?}");
    assert!(shown.contains("Encryption"), "{shown}");
    let bytes: Vec<String> = SECRET.iter().map(ToString::to_string).collect();
    assert!(!shown.contains("the key that") && !shown.contains(&bytes.join(", ")), "{shown}");
    settings.engines = Some(engines(&["orders/a*b/**"]));
    let refused = Gateway::start(&bus, settings).await.unwrap_err().to_string();
    assert!(refused.contains("engines") && refused.contains("orders/a*b/**"), "{refused}");
}
