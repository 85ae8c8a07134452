//! A bus with a gateway, and somebody who asks it over HTTP and knows no more of it than these tests need.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use whispeer::auth::{Policy, SigningKey, TokenIssuer};
use whispeer::bus::Streams;
use whispeer::prelude::*;
use whispeer::store::{MemoryStore, Name, Retention, StreamSettings};
use whispeer_gateway::{Gateway, Settings};
use whispeer_testkit::wait::soon;

const KEY: &str = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3JldCBzZWNyZXQh";
/// `alice` with her password, as `Basic` has it.
pub(super) const ALICE: &str = "Basic YWxpY2U6Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ==";

/// The policy of the tests: whoever shows nothing may do nothing.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    // Of `correct horse battery staple`; one that is cheap to check.
    let password =
        "$argon2id$v=19$m=8,t=1,p=1$eNaxungnel9iCt1iUHafQg$DdEaoHRO3jYqKt8NpQ6UDIR0UzMJFQg8zF+JpITE8dc";
    format!(
        r#"
        [auth.roles.reader]
        subscribe.allow = ["greetings/**", "orders/**", "mixed/**"]
        [auth.roles.writer]
        publish.allow = ["greetings/**", "orders/**", "mixed/**"]
        request.allow = ["echo", "broken", "nobody"]
        [auth.roles.admin]
        administer = true
        publish.allow = ["**"]
        subscribe.allow = ["**"]
        request.allow = ["**"]
        [auth]
        anonymous = []
        [[auth.issuers]]
        issuer = "https://login.example"
        audience = "my_bus"
        algorithm = "HS256"
        key = "{KEY}"
        roles = ["reader", "writer", "admin"]
        [[auth.users]]
        name = "alice"
        password = "{password}"
        roles = ["reader"]
        "#
    )
});

/// A token for these roles, as `Authorization` has it.
pub(super) fn bearer(roles: &[&str]) -> String {
    bearer_for("alice", roles, Duration::from_secs(600))
}

pub(super) fn bearer_for(subject: &str, roles: &[&str], lifetime: Duration) -> String {
    let key = SigningKey::parse(KEY).unwrap();
    let issuer = TokenIssuer::new(key, "https://login.example", "my_bus").unwrap();
    let roles: Vec<String> = roles.iter().map(|&role| role.to_owned()).collect();
    format!("Bearer {}", issuer.issue(subject, &roles, lifetime).unwrap().reveal())
}

/// The payloads of a page of history, which are numbers.
pub(super) fn payloads(page: &Value) -> Vec<u64> {
    page["messages"].as_array().unwrap().iter().map(|one| one["payload"].as_u64().unwrap()).collect()
}

/// Where to begin in the stream of [`Served::with_five`], and what comes from there.
pub(super) const STARTS: [(&str, &[u64]); 5] = [
    ("all", &[1, 2, 3, 4, 5]),
    ("last:2", &[4, 5]),
    ("last-per-topic", &[3, 5]),
    ("from:4", &[4, 5]),
    ("since:0", &[1, 2, 3, 4, 5]),
];

/// A bus with its gateway.
pub(super) struct Served {
    pub(super) bus: BusHandle,
    pub(super) gateway: Gateway,
    /// A client of the bus's own process.
    pub(super) client: Client,
}

impl Served {
    /// One that lets all in, with the stream `orders`.
    pub(super) async fn open() -> Self {
        Self::with(Policy::open(), |_| {}).await
    }

    /// One that lets all in, and has five messages of two topics in the stream.
    pub(super) async fn with_five() -> Self {
        let served = Self::open().await;
        served.store("orders/1", 1..=3).await;
        served.store("orders/2", 4..=5).await;
        served
    }

    /// One with the policy.
    pub(super) async fn closed() -> Self {
        Self::with(Policy::from_toml(&POLICY).unwrap(), |_| {}).await
    }

    pub(super) async fn with(policy: Policy, set: impl FnOnce(&mut Settings)) -> Self {
        let streams = streams_of(orders()).await;
        let bus = Bus::builder().policy(policy).streams(streams).start().unwrap();
        Self::over(bus, set).await
    }

    pub(super) async fn over(bus: BusHandle, set: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new("127.0.0.1:0".parse().unwrap());
        set(&mut settings);
        let gateway = Gateway::start(&bus, settings).await.unwrap();
        let client = Client::new_memory(&bus.connector()).unwrap();
        client.ping().await.unwrap();
        Self { bus, gateway, client }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.gateway.local_addr()
    }

    pub(super) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        ask(self.address(), "GET", path, headers, b"").await
    }

    pub(super) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let json = [("content-type", "application/json")];
        ask(self.address(), "POST", path, &[&json, headers].concat(), body.as_bytes()).await
    }

    pub(super) async fn events(&self, query: &str, headers: &[(&str, &str)]) -> Reader {
        let path = format!("/api/v1/subscribe?{query}");
        let mut reader = Reader::ask(self.address(), &path, headers).await;
        if reader.answer.status != 200 {
            let body = reader.rest().await;
            panic!("{:?}: {}", reader.answer, String::from_utf8_lossy(&body));
        }
        reader
    }

    /// Stores these numbers in the stream.
    pub(super) async fn store(&self, topic: &str, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            let payload = rmp_serde::to_vec(&number).unwrap();
            self.client.publish_bytes(topic, payload).await.unwrap();
        }
    }
}

/// The stream `orders`, of which ten messages are kept.
pub(super) fn orders() -> StreamSettings {
    let pattern = TopicPattern::new("orders/**").unwrap();
    let settings = StreamSettings::new(Name::new("orders").unwrap(), vec![pattern]);
    settings.retention(Retention::new().messages(10))
}

pub(super) async fn streams_of(settings: StreamSettings) -> Streams {
    Streams::open(Arc::new(MemoryStore::new()), [settings]).await.unwrap()
}

/// What was answered.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?} ({self:?})"))
    }

    /// The status and the code of a problem, which is one in form, too.
    pub(super) fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
        (self.status, problem["code"].as_str().unwrap_or_default().to_owned())
    }
}

pub(super) async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    ask_from("127.0.0.1", address, method, path, headers, body).await
}

/// Asks from another address of this host.
pub(super) async fn ask_from(
    from: &str,
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let length = body.len().to_string();
    let closing = [("connection", "close"), ("content-length", &length)];
    let stream = connect(from, address).await;
    let mut reader = Reader::send(stream, address, method, path, &[&closing, headers].concat(), body).await;
    let body = soon("the rest of an answer", reader.rest()).await;
    Answer { body, ..reader.answer }
}

async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// An answer of which the body is read as it comes.
pub(super) struct Reader {
    pub(super) answer: Answer,
    stream: BufReader<TcpStream>,
    /// Of the body, what was read and not looked at.
    text: Vec<u8>,
}

/// An event.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) id: Option<String>,
    pub(super) data: Value,
    pub(super) retry: Option<String>,
}

impl Reader {
    pub(super) async fn ask(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let stream = connect("127.0.0.1", address).await;
        Self::send(stream, address, "GET", path, headers, b"").await
    }

    /// Asks for something more over the same connection, when all of the answer before has been read.
    pub(super) async fn ask_again(self, address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        assert!(self.text.is_empty() && self.stream.buffer().is_empty());
        Self::send(self.stream.into_inner(), address, "GET", path, headers, b"").await
    }

    async fn send(
        stream: TcpStream,
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Self {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            head += &format!("host: {address}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        let mut stream = BufReader::new(stream);
        // One that refuses a request by its head need not read the rest.
        let _ = stream.get_mut().write_all(&[head.as_bytes(), b"\r\n", body].concat()).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon("the head of an answer", stream.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        Self { answer: Answer { status, headers, body: Vec::new() }, stream, text: Vec::new() }
    }

    /// Reads one chunk, or the whole body where it is not in chunks; `false` at the end.
    async fn read(&mut self) -> bool {
        if let Some(length) = self.answer.header("content-length") {
            let length: usize = length.parse().unwrap();
            let mut left = vec![0; length - self.text.len()];
            self.stream.read_exact(&mut left).await.unwrap();
            self.text.extend(left);
            return false;
        }
        let mut size = String::new();
        while !size.ends_with("\r\n") {
            size.push(char::from(self.stream.read_u8().await.unwrap()));
        }
        let mut chunk = vec![0; usize::from_str_radix(size.trim(), 16).unwrap() + 2];
        self.stream.read_exact(&mut chunk).await.unwrap();
        chunk.truncate(chunk.len() - 2);
        self.text.extend(&chunk);
        !chunk.is_empty()
    }

    /// What is left of the body.
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        while self.read().await {}
        std::mem::take(&mut self.text)
    }

    /// The next block of a stream of events: an event or a comment; `None` at the end.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
                let block = self.text.drain(..end + 2).collect();
                return Some(String::from_utf8(block).unwrap());
            }
            if !soon("an event", self.read()).await {
                assert!(self.text.is_empty(), "an event is cut off");
                return None;
            }
        }
    }

    /// The next event; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            let block = self.block().await?;
            let mut fields = BTreeMap::new();
            for line in block.trim_end().lines() {
                let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no field: {line:?}"));
                assert!(name.is_empty() || fields.insert(name.to_owned(), value.to_owned()).is_none());
            }
            if fields.is_empty() {
                continue;
            }
            let mut field = |name: &str| fields.remove(name);
            let data = serde_json::from_str(&field("data").unwrap()).unwrap();
            let event = Event { name: field("event").unwrap(), id: field("id"), data, retry: field("retry") };
            assert!(fields.is_empty(), "{fields:?}");
            return Some(event);
        }
    }

    /// The next event, which has to be of that name.
    pub(super) async fn event(&mut self, name: &str) -> Event {
        let event = self.next().await.unwrap_or_else(|| panic!("it ends where {name} was to come"));
        assert_eq!(event.name, name, "{event:?}");
        event
    }

    /// The payload of the next event, which has to be a message.
    pub(super) async fn payload(&mut self) -> Value {
        self.event("message").await.data["payload"].take()
    }

    /// The next sign of life, which is no event.
    pub(super) async fn comment(&mut self) -> String {
        let block = self.block().await.unwrap();
        assert!(block.starts_with(':'), "{block:?}");
        block
    }
}
