//! What NATS loses is told as gaps, and everything goes on by itself.

use std::time::Duration;

use whispeer::bus::Settings;
use whispeer::client::{Event, Policy, PublishOptions, SubscribeOptions};
use whispeer::prelude::*;
use whispeer_testkit::nats::{self, NatsBuilder};

use crate::joined::{Joined, PREFIX, eventually, next, next_with_gap, settled, silent, soon};

#[tokio::test]
async fn a_bus_starts_without_nats_and_joins_when_it_appears() {
    if !nats::available() {
        return;
    }
    let server = NatsBuilder::newest().start().await;
    server.kill();
    let url = server.url();
    let alone = || Joined::begun(&url, Bus::builder());
    let (a, b) = (alone().await, alone().await);
    let mut own = a.client.subscribe_bytes("news").await.unwrap();
    let mut others = b.client.subscribe_bytes("news").await.unwrap();
    assert_eq!(a.client.publish_bytes("news", "alone").await.unwrap(), 1);
    assert_eq!(next(&mut own).await.1, "alone");
    server.restart().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    b.wants(1, &nats).await;
    eventually("the link", || {
        let _ = a.client.publisher_bytes("ping").map(|pings| pings.try_send(&"x".into()));
        a.counter.counts().sent > 0
    })
    .await;
    settled(&nats).await;
    a.client.publish_bytes("news", "together").await.unwrap();
    loop {
        // What was sent while the two were joining may come or not.
        let (_, text) = next_with_gap(&mut others).await;
        if text == "together" {
            break;
        }
    }
}

#[tokio::test]
async fn what_is_published_while_nats_is_away_is_told_as_a_gap_of_that_many() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.start().await;
        let (a, b) = (Joined::new(&server.url()).await, Joined::new(&server.url()).await);
        let mut there = b.client.subscribe_bytes("numbers/*").await.unwrap();
        let mut here = a.client.subscribe_bytes("numbers/*").await.unwrap();
        let nats = async_nats::connect(server.url()).await.unwrap();
        b.wants(1, &nats).await;
        a.wants(1, &nats).await;
        // It is older than what is lost later.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        for topic in ["numbers/a", "numbers/b"] {
            a.client.publish_bytes(topic, "first").await.unwrap();
            assert_eq!(next_with_gap(&mut there).await, (0, "first".into()));
        }
        server.kill();
        let before = a.counter.counts().dropped;
        let mut lost = 0;
        // What is sent before the loss of the connection is noticed is lost as well.
        while a.counter.counts().dropped < before + 5 {
            lost += 1;
            assert_eq!(a.client.publish_bytes("numbers/a", format!("lost {lost}")).await.unwrap(), 1);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server.restart().await;
        // Nothing more is published: the marks tell, when both are back.
        let mut missing = 0;
        while missing < lost {
            match soon("the gap", there.next_event()).await {
                Some(Event::Gap { count, .. }) => missing += count,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(missing, lost);
        silent(&mut there).await;
        a.client.publish_bytes("numbers/a", "again").await.unwrap();
        assert_eq!(next_with_gap(&mut there).await, (0, "again".into()));
        for text in ["first", "first", "lost 1"] {
            assert_eq!(next(&mut here).await.1, text);
        }
        for joined in [a, b] {
            joined.stop().await;
        }
    }
}

#[tokio::test]
async fn what_is_too_large_for_nats_is_a_gap_elsewhere_and_whole_here() {
    if !nats::available() {
        return;
    }
    let server = NatsBuilder::newest().config("max_payload: 1024").start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let (a, b) = (Joined::new(&server.url()).await, Joined::new(&server.url()).await);
    let mut here = a.client.subscribe_bytes("files").await.unwrap();
    let mut there = b.client.subscribe_bytes("files").await.unwrap();
    b.wants(1, &nats).await;
    a.client.publish_bytes("files", "small").await.unwrap();
    a.client.publish_bytes("files", vec![b'x'; 2_000]).await.unwrap();
    a.client.publish_bytes("files", "small again").await.unwrap();
    assert_eq!(next_with_gap(&mut there).await, (0, "small".into()));
    assert_eq!(next_with_gap(&mut there).await, (1, "small again".into()));
    assert_eq!(a.counter.counts().too_large, 1);
    assert_eq!(next(&mut here).await.1, "small");
    assert_eq!(next(&mut here).await.1.len(), 2_000);
}

#[tokio::test]
async fn a_subscriber_that_takes_nothing_holds_up_the_others_for_moments_only() {
    if !nats::available() {
        return;
    }
    let server = NatsBuilder::newest().start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let (a, b) = (Joined::new(&server.url()).await, Joined::new(&server.url()).await);
    let stuck = b.client.subscribe_bytes("numbers").await.unwrap();
    let mut others = b.client.subscribe_bytes("numbers").await.unwrap();
    b.wants(1, &nats).await;
    let numbers = a.client.publisher_bytes("numbers").unwrap();
    let count = 10_000;
    let sending = async {
        for number in 0..count {
            numbers.send(&number.to_string().into()).await.unwrap();
        }
    };
    let taking = async {
        for number in 0..count {
            assert_eq!(next_with_gap(&mut others).await, (0, number.to_string()));
        }
    };
    soon("all of them", async { tokio::join!(sending, taking) }).await;
    assert!(stuck.counts().received < count);
}

#[tokio::test]
async fn a_program_of_nats_that_forges_numbers_harms_nobody() {
    if !nats::available() {
        return;
    }
    let server = NatsBuilder::newest().start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let bus = Joined::new(&server.url()).await;
    let mut all = bus.client.subscribe_bytes("**").await.unwrap();
    bus.wants(1, &nats).await;
    let stamps = [
        "0000000000000001.5.4.4.0",
        "0000000000000001.18446744073709551615.3.3.0",
        "0000000000000001.6.5.5.0",
        "zz.1",
    ];
    for stamp in stamps {
        for subject in ["t.a", "p.a", "p", "w", "pw", "again", "t.$presence.x"] {
            let reply = format!("{PREFIX}.o.{stamp}");
            nats.publish_with_reply(format!("{PREFIX}.{subject}"), reply, stamp.into()).await.unwrap();
        }
    }
    settled(&nats).await;
    nats.publish(format!("{PREFIX}.t.b"), "still here".into()).await.unwrap();
    loop {
        if let Some(Event::Message(message)) = soon("an event", all.next_event()).await
            && message.value == "still here"
        {
            break;
        }
    }
    bus.stop().await;
}

#[tokio::test]
async fn what_a_bus_refuses_of_others_is_a_gap_of_as_many() {
    if !nats::available() {
        return;
    }
    let server = NatsBuilder::newest().start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let bounds = Settings {
        frame_limit: 128 * 1024,
        byte_budget: 128 * 1024,
        block_limit: Duration::from_millis(50),
        ..Settings::default()
    };
    let a = Joined::new(&server.url()).await;
    let b = Joined::built(&server.url(), Bus::builder().settings(bounds)).await;
    let mut orders = b.client.subscribe_bytes("orders/*").await.unwrap();
    // No session alone may hold as much as the bus has, four of them may.
    let mut stuck = Vec::new();
    for _ in 0..4 {
        let client = Client::new_memory(&b.bus.connector()).unwrap();
        let options = SubscribeOptions::default().policy(Policy::DropOldest).window(3, 1024 * 1024);
        stuck.push(client.subscribe_bytes_with("large", options).await.unwrap());
    }
    b.wants(2, &nats).await;
    for _ in 0..4 {
        b.client.publish_bytes("large", vec![1; 60 * 1024]).await.unwrap();
    }
    for number in 0..10 {
        let options = match number % 2 {
            0 => PublishOptions::default(),
            _ => PublishOptions::default().header("shop", "7"),
        };
        a.client.publish_bytes_with(&format!("orders/{}", number % 3), "pears", options).await.unwrap();
    }
    let mut missing = 0;
    while missing < 10 {
        match soon("the gap", orders.next_event()).await {
            Some(Event::Gap { count, .. }) => missing += count,
            other => panic!("{other:?}"),
        }
    }
    let counts = b.counter.counts();
    assert_eq!((missing, counts.refused, counts.received), (10, 10, 0));
    for subscription in &mut stuck {
        next(subscription).await;
    }
    drop(stuck);
    eventually("room", || b.bus.stats().queued_bytes < 64 * 1024).await;
    a.client.publish_bytes("orders/0", "apples").await.unwrap();
    assert_eq!(next_with_gap(&mut orders).await, (0, "apples".into()));
    eventually("the count", || b.counter.counts().received == 1).await;
}
