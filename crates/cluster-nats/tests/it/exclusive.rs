//! Topics that have one server among all buses.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use whispeer::client::{ServeOptions, Serving};
use whispeer::prelude::*;
use whispeer_cluster_nats::requests::LeaseSettings;
use whispeer_testkit::nats::{self, NatsServer};
use whispeer_testkit::relay::Relay;
use whispeer_testkit::wait::soon;

use crate::ground::Node;
use crate::joined::{self, Joined, PATIENCE};

/// How long leases last here.
const LEASE: Duration = Duration::from_secs(2);

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

/// A server of each version, with JetStream.
async fn servers() -> Vec<NatsServer> {
    let mut servers = Vec::new();
    if nats::available() {
        for version in nats::versions() {
            servers.push(version.jetstream().start().await);
        }
    }
    servers
}

async fn start(url: &str, id: u64, lasts: Duration) -> Node {
    let leases = LeaseSettings { lasts, ..LeaseSettings::default() };
    Node::start_at(url, id, Some(leases)).await
}

async fn pair_of(server: &NatsServer, lasts: Duration) -> (Node, Node) {
    let (one, two) = (start(&server.url(), 1, lasts).await, start(&server.url(), 2, lasts).await);
    one.knows(1).await;
    two.knows(1).await;
    (one, two)
}

/// A serving of `clock` that answers with a name, until it ends.
type Clock = JoinHandle<BusError>;

/// Serves `clock` at this bus, and answers with its name.
async fn serve_with(client: &Client, name: &'static str, options: ServeOptions) -> BusResult<Clock> {
    let mut serving = soon("an answer", client.serve_bytes_with("clock", options)).await?;
    let client = client.clone();
    Ok(tokio::spawn(async move { answer(&client, &mut serving, name).await }))
}

async fn serve(node: &Node, name: &'static str) -> BusResult<Clock> {
    serve_with(&node.client, name, ServeOptions::default()).await
}

async fn answer(client: &Client, serving: &mut Serving<Bytes>, name: &'static str) -> BusError {
    while let Some((_, id, _)) = serving.recv().await {
        // Whoever has given up does not wait for it.
        let _ = client.respond_bytes(id, name.into()).await;
    }
    serving.close_reason().unwrap()
}

/// Serves `clock` as soon as that is not refused, and others find it.
async fn serve_when_free(node: &Node, asks: &Node, name: &'static str) -> Clock {
    let begun = Instant::now();
    loop {
        match serve(node, name).await {
            Ok(clock) => {
                finds(asks, name).await;
                return clock;
            }
            Err(error) => assert!(is_served(&error), "{error:?}"),
        }
        assert!(begun.elapsed() < PATIENCE, "it is not free");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until this bus finds the server of this name, and no other or none.
async fn finds(node: &Node, name: &str) {
    let asking = async {
        loop {
            match node.client.request_bytes("clock", "".into()).await {
                Ok(answer) if answer == name => return,
                Ok(_) | Err(BusError::NoServer { .. } | BusError::ServerGone { .. }) => {}
                other => panic!("{other:?}"),
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    soon("the server", asking).await;
}

fn is_served(error: &BusError) -> bool {
    matches!(error, BusError::AlreadyServed { topic } if topic == "clock")
}

#[tokio::test]
async fn a_second_server_anywhere_is_refused_as_at_one_bus() {
    for server in servers().await {
        let (one, two) = pair_of(&server, LONG).await;
        let _first = serve(&one, "one").await.unwrap();
        assert_eq!(two.ask("clock", "").await.unwrap(), "one");
        let asked = Instant::now();
        let refused = serve(&two, "two").await.unwrap_err();
        assert!(is_served(&refused), "{refused:?}");
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        assert!(two.bus.view().served().unwrap().is_empty());
        assert_eq!(two.ask("clock", "").await.unwrap(), "one", "what was refused takes no request");
        let again = serve(&one, "again").await.unwrap_err();
        assert!(is_served(&again), "{again:?}");
        // Groups are spread over buses.
        let group = || ServeOptions::default().group("workers");
        let _shared = one.client.serve_bytes_with("shared", group()).await.unwrap();
        let _other = two.client.serve_bytes_with("shared", group()).await.unwrap();
    }
}

#[tokio::test]
async fn of_buses_that_race_for_topics_one_has_each() {
    for server in servers().await {
        let (one, two) = pair_of(&server, LONG).await;
        let mut both = Vec::new();
        for number in 0..20 {
            let topic = format!("race/{number}");
            let (a, b) = tokio::join!(one.client.serve_bytes(&topic), two.client.serve_bytes(&topic));
            let (won, refused) = match (a, b) {
                (Ok(won), Err(refused)) | (Err(refused), Ok(won)) => (won, refused),
                other => panic!("{topic}: {other:?}"),
            };
            assert!(
                matches!(&refused, BusError::AlreadyServed { topic: told } if *told == topic),
                "{refused:?}"
            );
            both.push(won);
        }
        let served = |node: &Node| node.bus.view().served().unwrap().len();
        assert_eq!(served(&one) + served(&two), both.len());
    }
}

#[tokio::test]
async fn a_topic_is_free_as_soon_as_its_server_has_ended() {
    for server in servers().await {
        let (one, two) = pair_of(&server, LONG).await;
        for _ in 0..5 {
            let mut first = one.client.serve_bytes("clock").await.unwrap();
            soon("the end", first.drain()).await.unwrap();
            // What is said at the same moment is waited for.
            let mut second = two.client.serve_bytes("clock").await.unwrap();
            soon("the end", second.drain()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_a_bus_that_ends_has_served_is_free_at_once() {
    for server in servers().await {
        let (one, two) = pair_of(&server, LONG).await;
        let first = serve(&one, "one").await.unwrap();
        assert_eq!(two.ask("clock", "").await.unwrap(), "one");
        soon("the end of the bus", one.bus.stop()).await;
        soon("the end of its server", first).await.unwrap();
        let _second = serve_when_free(&two, &two, "two").await;
    }
}

#[tokio::test]
async fn a_server_can_take_over_from_another_bus_which_is_told() {
    for server in servers().await {
        let (one, two) = pair_of(&server, LONG).await;
        let first = serve(&one, "one").await.unwrap();
        assert_eq!(two.ask("clock", "").await.unwrap(), "one");
        let _second = serve_with(&two.client, "two", ServeOptions::default().take_over()).await.unwrap();
        let taken = soon("the end of the first", first).await.unwrap();
        assert!(matches!(&taken, BusError::TakenOver { topic } if topic == "clock"), "{taken:?}");
        finds(&one, "two").await;
        let refused = serve(&one, "one").await.unwrap_err();
        assert!(is_served(&refused), "{refused:?}");
    }
}

#[tokio::test]
async fn the_topics_of_a_bus_that_is_killed_are_free_when_its_lease_is_over() {
    for server in servers().await {
        let (one, two) = pair_of(&server, LEASE).await;
        let three = start(&server.url(), 3, LEASE).await;
        let _first = serve(&one, "one").await.unwrap();
        assert_eq!(two.ask("clock", "").await.unwrap(), "one");
        let killed = Instant::now();
        one.kill().await;
        let _second = serve_when_free(&two, &three, "two").await;
        let after = killed.elapsed();
        // It was renewed a third of its time before at the earliest.
        assert!(after > LEASE / 2 && after < 6 * LEASE, "{after:?}");
        let refused = serve(&three, "three").await.unwrap_err();
        assert!(is_served(&refused), "{refused:?}");
    }
}

#[tokio::test]
async fn a_bus_that_comes_back_with_its_servers_need_not_wait_for_what_it_was_before() {
    for server in servers().await {
        let one = start(&server.url(), 1, LEASE).await;
        let _first = serve(&one, "one").await.unwrap();
        one.kill().await;
        let (back, other) = (start(&server.url(), 2, LEASE).await, start(&server.url(), 3, LEASE).await);
        // Nobody hears of the bus that is gone, so that it serves its own at once, and others when the lease is over.
        let clock = serve(&back, "back").await.unwrap();
        assert_eq!(back.client.request_bytes("clock", "".into()).await.unwrap(), "back");
        finds(&other, "back").await;
        assert!(!clock.is_finished());
    }
}

#[tokio::test]
async fn a_bus_that_is_cut_off_loses_its_topics_and_is_told_when_it_is_back() {
    for server in servers().await {
        let relay = Relay::to(server.address().port()).await.unwrap();
        let one = start(&format!("nats://127.0.0.1:{}", relay.port()), 1, LEASE).await;
        let (two, three) = (start(&server.url(), 2, LEASE).await, start(&server.url(), 3, LEASE).await);
        one.knows(2).await;
        let first = serve(&one, "one").await.unwrap();
        assert_eq!(three.ask("clock", "").await.unwrap(), "one");
        relay.refuse();
        let second = serve_when_free(&two, &three, "two").await;
        let own = one.client.request_bytes("clock", "".into()).await.unwrap();
        assert_eq!(own, "one", "its own clients have their server as long as nobody can tell it otherwise");

        relay.pass();
        let taken = soon("the end of the first", first).await.unwrap();
        assert!(matches!(&taken, BusError::TakenOver { topic } if topic == "clock"), "{taken:?}");
        finds(&one, "two").await;
        assert_eq!(three.ask("clock", "").await.unwrap(), "two");
        assert!(!second.is_finished());
    }
}

#[tokio::test]
async fn without_nats_each_bus_has_its_own_server_and_afterwards_one_is_left() {
    for server in servers().await {
        let (one, two) = pair_of(&server, LEASE).await;
        server.kill();
        let first = serve(&one, "one").await.unwrap();
        let second = serve(&two, "two").await.unwrap();
        assert_eq!(one.client.request_bytes("clock", "".into()).await.unwrap(), "one");
        assert_eq!(two.client.request_bytes("clock", "".into()).await.unwrap(), "two");

        server.restart().await;
        let mut clocks = [first, second];
        let [first, second] = &mut clocks;
        let (left, name, ended) = soon("the end of one", async {
            tokio::select! {
                ended = first => (1, "two", ended.unwrap()),
                ended = second => (0, "one", ended.unwrap()),
            }
        })
        .await;
        assert!(is_served(&ended), "{ended:?}");
        finds(&one, name).await;
        finds(&two, name).await;
        assert!(!clocks[left].is_finished());
    }
}

#[tokio::test]
async fn a_bus_whose_nats_hangs_serves_its_own_and_has_its_topics_again_afterwards() {
    for server in servers().await {
        let (one, two) = pair_of(&server, LEASE).await;
        let first = serve(&one, "one").await.unwrap();
        assert_eq!(two.ask("clock", "").await.unwrap(), "one");
        server.pause();
        let paused = Instant::now();
        while paused.elapsed() < LEASE + LEASE / 2 {
            assert_eq!(one.client.request_bytes("clock", "".into()).await.unwrap(), "one");
            sleep(Duration::from_millis(20)).await;
        }
        server.resume();
        finds(&two, "one").await;
        assert!(!first.is_finished());
    }
}

#[tokio::test]
async fn a_lease_is_kept_by_renewals_that_are_slow() {
    for server in servers().await {
        let relay = Relay::to(server.address().port()).await.unwrap();
        let one = start(&format!("nats://127.0.0.1:{}", relay.port()), 1, LEASE).await;
        let two = start(&server.url(), 2, LEASE).await;
        one.knows(1).await;
        two.knows(1).await;
        let first = serve(&one, "one").await.unwrap();
        relay.delay(LEASE / 20);
        let slow = Instant::now();
        while slow.elapsed() < 2 * LEASE {
            let refused = serve(&two, "two").await.unwrap_err();
            assert!(is_served(&refused), "{refused:?}");
        }
        assert!(!first.is_finished());
        finds(&two, "one").await;
    }
}

#[tokio::test]
async fn whoever_has_nothing_but_nats_sees_who_serves_what_and_can_end_a_lease() {
    for server in servers().await {
        let node = start(&server.url(), 0xc0ffee, LEASE).await;
        let first = serve(&node, "one").await.unwrap();
        let nats = async_nats::connect(server.url()).await.unwrap();
        let bucket = async_nats::jetstream::new(nats).get_key_value("whispeer-leases").await.unwrap();
        let lease = "0000000000c0ffee-1";
        let topic = bucket.entry("topic/clock").await.unwrap().unwrap();
        assert_eq!(topic.value, lease);
        let key = format!("bus/{lease}");
        assert_eq!(bucket.get(&key).await.unwrap().unwrap(), "alive");

        // What is ended by another hand, and given to nobody, is had again by another lease.
        bucket.put(&key, "ended".into()).await.unwrap();
        soon("another lease", async {
            while bucket.get("topic/clock").await.unwrap().unwrap() == lease {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        assert_eq!(bucket.get("topic/clock").await.unwrap().unwrap(), "0000000000c0ffee-2");
        assert!(!first.is_finished());

        // And what is given to somebody else is his.
        bucket.put("bus/00000000000000ff-1", "alive".into()).await.unwrap();
        bucket.put("topic/clock", "00000000000000ff-1".into()).await.unwrap();
        bucket.put("bus/0000000000c0ffee-2", "ended".into()).await.unwrap();
        let keeps = async {
            loop {
                sleep(LEASE / 4).await;
                bucket.put("bus/00000000000000ff-1", "alive".into()).await.unwrap();
            }
        };
        let taken = tokio::select! {
            ended = soon("the end", first) => ended.unwrap(),
            () = keeps => unreachable!(),
        };
        assert!(matches!(&taken, BusError::TakenOver { topic } if topic == "clock"), "{taken:?}");

        let mut serving = soon("another topic", node.client.serve_bytes("other/v1.2")).await.unwrap();
        assert_eq!(bucket.get("topic/other/v1=2E2").await.unwrap().unwrap(), "0000000000c0ffee-3");
        soon("its end", serving.drain()).await.unwrap();
        soon("nothing is left of it", async {
            while bucket.entry("topic/other/v1=2E2").await.unwrap().is_some() {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        node.bus.stop().await;
        soon("the end of the lease", async {
            while bucket.get("bus/0000000000c0ffee-3").await.unwrap().unwrap() != "ended" {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_bucket_that_is_deleted_is_made_anew_and_topics_are_taken_again() {
    for server in servers().await {
        let (one, two) = pair_of(&server, LEASE).await;
        let first = serve(&one, "one").await.unwrap();
        let nats = async_nats::connect(server.url()).await.unwrap();
        let jetstream = async_nats::jetstream::new(nats);
        jetstream.delete_stream("KV_whispeer-leases").await.unwrap();
        soon("another bucket, with the topic", async {
            loop {
                if let Ok(bucket) = jetstream.get_key_value("whispeer-leases").await
                    && let Ok(Some(_)) = bucket.entry("topic/clock").await
                {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let refused = serve(&two, "two").await.unwrap_err();
        assert!(is_served(&refused), "{refused:?}");
        finds(&two, "one").await;
        assert!(!first.is_finished());
    }
}

#[tokio::test]
async fn where_nats_has_no_jetstream_each_bus_decides_by_itself() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.start().await;
        let (one, two) = pair_of(&server, LEASE).await;
        let three = start(&server.url(), 3, LEASE).await;
        let _first = serve(&one, "one").await.unwrap();
        let _second = serve(&two, "two").await.unwrap();
        let name = three.ask("clock", "").await.unwrap();
        assert!(name == "one" || name == "two", "{name:?}");
    }
}

#[tokio::test]
async fn buses_that_are_joined_have_one_server_without_being_told_to() {
    for server in servers().await {
        let (a, b) = (Joined::new(&server.url()).await, Joined::new(&server.url()).await);
        joined::eventually("they know of each other", || {
            a.counter.counts().buses + b.counter.counts().buses == 2
        })
        .await;
        let _first = serve_with(&a.client, "a", ServeOptions::default()).await.unwrap();
        let refused = serve_with(&b.client, "b", ServeOptions::default()).await.unwrap_err();
        assert!(is_served(&refused), "{refused:?}");
        a.stop().await;
        b.stop().await;
    }
}
