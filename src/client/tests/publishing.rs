//! Publishing: the window, pipelining, and who is told of failures.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::client::{Headers, PublishOptions};
use crate::proto::HEADER_LEN;
use crate::proto::fields::{Field, iterate};

#[tokio::test(start_paused = true)]
async fn a_publish_gives_the_number_of_matches() {
    let (client, mut peer) = connected().await;
    let script = async {
        let publish = peer.expect(Kind::Publish).await;
        assert_eq!((publish.header.sequence, publish.header.flags), (1, Flags::ACKNOWLEDGE));
        assert_eq!((publish.topic.as_str(), publish.payload), ("note/a/b", encoded(&note("hi"))));
        peer.send(Header::answering(Kind::Accepted, Kind::Publish, 3, 1), &[]);
    };
    let (count, ()) = both(client.publish("a/b", &note("hi")), script).await;
    assert_eq!(count.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_is_on_its_way_in_order_before_any_of_it_is_answered() {
    let (client, mut peer) = connected().await;
    let mut sent = Vec::new();
    for topic in ["first", "second"] {
        sent.push(client.send_bytes_with(topic, "x", PublishOptions::default()).await.unwrap());
    }
    let script = async {
        for (sequence, topic) in [(1, "first"), (2, "second")] {
            let publish = peer.expect(Kind::Publish).await;
            assert_eq!((publish.header.sequence, publish.header.flags), (sequence, Flags::ACKNOWLEDGE));
            assert_eq!(publish.topic.as_str(), topic);
        }
        for (sequence, matches) in [(1, 5), (2, 7)] {
            peer.send(Header::answering(Kind::Accepted, Kind::Publish, matches, sequence), &[]);
        }
    };
    let told = async {
        let mut told = Vec::new();
        for acknowledgement in sent {
            told.push(acknowledgement.await.unwrap());
        }
        told
    };
    let (told, ()) = both(told, script).await;
    assert_eq!(told, [5, 7]);
    let reserved = client.send_bytes_with("$bus/info", "x", PublishOptions::default()).await;
    assert!(matches!(reserved, Err(BusError::ReservedTopic { .. })), "{reserved:?}");
}

#[tokio::test(start_paused = true)]
async fn misuse_is_told_before_anything_is_sent() {
    let (client, mut peer) = connected().await;
    let invalid = client.publish("a//b", &note("x")).await;
    assert!(matches!(invalid, Err(BusError::InvalidTopic(_))), "{invalid:?}");
    let reserved = client.publish_bytes("$bus/info", "x").await;
    assert!(matches!(reserved, Err(BusError::ReservedTopic { .. })), "{reserved:?}");
    assert!(matches!(client.publisher_bytes("$bus").map(drop), Err(BusError::ReservedTopic { .. })));
    let topics: Vec<&str> = std::iter::repeat_n("a", limits::PUBLISH_MANY_TOPICS + 1).collect();
    let many = client.publish_many(&topics, &note("x")).await;
    assert!(matches!(many, Err(BusError::LimitReached { .. })), "{many:?}");
    assert_eq!(client.publish_many(&[], &note("x")).await.unwrap(), 0);
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn one_byte_over_the_frame_limit_fails_the_call_and_harms_nothing() {
    let (client, mut peer) = connected().await;
    let limit = peer.welcome.frame_limit as usize;
    let fits = limit - HEADER_LEN - "a".len();
    let error = client.publish_bytes("a", vec![0; fits + 1]).await.unwrap_err();
    assert!(
        matches!(error, BusError::FrameTooLarge { size, limit: told } if size == limit + 1 && told == limit)
    );
    let publisher = client.publisher_bytes("a").unwrap();
    assert!(matches!(publisher.send(&vec![0; fits + 1].into()).await, Err(BusError::FrameTooLarge { .. })));
    publisher.send(&vec![0; fits].into()).await.unwrap();
    assert_eq!(peer.expect(Kind::Publish).await.payload.len(), fits);
}

#[tokio::test(start_paused = true)]
async fn options_and_further_topics_travel_as_fields() {
    let (client, mut peer) = connected().await;
    let options = PublishOptions::default().header("shop", "7").block_limit(Duration::from_millis(20));
    let script = async {
        let publish = peer.expect(Kind::Publish).await;
        let fields: Vec<_> = iterate(&publish.fields).collect();
        let header = Field::Header { name: "shop", value: "7" };
        assert_eq!(fields, [header, Field::BlockLimit(Duration::from_millis(20))]);
        peer.send(Header::answering(Kind::Accepted, Kind::Publish, 0, 1), &[]);
        let publish = peer.expect(Kind::Publish).await;
        assert_eq!(publish.topic, "note/a");
        let fields: Vec<_> = iterate(&publish.fields).collect();
        assert_eq!(fields, [Field::Topic("note/b"), Field::Topic("note/c/*")]);
        peer.send(Header::answering(Kind::Accepted, Kind::Publish, 2, 2), &[]);
    };
    let calls = async {
        client.publish_with("a", &note("x"), options).await.unwrap();
        assert_eq!(client.publish_many(&["a", "b", "c/+"], &note("x")).await.unwrap(), 2);
    };
    both(calls, script).await;
}

#[tokio::test(start_paused = true)]
async fn sending_stops_where_the_window_ends_and_goes_on_in_turn() {
    let (client, mut peer) = connected_with(|welcome| welcome.publish_window = (2, 1_000_000)).await;
    let publisher = client.publisher_bytes("a").unwrap();
    publisher.send(&"1".into()).await.unwrap();
    publisher.try_send(&"2".into()).unwrap();
    assert!(matches!(publisher.try_send(&"3".into()), Err(BusError::Full)));
    let (third, fourth): (Bytes, Bytes) = ("3".into(), "4".into());
    let mut third = Box::pin(publisher.send(&third));
    assert!(is_waiting(&mut third).await);
    let mut fourth = Box::pin(publisher.send(&fourth));
    assert!(is_waiting(&mut fourth).await);
    for expected in ["1", "2"] {
        assert_eq!(peer.expect(Kind::Publish).await.payload, expected.as_bytes());
    }
    peer.expect_silence().await;
    peer.credit(Lane::Publish, 0, 1, 100);
    third.await.unwrap();
    assert!(is_waiting(&mut fourth).await);
    assert!(matches!(publisher.try_send(&"5".into()), Err(BusError::Full)), "others wait in front");
    peer.credit(Lane::Publish, 0, 1, 100);
    fourth.await.unwrap();
    for (expected, sequence) in [("3", 3), ("4", 4)] {
        let publish = peer.expect(Kind::Publish).await;
        assert_eq!((publish.payload.as_slice(), publish.header.sequence), (expected.as_bytes(), sequence));
    }
}

#[tokio::test(start_paused = true)]
async fn a_publishers_options_go_with_each_message_and_headers_of_one_with_that_one() {
    let (client, mut peer) = connected_with(|welcome| welcome.publish_window = (2, 1_000_000)).await;
    let options = PublishOptions::default().header("shop", "7").block_limit(Duration::from_millis(20));
    let publisher = client.publisher_bytes_with("a", options).unwrap();
    publisher.send(&"1".into()).await.unwrap();
    let trace = Headers::new().with("trace", "ab");
    publisher.send_with(&"2".into(), &trace).await.unwrap();
    let third = "3".into();
    {
        let mut waiting = Box::pin(publisher.send_with(&third, &trace));
        assert!(is_waiting(&mut waiting).await);
        peer.credit(Lane::Publish, 0, 2, 200);
        waiting.await.unwrap();
    }
    publisher.try_send(&"4".into()).unwrap();
    let own = [Field::Header { name: "shop", value: "7" }, Field::BlockLimit(Duration::from_millis(20))];
    let traced = [&own[..], &[Field::Header { name: "trace", value: "ab" }]].concat();
    for (payload, expected) in [("1", &own[..]), ("2", &traced), ("3", &traced), ("4", &own)] {
        let publish = peer.expect(Kind::Publish).await;
        assert_eq!((publish.payload, publish.header.flags), (payload.as_bytes().to_vec(), Flags::NONE));
        assert_eq!(iterate(&publish.fields).collect::<Vec<_>>(), expected, "message {payload}");
    }
    let large = Headers::from_iter([("large", "x".repeat(limits::FIELDS_LIMIT))]);
    let refused = publisher.send_with(&"5".into(), &large).await;
    assert!(matches!(refused, Err(BusError::HeadersTooLarge { .. })), "{refused:?}");
    let refused = client.publisher_bytes_with("a", PublishOptions::default().headers(large)).map(drop);
    assert!(matches!(refused, Err(BusError::HeadersTooLarge { .. })), "{refused:?}");
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_waiting_lets_the_next_one_send() {
    let (client, mut peer) = connected_with(|welcome| welcome.publish_window = (1, 1_000_000)).await;
    let publisher = Arc::new(client.publisher_bytes("a").unwrap());
    let [first, second] = ["1", "2"].map(Bytes::from);
    publisher.send(&first).await.unwrap();
    let mut second = Box::pin(publisher.send(&second));
    assert!(is_waiting(&mut second).await);
    let third = tokio::spawn({
        let publisher = Arc::clone(&publisher);
        async move { publisher.send(&"3".into()).await }
    });
    settle().await;
    // It is the turn of the second, which goes away instead of taking it.
    peer.credit(Lane::Publish, 0, 1, 100);
    settle().await;
    drop(second);
    third.await.unwrap().unwrap();
    peer.expect(Kind::Publish).await;
    assert_eq!(peer.expect(Kind::Publish).await.payload, b"3");
}

#[tokio::test(start_paused = true)]
async fn the_last_message_may_overshoot_the_window_of_bytes() {
    let (client, mut peer) = connected_with(|welcome| welcome.publish_window = (10, 100)).await;
    let publisher = client.publisher_bytes("a").unwrap();
    let payload = Bytes::from(vec![7; 500]);
    publisher.send(&payload).await.unwrap();
    assert!(matches!(publisher.try_send(&payload), Err(BusError::Full)));
    // The window is 425 bytes in debt: what does not pay it off lets nothing pass.
    peer.credit(Lane::Publish, 0, 1, 425);
    settle().await;
    assert!(matches!(publisher.try_send(&payload), Err(BusError::Full)));
    peer.credit(Lane::Publish, 0, 0, 1);
    settle().await;
    publisher.try_send(&payload).unwrap();
    peer.expect(Kind::Publish).await;
    peer.expect(Kind::Publish).await;
}

#[tokio::test(start_paused = true)]
async fn a_flush_tells_the_first_failure_of_its_own_publisher_once() {
    let (client, mut peer) = connected().await;
    let one = client.publisher_bytes("one").unwrap();
    let other = client.publisher_bytes("other").unwrap();
    one.send(&"1".into()).await.unwrap();
    other.send(&"2".into()).await.unwrap();
    one.send(&"3".into()).await.unwrap();
    let script = async {
        for _ in 0..3 {
            peer.expect(Kind::Publish).await;
        }
        let failed = |sequence| Header::answering(Kind::Failed, Kind::Publish, 0, sequence);
        peer.send(failed(1), &refusal(&BusError::Overloaded { what: "memory".into() }));
        peer.send(failed(2), &refusal(&BusError::Denied { what: "other".into() }));
        peer.send(failed(3), &refusal(&BusError::Draining { what: "the bus".into() }));
        for _ in 0..3 {
            peer.answer_ping().await;
        }
    };
    let flushes = async {
        assert!(matches!(other.flush().await, Err(BusError::Denied { .. })));
        assert!(matches!(one.flush().await, Err(BusError::Overloaded { .. })));
        one.flush().await.unwrap();
    };
    both(flushes, script).await;
}

#[tokio::test(start_paused = true)]
async fn how_many_have_failed_is_told_of_each_publisher_and_of_those_that_are_gone() {
    let (client, mut peer) = connected().await;
    let one = client.publisher_bytes("one").unwrap();
    let other = client.publisher_bytes("other").unwrap();
    let gone = client.publisher_bytes("gone").unwrap();
    for publisher in [&one, &other, &gone, &one, &gone] {
        publisher.send(&"x".into()).await.unwrap();
    }
    drop(gone);
    let script = async {
        for _ in 0..5 {
            peer.expect(Kind::Publish).await;
        }
        for sequence in [1, 3, 4, 5] {
            let failed = Header::answering(Kind::Failed, Kind::Publish, 0, sequence);
            peer.send(failed, &refusal(&BusError::Overloaded { what: format!("of {sequence}") }));
        }
        peer.answer_ping().await;
    };
    let (flushed, ()) = both(client.flush(), script).await;
    flushed.unwrap();
    let failures = one.take_failures().unwrap();
    assert_eq!(failures.count, 2);
    assert!(matches!(failures.first, BusError::Overloaded { what } if what == "of 1"));
    assert!(other.take_failures().is_none() && one.take_failures().is_none(), "they are told once");
    assert_eq!((client.take_stray_failures(), client.take_stray_failures()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_publisher_in_a_tight_loop_lets_other_tasks_run() {
    let (client, mut peer) = connected_with(|welcome| welcome.publish_window = (1_000_000, 1 << 30)).await;
    let publisher = client.publisher_bytes("a").unwrap();
    let ran = std::rc::Rc::new(std::cell::Cell::new(false));
    let seen = std::rc::Rc::clone(&ran);
    let local = tokio::task::LocalSet::new();
    let other = local.spawn_local(async move { seen.set(true) });
    let reading =
        async { while peer.receive().await.is_some_and(|received| received.header.kind == Kind::Publish) {} };
    let publishing = async {
        let message = Bytes::from_static(b"tick");
        let mut sent = 0;
        while !ran.get() {
            publisher.send(&message).await.unwrap();
            sent += 1;
        }
        assert!(sent < 10_000, "the other task waited for {sent} messages");
        client.connection.shared.begin_close();
        other.await.unwrap();
    };
    local.run_until(both(publishing, reading)).await;
}
