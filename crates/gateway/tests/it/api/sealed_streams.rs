//! Streams whose payloads are encrypted, read from a gateway that has the key and from one that has not.

use serde_json::{Value, json};
use whispeer::engine::encryption::{Encryption, Key, Keyring};
use whispeer::engine::{Chain, Engines, is_sealed};
use whispeer::prelude::*;
use whispeer_gateway::{Gateway, Settings};

use super::support::{Reader, Served, ask, orders, payloads, streams_of};

fn encryption() -> Encryption {
    let key = Key::from_bytes(*b"the key that payloads have here.");
    Encryption::new(&Keyring::with(key).unwrap()).unwrap()
}

/// Two gateways of a bus, and a client that encrypts all and takes nothing else.
struct Place {
    /// The one with the key, for the topics of the stream.
    with: Served,
    /// The one without.
    without: Gateway,
    member: Client,
}

impl Place {
    async fn open() -> Self {
        let bus = Bus::builder().streams(streams_of(orders()).await).start().unwrap();
        let without = Gateway::start(&bus, Settings::new("127.0.0.1:0".parse().unwrap())).await.unwrap();
        let member = Client::builder().engines(Engines::new().with(encryption()));
        let member = member.connect_memory(&bus.connector()).unwrap();
        let engines = Engines::new().topic("orders/**", Chain::new().with(encryption()));
        let with = Served::over(bus, |settings| settings.engines = Some(engines)).await;
        Self { with, without, member }
    }

    /// Stores these numbers, encrypted.
    async fn store(&self, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            self.member.publish_bytes("orders/1", rmp_serde::to_vec(&number).unwrap()).await.unwrap();
        }
    }

    /// A page of history from the gateway that has the key.
    async fn page(&self, query: &str) -> Value {
        let answer = self.with.get(&format!("/api/v1/history?pattern=orders/**{query}"), &[]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// The same from the one that has not.
    async fn sealed_page(&self) -> Vec<Value> {
        let path = "/api/v1/history?pattern=orders/**";
        let mut page = ask(self.without.local_addr(), "GET", path, &[], b"").await.json();
        page["messages"].as_array_mut().unwrap().iter_mut().map(|one| one["payload"].take()).collect()
    }
}

/// How many payloads have gone out with the mark.
async fn marked(gateway: &Gateway) -> u64 {
    let text = ask(gateway.local_addr(), "GET", "/metrics", &[], b"").await.body;
    let text = String::from_utf8(text).unwrap();
    let name = "whispeer_gateway_sealed_total{dialect=\"http\"} ";
    text.lines().find_map(|line| line.strip_prefix(name)).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn history_is_read_where_the_gateway_has_the_key_as_often_as_it_is_asked_for() {
    let place = Place::open().await;
    place.store(1..=5).await;
    for _ in 0..2 {
        let first = place.page("&limit=3").await;
        assert_eq!(payloads(&first), [1, 2, 3]);
        let next = first["next"].as_str().unwrap();
        assert_eq!(payloads(&place.page(&format!("&cursor={next}")).await), [4, 5]);
    }
    assert_eq!(payloads(&place.page("&start=last-per-topic").await), [5]);
    assert_eq!(marked(&place.with.gateway).await, 0);

    let sealed = place.sealed_page().await;
    assert!(sealed.len() == 5 && sealed.iter().all(|payload| payload["$sealed"].is_string()), "{sealed:?}");
    assert_eq!(marked(&place.without).await, 5);
}

#[tokio::test]
async fn history_has_what_cannot_be_opened_beside_what_can() {
    let place = Place::open().await;
    place.store(1..=1).await;
    let other = Encryption::new(&Keyring::with(Key::generate().unwrap()).unwrap()).unwrap();
    let other = Client::builder().engines(Engines::new().with(other));
    let other = other.connect_memory(&place.with.bus.connector()).unwrap();
    other.publish_bytes("orders/1", vec![2]).await.unwrap();
    place.with.client.publish_bytes("orders/1", vec![3]).await.unwrap();
    let mut page = place.page("").await;
    let mut payload = |index: usize| page["messages"][index]["payload"].take();
    assert_eq!([payload(0), payload(2)], [json!(1), json!(3)]);
    assert!(payload(1)["$sealed"].is_string());
    assert_eq!(marked(&place.with.gateway).await, 1);
}

#[tokio::test]
async fn what_a_page_stores_is_encrypted_and_comes_back_with_its_headers() {
    let place = Place::open().await;
    let mut stored = place.with.client.subscribe_bytes("orders/1").await.unwrap();
    let mut typed = place.member.subscribe_bytes("orders/1").await.unwrap();
    let headers = [("whispeer-header-shop", "7")];
    let answer = place.with.post("/api/v1/publish?topic=orders/1&quality=1", &headers, "[1]").await;
    assert_eq!((answer.status, &answer.json()["stored"]), (200, &json!(true)));
    let batch = r#"{"messages":[{"topic":"orders/1","payload":[2],"quality":1,"headers":[["shop","8"]]}]}"#;
    let answer = place.with.post("/api/v1/publish", &[], batch).await;
    assert_eq!(answer.json()["published"], 1);
    for number in [1, 2] {
        assert!(is_sealed(&stored.recv().await.unwrap().1));
        assert_eq!(typed.recv().await.unwrap().1[..], [0x91, number]);
    }
    let page = place.page("").await;
    for (index, shop) in [(0, "7"), (1, "8")] {
        let message = &page["messages"][index];
        assert_eq!(
            (&message["payload"], &message["headers"]),
            (&json!([index + 1]), &json!([["shop", shop]]))
        );
    }
    assert!(place.sealed_page().await.iter().all(|payload| payload["$sealed"].is_string()));
}

#[tokio::test]
async fn a_reader_who_comes_back_reads_on_what_is_encrypted() {
    let place = Place::open().await;
    place.store(1..=2).await;
    let mut events = place.with.events("pattern=orders/**&start=all", &[]).await;
    events.event("ready").await;
    let first = events.event("message").await;
    assert_eq!(first.data["payload"], 1);
    drop(events);

    place.store(3..=3).await;
    let id = first.id.unwrap();
    for _ in 0..2 {
        let mut events = place.with.events("pattern=orders/**", &[("last-event-id", &id)]).await;
        assert_eq!(events.event("ready").await.id.as_deref(), Some(&*id));
        assert_eq!([events.payload().await, events.payload().await], [json!(2), json!(3)]);
    }
    let mut events = place.with.events("pattern=orders/**", &[("last-event-id", &id)]).await;
    events.event("ready").await;
    assert_eq!([events.payload().await, events.payload().await], [json!(2), json!(3)]);
    // What is published meanwhile comes behind it, opened as well.
    place.store(4..=4).await;
    assert_eq!(events.payload().await, 4);

    let path = "/api/v1/subscribe?pattern=orders/**";
    let mut sealed = Reader::ask(place.without.local_addr(), path, &[("last-event-id", &id)]).await;
    sealed.event("ready").await;
    for _ in 2..=4 {
        assert!(sealed.payload().await["$sealed"].is_string());
    }
    assert_eq!((marked(&place.with.gateway).await, marked(&place.without).await), (0, 3));
}
