//! Buses at the nodes of a cluster of NATS, of which some die and come back.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use whispeer::client::{Event, Subscription};
use whispeer_testkit::nats::{self, NatsBuilder};

use crate::joined::{Joined, PATIENCE, soon};

/// How often a node is killed.
const KILLS: usize = 3;

/// What a subscriber of all has had.
#[derive(Default)]
struct Had {
    /// The last number, and how many there were, by the bus that they are from.
    buses: HashMap<String, (u64, u64)>,
    missing: u64,
}

impl Had {
    fn note(&mut self, event: Event<Bytes>) {
        match event {
            Event::Gap { count, .. } => self.missing += count,
            Event::Message(message) => {
                let number = String::from_utf8(message.value.to_vec()).unwrap().parse().unwrap();
                let (last, count) = self.buses.entry(message.topic.to_string()).or_default();
                assert!(number > *last, "{}: {number} behind {last}", message.topic);
                (*last, *count) = (number, *count + 1);
            }
            other => panic!("{other:?}"),
        }
    }

    /// All that were published, or are told to be missing.
    fn all(&self) -> u64 {
        self.missing + self.buses.values().map(|(_, count)| count).sum::<u64>()
    }
}

async fn take_all(subscription: &mut Subscription<Bytes>, had: &mut Had, published: u64) {
    while had.all() < published {
        had.note(soon("what is published, or told to be missing", subscription.next_event()).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_node_dies_each_message_comes_once_in_its_order_or_is_told_to_be_missing() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let cluster = version.start_cluster(3).await;
        let mut buses = Vec::new();
        let mut subscriptions = Vec::new();
        for url in cluster.urls() {
            let joined = Joined::new(&url).await;
            subscriptions.push(joined.client.subscribe_bytes("numbers/*").await.unwrap());
            buses.push(joined);
        }
        // Subscriptions are known at all nodes, and older than what is to be lost.
        sleep(Duration::from_millis(1_500)).await;
        let mut published = 0;
        for kill in 0..=KILLS {
            for round in 0..100 {
                published += 1;
                for (index, bus) in buses.iter().enumerate() {
                    let topic = format!("numbers/{index}");
                    bus.client.publish_bytes(&topic, published.to_string()).await.unwrap();
                }
                if kill < KILLS && round == 30 {
                    cluster.nodes()[kill % 3].kill();
                }
                sleep(Duration::from_millis(5)).await;
            }
            if kill < KILLS {
                cluster.restart(kill % 3).await;
            }
        }
        let everything = published * buses.len() as u64;
        for (index, subscription) in subscriptions.iter_mut().enumerate() {
            let mut had = Had::default();
            take_all(subscription, &mut had, everything).await;
            assert_eq!(had.all(), everything, "nothing is told to be missing that is not");
            assert_eq!(
                had.buses[&format!("numbers/{index}")],
                (published, published),
                "its own are all there"
            );
            for (topic, (last, count)) in &had.buses {
                assert!(*count > published / 2, "{topic}: {count} of {published}, the last is {last}");
            }
        }
        for joined in buses {
            joined.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_is_left_for_another_one() {
    if !nats::available() {
        return;
    }
    let cluster = NatsBuilder::newest().start_cluster(3).await;
    let urls = cluster.urls();
    let (a, b) = (Joined::new(&urls[0]).await, Joined::new(&urls[1]).await);
    let mut there = b.client.subscribe_bytes("numbers").await.unwrap();
    sleep(Duration::from_millis(1_500)).await;
    a.client.publish_bytes("numbers", "0").await.unwrap();
    let Some(Event::Message(_)) = soon("the first", there.next_event()).await else { panic!("it came") };
    let mut had = Had::default();
    cluster.nodes()[0].pause();
    let mut published = 0;
    let began = std::time::Instant::now();
    while !had.buses.contains_key("numbers") {
        assert!(began.elapsed() < PATIENCE, "it does not go on by another node");
        published += 1;
        a.client.publish_bytes("numbers", published.to_string()).await.unwrap();
        if let Ok(Some(event)) = timeout(Duration::from_millis(10), there.next_event()).await {
            had.note(event);
        }
    }
    take_all(&mut there, &mut had, published).await;
    assert_eq!(had.all(), published);
    assert!(had.missing > 0, "the node has not hung for long enough");
    cluster.nodes()[0].resume();
}
