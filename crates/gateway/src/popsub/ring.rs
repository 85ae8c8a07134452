//! The last messages of a topic, and who is about to follow it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use whispeer::bus::BusView;

use crate::limits;

/// The last messages of a topic, oldest first, in the order in which the gateway's own subscription had them.
pub(super) struct Ring {
    /// How many it keeps.
    capacity: usize,
    state: Mutex<State>,
    /// The gateway's own subscription: its session and its id, as the bus has them.
    source: OnceLock<(u64, u32)>,
    /// When it was used last, as the registry counts.
    used: AtomicU64,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Bytes>,
    feeds: Vec<Weak<Feed>>,
    /// How many messages of the gateway's own subscription have got here, those that were lost on the way counted.
    taken: u64,
    /// It takes nothing more.
    is_over: bool,
}

/// What a message takes beside its text.
const BESIDE: usize = 64;

/// Bytes that count for a message.
fn weight(text: &Bytes) -> usize {
    text.len() + BESIDE
}

impl Ring {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, state: Mutex::default(), source: OnceLock::new(), used: AtomicU64::new(0) }
    }

    /// Adds a message. Returns how many bytes it keeps more, and how many less.
    pub(super) fn push(&self, text: &Bytes) -> (usize, usize) {
        let mut state = self.lock();
        if state.is_over {
            return (0, 0);
        }
        let State { messages, feeds, taken, .. } = &mut *state;
        *taken += 1;
        let mut less = 0;
        while messages.len() >= self.capacity
            && let Some(oldest) = messages.pop_front()
        {
            less += weight(&oldest);
        }
        messages.push_back(text.clone());
        feeds.retain(|feed| feed.upgrade().is_some_and(|feed| feed.push(text, *taken, messages)));
        (weight(text), less)
    }

    /// So many messages were lost on the way to it. So that there is no hole, those before go, too. Returns how many bytes these had.
    pub(super) fn lose(&self, count: u64) -> usize {
        let mut state = self.lock();
        let State { feeds, taken, .. } = &mut *state;
        *taken += count;
        feeds.retain(|feed| feed.upgrade().is_some_and(|feed| feed.lose(*taken)));
        clear(&mut state)
    }

    /// Forgets the oldest message. Returns how many bytes it had; `None` where there is none.
    pub(super) fn forget_oldest(&self) -> Option<usize> {
        self.lock().messages.pop_front().as_ref().map(weight)
    }

    /// Takes nothing more, and forgets what there is. Returns how many bytes that had.
    pub(super) fn end(&self) -> usize {
        let mut state = self.lock();
        state.is_over = true;
        for feed in std::mem::take(&mut state.feeds) {
            if let Some(feed) = feed.upgrade() {
                feed.end();
            }
        }
        clear(&mut state)
    }

    /// What it has when it has got so far, which is now or later, and what comes after that, without a hole and each once.
    pub(super) fn follow(&self, from: u64) -> Arc<Feed> {
        let mut state = self.lock();
        let waits = !state.is_over && state.taken < from;
        let replay = if waits { VecDeque::new() } else { state.messages.clone() };
        let feed = Arc::new(Feed::new(replay, self.capacity, !state.is_over, waits.then_some(from)));
        // Looked at when there would have to be room for more anyway.
        if state.feeds.len() == state.feeds.capacity() {
            state.feeds.retain(|feed| feed.strong_count() > 0);
        }
        if !state.is_over {
            state.feeds.push(Arc::downgrade(&feed));
        }
        feed
    }

    /// How many messages of the gateway's own subscription have got here, those that were lost on the way counted.
    pub(super) fn taken(&self) -> u64 {
        self.lock().taken
    }

    /// How many messages the gateway's own subscription has matched so far: those that are here, or about to be. Where the bus no
    /// longer has the subscription, no more come.
    pub(super) fn matched(&self, bus: &BusView) -> u64 {
        let matched = self.source().and_then(|(session, id)| bus.matched(session, id).ok().flatten());
        matched.unwrap_or_default()
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The gateway's own subscription, once there is one.
    fn source(&self) -> Option<(u64, u32)> {
        self.source.get().copied()
    }

    /// It is filled by this subscription of this session.
    pub(super) fn set_source(&self, session: u64, subscription: u32) {
        let _ = self.source.set((session, subscription));
    }

    pub(super) fn touch(&self, now: u64) {
        self.used.fetch_max(now, Ordering::Relaxed);
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn clear(state: &mut State) -> usize {
    std::mem::take(&mut state.messages).iter().map(weight).sum()
}

/// What somebody who subscribes is sent first: the last messages, and what comes after them, until he follows the bus by himself.
pub(super) struct Feed {
    /// How many messages it may hold, at least.
    replay: usize,
    state: Mutex<FeedState>,
}

struct FeedState {
    queue: VecDeque<Bytes>,
    /// So many at its front were there when it began.
    replayed: usize,
    /// It begins when the ring has got so far: `None` when it has begun.
    from: Option<u64>,
    bytes: usize,
    /// Something may come.
    is_open: bool,
    /// Somebody has begun to take it.
    is_taken: bool,
    waker: Option<Waker>,
}

/// What comes of a feed.
#[derive(Debug, PartialEq)]
pub(super) struct Fed {
    pub(super) text: Bytes,
    /// It was there before.
    pub(super) is_replayed: bool,
}

impl Feed {
    fn new(replay: VecDeque<Bytes>, capacity: usize, is_open: bool, from: Option<u64>) -> Self {
        let mut state = FeedState {
            queue: VecDeque::new(),
            replayed: 0,
            from,
            bytes: 0,
            is_open,
            is_taken: false,
            waker: None,
        };
        if from.is_none() {
            state.begin(replay);
        }
        Self { replay: capacity, state: Mutex::new(state) }
    }

    /// The message with which the ring has got so far, and what it has with it. Returns whether it takes more. At its bound it is
    /// lost.
    fn push(&self, text: &Bytes, taken: u64, messages: &VecDeque<Bytes>) -> bool {
        let mut state = self.lock();
        if let Some(from) = state.from {
            if taken >= from {
                state.begin(messages.clone());
            }
            return state.is_open;
        }
        let count = state.queue.len();
        let is_full = count >= self.replay + limits::POPSUB_FEED_MESSAGES
            || (count > self.replay && state.bytes >= limits::POPSUB_FEED_BYTES);
        if is_full {
            state.lose();
        }
        if state.is_open {
            state.bytes += text.len();
            state.queue.push_back(text.clone());
            state.wake();
        }
        state.is_open
    }

    /// The ring has got so far by a loss. Returns whether it takes more.
    fn lose(&self, taken: u64) -> bool {
        let mut state = self.lock();
        match state.from {
            // What was lost was there before it begins.
            Some(from) if taken < from => {}
            Some(from) if taken == from => state.begin(VecDeque::new()),
            _ => state.lose(),
        }
        state.is_open
    }

    fn end(&self) {
        self.lock().end();
    }

    /// How many messages would be replayed if the ring had got to where it begins; `None` where it has.
    pub(super) fn awaited(&self) -> Option<u64> {
        let state = self.lock();
        let from = state.from.filter(|_| state.is_open)?;
        Some(from.min(self.replay as u64))
    }

    /// The next message; `None` when nothing more comes this way.
    pub(super) fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Fed>> {
        let mut state = self.lock();
        state.is_taken |= state.from.is_none();
        if let Some(text) = state.queue.pop_front() {
            state.bytes -= text.len();
            let is_replayed = state.replayed > 0;
            state.replayed = state.replayed.saturating_sub(1);
            return Poll::Ready(Some(Fed { text, is_replayed }));
        }
        if !state.is_open {
            return Poll::Ready(None);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, FeedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FeedState {
    /// The ring has got to where it begins, and has this then.
    fn begin(&mut self, replay: VecDeque<Bytes>) {
        self.from = None;
        self.replayed = replay.len();
        self.bytes = replay.iter().map(Bytes::len).sum();
        self.queue = replay;
        self.wake();
    }

    /// What comes next is missing. Who has begun to take it takes what is before that, and then follows the bus, which
    /// delivers it to him. Who has not does that at once: when his subscription began is not known here, and what is missing may be
    /// what the bus delivers first.
    fn lose(&mut self) {
        if !self.is_taken {
            self.queue.clear();
            (self.replayed, self.bytes) = (0, 0);
        }
        self.end();
    }

    fn end(&mut self) {
        self.is_open = false;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use std::future::poll_fn;

    use super::*;

    fn text(number: usize) -> Bytes {
        number.to_string().into()
    }

    fn fill(ring: &Ring, numbers: std::ops::Range<usize>) {
        for number in numbers {
            ring.push(&text(number));
        }
    }

    /// What can be taken now, and whether nothing more comes.
    fn taken(feed: &Feed) -> (Vec<usize>, bool) {
        let mut taken = Vec::new();
        loop {
            match poll_fn(|context| feed.poll_next(context)).now_or_never() {
                Some(Some(fed)) => taken.push(std::str::from_utf8(&fed.text).unwrap().parse().unwrap()),
                other => return (taken, other.is_some()),
            }
        }
    }

    #[test]
    fn it_keeps_the_last_ones_and_says_what_they_weigh() {
        let ring = Ring::new(3);
        let mut kept = 0;
        for number in 10..20 {
            let (more, less) = ring.push(&text(number));
            kept = kept + more - less;
        }
        assert_eq!(kept, 3 * (2 + BESIDE));
        assert_eq!(taken(&ring.follow(0)), (vec![17, 18, 19], false));
        assert_eq!(ring.forget_oldest(), Some(2 + BESIDE));
        assert_eq!(taken(&ring.follow(0)), (vec![18, 19], false));
        assert_eq!(ring.end(), 2 * (2 + BESIDE));
        assert_eq!(ring.push(&text(20)), (0, 0));
        assert_eq!(taken(&ring.follow(0)), (vec![], true));
    }

    #[test]
    fn who_follows_has_what_was_there_and_what_comes_once_and_in_order() {
        let ring = Ring::new(2);
        fill(&ring, 0..5);
        let feed = ring.follow(0);
        fill(&ring, 5..9);
        assert_eq!(taken(&feed), (vec![3, 4, 5, 6, 7, 8], false));
        ring.push(&text(9));
        assert_eq!(taken(&feed), (vec![9], false));
        ring.end();
        assert_eq!(taken(&feed), (vec![], true));
    }

    #[test]
    fn at_its_bound_it_ends_without_a_hole() {
        let ring = Ring::new(2);
        let most = 2 + limits::POPSUB_FEED_MESSAGES;
        let feed = ring.follow(0);
        fill(&ring, 0..2 * most);
        // Nobody has begun to take it, and what the bus delivers first may be what is missing.
        assert_eq!(taken(&feed), (vec![], true));
        let feed = ring.follow(0);
        assert_eq!(taken(&feed).0.len(), 2);
        fill(&ring, 0..2 * most);
        assert_eq!(taken(&feed), ((0..most).collect(), true));
    }

    #[test]
    fn its_bytes_are_bounded_but_for_what_is_replayed() {
        let ring = Ring::new(2);
        let large = Bytes::from(vec![0; limits::POPSUB_FEED_BYTES]);
        ring.push(&large);
        let feed = ring.follow(0);
        assert_eq!(feed.lock().queue.len(), 1);
        for _ in 0..5 {
            ring.push(&large);
        }
        assert!(feed.lock().queue.is_empty());
    }

    #[test]
    fn where_messages_were_lost_there_is_no_hole_but_an_end() {
        let ring = Ring::new(2);
        fill(&ring, 0..3);
        let (begun, waiting) = (ring.follow(0), ring.follow(0));
        assert_eq!(taken(&begun).0, [1, 2]);
        assert_eq!(ring.lose(1), 2 * (1 + BESIDE));
        ring.push(&text(4));
        assert_eq!(taken(&begun), (vec![], true));
        assert_eq!(taken(&waiting), (vec![], true));
        assert_eq!(taken(&ring.follow(0)), (vec![4], false));
    }

    #[test]
    fn who_follows_from_where_it_has_not_got_to_yet_gets_no_more_than_it_has_then() {
        let ring = Ring::new(3);
        fill(&ring, 0..4);
        let feed = ring.follow(6);
        assert_eq!((taken(&feed), feed.awaited()), ((vec![], false), Some(3)));
        ring.push(&text(4));
        assert_eq!(taken(&feed), (vec![], false));
        fill(&ring, 5..8);
        assert_eq!((taken(&feed), feed.awaited()), ((vec![3, 4, 5, 6, 7], false), None));
        assert_eq!(taken(&ring.follow(8)), (vec![5, 6, 7], false));
        let waits = ring.follow(100);
        ring.end();
        assert_eq!((taken(&waits), waits.awaited()), ((vec![], true), None));
    }

    #[test]
    fn what_was_there_before_is_told_apart_from_what_comes() {
        let ring = Ring::new(2);
        fill(&ring, 0..2);
        let feed = ring.follow(3);
        fill(&ring, 2..4);
        let next = || poll_fn(|context| feed.poll_next(context)).now_or_never().flatten();
        let fed: Vec<_> = std::iter::from_fn(next).map(|fed| fed.is_replayed).collect();
        assert_eq!(fed, [true, true, false]);
    }

    #[test]
    fn what_is_lost_before_it_begins_is_not_missing_and_what_is_lost_later_is() {
        let ring = Ring::new(2);
        fill(&ring, 0..2);
        let [before, exact, later] = [5, 4, 3].map(|from| ring.follow(from));
        ring.lose(2);
        fill(&ring, 4..6);
        assert_eq!(taken(&before), (vec![4, 5], false));
        assert_eq!(taken(&exact), (vec![4, 5], false));
        assert_eq!(taken(&later), (vec![], true));
    }

    #[test]
    fn who_does_not_follow_any_more_is_forgotten() {
        let ring = Ring::new(1);
        for _ in 0..1000 {
            drop(ring.follow(0));
        }
        assert!(ring.lock().feeds.len() < 10);
    }
}
