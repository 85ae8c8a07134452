//! What a link between buses needs of a bus: to take all that is published without being a subscriber, to know what is
//! subscribed to, and to tell what was lost on the way.

use whispeer::auth::Principal;
use whispeer::bus::{BusView, Interest};
use whispeer::client::{Event, GapReason, PresenceEvent, PublishOptions, SubscribeOptions};
use whispeer::prelude::*;
use whispeer::topic::TopicPattern;
use whispeer::transport::Peer;
use whispeer_testkit::ledger::totals_balance;
use whispeer_testkit::protocols::Number;
use whispeer_testkit::wait::{eventually, now_or_never, soon};

fn pattern(text: &str) -> TopicPattern {
    TopicPattern::new(text).unwrap()
}

fn connect(view: &BusView, peer: Peer) -> Client {
    Client::builder().no_reconnect().connect_link(view.connect(peer).unwrap()).unwrap()
}

fn relay(view: &BusView) -> Client {
    connect(view, Peer::new(Principal::Bus, "link").relay())
}

async fn news(interest: &mut Interest) -> Vec<(String, bool)> {
    let mut changes: Vec<_> = soon("news", interest.changed()).await.unwrap();
    changes.sort();
    changes.into_iter().map(|(pattern, is_wanted)| (pattern.to_string(), is_wanted)).collect()
}

fn told(changes: &[(&str, bool)]) -> Vec<(String, bool)> {
    changes.iter().map(|(pattern, is_wanted)| ((*pattern).to_owned(), *is_wanted)).collect()
}

/// All matches that the bus has counted are delivered, dropped or waiting.
async fn balanced(bus: &BusHandle) {
    eventually("the totals balance", || totals_balance(&bus.stats()).is_ok()).await;
}

#[tokio::test]
async fn what_is_not_counted_is_no_match_that_a_publisher_is_told_of() {
    let bus = Bus::builder().start().unwrap();
    let view = bus.view();
    let recorder = connect(&view, Peer::new(Principal::Bus, "recorder").uncounted());
    let (mut all, mut related) =
        (recorder.subscribe_bytes("**").await.unwrap(), relay(&view).subscribe_bytes("**").await.unwrap());
    let client = Client::new_memory(&bus.connector()).unwrap();
    let _own = client.subscribe_bytes("a/*").await.unwrap();
    // The first time it is looked up, the second time the route is kept, then it is there.
    for number in 0..4_u8 {
        assert_eq!(client.publish_bytes("a/b", vec![number]).await.unwrap(), 1);
        for subscription in [&mut all, &mut related] {
            assert_eq!(soon("it", subscription.recv()).await.unwrap().1, vec![number]);
        }
    }
    assert_eq!(client.publish_bytes("a/+", "to many").await.unwrap(), 1);
    assert_eq!(client.publish_bytes("elsewhere", "to nobody").await.unwrap(), 0);
    assert_eq!(view.reached(&pattern("a/b")).await.unwrap(), 1);
    balanced(&bus).await;
}

#[tokio::test]
async fn a_relay_has_what_is_for_several_topics_once_for_each() {
    let bus = Bus::builder().start().unwrap();
    let mut relayed = relay(&bus.view()).subscribe_bytes("**").await.unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let mut own = client.subscribe_bytes("**").await.unwrap();
    assert_eq!(client.publish_many(&["a", "b/c"], &Number(7)).await.unwrap(), 1);
    for topic in ["number/a", "number/b/c"] {
        assert_eq!(soon("each", relayed.recv()).await.unwrap().0.as_str(), topic);
    }
    assert_eq!(soon("one", own.recv()).await.unwrap().0.as_str(), "number/a");
    assert!(now_or_never(own.recv()).await.is_none());
    balanced(&bus).await;
}

#[tokio::test]
async fn a_relay_comes_and_goes_without_anybody_being_told() {
    let bus = Bus::builder().start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let mut watched = client.watch_presence("**").await.unwrap();
    drop(relay(&bus.view()).subscribe_bytes("**").await.unwrap());
    let _relayed = relay(&bus.view()).subscribe_bytes("**").await.unwrap();
    assert!(client.presence("**").await.unwrap().is_empty());
    let _own = client.subscribe_bytes("seen").await.unwrap();
    let event = soon("the first news", watched.recv()).await;
    assert!(matches!(&event, Some(PresenceEvent::Join(member)) if member.pattern == "seen"), "{event:?}");
}

#[tokio::test]
async fn interest_is_what_others_than_relays_subscribe_to() {
    let bus = Bus::builder().start().unwrap();
    let view = bus.view();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let before = client.subscribe_bytes("before/*").await.unwrap();
    let mut interest = view.interest().unwrap();
    let relay = relay(&view);
    let _relayed = relay.subscribe_bytes("**").await.unwrap();
    assert_eq!(news(&mut interest).await, told(&[("before/*", true)]));
    assert!(now_or_never(interest.changed()).await.is_none(), "nothing has changed");

    let twice =
        [client.subscribe_bytes("after").await.unwrap(), client.subscribe_bytes("after").await.unwrap()];
    let worker = SubscribeOptions::default().group("workers");
    let group = client.subscribe_bytes_with("jobs/**", worker).await.unwrap();
    let _reserved = client.subscribe_bytes("$presence/**").await.unwrap();
    assert_eq!(news(&mut interest).await, told(&[("after", true), ("jobs/**", true)]));

    let [first, second] = twice;
    first.unsubscribe();
    client.flush().await.unwrap();
    assert!(now_or_never(interest.changed()).await.is_none(), "one of two is left");
    drop((second, group, before));
    client.flush().await.unwrap();
    assert_eq!(news(&mut interest).await, told(&[("after", false), ("before/*", false), ("jobs/**", false)]));

    bus.stop().await;
    assert!(matches!(soon("the end", interest.changed()).await, Err(BusError::Closed { .. })));
}

#[tokio::test]
async fn interest_that_comes_and_goes_unseen_is_no_news() {
    let bus = Bus::builder().start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let _there = client.subscribe_bytes("there").await.unwrap();
    let mut interest = bus.view().interest().unwrap();
    assert_eq!(news(&mut interest).await, told(&[("there", true)]));
    drop(client.subscribe_bytes("passing").await.unwrap());
    client.flush().await.unwrap();
    assert!(now_or_never(interest.changed()).await.is_none());
}

#[tokio::test]
async fn what_was_lost_before_it_came_is_told_as_a_gap_in_its_place() {
    let bus = Bus::builder().start().unwrap();
    let view = bus.view();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let mut one = client.subscribe_bytes("a/*").await.unwrap();
    let mut other = client.subscribe_bytes("b").await.unwrap();
    let worker = SubscribeOptions::default().group("workers");
    let mut workers = client.subscribe_bytes_with("a/b", worker).await.unwrap();
    let relay = relay(&view);
    let mut relayed = relay.subscribe_bytes("**").await.unwrap();

    relay.publish_bytes("a/b", "before").await.unwrap();
    assert_eq!(view.lost(&pattern("a/b"), 3, GapReason::Link).await.unwrap(), 2);
    relay.publish_bytes("a/b", "after").await.unwrap();
    for subscription in [&mut one, &mut workers] {
        assert_eq!(soon("it", subscription.recv()).await.unwrap().1, "before");
        let gap = soon("the gap", subscription.next_event()).await;
        assert!(matches!(gap, Some(Event::Gap { count: 3, reason: GapReason::Link })), "{gap:?}");
        assert_eq!(soon("it", subscription.recv()).await.unwrap().1, "after");
        assert_eq!(subscription.counts().dropped(), 3);
    }
    assert!(now_or_never(other.next_event()).await.is_none());
    for text in ["before", "after"] {
        assert_eq!(soon("it", relayed.recv()).await.unwrap().1, text);
    }
    balanced(&bus).await;
}

#[tokio::test]
async fn a_gap_waits_for_credit_behind_what_it_comes_after() {
    let bus = Bus::builder().start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let narrow = SubscribeOptions::default().window(1, 1_000);
    let mut narrow = client.subscribe_bytes_with("a", narrow).await.unwrap();
    let publisher = client.publisher_bytes("a").unwrap();
    for text in ["first", "second"] {
        publisher.send(&text.into()).await.unwrap();
    }
    client.ping().await.unwrap();
    bus.view().lost(&pattern("a"), 2, GapReason::Link).await.unwrap();
    for text in ["first", "second"] {
        assert_eq!(soon("it", narrow.recv()).await.unwrap().1, text);
    }
    let gap = soon("the gap", narrow.next_event()).await;
    assert!(matches!(gap, Some(Event::Gap { count: 2, .. })), "{gap:?}");
    balanced(&bus).await;
}

#[tokio::test]
async fn a_message_says_which_bus_it_comes_from() {
    let bus = Bus::builder().start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let mut all = client.subscribe_bytes("**").await.unwrap();
    client.publish_bytes_with("a", "from afar", PublishOptions::default().origin(7)).await.unwrap();
    let Some(Event::Message(message)) = soon("it", all.next_event()).await else { panic!("it came") };
    assert_eq!(message.origin, Some(7));
}
