//! Subscriptions: order, gaps, credit and their end.

use tokio::sync::mpsc;

use super::*;
use crate::client::{Event, Policy, SubscribeOptions, Subscription};
use crate::proto::HEADER_LEN;
use crate::proto::fields::Options;

async fn subscribed(
    client: &Client,
    peer: &mut Peer,
    options: SubscribeOptions,
) -> (Subscription<Note>, u32) {
    let subscribe = client.subscribe_with::<Note>("a", options);
    let (subscription, asked) = both(subscribe, peer.accept(Kind::Subscribe)).await;
    (subscription.unwrap(), asked.header.id)
}

#[tokio::test(start_paused = true)]
async fn a_subscription_tells_the_bus_its_options() {
    let (client, mut peer) = connected().await;
    let options =
        SubscribeOptions::default().policy(Policy::DropOldest).window(8, 4096).group("team").no_echo();
    let (subscription, asked) =
        both(client.subscribe_with::<Note>("+/b", options), peer.accept(Kind::Subscribe)).await;
    let subscription = subscription.unwrap();
    assert_eq!((asked.topic.as_str(), asked.header.flags), ("note/*/b", Flags::NO_ECHO));
    assert_eq!(subscription.pattern(), "note/*/b");
    let read = Options::read(&asked.fields).unwrap();
    assert_eq!((read.window, read.policy, read.group), (Some((8, 4096)), Policy::DropOldest, Some("team")));
}

#[tokio::test(start_paused = true)]
async fn a_refused_subscription_leaves_nothing_behind() {
    let (client, mut peer) = connected().await;
    let script = async {
        let id = peer.expect(Kind::Subscribe).await.header.id;
        let denied = refusal(&BusError::Denied { what: "read".into() });
        peer.send(Header::answering(Kind::Failed, Kind::Subscribe, id, 0), &denied);
        peer.expect_silence().await;
    };
    let (refused, ()) = both(client.subscribe::<Note>("a"), script).await;
    assert!(matches!(refused, Err(BusError::Denied { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_window_of_nothing_and_one_subscription_too_many_are_refused_here() {
    let (client, mut peer) = connected_with(|welcome| welcome.max_subscriptions = 1).await;
    let nothing = client.subscribe_with::<Note>("a", SubscribeOptions::default().window(0, 1)).await;
    assert!(matches!(nothing, Err(BusError::InvalidSettings(_))));
    let _kept = subscribed(&client, &mut peer, SubscribeOptions::default()).await;
    let one_more = client.subscribe::<Note>("b").await;
    assert!(matches!(one_more, Err(BusError::LimitReached { .. })));
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_subscribe_future_undoes_the_subscription() {
    let (client, mut peer) = connected().await;
    let mut subscribe = Box::pin(client.subscribe::<Note>("a"));
    assert!(is_waiting(&mut subscribe).await);
    drop(subscribe);
    let asked = peer.accept(Kind::Subscribe).await;
    let undone = peer.expect(Kind::Unsubscribe).await;
    assert_eq!((undone.header.id, undone.header.flags), (asked.header.id, Flags::NONE));
}

#[tokio::test(start_paused = true)]
async fn messages_arrive_in_order_without_their_prefix() {
    let (client, mut peer) = connected().await;
    let (mut subscription, id) = subscribed(&client, &mut peer, SubscribeOptions::default()).await;
    let topics = ["note/a", "note/a", "note", "**"];
    for (sequence, topic) in (1..).zip(topics) {
        peer.deliver(id, sequence, topic, &encoded(&note(topic)));
    }
    for (seen, topic) in ["a", "a", "", "**"].into_iter().zip(topics) {
        let (topic_seen, message) = subscription.recv().await.unwrap();
        assert_eq!((topic_seen.as_str(), message.text.as_str()), (seen, topic));
    }
    assert_eq!(subscription.gaps(), 0);
}

#[tokio::test(start_paused = true)]
async fn headers_and_origin_come_with_the_event() {
    let (client, mut peer) = connected().await;
    let (mut subscription, id) = subscribed(&client, &mut peer, SubscribeOptions::default()).await;
    let mut fields = crate::proto::fields::FieldsBuilder::new();
    fields.header("shop", "7").unwrap();
    fields.origin(99).unwrap();
    let header = Header::new(Kind::Deliver, id, 1);
    peer.send_frame(&header, fields.as_bytes(), "note/a", &encoded(&note("x")));
    match subscription.next_event().await {
        Some(Event::Message(message)) => {
            assert_eq!((message.headers.find("shop"), message.origin), (Some("7"), Some(99)));
        }
        other => panic!("expected a message, got {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn gaps_stand_where_they_happened_and_are_counted_by_reason() {
    let (client, mut peer) = connected().await;
    let (mut subscription, id) = subscribed(&client, &mut peer, SubscribeOptions::default()).await;
    peer.deliver(id, 1, "note/a", &encoded(&note("1")));
    peer.gap(id, 4, 3, GapReason::Lagging);
    // The bus forgot to say that matches 5 and 6 are missing.
    peer.deliver(id, 7, "note/a", &encoded(&note("7")));
    peer.send(Header::answering(Kind::Ended, Kind::Subscribe, id, 9), &[]);
    let mut seen = Vec::new();
    while let Some(event) = subscription.next_event().await {
        seen.push(match event {
            Event::Message(message) => message.value.text,
            Event::Gap { count, reason } => format!("{count} {}", reason.name()),
            Event::Undecodable { .. } => "undecodable".into(),
        });
    }
    assert_eq!(seen, ["1", "3 lagging", "2 link", "7", "2 link"]);
    let counts = subscription.counts();
    assert_eq!((counts.received, counts.taken, counts.pending), (2, 2, 0));
    assert_eq!(counts.dropped_for(GapReason::Lagging), 3);
    assert_eq!(counts.taken + counts.dropped() + counts.pending, 9);
}

#[tokio::test(start_paused = true)]
async fn recv_adds_up_what_it_skips_and_a_bad_payload_harms_nothing() {
    let (client, mut peer) = connected().await;
    let (mut subscription, id) = subscribed(&client, &mut peer, SubscribeOptions::default()).await;
    peer.gap(id, 2, 2, GapReason::DroppedOldest);
    peer.deliver(id, 3, "note/a", b"\xc1 is never valid");
    peer.deliver(id, 4, "note/a", &encoded(&note("fine")));
    assert_eq!(subscription.recv().await.unwrap().1, note("fine"));
    assert_eq!((subscription.gaps(), subscription.undecodable()), (3, 1));
    assert!(client.close_reason().is_none());
}

#[tokio::test(start_paused = true)]
async fn gaps_that_alternate_without_a_message_take_no_more_room() {
    let (client, mut peer) = connected().await;
    let (mut subscription, id) = subscribed(&client, &mut peer, SubscribeOptions::default()).await;
    for sequence in 1..=400 {
        let reason = if sequence % 2 == 0 { GapReason::Lagging } else { GapReason::Link };
        peer.gap(id, sequence, 1, reason);
    }
    settle().await;
    for _ in 0..2 {
        match subscription.next_event().await {
            Some(Event::Gap { count, .. }) => assert_eq!(count, 200),
            other => panic!("expected a gap, got {other:?}"),
        }
    }
    assert!(is_waiting(&mut Box::pin(subscription.next_event())).await);
}

#[tokio::test(start_paused = true)]
async fn a_match_that_comes_twice_ends_the_connection() {
    let (client, mut peer) = connected().await;
    let (mut subscription, id) = subscribed(&client, &mut peer, SubscribeOptions::default()).await;
    for _ in 0..2 {
        peer.deliver(id, 1, "note/a", &encoded(&note("once")));
    }
    assert!(matches!(client.closed().await, BusError::Protocol { .. }));
    assert!(matches!(peer.expect_goodbye().await, BusError::Protocol { .. }));
    assert_eq!(subscription.recv().await.unwrap().1, note("once"));
    assert!(subscription.recv().await.is_none());
    assert!(matches!(subscription.close_reason(), Some(BusError::Protocol { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_gap_that_counts_backwards_ends_the_connection() {
    for (sequence, count) in [(3, 2), (5, 3), (6, 0)] {
        let (client, mut peer) = connected().await;
        let (_subscription, id) = subscribed(&client, &mut peer, SubscribeOptions::default()).await;
        peer.gap(id, 3, 3, GapReason::Lagging);
        peer.gap(id, sequence, count, GapReason::Lagging);
        assert!(matches!(client.closed().await, BusError::Protocol { .. }), "{sequence} {count}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_for_no_subscription_ends_the_connection() {
    let (client, peer) = connected().await;
    peer.deliver(12, 1, "note/a", b"");
    assert!(matches!(client.closed().await, BusError::Protocol { .. }));
}

#[tokio::test(start_paused = true)]
async fn credit_goes_back_once_half_of_the_window_is_taken() {
    let (client, mut peer) = connected().await;
    let (mut subscription, id) =
        subscribed(&client, &mut peer, SubscribeOptions::default().window(4, 1_000_000)).await;
    let payload = encoded(&note("x"));
    let size = (HEADER_LEN + "note/a".len() + payload.len()) as u64;
    for sequence in 1..=4 {
        peer.deliver(id, sequence, "note/a", &payload);
    }
    subscription.recv().await.unwrap();
    peer.expect_silence().await;
    subscription.recv().await.unwrap();
    let credit = peer.expect(Kind::Credit).await;
    assert_eq!(
        credit.header,
        Header::new(Kind::Credit, 2, u64::from(id)).flagged(Flags(Lane::Subscription as u8))
    );
    assert_eq!(credit.payload, (2 * size).to_le_bytes());
    subscription.recv().await.unwrap();
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn bytes_alone_bring_credit_back_too_and_one_message_may_overshoot_them() {
    let (client, mut peer) = connected().await;
    let (mut subscription, id) =
        subscribed(&client, &mut peer, SubscribeOptions::default().window(100, 64)).await;
    peer.deliver(id, 1, "note/a", &encoded(&note(&"long ".repeat(100))));
    subscription.recv().await.unwrap();
    assert_eq!(peer.expect(Kind::Credit).await.header.id, 1);
    peer.deliver(id, 2, "note/a", &encoded(&note("short")));
    assert_eq!(subscription.recv().await.unwrap().1, note("short"));
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_sends_past_the_window_is_cut_off() {
    for window in [(2, 1_000_000), (100, 50)] {
        let (client, mut peer) = connected().await;
        let (_subscription, id) =
            subscribed(&client, &mut peer, SubscribeOptions::default().window(window.0, window.1)).await;
        for sequence in 1..=3 {
            peer.deliver(id, sequence, "note/a", &encoded(&note("x")));
        }
        assert!(matches!(client.closed().await, BusError::CreditExceeded { .. }), "{window:?}");
        assert!(matches!(peer.expect_goodbye().await, BusError::CreditExceeded { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn two_subscriptions_to_one_topic_are_independent() {
    let (client, mut peer) = connected().await;
    let (mut one, one_id) = subscribed(&client, &mut peer, SubscribeOptions::default()).await;
    let (mut other, other_id) = subscribed(&client, &mut peer, SubscribeOptions::default()).await;
    assert_ne!(one_id, other_id);
    peer.deliver(one_id, 1, "note/a", &encoded(&note("to one")));
    peer.deliver(other_id, 1, "note/a", &encoded(&note("to the other")));
    assert_eq!(one.recv().await.unwrap().1, note("to one"));
    drop(one);
    let unsubscribe = peer.expect(Kind::Unsubscribe).await.header;
    assert_eq!((unsubscribe.id, unsubscribe.sequence), (one_id, 1), "one message was taken");
    assert_eq!(other.recv().await.unwrap().1, note("to the other"));
}

#[tokio::test(start_paused = true)]
async fn what_comes_for_a_dropped_subscription_until_its_end_harms_nothing() {
    let (client, mut peer) = connected().await;
    let (subscription, id) = subscribed(&client, &mut peer, SubscribeOptions::default()).await;
    drop(subscription);
    peer.expect(Kind::Unsubscribe).await;
    peer.deliver(id, 1, "note/a", &encoded(&note("late")));
    peer.gap(id, 2, 1, GapReason::Link);
    peer.send(Header::answering(Kind::Ended, Kind::Subscribe, id, 2), &[]);
    settle().await;
    assert!(client.close_reason().is_none());
    assert!(client.connection.shared.lock().subscriptions.entries.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_drained_subscription_yields_what_the_bus_held_and_then_nothing() {
    let (client, mut peer) = connected().await;
    let (mut subscription, id) = subscribed(&client, &mut peer, SubscribeOptions::default()).await;
    let script = async {
        assert_eq!(peer.expect(Kind::Unsubscribe).await.header.flags, Flags(1));
        peer.answer_ping().await;
        peer.deliver(id, 1, "note/a", &encoded(&note("held")));
        peer.send(Header::answering(Kind::Ended, Kind::Subscribe, id, 1), &[]);
    };
    let (drained, ()) = both(subscription.drain(), script).await;
    drained.unwrap();
    assert_eq!(subscription.recv().await.unwrap().1, note("held"));
    assert!(subscription.recv().await.is_none());
    assert!(matches!(subscription.close_reason(), Some(BusError::Closed { .. })));
    drop(subscription);
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn the_bus_can_end_a_subscription_with_a_reason() {
    let (client, mut peer) = connected().await;
    let (mut subscription, id) = subscribed(&client, &mut peer, SubscribeOptions::default()).await;
    let slow = refusal(&BusError::SlowConsumer { topic: "note/a".into() });
    peer.send(Header::answering(Kind::Ended, Kind::Subscribe, id, 0), &slow);
    assert!(subscription.recv().await.is_none());
    assert!(matches!(subscription.close_reason(), Some(BusError::SlowConsumer { .. })));
    assert!(client.close_reason().is_none());
}

#[tokio::test(start_paused = true)]
async fn raw_subscriptions_see_the_whole_topic_and_the_payload_as_it_is() {
    let (client, mut peer) = connected().await;
    let (subscription, asked) = both(client.subscribe_bytes("note/*"), peer.accept(Kind::Subscribe)).await;
    let mut subscription = subscription.unwrap();
    for (sequence, size) in [(1, 3), (2, 50_000)] {
        peer.deliver(asked.header.id, sequence, "note/a", &vec![9; size]);
        let (topic, payload) = subscription.recv().await.unwrap();
        assert_eq!((topic.as_str(), payload.len()), ("note/a", size));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_channel_holds_an_attached_subscription_up_within_its_window() {
    let (client, mut peer) = connected().await;
    let (sender, mut receiver) = mpsc::channel(2);
    let attach =
        client.subscribe_into("a", &sender, |topic, message: Note| format!("{topic}: {}", message.text));
    let (attached, asked) = both(attach, peer.accept(Kind::Subscribe)).await;
    let attached = attached.unwrap();
    peer.gap(asked.header.id, 5, 5, GapReason::Lagging);
    for sequence in 6..=10 {
        peer.deliver(asked.header.id, sequence, "note/a", &encoded(&note(&sequence.to_string())));
    }
    settle().await;
    assert_eq!((receiver.len(), attached.gaps()), (2, 5));
    for sequence in 6..=10 {
        assert_eq!(receiver.recv().await.unwrap(), format!("a: {sequence}"));
    }
    drop(receiver);
    peer.expect(Kind::Unsubscribe).await;
    assert!(matches!(attached.close_reason(), Some(BusError::Closed { .. })));
}

#[tokio::test(start_paused = true)]
async fn dropping_an_attached_subscription_ends_it() {
    let (client, mut peer) = connected().await;
    let (sender, mut receiver) = mpsc::channel(2);
    let attach = client.subscribe_into("a", &sender, |_, message: Note| message);
    let (attached, _) = both(attach, peer.accept(Kind::Subscribe)).await;
    drop(sender);
    drop(attached.unwrap());
    peer.expect(Kind::Unsubscribe).await;
    assert!(receiver.recv().await.is_none());
}
