//! Calls of code that is not the bus's: a panic or a long wait in it stays there.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::timeout;

/// Why a hook gave no answer, in words for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure(pub(super) String);

/// Calls a hook that answers at once.
pub(super) fn call<T>(hook: impl FnOnce() -> T) -> Result<T, Failure> {
    // What it has changed halfway is undone by the caller, or never used again.
    catch_unwind(AssertUnwindSafe(hook)).map_err(|panic| panicked(&*panic))
}

/// Waits for a hook, at most so long. It ends when this is dropped.
pub(super) async fn wait<'a, T>(
    hook: impl FnOnce() -> HookFuture<'a, T>,
    limit: Duration,
) -> Result<T, Failure> {
    let future = call(hook)?;
    match timeout(limit, Contained(future)).await {
        Ok(ended) => ended,
        Err(_) => Err(Failure(format!("it took longer than {limit:?}"))),
    }
}

/// What a hook is doing.
pub(super) type HookFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

struct Contained<'a, T>(HookFuture<'a, T>);

impl<T> Future for Contained<'_, T> {
    type Output = Result<T, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match call(|| self.0.as_mut().poll(context)) {
            Ok(poll) => poll.map(Ok),
            // It is not polled again.
            Err(failure) => Poll::Ready(Err(failure)),
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure(format!("it panicked: {}", text.unwrap_or("with something that is no text")))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panic_and_an_endless_wait_are_told_in_words() {
        let at_once = call(|| -> u32 { panic!("no {}", 7) });
        assert_eq!(at_once, Err(Failure("it panicked: no 7".into())));
        let limit = Duration::from_secs(1);
        let later = wait(
            || {
                Box::pin(async {
                    tokio::task::yield_now().await;
                    panic!("later")
                })
            },
            limit,
        );
        assert_eq!(later.await, Err::<(), _>(Failure("it panicked: later".into())));
        let never = wait(|| Box::pin(pending::<()>()), limit).await;
        assert_eq!(never, Err(Failure("it took longer than 1s".into())));
        assert_eq!(wait(|| Box::pin(async { 7 }), limit).await, Ok(7));
    }
}
