//! Who gets what, in which order, and what the publisher is told.

use bytes::Bytes;
use whispeer::client::{Headers, PublishOptions, SubscribeOptions};
use whispeer::prelude::*;

use super::{number, numbers, take};
use crate::kit::Kit;
use crate::ledger::Live;
use crate::protocols::{NotANumber, Number};
use crate::wait::{eventually, soon};

pub(crate) async fn messages_of_one_publisher_arrive_in_order_over_all_topics(kit: &Kit) -> Live {
    kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let mut all = subscriber.subscribe_bytes("news/**").await.unwrap();
    let mut one = subscriber.subscribe_bytes("news/1").await.unwrap();
    let topics = [publisher.publisher_bytes("news/0").unwrap(), publisher.publisher_bytes("news/1").unwrap()];
    let publish = async {
        for count in 0..3_000 {
            topics[(count % 2) as usize].send(&number(count)).await.unwrap();
            if count % 500 == 0 {
                assert_eq!(publisher.publish_bytes("elsewhere", "").await.unwrap(), 0);
            }
        }
        topics[0].flush().await.unwrap();
    };
    let ((), everything, odd) = tokio::join!(publish, take(&mut all, 3_000), take(&mut one, 1_500));
    assert_eq!(everything, numbers(0..3_000));
    assert_eq!(odd, (0..1_500).map(|count| 2 * count + 1).collect::<Vec<_>>());
    Live::of(all).and(one)
}

pub(crate) async fn two_publishers_each_keep_their_own_order(kit: &Kit) -> Live {
    kit.start();
    let (one, other, subscriber) = (kit.client().await, kit.client().await, kit.client().await);
    let mut subscription = subscriber.subscribe_bytes("news").await.unwrap();
    let publish = |client: Client, from: u64| async move {
        let publisher = client.publisher_bytes("news").unwrap();
        for count in from..from + 1_000 {
            publisher.send(&number(count)).await.unwrap();
        }
        publisher.flush().await.unwrap();
    };
    let ((), (), received) =
        tokio::join!(publish(one, 0), publish(other, 1_000), take(&mut subscription, 2_000));
    let (low, high): (Vec<u64>, Vec<u64>) = received.into_iter().partition(|count| *count < 1_000);
    assert_eq!((low, high), (numbers(0..1_000), numbers(1_000..2_000)));
    Live::of(subscription)
}

pub(crate) async fn publish_tells_the_number_of_matching_subscriptions(kit: &Kit) -> Live {
    kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    assert_eq!(publisher.publish_bytes("a/b", "").await.unwrap(), 0);
    let exact = subscriber.subscribe_bytes("a/b").await.unwrap();
    let wide = subscriber.subscribe_bytes("a/*").await.unwrap();
    let own = publisher.subscribe_bytes("**").await.unwrap();
    let other = subscriber.subscribe_bytes("b/*").await.unwrap();
    assert_eq!(publisher.publish_bytes("a/b", "").await.unwrap(), 3);
    assert_eq!(publisher.publish_bytes("b/b", "").await.unwrap(), 2);
    Live::of(exact).and(wide).and(own).and(other)
}

pub(crate) async fn flush_waits_until_everything_sent_before_is_routed(kit: &Kit) -> Live {
    let bus = kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let subscription = subscriber.subscribe_bytes("news").await.unwrap();
    let news = publisher.publisher_bytes("news").unwrap();
    for count in 1..=5u64 {
        for _ in 0..100 {
            news.send(&number(count)).await.unwrap();
        }
        news.flush().await.unwrap();
        assert_eq!(bus.stats().published, 100 * count);
        assert_eq!(bus.subscriptions()[0].matched, 100 * count);
    }
    Live::of(subscription)
}

pub(crate) async fn flush_orders_publishes_before_requests(kit: &Kit) -> Live {
    kit.start();
    let (client, server) = (kit.client().await, kit.client().await);
    let mut subscription = server.subscribe_bytes("state").await.unwrap();
    let mut serving = server.serve_bytes("state").await.unwrap();
    let state = client.publisher_bytes("state").unwrap();
    let ask = async {
        for count in 0..200 {
            state.send(&number(count)).await.unwrap();
        }
        client.flush().await.unwrap();
        client.request_bytes("state", Bytes::new()).await.unwrap()
    };
    let answer = async {
        let (_, id, _) = serving.recv().await.unwrap();
        assert_eq!(subscription.counts().pending, 200, "the request overtook what was flushed");
        server.respond_bytes(id, "seen".into()).await.unwrap();
    };
    let (answered, ()) = tokio::join!(ask, answer);
    assert_eq!(answered, "seen");
    assert_eq!(take(&mut subscription, 200).await, numbers(0..200));
    Live::of(subscription)
}

pub(crate) async fn close_flushes_what_was_published(kit: &Kit) -> Live {
    kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let mut subscription = subscriber.subscribe_bytes("news").await.unwrap();
    let news = publisher.publisher_bytes("news").unwrap();
    for count in 0..500 {
        news.send(&number(count)).await.unwrap();
    }
    publisher.close().await.unwrap();
    assert!(matches!(publisher.publish_bytes("news", "").await, Err(BusError::Closed { .. })));
    assert_eq!(take(&mut subscription, 500).await, numbers(0..500));
    Live::of(subscription)
}

pub(crate) async fn dropping_every_handle_sends_what_was_published(kit: &Kit) -> Live {
    kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let mut subscription = subscriber.subscribe_bytes("news").await.unwrap();
    let news = publisher.publisher_bytes("news").unwrap();
    for count in 0..300 {
        news.send(&number(count)).await.unwrap();
    }
    drop((publisher, news));
    assert_eq!(take(&mut subscription, 300).await, numbers(0..300));
    Live::of(subscription)
}

pub(crate) async fn a_drained_subscription_gives_what_matched_before_and_ends(kit: &Kit) -> Live {
    let bus = kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let options = SubscribeOptions::default().window(8, 1024 * 1024);
    let mut subscription = subscriber.subscribe_bytes_with("news", options).await.unwrap();
    for count in 0..20 {
        assert_eq!(publisher.publish_bytes("news", number(count)).await.unwrap(), 1);
    }
    assert_eq!(bus.subscriptions()[0].parked, 12);
    subscription.drain().await.unwrap();
    assert_eq!(publisher.publish_bytes("news", "late").await.unwrap(), 0);
    assert_eq!(take(&mut subscription, 20).await, numbers(0..20));
    assert!(soon("the end of the subscription", subscription.recv()).await.is_none());
    assert!(matches!(subscription.close_reason(), Some(BusError::Closed { .. })));
    assert_eq!((subscription.counts().dropped(), subscription.gaps()), (0, 0));
    Live::none()
}

pub(crate) async fn a_drained_client_takes_nothing_new_and_loses_nothing(kit: &Kit) -> Live {
    kit.start();
    let (publisher, client) = (kit.client().await, kit.client().await);
    let mut subscription = client.subscribe_bytes("news").await.unwrap();
    let mut serving = client.serve_bytes("news").await.unwrap();
    let own = publisher.subscribe_bytes("out").await.unwrap();
    publisher.publish_bytes("news", "before").await.unwrap();
    let out = client.publisher_bytes("out").unwrap();
    out.send(&"last words".into()).await.unwrap();
    client.drain().await.unwrap();
    let flushed = kit.bus().subscriptions().iter().any(|row| row.pattern == "out" && row.matched == 1);
    assert!(flushed, "the drain returned before everything was routed");
    assert_eq!(publisher.publish_bytes("news", "after").await.unwrap(), 0);
    let refused = publisher.request_bytes("news", Bytes::new()).await;
    assert!(matches!(refused, Err(BusError::NoServer { .. })), "{refused:?}");
    assert_eq!(subscription.recv().await.unwrap().1, "before");
    assert!(soon("the end of the subscription", subscription.recv()).await.is_none());
    assert!(soon("the end of the serving", serving.recv()).await.is_none());
    Live::of(own)
}

pub(crate) async fn no_echo_leaves_out_what_the_client_itself_publishes(kit: &Kit) -> Live {
    kit.start();
    let (client, other) = (kit.client().await, kit.client().await);
    let quiet = SubscribeOptions::default().no_echo();
    let mut without = client.subscribe_bytes_with("news", quiet).await.unwrap();
    let mut with = client.subscribe_bytes("news").await.unwrap();
    assert_eq!(client.publish_bytes("news", number(1)).await.unwrap(), 1);
    assert_eq!(other.publish_bytes("news", number(2)).await.unwrap(), 2);
    assert_eq!(take(&mut without, 1).await, [2]);
    assert_eq!(take(&mut with, 2).await, [1, 2]);
    Live::of(without).and(with)
}

pub(crate) async fn wildcards_meet_on_both_sides(kit: &Kit) -> Live {
    kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let mut one = subscriber.subscribe_bytes("house/*/light").await.unwrap();
    let mut deep = subscriber.subscribe_bytes("house/**").await.unwrap();
    let mut exact = subscriber.subscribe_bytes("house/kitchen/light").await.unwrap();
    let mut outside = subscriber.subscribe_bytes("garden/*").await.unwrap();
    assert_eq!(publisher.publish_bytes("house/kitchen/light", number(1)).await.unwrap(), 3);
    assert_eq!(publisher.publish_bytes("house/+/light", number(2)).await.unwrap(), 3);
    assert_eq!(publisher.publish_bytes("*/kitchen/**", number(3)).await.unwrap(), 4);
    assert_eq!(publisher.publish_bytes("house", number(4)).await.unwrap(), 1);
    assert_eq!(publisher.publish_bytes("**/**/**/*", number(5)).await.unwrap(), 4);
    assert_eq!(take(&mut one, 4).await, [1, 2, 3, 5]);
    assert_eq!(take(&mut exact, 4).await, [1, 2, 3, 5]);
    assert_eq!(take(&mut deep, 5).await, [1, 2, 3, 4, 5]);
    assert_eq!(take(&mut outside, 2).await, [3, 5]);
    Live::of(one).and(deep).and(exact).and(outside)
}

pub(crate) async fn the_prefix_is_stripped_and_the_topic_can_be_used_again(kit: &Kit) -> Live {
    kit.start();
    let (client, other) = (kit.client().await, kit.client().await);
    let mut typed = other.subscribe::<Number>("**").await.unwrap();
    let mut bytes = other.subscribe_bytes("number/**").await.unwrap();
    assert_eq!(client.publish("a/b", &Number(1)).await.unwrap(), 2);
    assert_eq!(client.publish("", &Number(2)).await.unwrap(), 2);
    assert_eq!(client.publish("a/*", &Number(3)).await.unwrap(), 2);
    for (topic, whole, value) in [("a/b", "number/a/b", 1), ("", "number", 2), ("a/*", "number/a/*", 3)] {
        let (seen, number) = typed.recv().await.unwrap();
        assert_eq!((seen.as_str(), number), (topic, Number(value)));
        assert_eq!(seen.as_topic().is_some(), value != 3);
        assert_eq!(bytes.recv().await.unwrap().0.as_str(), whole);
        assert_eq!(other.publish(seen.as_str(), &Number(value)).await.unwrap(), 2);
    }
    Live::of(typed).and(bytes)
}

pub(crate) async fn publish_many_reaches_each_subscription_once(kit: &Kit) -> Live {
    kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let mut all = subscriber.subscribe::<Number>("**").await.unwrap();
    let mut one = subscriber.subscribe::<Number>("b").await.unwrap();
    let mut none = subscriber.subscribe::<Number>("d").await.unwrap();
    let count = publisher.publish_many(&["a", "b", "c/*"], &Number(7)).await.unwrap();
    assert_eq!(count, 2);
    assert_eq!(publisher.publish_many(&[], &Number(8)).await.unwrap(), 0);
    let topics = vec!["a"; 257];
    let refused = publisher.publish_many(&topics, &Number(9)).await;
    assert!(matches!(refused, Err(BusError::LimitReached { .. })), "{refused:?}");
    assert_eq!(publisher.publish("d", &Number(10)).await.unwrap(), 2);
    let (first, second) = (all.recv().await.unwrap(), all.recv().await.unwrap());
    assert_eq!((first.0.as_str(), first.1, second.1), ("a", Number(7), Number(10)));
    let only = one.recv().await.unwrap();
    assert_eq!((only.0.as_str(), only.1), ("b", Number(7)));
    assert_eq!(none.recv().await.unwrap().1, Number(10));
    assert_eq!(one.counts().pending + all.counts().pending, 0);
    Live::of(all).and(one).and(none)
}

pub(crate) async fn two_subscriptions_of_one_client_to_one_topic_are_independent(kit: &Kit) -> Live {
    let bus = kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let mut one = subscriber.subscribe_bytes("news").await.unwrap();
    let mut other = subscriber.subscribe_bytes("news").await.unwrap();
    assert_eq!(publisher.publish_bytes("news", number(1)).await.unwrap(), 2);
    assert_eq!((take(&mut one, 1).await, take(&mut other, 1).await), (vec![1], vec![1]));
    one.unsubscribe();
    eventually("one of two subscriptions is left", || bus.stats().subscriptions == 1).await;
    assert_eq!(publisher.publish_bytes("news", number(2)).await.unwrap(), 1);
    assert_eq!(take(&mut other, 1).await, [2]);
    Live::of(other)
}

pub(crate) async fn what_a_subscription_leaves_untaken_counts_as_dropped(kit: &Kit) -> Live {
    let bus = kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let window = SubscribeOptions::default().window(8, 1024 * 1024);
    let mut subscription = subscriber.subscribe_bytes_with("news", window).await.unwrap();
    for count in 0..10 {
        publisher.publish_bytes("news", number(count)).await.unwrap();
    }
    assert_eq!(take(&mut subscription, 3).await, numbers(0..3));
    drop(subscription);
    eventually("it has ended", || bus.subscriptions().is_empty()).await;
    let stats = bus.stats();
    assert_eq!((stats.matched, stats.delivered - stats.untaken), (10, 3));
    assert_eq!(stats.dropped.into_iter().collect::<Vec<_>>(), [("link".to_owned(), 7)]);
    Live::none()
}

pub(crate) async fn a_drained_subscription_counts_nothing_as_dropped(kit: &Kit) -> Live {
    let bus = kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let mut subscription = subscriber.subscribe_bytes("news").await.unwrap();
    for count in 0..10 {
        publisher.publish_bytes("news", number(count)).await.unwrap();
    }
    subscription.drain().await.unwrap();
    assert_eq!(take(&mut subscription, 3).await, numbers(0..3));
    eventually("it has ended", || bus.subscriptions().is_empty()).await;
    // The rest is with the client, to be taken or not.
    let stats = bus.stats();
    assert_eq!((stats.matched, stats.delivered, stats.untaken), (10, 10, 0));
    assert!(stats.dropped.is_empty(), "{:?}", stats.dropped);
    assert_eq!(take(&mut subscription, 7).await, numbers(3..10));
    Live::none()
}

pub(crate) async fn dropping_a_subscription_ends_it_at_the_bus(kit: &Kit) -> Live {
    let bus = kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let subscription = subscriber.subscribe_bytes("news").await.unwrap();
    publisher.publish_bytes("news", "never taken").await.unwrap();
    drop(subscription);
    subscriber.flush().await.unwrap();
    assert_eq!((bus.stats().subscriptions, bus.subscriptions().len()), (0, 0));
    assert_eq!(publisher.publish_bytes("news", "to nobody").await.unwrap(), 0);
    // Within the process the answer may be there at once; then it is as if the future had ended.
    drop(crate::wait::now_or_never(subscriber.subscribe_bytes("news")).await);
    subscriber.flush().await.unwrap();
    eventually("a subscribe that nobody waited for is undone", || bus.stats().subscriptions == 0).await;
    Live::none()
}

pub(crate) async fn topics_of_the_bus_are_out_of_reach_of_wildcards_and_publishers(kit: &Kit) -> Live {
    kit.start();
    let (client, other) = (kit.client().await, kit.client().await);
    let everything = other.subscribe_bytes("**").await.unwrap();
    for topic in ["$bus/stats", "$mine", "$"] {
        let refused = client.publish_bytes(topic, "").await;
        assert!(matches!(refused, Err(BusError::ReservedTopic { .. })), "{topic}: {refused:?}");
        let refused = client.serve_bytes(topic).await;
        assert!(matches!(refused, Err(BusError::ReservedTopic { .. })), "{topic}: {refused:?}");
    }
    assert_eq!(client.publish_bytes("*/stats", "").await.unwrap(), 1);
    let scattered = client.request_many_bytes("**", Bytes::new(), Default::default()).await.unwrap();
    assert!(scattered.is_empty(), "a wildcard asked the bus itself: {scattered:?}");
    Live::of(everything)
}

pub(crate) async fn a_payload_of_another_type_is_told_and_harms_nothing_else(kit: &Kit) -> Live {
    kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let mut events = subscriber.subscribe::<Number>("a").await.unwrap();
    let mut plain = subscriber.subscribe::<Number>("a").await.unwrap();
    publisher.publish("a", &Number(1)).await.unwrap();
    publisher.publish("a", &NotANumber("two".into())).await.unwrap();
    publisher.publish_bytes("number/a", vec![0xc1; 5]).await.unwrap();
    publisher.publish("a", &Number(4)).await.unwrap();
    assert!(matches!(events.next_event().await, Some(Event::Message(message)) if message.value == Number(1)));
    for _ in 0..2 {
        let event = events.next_event().await;
        assert!(
            matches!(&event, Some(Event::Undecodable { topic, error: BusError::Decode { .. } }) if topic == "a"),
            "{event:?}"
        );
    }
    assert!(matches!(events.next_event().await, Some(Event::Message(message)) if message.value == Number(4)));
    assert_eq!(plain.recv().await.unwrap().1, Number(1));
    assert_eq!(plain.recv().await.unwrap().1, Number(4));
    assert_eq!((plain.undecodable(), plain.gaps(), plain.counts().dropped()), (2, 2, 0));
    Live::of(events).and(plain)
}

pub(crate) async fn an_invalid_topic_fails_its_call_and_nothing_else(kit: &Kit) -> Live {
    kit.start();
    let (client, other) = (kit.client().await, kit.client().await);
    let mut subscription = other.subscribe_bytes("news").await.unwrap();
    for topic in ["a//b", "/", "a b", "a*", "a/", "**/**/**/**/**/**/**/**/**"] {
        let invalid = |result: BusResult<()>| {
            assert!(matches!(result, Err(BusError::InvalidTopic(_))), "{topic}: {result:?}");
        };
        invalid(client.publish_bytes(topic, "").await.map(drop));
        invalid(client.subscribe_bytes(topic).await.map(drop));
        invalid(client.serve_bytes(topic).await.map(drop));
        invalid(client.request_bytes(topic, Bytes::new()).await.map(drop));
        invalid(client.publisher_bytes(topic).map(drop));
    }
    for pattern in ["a/*", "**"] {
        assert!(matches!(client.serve_bytes(pattern).await, Err(BusError::InvalidTopic(_))));
        let refused = client.request_bytes(pattern, Bytes::new()).await;
        assert!(matches!(refused, Err(BusError::InvalidTopic(_))));
    }
    assert_eq!(client.publish_bytes("news", number(1)).await.unwrap(), 1);
    assert_eq!(take(&mut subscription, 1).await, [1]);
    Live::of(subscription)
}

pub(crate) async fn headers_travel_with_a_message(kit: &Kit) -> Live {
    kit.start();
    let (publisher, subscriber) = (kit.client().await, kit.client().await);
    let mut subscription = subscriber.subscribe_bytes("news").await.unwrap();
    let options = PublishOptions::default().header("shop", "7").header("shop", "8").header("empty", "");
    publisher.publish_bytes_with("news", "priced", options).await.unwrap();
    let Some(Event::Message(message)) = subscription.next_event().await else { panic!("a message") };
    let headers: Vec<_> = message.headers.iter().collect();
    assert_eq!(headers, [("shop", "7"), ("shop", "8"), ("empty", "")]);
    assert_eq!((message.value.as_ref(), message.origin), (&b"priced"[..], None));
    let mut options = PublishOptions::default();
    for _ in 0..70 {
        options = options.header("large", "x".repeat(1_000));
    }
    let refused = publisher.publish_bytes_with("news", "", options).await;
    assert!(matches!(refused, Err(BusError::HeadersTooLarge { .. })), "{refused:?}");
    // Those of a publisher go with each of its messages, without waiting for one.
    let shop = PublishOptions::default().header("shop", "7");
    let news = publisher.publisher_bytes_with("news", shop).unwrap();
    for number in 0..100u32 {
        let trace = Headers::new().with("trace", number.to_string());
        news.send_with(&"traced".into(), &trace).await.unwrap();
        news.send(&"plain".into()).await.unwrap();
    }
    for number in 0..100u32 {
        let number = number.to_string();
        for (payload, headers) in
            [("traced", &[("shop", "7"), ("trace", &*number)][..]), ("plain", &[("shop", "7")])]
        {
            let event = soon("a message", subscription.next_event()).await;
            let Some(Event::Message(message)) = event else { panic!("{event:?} and no message") };
            assert_eq!(message.value, payload);
            assert_eq!(message.headers.iter().collect::<Vec<_>>(), headers);
        }
    }
    Live::of(subscription)
}

pub(crate) async fn three_hundred_large_messages_to_oneself_end_in_messages_or_a_gap(kit: &Kit) -> Live {
    kit.start_with(|settings| settings.block_limit = kit.short_time());
    let client = kit.client().await;
    let mut subscription = client.subscribe_bytes("echo").await.unwrap();
    let payload = Bytes::from(vec![7; 200 * 1024]);
    let publish = async {
        for _ in 0..300 {
            client.publish_bytes("echo", payload.clone()).await.unwrap();
        }
    };
    soon("the end of 300 publishes", publish).await;
    let counts = subscription.counts();
    let row = &kit.bus().subscriptions()[0];
    assert_eq!(row.matched, 300);
    assert!(counts.received > 0 && row.delivered < 300, "a window of 1 MiB holds a few: {row:?}");
    assert_eq!(subscription.recv().await.unwrap().1.len(), payload.len());
    Live::of(subscription)
}
