//! The embedded broker: its forms, what holds of them, and how it ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use tokio::runtime::{Builder, Runtime};
use whispeer::broker::{
    Broker, BrokerOptions, BrokerStats, BrokerSubscription, Compression, Encryption, WeakBroker, WebSocket,
};
use whispeer::bus::Settings;
use whispeer::client::{Policy, PublishOptions, SubscribeOptions};
use whispeer::engine::Engines;
use whispeer::engine::encryption::{self, Key, Keyring};
use whispeer::prelude::*;

use crate::told_by_handlers::{PATIENCE, next, told, wait};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct MyData {
    name: String,
    id: i32,
}

fn data(id: i32) -> MyData {
    MyData { name: "myname".into(), id }
}

fn plain() -> Broker {
    Broker::builder(BrokerOptions::default()).build().unwrap()
}

/// A keeper of a broker's counts beyond its end.
fn after(broker: Broker) -> BrokerStats {
    let weak = broker.weak();
    drop(broker);
    weak.stats()
}

fn ids(receiver: &Receiver<MyData>) -> Vec<i32> {
    receiver.try_iter().map(|data| data.id).collect()
}

// The forms.

/// As they are written where they are described, with addresses that a test must not use.
#[allow(dead_code, clippy::print_stdout, reason = "that it compiles is what matters")]
fn the_forms(my_data: MyData) -> BusResult<()> {
    let broker = Broker::builder(BrokerOptions::default())
        .with(Encryption::new())
        .with(Compression::new())
        .with(WebSocket::new("http://localhost:8080"))
        .build()?;
    drop(broker);
    let broker = Broker::build_default_with_ws("http://localhost:8080").build()?;
    drop(broker);
    let broker = Broker::build_default().build()?;
    broker.subscribe("some-event", |my_data: MyData| println!("{my_data:?}"));
    broker.subscribe::<MyData>("some-event", |my_data| println!("{my_data:?}"));
    broker.subscribe_async("some-event", |my_data: MyData| async move { println!("{my_data:?}") });
    broker.subscribe_async::<MyData>("some-event", |my_data| async move { println!("{}", my_data.id) });
    broker.subscribe("some-event", |_: MyData| -> Result<(), String> { Err("no".into()) });
    broker.subscribe("some-event", |_: MyData| panic!("it never returns"));
    broker.publish("some-event", my_data.clone());
    broker.publish("some-event", &my_data);
    broker.publish_with("some-event", &my_data, PublishOptions::default().header("shop", "7"));
    broker.publish::<MyData>("some-event", my_data);
    Ok(())
}

/// All kinds of subscribing and publishing, in whatever surroundings.
fn all_kinds_work(broker: Broker) {
    let (tell, seen) = told();
    let another = tell.clone();
    broker.subscribe("some-event", move |my_data: MyData| another.send(my_data).unwrap());
    let another = tell.clone();
    broker.subscribe::<MyData>("some-event", move |my_data| another.send(my_data.clone()).unwrap());
    let another = tell.clone();
    broker.subscribe_async("some-event", move |my_data: MyData| {
        let another = another.clone();
        async move {
            tokio::task::yield_now().await;
            another.send(my_data).unwrap();
        }
    });
    broker.subscribe_async::<MyData>("*", move |my_data| {
        let tell = tell.clone();
        async move { tell.send(my_data).unwrap() }
    });
    assert_eq!(broker.publish("some-event", data(1)).wait().unwrap(), 4);
    broker.publish::<MyData>("some-event", data(2));
    let stats = after(broker);
    let mut ids = ids(&seen);
    ids.sort_unstable();
    assert_eq!(ids, [1, 1, 1, 1, 2, 2, 2, 2]);
    assert_eq!((stats.published, stats.matched, stats.handled), (2, 8, 8));
    assert_eq!((stats.failed, stats.missed, stats.undecodable, stats.subscriptions), (0, 0, 0, 0));
}

#[test]
fn all_kinds_work_without_a_runtime() {
    all_kinds_work(Broker::build_default().build().unwrap());
    all_kinds_work(plain());
    all_kinds_work(Broker::build_default_with_ws("http://localhost:0").build().unwrap());
}

#[test]
fn all_kinds_work_on_the_only_thread_of_a_runtime_that_is_blocked() {
    let runtime = Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { all_kinds_work(Broker::build_default().build().unwrap()) });
}

#[test]
fn all_kinds_work_within_a_runtime_of_several_threads() {
    Runtime::new().unwrap().block_on(async {
        let broker = Broker::build_default().build_async().await.unwrap();
        tokio::spawn(async { all_kinds_work(broker) }).await.unwrap();
    });
}

#[tokio::test]
async fn what_is_returned_can_be_awaited() {
    let broker = plain();
    let subscription = broker.subscribe("numbers", |_: u32| ());
    subscription.ready().await.unwrap();
    assert_eq!(broker.publish("numbers", 1).await.unwrap(), 1);
    assert_eq!(broker.publish("others", 1).await.unwrap(), 0);
    broker.close().await.unwrap();
    assert!(matches!(subscription.close_reason(), Some(BusError::Closed { .. })));
}

// What goes between brokers, and what others see of it.

fn address(broker: &Broker) -> String {
    broker.local_addrs()[0].to_string().replacen("ws://", "http://", 1)
}

#[test]
fn two_brokers_meet_over_websocket() {
    let host = Broker::build_default_with_ws("http://localhost:0").build().unwrap();
    let guest = Broker::build_default().with(WebSocket::join(address(&host))).build().unwrap();
    assert!(guest.local_addrs().is_empty() && guest.connector().is_none());
    let (tell, seen) = told();
    let at_host = tell.clone();
    host.subscribe("to/host", move |my_data: MyData| at_host.send(my_data).unwrap()).wait_ready().unwrap();
    guest.subscribe("to/guest", move |my_data: MyData| tell.send(my_data).unwrap()).wait_ready().unwrap();
    assert_eq!(guest.publish("to/host", data(1)).wait().unwrap(), 1);
    assert_eq!(next(&seen), data(1));
    assert_eq!(host.publish("to/guest", data(2)).wait().unwrap(), 1);
    assert_eq!(next(&seen), data(2));
    guest.publish("to/host", data(3));
    drop(guest);
    drop(host);
    assert_eq!(ids(&seen), [3]);
}

#[test]
fn an_address_that_is_taken_or_where_nobody_is_is_told_by_build() {
    let host = Broker::build_default_with_ws("http://localhost:0").build().unwrap();
    let taken = Broker::build_default_with_ws(address(&host)).build().unwrap_err();
    assert!(matches!(taken, BusError::AddressInUse { .. } | BusError::Listen { .. }), "{taken}");
    let free = address(&host);
    drop(host);
    let nobody = Broker::build_default().with(WebSocket::join(free)).build().unwrap_err();
    assert!(matches!(nobody, BusError::Connect { .. }), "{nobody}");
}

#[tokio::test]
async fn a_plain_client_sees_ciphertext_and_one_with_the_key_the_message() {
    let keyring = Keyring::with(Key::generate().unwrap()).unwrap();
    let broker = Broker::builder(BrokerOptions::default())
        .with(Encryption::with_keys(&keyring))
        .with(Compression::new())
        .build_async()
        .await
        .unwrap();
    let connector = broker.connector().unwrap();
    let plain = Client::new_memory(&connector).unwrap();
    let engines =
        Engines::new().with(Compression::new()).with(encryption::Encryption::new(&keyring).unwrap());
    let member = Client::builder().engines(engines).connect_memory(&connector).unwrap();
    let mut overheard = plain.subscribe_bytes("secrets").await.unwrap();
    let mut read = member.subscribe_bytes("secrets").await.unwrap();
    let secret = MyData { name: "attack at dawn ".repeat(20), id: 7 };
    assert_eq!(broker.publish("secrets", &secret).await.unwrap(), 2);
    let (_, sealed) = overheard.recv().await.unwrap();
    assert!(sealed.len() > 20 && !sealed.windows(6).any(|six| six == b"attack"));
    let (_, opened) = read.recv().await.unwrap();
    assert!(opened.windows(6).any(|six| six == b"attack"));

    // What comes in plain is refused, and counted.
    let handler = broker.subscribe("secrets", |_: MyData| panic!("it has to be refused"));
    handler.ready().await.unwrap();
    plain.publish_bytes("secrets", opened).await.unwrap();
    drop((overheard, read));
    let weak = broker.weak();
    broker.close().await.unwrap();
    assert_eq!((weak.stats().undecodable, weak.stats().handled), (1, 0));
}

#[test]
fn brokers_are_given_engines_of_ones_own_settings() {
    let keyring = Keyring::with(Key::generate().unwrap()).unwrap();
    let engine = encryption::Encryption::new(&keyring).unwrap().fresh_within(Duration::from_secs(60));
    let broker =
        Broker::builder(BrokerOptions::default()).with(engine).with(Compression::lz4()).build().unwrap();
    all_kinds_work(broker);
}

#[test]
fn brokers_and_their_handles_go_from_thread_to_thread() {
    fn goes<T: Send + Sync + 'static>() {}
    goes::<Broker>();
    goes::<WeakBroker>();
    goes::<BrokerSubscription>();
    goes::<whispeer::broker::Publishing>();
}

// Order.

#[test]
fn each_handler_has_the_messages_in_the_order_of_publishing() {
    const COUNT: i32 = 10_000;
    let broker = plain();
    let (tell, blocking) = told();
    let (tell_async, awaited) = told();
    broker.subscribe("numbers", move |my_data: MyData| tell.send(my_data).unwrap());
    broker.subscribe_async("numbers", move |my_data: MyData| {
        let tell = tell_async.clone();
        async move {
            tokio::task::yield_now().await;
            tell.send(my_data).unwrap();
        }
    });
    for id in 0..COUNT {
        broker.publish("numbers", data(id));
    }
    let stats = after(broker);
    assert_eq!((stats.published, stats.missed), (COUNT as u64, 0));
    assert_eq!(ids(&blocking), Vec::from_iter(0..COUNT));
    assert_eq!(ids(&awaited), Vec::from_iter(0..COUNT));
}

#[test]
fn a_subscription_sees_what_is_published_later_and_not_what_was_before() {
    for _ in 0..20 {
        let broker = plain();
        let (tell, seen) = told();
        for id in 0..10 {
            broker.publish("numbers", data(id));
        }
        broker.subscribe("numbers", move |my_data: MyData| tell.send(my_data).unwrap());
        broker.publish("numbers", data(10));
        drop(broker);
        assert_eq!(ids(&seen), [10]);
    }
}

// Handlers.

#[test]
fn a_panic_ends_the_call_in_which_it_happens_and_nothing_else() {
    /// A type that panics where it is read.
    #[derive(Debug)]
    struct Bomb;
    impl<'de> Deserialize<'de> for Bomb {
        fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            panic!("read")
        }
    }

    let broker = plain();
    let (tell, seen) = told();
    broker.subscribe("numbers", move |my_data: MyData| {
        assert_ne!(my_data.id, 1, "one is too many");
        tell.send(my_data).unwrap();
    });
    broker.subscribe_async("numbers", |my_data: MyData| {
        assert_ne!(my_data.id, 1, "before its future");
        async move {
            tokio::task::yield_now().await;
            assert_ne!(my_data.id, 2, "within its future");
        }
    });
    broker.subscribe("numbers", |_: Bomb| ());
    for id in 0..4 {
        broker.publish("numbers", data(id));
    }
    let stats = after(broker);
    assert_eq!(ids(&seen), [0, 2, 3]);
    assert_eq!((stats.panics, stats.handled, stats.missed), (1 + 2 + 4, 12, 0));
}

#[test]
fn errors_of_handlers_and_messages_of_other_types_are_counted() {
    let broker = plain();
    broker.subscribe("numbers", |number: i32| if number < 0 { Err("negative") } else { Ok(()) });
    for number in [1, -1, -2] {
        broker.publish("numbers", number);
    }
    broker.publish("numbers", "four");
    broker.publish("numbers", data(5));
    let stats = after(broker);
    assert_eq!((stats.handled, stats.failures, stats.undecodable), (3, 2, 2));
}

#[test]
fn no_more_handlers_run_at_a_time_than_are_allowed_but_as_many() {
    for awaited in [false, true] {
        let broker = Broker::builder(BrokerOptions::default().handlers(2)).build().unwrap();
        let running = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        // Each waits for another one: that there are two at a time is what lets them end.
        let (pair, async_pair) = (Arc::new(Barrier::new(2)), Arc::new(tokio::sync::Barrier::new(2)));
        let begin = |running: &(AtomicUsize, AtomicUsize)| {
            let now = running.0.fetch_add(1, Ordering::SeqCst) + 1;
            running.1.fetch_max(now, Ordering::SeqCst);
        };
        for _ in 0..6 {
            let (running, pair, async_pair) = (running.clone(), pair.clone(), async_pair.clone());
            if awaited {
                broker.subscribe_async("event", move |(): ()| {
                    let (running, pair) = (running.clone(), async_pair.clone());
                    async move {
                        begin(&running);
                        pair.wait().await;
                        running.0.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            } else {
                broker.subscribe("event", move |(): ()| {
                    begin(&running);
                    pair.wait();
                    running.0.fetch_sub(1, Ordering::SeqCst);
                });
            }
        }
        broker.publish("event", ());
        assert_eq!(after(broker).handled, 6);
        assert_eq!(running.1.load(Ordering::SeqCst), 2);
    }
}

#[test]
fn a_subscription_has_several_calls_at_a_time_where_that_is_allowed() {
    let options = BrokerOptions::default().handlers_of_subscription(3);
    let broker = Broker::builder(options).build().unwrap();
    let three = Arc::new(Barrier::new(3));
    broker.subscribe("event", move |(): ()| {
        three.wait();
    });
    let three = Arc::new(tokio::sync::Barrier::new(3));
    broker.subscribe_async("event", move |(): ()| {
        let three = three.clone();
        async move {
            three.wait().await;
        }
    });
    for _ in 0..6 {
        broker.publish("event", ());
    }
    assert_eq!(after(broker).handled, 12);
}

#[test]
fn handlers_that_block_hold_up_nobody_else() {
    let broker = plain();
    let gate = Arc::new(Barrier::new(2));
    let blocked = gate.clone();
    broker.subscribe("blocking", move |(): ()| {
        blocked.wait();
    });
    // One that blocks where it must not has a thread less for others, and the bus none.
    let blocked = gate.clone();
    broker.subscribe_async("blocking", move |(): ()| {
        blocked.wait();
        async {}
    });
    let (tell, seen) = told();
    broker.subscribe("numbers", move |my_data: MyData| tell.send(my_data).unwrap());
    broker.publish("blocking", ());
    for id in 0..100 {
        assert_eq!(broker.publish("numbers", data(id)).wait().unwrap(), 1);
        assert_eq!(next(&seen).id, id);
    }
    drop(broker);
}

#[test]
fn handlers_publish_and_subscribe_and_wait_for_both() {
    let broker = Broker::build_default().build().unwrap();
    let (tell, seen) = told();
    let weak = broker.weak();
    broker.subscribe("begin", move |my_data: MyData| {
        let tell = tell.clone();
        let echo = weak.subscribe("echo", move |my_data: MyData| tell.send(my_data).unwrap());
        echo.wait_ready().unwrap();
        assert_eq!(weak.publish("echo", my_data).wait().unwrap(), 1);
    });
    let weak = broker.weak();
    broker.subscribe_async("begin-async", move |my_data: MyData| {
        let weak = weak.clone();
        async move {
            weak.subscribe_async("echo", |_: MyData| async {}).ready().await.unwrap();
            assert_eq!(weak.publish("echo", my_data).await.unwrap(), 2);
        }
    });
    broker.publish("begin", data(1));
    assert_eq!(next(&seen), data(1));
    broker.publish("begin-async", data(2));
    assert_eq!(next(&seen), data(2));
    assert_eq!(after(broker).panics, 0);
}

#[test]
fn what_a_handler_holds_may_panic_when_it_is_dropped() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("it was held");
        }
    }

    let broker = plain();
    let bomb = Bomb;
    let refused = broker.subscribe("not a topic", move |(): ()| {
        let _ = &bomb;
    });
    assert!(refused.wait_ready().is_err());
    let bomb = Bomb;
    broker.subscribe("numbers", move |_: i32| {
        let _ = &bomb;
    });
    assert_eq!(broker.publish("numbers", 1).wait().unwrap(), 1);
    assert_eq!(after(broker).handled, 1);
}

// Bounds.

/// A broker none of whose publishes is done before the gate is opened, after a few.
fn clogged(options: BrokerOptions) -> (Broker, Arc<Barrier>) {
    let settings =
        Settings { publish_window: (1, 1024), block_limit: Duration::from_secs(600), ..Settings::default() };
    let options = options.bus(settings).subscribe_with(SubscribeOptions::default().window(1, 1));
    let broker = Broker::builder(options).build().unwrap();
    let gate = Arc::new(Barrier::new(2));
    let closed = gate.clone();
    let once = Mutex::new(true);
    broker.subscribe("clogged", move |_: u32| {
        if std::mem::take(&mut *once.lock().unwrap()) {
            closed.wait();
        }
    });
    (broker, gate)
}

#[test]
fn a_full_queue_refuses_and_counts_and_all_else_arrives() {
    let (broker, gate) = clogged(BrokerOptions::default().queue(5, 1024 * 1024));
    let mut taken = 0_u32;
    let refused = loop {
        let publishing = broker.publish("clogged", taken);
        if publishing.refusal().is_some() {
            break publishing;
        }
        taken += 1;
        assert!(taken < 10_000, "the queue has no end");
    };
    assert_eq!(broker.stats().queued, 5);
    assert!(matches!(refused.wait(), Err(BusError::QueueFull { messages: 5, .. })));
    gate.wait();
    let stats = after(broker);
    assert_eq!((stats.published, stats.handled, stats.refused), (u64::from(taken), u64::from(taken), 1));
}

#[test]
fn what_a_handler_is_too_slow_for_is_counted_by_its_policy() {
    let options = BrokerOptions::default()
        .subscribe_with(SubscribeOptions::default().policy(Policy::DropNewest).window(1, 1));
    let broker = Broker::builder(options).build().unwrap();
    let (open, gate) = told::<()>();
    let gate = Mutex::new(gate);
    broker.subscribe("numbers", move |_: i32| wait(&gate));
    for number in 0..100 {
        assert_eq!(broker.publish("numbers", number).wait().unwrap(), 1);
    }
    drop(open);
    let stats = after(broker);
    assert_eq!(stats.handled + stats.missed, 100);
    assert!(stats.missed > 90, "{stats:?}");
}

#[test]
fn options_that_cannot_be_are_refused() {
    let refused = |options| Broker::builder(options).build().unwrap_err().to_string();
    let options = BrokerOptions::default;
    assert!(refused(options().queue(0, 1)).contains("at least 1"));
    assert!(refused(options().handlers(0)).contains("handlers is 0"));
    assert!(refused(options().handlers(100_000)).contains("1 to 4096"));
    assert!(refused(options().workers(0)).contains("workers is 0"));
}

// Ends.

#[test]
fn what_is_queued_when_the_broker_is_dropped_is_handled_by_then() {
    for _ in 0..5 {
        let broker = Broker::build_default().build().unwrap();
        let (tell, seen) = told();
        broker.subscribe("numbers", move |my_data: MyData| tell.send(my_data).unwrap());
        for id in 0..1000 {
            broker.publish("numbers", data(id));
        }
        drop(broker);
        assert_eq!(ids(&seen), Vec::from_iter(0..1000));
    }
}

#[test]
fn what_handlers_publish_while_the_broker_drains_is_handled_too() {
    for _ in 0..20 {
        let broker = plain();
        let (tell, seen) = told();
        for step in 0..10 {
            let weak = broker.weak();
            broker.subscribe(&format!("step/{step}"), move |my_data: MyData| {
                weak.publish(&format!("step/{}", step + 1), my_data);
            });
        }
        broker.subscribe("step/10", move |my_data: MyData| tell.send(my_data).unwrap());
        for id in 0..10 {
            broker.publish("step/0", data(id));
        }
        drop(broker);
        assert_eq!(ids(&seen), Vec::from_iter(0..10));
    }
}

#[tokio::test]
async fn a_broker_is_closed_or_dropped_within_a_runtime() {
    let broker = plain();
    let weak = broker.weak();
    broker.subscribe("numbers", |_: i32| ());
    broker.publish("numbers", 1);
    broker.close().await.unwrap();
    assert_eq!(weak.stats().handled, 1);

    let broker = plain();
    let weak = broker.weak();
    broker.subscribe_async("numbers", |_: i32| async {});
    broker.publish("numbers", 1);
    drop(broker);
    assert_eq!(weak.stats().handled, 1);
    let refused = weak.publish("numbers", 2);
    assert!(matches!(refused.refusal(), Some(BusError::Closed { .. })));
    assert!(matches!(refused.await, Err(BusError::Closed { .. })));
    assert!(matches!(weak.subscribe("numbers", |_: i32| ()).ready().await, Err(BusError::Closed { .. })));
}

/// Gives a broker to a handler of its own, which ends it, and waits until all that belongs to it is gone.
fn ended_by_its_own_handler(
    subscribe: impl FnOnce(&Broker, Arc<Mutex<Option<Broker>>>) -> BrokerSubscription,
) {
    let broker = plain();
    // The handler is dropped with all that the broker is made of, and what it holds with it.
    let (held, gone) = told::<()>();
    broker.subscribe("other", move |(): ()| held.send(()).unwrap());
    let place = Arc::new(Mutex::new(None));
    subscribe(&broker, place.clone());
    broker.publish("end", ());
    let weak: WeakBroker = broker.weak();
    weak.publish("other", ());
    *place.lock().unwrap() = Some(broker);
    weak.publish("end", ());
    next(&gone);
    assert!(matches!(gone.recv_timeout(PATIENCE), Err(std::sync::mpsc::RecvTimeoutError::Disconnected)));
    assert_eq!(weak.stats().panics, 0);
}

#[test]
fn a_handler_may_drop_its_own_broker() {
    ended_by_its_own_handler(|broker, place| {
        broker.subscribe("end", move |(): ()| drop(place.lock().unwrap().take()))
    });
    ended_by_its_own_handler(|broker, place| {
        broker.subscribe_async("end", move |(): ()| {
            let broker = place.lock().unwrap().take();
            async move {
                if let Some(broker) = broker {
                    broker.close().await.unwrap();
                }
            }
        })
    });
}

#[test]
fn the_end_is_bounded_where_a_handler_never_ends() {
    let limit = Duration::from_millis(100);
    let options = || BrokerOptions::default().drain_limit(limit);
    let (open, gate) = told::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let (began, begun) = told();
    let stuck = |broker: &Broker| {
        let (gate, began) = (gate.clone(), began.clone());
        broker.subscribe("event", move |(): ()| {
            began.send(()).unwrap();
            wait(&gate);
        });
        broker.publish("event", ());
        next(&begun);
    };
    let broker = Broker::builder(options()).build().unwrap();
    stuck(&broker);
    drop(broker);

    let broker = Broker::builder(options()).build().unwrap();
    stuck(&broker);
    let runtime = Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(broker.close()).unwrap_err();
    assert!(matches!(&error, BusError::TimedOut { after, .. } if *after == limit), "{error}");
    assert!(error.to_string().contains("1 subscriptions at work"), "{error}");

    // So it is where one waits that is asynchronous.
    let broker = Broker::builder(options()).build().unwrap();
    broker.subscribe_async("event", |(): ()| std::future::pending::<()>());
    broker.publish("event", ());
    drop(broker);
    drop(open);
}

#[test]
fn a_subscription_goes_on_without_its_handle_until_it_is_stopped() {
    let broker = plain();
    let (tell, seen) = told();
    let other = tell.clone();
    let subscription = broker.subscribe("numbers", move |my_data: MyData| tell.send(my_data).unwrap());
    drop(broker.subscribe("numbers", move |my_data: MyData| other.send(my_data).unwrap()));
    assert_eq!(broker.publish("numbers", data(1)).wait().unwrap(), 2);
    assert_eq!((next(&seen), next(&seen)), (data(1), data(1)));
    subscription.stop();
    broker.publish("numbers", data(2));
    let stats = after(broker);
    assert_eq!(ids(&seen), [2]);
    assert_eq!(stats.lost_subscriptions, 0);
}

#[test]
fn a_subscription_is_stopped_while_its_handler_waits_or_before_it_was_made() {
    let broker = plain();
    let (open, gate) = told::<()>();
    let gate = Mutex::new(gate);
    let (tell, seen) = told();
    let subscription = broker.subscribe("numbers", move |number: i32| {
        tell.send(number).unwrap();
        wait(&gate);
    });
    for number in 0..10 {
        broker.publish("numbers", number).wait().unwrap();
    }
    assert_eq!(next(&seen), 0);
    subscription.stop();
    open.send(()).unwrap();
    assert_eq!(seen.recv_timeout(PATIENCE).ok(), None);

    broker.subscribe("numbers", |_: i32| panic!("it was stopped")).stop();
    broker.publish("numbers", 11);
    assert_eq!(after(broker).panics, 0);
}

#[test]
fn what_cannot_be_subscribed_or_published_is_told_and_counted() {
    let broker = plain();
    let subscription = broker.subscribe("not a topic", |_: i32| ());
    assert!(matches!(subscription.wait_ready(), Err(BusError::InvalidTopic(_))));
    assert!(matches!(subscription.close_reason(), Some(BusError::InvalidTopic(_))));
    assert!(matches!(broker.publish("$bus/x", 1).wait(), Err(BusError::ReservedTopic { .. })));
    let unreadable = std::collections::BTreeMap::from([(0, std::sync::Mutex::new(1))]);
    let poisoned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _guard = unreadable[&0].lock().unwrap();
        panic!("poisons it")
    }));
    assert!(poisoned.is_err());
    assert!(matches!(broker.publish("numbers", &unreadable).refusal(), Some(BusError::Encode { .. })));
    let stats = after(broker);
    assert_eq!((stats.lost_subscriptions, stats.failed, stats.published), (1, 2, 0));
}
