//! Entries of a journal that another may have taken the place of, made up.

use async_nats::jetstream::{self, Message};

use super::*;
use crate::jetstream::options::JetStreamOptions;

/// A store that has read nothing. There is no server.
async fn shared() -> Shared {
    let connecting = async_nats::ConnectOptions::new().retry_on_initial_connect();
    let client = connecting.connect("nats://127.0.0.1:1").await.unwrap();
    Shared::new(Journal::new(client, JetStreamOptions::new("whispeer").unwrap()), 1)
}

/// The entry of this number that was stored at this time (nanoseconds since 1970, UTC), and holds nothing.
fn entry(shared: &Shared, at: u64, stored: u64) -> Message {
    let message = async_nats::Message {
        subject: "whispeer.j.of-somebody-else".into(),
        reply: Some(format!("$JS.ACK.whispeer-streams.follower.1.{at}.1.{stored}.0").into()),
        payload: "".into(),
        headers: None,
        status: None,
        description: None,
        length: 0,
    };
    Message { message, context: jetstream::new(shared.journal.client()) }
}

#[tokio::test]
async fn entries_are_taken_in_their_order_and_another_in_the_place_of_the_last_is_found_out() {
    let shared = shared().await;
    let take = |at, stored| take(&shared, &entry(&shared, at, stored)).unwrap();
    assert_eq!(take(1, 10), Taken::New);
    assert_eq!(take(2, 20), Taken::New);
    // It comes once more where it is begun again.
    assert_eq!(take(2, 20), Taken::Before);
    assert_eq!(take(1, 10), Taken::Before);
    assert_eq!(take(2, 21), Taken::Other, "the journal has been put back, and goes on with something else");
    assert_eq!(take(4, 40), Taken::Missing);
    assert_eq!(shared.lock().replica.applied, 2);
}
