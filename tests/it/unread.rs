//! Requests and replies that somebody leaves unread: what waits stays within the bounds of one session and of
//! the bus, others go on, and what can go on does as soon as there is room.

use std::time::Duration;

use bytes::Bytes;
use whispeer::bus::Settings;
use whispeer::client::{Policy, ServeOptions, SubscribeOptions};
use whispeer::limits::{CONTROL_LANE_BYTES, SESSION_PART};
use whispeer::prelude::*;
use whispeer::proto::fields::FieldsBuilder;
use whispeer::proto::{Flags, Header, Kind, Refusal};
use whispeer_testkit::raw::{RawPeer, Received};
use whispeer_testkit::wait::{eventually, soon};

use crate::ground::{Ground, settings};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A window that never holds anybody back.
fn boundless() -> Vec<u8> {
    let mut fields = FieldsBuilder::new();
    fields.window(1_000_000, 1 << 30).unwrap();
    fields.finish()
}

/// The next frame of that kind.
async fn next(peer: &mut RawPeer, kind: Kind) -> Received {
    loop {
        let frame = soon("a frame", peer.receive()).await.unwrap().expect("the connection lives");
        if frame.header.kind == kind {
            return frame;
        }
    }
}

fn error_of(frame: &Received) -> Option<BusError> {
    let failed = frame.header.flags.contains(Flags::ERROR);
    failed.then(|| Refusal::decode(&frame.payload).unwrap().into_error())
}

/// A peer that serves `topic`, with a window that never holds the bus back.
async fn serves(peer: &mut RawPeer, topic: &str) {
    peer.push_with(&Header::new(Kind::Serve, 1, 0), &boundless(), topic.as_bytes(), &[]);
    peer.flush().await.unwrap();
    next(peer, Kind::Accepted).await;
}

/// A small bus: a session's part of its budget is 128 KiB, of which replies may take half.
fn small(settings: &mut Settings) {
    settings.frame_limit = 128 * KIB;
    settings.byte_budget = MIB;
    settings.request_bytes = 64 * KIB;
}

#[tokio::test]
async fn a_requester_that_asks_on_without_reading_is_cut_off_within_its_bounds() {
    for reply in
        ["", "x", "longer than what would refuse it, which is no reason to send more of it to nobody"]
    {
        let ground = Ground::new(settings(small));
        let mut bystander = ground.bystander().await;
        let server = ground.client();
        let handling = server.handle_bytes("work", move |_| async move { Ok(reply.into()) }).await.unwrap();
        for mut peer in ground.peers().await {
            let before = ground.bus.stats();
            let is_cut_off = || ground.bus.stats().sessions_cut_off > before.sessions_cut_off;
            let (mut id, mut most) = (0, 0);
            while !is_cut_off() {
                assert!(id < 200_000, "{id} requests, and {most} bytes are unread");
                for _ in 0..500 {
                    id += 1;
                    peer.push(&Header::new(Kind::Request, id, 0), "work", &[]);
                }
                peer.flush().await.unwrap();
                let made = before.requests + u64::from(id);
                eventually("all are answered", || {
                    let stats = ground.bus.stats();
                    most = most.max(stats.queued_bytes);
                    is_cut_off() || (stats.requests_in_flight == 0 && stats.requests >= made)
                })
                .await;
            }
            assert!(most < 64 * KIB + 2 * CONTROL_LANE_BYTES, "{most} bytes were unread");
            let reason = soon("a reason", peer.goodbye()).await;
            assert!(matches!(reason, BusError::ControlOverrun { .. }), "{reason:?}");
            bystander.goes_on().await;
        }
        drop(handling);
        server.close().await.unwrap();
        bystander.was_unharmed().await;
        ground.end().await;
    }
}

#[tokio::test]
async fn small_answers_to_what_was_asked_before_have_a_bound_too() {
    const SERVERS: u32 = 200;
    let ground = Ground::new(settings(|settings| {
        settings.frame_limit = 128 * KIB;
        settings.byte_budget = 4 * MIB;
        settings.request_bytes = 512 * KIB;
    }));
    let mut bystander = ground.bystander().await;
    let [mut server, _] = ground.peers().await;
    let topic = |number: u32| format!("part/{}/{number}", "x".repeat(900));
    for number in 0..SERVERS {
        server.push_with(&Header::new(Kind::Serve, number, 0), &boundless(), topic(number).as_bytes(), &[]);
    }
    server.flush().await.unwrap();
    for _ in 0..SERVERS {
        next(&mut server, Kind::Accepted).await;
    }
    for mut peer in ground.peers().await {
        let before = ground.bus.stats();
        // Each request takes 33 bytes for each server, and each answer takes 900 at least.
        const REQUESTS: u32 = 50;
        for id in 1..=REQUESTS {
            peer.push(&Header::new(Kind::Request, id, 0).flagged(Flags::SCATTER), "part/*/*", &[]);
        }
        peer.flush().await.unwrap();
        let mut tokens = Vec::new();
        while tokens.len() < (REQUESTS * SERVERS) as usize {
            tokens.push(next(&mut server, Kind::Ask).await.header.sequence);
        }
        for token in tokens {
            server.push(&Header::new(Kind::Reply, 0, token), "", &[]);
        }
        server.flush().await.unwrap();
        eventually("it is cut off", || ground.bus.stats().sessions_cut_off > before.sessions_cut_off).await;
        let reason = soon("a reason", peer.goodbye()).await;
        assert!(matches!(reason, BusError::ControlOverrun { .. }), "{reason:?}");
        bystander.goes_on().await;
    }
    drop(server);
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test]
async fn a_requester_that_reads_late_gets_an_answer_to_each_request_and_lives() {
    const REQUESTS: u32 = 500;
    let ground = Ground::new(settings(small));
    let server = ground.client();
    let reply = Bytes::from(vec![7; 2 * KIB]);
    let large = reply.clone();
    let _handling =
        server.handle_bytes("work", move |_| std::future::ready(Ok(large.clone()))).await.unwrap();
    for mut peer in ground.peers().await {
        for round in 0..20 {
            let made = ground.bus.stats().requests + u64::from(REQUESTS);
            for id in 1..=REQUESTS {
                peer.push(&Header::new(Kind::Request, id, 0), "work", &[]);
            }
            peer.flush().await.unwrap();
            eventually("all are answered", || {
                let stats = ground.bus.stats();
                stats.requests >= made && stats.requests_in_flight == 0
            })
            .await;
            let mut answered = vec![false; REQUESTS as usize];
            let mut good = 0;
            for _ in 0..REQUESTS {
                let frame = next(&mut peer, Kind::Answer).await;
                let earlier = std::mem::replace(&mut answered[frame.header.id as usize - 1], true);
                assert!(!earlier, "two answers to request {} of round {round}", frame.header.id);
                match error_of(&frame) {
                    None => good += usize::from(frame.payload == reply),
                    Some(BusError::Overloaded { .. }) => {}
                    Some(error) => panic!("{error:?}"),
                }
            }
            assert!(good > 0, "round {round}");
        }
    }
    assert_eq!(ground.bus.stats().sessions_cut_off, 0);
}

#[tokio::test]
async fn requests_to_a_server_that_does_not_read_wait_within_its_part_of_the_budget() {
    const BUDGET: usize = 16 * MIB;
    let ground = Ground::new(settings(|settings| {
        settings.byte_budget = BUDGET;
        settings.request_bytes = 4 * MIB;
    }));
    let mut bystander = ground.bystander().await;
    for mut server in ground.peers().await {
        serves(&mut server, "work").await;
        let (mut clients, mut asked) = (Vec::new(), tokio::task::JoinSet::new());
        for _ in 0..20 {
            let client = ground.client();
            for _ in 0..3 {
                let client = client.clone();
                asked.spawn(async move { client.request_bytes("work", vec![0; MIB].into()).await });
            }
            client.ping().await.unwrap();
            clients.push(client);
            bystander.goes_on().await;
        }
        // What the link has and what waits for it, a frame beyond each.
        let bound = 2 * (BUDGET / SESSION_PART + MIB) + 64 * KIB;
        let queued = ground.bus.stats().queued_bytes;
        assert!(queued <= bound, "{queued} bytes wait, of {bound}");
        // The server reads: everything that was not refused reaches it.
        let (mut good, mut refused) = (0, 0);
        loop {
            tokio::select! {
                answer = asked.join_next() => match answer.map(Result::unwrap) {
                    None => break,
                    Some(Ok(_)) => good += 1,
                    Some(Err(BusError::Overloaded { .. })) => refused += 1,
                    Some(Err(error)) => panic!("{error:?}"),
                },
                ask = next(&mut server, Kind::Ask) => {
                    server.send(&Header::new(Kind::Reply, 0, ask.header.sequence), "", b"done").await.unwrap();
                }
            }
        }
        assert!(good >= 3 && refused > 0, "{good} were answered and {refused} refused");
        drop(server);
        for client in clients {
            client.close().await.unwrap();
        }
        eventually("the topic is free", || ground.bus.stats().served_topics == 1).await;
    }
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test]
async fn requests_and_messages_that_wait_for_room_on_one_link_all_go_on() {
    const EACH: u32 = 400;
    const SERVINGS: u32 = 5;
    let ground = Ground::new(settings(|settings| {
        settings.byte_budget = 4 * MIB;
        settings.frame_limit = 128 * KIB;
        settings.block_limit = Duration::from_secs(60);
    }));
    let publisher = ground.client();
    let requester = ground.client();
    for mut server in ground.peers().await {
        for id in 0..SERVINGS {
            let topic = format!("work/{id}");
            server.push_with(&Header::new(Kind::Serve, id, 0), &boundless(), topic.as_bytes(), &[]);
        }
        server.push_with(&Header::new(Kind::Subscribe, 1, 0), &boundless(), b"news", &[]);
        server.flush().await.unwrap();
        for _ in 0..=SERVINGS {
            next(&mut server, Kind::Accepted).await;
        }
        let news = publisher.publisher_bytes("news").unwrap();
        let publishing = tokio::spawn(async move {
            for _ in 0..EACH {
                news.send(&vec![0; 6 * KIB].into()).await.unwrap();
            }
        });
        eventually("messages wait for the link", || ground.bus.stats().parked_messages > 0).await;
        let mut asked = tokio::task::JoinSet::new();
        for number in 0..EACH {
            let (requester, topic) = (requester.clone(), format!("work/{}", number % SERVINGS));
            asked.spawn(async move { requester.request_bytes(&topic, vec![0; 4 * KIB].into()).await });
        }
        eventually("requests wait for the link", || ground.bus.stats().requests_waiting == EACH as usize)
            .await;
        // It reads, and whatever waits goes on until all is there.
        let (mut asks, mut messages) = (0, 0);
        while asks < EACH || messages < EACH {
            let frame = soon("the next frame", server.receive()).await.unwrap().unwrap();
            match frame.header.kind {
                Kind::Ask => {
                    asks += 1;
                    server.push(&Header::new(Kind::Reply, 0, frame.header.sequence), "", b"done");
                    server.flush().await.unwrap();
                }
                Kind::Deliver => messages += 1,
                Kind::Gap => panic!("a gap after {messages} messages"),
                _ => {}
            }
        }
        while let Some(answer) = soon("an answer", asked.join_next()).await {
            assert_eq!(answer.unwrap().unwrap(), "done");
        }
        soon("the end of the news", publishing).await.unwrap();
        drop(server);
        eventually("its topics are free", || ground.bus.stats().served_topics == 0).await;
    }
    publisher.close().await.unwrap();
    requester.close().await.unwrap();
    ground.end().await;
}

#[tokio::test]
async fn a_group_gives_its_requests_to_the_member_that_has_room() {
    let ground = Ground::new(settings(|settings| {
        settings.frame_limit = 128 * KIB;
        settings.byte_budget = MIB;
    }));
    let requester = ground.client();
    for mut full in ground.peers().await {
        let mut fields = FieldsBuilder::new();
        fields.window(1_000_000, 1 << 30).unwrap();
        fields.group("workers").unwrap();
        full.push_with(&Header::new(Kind::Serve, 1, 0), fields.as_bytes(), b"work", &[]);
        full.flush().await.unwrap();
        next(&mut full, Kind::Accepted).await;
        let mut asked = tokio::task::JoinSet::new();
        let mut ask = |payload: Bytes| {
            let requester = requester.clone();
            asked.spawn(async move { requester.request_bytes("work", payload).await });
        };
        while ground.bus.stats().requests_waiting == 0 {
            let made = ground.bus.stats().requests;
            ask(vec![0; 30 * KIB].into());
            eventually("it is there", || ground.bus.stats().requests > made).await;
        }
        let (waited, in_flight) =
            (ground.bus.stats().requests_waiting, ground.bus.stats().requests_in_flight);
        // What waited for the one goes to the other, and so does what comes.
        let other = ground.client();
        let options = ServeOptions::default().group("workers");
        let mut serving = other.serve_bytes_with("work", options).await.unwrap();
        for _ in 0..10 {
            ask(Bytes::new());
        }
        for _ in 0..waited + 10 {
            let (_, id, _) = soon("a request", serving.recv()).await.unwrap();
            other.respond_bytes(id, "done".into()).await.unwrap();
        }
        drop((full, serving));
        let (mut done, mut gone) = (0, 0);
        while let Some(answer) = soon("an answer", asked.join_next()).await {
            match answer.unwrap() {
                Ok(_) => done += 1,
                Err(BusError::ServerGone { .. }) => gone += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!((done, gone), (waited + 10, in_flight - waited));
        other.close().await.unwrap();
    }
    requester.close().await.unwrap();
    ground.end().await;
}

#[tokio::test]
async fn while_the_byte_budget_is_spent_requests_are_refused_and_the_bus_tells_about_itself() {
    let ground = Ground::new(settings(|settings| {
        settings.frame_limit = 128 * KIB;
        settings.byte_budget = 256 * KIB;
    }));
    let server = ground.client();
    let _handling = server.handle_bytes("work", |payload| async { Ok(payload) }).await.unwrap();
    let requester = ground.client();
    // Several sessions together spend it, none alone may.
    let mut hoarders = Vec::new();
    let publisher = ground.client();
    while ground.bus.stats().queued_bytes < 256 * KIB {
        let hoarder = ground.client();
        let options = SubscribeOptions::default().policy(Policy::DropOldest).window(3, MIB as u64);
        hoarders.push(hoarder.subscribe_bytes_with("news", options).await.unwrap());
        for _ in 0..4 {
            // Refused once the budget is spent.
            let _ = publisher.publisher_bytes("news").unwrap().send(&vec![0; 60 * KIB].into()).await;
        }
        publisher.ping().await.unwrap();
    }
    let refused = soon("a refusal", requester.request_bytes("work", "anyone?".into())).await;
    assert!(matches!(refused, Err(BusError::Overloaded { .. })), "{refused:?}");
    let stats = soon("its state", requester.request_bytes("$bus/stats", Bytes::new())).await;
    assert!(!stats.unwrap().is_empty());
    drop(hoarders);
    eventually("there is room", || ground.bus.stats().queued_bytes < 256 * KIB).await;
    assert_eq!(soon("an answer", requester.request_bytes("work", "now?".into())).await.unwrap(), "now?");
}
