//! Threads of the bus's own that serve connections, each with a scheduler of its own.
//!
//! Sessions stay on the thread that they began on: what one reads is routed and written there, and no
//! scheduler moves it. Nothing depends on it, as any thread may write to any link.

use std::io;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::error::{BusError, BusResult};
use crate::limits;

/// Turns of sessions after which a busy thread asks the system for what has arrived. Some turns take
/// milliseconds, so that with Tokio's 61 a client could wait for a fifth of a second to be heard.
const EVENT_INTERVAL: u32 = 16;

/// The threads. Dropping this ends them, and what still runs on them.
#[derive(Debug, Default)]
pub(super) struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// One is held by each session on this thread.
    seats: Arc<()>,
    /// Dropped to end the thread.
    _stop: oneshot::Sender<()>,
    /// Told when the thread has nothing left to do.
    ended: oneshot::Receiver<()>,
}

/// Where a session runs; to be kept for as long as it does.
#[derive(Debug)]
pub(super) struct Seat {
    runtime: Handle,
    _seat: Arc<()>,
}

impl Workers {
    /// Starts so many threads.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for more than [`limits::WORKERS`], or when the system gives none.
    pub(super) fn start(count: usize) -> BusResult<Self> {
        if count > limits::WORKERS {
            let most = limits::WORKERS;
            return Err(BusError::InvalidSettings(format!("workers is {count}; it can be 0 to {most}")));
        }
        let workers = (0..count).map(Worker::start).collect::<io::Result<_>>();
        workers
            .map(Self)
            .map_err(|error| BusError::InvalidSettings(format!("cannot start {count} workers: {error}")))
    }

    /// A place on the thread with the fewest sessions, if there are threads.
    pub(super) fn seat(&self) -> Option<Seat> {
        let worker = self.0.iter().min_by_key(|worker| Arc::strong_count(&worker.seats))?;
        Some(Seat { runtime: worker.runtime.clone(), _seat: Arc::clone(&worker.seats) })
    }

    /// Ends the threads and waits for them.
    pub(super) async fn stop(self) {
        let ended: Vec<_> = self.0.into_iter().map(|Worker { ended, .. }| ended).collect();
        for ended in ended {
            // Its sender goes when the thread ends, whatever ended it.
            let _ = ended.await;
        }
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().event_interval(EVENT_INTERVAL).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel::<()>();
        thread::Builder::new().name(format!("whispeer-{number}")).spawn(move || {
            // Nothing is ever sent: the other half is dropped.
            let _ = runtime.block_on(stopped);
            drop(runtime);
            drop(end);
        })?;
        Ok(Self { runtime: handle, seats: Arc::default(), _stop: stop, ended })
    }
}

impl Seat {
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_given_where_there_are_fewest() {
        let workers = Workers::start(2).unwrap();
        let id = |seat: &Seat| seat.runtime().id();
        let first = workers.seat().unwrap();
        let second = workers.seat().unwrap();
        assert_ne!(id(&first), id(&second));
        let freed = id(&second);
        drop(second);
        assert_eq!(id(&workers.seat().unwrap()), freed);
    }

    #[test]
    fn without_threads_there_is_no_seat_and_too_many_are_refused() {
        assert!(Workers::start(0).unwrap().seat().is_none());
        let error = Workers::start(limits::WORKERS + 1).unwrap_err();
        assert!(error.to_string().contains("1024"), "{error}");
    }

    #[tokio::test]
    async fn what_runs_on_a_thread_ends_with_it() {
        let workers = Workers::start(1).unwrap();
        let (sender, receiver) = oneshot::channel::<()>();
        workers.seat().unwrap().runtime().spawn(async move {
            let _held = sender;
            std::future::pending::<()>().await;
        });
        workers.stop().await;
        assert!(receiver.await.is_err());
    }
}
