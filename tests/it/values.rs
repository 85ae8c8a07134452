//! Values that are handed over within the process, and encoded only for those outside of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize, Serializer};
use whispeer::client::{Event, ManyOptions, SubscribeOptions};
use whispeer::prelude::*;
use whispeer_testkit::wait::soon;

use crate::ground::Ground;

/// Counts how often it is encoded; each test has its own by the number in the type.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Counted<const N: usize> {
    text: String,
}

static ENCODED: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];

impl<const N: usize> Counted<N> {
    fn new(text: &str) -> Self {
        Self { text: text.into() }
    }

    fn encoded() -> usize {
        ENCODED[N].load(Ordering::SeqCst)
    }
}

impl<const N: usize> Serialize for Counted<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        ENCODED[N].fetch_add(1, Ordering::SeqCst);
        if self.text == "not to be encoded" {
            return Err(serde::ser::Error::custom("it does not want to"));
        }
        let mut fields = serializer.serialize_struct("Counted", 1)?;
        fields.serialize_field("text", &self.text)?;
        fields.end()
    }
}

impl<const N: usize> PublishProtocol for Counted<N> {
    fn prefix() -> &'static str {
        "counted"
    }

    fn weight(&self) -> usize {
        self.text.len()
    }
}

impl<const N: usize> RequestProtocol for Counted<N> {
    type Rsp = Counted<N>;

    fn prefix() -> &'static str {
        "counted"
    }
}

/// The same on the wire as [`Counted`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Lookalike {
    text: String,
}

impl PublishProtocol for Lookalike {
    fn prefix() -> &'static str {
        "counted"
    }
}

async fn outside(ground: &Ground) -> Client {
    Client::new_unix(&ground.socket()).await.unwrap()
}

#[tokio::test]
async fn within_the_process_nothing_is_encoded() {
    type Value = Counted<0>;
    let ground = Ground::new(Bus::builder());
    let (publisher, subscriber) = (ground.client(), ground.client());
    let mut one = subscriber.subscribe::<Value>("a").await.unwrap();
    let mut all = subscriber.subscribe::<Value>("*").await.unwrap();
    let mut group =
        subscriber.subscribe_with::<Value>("a", SubscribeOptions::default().group("g")).await.unwrap();
    assert_eq!(publisher.publish("a", &Value::new("hello")).await.unwrap(), 3);
    let handle = publisher.publisher::<Value>("a").unwrap();
    handle.send(&Value::new("again")).await.unwrap();
    handle.flush().await.unwrap();
    for subscription in [&mut one, &mut all, &mut group] {
        for text in ["hello", "again"] {
            let (topic, value) = soon("a value", subscription.recv()).await.unwrap();
            assert_eq!((topic.as_str(), value), ("a", Value::new(text)));
        }
    }
    let _handling = subscriber.handle("echo", |request: Value| async move { Ok(request) }).await.unwrap();
    assert_eq!(publisher.request("echo", &Value::new("ask")).await.unwrap(), Value::new("ask"));
    let answers = publisher.request_many("*", &Value::new("all"), ManyOptions::default()).await.unwrap();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].as_ref().unwrap().1, Value::new("all"));
    assert_eq!(Value::encoded(), 0);
}

#[tokio::test]
async fn for_those_outside_a_value_is_encoded_once() {
    type Value = Counted<1>;
    let ground = Ground::new(Bus::builder());
    let publisher = ground.client();
    let mut inside = ground.client().subscribe::<Value>("a").await.unwrap();
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(outside(&ground).await.subscribe::<Value>("a").await.unwrap());
    }
    let mut raw = ground.client().subscribe_bytes("counted/a").await.unwrap();
    assert_eq!(publisher.publish("a", &Value::new("hello")).await.unwrap(), 5);
    assert_eq!(soon("inside", inside.recv()).await.unwrap().1, Value::new("hello"));
    for other in &mut others {
        assert_eq!(soon("outside", other.recv()).await.unwrap().1, Value::new("hello"));
    }
    assert!(!soon("bytes", raw.recv()).await.unwrap().1.is_empty());
    assert_eq!(Value::encoded(), 1);
}

#[tokio::test]
async fn another_type_of_the_same_topic_is_decoded() {
    let ground = Ground::new(Bus::builder());
    let publisher = ground.client();
    let mut other = ground.client().subscribe::<Lookalike>("a").await.unwrap();
    publisher.publish("a", &Counted::<2>::new("hello")).await.unwrap();
    assert_eq!(soon("it", other.recv()).await.unwrap().1, Lookalike { text: "hello".into() });
}

#[tokio::test]
async fn a_value_that_cannot_be_encoded_is_undecodable_outside_and_whole_inside() {
    type Value = Counted<3>;
    let ground = Ground::new(Bus::builder());
    let publisher = ground.client();
    let mut inside = ground.client().subscribe::<Value>("a").await.unwrap();
    let mut other = outside(&ground).await.subscribe::<Value>("a").await.unwrap();
    publisher.publish("a", &Value::new("not to be encoded")).await.unwrap();
    publisher.publish("a", &Value::new("hello")).await.unwrap();
    assert_eq!(soon("inside", inside.recv()).await.unwrap().1, Value::new("not to be encoded"));
    assert!(matches!(soon("outside", other.next_event()).await, Some(Event::Undecodable { .. })));
    assert_eq!(soon("outside", other.recv()).await.unwrap().1, Value::new("hello"));
}

#[tokio::test]
async fn a_value_that_is_too_large_outside_harms_no_connection() {
    type Value = Counted<4>;
    let ground = Ground::new(crate::ground::settings(|settings| settings.frame_limit = 128 * 1024));
    let publisher = ground.client();
    let mut other = outside(&ground).await.subscribe::<Value>("a").await.unwrap();
    // What it says to weigh is refused as any payload is.
    let heavy = publisher.publish("a", &Value::new(&"x".repeat(200_000))).await;
    assert!(matches!(heavy, Err(BusError::FrameTooLarge { .. })), "{heavy:?}");
    // Just below the limit, and just above when encoded.
    publisher.publish("a", &Value::new(&"x".repeat(128 * 1024 - 70))).await.unwrap();
    publisher.publish("a", &Value::new("hello")).await.unwrap();
    let event = soon("outside", other.next_event()).await;
    assert!(
        matches!(&event, Some(Event::Undecodable { .. } | Event::Message(_))),
        "it is told whichever way it fits: {event:?}"
    );
    assert_eq!(soon("outside", other.recv()).await.unwrap().1, Value::new("hello"));
}

/// Its bytes are far more than it says to weigh.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Understated(Vec<String>);

impl PublishProtocol for Understated {
    fn prefix() -> &'static str {
        "understated"
    }
}

#[tokio::test]
async fn values_that_understate_their_weight_stay_within_the_window_of_those_outside() {
    let ground = Ground::new(Bus::builder());
    let publisher = ground.client().publisher::<Understated>("a").unwrap();
    let window = SubscribeOptions::default().window(1_000, 10_000);
    let mut other = outside(&ground).await.subscribe_with::<Understated>("a", window).await.unwrap();
    let sending = async {
        for _ in 0..300 {
            publisher.send(&Understated(vec!["x".repeat(500); 4])).await.unwrap();
        }
        publisher.flush().await.unwrap();
    };
    let receiving = async {
        for _ in 0..300 {
            assert_eq!(soon("a value", other.recv()).await.unwrap().1.0.len(), 4);
        }
    };
    tokio::join!(sending, receiving);
}

#[tokio::test]
async fn a_value_counts_for_its_size_and_weight() {
    type Value = Counted<5>;
    let ground = Ground::new(Bus::builder());
    let publisher = ground.client();
    let window = SubscribeOptions::default().window(1_000, 1_000);
    let mut subscription = ground.client().subscribe_with::<Value>("a", window).await.unwrap();
    for _ in 0..10 {
        publisher.publish("a", &Value::new(&"x".repeat(500))).await.unwrap();
    }
    // Two of more than 500 bytes pass a window of 1,000: the last one may overshoot it.
    assert_eq!((subscription.counts().received, ground.bus.stats().parked_messages), (2, 8));
    for _ in 0..10 {
        soon("a value", subscription.recv()).await.unwrap();
    }
    assert_eq!(Value::encoded(), 0);
}
