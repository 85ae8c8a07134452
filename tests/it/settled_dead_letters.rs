//! What no consumer could deal with: put back, dropped, and heard of.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use whispeer::auth::{AuthSettings, Policy, Principal};
use whispeer::bus::{StreamChange, StreamChanged, Streams};
use whispeer::client::{Event, PublishOptions, Quality, Start, SubscribeOptions, Subscription};
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::proto::fields::FieldsBuilder;
use whispeer::store::{Change, MemoryStore, Name, NewMessage, Reading, Store, StreamSettings};
use whispeer::transport::{Peer, memory_pair};

use crate::tampered_store::TamperedStore;

/// Long enough for whatever is on its way to come. Time is paused.
const LONG: Duration = Duration::from_secs(60);

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

fn settings(pattern: &str) -> StreamSettings {
    StreamSettings::new(name("orders"), vec![TopicPattern::new(pattern).unwrap()])
}

async fn streams_on(store: &Arc<dyn Store>) -> Streams {
    Streams::open(Arc::clone(store), [settings("orders/**")]).await.unwrap()
}

fn client(bus: &BusHandle) -> Client {
    Client::new_memory(&bus.connector()).unwrap()
}

/// Has these messages, each to a topic, become dead letters.
async fn bury(bus: &BusHandle, store: &Arc<dyn Store>, topics: impl IntoIterator<Item = &str>) {
    let client = client(bus);
    let once = SubscribeOptions::default().quality(Quality::AtLeastOnce).durable("billing").max_deliver(1);
    let mut orders = client.consume_bytes("orders/**", once.start(Start::New)).await.unwrap();
    let mut letters = letters(store).await.len();
    for topic in topics {
        let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
        client.publish_bytes_with(topic, topic.to_owned(), kept).await.unwrap();
        orders.recv().await.unwrap().nack(Duration::ZERO);
        letters += 1;
    }
    let all_are_there = async {
        while self::letters(store).await.len() < letters {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, all_are_there).await.expect("they are dead letters");
}

async fn letters(store: &Arc<dyn Store>) -> Vec<u64> {
    let page = store.read(name("orders.dead"), Reading::from(0, 0)).await.unwrap();
    assert!(!page.has_more());
    page.messages.iter().map(|letter| letter.sequence).collect()
}

/// What the stream has from this sequence on.
async fn orders(store: &Arc<dyn Store>, from: u64) -> Vec<Bytes> {
    let page = store.read(name("orders"), Reading::from(from, 0)).await.unwrap();
    assert!(!page.has_more());
    page.messages.into_iter().map(|order| order.payload).collect()
}

fn redrive(sequences: Option<Vec<u64>>) -> StreamChange {
    StreamChange::Redrive { stream: "orders".into(), sequences }
}

async fn ask(client: &Client, change: &StreamChange) -> BusResult<StreamChanged> {
    let answer = client.request_bytes("$bus/streams/change", change.to_bytes()).await?;
    Ok(rmp_serde::from_slice(&answer).unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_two_administrators_put_back_at_once_is_put_back_once() {
    let memory = MemoryStore::new();
    // Both have read the letters before one of them is put back.
    let slow = TamperedStore::new(memory.clone()).on_read(|_, page| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            page.await
        })
    });
    let (store, memory): (Arc<dyn Store>, Arc<dyn Store>) = (Arc::new(slow), Arc::new(memory));
    let bus = Bus::builder().streams(streams_on(&store).await).start().unwrap();
    for fate in ["redrive", "drop"] {
        let before = orders(&memory, 0).await.len() as u64;
        bury(&bus, &memory, ["orders/1", "orders/2", "orders/3"]).await;
        let change = match fate {
            "redrive" => redrive(None),
            _ => StreamChange::Drop { stream: "orders".into(), sequences: None },
        };
        let (one, other) = (client(&bus), client(&bus));
        let (one, other) = tokio::join!(ask(&one, &change), ask(&other, &change));
        assert_eq!(one.unwrap().count + other.unwrap().count, 3, "{fate}: each counts for one of them");
        assert!(letters(&memory).await.is_empty());
        let again: &[&str] = if fate == "redrive" { &["orders/1", "orders/2", "orders/3"] } else { &[] };
        assert_eq!(orders(&memory, before + 4).await, again, "{fate}");
    }
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_puts_letters_back_may_publish_to_all_topics_of_their_stream() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let bus = Bus::builder().streams(streams_on(&store).await).policy(policy()).start().unwrap();
    bury(&bus, &store, ["orders/1", "orders/2"]).await;
    let named = |name: &str| {
        let (bus_end, client_end) = memory_pair();
        bus.attach(bus_end, Peer::new(Principal::Certificate { name: name.into() }, "test")).unwrap();
        Client::builder().connect_link(client_end).unwrap()
    };
    for (name, needs) in [("reader", "publish"), ("partly", "publish"), ("writer", "administer = true")] {
        match ask(&named(name), &redrive(None)).await {
            Err(BusError::Denied { what }) => assert!(what.contains(needs), "{name}: {what}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(letters(&store).await, [1, 2], "they are where they were");
    let drop = StreamChange::Drop { stream: "orders".into(), sequences: Some(vec![1]) };
    assert_eq!(ask(&named("reader"), &drop).await.unwrap().count, 1, "dropping publishes nothing");
    assert_eq!(ask(&named("chief"), &redrive(None)).await.unwrap().count, 1);
    assert_eq!(orders(&store, 3).await, ["orders/2"]);
    bus.stop().await;
}

/// An administrator who may read, one who may publish to some topics, somebody who may publish, and one who may do all.
fn policy() -> Policy {
    let settings = r#"
        [roles.reader]
        administer = true
        request.allow = ["$bus/**"]

        [roles.partly]
        publish.allow = ["**"]
        publish.deny = ["orders/secret"]

        [roles.writer]
        publish.allow = ["orders/**"]
        request.allow = ["$bus/**"]

        [[certificates]]
        name = "reader"
        roles = ["reader"]

        [[certificates]]
        name = "partly"
        roles = ["reader", "partly"]

        [[certificates]]
        name = "writer"
        roles = ["writer"]

        [[certificates]]
        name = "chief"
        roles = ["reader", "writer"]
    "#;
    Policy::new(&toml::from_str::<AuthSettings>(settings).unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn letters_stay_whose_topics_the_stream_has_no_more() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let bus = Bus::builder().streams(streams_on(&store).await).start().unwrap();
    bury(&bus, &store, ["orders/eu/1", "orders/us/1", "orders/*/2"]).await;
    bus.stop().await;
    let streams = Streams::open(Arc::clone(&store), [settings("orders/eu/*")]).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    let changed = ask(&client(&bus), &redrive(None)).await.unwrap();
    assert_eq!((changed.count, changed.left), (2, 1));
    assert_eq!(orders(&store, 4).await, ["orders/eu/1", "orders/*/2"]);
    assert_eq!(letters(&store).await, [2]);
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn letters_that_are_named_are_found_without_reading_all_others() {
    let memory = MemoryStore::new();
    let read_from: Arc<Mutex<Vec<u64>>> = Arc::default();
    let noted = Arc::clone(&read_from);
    let store = TamperedStore::new(memory.clone()).on_read(move |reading, page| {
        noted.lock().unwrap().push(reading.from);
        page
    });
    let (store, memory): (Arc<dyn Store>, Arc<dyn Store>) = (Arc::new(store), Arc::new(memory));
    streams_on(&memory).await;
    let mut fields = FieldsBuilder::new();
    fields.header("dead-topic", "orders/7").unwrap();
    let fields = Bytes::from(fields.finish());
    let letter = |number: u64| {
        let (topic, payload) = (TopicPattern::new("$dead/orders").unwrap(), number.to_string().into());
        Change::Append(NewMessage {
            topic,
            fields: fields.clone(),
            payload,
            time: 1,
            expires: None,
            id: None,
        })
    };
    memory.commit(name("orders.dead"), (1..=5_000).map(letter).collect()).await.unwrap();

    let bus = Bus::builder().streams(streams_on(&store).await).start().unwrap();
    let admin = client(&bus);
    let some = vec![4_500, 4_502, 99_999, 3, 4_500, u64::MAX];
    assert_eq!(ask(&admin, &redrive(Some(some))).await.unwrap().count, 3);
    assert_eq!(*read_from.lock().unwrap(), [3, 4_500], "a page for those that lie together");
    assert_eq!(orders(&memory, 0).await, ["3", "4500", "4502"]);
    assert_eq!(ask(&admin, &redrive(Some(vec![]))).await.unwrap().count, 0, "none are named");
    let most = limits::DEAD_LETTERS;
    let refused = ask(&admin, &redrive(Some((0..=most).collect()))).await.unwrap_err();
    assert!(refused.to_string().contains("name none for all of them"), "{refused}");
    assert_eq!(ask(&admin, &redrive(Some((1..=most).collect()))).await.unwrap().count, 4_997);
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_wants_to_hear_of_dead_letters_says_where_to_begin() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let bus = Bus::builder().streams(streams_on(&store).await).start().unwrap();
    let watcher = client(&bus);
    for pattern in ["$dead/orders/**", "$dead/orders/billing", "$dead/orders", "$dead/**"] {
        match watcher.subscribe_bytes(pattern).await {
            Err(BusError::InvalidSettings(what)) => assert!(what.contains("Start::New"), "{what}"),
            other => panic!("{pattern}: {:?}", other.map(drop)),
        }
    }
    let to_come = SubscribeOptions::default().start(Start::New);
    let mut alarm = watcher.subscribe_bytes_with("$dead/orders/**", to_come.clone()).await.unwrap();
    let mut readers = watcher.subscribe_bytes_with("orders/**", to_come).await.unwrap();
    let mut listeners = watcher.subscribe_bytes("**").await.unwrap();
    bury(&bus, &store, ["orders/1"]).await;
    assert_eq!(next(&mut alarm).await, "orders/1");
    assert_eq!(ask(&watcher, &redrive(None)).await.unwrap().count, 1);
    // Who reads the stream gets it again, and who listens has had it.
    assert_eq!([next(&mut readers).await, next(&mut readers).await], ["orders/1", "orders/1"]);
    assert_eq!(next(&mut listeners).await, "orders/1");
    watcher.publish_bytes("orders/2", "orders/2").await.unwrap();
    assert_eq!([next(&mut listeners).await, next(&mut readers).await], ["orders/2", "orders/2"]);
    bus.stop().await;
}

async fn next(subscription: &mut Subscription<Bytes>) -> Bytes {
    match timeout(LONG, subscription.next_event()).await {
        Ok(Some(Event::Message(message))) => message.value,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_put_back_is_of_use_for_no_longer_than_it_was_to_be() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let bus = Bus::builder().streams(streams_on(&store).await).start().unwrap();
    let client = client(&bus);
    let once = SubscribeOptions::default().quality(Quality::AtLeastOnce).durable("billing").max_deliver(1);
    let mut orders = client.consume_bytes("orders/**", once.start(Start::All)).await.unwrap();
    for (payload, seconds) in [("short", 10), ("long", 1000)] {
        let kept = PublishOptions::default().quality(Quality::AtLeastOnce).ttl(Duration::from_secs(seconds));
        client.publish_bytes_with("orders/7", payload, kept).await.unwrap();
        orders.recv().await.unwrap().nack(Duration::ZERO);
    }
    tokio::time::sleep(Duration::from_secs(100)).await;
    let changed = ask(&client, &redrive(None)).await.unwrap();
    assert_eq!((changed.count, changed.left), (1, 1), "what is of no use any more stays");
    assert_eq!(letters(&store).await, [1]);
    let again = timeout(LONG, orders.recv()).await.expect("it comes").unwrap();
    assert_eq!(again.value, "long");
    let left = again.expires_in.expect("it has an end");
    assert!(left > Duration::from_secs(880) && left <= Duration::from_secs(900), "{left:?}");
    again.ack().await.unwrap();
    assert!(timeout(LONG, orders.recv()).await.is_err(), "the other does not come");
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_put_back_has_all_the_headers_that_it_had_as_many_as_there_may_be() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let bus = Bus::builder().streams(streams_on(&store).await).start().unwrap();
    let client = client(&bus);
    let once = SubscribeOptions::default().quality(Quality::AtLeastOnce).durable("billing").max_deliver(1);
    let mut orders = client.consume_bytes("orders/**", once.start(Start::All)).await.unwrap();
    let with = |value: usize| {
        let kept = PublishOptions::default().quality(Quality::AtLeastOnce).ttl(Duration::from_secs(1000));
        // Names that a dead letter has as well are anybody's.
        let named = ["dead-topic", "dead-expires", "dead-cut", "dead-note"].into_iter();
        named.fold(kept, |kept, name| kept.header(name, "mine")).header("large", "x".repeat(value))
    };
    let room = limits::STORED_FIELDS_LIMIT - 4 * (4 + "mine".len()) - (4 + "large".len());
    let room =
        room - ["dead-topic", "dead-expires", "dead-cut", "dead-note"].map(str::len).iter().sum::<usize>();
    let refused = client.publish_bytes_with("orders/7", "x", with(room + 1)).await.unwrap_err();
    let limit = limits::STORED_FIELDS_LIMIT;
    assert!(matches!(refused, BusError::HeadersTooLarge { limit: most, .. } if most == limit), "{refused}");
    let topic = format!("orders/{}", "x".repeat(limits::MAX_TOPIC_BYTES - "orders/".len()));
    client.publish_bytes_with(&topic, "x", with(room)).await.unwrap();
    let headers = |message: &whispeer::client::Message<Bytes>| {
        let all = message.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        all.collect::<Vec<_>>()
    };
    let order = timeout(LONG, orders.recv()).await.expect("it comes").unwrap();
    let before = headers(&order);
    assert_eq!(before.len(), 5);
    order.nack(Duration::ZERO);
    let mut dead = client
        .subscribe_bytes_with("$dead/orders/**", SubscribeOptions::default().start(Start::All))
        .await
        .unwrap();
    let (_, payload) = timeout(LONG, dead.recv()).await.expect("it comes").unwrap();
    assert_eq!(payload, "x", "it can be read as a dead letter");
    assert_eq!(ask(&client, &redrive(None)).await.unwrap().count, 1);
    let again = timeout(LONG, orders.recv()).await.expect("it comes").unwrap();
    assert_eq!((again.topic.as_str(), headers(&again)), (&topic[..], before));
    again.ack().await.unwrap();
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_failed_as_the_bus_ended_is_put_away_before_it_has_ended() {
    let memory = MemoryStore::new();
    let slow = TamperedStore::new(memory.clone()).on_read(|_, page| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            page.await
        })
    });
    let (store, memory): (Arc<dyn Store>, Arc<dyn Store>) = (Arc::new(slow), Arc::new(memory));
    let bus = Bus::builder().streams(streams_on(&store).await).start().unwrap();
    let client = client(&bus);
    // It has no name that would have it come again.
    let once = SubscribeOptions::default().quality(Quality::AtLeastOnce).max_deliver(1);
    let mut orders = client.consume_bytes("orders/**", once).await.unwrap();
    let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
    client.publish_bytes_with("orders/7", "shoes", kept).await.unwrap();
    let delivery = orders.recv().await.unwrap();
    bus.stop().await;
    assert_eq!(letters(&memory).await, [1], "{delivery:?} was not acknowledged");
}
