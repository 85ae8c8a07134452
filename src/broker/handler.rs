//! What is called with messages, and how whatever it does is contained.

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;

use super::from_message::{FromMessage, read};
use crate::client::Message;
use crate::error::BusError;

/// What is called with each message of type `T`: any closure or function that takes one and returns an [`Outcome`].
///
/// That it is a function of `T` is said by the trait above it, so that a closure's argument needs no type where the call
/// names it: `broker.subscribe::<MyData>("topic", |data| …)`. What `T` can be is said by [`FromMessage`].
pub trait Handler<T>: Fn(T) -> Self::Out + Send + Sync + 'static {
    /// What it returns.
    type Out: Outcome;
}

impl<T, F, O> Handler<T> for F
where
    F: Fn(T) -> O + Send + Sync + 'static,
    O: Outcome,
{
    type Out = O;
}

/// As [`Handler`], of a function that returns a future.
pub trait AsyncHandler<T>: Fn(T) -> Self::Future + Send + Sync + 'static {
    /// What has to be awaited.
    type Future: Future<Output: Outcome> + Send + 'static;
}

impl<T, F, A> AsyncHandler<T> for F
where
    F: Fn(T) -> A + Send + Sync + 'static,
    A: Future<Output: Outcome> + Send + 'static,
{
    type Future = A;
}

/// What a handler returns: nothing, or a `Result<(), E>` whose errors are counted and stand in the log.
#[diagnostic::on_unimplemented(
    message = "a handler returns nothing or a `Result<(), E>`, not `{Self}`",
    note = "end the handler's body with `;` if what it returns does not matter"
)]
pub trait Outcome {
    /// What went wrong, in words.
    fn failure(self) -> Option<String>;
}

impl Outcome for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: fmt::Display> Outcome for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| error.to_string())
    }
}

/// The type `!` of what never returns, such as a handler that always panics. It cannot be named but by what a function of
/// its kind returns.
type Never = <fn() -> ! as Returns>::Type;

#[doc(hidden)]
pub trait Returns {
    /// What it returns.
    type Type;
}

impl<T> Returns for fn() -> T {
    type Type = T;
}

impl Outcome for Never {
    fn failure(self) -> Option<String> {
        self
    }
}

/// What came of a message that a handler was to get.
#[derive(Debug)]
pub(super) enum Handled {
    Done,
    /// It is not what the handler takes, which was not called.
    Undecodable(BusError),
    /// The handler says so.
    Failed(String),
    /// It panicked.
    Panicked(String),
}

/// What an asynchronous handler has begun.
type Returned = Pin<Box<dyn Future<Output = Option<String>> + Send>>;
type BlockingCall = dyn Fn(Message<Bytes>) -> Handled + Send + Sync;
type AsyncCall = dyn Fn(Message<Bytes>) -> Result<Returned, BusError> + Send + Sync;

/// A handler of messages as they arrive, of whatever type it is.
#[derive(Clone)]
pub(super) enum Call {
    Blocking(Arc<BlockingCall>),
    Async(Arc<AsyncCall>),
}

impl Call {
    pub(super) fn blocking<T: FromMessage>(handler: impl Handler<T>) -> Self {
        Self::Blocking(Arc::new(move |message| {
            let taken = match read(message) {
                Ok(taken) => taken,
                Err(error) => return Handled::Undecodable(error),
            };
            handler(taken).failure().map_or(Handled::Done, Handled::Failed)
        }))
    }

    pub(super) fn asynchronous<T: FromMessage>(handler: impl AsyncHandler<T>) -> Self {
        Self::Async(Arc::new(move |message| {
            let future = handler(read(message)?);
            Ok(Box::pin(async move { future.await.failure() }))
        }))
    }
}

/// Calls a handler, or the type that it takes where that is read. A panic of either stays here.
pub(super) fn contained(call: impl FnOnce() -> Handled) -> Handled {
    // What a panic leaves half done is the handler's own: nothing of it is used here again.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| Handled::Panicked(words(&*payload)))
}

/// As [`contained`], of a handler that is awaited.
pub(super) async fn contained_async(call: impl FnOnce() -> Result<Returned, BusError>) -> Handled {
    let mut future = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(future)) => future,
        Ok(Err(error)) => return Handled::Undecodable(error),
        Err(payload) => return Handled::Panicked(words(&*payload)),
    };
    poll_fn(|context| {
        // A future that has panicked is not polled again.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(failure)) => Poll::Ready(failure.map_or(Handled::Done, Handled::Failed)),
            Err(payload) => Poll::Ready(Handled::Panicked(words(&*payload))),
        }
    })
    .await
}

/// Lets go of a handler that was never called. A panic of what it holds stays here.
pub(super) fn discard(call: Call) {
    if catch_unwind(AssertUnwindSafe(|| drop(call))).is_err() {
        tracing::error!("what a handler held panicked when it was dropped");
    }
}

/// What a panic says.
fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it did not say why").to_owned()
}
