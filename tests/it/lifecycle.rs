//! Starting, draining and stopping.

use std::time::Duration;

use bytes::Bytes;
use whispeer::client::{Policy, ServeOptions, SubscribeOptions};
use whispeer::prelude::*;
use whispeer_testkit::wait::{eventually, now_or_never, soon};

use crate::ground::{Ground, settings};

#[test]
fn outside_of_a_runtime_constructors_say_so() {
    let no_runtime =
        |result: BusResult<()>| assert!(matches!(result, Err(BusError::NoRuntime { .. })), "{result:?}");
    no_runtime(listen_and_serve_memory().map(drop));
    no_runtime(listen_and_serve_unix(&"never_made".into()).map(drop));
    no_runtime(Bus::builder().start().map(drop));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (bus, connector) = runtime.block_on(async { listen_and_serve_memory() }).unwrap();
    no_runtime(Client::new_memory(&connector).map(drop));
    drop((bus, runtime));
}

#[tokio::test]
async fn stopping_tells_every_client_and_frees_the_addresses() {
    let ground = Ground::new(Bus::builder());
    let path = ground.socket();
    let (inside, outside) = (ground.client(), Client::new_unix(&path).await.unwrap());
    let mut subscription = inside.subscribe_bytes("news").await.unwrap();
    let _serving = outside.serve_bytes("work").await.unwrap();
    let request = inside.request_bytes("work", Bytes::new());
    let stop = async {
        eventually("the request is under way", || ground.bus.stats().requests_in_flight == 1).await;
        soon("the end of the bus", ground.bus.stop()).await;
    };
    let (answer, ()) = tokio::join!(request, stop);
    answer.unwrap_err();
    for client in [&inside, &outside] {
        let reason = soon("the end", client.closed()).await;
        assert!(matches!(reason, BusError::Closed { .. }), "{reason:?}");
        client.publish_bytes("news", "").await.unwrap_err();
    }
    assert!(soon("the end of the subscription", subscription.recv()).await.is_none());
    assert!(subscription.close_reason().is_some());
    listen_and_serve_unix(&path).map(drop).unwrap_or_else(|error| panic!("the path is not free: {error}"));
}

#[tokio::test]
async fn dropping_the_handle_stops_the_bus() {
    let (bus, connector) = listen_and_serve_memory().unwrap();
    let client = Client::new_memory(&connector).unwrap();
    client.ping().await.unwrap();
    drop(bus);
    soon("the end of the client", client.closed()).await;
    let mut refused = connector.connect().map(drop);
    while refused.is_ok() {
        tokio::task::yield_now().await;
        refused = connector.connect().map(drop);
    }
}

#[tokio::test(start_paused = true)]
async fn draining_finishes_what_is_under_way_and_takes_nothing_new() {
    let (bus, connector) = listen_and_serve_memory().unwrap();
    let (server, client) = (Client::new_memory(&connector).unwrap(), Client::new_memory(&connector).unwrap());
    let mut serving = server.serve_bytes("work").await.unwrap();
    let window = SubscribeOptions::default().window(1, 1024);
    let mut subscription = client.subscribe_bytes_with("news", window).await.unwrap();
    server.publish_bytes("news", "one").await.unwrap();
    server.publish_bytes("news", "two").await.unwrap();
    let request = client.request_bytes("work", Bytes::new());
    let work = async {
        let (_, id, _) = serving.recv().await.unwrap();
        let drain = tokio::spawn(bus.drain(Duration::from_secs(3_600)));
        let mut refused = client.publish_bytes("elsewhere", "").await;
        while refused.is_ok() {
            tokio::task::yield_now().await;
            refused = client.publish_bytes("elsewhere", "").await;
        }
        assert!(matches!(refused, Err(BusError::Draining { .. })), "{refused:?}");
        assert!(matches!(client.subscribe_bytes("a").await, Err(BusError::Draining { .. })));
        assert!(matches!(client.serve_bytes("a").await, Err(BusError::Draining { .. })));
        assert!(matches!(client.request_bytes("work", Bytes::new()).await, Err(BusError::Draining { .. })));
        let late = Client::new_memory(&connector).unwrap().ping().await;
        assert!(matches!(late, Err(BusError::Draining { .. })), "{late:?}");
        server.respond_bytes(id, "in time".into()).await.unwrap();
        assert_eq!(subscription.recv().await.unwrap().1, "one");
        assert_eq!(subscription.recv().await.unwrap().1, "two");
        soon("the end of the drain", drain).await.unwrap();
    };
    let (answer, ()) = tokio::join!(request, work);
    assert_eq!(answer.unwrap(), "in time");
    soon("the end of the client", client.closed()).await;
}

#[tokio::test]
async fn a_drain_that_is_given_up_stops_the_bus_at_once() {
    let (bus, connector) = listen_and_serve_memory().unwrap();
    let (server, client) = (Client::new_memory(&connector).unwrap(), Client::new_memory(&connector).unwrap());
    let mut serving = server.serve_bytes("work").await.unwrap();
    let asked = tokio::spawn(async move { client.request_bytes("work", Bytes::new()).await });
    soon("the request", serving.recv()).await.unwrap();
    assert!(now_or_never(bus.drain(Duration::from_secs(3_600))).await.is_none());
    soon("the end of the server", server.closed()).await;
    assert!(soon("the end of the request", asked).await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn draining_waits_for_what_is_kept_for_a_queue_group() {
    let (bus, connector) = listen_and_serve_memory().unwrap();
    let (publisher, worker) =
        (Client::new_memory(&connector).unwrap(), Client::new_memory(&connector).unwrap());
    // What the ring keeps waits as long as nobody takes it.
    let options = SubscribeOptions::default().group("workers").window(2, 1024).policy(Policy::DropOldest);
    let mut jobs = worker.subscribe_bytes_with("jobs", options).await.unwrap();
    for number in 0..4 {
        publisher.publish_bytes("jobs", number.to_string()).await.unwrap();
    }
    assert_eq!(bus.stats().parked_messages, 2);
    let mut drain = tokio::spawn(bus.drain(Duration::from_secs(3_600)));
    let early = tokio::time::timeout(Duration::from_secs(60), &mut drain).await;
    assert!(early.is_err(), "two jobs wait");
    for number in 0..4 {
        assert_eq!(jobs.recv().await.unwrap().1, number.to_string());
    }
    soon("the end of the drain", drain).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn draining_waits_for_publishes_that_wait_for_the_byte_budget() {
    let settings = settings(|settings| {
        settings.frame_limit = 128 * 1024;
        settings.byte_budget = 128 * 1024;
        settings.block_limit = Duration::from_secs(60);
    });
    let bus = settings.start().unwrap();
    let publisher = Client::new_memory(&bus.connector()).unwrap();
    let mut subscriptions = Vec::new();
    for _ in 0..4 {
        let client = Client::new_memory(&bus.connector()).unwrap();
        let options = SubscribeOptions::default().policy(Policy::DropOldest).window(3, 1024 * 1024);
        subscriptions.push(client.subscribe_bytes_with("news", options).await.unwrap());
    }
    for _ in 0..4 {
        publisher.publish_bytes("news", vec![1; 60 * 1024]).await.unwrap();
    }
    let mut waiting = Box::pin(publisher.publish_bytes("news", "small"));
    assert!(now_or_never(&mut waiting).await.is_none());
    // The flush behind it tells that the bus has it.
    let flushing = tokio::time::timeout(Duration::from_secs(1), publisher.ping()).await;
    assert!(flushing.is_err(), "the publish waits");
    let drain = tokio::spawn(bus.drain(Duration::from_secs(3_600)));
    let mut refused = publisher.subscribe_bytes("else").await.map(drop);
    while refused.is_ok() {
        refused = publisher.subscribe_bytes("else").await.map(drop);
    }
    for subscription in &mut subscriptions {
        for _ in 0..4 {
            subscription.recv().await.unwrap();
        }
    }
    assert_eq!(waiting.await.unwrap(), 4);
    for subscription in &mut subscriptions {
        assert_eq!(subscription.recv().await.unwrap().1, "small");
    }
    soon("the end of the drain", drain).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn draining_waits_for_requests_that_no_server_has_credit_for() {
    let (bus, connector) = listen_and_serve_memory().unwrap();
    let (server, client) = (Client::new_memory(&connector).unwrap(), Client::new_memory(&connector).unwrap());
    let mut serving = server.serve_bytes_with("work", ServeOptions::default().window(1, 1024)).await.unwrap();
    let requests = async {
        tokio::join!(client.request_bytes("work", "one".into()), client.request_bytes("work", "two".into()))
    };
    let work = async {
        eventually("one of two waits", || bus.stats().requests_waiting == 1).await;
        assert_eq!(bus.stats().requests_in_flight, 2);
        let mut drain = tokio::spawn(bus.drain(Duration::from_secs(3_600)));
        let early = tokio::time::timeout(Duration::from_secs(10), &mut drain).await;
        assert!(early.is_err(), "two requests are unanswered");
        for _ in 0..2 {
            let (_, id, payload) = serving.recv().await.unwrap();
            server.respond_bytes(id, payload).await.unwrap();
        }
        soon("the end of the drain", drain).await.unwrap();
    };
    let ((one, two), ()) = tokio::join!(requests, work);
    assert_eq!((one.unwrap(), two.unwrap()), ("one".into(), "two".into()));
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_outlast_its_grace() {
    let (bus, connector) = listen_and_serve_memory().unwrap();
    let client = Client::new_memory(&connector).unwrap();
    let serving = client.serve_bytes("never").await.unwrap();
    let start = tokio::time::Instant::now();
    let drain = async {
        eventually("the request is under way", || bus.stats().requests_in_flight == 1).await;
        bus.drain(Duration::from_secs(7)).await;
    };
    let (answer, ()) = tokio::join!(client.request_bytes("never", Bytes::new()), drain);
    answer.unwrap_err();
    assert_eq!(start.elapsed().as_secs(), 7);
    drop(serving);
}

#[tokio::test]
async fn join_waits_for_the_end_of_the_bus() {
    let (mut bus, connector) = listen_and_serve_memory().unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(20), bus.join()).await.is_err());
    let client = Client::new_memory(&connector).unwrap();
    client.ping().await.unwrap();
    soon("the end of the bus", bus.stop()).await;
    soon("the end of the client", client.closed()).await;
}

#[test]
fn a_bus_with_workers_serves_its_connections_while_the_application_computes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let application = runtime();
    let bus = application
        .block_on(async { Bus::builder().listen_unix(&path).workers(2).start() })
        .expect("the bus starts");

    let (connected, is_connected) = tokio::sync::oneshot::channel();
    let other = std::thread::spawn(move || {
        runtime().block_on(async move {
            let publisher = Client::new_unix(&path).await.unwrap();
            let subscriber = Client::new_unix(&path).await.unwrap();
            let mut subscription = subscriber.subscribe_bytes("news").await.unwrap();
            connected.send(()).unwrap();
            for _ in 0..100 {
                assert_eq!(publisher.publish_bytes("news", "new").await.unwrap(), 1);
                assert!(subscription.recv().await.is_some());
            }
            subscription.drain().await.unwrap();
        });
    });
    application.block_on(async {
        is_connected.await.unwrap();
        // Nothing of this runtime goes on before the other thread is done.
        other.join().expect("the other thread is served");
        bus.stop().await;
    });
}
