//! Buses tell each other that they are there.

use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use whispeer_cluster_nats::members::{self, MemberEvent, Members};
use whispeer_testkit::wait::soon;

use crate::ground::{Node, cluster, connect, server, subjects};

async fn next(events: &mut broadcast::Receiver<MemberEvent>) -> MemberEvent {
    soon("news of a bus", events.recv()).await.unwrap()
}

#[tokio::test]
async fn buses_know_each_other_and_one_that_leaves_is_gone_at_once() {
    let Some(server) = server().await else { return };
    let mut nodes = cluster(&server, 3).await;
    let names: Vec<String> = nodes[0].members.list().into_iter().map(|member| member.name).collect();
    assert_eq!(names, ["bus-2", "bus-3"]);
    let mut events = nodes[0].members.events();
    let left = Instant::now();
    nodes.pop().unwrap().leave().await;
    assert_eq!(next(&mut events).await, MemberEvent::Left { id: 3 });
    assert!(left.elapsed() < Duration::from_secs(2), "{:?}", left.elapsed());
}

#[tokio::test]
async fn a_bus_that_is_killed_is_gone_after_three_intervals() {
    let Some(server) = server().await else { return };
    let mut nodes = cluster(&server, 2).await;
    let mut events = nodes[0].members.events();
    let killed = Instant::now();
    nodes.pop().unwrap().kill().await;
    assert!(matches!(next(&mut events).await, MemberEvent::Gone { id: 2, .. }));
    let after = killed.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&after), "{after:?}");
}

#[tokio::test]
async fn a_bus_that_was_cut_off_says_so_when_it_is_back() {
    let Some(server) = server().await else { return };
    let node = Node::start(&server, 1).await;
    let (nats, _connection) = connect(&server).await;
    let other = Members::new(2);
    let (told, connection) = watch::channel(Some(1));
    let mut events = node.members.events();
    let subjects = subjects();
    let run = members::run(
        &nats,
        &subjects,
        "two",
        &other,
        connection,
        (std::future::pending(), std::future::pending()),
    );
    let look = async {
        assert_eq!(next(&mut events).await, MemberEvent::Joined { id: 2 });
        told.send_replace(None);
        tokio::task::yield_now().await;
        told.send_replace(Some(2));
        assert!(matches!(next(&mut events).await, MemberEvent::Reconnected { id: 2, .. }));
    };
    tokio::select! {
        ended = run => panic!("{ended:?}"),
        () = look => {}
    }
}
