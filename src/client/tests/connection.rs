//! The handshake, signs of life, and the end of a connection.

use super::*;

#[test]
fn a_client_made_outside_of_a_runtime_says_so() {
    let (_bus_end, client_end) = memory_pair();
    let refused = Client::builder().connect_link(client_end);
    assert!(matches!(refused, Err(BusError::NoRuntime { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn the_handshake_tells_the_name_and_brings_the_ids() {
    let (client, mut peer) = connecting(Client::builder().name("billing"));
    assert_eq!((client.session_id(), client.bus_id()), (None, None));
    let hello = peer.shake_hands().await;
    assert_eq!(hello.name, "billing");
    settle().await;
    assert_eq!((client.session_id(), client.bus_id()), (Some(5), Some(77)));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_before_the_welcome() {
    let (client, mut peer) = connecting(Client::builder());
    let early = note("early");
    let publish = client.publish("a", &early);
    let subscribe = client.subscribe::<Note>("a");
    let calls = both(publish, subscribe);
    let script = async {
        peer.expect(Kind::Hello).await;
        peer.expect_silence().await;
        peer.send(Header::new(Kind::Welcome, 0, 0), &peer.welcome.encode());
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let received = peer.receive().await.unwrap();
            kinds.push(received.header.kind);
            let (kind, id, sequence) = (received.header.kind, received.header.id, received.header.sequence);
            peer.send(Header::answering(Kind::Accepted, kind, id, sequence), &[]);
        }
        assert!(kinds.contains(&Kind::Publish) && kinds.contains(&Kind::Subscribe), "{kinds:?}");
        settle().await;
    };
    let ((published, subscribed), ()) = both(calls, script).await;
    published.unwrap();
    subscribed.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refused_handshake_is_the_error_of_every_call() {
    let (client, mut peer) = connecting(Client::builder());
    peer.expect(Kind::Hello).await;
    let reason = BusError::LimitReached { what: "1 connection".into() };
    peer.send(Header::new(Kind::Goodbye, 0, 0), &refusal(&reason));
    for result in [client.publish("a", &note("x")).await.map(drop), client.flush().await] {
        assert!(matches!(result, Err(BusError::LimitReached { .. })), "{result:?}");
    }
    assert!(matches!(client.closed().await, BusError::LimitReached { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_version_that_was_not_offered_is_refused() {
    let (client, mut peer) = connecting(Client::builder());
    peer.welcome.version = VERSION + 1;
    peer.shake_hands().await;
    assert!(matches!(client.closed().await, BusError::UnsupportedVersion { .. }));
    assert!(matches!(peer.expect_goodbye().await, BusError::UnsupportedVersion { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_does_not_answer_the_handshake_is_given_up() {
    let (client, _peer) = connecting(Client::builder().connect_timeout(3 * SECOND));
    let start = tokio::time::Instant::now();
    let error = client.flush().await.unwrap_err();
    assert!(matches!(error, BusError::TimedOut { after, .. } if after == 3 * SECOND), "{error:?}");
    assert_eq!(start.elapsed(), 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_frame_before_the_welcome_ends_the_connection() {
    let (client, mut peer) = connecting(Client::builder());
    peer.expect(Kind::Hello).await;
    peer.send(Header::new(Kind::Pong, 0, 1), &[]);
    assert!(matches!(client.closed().await, BusError::Protocol { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_only_clients_send_ends_the_connection() {
    let (client, mut peer) = connected().await;
    peer.send(Header::new(Kind::Subscribe, 1, 0), &[]);
    assert!(matches!(client.closed().await, BusError::Protocol { .. }));
    assert!(matches!(peer.expect_goodbye().await, BusError::Protocol { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_ping_of_the_bus_is_answered_at_once() {
    let (_client, mut peer) = connected().await;
    peer.send(Header::new(Kind::Ping, 0, 41), &[]);
    assert_eq!(peer.expect(Kind::Pong).await.header.sequence, 41);
}

#[tokio::test(start_paused = true)]
async fn a_ping_takes_the_time_until_its_pong() {
    let (client, mut peer) = connected().await;
    let script = async {
        let ping = peer.expect(Kind::Ping).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        peer.send(Header::new(Kind::Pong, 0, ping.header.sequence), &[]);
    };
    let (taken, ()) = both(client.ping(), script).await;
    assert_eq!(taken.unwrap().as_millis(), 30);
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_gives_a_sign_of_life_in_every_interval() {
    let (client, mut peer) = connected_with(|welcome| welcome.keep_alive = 2 * SECOND).await;
    let start = tokio::time::Instant::now();
    for turn in 1..=4 {
        peer.answer_ping().await;
        assert_eq!(start.elapsed(), turn * 2 * SECOND);
    }
    assert!(client.close_reason().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_silent_bus_is_given_up_after_three_intervals() {
    let (client, mut peer) = connected_with(|welcome| welcome.keep_alive = 2 * SECOND).await;
    let start = tokio::time::Instant::now();
    let reason = client.closed().await;
    assert!(matches!(reason, BusError::KeepAlive { after } if after == 6 * SECOND), "{reason:?}");
    assert_eq!(start.elapsed(), 6 * SECOND);
    peer.expect(Kind::Ping).await;
    peer.expect(Kind::Ping).await;
    assert!(matches!(peer.expect_goodbye().await, BusError::KeepAlive { .. }));
}

#[tokio::test(start_paused = true)]
async fn anything_received_is_a_sign_of_life() {
    let (client, mut peer) = connected_with(|welcome| welcome.keep_alive = 2 * SECOND).await;
    for _ in 0..10 {
        peer.expect(Kind::Ping).await;
        peer.credit(Lane::Publish, 0, 1, 1);
    }
    assert!(client.close_reason().is_none());
}

#[tokio::test(start_paused = true)]
async fn closing_flushes_first_and_says_goodbye() {
    let (client, mut peer) = connected().await;
    let publisher = client.publisher::<Note>("a").unwrap();
    publisher.send(&note("last words")).await.unwrap();
    let script = async {
        assert_eq!(peer.expect(Kind::Publish).await.topic, "note/a");
        peer.answer_ping().await;
        peer.expect_goodbye().await
    };
    let (closed, goodbye) = both(client.close(), script).await;
    closed.unwrap();
    assert!(matches!(goodbye, BusError::Closed { .. }));
    assert!(matches!(publisher.send(&note("too late")).await, Err(BusError::Closed { .. })));
    assert!(matches!(client.close_reason(), Some(BusError::Closed { .. })));
    client.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes_the_connection_after_sending_what_is_queued() {
    let (client, mut peer) = connected().await;
    let (subscription, _) = both(client.subscribe::<Note>("a"), peer.accept(Kind::Subscribe)).await;
    let publisher = client.publisher::<Note>("b").unwrap();
    drop(client);
    publisher.send(&note("still here")).await.unwrap();
    drop(publisher);
    peer.expect(Kind::Publish).await;
    peer.expect_silence().await;
    drop(subscription);
    peer.expect(Kind::Unsubscribe).await;
    assert!(matches!(peer.expect_goodbye().await, BusError::Closed { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_lost_link_ends_every_call_with_the_reason() {
    let (client, mut peer) = connected().await;
    let script = async {
        peer.expect(Kind::Publish).await;
        peer.expect(Kind::Request).await;
        peer.send(Header::new(Kind::Goodbye, 0, 0), &refusal(&BusError::Denied { what: "it all".into() }));
    };
    let (message, request) = (note("x"), Double(1));
    let calls =
        async { tokio::join!(client.publish("a", &message), client.request("", &request), client.ping()) };
    let ((published, answered, pinged), ()) = both(calls, script).await;
    for result in [published.map(drop), answered.map(drop), pinged.map(drop)] {
        assert!(matches!(result, Err(BusError::Denied { .. })), "{result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_link_without_a_reason_reads_as_disconnected() {
    let (client, peer) = connected().await;
    drop(peer);
    assert!(matches!(client.closed().await, BusError::Disconnected { .. }));
    assert!(matches!(client.flush().await, Err(BusError::Disconnected { .. })));
}

#[tokio::test(start_paused = true)]
async fn the_reason_of_the_bus_is_read_although_the_link_takes_nothing_more() {
    let (client, peer) = connected().await;
    peer.send(Header::new(Kind::Goodbye, 0, 0), &refusal(&BusError::Draining { what: "the bus".into() }));
    drop(peer);
    let error = client.publish("a", &note("x")).await.unwrap_err();
    assert!(matches!(error, BusError::Draining { .. }), "{error:?}");
}

#[test]
fn a_runtime_that_stops_ends_the_connection_for_whoever_still_holds_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (client, peer) = runtime.block_on(connected());
    drop(runtime);
    assert!(matches!(client.close_reason(), Some(BusError::Disconnected { .. })));
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn draining_ends_subscriptions_and_servings_and_flushes() {
    let (client, mut peer) = connected().await;
    let (subscription, _) = both(client.subscribe::<Note>("a"), peer.accept(Kind::Subscribe)).await;
    let (serving, _) = both(client.serve::<Double>(""), peer.accept(Kind::Serve)).await;
    let (mut subscription, mut serving) = (subscription.unwrap(), serving.unwrap());
    let script = async {
        let unserve = peer.expect(Kind::Unserve).await.header.id;
        let unsubscribe = peer.expect(Kind::Unsubscribe).await.header;
        assert_eq!(unsubscribe.flags, Flags(1));
        peer.deliver(unsubscribe.id, 1, "note/a", &encoded(&note("held")));
        peer.send(Header::answering(Kind::Ended, Kind::Subscribe, unsubscribe.id, 1), &[]);
        peer.send(Header::answering(Kind::Ended, Kind::Serve, unserve, 0), &[]);
        peer.answer_ping().await;
    };
    let (drained, ()) = both(client.drain(), script).await;
    drained.unwrap();
    assert_eq!(subscription.recv().await.unwrap().1, note("held"));
    assert!(subscription.recv().await.is_none());
    assert!(serving.recv().await.is_none());
}

#[tokio::test]
async fn who_sees_late_that_the_bus_before_has_drained_does_not_leave_the_one_after_it() {
    let (client, peer) = connected().await;
    let shared = &client.connection.shared;
    assert!(!shared.leave_session(0), "there is no other bus");
    shared.lock().has_others = true;
    // Nothing else runs meanwhile.
    assert!(shared.leave_session(0) && shared.lock().leaving);
    shared.restart(&peer.welcome);
    assert_eq!((shared.session_number(), shared.lock().leaving), (1, false));
    assert!(shared.leave_session(0), "what was asked there is for the next one");
    assert!(!shared.lock().leaving);
    assert!(shared.leave_session(1) && shared.lock().leaving);
}
