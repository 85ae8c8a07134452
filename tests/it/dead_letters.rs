//! Dead letters of topics that are encrypted: who has the keys reads them, and they go back as they were.

#![cfg(feature = "encryption")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use whispeer::EngineError;
use whispeer::bus::{StreamChange, Streams};
use whispeer::client::{
    Consumer, Delivery, HistoryOptions, PublishOptions, Quality, Start, SubscribeOptions, Subscription,
};
use whispeer::engine::encryption::{Encryption, Key, Keyring};
use whispeer::engine::{Chain, Engines};
use whispeer::prelude::*;
use whispeer::proto::fields::FieldsBuilder;
use whispeer::store::{Change, MemoryStore, Message, Name, NewMessage, Reading, Store, StreamSettings};

const LONG: Duration = Duration::from_secs(20);

/// Long enough for whatever is on its way to come, where nothing should. Time is paused.
const QUIET: Duration = Duration::from_secs(3);

/// A bus with the stream `orders`, and what members of a group need.
struct Place {
    store: Arc<dyn Store>,
    bus: BusHandle,
    keyring: Keyring,
}

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

impl Place {
    async fn new() -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let pattern = TopicPattern::new("orders/**").unwrap();
        let orders = StreamSettings::new(name("orders"), vec![pattern]);
        let streams = Streams::open(Arc::clone(&store), [orders]).await.unwrap();
        let bus = Bus::builder().streams(streams).start().unwrap();
        Self { store, bus, keyring: Keyring::with(Key::generate().unwrap()).unwrap() }
    }

    fn engines(&self) -> Engines {
        Engines::new().with(Encryption::new(&self.keyring).unwrap()).topic("orders/open/**", Chain::new())
    }

    fn client(&self, engines: Engines) -> Client {
        Client::builder().engines(engines).connect_memory(&self.bus.connector()).unwrap()
    }

    fn member(&self) -> Client {
        self.client(self.engines())
    }

    async fn letters(&self) -> Vec<Message> {
        self.store.read(name("orders.dead"), Reading::from(1, 0)).await.unwrap().messages
    }

    /// A dead letter as a bus would write it that says what it likes.
    async fn write_letter(&self, original: &str, payload: Bytes) {
        let mut fields = FieldsBuilder::new();
        fields.header("dead-topic", original).unwrap();
        let topic = TopicPattern::new("$dead/orders/billing").unwrap();
        let fields = fields.finish().into();
        let message = NewMessage { topic, fields, payload, time: 1, expires: None, id: None };
        let change = Change::AppendTo { stream: name("orders.dead"), message };
        self.store.commit(name("orders.dead"), vec![change]).await.unwrap();
    }

    async fn redrive(&self) {
        let redrive = StreamChange::Redrive { stream: "orders".into(), sequences: None };
        let plain = Client::new_memory(&self.bus.connector()).unwrap();
        plain.request_bytes("$bus/streams/change", redrive.to_bytes()).await.unwrap();
    }
}

fn all() -> SubscribeOptions {
    SubscribeOptions::default().start(Start::All)
}

fn billing() -> SubscribeOptions {
    all().quality(Quality::AtLeastOnce).durable("billing")
}

async fn publish(client: &Client, topic: &str, payload: &'static str) {
    let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
    client.publish_bytes_with(topic, payload, kept).await.unwrap();
}

async fn next(consumer: &mut Consumer<Bytes>) -> Delivery<Bytes> {
    timeout(LONG, consumer.recv()).await.expect("a message comes").expect("the bus runs")
}

async fn event(subscription: &mut Subscription<Bytes>) -> Event<Bytes> {
    timeout(LONG, subscription.next_event()).await.expect("something comes").expect("the bus runs")
}

/// The topic that a message was published to by the header of its letter, and its payload.
fn letter(event: Event<Bytes>) -> (String, Bytes) {
    let Event::Message(message) = event else { panic!("{event:?}") };
    assert_eq!(message.topic.as_str(), "$dead/orders/billing");
    (message.headers.find("dead-topic").unwrap().to_owned(), message.value)
}

fn error(event: Event<Bytes>) -> EngineError {
    match event {
        Event::Undecodable { error: BusError::Engine { error, .. }, .. } => error,
        other => panic!("{other:?}"),
    }
}

/// Publishes so many messages, and refuses each of them for good.
async fn bury(member: &Client, payloads: &[&'static str]) {
    let mut orders = member.consume_bytes("orders/**", billing().max_deliver(1)).await.unwrap();
    for payload in payloads {
        publish(member, "orders/7", payload).await;
        next(&mut orders).await.nack(Duration::ZERO);
    }
    let came = timeout(QUIET, orders.recv()).await;
    assert!(came.is_err(), "they are not sent again");
}

#[tokio::test(start_paused = true)]
async fn what_is_encrypted_comes_again_and_back_from_the_dead_letters() {
    let place = Place::new().await;
    let member = place.member();
    publish(&member, "orders/7", "two apples").await;
    let mut orders = member.consume_bytes("orders/**", billing().max_deliver(2)).await.unwrap();
    for attempt in 1..=2 {
        let order = next(&mut orders).await;
        assert_eq!((order.attempt.unwrap().number, &order.value[..]), (attempt, &b"two apples"[..]));
        order.nack(Duration::ZERO);
    }
    assert!(timeout(QUIET, orders.recv()).await.is_err(), "it is among the dead letters");
    let dead = place.letters().await;
    assert_eq!(dead.len(), 1);
    assert!(!dead[0].payload.windows(6).any(|six| six == b"apples"), "the bus cannot read it");

    place.redrive().await;
    let again = next(&mut orders).await;
    assert_eq!((again.receipt.sequence(), again.attempt.unwrap().number), (2, 1));
    assert_eq!(again.value, "two apples");
    assert!(again.headers.is_empty(), "it is as it was published");
    again.ack().await.unwrap();
    assert_eq!(orders.undecodable(), 0);
    place.bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn members_read_dead_letters_however_they_ask_for_them() {
    let place = Place::new().await;
    let member = place.member();
    // One that is there already, and one that comes while somebody listens.
    bury(&member, &["one"]).await;
    let mut listening = place.member().subscribe_bytes_with("$dead/orders/**", all()).await.unwrap();
    let mut consuming = place.member().consume_bytes("$dead/orders/billing", all()).await.unwrap();
    bury(&member, &["two"]).await;
    for expected in ["one", "two"] {
        assert_eq!(letter(event(&mut listening).await), ("orders/7".into(), expected.into()));
        let consumed = next(&mut consuming).await;
        assert_eq!(consumed.value, expected);
        consumed.ack().await.unwrap();
    }
    let page = place.member().history_bytes("$dead/orders/**", HistoryOptions::default()).await.unwrap();
    let values: Vec<_> = page.messages.iter().map(|message| &message.value[..]).collect();
    assert_eq!((values, page.undecodable.len()), (vec![&b"one"[..], b"two"], 0));
    place.bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_has_no_key_sees_that_there_is_a_letter_and_not_what_it_says() {
    let place = Place::new().await;
    bury(&place.member(), &["secret"]).await;
    let other = Keyring::with(Key::generate().unwrap()).unwrap();
    let stranger = place.client(Engines::new().with(Encryption::new(&other).unwrap()));
    let mut letters = stranger.subscribe_bytes_with("$dead/orders/**", all()).await.unwrap();
    let refused = error(event(&mut letters).await);
    assert!(matches!(refused, EngineError::UnknownKey { .. }), "{refused}");

    let operator = Client::new_memory(&place.bus.connector()).unwrap();
    let page = operator.history_bytes("$dead/orders/**", HistoryOptions::default()).await.unwrap();
    let sealed = &page.messages[0];
    assert_eq!(sealed.headers.find("dead-topic"), Some("orders/7"));
    assert!(!sealed.value.windows(6).any(|six| six == b"secret"));
    place.bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_lies_about_its_topic_is_refused() {
    let place = Place::new().await;
    let member = place.member();
    bury(&member, &["one"]).await;
    let sealed = place.letters().await[0].payload.clone();
    place.write_letter("orders/8", sealed.clone()).await;
    // A topic of which nothing is encrypted does not make it readable, and what is plain is taken of such alone.
    place.write_letter("orders/open/1", sealed).await;
    place.write_letter("orders/7", "made up".into()).await;
    place.write_letter("orders/open/1", "as its topic is".into()).await;
    let mut letters = member.subscribe_bytes_with("$dead/orders/**", all()).await.unwrap();
    assert_eq!(letter(event(&mut letters).await), ("orders/7".into(), "one".into()));
    assert_eq!(error(event(&mut letters).await), EngineError::Forged);
    assert_eq!(error(event(&mut letters).await), EngineError::Forged);
    assert!(matches!(error(event(&mut letters).await), EngineError::Missing { .. }));
    assert_eq!(letter(event(&mut letters).await), ("orders/open/1".into(), "as its topic is".into()));
    place.bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn letters_are_read_however_old_they_are_and_once_more_when_they_have_failed_again() {
    let place = Place::new().await;
    let fresh = || Engines::new().with(Encryption::new(&place.keyring).unwrap().fresh_within(Duration::ZERO));
    let member = place.client(fresh());
    let mut letters = place.client(fresh()).subscribe_bytes_with("$dead/orders/**", all()).await.unwrap();
    let mut orders = member.consume_bytes("orders/**", billing().max_deliver(1)).await.unwrap();
    publish(&member, "orders/7", "one").await;
    for _ in 0..2 {
        next(&mut orders).await.nack(Duration::ZERO);
        assert_eq!(letter(event(&mut letters).await), ("orders/7".into(), "one".into()));
        place.redrive().await;
    }
    next(&mut orders).await.ack().await.unwrap();
    place.bus.stop().await;
}

/// That a message is put back is what the bus says, and a bus may not decide that something is opened twice. Who has read it
/// loses nothing by that.
#[tokio::test(start_paused = true)]
async fn a_reader_that_has_read_a_message_refuses_the_copy_that_is_put_back_and_goes_on() {
    let place = Place::new().await;
    let member = place.member();
    let follow = SubscribeOptions::default().start(Start::New);
    let mut reader = place.member().subscribe_bytes_with("orders/**", follow.clone()).await.unwrap();
    bury(&member, &["one"]).await;
    let Event::Message(first) = event(&mut reader).await else { panic!("it is read") };
    assert_eq!(first.value, "one");
    // This one has not had it, and begins before it is put back.
    let mut late = place.member().subscribe_bytes_with("orders/**", follow).await.unwrap();
    place.redrive().await;
    assert!(matches!(error(event(&mut reader).await), EngineError::Replayed { .. }));
    let Event::Message(first) = event(&mut late).await else { panic!("it is new here") };
    assert_eq!(first.value, "one");
    publish(&member, "orders/7", "two").await;
    for subscription in [&mut reader, &mut late] {
        let Event::Message(second) = event(subscription).await else { panic!("it goes on") };
        assert_eq!((second.position.unwrap().sequence, &second.value[..]), (3, &b"two"[..]));
    }
    assert_eq!((reader.undecodable(), late.undecodable()), (1, 0));
    // Who reads what there is gets both, and knows them apart by their places.
    let page = member.history_bytes("orders/**", HistoryOptions::default()).await.unwrap();
    let read: Vec<_> = page
        .messages
        .iter()
        .map(|message| (message.position.unwrap().sequence, &message.value[..]))
        .collect();
    assert_eq!(read, [(1, &b"one"[..]), (2, b"one"), (3, b"two")]);
    place.bus.stop().await;
}
