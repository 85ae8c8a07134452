//! Several subscriptions into one channel.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Client;
use super::protocol::PublishProtocol;
use super::subscription::Subscription;
use crate::error::{BusError, BusResult};
use crate::topic::TopicPattern;

/// A subscription whose messages go into a channel.
///
/// Made by [`Client::subscribe_into`]. Dropping it ends the subscription; so does closing the channel. What
/// is in the channel then stays there; what found no room yet was not taken, and the bus counts it as
/// dropped.
pub struct Attached {
    task: JoinHandle<()>,
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Progress {
    gaps: AtomicU64,
    close_reason: Mutex<Option<BusError>>,
}

impl Attached {
    /// How many messages were skipped: those in gaps, and those that did not decode.
    #[must_use]
    pub fn gaps(&self) -> u64 {
        self.progress.gaps.load(Ordering::Relaxed)
    }

    /// Why it ended; `None` while it has not.
    #[must_use]
    pub fn close_reason(&self) -> Option<BusError> {
        self.progress.close_reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Attached {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Attached")
            .field("gaps", &self.gaps())
            .field("close_reason", &self.close_reason())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Subscribes, and sends what arrives into `channel`, as `map` makes it of topic and message.
    ///
    /// Several subscriptions, also of different types, may share one bounded channel: a full channel
    /// holds each of them up by itself, and the window of each goes on from there.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    ///
    /// # Cancel safety
    /// Dropping the future undoes the subscription.
    ///
    /// # Examples
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// use whispeer::prelude::*;
    ///
    /// # #[derive(Debug, Clone, Serialize, Deserialize)]
    /// # struct Number(i64);
    /// # impl PublishProtocol for Number {
    /// #     fn prefix() -> &'static str { "number" }
    /// # }
    /// # #[derive(Debug, Clone, Serialize, Deserialize)]
    /// # struct Word(String);
    /// # impl PublishProtocol for Word {
    /// #     fn prefix() -> &'static str { "word" }
    /// # }
    /// enum Input {
    ///     Number(i64),
    ///     Word(String),
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let client = Client::new_memory(&connector)?;
    /// let (sender, mut inputs) = tokio::sync::mpsc::channel(16);
    /// let _numbers = client.subscribe_into("**", &sender, |_topic, Number(number)| Input::Number(number)).await?;
    /// let _words = client.subscribe_into("**", &sender, |_topic, Word(word)| Input::Word(word)).await?;
    ///
    /// client.publish("one", &Number(1)).await?;
    /// assert!(matches!(inputs.recv().await, Some(Input::Number(1))));
    /// client.publish("one", &Word("one".into())).await?;
    /// assert!(matches!(inputs.recv().await, Some(Input::Word(word)) if word == "one"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe_into<P, T>(
        &self,
        topic: &str,
        channel: &mpsc::Sender<T>,
        map: impl Fn(TopicPattern, P) -> T + Send + 'static,
    ) -> BusResult<Attached>
    where
        P: PublishProtocol,
        T: Send + 'static,
    {
        let subscription = self.subscribe::<P>(topic).await?;
        let progress = Arc::new(Progress::default());
        let task = tokio::spawn(forward(subscription, channel.clone(), map, Arc::clone(&progress)));
        Ok(Attached { task, progress })
    }
}

/// Forwards until the subscription or the channel ends. Its `Attached` owns the task.
async fn forward<P, T>(
    mut subscription: Subscription<P>,
    channel: mpsc::Sender<T>,
    map: impl Fn(TopicPattern, P) -> T,
    progress: Arc<Progress>,
) {
    let channel_closed = || BusError::Closed { what: "the channel that the subscription goes into".into() };
    let reason = loop {
        let arrived = poll_fn(|context| subscription.poll_arrived(context));
        if unless_closed(&channel, arrived).await.is_none() {
            break channel_closed();
        }
        // Room comes before the message: one that is taken counts as such, so it has to reach the channel
        // even if this task is stopped. A place is not kept while nothing has arrived, since others use
        // the channel too.
        let Ok(place) = channel.reserve().await else { break channel_closed() };
        let received = poll_fn(|context| Poll::Ready(subscription.poll_recv(context))).await;
        progress.gaps.store(subscription.gaps(), Ordering::Relaxed);
        match received {
            // All that had arrived was skipped.
            Poll::Pending => {}
            Poll::Ready(Some((topic, message))) => place.send(map(topic, message)),
            Poll::Ready(None) => {
                break subscription
                    .close_reason()
                    .unwrap_or(BusError::Closed { what: "the subscription".into() });
            }
        }
    };
    *progress.close_reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
}

/// Waits for `future`, or gives `None` once nobody receives from the channel any more.
async fn unless_closed<T, F: Future>(channel: &mpsc::Sender<T>, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut closed = pin!(channel.closed());
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        closed.as_mut().poll(context).map(|()| None)
    })
    .await
}
