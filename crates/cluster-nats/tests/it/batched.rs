//! Buses that send messages that follow each other as one.

use std::collections::HashMap;
use std::time::Duration;

use whispeer::client::{Event, PublishOptions, SubscribeOptions};
use whispeer_testkit::nats::{self, NatsServer};

use crate::joined::{Joined, PREFIX, next, next_plain, settled, soon};

/// Room for all that comes, so that nothing is missing for a subscriber that is slow.
fn roomy() -> SubscribeOptions {
    SubscribeOptions::default().window(100_000, 64 << 20)
}

#[tokio::test]
async fn what_follows_each_other_goes_as_one_and_comes_one_by_one_in_its_order() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let (a, b) = (Joined::batching(&server.url()).await, Joined::new(&server.url()).await);
    let mut all = b.client.subscribe_bytes_with("numbers/**", roomy()).await.unwrap();
    let mut seen = nats.subscribe(format!("{PREFIX}.t.>")).await.unwrap();
    settled(&nats).await;
    b.wants(1, &nats).await;
    // All of it waits at the bus before the link takes any: this is the only thread.
    let mut expected = Vec::new();
    let publishers =
        ["numbers/a", "numbers/b"].map(|topic| (topic, a.client.publisher_bytes(topic).unwrap()));
    for number in 0..40 {
        for (topic, publisher) in &publishers {
            for part in 0..25 {
                let text = format!("{number} {part}");
                publisher.try_send(&text.clone().into()).unwrap();
                expected.push(((*topic).to_owned(), text));
            }
        }
        // What has headers, is large or is published to a pattern goes by itself, in its place.
        let options = PublishOptions::default().header("kind", "odd");
        drop(a.client.send_bytes_with("numbers/a", "with a header", options).await.unwrap());
        expected.push(("numbers/a".into(), "with a header".into()));
        let large = "x".repeat(5_000);
        publishers[0].1.try_send(&large.clone().into()).unwrap();
        expected.push(("numbers/a".into(), large));
    }
    for one in &expected {
        assert_eq!(next(&mut all).await, *one);
    }
    let mut sent = 0;
    let mut has_ended = false;
    a.client.publish_bytes("other/end", "end").await.unwrap();
    while !has_ended {
        let message = next_plain(&mut seen).await;
        has_ended = &*message.payload == b"end";
        sent += 1;
    }
    assert!(sent < expected.len() / 5, "{sent} messages of NATS for {}", expected.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_of_them_is_told_message_by_message() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.start().await;
        let nats = async_nats::connect(server.url()).await.unwrap();
        let (a, b) = (Joined::batching(&server.url()).await, Joined::batching(&server.url()).await);
        let mut all = b.client.subscribe_bytes_with("numbers/*", roomy()).await.unwrap();
        b.wants(1, &nats).await;
        // It is older than what is lost later.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let client = a.client.clone();
        let publishing = tokio::spawn(async move {
            let publishers = ["numbers/a", "numbers/b"].map(|topic| client.publisher_bytes(topic).unwrap());
            for number in 1..=200_u64 {
                for publisher in &publishers {
                    for part in 1..=20 {
                        publisher.send(&(number * 20 + part).to_string().into()).await.unwrap();
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.kill();
        server.restart().await;
        let (mut accounted, mut missing, mut last) = (0, 0, HashMap::<String, u64>::new());
        while accounted < 2 * 200 * 20 {
            match soon("what is published, or told to be missing", all.next_event()).await.unwrap() {
                Event::Gap { count, .. } => (accounted, missing) = (accounted + count, missing + count),
                Event::Message(message) => {
                    let number = str::from_utf8(&message.value).unwrap().parse().unwrap();
                    let last = last.entry(message.topic.to_string()).or_default();
                    assert!(number > *last, "{}: {number} behind {last}", message.topic);
                    (*last, accounted) = (number, accounted + 1);
                }
                other => panic!("{other:?}"),
            }
        }
        publishing.await.unwrap();
        assert_eq!(accounted, 2 * 200 * 20);
        assert!(missing > 0, "NATS was away for a while");
        crate::joined::silent(&mut all).await;
    }
}
