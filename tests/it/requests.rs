//! What the conformance suite cannot see of requests: exact times, and many at once.

use std::time::Duration;

use bytes::Bytes;
use whispeer::client::RequestOptions;
use whispeer::limits;
use whispeer::prelude::*;
use whispeer_testkit::wait::soon;

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
