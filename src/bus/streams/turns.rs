//! Who is next to deliver what a stream has stored.
//!
//! Sessions deliver what they publish, and so each in its own order; but whoever comes back with another session goes on while the
//! one before still waits for the store. So publishes to a stream stand in line in the order in which its store got them, which is
//! that of their sequences, and each is delivered when those before it have been, have failed or are gone with their sessions.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::Stream;
use crate::store::{Change, Operation, Outcome};

/// Room of a line that is kept when nobody stands in it: that of a busy stream.
const KEPT: usize = 1024;

/// Publishes that stand in line. They count in the byte budget as long as they do.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    /// The number of the first.
    first: u64,
    places: VecDeque<Place>,
}

#[derive(Debug)]
enum Place {
    /// Whom to wake when it is the first.
    Taken(Option<Waker>),
    /// It has been delivered, or will never be.
    Free,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn place(&mut self, number: u64) -> Option<&mut Place> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.places.get_mut(index)
    }

    /// Gives up a place; returns whom to wake.
    fn leave(&mut self, number: u64) -> Option<Waker> {
        let was_first = number == self.first;
        if let Some(place) = self.place(number) {
            *place = Place::Free;
        }
        while matches!(self.places.front(), Some(Place::Free)) {
            self.places.pop_front();
            self.first += 1;
        }
        match self.places.front_mut() {
            Some(Place::Taken(waker)) if was_first => waker.take(),
            Some(_) => None,
            None => {
                self.places.shrink_to(KEPT);
                None
            }
        }
    }
}

impl Stream {
    /// Gives a publish to the store, and its place in line.
    pub(super) fn append(self: &Arc<Self>, append: Change) -> (Operation<Vec<Outcome>>, Turn) {
        // Under the lock, so that places are in the order of the store.
        let mut line = self.turns.lock();
        let stored = self.commit(vec![append]);
        let number = line.first + line.places.len() as u64;
        line.places.push_back(Place::Taken(None));
        drop(line);
        (stored, Turn { stream: Arc::clone(self), number })
    }
}

/// A place in line. Dropping it lets those behind it go on.
#[derive(Debug)]
pub(super) struct Turn {
    stream: Arc<Stream>,
    number: u64,
}

impl Turn {
    /// Ready when all before have been delivered, or will never be.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut line = self.stream.turns.lock();
        if line.first == self.number {
            return Poll::Ready(());
        }
        match line.place(self.number) {
            Some(Place::Taken(Some(waker))) => waker.clone_from(context.waker()),
            Some(place) => *place = Place::Taken(Some(context.waker().clone())),
            None => return Poll::Ready(()),
        }
        Poll::Pending
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = self.stream.turns.lock().leave(self.number);
        if let Some(next) = next {
            next.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Streams;
    use crate::store::{MemoryStore, Name, StreamSettings};
    use crate::topic::TopicPattern;

    #[tokio::test]
    async fn each_is_next_when_all_before_it_are_done_or_gone() {
        let log = StreamSettings::new(Name::new("log").unwrap(), vec![TopicPattern::new("log").unwrap()]);
        let streams = Streams::open(Arc::new(MemoryStore::new()), [log]).await.unwrap();
        let stream = streams.iter().next().unwrap();
        let mut line: Vec<_> = (0..4).map(|_| Some(stream.append(Change::Purge { before: 0 }).1)).collect();
        let context = &mut Context::from_waker(Waker::noop());
        let mut are_next = |line: &[Option<Turn>]| {
            let mut next = Vec::new();
            for (index, turn) in line.iter().enumerate() {
                if turn.as_ref().is_some_and(|turn| turn.poll(context).is_ready()) {
                    next.push(index);
                }
            }
            next
        };
        assert_eq!(are_next(&line), [0]);
        line[2] = None;
        assert_eq!(are_next(&line), [0]);
        line[0] = None;
        assert_eq!(are_next(&line), [1]);
        line[1] = None;
        assert_eq!(are_next(&line), [3], "the one that is gone is passed over");
    }
}
