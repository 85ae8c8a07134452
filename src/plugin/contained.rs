//! Calls of code that is not the bus's: a panic or a long wait in it stays there, also when what it was doing is given up.

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
    catch_unwind(AssertUnwindSafe(hook)).map_err(|panic| {
        let failure = panicked(&*panic);
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            // It panics whenever it is dropped, so this is not.
            std::mem::forget(another);
        }
        failure
    })
}

/// Waits for a hook, at most so long. It ends when this is dropped, and what it then drops may panic as well.
pub(super) async fn wait<'a, T>(
    hook: impl FnOnce() -> HookFuture<'a, T>,
    limit: Duration,
) -> Result<T, Failure> {
    let contained = Contained(Some(call(hook)?));
    match timeout(limit, contained).await {
        Ok(ended) => ended,
        Err(_) => Err(Failure(format!("it took longer than {limit:?}"))),
    }
}

/// What a hook is doing.
pub(super) type HookFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A hook at work, until it has ended.
struct Contained<'a, T>(Option<HookFuture<'a, T>>);

impl<T> Contained<'_, T> {
    /// Drops what it was doing.
    fn end(&mut self) -> Result<(), Failure> {
        let future = self.0.take();
        call(|| drop(future))
    }
}

impl<T> Future for Contained<'_, T> {
    type Output = Result<T, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else { return Poll::Pending };
        let answer = match call(|| future.as_mut().poll(context)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(answer)) => Ok(answer),
            Err(failure) => Err(failure),
        };
        let ended = self.end();
        Poll::Ready(answer.and_then(|answer| ended.map(|()| answer)))
    }
}

impl<T> Drop for Contained<'_, T> {
    fn drop(&mut self) {
        // Nobody waits for it any more, and who has given it up knows why.
        let _ = self.end();
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

    /// Panics where it is dropped.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped")
        }
    }

    /// Answers, if it does, with something left to be dropped.
    struct Armed {
        _bomb: Bomb,
        answer: Option<u32>,
    }

    impl Future for Armed {
        type Output = u32;

        fn poll(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<u32> {
            self.answer.map_or(Poll::Pending, Poll::Ready)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_of_what_is_dropped_stays_where_the_hook_is() {
        let limit = Duration::from_secs(1);
        let armed = |answer| wait(move || Box::pin(Armed { _bomb: Bomb, answer }), limit);
        assert_eq!(armed(None).await, Err(Failure("it took longer than 1s".into())));
        assert_eq!(armed(Some(7)).await, Err(Failure("it panicked: dropped".into())));
        let given_up = timeout(limit / 2, armed(None)).await;
        assert!(given_up.is_err());
        let panicking = wait(
            || {
                let _bomb = Bomb;
                Box::pin(pending::<u32>())
            },
            limit,
        );
        assert_eq!(panicking.await, Err(Failure("it panicked: dropped".into())));
        let thrown = call(|| -> u32 { std::panic::panic_any(Bomb) });
        assert_eq!(thrown, Err(Failure("it panicked: with something that is no text".into())));
    }
}
