//! Engines between clients and the bus: what they are told, what comes through, and what is refused.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use whispeer::client::{Event, ManyOptions};
use whispeer::engine::{
    Chain, Content, Context, Engine, Engines, Mark, Memory, MessageKind, Opened, Sealed, Stage,
};
use whispeer::prelude::*;
use whispeer::{EngineError, ErrorReply};
use whispeer_testkit::wait;

use crate::ground::Ground;

async fn soon<T>(future: impl Future<Output = T>) -> T {
    wait::soon("what is next", future).await
}

/// Binds a payload to all that an engine is told of it, as encryption does, and keeps nothing secret.
#[derive(Debug)]
struct Binding {
    id: u8,
    sender: [u8; 16],
    sealed: AtomicU64,
    required: bool,
}

impl Binding {
    fn new(id: u8) -> Self {
        static SENDERS: AtomicU64 = AtomicU64::new(1);
        let mut sender = [0; 16];
        sender[..8].copy_from_slice(&SENDERS.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        Self { id, sender, sealed: AtomicU64::new(0), required: true }
    }

    fn print(context: &Context<'_>, mark: &Mark, content: &[u8]) -> [u8; 8] {
        let mut hasher = DefaultHasher::new();
        (context.topic, context.kind as u8, context.request, context.index, mark, content).hash(&mut hasher);
        hasher.finish().to_le_bytes()
    }
}

impl Engine for Binding {
    fn id(&self) -> u8 {
        self.id
    }

    fn name(&self) -> &str {
        "binding"
    }

    fn stage(&self) -> Stage {
        Stage::ENCRYPT
    }

    fn is_required(&self) -> bool {
        self.required
    }

    fn seal(
        &self,
        context: &Context<'_>,
        content: Content<'_>,
        output: &mut Vec<u8>,
    ) -> Result<Sealed, EngineError> {
        let mark = Mark { sender: self.sender, sequence: self.sealed.fetch_add(1, Ordering::Relaxed) };
        output.extend_from_slice(&mark.sender);
        output.extend_from_slice(&mark.sequence.to_le_bytes());
        output.extend_from_slice(&Self::print(context, &mark, content.bytes));
        output.push(content.tag);
        output.extend_from_slice(content.bytes);
        Ok(Sealed::marked(mark))
    }

    fn open(
        &self,
        context: &Context<'_>,
        memory: &mut Memory,
        sealed: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Opened, EngineError> {
        *memory.of::<u64>() += 1;
        let cut = || EngineError::Malformed { what: "it is cut off" };
        let (sender, rest) = sealed.split_first_chunk::<16>().ok_or_else(cut)?;
        let (sequence, rest) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
        let (print, rest) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
        let (tag, content) = rest.split_first().ok_or_else(cut)?;
        let mark = Mark { sender: *sender, sequence: u64::from_le_bytes(*sequence) };
        if Self::print(context, &mark, content) != *print {
            return Err(EngineError::Forged);
        }
        output.extend_from_slice(content);
        Ok(Opened::tagged(*tag).marked(mark))
    }
}

/// Turns bytes around before anything else.
#[derive(Debug)]
struct Inverse;

impl Engine for Inverse {
    fn id(&self) -> u8 {
        201
    }

    fn name(&self) -> &str {
        "inverse"
    }

    fn stage(&self) -> Stage {
        Stage::TRANSFORM
    }

    fn seal(
        &self,
        _context: &Context<'_>,
        content: Content<'_>,
        output: &mut Vec<u8>,
    ) -> Result<Sealed, EngineError> {
        output.push(content.tag);
        output.extend(content.bytes.iter().map(|byte| !byte));
        Ok(Sealed::default())
    }

    fn open(
        &self,
        _context: &Context<'_>,
        _memory: &mut Memory,
        sealed: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Opened, EngineError> {
        let (tag, bytes) = sealed.split_first().ok_or(EngineError::Malformed { what: "it is empty" })?;
        output.extend(bytes.iter().map(|byte| !byte));
        Ok(Opened::tagged(*tag))
    }
}

fn both() -> Engines {
    // In the wrong order, which the stages put right.
    Engines::new().with(Binding::new(200)).with(Inverse)
}

fn client(ground: &Ground, engines: Engines) -> Client {
    Client::builder().engines(engines).connect_memory(&ground.bus.connector()).unwrap()
}

async fn over_unix(ground: &Ground, engines: Engines) -> Client {
    let address = ground.socket().to_string_lossy().into_owned();
    Client::builder().engines(engines).connect(&address).await.unwrap()
}

fn refused(event: Option<Event<Bytes>>) -> EngineError {
    match event {
        Some(Event::Undecodable { error: BusError::Engine { error, .. }, .. }) => error,
        other => panic!("{other:?}"),
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note(String);

impl PublishProtocol for Note {
    fn prefix() -> &'static str {
        "notes"
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Question(String);

impl RequestProtocol for Question {
    type Rsp = Note;

    fn prefix() -> &'static str {
        "questions"
    }
}

#[tokio::test]
async fn payloads_of_every_size_go_through_a_chain_and_the_bus_sees_none_of_them() {
    let ground = Ground::new(Bus::builder());
    let (publisher, subscriber) = (over_unix(&ground, both()).await, client(&ground, both()));
    let mut sealed = subscriber.subscribe_bytes("news").await.unwrap();
    let mut seen = client(&ground, Engines::new()).subscribe_bytes("news").await.unwrap();
    for size in [0, 1, 100, 1_023, 1_024, 1_025, 70_000, 3_000_000] {
        let payload = Bytes::from(vec![b'a'; size]);
        publisher.publish_bytes("news", payload.clone()).await.unwrap();
        assert!(soon(sealed.recv()).await.unwrap().1 == payload);
        let on_the_bus = soon(seen.recv()).await.unwrap().1;
        assert_eq!(on_the_bus[..4], [0xC1, 0x57, 1, 200]);
        assert!(!on_the_bus.windows(4).any(|four| four == b"aaaa"));
    }
    let handle = publisher.publisher_bytes("news").unwrap();
    for number in 0..5_000_u32 {
        handle.send(&Bytes::copy_from_slice(&number.to_le_bytes())).await.unwrap();
        if number % 500 == 499 {
            for expected in number - 499..=number {
                assert_eq!(soon(sealed.recv()).await.unwrap().1[..], expected.to_le_bytes());
            }
        }
    }
    assert_eq!(sealed.undecodable(), 0);
}

#[tokio::test]
async fn values_requests_answers_streams_and_errors_go_through_a_chain() {
    let ground = Ground::new(Bus::builder());
    let (server, asker) = (over_unix(&ground, both()).await, over_unix(&ground, both()).await);
    let mut notes = server.subscribe::<Note>("*").await.unwrap();
    asker.publish("a", &Note("a note".into())).await.unwrap();
    assert_eq!(soon(notes.recv()).await.unwrap().1, Note("a note".into()));

    let _handling = server
        .handle("one", |question: Question| async move {
            match question.0.as_str() {
                "unknown" => Err(ErrorReply::new("unknown", "nobody knows")),
                asked => Ok(Note(format!("{asked}!"))),
            }
        })
        .await
        .unwrap();
    assert_eq!(asker.request("one", &Question("why".into())).await.unwrap(), Note("why!".into()));
    let error = asker.request("one", &Question("unknown".into())).await.unwrap_err();
    assert!(matches!(&error, BusError::Replied(reply) if reply.code() == "unknown"), "{error:?}");

    let mut serving = server.serve_bytes("count").await.unwrap();
    let mut answers = asker.request_stream_bytes("count", "to three".into()).await.unwrap();
    let (_, id, payload) = soon(serving.recv()).await.unwrap();
    assert_eq!(payload, "to three");
    let mut responder = server.respond_stream_bytes(id).unwrap();
    for number in ["one", "two", "three"] {
        responder.send(&number.into()).await.unwrap();
    }
    responder.fail(ErrorReply::new("tired", "no more")).unwrap();
    for number in ["one", "two", "three"] {
        assert_eq!(soon(answers.recv()).await.unwrap().unwrap(), number);
    }
    let error = soon(answers.recv()).await.unwrap().unwrap_err();
    assert!(matches!(&error, BusError::Replied(reply) if reply.code() == "tired"), "{error:?}");
    assert!(soon(answers.recv()).await.is_none());

    let _sensors = server.handle_bytes("sensor/1", |_| async { Ok("21".into()) }).await.unwrap();
    let broken = |_| async { Err(ErrorReply::new("broken", "no reading")) };
    let _broken = server.handle_bytes("sensor/2", broken).await.unwrap();
    let answers = asker.request_many_bytes("sensor/*", "".into(), ManyOptions::default()).await.unwrap();
    assert_eq!(answers.len(), 2);
    for answer in answers {
        match answer {
            Ok((topic, reading)) => assert_eq!((topic.as_str(), &reading[..]), ("sensor/1", &b"21"[..])),
            Err(error) => assert!(matches!(&error, BusError::Replied(reply) if reply.code() == "broken")),
        }
    }
}

#[tokio::test]
async fn what_comes_without_a_required_engine_or_from_elsewhere_is_refused_and_the_rest_arrives() {
    let ground = Ground::new(Bus::builder());
    let (sealing, plain) = (client(&ground, both()), client(&ground, Engines::new()));
    let mut news = sealing.subscribe_bytes("news").await.unwrap();
    let mut raw = plain.subscribe_bytes("news").await.unwrap();
    let mut other = sealing.subscribe_bytes("other").await.unwrap();

    plain.publish_bytes("news", "in plain").await.unwrap();
    assert_eq!(refused(soon(news.next_event()).await), EngineError::Missing { engine: "binding".into() });
    raw.recv().await;

    sealing.publish_bytes("news", "sealed").await.unwrap();
    assert_eq!(soon(news.recv()).await.unwrap().1, "sealed");
    let captured = soon(raw.recv()).await.unwrap().1;
    plain.publish_bytes("other", captured.clone()).await.unwrap();
    assert_eq!(refused(soon(other.next_event()).await), EngineError::Forged);

    for (place, byte) in [(2, 9), (3, 77), (3, 201), (40, b'x')] {
        let mut changed = captured.to_vec();
        changed[place] = byte;
        plain.publish_bytes("news", changed).await.unwrap();
        let error = refused(soon(news.next_event()).await);
        match place {
            2 => assert_eq!(error, EngineError::UnknownVersion { version: 9 }),
            3 if byte == 77 => assert_eq!(error, EngineError::UnknownEngine { id: 77 }),
            _ => {}
        }
    }
    for length in 2..captured.len().min(30) {
        plain.publish_bytes("news", captured.slice(..length)).await.unwrap();
        refused(soon(news.next_event()).await);
    }
    sealing.publish_bytes("news", "and on").await.unwrap();
    assert_eq!(soon(news.recv()).await.unwrap().1, "and on");
    assert!(news.undecodable() > 30);
}

#[tokio::test]
async fn a_server_in_plain_is_not_believed_and_an_asker_in_plain_is_not_served_where_engines_are_required() {
    let ground = Ground::new(Bus::builder());
    let (sealing, plain) = (over_unix(&ground, both()).await, over_unix(&ground, Engines::new()).await);
    let _handling = sealing.handle_bytes("sealed", |payload| async { Ok(payload) }).await.unwrap();
    let error = plain.request_bytes("sealed", "hello".into()).await.unwrap_err();
    assert!(matches!(&error, BusError::Replied(reply) if reply.code() == "undecodable"), "{error:?}");

    let answer = |payload: Bytes| async move {
        match payload.is_empty() {
            true => Err(ErrorReply::new("made_up", "by anybody")),
            false => Ok("made up".into()),
        }
    };
    let _other = plain.handle_bytes("plain", answer).await.unwrap();
    for payload in ["x", ""] {
        let error = sealing.request_bytes("plain", payload.into()).await.unwrap_err();
        assert!(matches!(&error, BusError::Engine { error: EngineError::Missing { .. }, .. }), "{error:?}");
    }
    // What the bus says is believed as before.
    let nobody = sealing.request_bytes("nobody", "x".into()).await;
    assert!(matches!(nobody, Err(BusError::NoServer { .. })), "{nobody:?}");
}

#[tokio::test]
async fn where_engines_are_optional_each_asker_is_answered_as_it_asked() {
    let ground = Ground::new(Bus::builder());
    let optional = || Engines::new().with(Inverse);
    let (inverse, plain) = (over_unix(&ground, optional()).await, over_unix(&ground, Engines::new()).await);
    let _handling = inverse.handle_bytes("echo", |payload| async { Ok(payload) }).await.unwrap();
    for client in [&inverse, &plain] {
        assert_eq!(client.request_bytes("echo", "hello".into()).await.unwrap(), "hello");
    }
    let mut news = inverse.subscribe_bytes("news").await.unwrap();
    for client in [&inverse, &plain] {
        client.publish_bytes("news", "to all").await.unwrap();
        assert_eq!(soon(news.recv()).await.unwrap().1, "to all");
    }
}

#[tokio::test]
async fn rules_say_which_topics_are_sealed_and_a_pattern_that_meets_more_is_refused() {
    let ground = Ground::new(Bus::builder());
    let binding: Arc<dyn Engine> = Arc::new(Binding::new(200));
    let engines = Engines::new().topic("secret/**", Chain::new().with_shared(binding));
    let sealing = client(&ground, engines);
    let mut all = client(&ground, Engines::new()).subscribe_bytes("**").await.unwrap();
    sealing.publish_bytes("open/a", "as it is").await.unwrap();
    assert_eq!(soon(all.recv()).await.unwrap().1, "as it is");
    sealing.publish_bytes("secret/*", "x").await.unwrap();
    assert_eq!(soon(all.recv()).await.unwrap().1[..4], [0xC1, 0x57, 1, 200]);
    for pattern in ["*/a", "**"] {
        let error = sealing.publish_bytes(pattern, "x").await.unwrap_err();
        let BusError::Engine { error: EngineError::NoRule { met }, .. } = error else { panic!("{error:?}") };
        assert_eq!(met, "secret/**");
    }
    // What only looks as if it were sealed is itself again.
    let mut open = sealing.subscribe_bytes("open/*").await.unwrap();
    let look_alike = Bytes::from_static(&[0xC1, 0x57, 1, 200, 5]);
    sealing.publish_bytes("open/a", look_alike.clone()).await.unwrap();
    assert_eq!(soon(open.recv()).await.unwrap().1, look_alike);
    // The bus's own topics are never sealed.
    sealing.request_bytes("$bus/stats", Bytes::new()).await.unwrap();
}

#[tokio::test]
async fn engines_that_cannot_work_together_are_told_when_the_client_connects() {
    let ground = Ground::new(Bus::builder());
    let connect = |engines| Client::builder().engines(engines).connect_memory(&ground.bus.connector());
    let twice = connect(Engines::new().with(Binding::new(200)).with(Binding::new(200))).unwrap_err();
    assert!(twice.to_string().contains("the same id"), "{twice}");
    let zero = connect(Engines::new().with(Binding::new(0))).unwrap_err();
    assert!(zero.to_string().contains("id 0"), "{zero}");
    let pattern = connect(Engines::new().topic("a//b", Chain::new())).unwrap_err();
    assert!(matches!(pattern, BusError::InvalidTopic(_)), "{pattern:?}");
    let many = (0..9).fold(Engines::new(), |engines, id| engines.with(Binding::new(200 + id)));
    assert!(matches!(connect(many), Err(BusError::InvalidSettings(_))));
}

#[tokio::test]
async fn a_client_without_engines_is_told_what_it_lacks() {
    let ground = Ground::new(Bus::builder());
    let (sealing, plain) = (over_unix(&ground, both()).await, over_unix(&ground, Engines::new()).await);
    let mut notes = plain.subscribe::<Note>("*").await.unwrap();
    sealing.publish("a", &Note("a note".into())).await.unwrap();
    let Some(Event::Undecodable { error, .. }) = soon(notes.next_event()).await else { panic!() };
    assert!(
        matches!(&error, BusError::Engine { error: EngineError::UnknownEngine { id: 200 }, .. }),
        "{error:?}"
    );
    assert_eq!(MessageKind::Publish as u8, 1);
}

#[cfg(all(feature = "compression", feature = "encryption"))]
mod sealed {
    //! The engines that there are, in clients and in the real bus.

    use whispeer::engine::compression::Compression;
    use whispeer::engine::encryption::{Algorithm, Encryption, Key, Keyring, SigningIdentity};

    use super::*;

    fn sealing(keyring: &Keyring, algorithm: Algorithm) -> Engines {
        let encryption = Encryption::new(keyring).unwrap().algorithm(algorithm);
        // In the wrong order: the stages say what comes first.
        Engines::new().with(encryption).with(Compression::new())
    }

    const ALGORITHMS: [Algorithm; 3] =
        [Algorithm::XChaCha20Poly1305, Algorithm::ChaCha20Poly1305, Algorithm::Aes256Gcm];

    #[tokio::test]
    async fn what_is_published_asked_and_answered_is_the_clients_alone() {
        let ground = Ground::new(Bus::builder());
        let keyring = Keyring::with(Key::generate().unwrap()).unwrap();
        for algorithm in ALGORITHMS {
            let alice = over_unix(&ground, sealing(&keyring, algorithm)).await;
            let bob = over_unix(&ground, sealing(&keyring, Algorithm::XChaCha20Poly1305)).await;
            let mut seen = over_unix(&ground, Engines::new()).await.subscribe_bytes("**").await.unwrap();
            let mut notes = bob.subscribe::<Note>("*").await.unwrap();
            for size in [0, 1, 300, 5_000, 400_000] {
                let text = "the eagle has landed ".repeat(size / 21 + 1);
                alice.publish("a", &Note(text.clone())).await.unwrap();
                assert_eq!(soon(notes.recv()).await.unwrap().1, Note(text));
                let on_the_bus = soon(seen.recv()).await.unwrap().1;
                assert!(!on_the_bus.windows(5).any(|five| five == b"eagle"));
                if size > 300 {
                    assert!(on_the_bus.len() < size / 10, "it was compressed first: {}", on_the_bus.len());
                }
            }
            let _handling = bob
                .handle("one", |question: Question| async move {
                    match question.0.is_empty() {
                        true => Err(ErrorReply::new("empty", "nothing was asked")),
                        false => Ok(Note(question.0)),
                    }
                })
                .await
                .unwrap();
            assert_eq!(alice.request("one", &Question("why".into())).await.unwrap(), Note("why".into()));
            let error = alice.request("one", &Question(String::new())).await.unwrap_err();
            assert!(matches!(&error, BusError::Replied(reply) if reply.code() == "empty"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn what_is_moved_repeated_or_in_plain_is_refused_with_an_error_of_its_own() {
        let ground = Ground::new(Bus::builder());
        let keyring = Keyring::with(Key::generate().unwrap()).unwrap();
        let alice = client(&ground, sealing(&keyring, Algorithm::XChaCha20Poly1305));
        let bob = client(&ground, sealing(&keyring, Algorithm::XChaCha20Poly1305));
        let mallory = client(&ground, Engines::new());
        let mut news = bob.subscribe_bytes("news").await.unwrap();
        let mut captured = mallory.subscribe_bytes("news").await.unwrap();
        let mut other = bob.subscribe_bytes("other").await.unwrap();
        alice.publish_bytes("news", "once").await.unwrap();
        assert_eq!(soon(news.recv()).await.unwrap().1, "once");
        let once = soon(captured.recv()).await.unwrap().1;
        mallory.publish_bytes("news", once.clone()).await.unwrap();
        assert_eq!(refused(soon(news.next_event()).await), EngineError::Replayed { sequence: 0 });
        mallory.publish_bytes("other", once.clone()).await.unwrap();
        assert_eq!(refused(soon(other.next_event()).await), EngineError::Forged);
        mallory.publish_bytes("news", "in plain").await.unwrap();
        assert_eq!(
            refused(soon(news.next_event()).await),
            EngineError::Missing { engine: "encryption".into() }
        );
        // A key that bob does not have, and one that he has no more.
        let strange = Keyring::with(Key::generate().unwrap()).unwrap();
        let id = strange.keys()[0].id.to_string();
        let stranger = client(&ground, sealing(&strange, Algorithm::Aes256Gcm));
        stranger.publish_bytes("news", "x").await.unwrap();
        assert_eq!(refused(soon(news.next_event()).await), EngineError::UnknownKey { key: id });
        let old = keyring.keys()[0].id;
        let before =
            client(&ground, sealing(&Keyring::from_toml(&keyring.to_toml()).unwrap(), Algorithm::Aes256Gcm));
        keyring.rotate(Key::generate().unwrap()).unwrap();
        before.publish_bytes("news", "with the old key").await.unwrap();
        assert_eq!(soon(news.recv()).await.unwrap().1, "with the old key");
        alice.publish_bytes("news", "with the new key").await.unwrap();
        assert_eq!(soon(news.recv()).await.unwrap().1, "with the new key");
        keyring.retire(old).unwrap();
        before.publish_bytes("news", "too late").await.unwrap();
        assert_eq!(refused(soon(news.next_event()).await), EngineError::RetiredKey { key: old.to_string() });
        assert!(news.undecodable() >= 4);
    }

    #[tokio::test]
    async fn what_was_asked_in_secret_is_answered_in_secret_whatever_the_rule_for_the_topic() {
        let ground = Ground::new(Bus::builder());
        let keyring = Keyring::with(Key::generate().unwrap()).unwrap();
        let asker = over_unix(&ground, sealing(&keyring, Algorithm::XChaCha20Poly1305)).await;
        let reading = Engines::new().reading(Encryption::new(&keyring).unwrap()).reading(Compression::new());
        let server = over_unix(&ground, reading).await;
        let answer = |payload: Bytes| async move {
            match payload.is_empty() {
                true => Err(ErrorReply::new("empty", "the eagle has not landed")),
                false => Ok(Bytes::from("the eagle has landed")),
            }
        };
        let _handling = server.handle_bytes("eagle", answer).await.unwrap();
        assert_eq!(asker.request_bytes("eagle", "where".into()).await.unwrap(), "the eagle has landed");
        let error = asker.request_bytes("eagle", "".into()).await.unwrap_err();
        assert!(matches!(&error, BusError::Replied(reply) if reply.code() == "empty"), "{error:?}");
        // Who asks in plain is answered so.
        let plain = over_unix(&ground, Engines::new()).await;
        assert_eq!(plain.request_bytes("eagle", "where".into()).await.unwrap(), "the eagle has landed");
    }

    #[tokio::test]
    async fn two_clients_of_the_same_engines_number_what_they_send_apart() {
        let ground = Ground::new(Bus::builder());
        let keyring = Keyring::with(Key::generate().unwrap()).unwrap();
        let engines = sealing(&keyring, Algorithm::XChaCha20Poly1305);
        let clients = [client(&ground, engines.clone()), client(&ground, engines.clone())];
        let mut seen = client(&ground, Engines::new()).subscribe_bytes("news").await.unwrap();
        let mut senders = std::collections::HashSet::new();
        for client in &clients {
            for sequence in 0..2_u64 {
                client.publish_bytes("news", "text").await.unwrap();
                let sealed = soon(seen.recv()).await.unwrap().1;
                senders.insert(sealed.slice(13..29));
                assert_eq!(sealed[29..37], sequence.to_le_bytes());
            }
        }
        assert_eq!(senders.len(), 2);
    }

    #[tokio::test]
    async fn who_has_signed_is_told_and_who_is_not_trusted_is_refused() {
        let ground = Ground::new(Bus::builder());
        let keyring = Keyring::with(Key::generate().unwrap()).unwrap();
        let identity = SigningIdentity::generate().unwrap();
        let trusted = identity.public();
        let signing = Encryption::new(&keyring).unwrap().sign(identity);
        let reading = Encryption::new(&keyring).unwrap().trust("orders/**", [trusted]).unwrap();
        let alice = client(&ground, Engines::new().with(signing));
        let bob = client(&ground, Engines::new().with(reading));
        let member = client(&ground, Engines::new().with(Encryption::new(&keyring).unwrap()));
        let mut orders = bob.subscribe_bytes("orders/*").await.unwrap();
        alice.publish_bytes("orders/7", "two apples").await.unwrap();
        let Some(Event::Message(order)) = soon(orders.next_event()).await else { panic!() };
        assert_eq!((order.signer, &order.value[..]), (Some(trusted.to_bytes()), &b"two apples"[..]));
        member.publish_bytes("orders/7", "all apples").await.unwrap();
        assert_eq!(refused(soon(orders.next_event()).await), EngineError::NotSigned);
    }
}
