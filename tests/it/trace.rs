//! The operation that a message belongs to goes with it, whatever way it takes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use whispeer::bus::StreamChange;
use whispeer::client::{
    Event, Headers, HistoryOptions, Message, PublishOptions, Quality, RequestOptions, Start,
    SubscribeOptions, Subscription,
};
use whispeer::prelude::*;
use whispeer::store::{SqliteOptions, SqliteStore, Store};
use whispeer::trace::{TRACEPARENT, TRACESTATE, TraceContext};

use crate::ground::Ground;
use crate::orders::{LONG, billing, bus_on, client, next};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const STATE: &str = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";

fn traced() -> Headers {
    Headers::new().with("shop", "7").with(TRACEPARENT, PARENT).with(TRACESTATE, STATE)
}

fn kept() -> PublishOptions {
    PublishOptions::default().headers(traced()).quality(Quality::AtLeastOnce)
}

async fn message(subscription: &mut Subscription<Bytes>) -> Message<Bytes> {
    match timeout(LONG, subscription.next_event()).await.expect("a message comes").unwrap() {
        Event::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

async fn open(folder: &Path) -> (Arc<dyn Store>, BusHandle) {
    let store: Arc<dyn Store> =
        Arc::new(SqliteStore::open(&folder.join("db"), SqliteOptions::new()).unwrap());
    let bus = bus_on(&store).await;
    (store, bus)
}

#[tokio::test]
async fn it_goes_with_a_message_to_all_who_get_it_over_each_transport() {
    let ground = Ground::new(Bus::builder());
    for link in ground.links().await {
        let subscriber = Client::builder().connect_link(link).unwrap();
        let mut news = subscriber.subscribe_bytes("news/*").await.unwrap();
        for link in ground.links().await {
            let publisher = Client::builder().connect_link(link).unwrap();
            let options = PublishOptions::default().headers(traced());
            publisher.publish_bytes_with("news/today", "1", options).await.unwrap();
            let got = message(&mut news).await;
            assert_eq!(got.headers, traced(), "in their order, and nothing else");
            assert_eq!(got.headers.trace(), TraceContext::parse(PARENT, Some(STATE)));
        }
    }
}

#[tokio::test]
async fn it_is_read_again_from_a_file_after_the_end_of_the_bus() {
    let folder = tempfile::tempdir().unwrap();
    let (store, bus) = open(folder.path()).await;
    client(&bus).publish_bytes_with("orders/7", "1", kept()).await.unwrap();
    bus.stop().await;
    store.close().await.unwrap();
    drop(store);
    let (_store, bus) = open(folder.path()).await;
    let client = client(&bus);
    let from = SubscribeOptions::default().start(Start::All);
    let mut replayed = client.subscribe_bytes_with("orders/**", from).await.unwrap();
    assert_eq!(message(&mut replayed).await.headers, traced());
    let last = client.history_bytes("orders/**", HistoryOptions::default()).await.unwrap();
    assert_eq!(last.messages[0].headers, traced());
    bus.stop().await;
}

#[tokio::test]
async fn it_comes_again_with_a_redelivery_and_is_with_the_dead_letter_and_what_is_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, bus) = open(folder.path()).await;
    let client = client(&bus);
    let mut orders = client.consume_bytes("orders/**", billing().max_deliver(2)).await.unwrap();
    client.publish_bytes_with("orders/7", "1", kept()).await.unwrap();
    for _ in 0..2 {
        let order = next(&mut orders).await;
        assert_eq!(order.headers, traced());
        order.nack(Duration::ZERO);
    }
    let dead = SubscribeOptions::default().start(Start::All);
    let mut letters = client.subscribe_bytes_with("$dead/orders/**", dead).await.unwrap();
    let letter = message(&mut letters).await;
    let own: Headers = letter.headers.iter().filter(|(name, _)| !name.starts_with("dead-")).collect();
    assert_eq!(own, traced());
    assert_eq!(letter.headers.trace(), TraceContext::parse(PARENT, Some(STATE)));
    let redrive = StreamChange::Redrive { stream: "orders".into(), sequences: None };
    client.request_bytes("$bus/streams/change", redrive.to_bytes()).await.unwrap();
    let again = next(&mut orders).await;
    assert_eq!(again.headers, traced());
    again.ack().await.unwrap();
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn it_goes_with_what_is_published_later() {
    let bus = Bus::builder().start().unwrap();
    let (publisher, subscriber) = (client(&bus), client(&bus));
    let mut news = subscriber.subscribe_bytes("news").await.unwrap();
    let later = PublishOptions::default().headers(traced()).deliver_in(Duration::from_secs(5));
    publisher.publish_bytes_with("news", "later", later).await.unwrap();
    assert_eq!(message(&mut news).await.headers, traced());
    bus.stop().await;
}

#[tokio::test]
async fn it_goes_with_a_request_to_its_server() {
    let bus = Bus::builder().start().unwrap();
    let (requester, server) = (client(&bus), client(&bus));
    let mut serving = server.serve_bytes("work/1").await.unwrap();
    let options = || RequestOptions::default().headers(traced());
    let asked = async {
        requester.request_bytes_with("work/1", "1".into(), options()).await.unwrap();
    };
    let answered = async {
        let request = serving.next_request().await.unwrap();
        assert_eq!(request.headers, traced());
        // What the server does for it belongs to the same trace.
        let own = request.headers.trace().unwrap().child().unwrap();
        assert_eq!(own.tracestate(), Some(STATE));
        server.respond_bytes(request.id, "done".into()).await.unwrap();
    };
    tokio::join!(asked, answered);
    bus.stop().await;
}

#[tokio::test]
async fn what_is_no_trace_goes_on_as_it_came() {
    let bus = Bus::builder().start().unwrap();
    let client = client(&bus);
    let mut news = client.subscribe_bytes("news").await.unwrap();
    let strange = Headers::new().with(TRACEPARENT, "00-ZZ").with(TRACESTATE, "=,=");
    let options = PublishOptions::default().headers(strange.clone());
    client.publish_bytes_with("news", "1", options).await.unwrap();
    let got = message(&mut news).await;
    assert_eq!((got.headers.trace(), got.headers), (None, strange));
    bus.stop().await;
}
