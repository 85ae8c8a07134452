//! Clients that encrypt, at different buses: they understand each other, and NATS sees ciphertext only.

use std::time::Duration;

use async_nats::Subscriber;
use bytes::Bytes;
use whispeer::client::RequestOptions;
use whispeer::engine::encryption::{Encryption, Key, Keyring};
use whispeer::engine::{Engines, is_sealed};
use whispeer::prelude::*;
use whispeer_testkit::nats::{self, NatsServer};

use crate::joined::{Joined, PREFIX, next, next_plain, settled, soon};

/// What nobody may read on the way: a message, a request, its answer, and the words of an error.
const SECRETS: [&str; 4] =
    ["the eagle has landed", "where is the eagle", "on the northern ridge", "the eagle is shy"];

/// A client of this bus that encrypts all, and takes nothing else.
fn member(joined: &Joined, key: &[u8; 32]) -> Client {
    let keyring = Keyring::with(Key::from_bytes(*key)).unwrap();
    let engines = Engines::new().with(Encryption::new(&keyring).unwrap());
    Client::builder().engines(engines).connect_memory(&joined.bus.connector()).unwrap()
}

/// All messages and requests that NATS has of the buses, and the answers to these, for a program that knows nothing but NATS.
struct Eavesdropper {
    nats: async_nats::Client,
    topics: Vec<Subscriber>,
}

impl Eavesdropper {
    async fn new(server: &NatsServer) -> Self {
        let nats = async_nats::connect(server.url()).await.unwrap();
        let mut topics = Vec::new();
        for subjects in ["t", "r", "reply"] {
            topics.push(nats.subscribe(format!("{PREFIX}.{subjects}.>")).await.unwrap());
        }
        settled(&nats).await;
        Self { nats, topics }
    }

    /// All that there was, each with its payload. Nothing of it has a secret in it, be it in headers.
    async fn heard(&mut self) -> Vec<Bytes> {
        let mut payloads = Vec::new();
        for (topics, subjects) in self.topics.iter_mut().zip(["t", "r", "reply"]) {
            self.nats.publish(format!("{PREFIX}.{subjects}.end"), "end".into()).await.unwrap();
            loop {
                let message = next_plain(topics).await;
                if message.payload == "end" {
                    break;
                }
                let all = format!("{:?} {}", message.headers, String::from_utf8_lossy(&message.payload));
                assert!(SECRETS.iter().all(|secret| !all.contains(secret)), "{all}");
                payloads.push(message.payload);
            }
        }
        payloads
    }
}

#[tokio::test]
async fn clients_that_encrypt_understand_each_other_across_buses_and_nats_sees_ciphertext_only() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.start().await;
        let nats = async_nats::connect(server.url()).await.unwrap();
        let (a, b) = (Joined::new(&server.url()).await, Joined::new(&server.url()).await);
        let (alice, bob) = (member(&a, &[7; 32]), member(&b, &[7; 32]));
        let mut news = bob.subscribe_bytes("news").await.unwrap();
        let answer = |question: Bytes| async move {
            match &question[..] {
                b"ready?" => Ok("yes".into()),
                question if question == SECRETS[1].as_bytes() => Ok(SECRETS[2].into()),
                _ => Err(ErrorReply::new("shy", SECRETS[3])),
            }
        };
        let _handling = bob.handle_bytes("where", answer).await.unwrap();
        b.wants(1, &nats).await;
        let short = || RequestOptions::default().timeout(Duration::from_secs(1));
        let ready =
            async { while alice.request_bytes_with("where", "ready?".into(), short()).await.is_err() {} };
        soon("a server", ready).await;

        let mut eavesdropper = Eavesdropper::new(&server).await;
        alice.publish_bytes("news", SECRETS[0]).await.unwrap();
        assert_eq!(next(&mut news).await, ("news".into(), SECRETS[0].into()));
        let answered = soon("the answer", alice.request_bytes("where", SECRETS[1].into())).await;
        assert_eq!(answered.unwrap(), SECRETS[2]);
        match soon("the error", alice.request_bytes("where", "?".into())).await {
            Err(BusError::Replied(reply)) => assert_eq!((reply.code(), reply.message()), ("shy", SECRETS[3])),
            other => panic!("{other:?}"),
        }
        let heard = eavesdropper.heard().await;
        let sealed = heard.iter().filter(|payload| is_sealed(payload)).count();
        // The message, two requests, the answer and the error.
        assert_eq!(sealed, 5, "{heard:?}");
        assert!(heard.iter().all(|payload| payload.is_empty() || is_sealed(payload)), "{heard:?}");
    }
}

#[tokio::test]
async fn who_has_another_key_or_none_gets_nothing_out_of_what_comes_from_another_bus() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let (a, b) = (Joined::new(&server.url()).await, Joined::new(&server.url()).await);
    let (alice, mallory) = (member(&a, &[7; 32]), member(&b, &[8; 32]));
    let mut other = mallory.subscribe_bytes("news").await.unwrap();
    let mut without = b.client.subscribe_bytes("news").await.unwrap();
    b.wants(1, &nats).await;
    alice.publish_bytes("news", SECRETS[0]).await.unwrap();
    let (_, payload) = soon("the message", without.recv()).await.unwrap();
    assert!(is_sealed(&payload) && !String::from_utf8_lossy(&payload).contains(SECRETS[0]));
    let event = soon("an event", other.next_event()).await;
    assert!(matches!(event, Some(whispeer::client::Event::Undecodable { .. })), "{event:?}");

    // A plain program of NATS cannot be taken for a member either.
    nats.publish(format!("{PREFIX}.t.news"), "forged".into()).await.unwrap();
    let mut open = member(&b, &[7; 32]).subscribe_bytes("news").await.unwrap();
    nats.publish(format!("{PREFIX}.t.news"), "forged".into()).await.unwrap();
    let event = soon("an event", open.next_event()).await;
    assert!(matches!(event, Some(whispeer::client::Event::Undecodable { .. })), "{event:?}");
}
