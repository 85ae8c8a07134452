//! Turns at something that costs much, shared fairly among those who ask.
//!
//! Each source has at most a part of the turns, and of the places to wait for one. A turn that is free goes to the
//! sources in rotation, so that who comes alone waits for one check of each other source at the most, however many
//! wait there.

use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::source::Source;

/// How many there are of something, and how many of them one source may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) all: usize,
    pub(super) of_one: usize,
}

/// Who has a turn, and who waits for one.
#[derive(Debug)]
pub(super) struct Turns {
    turns: Part,
    places: Part,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    waiting: usize,
    /// Those that have a turn or wait.
    sources: HashMap<Source, Asking, RandomState>,
    /// Those that wait, in the order in which they are asked whether they may have the next turn.
    rotation: VecDeque<Source>,
    next: u64,
}

/// What one source has.
#[derive(Debug, Default)]
struct Asking {
    taken: usize,
    waiting: VecDeque<(u64, oneshot::Sender<Turn>)>,
}

/// A turn. It is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    source: Source,
}

/// Why there is no turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoTurn {
    /// As many wait as may.
    Full,
    /// There was none in time.
    TimedOut,
}

impl Turns {
    pub(super) fn new(turns: Part, places: Part) -> Arc<Self> {
        Arc::new(Self { turns, places, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn.
    ///
    /// # Cancel safety
    /// Who drops the future gives up the place, and the turn if it has just come.
    pub(super) async fn take(self: &Arc<Self>, source: &Source, patience: Duration) -> Result<Turn, NoTurn> {
        let place = {
            let mut state = self.lock();
            let (taken, waiting) =
                state.sources.get(source).map_or((0, 0), |asking| (asking.taken, asking.waiting.len()));
            // Who waits while a turn is free has its part already.
            if state.taken < self.turns.all && taken < self.turns.of_one {
                state.taken += 1;
                state.sources.entry(source.clone()).or_default().taken += 1;
                return Ok(Turn { turns: Arc::clone(self), source: source.clone() });
            }
            if state.waiting >= self.places.all || waiting >= self.places.of_one {
                return Err(NoTurn::Full);
            }
            let (sender, turn) = oneshot::channel();
            let number = state.next;
            state.next += 1;
            state.waiting += 1;
            state.sources.entry(source.clone()).or_default().waiting.push_back((number, sender));
            if waiting == 0 {
                state.rotation.push_back(source.clone());
            }
            Place { turns: self, source, number, turn }
        };
        place.wait(patience).await
    }

    /// How many more could begin at once.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.turns.all - self.lock().taken
    }
}

impl State {
    /// The source that is next, and who waits there.
    fn next(&mut self, of_one: usize) -> Option<(Source, oneshot::Sender<Turn>)> {
        let may = |source: &Source| self.sources.get(source).is_some_and(|asking| asking.taken < of_one);
        let index = self.rotation.iter().position(may)?;
        let source = self.rotation.remove(index)?;
        let asking = self.sources.get_mut(&source)?;
        let (_, sender) = asking.waiting.pop_front()?;
        asking.taken += 1;
        if !asking.waiting.is_empty() {
            self.rotation.push_back(source.clone());
        }
        self.taken += 1;
        self.waiting -= 1;
        Some((source, sender))
    }

    /// Forgets a source that has and wants nothing any more.
    fn tidy(&mut self, source: &Source) {
        if self.sources.get(source).is_some_and(|asking| asking.taken == 0 && asking.waiting.is_empty()) {
            self.sources.remove(source);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut state = self.turns.lock();
            state.taken = state.taken.saturating_sub(1);
            if let Some(asking) = state.sources.get_mut(&self.source) {
                asking.taken = asking.taken.saturating_sub(1);
            }
            let next = state.next(self.turns.turns.of_one);
            state.tidy(&self.source);
            next
        };
        if let Some((source, sender)) = next {
            // Who has just stopped waiting gives it back at once.
            let _ = sender.send(Turn { turns: Arc::clone(&self.turns), source });
        }
    }
}

/// A place in the queue. It is given up when it is dropped.
struct Place<'a> {
    turns: &'a Turns,
    source: &'a Source,
    number: u64,
    turn: oneshot::Receiver<Turn>,
}

impl Place<'_> {
    async fn wait(mut self, patience: Duration) -> Result<Turn, NoTurn> {
        match timeout(patience, &mut self.turn).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(NoTurn::TimedOut),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut guard = self.turns.lock();
        let state = &mut *guard;
        let Some(asking) = state.sources.get_mut(self.source) else { return };
        let Some(index) = asking.waiting.iter().position(|(number, _)| *number == self.number) else {
            return;
        };
        let given_up = asking.waiting.remove(index);
        state.waiting -= 1;
        if asking.waiting.is_empty() {
            state.rotation.retain(|source| source != self.source);
        }
        state.tidy(self.source);
        drop(guard);
        // Only now: what it holds is never dropped under the lock.
        drop(given_up);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    fn uid(uid: u32) -> Source {
        Source::Uid(uid)
    }

    fn turns() -> Arc<Turns> {
        Turns::new(Part { all: 4, of_one: 2 }, Part { all: 6, of_one: 3 })
    }

    impl Turns {
        fn is_empty(&self) -> bool {
            let state = self.lock();
            state.taken == 0 && state.waiting == 0 && state.sources.is_empty() && state.rotation.is_empty()
        }
    }

    /// So many of a source that wait, in the order in which they asked.
    async fn wait_in_line(turns: &Arc<Turns>, source: u32, count: usize, into: &mut JoinSet<(u32, Turn)>) {
        for _ in 0..count {
            let before = turns.lock().waiting;
            let turns = Arc::clone(turns);
            into.spawn({
                let turns = Arc::clone(&turns);
                async move { (source, turns.take(&uid(source), PATIENCE).await.unwrap()) }
            });
            while turns.lock().waiting == before {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_source_has_only_its_part_of_turns_and_places_and_others_have_theirs() {
        let turns = turns();
        let flood = uid(1);
        let taken =
            [turns.take(&flood, PATIENCE).await.unwrap(), turns.take(&flood, PATIENCE).await.unwrap()];
        let mut waiting = JoinSet::new();
        wait_in_line(&turns, 1, 3, &mut waiting).await;
        assert_eq!(turns.take(&flood, PATIENCE).await.unwrap_err(), NoTurn::Full);
        assert_eq!(turns.free(), 2);

        let start = Instant::now();
        let other = turns.take(&uid(2), PATIENCE).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        drop((taken, other));
        while let Some(ended) = waiting.join_next().await {
            drop(ended.unwrap());
        }
        assert!(turns.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_free_turn_goes_to_the_sources_in_rotation_and_within_one_to_who_came_first() {
        let turns = turns();
        let mut taken = Vec::new();
        for source in [8, 8, 9, 9] {
            taken.push(turns.take(&uid(source), PATIENCE).await.unwrap());
        }
        let mut waiting = JoinSet::new();
        wait_in_line(&turns, 1, 3, &mut waiting).await;
        wait_in_line(&turns, 2, 1, &mut waiting).await;
        wait_in_line(&turns, 3, 2, &mut waiting).await;
        assert_eq!(turns.take(&uid(4), PATIENCE).await.unwrap_err(), NoTurn::Full, "all places are taken");
        let mut order = Vec::new();
        for turn in taken {
            drop(turn);
            let (source, turn) = waiting.join_next().await.unwrap().unwrap();
            order.push(source);
            std::mem::forget(turn);
        }
        // The last of them has its part by then.
        assert_eq!(order, [1, 2, 3, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_too_long_or_hangs_up_leaves_nothing_behind() {
        let turns = Turns::new(Part { all: 1, of_one: 1 }, Part { all: 2, of_one: 2 });
        let taken = turns.take(&uid(1), PATIENCE).await.unwrap();
        let start = Instant::now();
        assert_eq!(turns.take(&uid(2), PATIENCE).await.unwrap_err(), NoTurn::TimedOut);
        assert_eq!(start.elapsed(), PATIENCE);
        {
            let source = uid(2);
            let mut gone = std::pin::pin!(turns.take(&source, PATIENCE));
            std::future::poll_fn(|context| {
                assert!(gone.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            assert_eq!(turns.lock().waiting, 1);
            // It is handed over, and nobody takes it.
            drop(taken);
            assert_eq!(turns.free(), 0);
        }
        assert!(turns.is_empty());
    }
}
