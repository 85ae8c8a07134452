//! Requests that nobody serves here, and who joins this bus to others: they go up, and what is served here is told.

use std::time::Duration;

use whispeer::auth::Principal;
use whispeer::bus::{BusHandle, ServedNews, ServedWatch};
use whispeer::client::{ManyOptions, RequestOptions, ServeOptions, Serving};
use whispeer::prelude::*;
use whispeer::proto::fields::ServeMode;
use whispeer::transport::Peer;
use whispeer_testkit::wait::{eventually, now_or_never, soon};

const UPLINK: &str = "$bus/uplink";

/// A session of the bus's own.
fn own(bus: &BusHandle) -> Client {
    let link = bus.view().connect(Peer::new(Principal::Bus, "cluster")).unwrap();
    Client::builder().name("cluster").no_reconnect().connect_link(link).unwrap()
}

struct Joined {
    bus: BusHandle,
    cluster: Client,
    uplink: Serving<bytes::Bytes>,
    client: Client,
}

async fn joined() -> Joined {
    joined_with(ServeOptions::default()).await
}

async fn joined_with(options: ServeOptions) -> Joined {
    let bus = Bus::builder().start().unwrap();
    let cluster = own(&bus);
    let uplink = soon("the uplink", cluster.serve_bytes_with(UPLINK, options)).await.unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    Joined { bus, cluster, uplink, client }
}

#[tokio::test]
async fn what_nobody_serves_here_goes_up_as_it_was_asked() {
    let Joined { cluster, mut uplink, client, bus: _bus } = joined().await;
    let options = RequestOptions::default().header("user", "alice").timeout(Duration::from_secs(5));
    let asked = client.request_bytes_with("far/away", "where?".into(), options);
    let answered = async {
        let request = soon("the request", uplink.next_request()).await.unwrap();
        assert_eq!((request.topic.as_str(), &request.value[..]), ("far/away", &b"where?"[..]));
        assert_eq!(request.headers.find("user"), Some("alice"));
        assert!(request.id.time_left().unwrap() <= Duration::from_secs(5) && !request.id.wants_stream());
        cluster.respond_bytes(request.id, "there".into()).await.unwrap();
    };
    assert_eq!(tokio::join!(asked, answered).0.unwrap(), "there");
}

#[tokio::test]
async fn streams_of_replies_come_down_within_the_requesters_window() {
    let Joined { cluster, mut uplink, client, bus: _bus } = joined().await;
    let options = RequestOptions::default().window(2, 1_000_000);
    let mut answers = client.request_stream_bytes_with("count", "".into(), options).await.unwrap();
    let (_, id, _) = soon("the request", uplink.recv()).await.unwrap();
    let mut responder = cluster.respond_stream_bytes(id).unwrap();
    responder.send(&"one".into()).await.unwrap();
    responder.send(&"two".into()).await.unwrap();
    assert!(now_or_never(responder.send(&"three".into())).await.is_none(), "the window has two");
    assert_eq!(soon("an answer", answers.recv()).await.unwrap().unwrap(), "one");
    soon("room", responder.send(&"three".into())).await.unwrap();
    responder.finish().unwrap();
    assert_eq!(soon("an answer", answers.recv()).await.unwrap().unwrap(), "two");
    assert_eq!(soon("an answer", answers.recv()).await.unwrap().unwrap(), "three");
    assert!(soon("the end", answers.recv()).await.is_none());
}

#[tokio::test]
async fn a_server_here_goes_before_the_uplink() {
    let Joined { mut uplink, client, bus: _bus, cluster: _cluster } = joined().await;
    let here = client.handle_bytes("clock", |_| async { Ok("here".into()) }).await.unwrap();
    assert_eq!(client.request_bytes("clock", "".into()).await.unwrap(), "here");
    assert!(now_or_never(uplink.recv()).await.is_none());
    here.drain().await;
    let up = soon("the request", async {
        let asked = client.request_bytes("clock", "".into());
        tokio::select! {
            request = uplink.recv() => request.unwrap().0.to_string(),
            answer = asked => panic!("{answer:?}"),
        }
    });
    assert_eq!(up.await, "clock");
}

#[tokio::test]
async fn only_the_bus_itself_may_be_its_uplink_and_only_once() {
    let Joined { bus, mut uplink, client, cluster: _cluster } = joined().await;
    let refused = client.serve_bytes(UPLINK).await.map(drop);
    assert!(matches!(refused, Err(BusError::ReservedTopic { .. })), "{refused:?}");
    let second = own(&bus);
    let refused = second.serve_bytes(UPLINK).await.map(drop);
    assert!(matches!(refused, Err(BusError::AlreadyServed { .. })), "{refused:?}");

    let successor = second.serve_bytes_with(UPLINK, ServeOptions::default().take_over()).await.unwrap();
    assert!(soon("the end of the first", uplink.recv()).await.is_none());
    assert!(matches!(uplink.close_reason(), Some(BusError::TakenOver { .. })));
    drop(successor);
    second.ping().await.unwrap();
    soon("the place is free", own(&bus).serve_bytes(UPLINK)).await.unwrap();
}

#[tokio::test]
async fn what_the_bus_itself_asks_does_not_go_up_so_that_nothing_goes_round() {
    let Joined { bus, cluster, mut uplink, client: _client } = joined().await;
    for own in [cluster, own(&bus)] {
        let refused = soon("an answer", own.request_bytes("far/away", "".into())).await;
        assert!(matches!(&refused, Err(BusError::NoServer { topic }) if topic == "far/away"), "{refused:?}");
    }
    assert!(now_or_never(uplink.recv()).await.is_none());
}

#[tokio::test]
async fn topics_of_the_bus_stay_here_and_the_uplink_is_none_of_them() {
    let Joined { bus, mut uplink, client, cluster: _cluster } = joined().await;
    for topic in [UPLINK, "$bus/unknown", "$else"] {
        let refused = soon("an answer", client.request_bytes(topic, "".into())).await;
        assert!(
            matches!(&refused, Err(BusError::NoServer { topic: named }) if named == topic),
            "{refused:?}"
        );
    }
    let options = ManyOptions::default;
    let answers = client.request_many_bytes("$bus/*", "".into(), options()).await.unwrap();
    assert!(answers.iter().flatten().all(|(topic, _)| topic.as_str() != UPLINK));
    assert!(client.request_many_bytes("**", "".into(), options()).await.unwrap().is_empty());
    assert!(now_or_never(uplink.recv()).await.is_none());
    assert!(bus.view().served().unwrap().is_empty());
    assert_eq!(bus.stats().served_topics, 0);
}

#[tokio::test]
async fn errors_name_the_topic_that_was_asked() {
    let Joined { cluster, mut uplink, client, bus } = joined_with(ServeOptions::default().window(1, 1)).await;
    let asked = tokio::spawn({
        let client = client.clone();
        async move { client.request_bytes("first", "".into()).await }
    });
    let first = soon("the request", uplink.recv()).await.unwrap();
    drop(first);
    let abandoned = soon("an answer", asked).await.unwrap();
    assert!(matches!(&abandoned, Err(BusError::Abandoned { topic }) if topic == "first"), "{abandoned:?}");

    let ask = |topic: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.request_bytes(topic, "".into()).await })
    };
    let handed = ask("handed");
    eventually("it is asked", || bus.stats().requests_in_flight == 1).await;
    let waiting = ask("waiting");
    eventually("it waits", || bus.stats().requests_waiting == 1).await;
    drop((uplink, cluster));
    let (handed, waiting) = (handed.await.unwrap(), waiting.await.unwrap());
    let named = |result: &BusResult<_>, expected: &str| match result {
        Err(
            BusError::ServerGone { topic } | BusError::NoServer { topic } | BusError::Abandoned { topic },
        ) => {
            assert_eq!(topic, expected);
        }
        other => panic!("{other:?}"),
    };
    named(&handed, "handed");
    named(&waiting, "waiting");
    let nobody = client.request_bytes("nobody", "".into()).await;
    assert!(matches!(&nobody, Err(BusError::NoServer { topic }) if topic == "nobody"), "{nobody:?}");
}

#[tokio::test]
async fn who_gives_up_is_told_to_the_uplink() {
    let Joined { mut uplink, client, bus: _bus, cluster: _cluster } = joined().await;
    let asked = client.request_bytes("slow", "".into());
    let (_, id, _) = tokio::select! {
        request = uplink.recv() => request.unwrap(),
        answer = asked => panic!("{answer:?}"),
    };
    soon("the cancellation", id.cancelled()).await;
}

async fn news(watch: &mut ServedWatch) -> ServedNews {
    soon("news of what is served", watch.next()).await.unwrap()
}

#[tokio::test]
async fn a_watch_tells_what_is_served_and_then_what_changes() {
    let bus = Bus::builder().start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let clock = client.serve_bytes("clock").await.unwrap();
    let _shared = client.serve_bytes_with("work", ServeOptions::default().group("workers")).await.unwrap();
    let mut watch = bus.view().watch_served().unwrap();
    let mut all = news(&mut watch).await;
    all.topics.sort_by(|one, other| one.0.as_str().cmp(other.0.as_str()));
    assert!(all.is_all);
    let told: Vec<_> = all.topics.iter().map(|(topic, served)| (topic.as_str(), served.clone())).collect();
    let [("clock", Some(single)), ("work", Some(grouped))] = &told[..] else { panic!("{told:?}") };
    assert_eq!((single.group.as_deref(), grouped.group.as_deref()), (None, Some("workers")));
    assert!(now_or_never(watch.next()).await.is_none(), "nothing has changed since");

    // What comes and goes is told once, as it is then; a second member changes nothing.
    drop(client.serve_bytes("brief").await.unwrap());
    drop(clock);
    let _second = client.serve_bytes_with("work", ServeOptions::default().group("workers")).await.unwrap();
    client.ping().await.unwrap();
    let mut changed = news(&mut watch).await;
    changed.topics.sort_by(|one, other| one.0.as_str().cmp(other.0.as_str()));
    let told: Vec<_> = changed.topics.iter().map(|(topic, served)| (topic.as_str(), served)).collect();
    assert_eq!(told, [("brief", &None), ("clock", &None)]);
    assert!(!changed.is_all);
}

#[tokio::test]
async fn a_watch_tells_that_another_server_has_taken_over() {
    let bus = Bus::builder().start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let _first = client.serve_bytes("clock").await.unwrap();
    let mut watch = bus.view().watch_served().unwrap();
    let before = news(&mut watch).await.topics[0].1.clone().unwrap();
    assert_eq!(before.mode, ServeMode::Join);
    let _second = client.serve_bytes_with("clock", ServeOptions::default().take_over()).await.unwrap();
    let after = news(&mut watch).await.topics[0].1.clone().unwrap();
    assert_eq!(after.mode, ServeMode::TakeOver);
    assert_ne!(after.number, before.number);
}

#[tokio::test]
async fn a_topic_that_is_served_anew_is_told_from_what_it_was_before() {
    let bus = Bus::builder().start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let mut first = client.serve_bytes("clock").await.unwrap();
    let mut watch = bus.view().watch_served().unwrap();
    let before = news(&mut watch).await.topics[0].1.clone().unwrap();
    first.drain().await.unwrap();
    let _second = client.serve_bytes("clock").await.unwrap();
    let after = news(&mut watch).await.topics[0].1.clone().unwrap();
    assert_ne!(after, before);
}

#[tokio::test]
async fn the_bus_keeps_its_own_topics_and_its_uplink_to_itself() {
    let Joined { bus, cluster: _cluster, uplink: _uplink, client: _client } = joined().await;
    let mut watch = bus.view().watch_served().unwrap();
    assert_eq!(news(&mut watch).await.topics, []);
    let _other = own(&bus).serve_bytes("$bus/other").await.unwrap();
    assert!(now_or_never(watch.next()).await.is_none());
}

#[tokio::test]
async fn a_watch_that_is_asked_too_late_is_told_all() {
    let bus = Bus::builder().start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let mut watch = bus.view().watch_served().unwrap();
    assert!(news(&mut watch).await.is_all);
    let mut servings = Vec::new();
    for number in 0..=whispeer::limits::SERVED_CHANGES {
        servings.push(client.serve_bytes(&format!("topic/{number}")).await.unwrap());
    }
    servings.truncate(3);
    client.ping().await.unwrap();
    let all = news(&mut watch).await;
    assert!(all.is_all);
    assert_eq!(all.topics.len(), 3);
}

#[tokio::test]
async fn watches_are_bounded_and_end_with_the_bus() {
    let bus = Bus::builder().start().unwrap();
    let view = bus.view();
    let mut watches: Vec<_> =
        (0..whispeer::limits::SERVED_WATCHES).map(|_| view.watch_served().unwrap()).collect();
    assert!(matches!(view.watch_served(), Err(BusError::LimitReached { .. })));
    watches.truncate(1);
    let mut other = view.watch_served().unwrap();
    let mut first = watches.remove(0);
    news(&mut first).await;
    news(&mut other).await;
    let (ended, ()) = tokio::join!(first.next(), bus.stop());
    assert!(ended.is_none());
    assert!(soon("the end", other.next()).await.is_none());
    assert!(matches!(view.watch_served(), Err(BusError::Closed { .. })));
}

#[tokio::test]
async fn servings_can_be_ended_by_who_decides_over_several_buses_unless_they_have_changed() {
    let bus = Bus::builder().start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let mut first = client.serve_bytes("clock").await.unwrap();
    let mut watch = bus.view().watch_served().unwrap();
    let (topic, before) = news(&mut watch).await.topics.remove(0);
    let mut second = client.serve_bytes_with("clock", ServeOptions::default().take_over()).await.unwrap();
    let (_, after) = news(&mut watch).await.topics.remove(0);

    let error = BusError::AlreadyServed { topic: "clock".into() };
    assert!(!bus.view().end_served(&topic, &before.unwrap(), &error).unwrap(), "another one serves it now");
    let asked = tokio::spawn({
        let client = client.clone();
        async move { client.request_bytes("clock", "".into()).await }
    });
    let (_, id, _) = soon("the request", second.recv()).await.unwrap();
    assert!(bus.view().end_served(&topic, &after.unwrap(), &error).unwrap());
    assert!(soon("the end", second.recv()).await.is_none());
    assert!(matches!(second.close_reason(), Some(BusError::AlreadyServed { .. })));
    assert_eq!(news(&mut watch).await.topics, [(topic, None)]);

    client.respond_bytes(id, "noon".into()).await.unwrap();
    assert_eq!(soon("the answer", asked).await.unwrap().unwrap(), "noon", "what it was asked it can answer");
    let nobody = client.request_bytes("clock", "".into()).await;
    assert!(matches!(nobody, Err(BusError::NoServer { .. })), "{nobody:?}");
    assert!(soon("the end", first.recv()).await.is_none());
}
