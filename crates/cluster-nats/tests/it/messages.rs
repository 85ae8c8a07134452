//! What is published at one bus reaches subscribers at all.

use std::time::Duration;

use whispeer::bus::ClusterStats;
use whispeer::client::{Event, PublishOptions, SubscribeOptions};
use whispeer_testkit::nats;
use whispeer_testkit::protocols::Number;

use crate::joined::{Joined, PREFIX, eventually, next, next_plain, settled, silent, soon};

#[tokio::test]
async fn what_is_published_at_one_bus_reaches_subscribers_at_all_and_nobody_twice() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.start().await;
        let nats = async_nats::connect(server.url()).await.unwrap();
        let (a, b, c) = (
            Joined::new(&server.url()).await,
            Joined::new(&server.url()).await,
            Joined::new(&server.url()).await,
        );
        let mut at_a = a.client.subscribe_bytes("orders/*").await.unwrap();
        // Three patterns that have the same topic.
        let mut at_b = [
            b.client.subscribe_bytes("orders/7").await.unwrap(),
            b.client.subscribe_bytes("orders/*").await.unwrap(),
            b.client.subscribe_bytes("orders/**").await.unwrap(),
        ];
        let mut elsewhere = c.client.subscribe_bytes("prices/**").await.unwrap();
        a.wants(1, &nats).await;
        b.wants(3, &nats).await;
        c.wants(1, &nats).await;
        for number in 0..100 {
            let matches = c.client.publish_bytes("orders/7", number.to_string()).await.unwrap();
            assert_eq!(matches, 0, "subscriptions at other buses are none of this one's");
        }
        for number in 0..100 {
            for subscription in std::iter::once(&mut at_a).chain(&mut at_b) {
                assert_eq!(next(subscription).await, ("orders/7".into(), number.to_string()));
            }
        }
        silent(&mut at_a).await;
        silent(&mut at_b[1]).await;
        silent(&mut elsewhere).await;
        assert_eq!(c.counter.counts().received, 0, "nothing comes back");
        for joined in [a, b, c] {
            assert_eq!(joined.counter.counts().missing, 0);
            joined.stop().await;
        }
    }
}

#[tokio::test]
async fn a_message_says_which_bus_it_comes_from_and_keeps_its_headers_and_its_time() {
    if !nats::available() {
        return;
    }
    let server = nats::NatsBuilder::newest().start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let (a, b) = (Joined::new(&server.url()).await, Joined::new(&server.url()).await);
    let mut news = b.client.subscribe_bytes("news").await.unwrap();
    b.wants(1, &nats).await;
    let options = PublishOptions::default()
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("shop", "7")
        .header("shop", " two\nlines ")
        .ttl(Duration::from_secs(60));
    a.client.publish_bytes_with("news", vec![0, 1, 255], options).await.unwrap();
    let Some(Event::Message(message)) = soon("it", news.next_event()).await else { panic!("it came") };
    let headers: Vec<_> = message.headers.iter().collect();
    assert_eq!(headers[0].0, "traceparent");
    assert_eq!(headers[1..], [("shop", "7"), ("shop", " two\nlines ")]);
    assert_eq!(message.value, vec![0, 1, 255]);
    assert_eq!(message.expires_in, Some(Duration::from_secs(60)));
    assert!(message.origin.is_some());
}

#[tokio::test]
async fn any_topic_passes_and_patterns_are_what_they_are_elsewhere() {
    if !nats::available() {
        return;
    }
    let server = nats::NatsBuilder::newest().start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let (a, b) = (Joined::new(&server.url()).await, Joined::new(&server.url()).await);
    let mut all = b.client.subscribe_bytes("**").await.unwrap();
    let mut inner = b.client.subscribe_bytes("v1.2/**/end").await.unwrap();
    let mut deep = b.client.subscribe_bytes("v1.2/**").await.unwrap();
    b.wants(3, &nats).await;
    let topics = ["", "v1.2", "v1.2/end", "v1.2/a/>/end", "ä/%2E/x", "one/two/three/four"];
    for topic in topics {
        a.client.publish_bytes(topic, topic.to_owned()).await.unwrap();
    }
    for topic in topics {
        assert_eq!(next(&mut all).await, (topic.into(), topic.into()));
    }
    for topic in ["v1.2/end", "v1.2/a/>/end"] {
        assert_eq!(next(&mut inner).await.0, topic);
    }
    for topic in ["v1.2", "v1.2/end", "v1.2/a/>/end"] {
        assert_eq!(next(&mut deep).await.0, topic);
    }
    silent(&mut inner).await;
    silent(&mut all).await;
}

#[tokio::test]
async fn what_is_published_to_patterns_and_to_several_topics_finds_its_matches_elsewhere() {
    if !nats::available() {
        return;
    }
    let server = nats::NatsBuilder::newest().start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let (a, b) = (Joined::new(&server.url()).await, Joined::new(&server.url()).await);
    let mut one = b.client.subscribe_bytes("shop/7").await.unwrap();
    let mut other = b.client.subscribe_bytes("shop/8/open").await.unwrap();
    let mut numbers = b.client.subscribe_bytes("number/b").await.unwrap();
    b.wants(3, &nats).await;
    a.client.publish_bytes("shop/+", "to one").await.unwrap();
    a.client.publish_bytes("shop/**", "to both").await.unwrap();
    assert_eq!(next(&mut one).await, ("shop/*".into(), "to one".into()));
    assert_eq!(next(&mut one).await, ("shop/**".into(), "to both".into()));
    assert_eq!(next(&mut other).await.1, "to both");
    a.client.publish_many(&["a", "b"], &Number(7)).await.unwrap();
    assert_eq!(next(&mut numbers).await.0, "number/b");
    silent(&mut other).await;
}

#[tokio::test]
async fn groups_and_what_ends_are_followed() {
    if !nats::available() {
        return;
    }
    let server = nats::NatsBuilder::newest().start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let (a, b) = (Joined::new(&server.url()).await, Joined::new(&server.url()).await);
    let worker = || SubscribeOptions::default().group("workers");
    let mut workers = [
        b.client.subscribe_bytes_with("jobs", worker()).await.unwrap(),
        b.client.subscribe_bytes_with("jobs", worker()).await.unwrap(),
    ];
    b.wants(1, &nats).await;
    for text in ["first", "second"] {
        a.client.publish_bytes("jobs", text).await.unwrap();
    }
    let mut done = Vec::new();
    for worker in &mut workers {
        done.push(next(worker).await.1);
    }
    done.sort();
    assert_eq!(done, ["first", "second"]);
    drop(workers);
    b.wants(0, &nats).await;
    a.client.publish_bytes("jobs", "third").await.unwrap();
    settled(&nats).await;
    eventually("what has come", || b.counter.counts().received == 2).await;
    assert_eq!(b.counter.counts().refused, 0, "nobody wants the third there");
}

#[tokio::test]
async fn a_program_that_has_nothing_but_nats_sees_messages_and_sends_them() {
    if !nats::available() {
        return;
    }
    let server = nats::NatsBuilder::newest().start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let mut plain = nats.subscribe(format!("{PREFIX}.t.orders.>")).await.unwrap();
    let bus = Joined::new(&server.url()).await;
    let mut orders = [
        bus.client.subscribe_bytes("orders/*").await.unwrap(),
        bus.client.subscribe_bytes("orders/7").await.unwrap(),
    ];
    let mut reserved = bus.client.subscribe_bytes("$presence/**").await.unwrap();
    bus.wants(2, &nats).await;

    let shop = PublishOptions::default().header("shop", "7");
    bus.client.publish_bytes_with("orders/7", "two apples", shop).await.unwrap();
    let seen = next_plain(&mut plain).await;
    assert_eq!((seen.subject.as_str(), &seen.payload[..]), ("shop.buses.t.orders.7", &b"two apples"[..]));
    assert_eq!(seen.headers.unwrap().get("shop").unwrap().as_str(), "7");

    for own in &mut orders {
        assert_eq!(next(own).await.1, "two apples");
    }
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("from", "nats");
    nats.publish_with_headers(format!("{PREFIX}.t.orders.7"), headers, "pears".into()).await.unwrap();
    for own in &mut orders {
        let Some(Event::Message(message)) = soon("it", own.next_event()).await else { panic!("it came") };
        assert_eq!((&message.value[..], message.headers.find("from")), (&b"pears"[..], Some("nats")));
        assert_eq!(message.origin, None);
        silent(own).await;
    }
    // What is the bus's own nobody else may tell.
    nats.publish(format!("{PREFIX}.t.$presence.x"), "forged".into()).await.unwrap();
    silent(&mut reserved).await;
}

#[tokio::test]
async fn each_bus_tells_how_all_are() {
    if !nats::available() {
        return;
    }
    let server = nats::NatsBuilder::newest().start().await;
    let (a, b) = (Joined::new(&server.url()).await, Joined::new(&server.url()).await);
    eventually("the other", || a.counter.counts().buses == 1 && b.counter.counts().buses == 1).await;
    let _subscription = b.client.subscribe_bytes("news").await.unwrap();
    let ask = || async {
        let answer = a.client.request_bytes("$bus/cluster", "".into()).await.unwrap();
        rmp_serde::from_slice::<ClusterStats>(&answer).unwrap()
    };
    let all = ask().await;
    assert_eq!((all.buses.len(), all.silent.len()), (2, 0));
    let ids: Vec<_> = all.buses.iter().map(|bus| bus.stats.bus_id).collect();
    assert!(ids.contains(&a.bus.stats().bus_id) && ids.contains(&b.bus.stats().bus_id));

    b.stop().await;
    eventually("its goodbye", || a.counter.counts().buses == 0).await;
    assert_eq!(ask().await.buses.len(), 1);
}
