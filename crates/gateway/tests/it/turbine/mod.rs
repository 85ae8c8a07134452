//! The dialect of Turbine.

mod ends;
mod messages;
mod nodes;
mod rights;
mod tokens;
mod transcripts;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{SinkExt, StreamExt};
use ring::hmac;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use whispeer::prelude::*;
use whispeer_gateway::{Gateway, Settings, settings};

use crate::http::{Answer, ask};

/// The secret of these tests' tokens.
pub(crate) const KEY: &str = "the secret that these tests sign tokens with";
/// The key of their API.
pub(crate) const API_KEY: &str = "the key of these tests' API";

/// A bus with a gateway that speaks the dialect.
struct Place {
    bus: BusHandle,
    gateway: Gateway,
}

impl Place {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut settings::Turbine)) -> Self {
        Self::on(Bus::builder().start().unwrap(), change).await
    }

    async fn on(bus: BusHandle, change: impl FnOnce(&mut settings::Turbine)) -> Self {
        let gateway = gateway(&bus, change).await;
        Self { bus, gateway }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.local_addr()
    }

    fn client(&self) -> Client {
        Client::new_memory(&self.bus.connector()).unwrap()
    }

    /// A socket that has connected, with a token that restricts nothing.
    async fn connected(&self) -> Socket {
        let mut socket = Socket::open(self.address()).await;
        socket.connect(&token(&json!({}))).await;
        socket
    }

    async fn subscribed(&self, channel: &str) -> Socket {
        let mut socket = self.connected().await;
        assert_eq!(socket.subscribe(channel).await, json!({"id": 2, "result": {"subscribed": true}}));
        socket
    }

    async fn publish(&self, channel: &str, data: &Value) -> Value {
        let answer = self.post(&json!({"channel": channel, "data": data}).to_string(), &[]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    async fn post(&self, body: &str, headers: &[(&str, &str)]) -> Answer {
        let own = [("x-api-key", API_KEY)];
        let headers =
            own.iter().chain(headers).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let headers: Vec<_> = headers.collect();
        ask(self.address(), "POST", "/api/publish", &headers, body.as_bytes()).await
    }
}

async fn gateway(bus: &BusHandle, change: impl FnOnce(&mut settings::Turbine)) -> Gateway {
    let mut turbine = settings::Turbine::new(KEY, API_KEY);
    change(&mut turbine);
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap());
    settings.turbine = Some(turbine);
    Gateway::start(bus, settings).await.unwrap()
}

/// A client of the dialect.
pub(crate) struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let (stream, _) = connect_async(format!("ws://{address}/ws")).await.unwrap();
        Self { stream }
    }

    async fn send(&mut self, command: &Value) {
        self.stream.send(Message::text(command.to_string())).await.unwrap();
    }

    async fn ask(&mut self, command: &Value) -> Value {
        self.send(command).await;
        self.next().await
    }

    /// What comes next, which is JSON.
    pub(crate) async fn next(&mut self) -> Value {
        serde_json::from_str(&self.next_text().await).unwrap()
    }

    async fn next_text(&mut self) -> String {
        loop {
            match timeout(Duration::from_secs(20), self.stream.next()).await.expect("it comes in time") {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Ping(_))) => {}
                other => panic!("there came {other:?}"),
            }
        }
    }

    /// The code that it is closed with next.
    async fn closed(&mut self) -> u16 {
        loop {
            match timeout(Duration::from_secs(20), self.stream.next()).await.expect("it comes in time") {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(Message::Ping(_))) => {}
                other => panic!("there came {other:?}"),
            }
        }
    }

    pub(crate) async fn connect(&mut self, token: &str) {
        let answer = self.try_connect(token).await;
        assert_eq!(answer, json!({"id": 1, "result": {"connected": true}}));
    }

    async fn try_connect(&mut self, token: &str) -> Value {
        self.ask(&json!({"id": 1, "method": "connect", "params": {"token": token}})).await
    }

    pub(crate) async fn subscribe(&mut self, channel: &str) -> Value {
        self.ask(&json!({"id": 2, "method": "subscribe", "params": {"channel": channel}})).await
    }
}

/// The push of a message.
fn publication(channel: &str, data: &Value) -> Value {
    json!({"method": "publication", "params": {"channel": channel, "data": data}})
}

/// Seconds since 1970, so many from now.
fn seconds(from_now: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + from_now
}

/// A good token, but for these claims; one that is null is left out.
pub(crate) fn token(claims: &Value) -> String {
    let mut all = json!({"sub": "user-123", "exp": seconds(3600), "channels": []});
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
        if value.is_null() {
            all.as_object_mut().unwrap().remove(name);
        }
    }
    signed(&json!({"alg": "HS256", "typ": "JWT"}), &all, hmac::HMAC_SHA256, KEY)
}

fn signed(header: &Value, claims: &Value, algorithm: hmac::Algorithm, key: &str) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let text = format!("{header}.{claims}");
    let signature = hmac::sign(&hmac::Key::new(algorithm, key.as_bytes()), text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}
