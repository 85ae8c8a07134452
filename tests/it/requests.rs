//! What the conformance suite cannot see of requests: exact times, and many at once.

use std::time::Duration;

use bytes::Bytes;
use whispeer::client::RequestOptions;
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::proto::fields::FieldsBuilder;
use whispeer::proto::{Header, Kind};
use whispeer_testkit::wait::{eventually, now_or_never, soon};

use crate::ground::Ground;

#[tokio::test(start_paused = true)]
async fn a_request_gives_up_at_its_deadline_and_by_default_after_thirty_seconds() {
    let (_bus, connector) = listen_and_serve_memory().unwrap();
    let client = Client::new_memory(&connector).unwrap();
    let _serving = client.serve_bytes("silent").await.unwrap();
    for timeout in [Some(Duration::from_millis(1_234)), None] {
        let start = tokio::time::Instant::now();
        let options = timeout.map(|timeout| RequestOptions::default().timeout(timeout)).unwrap_or_default();
        let answer = client.request_bytes_with("silent", Bytes::new(), options).await;
        let expected = timeout.unwrap_or(limits::REQUEST_TIMEOUT);
        assert!(matches!(answer, Err(BusError::TimedOut { after, .. }) if after == expected));
        assert_eq!(start.elapsed().as_millis().div_ceil(2), expected.as_millis().div_ceil(2));
    }
}

#[tokio::test]
async fn a_requester_cannot_choose_the_deadline_that_its_server_sees() {
    let ground = Ground::new(Bus::builder());
    let server = ground.client();
    let mut serving = server.serve_bytes("work").await.unwrap();
    for mut peer in ground.peers().await {
        let mut fields = FieldsBuilder::new();
        fields.header("from", "a forger").unwrap();
        fields.deadline(Duration::from_secs(1_000_000)).unwrap();
        let microseconds = 1_000_000;
        peer.push_with(&Header::new(Kind::Request, 1, microseconds), fields.as_bytes(), b"work", &[]);
        peer.flush().await.unwrap();
        let request = soon("the request", serving.next_request()).await.unwrap();
        let left = request.id.time_left().unwrap();
        assert!(left <= Duration::from_micros(microseconds), "{left:?}");
        assert_eq!(request.headers.find("from"), Some("a forger"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_bus_outlives_the_deadlines_of_answered_requests() {
    let (bus, connector) = listen_and_serve_memory().unwrap();
    let client = Client::new_memory(&connector).unwrap();
    let _handling = client.handle_bytes("echo", |payload| async { Ok(payload) }).await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.request_bytes("echo", "hello".into()).await.unwrap(), "hello");
        tokio::time::sleep(Duration::from_secs(31)).await;
    }
    assert_eq!((bus.stats().requests, bus.stats().failed_requests), (3, 0));
}

#[tokio::test]
async fn ten_thousand_requests_find_their_answers() {
    let (_bus, connector) = listen_and_serve_memory().unwrap();
    let (server, client) = (Client::new_memory(&connector).unwrap(), Client::new_memory(&connector).unwrap());
    let _handling = server.handle_bytes("echo", |payload| async { Ok(payload) }).await.unwrap();
    let mut asked = tokio::task::JoinSet::new();
    for worker in 0..64u64 {
        let client = client.clone();
        asked.spawn(async move {
            for count in 0..157u64 {
                let payload = Bytes::copy_from_slice(&(worker << 32 | count).to_le_bytes());
                assert_eq!(client.request_bytes("echo", payload.clone()).await.unwrap(), payload);
            }
        });
    }
    while let Some(done) = soon("the last answer", asked.join_next()).await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_requester_chooses_the_window_and_the_headers_of_its_stream() {
    let ground = Ground::new(Bus::builder());
    let server = ground.client();
    let mut serving = server.serve_bytes("count").await.unwrap();
    for client in [ground.client(), Client::new_unix(&ground.socket()).await.unwrap()] {
        for window in [(0, 1), (1, 0), (u32::MAX, 1), (1, u64::MAX)] {
            let options = RequestOptions::default().window(window.0, window.1);
            let refused = client.request_stream_bytes_with("count", Bytes::new(), options).await.map(drop);
            let expected =
                matches!(refused, Err(BusError::InvalidSettings(_) | BusError::LimitReached { .. }));
            assert!(expected, "{window:?}: {refused:?}");
        }
        let options = RequestOptions::default().window(2, 1_000).header("from", "one");
        let mut answers = client.request_stream_bytes_with("count", Bytes::new(), options).await.unwrap();
        let request = soon("the request", serving.next_request()).await.unwrap();
        assert_eq!(request.headers.find("from"), Some("one"));
        let mut responder = server.respond_stream_bytes(request.id).unwrap();
        for number in 1..=50u8 {
            // Two are on their way; the next has to wait until one is taken.
            let (next, after) = (Bytes::from(vec![number]), Bytes::from(vec![number + 1]));
            if number == 1 {
                responder.send(&next).await.unwrap();
                responder.send(&after).await.unwrap();
            }
            let third = Bytes::from(vec![number + 2]);
            assert!(now_or_never(responder.send(&third)).await.is_none(), "three in a window of two");
            assert_eq!(soon("an answer", answers.recv()).await.unwrap().unwrap(), next);
            soon("room for the next", responder.send(&third)).await.unwrap();
        }
        responder.finish().unwrap();
        for _ in 0..2 {
            soon("an answer", answers.recv()).await.unwrap().unwrap();
        }
        assert!(soon("the end", answers.recv()).await.is_none());
        client.close().await.unwrap();
    }
    eventually("nothing is under way", || ground.bus.stats().requests_in_flight == 0).await;
}
