//! What a broker publishes with options.

use std::time::{Duration, SystemTime};

use whispeer::broker::{Broker, BrokerOptions, Message, Persistence};
use whispeer::client::{Headers, PublishOptions, Quality, Start, SubscribeOptions};
use whispeer::limits;
use whispeer::prelude::*;

use crate::told_by_handlers::{next, told};

const TTL: Duration = Duration::from_secs(3_600);

fn for_an_hour(shop: &str) -> PublishOptions {
    PublishOptions::default().header("shop", shop).ttl(TTL)
}

/// What a handler sees of a message's options: the header, and whether it is of use for at most an hour.
fn seen(message: &Message<u32>) -> (u32, Option<String>, bool) {
    let is_for_an_hour = message.expires_in.is_some_and(|time| !time.is_zero() && time <= TTL);
    (message.value, message.headers.find("shop").map(str::to_owned), is_for_an_hour)
}

#[test]
fn options_of_a_publish_reach_its_handlers_in_the_order_of_publishing() {
    let broker = Broker::build_default().build().unwrap();
    let (tell, came) = told();
    broker.subscribe("prices/*", move |quote: Message<u32>| tell.send(seen(&quote)).unwrap());
    assert_eq!(broker.publish_with("prices/pears", 1, for_an_hour("7")).wait().unwrap(), 1);
    broker.publish("prices/pears", 2);
    broker.publish_with("prices/pears", 3, PublishOptions::default());
    broker.publish_with("prices/pears", 4, for_an_hour("8"));
    let weak = broker.weak();
    drop(broker);
    let shop = |number: &str| Some(number.to_owned());
    let all: Vec<_> = came.try_iter().collect();
    assert_eq!(all, [(1, shop("7"), true), (2, None, false), (3, None, false), (4, shop("8"), true)]);
    assert_eq!((weak.stats().published, weak.stats().failed), (4, 0));
    let late = weak.publish_with("prices/pears", 5, for_an_hour("9"));
    assert!(matches!(late.refusal(), Some(BusError::Closed { .. })));
}

#[test]
fn handlers_publish_with_options() {
    let broker = Broker::builder(BrokerOptions::default()).build().unwrap();
    let (tell, came) = told();
    let weak = broker.weak();
    broker.subscribe("questions", move |question: u32| {
        weak.publish_with("answers", question + 1, for_an_hour("7"));
    });
    broker.subscribe("answers", move |answer: Message<u32>| tell.send(seen(&answer)).unwrap());
    broker.publish("questions", 41);
    drop(broker);
    assert_eq!(next(&came), (42, Some("7".to_owned()), true));
}

#[test]
fn headers_that_no_message_can_have_are_told_at_once_and_counted() {
    let broker = Broker::builder(BrokerOptions::default()).build().unwrap();
    let large = || Headers::new().with("shop", "7".repeat(limits::FIELDS_LIMIT));
    let refused = broker.publish_with("a", 1, PublishOptions::default().headers(large()));
    assert!(matches!(refused.refusal(), Some(BusError::HeadersTooLarge { .. })), "{refused:?}");
    assert!(matches!(refused.wait(), Err(BusError::HeadersTooLarge { .. })));
    let stats = broker.stats();
    assert_eq!((stats.failed, stats.published, stats.queued), (1, 0, 0));
}

#[test]
fn a_quality_is_told_to_be_none_where_nobody_keeps_the_topic() {
    let kept = Persistence::memory().patterns(["kept/*"]);
    let broker = Broker::builder(BrokerOptions::default()).with(kept).build().unwrap();
    for quality in [Quality::AtLeastOnce, Quality::ExactlyOnce] {
        let surely = || PublishOptions::default().quality(quality);
        let refused = broker.publish_with("elsewhere", 1, surely()).wait();
        assert!(matches!(refused, Err(BusError::NotDurable { .. })), "{refused:?}");
        assert_eq!(broker.publish_with("kept/a", 1, surely()).wait().unwrap(), 0);
    }
}

#[test]
fn what_is_to_be_delivered_later_outlives_the_broker_that_keeps_it_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let build =
        || Broker::build_default().with(Persistence::sqlite(folder.path().join("db"))).build().unwrap();
    let broker = build();
    let (tell, came) = told();
    broker.subscribe("reminders", move |reminder: Message<u32>| tell.send(reminder.value).unwrap());
    let tomorrow = PublishOptions::default().deliver_in(Duration::from_secs(86_400));
    assert_eq!(broker.publish_with("reminders", 1, tomorrow).wait().unwrap(), 0);
    let soon = SystemTime::now() + Duration::from_millis(300);
    assert_eq!(
        broker.publish_with("reminders", 2, PublishOptions::default().deliver_at(soon)).wait().unwrap(),
        0
    );
    drop(broker);
    let before: Vec<u32> = came.try_iter().collect();
    // Where this thread was held up for long enough, it came to the first of them.
    assert!(before.is_empty() || before == [2], "{before:?}");
    let broker = build();
    let (tell, came) = told();
    let all = SubscribeOptions::default().start(Start::All);
    broker.subscribe_with("reminders", all, move |reminder: Message<u32>| tell.send(reminder.value).unwrap());
    assert_eq!(next(&came), 2);
    drop(broker);
    assert!(came.try_iter().next().is_none(), "tomorrow has not come");
}
