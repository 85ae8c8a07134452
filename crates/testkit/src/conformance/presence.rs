//! Who is there, and what those leave behind who are gone.

use tokio::task::yield_now;
use whispeer::client::{PresenceEvent, PublishOptions};
use whispeer::{BusError, Client};

use super::{number, take};
use crate::kit::Kit;
use crate::ledger::Live;
use crate::wait::{eventually, now_or_never, soon};

pub(crate) async fn the_will_of_a_client_that_is_gone_is_published(kit: &Kit) -> Live {
    let bus = kit.start();
    let watcher = kit.client().await;
    let mut workers = watcher.subscribe_bytes("workers/*").await.unwrap();
    let (gone, link) = kit.breakable_client().await;
    for will in [1, 2] {
        gone.set_will_bytes("workers/7", number(will), PublishOptions::default()).await.unwrap();
    }
    gone.publish_bytes("workers/7", number(0)).await.unwrap();
    assert_eq!(take(&mut workers, 1).await, [0]);
    link.close();
    assert_eq!(take(&mut workers, 1).await, [2], "the last one counts");
    eventually("only the watcher is left", || bus.stats().sessions == 1).await;
    watcher.flush().await.unwrap();
    assert!(now_or_never(workers.recv()).await.is_none(), "it is published once");
    Live::of(workers)
}

pub(crate) async fn a_client_that_closes_or_takes_its_will_back_leaves_none(kit: &Kit) -> Live {
    let bus = kit.start();
    let watcher = kit.client().await;
    let mut workers = watcher.subscribe_bytes("workers/*").await.unwrap();
    let closes = kit.client().await;
    closes.set_will_bytes("workers/1", number(1), PublishOptions::default()).await.unwrap();
    closes.close().await.unwrap();
    let (changes, link) = kit.breakable_client().await;
    changes.set_will_bytes("workers/2", number(2), PublishOptions::default()).await.unwrap();
    changes.clear_will().await.unwrap();
    link.close();
    eventually("only the watcher is left", || bus.stats().sessions == 1).await;
    watcher.flush().await.unwrap();
    assert!(now_or_never(workers.recv()).await.is_none());
    Live::of(workers)
}

pub(crate) async fn who_is_subscribed_is_known_and_told_when_that_changes(kit: &Kit) -> Live {
    // Presence is for the bus's own user, who is not known as such over a network.
    let watcher = Client::new_memory(&kit.start().connector()).unwrap();
    // A bus begins to answer questions about itself a moment after it begins to listen.
    let answers = async {
        while let Err(BusError::NoServer { .. }) = watcher.presence("**").await {
            yield_now().await;
        }
    };
    soon("the bus answers who is there", answers).await;
    let mut watch = watcher.watch_presence("chat/**").await.unwrap();
    let mut next = async || match soon("somebody comes or goes", watch.recv()).await {
        Some(PresenceEvent::Join(member)) => ("join", member.pattern, member.session),
        Some(PresenceEvent::Leave(member)) => ("leave", member.pattern, member.session),
        other => panic!("{other:?}"),
    };
    let (guest, link) = kit.breakable_client().await;
    let session = guest.session_id().unwrap();
    let lobby = guest.subscribe_bytes("chat/lobby").await.unwrap();
    assert_eq!(next().await, ("join", "chat/lobby".to_owned(), session));
    let _all = guest.subscribe_bytes("chat/*").await.unwrap();
    assert_eq!(next().await, ("join", "chat/*".to_owned(), session));
    let members = watcher.presence("chat/lobby").await.unwrap();
    let shown: Vec<_> = members.iter().map(|member| (member.pattern.as_str(), member.session)).collect();
    assert_eq!(shown, [("chat/lobby", session), ("chat/*", session)]);
    drop(lobby);
    assert_eq!(next().await, ("leave", "chat/lobby".to_owned(), session));
    // One that is gone without a word has left as well.
    link.close();
    assert_eq!(next().await, ("leave", "chat/*".to_owned(), session));
    assert!(watcher.presence("**").await.unwrap().is_empty());
    drop(watch);
    watcher.flush().await.unwrap();
    Live::none()
}
