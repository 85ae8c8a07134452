//! The short way to serve.

use std::any::Any;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::Client;
use super::codec::Encoder;
use super::protocol::RequestProtocol;
use super::request_id::RequestId;
use super::serving::Serving;
use crate::error::{BusResult, ErrorReply};

/// Requests that one handler works on at a time; the next ones wait in the window of the serving.
const CONCURRENT: usize = 64;

/// The code of the error reply to a request whose handler panicked.
const PANICKED: &str = "panic";

/// A handler at work.
///
/// Made by [`Client::handle`]. Dropping it stops it: no new request comes, and those in work are
/// failed as [`BusError::Abandoned`](crate::BusError::Abandoned). [`drain`](Self::drain) finishes them
/// first.
pub struct Handling {
    task: JoinHandle<()>,
    drain: Arc<Notify>,
}

impl Handling {
    /// Takes no new requests, finishes those that were handed over, and returns when the last is
    /// answered.
    ///
    /// # Cancel safety
    /// Dropping the future stops the handler at once.
    pub async fn drain(mut self) {
        self.drain.notify_one();
        // A handler that ended with its runtime has nothing left to finish.
        let _ = (&mut self.task).await;
    }

    /// Whether it has ended, because the connection or the serving did.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Handling {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Handling").field("finished", &self.is_finished()).finish_non_exhaustive()
    }
}

impl Client {
    /// Serves `topic` with a function: each request is given to `handler`, and what it returns is the
    /// answer.
    ///
    /// Up to 64 requests are worked on at a time. A handler whose requester goes away is dropped. A
    /// panic in a handler is answered with an error reply of the code `panic` and harms nothing else.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    ///
    /// # Cancel safety
    /// Dropping the future undoes the serving.
    ///
    /// # Examples
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// use whispeer::prelude::*;
    ///
    /// # #[derive(Debug, Clone, Serialize, Deserialize)]
    /// # struct Divide(i64, i64);
    /// # impl RequestProtocol for Divide {
    /// #     type Rsp = i64;
    /// #     fn prefix() -> &'static str { "divide" }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let client = Client::new_memory(&connector)?;
    /// let handling = client
    ///     .handle("", |Divide(dividend, divisor)| async move {
    ///         dividend.checked_div(divisor).ok_or_else(|| ErrorReply::new("division", "not possible"))
    ///     })
    ///     .await?;
    /// assert_eq!(client.request("", &Divide(6, 3)).await?, 2);
    /// match client.request("", &Divide(6, 0)).await {
    ///     Err(BusError::Replied(reply)) => assert_eq!(reply.code(), "division"),
    ///     other => panic!("expected an error reply, got {other:?}"),
    /// }
    /// handling.drain().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn handle<R, F, Fut>(&self, topic: &str, handler: F) -> BusResult<Handling>
    where
        R: RequestProtocol,
        F: Fn(R) -> Fut + Send + 'static,
        Fut: Future<Output = Result<R::Rsp, ErrorReply>> + Send + 'static,
    {
        let serving = self.serve::<R>(topic).await?;
        Ok(self.run_handler(serving, Encoder::typed(R::response_weight), handler))
    }

    /// [`handle`](Self::handle) with bytes as they are and a whole topic.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    ///
    /// # Cancel safety
    /// Dropping the future undoes the serving.
    pub async fn handle_bytes<F, Fut>(&self, topic: &str, handler: F) -> BusResult<Handling>
    where
        F: Fn(Bytes) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Bytes, ErrorReply>> + Send + 'static,
    {
        let serving = self.serve_bytes(topic).await?;
        Ok(self.run_handler(serving, Encoder::bytes(), handler))
    }

    fn run_handler<R, A, F, Fut>(&self, serving: Serving<R>, encode: Encoder<A>, handler: F) -> Handling
    where
        R: Send + 'static,
        A: Send + Sync + 'static,
        F: Fn(R) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, ErrorReply>> + Send + 'static,
    {
        let drain = Arc::new(Notify::new());
        let task = tokio::spawn(run(self.clone(), serving, encode, handler, Arc::clone(&drain)));
        Handling { task, drain }
    }
}

/// What the handler's task does next.
enum Next<R> {
    Request(RequestId, R),
    Drain,
    Ended,
}

async fn run<R, A, F, Fut>(
    client: Client,
    mut serving: Serving<R>,
    encode: Encoder<A>,
    handler: F,
    drain: Arc<Notify>,
) where
    R: Send + 'static,
    A: Send + Sync + 'static,
    F: Fn(R) -> Fut + Send + 'static,
    Fut: Future<Output = Result<A, ErrorReply>> + Send + 'static,
{
    let mut work = JoinSet::new();
    let mut draining = false;
    loop {
        while work.len() >= CONCURRENT {
            work.join_next().await;
        }
        match next(&mut serving, &mut work, &drain, draining).await {
            Next::Ended => break,
            Next::Drain => {
                draining = true;
                serving.begin_drain();
            }
            Next::Request(id, request) => match catch_unwind(AssertUnwindSafe(|| handler(request))) {
                Ok(future) => {
                    work.spawn(work_on(client.clone(), id, future, encode));
                }
                Err(panic) => answer_panic(&client, id, panic).await,
            },
        }
    }
    while work.join_next().await.is_some() {}
}

/// Waits for a request or the wish to drain, and clears away finished work meanwhile.
async fn next<R>(
    serving: &mut Serving<R>,
    work: &mut JoinSet<()>,
    drain: &Notify,
    draining: bool,
) -> Next<R> {
    let mut received = pin!(serving.recv());
    let mut drain = pin!(drain.notified());
    poll_fn(|context| {
        while let Poll::Ready(Some(_)) = work.poll_join_next(context) {}
        if !draining && drain.as_mut().poll(context).is_ready() {
            return Poll::Ready(Next::Drain);
        }
        received.as_mut().poll(context).map(|received| match received {
            Some((_topic, id, request)) => Next::Request(id, request),
            None => Next::Ended,
        })
    })
    .await
}

/// Runs one handler to its end, or until its requester goes away. Errors of the answer are its
/// requester's or the connection's, and those are told elsewhere.
async fn work_on<A: Send + Sync>(
    client: Client,
    id: RequestId,
    future: impl Future<Output = Result<A, ErrorReply>> + Send,
    encode: Encoder<A>,
) {
    let outcome = {
        let mut future = pin!(future);
        let mut cancelled = pin!(id.cancelled());
        poll_fn(|context| {
            match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
                Ok(Poll::Ready(answer)) => return Poll::Ready(Some(Ok(answer))),
                Ok(Poll::Pending) => {}
                Err(panic) => return Poll::Ready(Some(Err(panic))),
            }
            cancelled.as_mut().poll(context).map(|()| None)
        })
        .await
    };
    let _ = match outcome {
        None => return,
        Some(Ok(Ok(answer))) => client.respond_raw(id, encode, &answer).await,
        Some(Ok(Err(error))) => client.respond_error(id, error).await,
        Some(Err(panic)) => return answer_panic(&client, id, panic).await,
    };
}

async fn answer_panic(client: &Client, id: RequestId, panic: Box<dyn Any + Send>) {
    {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        tracing::error!(topic = id.topic(), panic = text, "a handler panicked");
    }
    drop(panic);
    // The panic's own text may hold what is not meant for the requester.
    let _ = client.respond_error(id, ErrorReply::new(PANICKED, "the handler panicked")).await;
}
