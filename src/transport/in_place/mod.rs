//! Running the task at the other end of a link in place.
//!
//! A link within the process ends at a task that sleeps until something arrives. To wake it costs a
//! round through the scheduler, several times as much as what it then does. So its work lies in a cell
//! from which both it and whoever brings it something can take a turn: the same turn, one at a time.
//! Whoever finds the cell taken does not wait for it, but leaves a note, and the task has one turn more.

mod cell;

pub(crate) use cell::{InPlace, Turn};

/// What the cell is made of; its tests put others here, whose schedules can be explored.
mod primitives {
    use std::cell::Cell;

    pub(super) use std::sync::Mutex;
    pub(super) use std::sync::atomic::AtomicBool;

    std::thread_local! {
        /// Turns that this thread is in.
        pub(super) static RUNNING: Cell<u32> = const { Cell::new(0) };
    }
}

/// A task that can be run where something has arrived for it.
pub trait RunInPlace: Send + Sync {
    /// Gives the task a turn, here or soon.
    fn run(&self);
}

impl<T: Turn + Send> RunInPlace for InPlace<T>
where
    T::End: Send,
{
    fn run(&self) {
        self.run_here();
    }
}

#[cfg(test)]
mod tests;
