//! The dialect of PopSub.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed, as it should")]

mod delivery;
mod replay;
mod rights;
mod sessions;
mod transcripts;

use std::net::SocketAddr;
use std::time::Duration;

use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};
use whispeer::bus::BusBuilder;
use whispeer::prelude::*;
use whispeer_gateway::settings::{PopSub, PopSubUser};
use whispeer_gateway::{Gateway, Settings};

/// A key that anybody knows.
const KEY: &str = "a key that is long enough for HS256";

/// The settings with the user `admin`, whose password is `password`, hashed at next to no cost.
pub(crate) fn popsub() -> PopSub {
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    let hash = hasher.hash_password_with_salt(b"password", b"sixteen bytes...").unwrap().to_string();
    let user =
        |name: &str| PopSubUser { name: name.into(), password: hash.clone().into(), roles: Vec::new() };
    PopSub::new(KEY, vec![user("admin"), user("alice")])
}

/// A bus with a gateway that speaks this dialect.
struct Ground {
    bus: BusHandle,
    gateway: Gateway,
}

impl Ground {
    async fn new(popsub: PopSub) -> Self {
        Self::over(Bus::builder(), popsub).await
    }

    async fn over(bus: BusBuilder, popsub: PopSub) -> Self {
        let bus = bus.start().unwrap();
        let mut settings = Settings::new("127.0.0.1:0".parse().unwrap());
        settings.popsub = Some(popsub);
        // So long that whoever waits for it is seen to.
        settings.grace = Duration::from_secs(60);
        let gateway = Gateway::start(&bus, settings).await.unwrap();
        Self { bus, gateway }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.local_addr()
    }

    /// A client of the bus.
    fn client(&self) -> Client {
        Client::new_memory(&self.bus.connector()).unwrap()
    }

    /// A client of the dialect who has said nothing yet.
    async fn stranger(&self) -> Socket {
        Socket::open(self.address()).await
    }

    /// A client of the dialect who is let in as `admin`.
    async fn socket(&self) -> Socket {
        let mut socket = self.stranger().await;
        socket.log_in("admin").await;
        socket
    }

    /// Ends without waiting for those who are still connected to take their leave.
    async fn end(self) {
        drop(self.gateway);
        self.bus.stop().await;
    }
}

pub(crate) struct Socket {
    stream: WebSocketStream<TcpStream>,
    pings: u32,
}

impl Socket {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        // What is sent is not to wait for what was sent before to be acknowledged.
        stream.set_nodelay(true).unwrap();
        let (stream, _) = client_async(format!("ws://{address}/popsub"), stream).await.unwrap();
        Self { stream, pings: 0 }
    }

    async fn send(&mut self, message: Value) {
        self.stream.send(Message::text(message.to_string())).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// The next text as it came.
    async fn text(&mut self) -> String {
        loop {
            match self.message().await {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) => {}
                other => panic!("there came {other:?}"),
            }
        }
    }

    async fn message(&mut self) -> Message {
        self.stream.next().await.expect("it is open").unwrap()
    }

    /// The code with which it is closed next.
    async fn closed(&mut self) -> u16 {
        match self.message().await {
            Message::Close(Some(frame)) => frame.code.into(),
            other => panic!("there came {other:?}"),
        }
    }

    /// Waits until all that was said is done; nothing may come meanwhile.
    pub(crate) async fn settle(&mut self) {
        self.pings += 1;
        let id = self.pings.to_string();
        self.stream.send(Message::Ping(id.clone().into())).await.unwrap();
        loop {
            match self.message().await {
                Message::Ping(_) => {}
                pong => return assert_eq!(pong, Message::Pong(id.into())),
            }
        }
    }

    pub(crate) async fn log_in(&mut self, name: &str) {
        self.send(json!({"type": "login", "username": name, "password": "password"})).await;
        let response = self.next().await;
        self.send(json!({"type": "auth", "token": response["token"]})).await;
        assert_eq!(self.next().await, json!({"status": "authenticated"}));
    }

    pub(crate) async fn subscribe(&mut self, topic: &str) {
        self.send(json!({"type": "subscribe", "topic": topic})).await;
    }

    pub(crate) async fn unsubscribe(&mut self, topic: &str) {
        self.send(json!({"type": "unsubscribe", "topic": topic})).await;
    }

    pub(crate) async fn publish(&mut self, topic: &str, payload: impl Into<Value>) {
        self.send(json!({"type": "publish", "topic": topic, "payload": payload.into()})).await;
    }
}

/// Something that comes within some time, or it is a fault.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("it comes in time")
}
