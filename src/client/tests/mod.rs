//! The client against a scripted peer at the other end of a memory link, which speaks frames and does
//! exactly what a test says, right or wrong.

mod connection;
mod publishing;
mod requests;
mod sealing;
mod serving;
mod subscribing;

use std::future::poll_fn;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::yield_now;

use super::{Client, ClientBuilder, PublishProtocol, RequestProtocol};
use crate::BusError;
use crate::limits;
use crate::proto::fields::GapReason;
use crate::proto::{
    Capabilities, ContentRef, Flags, Header, Hello, Kind, Lane, Refusal, ResumeToken, VERSION, Welcome,
};
use crate::transport::{Batch, Form, Incoming, Link, Sent, memory_pair};

/// A message of the tests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    text: String,
}

impl PublishProtocol for Note {
    fn prefix() -> &'static str {
        "note"
    }
}

fn note(text: &str) -> Note {
    Note { text: text.into() }
}

/// A request of the tests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Double(u32);

impl RequestProtocol for Double {
    type Rsp = u32;

    fn prefix() -> &'static str {
        "double"
    }
}

fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).unwrap()
}

fn refusal(error: &BusError) -> Vec<u8> {
    Refusal::from(error).encode()
}

/// The frame that the peer received.
#[derive(Debug)]
struct Received {
    header: Header,
    fields: Vec<u8>,
    topic: String,
    payload: Vec<u8>,
}

/// The peer: a bus of which each move is written down in a test.
struct Peer {
    link: Link,
    incoming: Incoming,
    welcome: Welcome,
}

impl Peer {
    /// The next frame of the client, whatever it is.
    async fn receive(&mut self) -> Option<Received> {
        poll_fn(|context| {
            loop {
                if let Some((header, content)) = self.incoming.next_frame().unwrap() {
                    let topic = String::from_utf8(content.topic.to_vec()).unwrap();
                    let (fields, payload) = (content.fields.to_vec(), content.payload().to_vec());
                    return std::task::Poll::Ready(Some(Received { header, fields, topic, payload }));
                }
                match std::task::ready!(self.link.receiver.poll_receive(context, &mut self.incoming)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return std::task::Poll::Ready(None),
                }
            }
        })
        .await
    }

    /// The next frame, which must be of this kind.
    async fn expect(&mut self, kind: Kind) -> Received {
        let received = self.receive().await.expect("the client closed the link");
        assert_eq!(received.header.kind, kind, "{received:?}");
        received
    }

    /// The reason of a `GOODBYE`, after which the link must end.
    async fn expect_goodbye(&mut self) -> BusError {
        let goodbye = self.expect(Kind::Goodbye).await;
        assert!(self.receive().await.is_none(), "the link goes on after GOODBYE");
        Refusal::decode(&goodbye.payload).unwrap().into_error()
    }

    /// Nothing is on its way from the client.
    async fn expect_silence(&mut self) {
        settle().await;
        let next = poll_fn(|context| {
            let arrived = self.link.receiver.poll_receive(context, &mut self.incoming);
            std::task::Poll::Ready(arrived.map(drop))
        });
        assert!(next.await.is_pending(), "the client sent {:?}", self.incoming.next_frame());
    }

    fn send_frame(&self, header: &Header, fields: &[u8], topic: &str, payload: &[u8]) {
        let mut batch = Batch::new(Form::Values);
        batch.push(header, &ContentRef::lent(fields, topic.as_bytes(), payload));
        assert_eq!(self.link.sender.try_send(&mut batch).unwrap(), Sent::All);
    }

    fn send(&self, header: Header, payload: &[u8]) {
        self.send_frame(&header, &[], "", payload);
    }

    fn deliver(&self, subscription: u32, sequence: u64, topic: &str, payload: &[u8]) {
        self.send_frame(&Header::new(Kind::Deliver, subscription, sequence), &[], topic, payload);
    }

    fn gap(&self, subscription: u32, sequence: u64, count: u64, reason: GapReason) {
        let payload = crate::proto::fields::encode_gap(count, reason);
        self.send(Header::new(Kind::Gap, subscription, sequence), &payload);
    }

    fn credit(&self, lane: Lane, window: u64, messages: u32, bytes: u64) {
        let header = Header::new(Kind::Credit, messages, window).flagged(Flags(lane as u8));
        self.send(header, &bytes.to_le_bytes());
    }

    /// Accepts the subscription or serving that the client asks for, and gives the frame.
    async fn accept(&mut self, kind: Kind) -> Received {
        let asked = self.expect(kind).await;
        self.send(Header::answering(Kind::Accepted, kind, asked.header.id, 0), &[]);
        asked
    }

    async fn answer_ping(&mut self) {
        let ping = self.expect(Kind::Ping).await;
        self.send(Header::new(Kind::Pong, 0, ping.header.sequence), &[]);
    }

    async fn shake_hands(&mut self) -> Hello {
        let hello = self.expect(Kind::Hello).await;
        self.send(Header::new(Kind::Welcome, 0, 0), &self.welcome.encode());
        Hello::decode(&hello.payload).unwrap()
    }
}

fn welcome() -> Welcome {
    Welcome {
        version: VERSION,
        capabilities: Capabilities::default(),
        bus: 77,
        session: 5,
        resume_token: ResumeToken::new([7; ResumeToken::LEN]),
        resumed: false,
        received: 0,
        frame_limit: 64 * 1024,
        keep_alive: limits::KEEP_ALIVE,
        block_limit: limits::BLOCK_LIMIT,
        publish_window: (limits::PUBLISH_WINDOW_MESSAGES, limits::PUBLISH_WINDOW_BYTES),
        max_subscriptions: 8,
        max_requests: 8,
    }
}

/// A client whose handshake is still to be answered.
fn connecting(builder: ClientBuilder) -> (Client, Peer) {
    let (bus_end, client_end) = memory_pair();
    let client = builder.connect_link(client_end).unwrap();
    let incoming = Incoming::new(Form::Values, limits::FRAME_LIMIT);
    (client, Peer { link: bus_end, incoming, welcome: welcome() })
}

/// A client that has been welcomed, with the changes of `change` to the welcome.
async fn connected_with(change: impl FnOnce(&mut Welcome)) -> (Client, Peer) {
    let (client, mut peer) = connecting(Client::builder());
    change(&mut peer.welcome);
    peer.shake_hands().await;
    client.connection.shared.opened().await.unwrap();
    (client, peer)
}

async fn connected() -> (Client, Peer) {
    connected_with(|_| ()).await
}

/// Lets every other task of this thread run until nothing moves.
async fn settle() {
    for _ in 0..64 {
        yield_now().await;
    }
}

/// Runs both to their end.
async fn both<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    tokio::join!(one, other)
}

/// Whether `future` is not done once everything else has come to rest.
async fn is_waiting<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
    settle().await;
    poll_fn(|context| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending()))
        .await
}

const SECOND: Duration = Duration::from_secs(1);
