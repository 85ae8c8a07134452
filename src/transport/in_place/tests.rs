//! Schedules of a task and of threads that bring it work are explored by shuttle: no piece of work
//! is left behind, and no two turns overlap.

mod primitives {
    use std::cell::Cell;

    pub(super) use shuttle::sync::Mutex;
    pub(super) use shuttle::sync::atomic::AtomicBool;

    shuttle::thread_local! {
        pub(super) static RUNNING: Cell<u32> = Cell::new(0);
    }
}

#[expect(dead_code, reason = "tests need a part of it")]
#[allow(clippy::duplicate_mod, reason = "the same code over other primitives is the point")]
#[path = "cell.rs"]
mod cell;

use std::task::{Context, Poll, Wake, Waker};

use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

use cell::{InPlace, Turn};

const PIECES: usize = 3;

/// Counts what was brought, and sees that nobody else does so meanwhile.
struct Counter {
    brought: Arc<AtomicUsize>,
    seen: usize,
    total: usize,
    busy: Arc<AtomicUsize>,
}

impl Turn for Counter {
    type End = usize;

    fn turn(&mut self, _context: &mut Context<'_>) -> Poll<usize> {
        assert_eq!(self.busy.fetch_add(1, Ordering::SeqCst), 0, "two turns at once");
        self.seen += self.brought.swap(0, Ordering::SeqCst);
        thread::yield_now();
        self.busy.fetch_sub(1, Ordering::SeqCst);
        if self.seen == self.total { Poll::Ready(self.seen) } else { Poll::Pending }
    }
}

/// The scheduler of one task.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

struct Ring(Arc<Bell>);

impl Wake for Ring {
    fn wake(self: std::sync::Arc<Self>) {
        *self.0.rung.lock().unwrap() = true;
        self.0.changed.notify_all();
    }
}

fn explore(producers: usize) {
    let (brought, busy) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let total = producers * PIECES;
    let counter = Counter { brought: Arc::clone(&brought), seen: 0, total, busy };
    let cell = Arc::new(InPlace::new(counter));
    let threads: Vec<_> = (0..producers)
        .map(|_| {
            let (cell, brought) = (Arc::clone(&cell), Arc::clone(&brought));
            thread::spawn(move || {
                for _ in 0..PIECES {
                    brought.fetch_add(1, Ordering::SeqCst);
                    cell.run_here();
                }
            })
        })
        .collect();
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(std::sync::Arc::new(Ring(Arc::clone(&bell))));
    let mut context = Context::from_waker(&waker);
    // A task that is left asleep with work undone is a deadlock, which shuttle reports.
    while cell.poll(&mut context).is_pending() {
        let mut rung = bell.rung.lock().unwrap();
        while !*rung {
            rung = bell.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(cell.take().map(|counter| counter.seen), Some(total));
}

#[test]
fn whoever_has_the_turn_nothing_is_left_behind() {
    shuttle::check_random(|| explore(2), 1_000);
    shuttle::check_random(|| explore(3), 300);
}

/// Panics when it is told to.
struct Faulty(bool);

impl super::Turn for Faulty {
    type End = ();

    fn turn(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        assert!(!std::mem::replace(&mut self.0, true), "a fault of the task");
        Poll::Pending
    }
}

#[test]
fn a_panic_in_a_turn_elsewhere_ends_the_task_and_nobody_else() {
    let cell = super::InPlace::new(Faulty(false));
    let mut context = Context::from_waker(Waker::noop());
    assert!(cell.poll(&mut context).is_pending());
    cell.run_here();
    // Nothing is run after the fault.
    cell.run_here();
    let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cell.poll(&mut context)));
    let panic = polled.expect_err("the task ends with the panic");
    assert_eq!(panic.downcast_ref(), Some(&"a fault of the task"));
}

#[test]
fn turns_within_turns_end_at_a_depth() {
    struct Chain {
        next: Option<std::sync::Arc<super::InPlace<Chain>>>,
        turns: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    }
    impl super::Turn for Chain {
        type End = ();

        fn turn(&mut self, _context: &mut Context<'_>) -> Poll<()> {
            self.turns.fetch_add(1, Ordering::Relaxed);
            if let Some(next) = &self.next {
                next.run_here();
            }
            Poll::Pending
        }
    }
    let turns = std::sync::Arc::default();
    let mut first = None;
    for _ in 0..100 {
        let chain = Chain { next: first.take(), turns: std::sync::Arc::clone(&turns) };
        let cell = std::sync::Arc::new(super::InPlace::new(chain));
        let _ = cell.poll(&mut Context::from_waker(Waker::noop()));
        turns.store(0, Ordering::Relaxed);
        cell.run_here();
        assert!(turns.load(Ordering::Relaxed) <= 4);
        first = Some(cell);
    }
}
