//! What a publish gives to whoever made it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use super::waiting::block_on;
use crate::error::{BusError, BusResult};

/// A publish that is on its way.
///
/// Awaited, it gives the number of subscriptions that matched, or why it failed. Dropped, the message is published all the
/// same, and a failure is counted and stands in the log.
///
/// # Examples
/// ```
/// use whispeer::broker::Broker;
///
/// # fn main() -> whispeer::BusResult<()> {
/// let broker = Broker::build_default().build()?;
/// broker.publish("to/nobody", 7);
/// assert_eq!(broker.publish("to/nobody", 8).wait()?, 0);
/// assert!(broker.publish("not a topic", 9).wait().is_err());
/// # Ok(())
/// # }
/// ```
pub struct Publishing(State);

enum State {
    Refused(BusError),
    Waiting(oneshot::Receiver<BusResult<usize>>),
}

impl Publishing {
    pub(super) fn refused(error: BusError) -> Self {
        Self(State::Refused(error))
    }

    pub(super) fn waiting(receiver: oneshot::Receiver<BusResult<usize>>) -> Self {
        Self(State::Waiting(receiver))
    }

    /// Why it was not even queued: [`BusError::QueueFull`], [`BusError::Encode`], [`BusError::HeadersTooLarge`] or
    /// [`BusError::Closed`].
    #[must_use]
    pub fn refusal(&self) -> Option<&BusError> {
        match &self.0 {
            State::Refused(error) => Some(error),
            State::Waiting(_) => None,
        }
    }

    /// Blocks the thread until it is done. In asynchronous code, await it in place of this.
    ///
    /// # Errors
    /// [`refusal`](Self::refusal), if there is one; otherwise as
    /// [`Client::publish_with`](crate::Client::publish_with), and [`BusError::Closed`] when the broker has ended before it was known.
    pub fn wait(self) -> BusResult<usize> {
        block_on(self)
    }
}

impl Future for Publishing {
    type Output = BusResult<usize>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Refused(error) => Poll::Ready(Err(error.clone())),
            State::Waiting(receiver) => {
                let told = ready!(Pin::new(receiver).poll(context));
                Poll::Ready(told.unwrap_or_else(|_| Err(closed())))
            }
        }
    }
}

impl fmt::Debug for Publishing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Publishing").field("refusal", &self.refusal()).finish_non_exhaustive()
    }
}

/// The error of what comes after the end.
pub(super) fn closed() -> BusError {
    BusError::Closed { what: "the broker".into() }
}
