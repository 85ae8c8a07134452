//! Waiting for something without guessing how long it takes.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long anything may take before it is taken for lost: far beyond what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition that nothing announces is looked at.
const LOOK: Duration = Duration::from_millis(1);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "never came true: {what}");
        sleep(LOOK).await;
    }
}

/// Waits for `future`.
///
/// # Panics
/// When it is not ready within [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("never came: {what}"),
    }
}

/// Polls `future` a single time.
pub async fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| {
        Poll::Ready(match future.as_mut().poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}
