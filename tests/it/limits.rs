//! Every limit that can be set is used, and says what it is.

use std::time::Duration;

use bytes::Bytes;
use whispeer::bus::Settings;
use whispeer::client::{ManyOptions, Policy, RequestId, ServeOptions, SubscribeOptions};
use whispeer::limits::{
    FRAME_LIMIT, READ_CHUNK, REQUEST_BYTES_PER_SESSION, REQUESTS_WAITING_PER_SERVICE,
    SUBSCRIPTIONS_PER_SESSION, TABLE_BUDGET, TABLE_PART,
};
use whispeer::prelude::*;
use whispeer::proto::fields::FieldsBuilder;
use whispeer::proto::{Flags, HEADER_LEN, Header, Kind, Refusal};
use whispeer_testkit::raw::{RawPeer, Received};
use whispeer_testkit::wait::{eventually, now_or_never, soon};

use crate::ground::{Ground, settings};

fn is_limit<T: std::fmt::Debug>(result: BusResult<T>) {
    assert!(matches!(result, Err(BusError::LimitReached { .. })), "{result:?}");
}

/// The next answer to a request of this peer, and the error that it carries.
async fn answer(peer: &mut RawPeer) -> (Received, Option<BusError>) {
    loop {
        let frame = soon("an answer", peer.receive()).await.unwrap().expect("the connection lives");
        if frame.header.kind == Kind::Answer {
            let failed = frame.header.flags.contains(Flags::ERROR);
            let error = failed.then(|| Refusal::decode(&frame.payload).unwrap().into_error());
            return (frame, error);
        }
    }
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_finds_room_later() {
    let ground = Ground::new(settings(|settings| settings.max_sessions = 2));
    let (one, other) = (ground.client(), ground.client());
    one.ping().await.unwrap();
    other.ping().await.unwrap();
    is_limit(Client::new_unix(&ground.socket()).await);
    is_limit(ground.client().ping().await);
    one.close().await.unwrap();
    eventually("there is room", || ground.bus.stats().sessions == 1).await;
    let mut found = Client::new_unix(&ground.socket()).await;
    while found.is_err() {
        tokio::task::yield_now().await;
        found = Client::new_unix(&ground.socket()).await;
    }
    found.unwrap().close().await.unwrap();
    other.close().await.unwrap();
    ground.end().await;
}

#[tokio::test]
async fn subscriptions_and_servings_of_a_session_are_limited() {
    let ground = Ground::new(settings(|settings| {
        settings.max_subscriptions = 2;
        settings.max_servings = 1;
    }));
    let client = ground.client();
    let one = client.subscribe_bytes("a").await.unwrap();
    let _other = client.subscribe_bytes("a").await.unwrap();
    is_limit(client.subscribe_bytes("b").await);
    let _serving = client.serve_bytes("a").await.unwrap();
    is_limit(client.serve_bytes("b").await);
    drop(one);
    client.flush().await.unwrap();
    let _third = client.subscribe_bytes("b").await.unwrap();
}

/// A pattern that takes about as much memory as one can.
fn large_pattern(number: usize) -> String {
    let fragments: Vec<_> = (0..64).map(|fragment| format!("{number:08}{fragment:06}")).collect();
    fragments.join("/")
}

#[tokio::test]
async fn servings_count_with_the_subscriptions_of_their_session() {
    let ground = Ground::new(settings(|settings| settings.table_budget = 256 * 1024));
    let client = ground.client();
    let mut subscriptions = Vec::new();
    for number in 0..2 {
        subscriptions.push(client.subscribe_bytes(&large_pattern(number)).await.unwrap());
    }
    let mut servings = Vec::new();
    let refused = loop {
        match client.serve_bytes(&large_pattern(servings.len())).await {
            Ok(serving) => servings.push(serving),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, BusError::LimitReached { .. }), "{refused:?}");
    assert!(refused.to_string().contains("table budget"), "{refused}");
    let full = ground.bus.stats().table_bytes;
    assert!(full <= 64 * 1024, "{full}");
    assert_eq!(ground.bus.sessions().iter().map(|session| session.table_bytes).sum::<usize>(), full);
    // What ends makes room, also for a subscription, and what is taken over counts at who has it.
    drop(servings.pop());
    eventually("there is room", || ground.bus.stats().table_bytes < full).await;
    subscriptions.push(client.subscribe_bytes(&large_pattern(9)).await.unwrap());
    let other = Client::new_unix(&ground.socket()).await.unwrap();
    let options = ServeOptions::default().take_over();
    let taken = other.serve_bytes_with(&large_pattern(0), options).await.unwrap();
    assert_eq!(ground.bus.stats().table_bytes, full);
    client.close().await.unwrap();
    drop(taken);
    other.close().await.unwrap();
    eventually("all is given back", || ground.bus.stats().table_bytes == 0).await;
    ground.end().await;
}

#[tokio::test]
async fn subscriptions_are_limited_by_their_bytes_in_each_session_and_over_all() {
    const BUDGET: usize = 256 * 1024;
    let ground = Ground::new(settings(|settings| settings.table_budget = BUDGET));
    let mut clients = Vec::new();
    let mut subscriptions = Vec::new();
    let mut refused = 0;
    for _ in 0..5 {
        let client = ground.client();
        for number in 0.. {
            match client.subscribe_bytes(&large_pattern(number)).await {
                Ok(subscription) => subscriptions.push(subscription),
                Err(error) => {
                    assert!(matches!(error, BusError::LimitReached { .. }), "{error:?}");
                    assert!(error.to_string().contains("table budget"), "{error}");
                    refused += 1;
                    break;
                }
            }
        }
        clients.push(client);
    }
    assert_eq!(refused, 5);
    let stats = ground.bus.stats();
    assert!(stats.table_bytes <= BUDGET && stats.table_bytes > BUDGET / 2, "{stats:?}");
    assert_eq!(stats.table_budget, BUDGET);
    for session in ground.bus.sessions() {
        assert!(session.table_bytes <= BUDGET / 4, "{session:?}");
    }
    let sum: usize = ground.bus.sessions().iter().map(|session| session.table_bytes).sum();
    assert_eq!(sum, stats.table_bytes);
    // What ends makes room, for its own session and for others.
    let other = Client::new_unix(&ground.socket()).await.unwrap();
    drop(subscriptions.drain(..4));
    clients[0].flush().await.unwrap();
    eventually("there is room", || ground.bus.stats().table_bytes < stats.table_bytes).await;
    drop(soon("a subscription", other.subscribe_bytes(&large_pattern(7))).await.unwrap());
    drop(soon("a subscription", clients[0].subscribe_bytes(&large_pattern(7))).await.unwrap());
    for client in clients {
        client.close().await.unwrap();
    }
    other.close().await.unwrap();
    eventually("all is given back", || ground.bus.stats().table_bytes == 0).await;
    drop(subscriptions);
    ground.end().await;
}

#[tokio::test]
async fn a_session_has_room_for_all_the_subscriptions_of_the_default_limit_if_they_are_ordinary() {
    let ground = Ground::new(Bus::builder());
    let client = ground.client();
    let _one = client.subscribe_bytes("building/100000/floor/temperature").await.unwrap();
    let each = ground.bus.stats().table_bytes;
    assert!(each * SUBSCRIPTIONS_PER_SESSION <= TABLE_BUDGET / TABLE_PART, "{each}");
    assert!(each * 1_000_000 <= 3 * TABLE_BUDGET / 2, "{each}");
}

#[tokio::test]
async fn members_of_a_queue_group_take_room_as_others_do() {
    let ground = Ground::new(Bus::builder());
    let client = ground.client();
    let alone = client.subscribe_bytes("job").await.unwrap();
    let each = ground.bus.stats().table_bytes;
    let options = SubscribeOptions::default().group("workers");
    let one = client.subscribe_bytes_with("job", options.clone()).await.unwrap();
    let other = client.subscribe_bytes_with("job", options).await.unwrap();
    assert!(ground.bus.stats().table_bytes > 3 * each);
    drop((alone, one, other));
    client.close().await.unwrap();
    eventually("all is given back", || ground.bus.stats().table_bytes == 0).await;
    ground.end().await;
}

#[tokio::test]
async fn the_bus_keeps_its_limits_whatever_a_client_thinks() {
    let ground = Ground::new(settings(|settings| {
        settings.max_subscriptions = 2;
        settings.max_requests = 2;
    }));
    let server = ground.client();
    let serving = server.serve_bytes("work").await.unwrap();
    for mut peer in ground.peers().await {
        for id in 1..=3 {
            peer.push(&Header::new(Kind::Subscribe, id, 0), "a", &[]);
            peer.push(&Header::new(Kind::Request, id, 0), "work", &[]);
        }
        peer.flush().await.unwrap();
        let mut refused = Vec::new();
        while refused.len() < 2 {
            let frame = soon("a refusal", peer.receive()).await.unwrap().unwrap();
            if matches!(frame.header.kind, Kind::Failed | Kind::Answer) {
                assert_eq!(frame.header.id, 3);
                refused.push(frame.header.kind);
            }
        }
    }
    drop(serving);
}

#[tokio::test]
async fn a_scattered_request_counts_once_for_each_server_that_has_not_answered() {
    let bus = settings(|settings| settings.request_bytes = 100_000).start().unwrap();
    let (server, client) =
        (Client::new_memory(&bus.connector()).unwrap(), Client::new_memory(&bus.connector()).unwrap());
    let mut servings = Vec::new();
    for topic in ["part/1", "part/2", "part/3", "part/4"] {
        servings.push(server.serve_bytes(topic).await.unwrap());
    }
    let scatter = |size| client.request_many_bytes("part/*", vec![0; size].into(), ManyOptions::default());
    is_limit(scatter(30_000).await);
    let asked = async {
        let mut requests = Vec::new();
        for serving in &mut servings {
            requests.push(serving.recv().await.unwrap().1);
        }
        // 80,000 bytes are with the servers.
        is_limit(client.request_bytes("part/1", vec![0; 30_000].into()).await);
        for id in requests.drain(..2) {
            server.respond_bytes(id, Bytes::new()).await.unwrap();
        }
        server.flush().await.unwrap();
        // 40,000 are left, and room for as much again.
        let (answer, ()) = tokio::join!(client.request_bytes("part/1", vec![0; 30_000].into()), async {
            let (_, id, _) = servings[0].recv().await.unwrap();
            server.respond_bytes(id, "in time".into()).await.unwrap();
        });
        assert_eq!(answer.unwrap(), "in time");
        for id in requests {
            server.respond_bytes(id, Bytes::new()).await.unwrap();
        }
    };
    let (answers, ()) = soon("the answers", async { tokio::join!(scatter(20_000), asked) }).await;
    assert_eq!(answers.unwrap().len(), 4);
    // Nothing is outstanding any more: a request larger than the limit goes to one server alone.
    let (answer, ()) = tokio::join!(client.request_bytes("part/1", vec![0; 200_000].into()), async {
        let (_, id, _) = servings[0].recv().await.unwrap();
        server.respond_bytes(id, "large".into()).await.unwrap();
    });
    assert_eq!(answer.unwrap(), "large");
}

#[tokio::test]
async fn unanswered_requests_of_a_session_are_limited_by_their_bytes() {
    let ground = Ground::new(settings(|settings| settings.request_bytes = 1_000));
    let server = ground.client();
    let mut serving = server.serve_bytes("work").await.unwrap();
    for client in [ground.client(), Client::new_unix(&ground.socket()).await.unwrap()] {
        let ask = |size: usize| {
            let client = client.clone();
            tokio::spawn(async move { client.request_bytes("work", vec![0; size].into()).await })
        };
        let mut requests: Vec<(_, RequestId)> = Vec::new();
        for _ in 0..2 {
            let request = ask(400);
            requests.push((request, soon("a request", serving.recv()).await.unwrap().1));
        }
        is_limit(soon("a refusal", ask(400)).await.unwrap());
        // What another session has unanswered does not count.
        let echo = ground.client();
        let other = tokio::spawn(async move { echo.request_bytes("work", vec![0; 900].into()).await });
        let (_, id, _) = soon("the request of another", serving.recv()).await.unwrap();
        server.respond_bytes(id, "other".into()).await.unwrap();
        assert_eq!(soon("an answer", other).await.unwrap().unwrap(), "other");
        // An answer makes room, and so does a request that is given up.
        let (answered, id) = requests.pop().unwrap();
        server.respond_bytes(id, "done".into()).await.unwrap();
        assert_eq!(soon("an answer", answered).await.unwrap().unwrap(), "done");
        let given_up = ask(400);
        let (_, id, _) = soon("a request", serving.recv()).await.unwrap();
        given_up.abort();
        soon("the cancellation", id.cancelled()).await;
        let last = ask(400);
        requests.push((last, soon("a request", serving.recv()).await.unwrap().1));
        is_limit(soon("a refusal", ask(400)).await.unwrap());
        for (request, id) in requests {
            server.respond_bytes(id, "done".into()).await.unwrap();
            assert_eq!(soon("an answer", request).await.unwrap().unwrap(), "done");
        }
        // One always passes when nothing is outstanding.
        let large = ask(100_000);
        let (_, id, payload) = soon("the large request", serving.recv()).await.unwrap();
        assert_eq!(payload.len(), 100_000);
        server.respond_bytes(id, "large".into()).await.unwrap();
        assert_eq!(soon("an answer", large).await.unwrap().unwrap(), "large");
        client.close().await.unwrap();
    }
    drop(serving);
    server.close().await.unwrap();
    ground.serves_others().await;
    ground.end().await;
}

#[tokio::test]
async fn requests_that_wait_at_a_service_are_limited_and_there_is_room_again() {
    const LAST: u32 = REQUESTS_WAITING_PER_SERVICE as u32 + 1;
    let ground = Ground::new(settings(|settings| settings.max_requests = 2 * LAST as usize));
    let server = ground.client();
    let busy = ServeOptions::default().window(1, 1024);
    let mut serving = server.serve_bytes_with("work", busy).await.unwrap();
    for mut peer in ground.peers().await {
        // One is handed over; the others wait, up to the limit.
        for id in 1..=LAST + 1 {
            peer.push(&Header::new(Kind::Request, id, 0), "work", &[]);
        }
        peer.flush().await.unwrap();
        let (refused, error) = answer(&mut peer).await;
        assert_eq!(refused.header.id, LAST + 1);
        assert!(matches!(error, Some(BusError::Overloaded { .. })), "{error:?}");
        assert_eq!(ground.bus.served()[0].waiting, REQUESTS_WAITING_PER_SERVICE);
        let (_, id, _) = soon("the first request", serving.recv()).await.unwrap();
        server.respond_bytes(id, "done".into()).await.unwrap();
        let (answered, error) = answer(&mut peer).await;
        assert!(answered.header.id == 1 && error.is_none(), "{answered:?}: {error:?}");
        eventually("the next one is handed over", || {
            ground.bus.served()[0].waiting < REQUESTS_WAITING_PER_SERVICE
        })
        .await;
        for id in [LAST + 2, LAST + 3] {
            peer.push(&Header::new(Kind::Request, id, 0), "work", &[]);
        }
        peer.flush().await.unwrap();
        let (refused, error) = answer(&mut peer).await;
        assert_eq!(refused.header.id, LAST + 3, "the one before it found room");
        assert!(matches!(error, Some(BusError::Overloaded { .. })), "{error:?}");
        drop(peer);
        // Those that wait go with their requester.
        let (_, id, _) = soon("the second request", serving.recv()).await.unwrap();
        soon("the cancellation", id.cancelled()).await;
        eventually("none waits", || ground.bus.served()[0].waiting == 0).await;
        // One more may have been handed over before it was cancelled; looking for it gives its credit back.
        assert!(now_or_never(serving.recv()).await.is_none());
        server.flush().await.unwrap();
    }
    drop(serving);
    server.close().await.unwrap();
    ground.serves_others().await;
    ground.end().await;
}

#[tokio::test]
async fn requests_that_wait_at_a_service_are_limited_by_their_bytes_over_all_sessions() {
    const PAYLOAD: usize = FRAME_LIMIT - 1024;
    const FIT: usize = REQUEST_BYTES_PER_SESSION / PAYLOAD;
    let ground = Ground::new(Bus::builder());
    let server = ground.client();
    let busy = ServeOptions::default().window(1, 1024);
    let serving = server.serve_bytes_with("work", busy).await.unwrap();
    let payload = Bytes::from(vec![0; PAYLOAD]);
    let ask = |payload: &Bytes| {
        let (client, payload) = (ground.client(), payload.clone());
        tokio::spawn(async move { client.request_bytes("work", payload).await })
    };
    let waiting = || ground.bus.served()[0].waiting;
    // The first is handed over and not taken; those behind it wait.
    let mut asked = vec![ask(&Bytes::new())];
    eventually("it is handed over", || ground.bus.stats().requests_in_flight == 1).await;
    for count in 1..=FIT {
        asked.push(ask(&payload));
        eventually("it waits", || waiting() == count).await;
    }
    let refused = soon("a refusal", ask(&payload)).await.unwrap();
    assert!(matches!(refused, Err(BusError::Overloaded { .. })), "{refused:?}");
    asked.remove(FIT).abort();
    eventually("its place is free", || waiting() < FIT).await;
    asked.push(ask(&payload));
    eventually("another one waits", || waiting() == FIT).await;
    drop(serving);
    for asked in asked {
        let outcome = soon("an outcome", asked).await.unwrap();
        let expected = matches!(outcome, Err(BusError::NoServer { .. } | BusError::Abandoned { .. }));
        assert!(expected, "{outcome:?}");
    }
    server.close().await.unwrap();
    ground.serves_others().await;
    ground.end().await;
}

#[tokio::test]
async fn replies_that_come_in_one_piece_reach_a_requester_that_reads() {
    const REQUESTS: usize = 200;
    let ground = Ground::new(settings(|settings| settings.request_bytes = 64 * 1024));
    let [mut server, _] = ground.peers().await;
    server.send(&Header::new(Kind::Serve, 1, 0), "work", &[]).await.unwrap();
    eventually("the topic is served", || ground.bus.stats().served_topics == 1).await;
    let client = ground.client();
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..REQUESTS {
        let client = client.clone();
        asked.spawn(async move { client.request_bytes("work", Bytes::new()).await });
    }
    let mut tokens = Vec::new();
    while tokens.len() < REQUESTS {
        let frame = soon("a request", server.receive()).await.unwrap().unwrap();
        if frame.header.kind == Kind::Ask {
            tokens.push(frame.header.sequence);
        }
    }
    for token in tokens {
        server.push(&Header::new(Kind::Reply, 0, token), "", &[7; 4 * 1024]);
    }
    server.flush().await.unwrap();
    while let Some(answer) = soon("an answer", asked.join_next()).await {
        assert_eq!(answer.unwrap().unwrap().len(), 4 * 1024);
    }
}

#[tokio::test]
async fn a_burst_of_refused_calls_is_answered_to_a_peer_that_reads() {
    // As many as one read brings; their answers are far larger, and all go to the control lane.
    const CALLS: usize = READ_CHUNK / (HEADER_LEN + 1);
    let ground = Ground::new(Bus::builder());
    for mut peer in ground.peers().await {
        for id in 1..=CALLS as u32 {
            peer.push(&Header::new(Kind::Request, id, 0), "*", &[]);
        }
        peer.flush().await.unwrap();
        for _ in 0..CALLS {
            let (_, error) = answer(&mut peer).await;
            assert!(matches!(error, Some(BusError::InvalidSettings(_))), "{error:?}");
        }
        peer.send(&Header::new(Kind::Request, 1, 0), "*", &[]).await.unwrap();
        answer(&mut peer).await;
    }
    assert_eq!(ground.bus.stats().sessions_cut_off, 0);
    ground.end().await;
}

#[tokio::test]
async fn replies_that_a_requester_leaves_unread_become_errors_until_it_reads() {
    const REQUESTS: u32 = 1_000;
    let ground = Ground::new(settings(|settings| settings.request_bytes = 64 * 1024));
    let mut bystander = ground.bystander().await;
    let server = ground.client();
    let reply = Bytes::from(vec![7; 4 * 1024]);
    let large = reply.clone();
    let handling =
        server.handle_bytes("large", move |_| std::future::ready(Ok(large.clone()))).await.unwrap();
    for mut peer in ground.peers().await {
        let answered = ground.bus.stats().requests + u64::from(REQUESTS);
        for id in 1..=REQUESTS {
            peer.push(&Header::new(Kind::Request, id, 0), "large", &[]);
        }
        peer.flush().await.unwrap();
        eventually("all are answered", || {
            let stats = ground.bus.stats();
            stats.requests >= answered && stats.requests_in_flight == 0
        })
        .await;
        bystander.goes_on().await;
        // In the order of the requests: answers as long as there was room, then errors.
        let (mut good, mut overloaded) = (0, 0);
        for id in 1..=REQUESTS {
            let (frame, error) = answer(&mut peer).await;
            assert_eq!(frame.header.id, id);
            match error {
                None => {
                    assert!(frame.payload == reply && overloaded == 0, "an answer after {overloaded} errors");
                    good += 1;
                }
                Some(BusError::Overloaded { .. }) => overloaded += 1,
                Some(error) => panic!("{error:?}"),
            }
        }
        assert!(good > 0 && overloaded > 0, "{good} good answers and {overloaded} errors");
        peer.send(&Header::new(Kind::Request, 1, 0), "large", &[]).await.unwrap();
        assert!(answer(&mut peer).await.0.payload == reply, "there is room again");
    }
    drop(handling);
    server.close().await.unwrap();
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test]
async fn each_server_of_a_scattered_request_is_accounted_for_even_if_its_reply_finds_no_room() {
    const TOPICS: u64 = 50;
    const REQUESTS: u32 = 20;
    let ground = Ground::new(settings(|settings| settings.request_bytes = 64 * 1024));
    let mut bystander = ground.bystander().await;
    let server = ground.client();
    let reply = Bytes::from(vec![7; 4 * 1024]);
    let mut handlings = Vec::new();
    for topic in 0..TOPICS {
        let large = reply.clone();
        let topic = format!("part/{topic}");
        let answer = move |_| std::future::ready(Ok(large.clone()));
        handlings.push(server.handle_bytes(&topic, answer).await.unwrap());
    }
    for mut peer in ground.peers().await {
        let before = ground.bus.stats().requests;
        for id in 1..=REQUESTS {
            peer.push(&Header::new(Kind::Request, id, 0).flagged(Flags::SCATTER), "part/*", &[]);
        }
        peer.flush().await.unwrap();
        eventually("all are answered", || {
            let stats = ground.bus.stats();
            stats.requests >= before + u64::from(REQUESTS) && stats.requests_in_flight == 0
        })
        .await;
        bystander.goes_on().await;
        let mut replies = vec![0; REQUESTS as usize + 1];
        let (mut ended, mut overloaded) = (0, 0);
        while ended < REQUESTS {
            let (frame, error) = answer(&mut peer).await;
            let count = &mut replies[frame.header.id as usize];
            if frame.header.flags.contains(Flags::END) {
                assert_eq!((frame.header.sequence, *count), (TOPICS, TOPICS));
                ended += 1;
                continue;
            }
            *count += 1;
            match error {
                None => assert!(frame.payload == reply),
                Some(BusError::Overloaded { .. }) => overloaded += 1,
                Some(error) => panic!("{error:?}"),
            }
        }
        assert!(overloaded > 0 && overloaded < u64::from(REQUESTS) * TOPICS, "{overloaded} errors");
    }
    drop(handlings);
    server.close().await.unwrap();
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test]
async fn a_stream_that_a_requester_leaves_unread_ends_as_overloaded_and_its_server_sees_it() {
    let ground = Ground::new(settings(|settings| settings.request_bytes = 64 * 1024));
    let mut bystander = ground.bystander().await;
    let server = ground.client();
    let mut serving = server.serve_bytes("endless").await.unwrap();
    let item = Bytes::from(vec![7; 4 * 1024]);
    for mut peer in ground.peers().await {
        // No window would ever stop the server.
        let mut fields = FieldsBuilder::new();
        fields.window(1_000_000, 1 << 30).unwrap();
        let stream = Header::new(Kind::Request, 1, 0).flagged(Flags::STREAM);
        peer.push_with(&stream, fields.as_bytes(), b"endless", &[]);
        peer.flush().await.unwrap();
        let (_, id, _) = soon("the request", serving.recv()).await.unwrap();
        let mut responder = server.respond_stream_bytes(id).unwrap();
        let endless = async {
            loop {
                if let Err(error) = responder.send(&item).await {
                    return error;
                }
            }
        };
        let reason = soon("the end of the stream", endless).await;
        assert!(matches!(reason, BusError::Cancelled), "{reason:?}");
        bystander.goes_on().await;
        let mut items = 0;
        let end = loop {
            let (frame, error) = answer(&mut peer).await;
            if !frame.header.flags.contains(Flags::MORE) {
                assert!(frame.header.flags.contains(Flags::END), "{frame:?}");
                break error;
            }
            assert!(frame.payload == item);
            items += 1;
        };
        assert!(matches!(end, Some(BusError::Overloaded { .. })), "{end:?}");
        assert!(items > 0);
    }
    drop(serving);
    server.close().await.unwrap();
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test]
async fn a_peer_that_publishes_past_its_window_is_cut_off() {
    let ground = Ground::new(settings(|settings| settings.publish_window = (4, 1024 * 1024)));
    for mut peer in ground.peers().await {
        for _ in 0..64 {
            peer.push_publish("news", b"more than granted");
        }
        peer.flush().await.unwrap();
        let reason = soon("a reason", peer.goodbye()).await;
        assert!(matches!(reason, BusError::CreditExceeded { .. }), "{reason:?}");
    }
    ground.serves_others().await;
    ground.end().await;
}

#[tokio::test(start_paused = true)]
async fn publishes_wait_for_the_byte_budget_and_then_fail_as_overloaded() {
    let bus = settings(|settings| {
        settings.frame_limit = 128 * 1024;
        settings.byte_budget = 128 * 1024;
    })
    .start()
    .unwrap();
    let publisher = Client::new_memory(&bus.connector()).unwrap();
    // No session alone may hold that much, four of them together may.
    let mut subscriptions = Vec::new();
    for _ in 0..4 {
        let client = Client::new_memory(&bus.connector()).unwrap();
        let options = SubscribeOptions::default().policy(Policy::DropOldest).window(3, 1024 * 1024);
        subscriptions.push(client.subscribe_bytes_with("news", options).await.unwrap());
    }
    let payload = Bytes::from(vec![1; 60 * 1024]);
    for _ in 0..4 {
        publisher.publish_bytes("news", payload.clone()).await.unwrap();
    }
    assert!(bus.stats().queued_bytes > 128 * 1024);
    let start = tokio::time::Instant::now();
    let refused = publisher.publish_bytes("news", "small").await;
    assert!(matches!(refused, Err(BusError::Overloaded { .. })), "{refused:?}");
    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < Duration::from_secs(2));
    let news = publisher.publisher_bytes("news").unwrap();
    news.send(&"small".into()).await.unwrap();
    assert!(matches!(news.flush().await, Err(BusError::Overloaded { .. })));
    news.flush().await.expect("a failure is told once");
    assert_eq!(bus.stats().failed_publishes, 2);
    // A publish that waits goes through once there is room, and so does the flush behind it.
    let (published, ()) = tokio::join!(publisher.publish_bytes("news", "small"), async {
        for subscription in &mut subscriptions {
            for _ in 0..3 {
                subscription.recv().await.unwrap();
            }
        }
    });
    assert_eq!(published.unwrap(), 4);
}

#[tokio::test]
async fn a_window_of_nothing_or_too_much_is_refused_before_the_wire() {
    let ground = Ground::new(Bus::builder());
    let client = ground.client();
    let subscribe = |messages, bytes| {
        let options = SubscribeOptions::default().window(messages, bytes);
        let client = &client;
        async move { client.subscribe_bytes_with("a", options).await }
    };
    assert!(matches!(subscribe(0, 1).await, Err(BusError::InvalidSettings(_))));
    assert!(matches!(subscribe(1, 0).await, Err(BusError::InvalidSettings(_))));
    is_limit(subscribe(u32::MAX, 1).await);
    is_limit(subscribe(1, u64::MAX).await);
    let options = ServeOptions::default().group("");
    let refused = client.serve_bytes_with("a", options).await;
    assert!(matches!(refused, Err(BusError::InvalidSettings(_))), "{refused:?}");
}

#[tokio::test]
async fn settings_that_make_no_sense_start_no_bus() {
    let changes: [fn(&mut Settings); 10] = [
        |settings| settings.frame_limit = 1,
        |settings| settings.frame_limit = usize::MAX,
        |settings| settings.byte_budget = 1,
        |settings| settings.table_budget = 1,
        |settings| settings.publish_window = (0, 1),
        |settings| settings.max_sessions = 0,
        |settings| settings.request_bytes = 0,
        |settings| settings.keep_alive = Duration::ZERO,
        |settings| settings.handshake_timeout = Duration::MAX,
        |settings| settings.block_limit = Duration::MAX,
    ];
    for change in changes {
        let refused = settings(change).start().map(drop);
        assert!(matches!(refused, Err(BusError::InvalidSettings(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn every_keep_alive_that_can_be_set_works() {
    for interval in [10, 50, 99, 100, 101] {
        let interval = Duration::from_millis(interval);
        let bus = settings(|settings| settings.keep_alive = interval).start().unwrap();
        let welcomed = soon("a welcome", RawPeer::welcomed(bus.connector().connect().unwrap())).await;
        assert!(welcomed.unwrap().1.keep_alive <= interval);
        bus.stop().await;
    }
}
