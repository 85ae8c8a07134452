//! The cell that a task and those who bring it work take turns at.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, TryLockError, Weak};
use std::task::{Context, Poll, Waker};

use super::primitives::{AtomicBool, Mutex, RUNNING};

/// Turns within turns on one thread: a request takes two, and what each of them causes one more.
/// Beyond that a task is woken as usual, so that the stack stays bounded.
const DEPTH: u32 = 4;

/// What a task does when it is polled.
pub(crate) trait Turn {
    /// What its end is told with.
    type End;

    /// Does what there is to do.
    fn turn(&mut self, context: &mut Context<'_>) -> Poll<Self::End>;
}

/// Work that a task shares with those who bring it something.
pub(crate) struct InPlace<T: Turn> {
    state: Mutex<State<T>>,
    /// Wakes the task, once it has been polled; until then it is going to be.
    task: Mutex<Option<Waker>>,
    /// Somebody found the cell taken.
    missed: AtomicBool,
}

struct State<T: Turn> {
    /// `None` once the task has ended.
    work: Option<T>,
    /// How a turn ended that was not the task's own.
    ended: Option<Result<T::End, Box<dyn Any + Send>>>,
}

impl<T: Turn> InPlace<T> {
    pub(crate) fn new(work: T) -> Self {
        let state = State { work: Some(work), ended: None };
        Self { state: Mutex::new(state), task: Mutex::new(None), missed: AtomicBool::new(false) }
    }

    /// Lets the work know of its cell, before the first turn.
    pub(crate) fn offer(self: &Arc<Self>, offer: impl FnOnce(&mut T, Weak<Self>)) {
        if let Ok(State { work: Some(work), .. }) = self.state.lock().as_deref_mut() {
            offer(work, Arc::downgrade(self));
        }
    }

    /// The task's own turn.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<T::End> {
        if let Ok(mut task) = self.task.lock()
            && !task.as_ref().is_some_and(|waker| waker.will_wake(context.waker()))
        {
            *task = Some(context.waker().clone());
        }
        let turn = self.with(|State { work, ended }| match (ended.take(), work) {
            (Some(Ok(end)), _) => Poll::Ready(end),
            // It ends the task, as if it had been the task's own turn.
            (Some(Err(panic)), _) => resume_unwind(panic),
            (None, Some(work)) => work.turn(context),
            (None, None) => Poll::Pending,
        });
        turn.unwrap_or(Poll::Pending)
    }

    /// Gives the task a turn on this thread, or sees to it that it has one soon.
    pub(crate) fn run_here(&self) {
        let depth = RUNNING.with(Cell::get);
        if depth >= DEPTH {
            return self.wake();
        }
        let Some(waker) = self.waker() else { return };
        RUNNING.with(|running| running.set(depth + 1));
        let ended = self.with(|State { work, ended }| {
            let Some(work) = work.as_mut().filter(|_| ended.is_none()) else { return false };
            let mut context = Context::from_waker(&waker);
            // Whoever brought the work is not to suffer from a fault of the task.
            match catch_unwind(AssertUnwindSafe(|| work.turn(&mut context))) {
                Ok(Poll::Pending) => return false,
                Ok(Poll::Ready(end)) => *ended = Some(Ok(end)),
                Err(panic) => *ended = Some(Err(panic)),
            }
            true
        });
        RUNNING.with(|running| running.set(depth));
        if ended == Some(true) {
            waker.wake();
        }
    }

    /// Takes the work back once the task has ended.
    pub(crate) fn take(&self) -> Option<T> {
        self.state.lock().ok().and_then(|mut state| state.work.take())
    }

    /// Calls `turn` unless somebody else is at it, who then sees to it that the task has another one.
    fn with<R>(&self, mut turn: impl FnMut(&mut State<T>) -> R) -> Option<R> {
        // The second try is for a note that came too late for the one who had the cell.
        for _ in 0..2 {
            let result = match self.state.try_lock() {
                Ok(mut state) => turn(&mut state),
                // The task's own turn panicked: it ends, and takes all of this with it.
                Err(TryLockError::Poisoned(_)) => return None,
                Err(TryLockError::WouldBlock) => {
                    self.missed.store(true, Ordering::SeqCst);
                    continue;
                }
            };
            if self.missed.swap(false, Ordering::SeqCst) {
                self.wake();
            }
            return Some(result);
        }
        None
    }

    fn waker(&self) -> Option<Waker> {
        self.task.lock().ok().and_then(|task| task.clone())
    }

    fn wake(&self) {
        if let Some(waker) = self.waker() {
            waker.wake();
        }
    }
}
