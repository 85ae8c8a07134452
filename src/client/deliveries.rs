//! What a subscription that acknowledges has been handed, and what became of it.
//!
//! The bus sends a message again that it has no acknowledgement of: because that is late, or because the session in which it
//! was on its way is gone. Whoever has the message, or is done with it, is not handed it again: what comes only brings the
//! token by which the bus knows it now.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::{BusError, BusResult};
use crate::proto::fields::{Attempt, Quality};
use crate::proto::{Flags, Header, Kind};

/// Acknowledgements that are sent together at the most, where the application does not ask for each.
const BATCH: usize = 64;

/// How long the bus may not be told what was taken and what is done, while more is. So it knows what an application is at
/// work on, unless that takes more than a hundred messages a second.
const UNTOLD: Duration = Duration::from_millis(10);

/// The deliveries of one subscription.
#[derive(Debug)]
pub(super) struct Deliveries {
    quality: Quality,
    kind: Kept,
    state: Mutex<State>,
}

/// Who knows what is done when a new session begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// Nobody else: the subscription asks for what it is not done with.
    Here,
    /// The bus, for this subscription alone.
    AtBus,
    /// The bus, and others may have got the messages meanwhile.
    Shared,
}

#[derive(Debug, Default)]
struct State {
    /// How many new sessions have begun.
    generation: u32,
    /// The bus has accepted the subscription in this session.
    is_accepted: bool,
    /// Nothing comes any more, not even again.
    is_drained: bool,
    /// By what the bus knows those that wait to be taken. Each waits once, however often it has come.
    arrived: HashMap<u64, u64>,
    held: BTreeMap<u64, Held>,
    /// Of those that are done with and that the bus would send again in a new session; see [`Kept::Here`].
    finished: BTreeSet<u64>,
    /// Those of them that the bus does send again in this session, until it has.
    expected: BTreeSet<u64>,
    /// Those that were refused and come again; likewise.
    refused: BTreeSet<u64>,
    /// The last message of the stream that was taken.
    last: u64,
    /// It is known where the subscription began, or something was taken of it.
    has_begun: bool,
    /// Acknowledgements that the bus answers, by what their frames say, and their messages.
    asked: HashMap<u64, Vec<Asked>>,
    /// Acknowledgements that go together: tokens and messages.
    batch: Vec<(u64, u64)>,
    /// When the last were sent, and when the bus was told last what is begun with.
    sent_at: Option<Instant>,
    told_at: Option<Instant>,
}

/// A message of an acknowledgement that the bus answers.
#[derive(Debug)]
struct Asked {
    /// By what it was acknowledged; `None` where it is asked whether it is done.
    token: Option<u64>,
    sequence: u64,
}

#[derive(Debug, Default)]
struct Held {
    /// By what the bus knows it in this session.
    token: Option<u64>,
    /// The application is done with it.
    is_done: bool,
    /// Who waits until that is kept.
    waiting: Vec<oneshot::Sender<BusResult<()>>>,
}

/// What becomes of a message that has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The application gets it. The bus may have to be told that it is at work on it.
    New(Option<Frame>),
    /// The application has it or had it. The bus may have to be told.
    Known(Option<Frame>),
}

/// An `ACK` to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    flags: Flags,
    sequence: u64,
    payload: Vec<u8>,
}

impl Frame {
    fn new(flags: Flags, sequence: u64) -> Self {
        Self { flags, sequence, payload: Vec::new() }
    }

    /// Its header for this subscription, and its payload.
    pub(super) fn parts(&self, subscription: u32) -> (Header, &[u8]) {
        (Header::new(Kind::Ack, subscription, self.sequence).flagged(self.flags), &self.payload)
    }
}

impl Deliveries {
    pub(super) fn new(quality: Quality, kind: Kept) -> Self {
        Self { quality, kind, state: Mutex::new(State::default()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first message that can come lies there, if none has come.
    pub(super) fn begin_at(&self, sequence: u64) {
        let mut state = self.lock();
        if state.last == 0 {
            state.last = sequence.saturating_sub(1);
        }
        state.has_begun = true;
    }

    /// A message has come. Where the application has or had it, or is about to take it, it is not put with those that wait
    /// to be taken: the application may never ask for another, and must not find it again when it is done with it.
    pub(super) fn arrived(&self, sequence: u64, attempt: Attempt) -> Taken {
        let mut state = self.lock();
        if let Some(frame) = state.renew(sequence, attempt.token) {
            return Taken::Known(frame);
        }
        match state.arrived.insert(sequence, attempt.token) {
            None => Taken::New(None),
            Some(_) => Taken::Known(None),
        }
    }

    /// Takes a message of the session with this number.
    pub(super) fn take(&self, generation: u32, sequence: u64, attempt: Attempt) -> Taken {
        let mut state = self.lock();
        if generation != state.generation {
            // The session is gone, and it comes again.
            return Taken::Known(None);
        }
        let token = state.arrived.remove(&sequence).unwrap_or(attempt.token);
        state.last = state.last.max(sequence);
        state.has_begun = true;
        state.refused.remove(&sequence);
        state.held.insert(sequence, Held { token: Some(token), ..Held::default() });
        Taken::New(is_due(&mut state.told_at).then(|| Frame::new(Flags::PROGRESS, token)))
    }

    /// The application is done with a message. Who waits is told when that is kept.
    pub(super) fn acknowledge(
        &self,
        sequence: u64,
        waiting: oneshot::Sender<BusResult<()>>,
    ) -> Option<Frame> {
        let mut state = self.lock();
        let is_lost = self.is_lost(&state);
        let Some(held) = state.held.get_mut(&sequence) else {
            drop(state);
            // Whoever waited may have gone.
            let _ = waiting.send(Err(stale(sequence)));
            return None;
        };
        held.is_done = true;
        held.waiting.push(waiting);
        match held.token {
            Some(token) => {
                state.asked.insert(token, vec![Asked { token: Some(token), sequence }]);
                Some(Frame::new(Flags::ACKNOWLEDGE, token))
            }
            None if is_lost => {
                let told = state.forget(sequence);
                drop(state);
                tell(told, &Err(stale(sequence)));
                None
            }
            None => state.is_accepted.then(|| state.ask_for(sequence)),
        }
    }

    /// The application is done with a message and does not wait. It goes with others, which are returned when they are
    /// to be sent.
    pub(super) fn acknowledge_later(&self, sequence: u64) -> Option<Frame> {
        let mut state = self.lock();
        let is_lost = self.is_lost(&state);
        let held = state.held.get_mut(&sequence)?;
        held.is_done = true;
        match held.token {
            Some(token) => state.batch.push((token, sequence)),
            None if is_lost => drop(state.forget(sequence)),
            // It comes again, and is acknowledged then.
            None => {}
        }
        if state.batch.len() >= BATCH || is_due(&mut state.sent_at) { self.batch(&mut state) } else { None }
    }

    /// What is to be sent before the application waits.
    pub(super) fn flush(&self) -> Option<Frame> {
        self.batch(&mut self.lock())
    }

    fn batch(&self, state: &mut State) -> Option<Frame> {
        let mut batch = std::mem::take(&mut state.batch).into_iter();
        let (first, sequence) = batch.next()?;
        let mut asked = vec![Asked { token: Some(first), sequence }];
        let mut frame = Frame::new(Flags::NONE, first);
        for (token, sequence) in batch {
            frame.payload.extend_from_slice(&token.to_le_bytes());
            asked.push(Asked { token: Some(token), sequence });
        }
        if self.quality == Quality::ExactlyOnce {
            frame.flags = Flags::ACKNOWLEDGE;
            state.asked.insert(first, asked);
        } else {
            asked.into_iter().for_each(|own| drop(self.finish(state, own.sequence)));
        }
        Some(frame)
    }

    /// The application wants a message again.
    pub(super) fn refuse(&self, sequence: u64, delay: Option<Duration>) -> Option<Frame> {
        let mut state = self.lock();
        if state.held.get(&sequence).is_none_or(|held| held.is_done) {
            return None;
        }
        let held = state.held.remove(&sequence)?;
        if self.kind == Kept::Here {
            state.refused.insert(sequence);
        }
        let mut frame = Frame::new(Flags::REFUSE, held.token?);
        if let Some(delay) = delay {
            let milliseconds = u32::try_from(delay.as_millis()).unwrap_or(u32::MAX);
            frame.payload.extend_from_slice(&milliseconds.to_le_bytes());
        }
        Some(frame)
    }

    /// The application needs longer.
    pub(super) fn progress(&self, sequence: u64) -> Option<Frame> {
        let token = self.lock().held.get(&sequence)?.token?;
        Some(Frame::new(Flags::PROGRESS, token))
    }

    /// The application needs longer for all that it has and is not done with.
    #[cfg(feature = "broker")]
    pub(super) fn progress_of_all(&self) -> Vec<Frame> {
        let state = self.lock();
        let open = state.held.values().filter(|held| !held.is_done).filter_map(|held| held.token);
        open.map(|token| Frame::new(Flags::PROGRESS, token)).collect()
    }

    /// The stream is another one: nothing that is known is of it.
    pub(super) fn forget_all(&self) {
        let mut state = self.lock();
        let generation = state.generation;
        let gone = std::mem::replace(&mut *state, State { generation, has_begun: true, ..State::default() });
        drop(state);
        let told = gone.held.into_values().flat_map(|held| held.waiting).collect();
        tell(told, &Err(BusError::OutcomeUnknown { what: "the acknowledgement was kept".into() }));
    }

    /// The stream has been put back, and ends here: what is known of messages behind that is of others than will come.
    pub(super) fn forget_from(&self, end: u64) {
        let mut state = self.lock();
        let gone = state.held.split_off(&end);
        state.arrived.retain(|sequence, _| *sequence < end);
        let State { finished, expected, refused, .. } = &mut *state;
        for known in [finished, expected, refused] {
            drop(known.split_off(&end));
        }
        // Of what it has not begun with, it begins with what comes.
        let last = if state.has_begun { state.last } else { u64::MAX };
        state.last = last.min(end.saturating_sub(1));
        state.has_begun = true;
        drop(state);
        let told = gone.into_values().flat_map(|held| held.waiting).collect();
        tell(told, &Err(BusError::OutcomeUnknown { what: "the acknowledgement was kept".into() }));
    }

    /// The bus has accepted the subscription: it is asked about what was done before.
    pub(super) fn accepted(&self) -> Vec<Frame> {
        let mut state = self.lock();
        state.is_accepted = true;
        let done: Vec<u64> = state
            .held
            .iter()
            .filter(|(_, held)| held.is_done && held.token.is_none())
            .map(|(sequence, _)| *sequence)
            .collect();
        done.into_iter().map(|sequence| state.ask_for(sequence)).collect()
    }

    /// The bus has answered an acknowledgement. Returns what it is asked then: where a message was not this subscription's any
    /// more, it comes again, or is among the dead letters or dropped by retention and does not.
    pub(super) fn answered(&self, asked: u64, result: &BusResult<()>) -> Vec<Frame> {
        let mut state = self.lock();
        let (mut told, mut frames) = (Vec::new(), Vec::new());
        for Asked { token, sequence } in state.asked.remove(&asked).unwrap_or_default() {
            let comes_again = matches!(result, Err(BusError::StaleAck { .. })) && !self.is_lost(&state);
            if comes_again {
                let Some(held) = state.held.get_mut(&sequence) else { continue };
                // By another token it is acknowledged already.
                if token.is_some() && held.token == token {
                    held.token = None;
                    frames.push(state.ask_for(sequence));
                }
                continue;
            }
            told.extend(self.finish(&mut state, sequence));
        }
        drop(state);
        tell(told, result);
        frames
    }

    /// A new session begins: nothing that was on its way arrives. Returns where the stream is to be read from, if the bus
    /// does not know: 0 for where it was asked for at first, as nothing was taken yet.
    pub(super) fn restart(&self) -> Option<u64> {
        let mut state = self.lock();
        state.generation += 1;
        state.is_accepted = false;
        state.arrived.clear();
        state.asked.clear();
        state.batch.clear();
        let mut told = Vec::new();
        let done: Vec<u64> =
            state.held.iter().filter(|(_, held)| held.is_done).map(|(sequence, _)| *sequence).collect();
        if self.kind == Kept::Shared {
            // Nobody knows whether others have got them.
            done.into_iter().for_each(|sequence| told.extend(state.forget(sequence)));
        }
        for held in state.held.values_mut() {
            held.token = None;
        }
        let from = if state.has_begun { state.lowest() } else { 0 };
        let finished = std::mem::take(&mut state.finished);
        state.expected.extend(finished);
        state.expected = state.expected.split_off(&from);
        drop(state);
        tell(told, &Err(BusError::OutcomeUnknown { what: "the acknowledgement was kept".into() }));
        (self.kind == Kept::Here).then_some(from)
    }

    /// Whether a message by a token that the bus does not know is not this subscription's any more: others have got it, or
    /// nothing comes again by which it could be acknowledged.
    fn is_lost(&self, state: &State) -> bool {
        self.kind == Kept::Shared || state.is_drained
    }

    /// The bus hands over nothing any more, and takes acknowledgements.
    pub(super) fn drained(&self) {
        let mut state = self.lock();
        state.is_drained = true;
        // They would be acknowledged when they come again.
        let waiting = state.held.iter().filter(|(_, held)| held.is_done && held.token.is_none());
        let lost: Vec<u64> = waiting.map(|(sequence, _)| *sequence).collect();
        let told: Vec<_> = lost.into_iter().map(|sequence| (sequence, state.forget(sequence))).collect();
        drop(state);
        told.into_iter().for_each(|(sequence, waiting)| tell(waiting, &Err(stale(sequence))));
    }

    /// The subscription has ended.
    pub(super) fn end(&self, error: &BusError) {
        let mut state = self.lock();
        state.asked.clear();
        state.batch.clear();
        let told: Vec<_> =
            std::mem::take(&mut state.held).into_values().flat_map(|held| held.waiting).collect();
        drop(state);
        tell(told, &Err(error.clone()));
    }

    /// A message is done with, for the bus too. Returns who waited for that.
    fn finish(&self, state: &mut State, sequence: u64) -> Vec<oneshot::Sender<BusResult<()>>> {
        let told = state.forget(sequence);
        if self.kind == Kept::Here {
            state.finished.insert(sequence);
            let lowest = state.lowest();
            while state.finished.first().is_some_and(|first| *first < lowest) {
                state.finished.pop_first();
            }
        }
        told
    }
}

impl State {
    /// The bus knows a message by this token. `None` where the application has not had it; otherwise what the bus is to be
    /// told.
    fn renew(&mut self, sequence: u64, token: u64) -> Option<Option<Frame>> {
        if self.expected.remove(&sequence) {
            // The next session may begin before it, too.
            self.finished.insert(sequence);
        }
        if self.finished.contains(&sequence) {
            return Some(Some(Frame::new(Flags::NONE, token)));
        }
        let held = self.held.get_mut(&sequence)?;
        held.token = Some(token);
        Some(held.is_done.then(|| {
            self.asked.insert(token, vec![Asked { token: Some(token), sequence }]);
            Frame::new(Flags::ACKNOWLEDGE, token)
        }))
    }

    fn forget(&mut self, sequence: u64) -> Vec<oneshot::Sender<BusResult<()>>> {
        self.held.remove(&sequence).map(|held| held.waiting).unwrap_or_default()
    }

    /// The first message that the application is not done with.
    fn lowest(&self) -> u64 {
        let held = self.held.keys().next().copied();
        held.into_iter().chain(self.refused.first().copied()).min().unwrap_or(self.last + 1)
    }

    /// Asks to be told when the bus knows that a message is done.
    fn ask_for(&mut self, sequence: u64) -> Frame {
        self.asked.insert(sequence, vec![Asked { token: None, sequence }]);
        Frame::new(Flags::ACKNOWLEDGE.with(Flags::WHEN_DONE), sequence)
    }
}

/// Whether it is time to tell something of which the bus was told at this moment.
fn is_due(told_at: &mut Option<Instant>) -> bool {
    let now = Instant::now();
    let is_due = told_at.is_none_or(|told_at| now.duration_since(told_at) >= UNTOLD);
    if is_due {
        *told_at = Some(now);
    }
    is_due
}

fn tell(waiting: Vec<oneshot::Sender<BusResult<()>>>, result: &BusResult<()>) {
    for sender in waiting {
        // Whoever waited may have gone.
        let _ = sender.send(result.clone());
    }
}

fn stale(sequence: u64) -> BusError {
    BusError::StaleAck { what: format!("message {sequence}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_taken_is_read_again_from_the_first_message_on() {
        let deliveries = Deliveries::new(Quality::ExactlyOnce, Kept::Here);
        let attempt = |token| Attempt::new(token, 1, false);
        for sequence in 1..=3 {
            deliveries.arrived(sequence, attempt(sequence));
        }
        assert_eq!(deliveries.restart(), Some(0), "nothing was taken: as it was asked for");
        deliveries.arrived(1, attempt(11));
        deliveries.take(1, 1, attempt(11));
        assert_eq!(deliveries.restart(), Some(1), "the application is not done with the first");
    }

    #[test]
    fn of_a_stream_that_was_put_back_nothing_is_known_behind_its_end() {
        let deliveries = Deliveries::new(Quality::AtLeastOnce, Kept::Here);
        let attempt = |token| Attempt::new(token, 1, false);
        for sequence in 1..=4 {
            deliveries.arrived(sequence, attempt(sequence));
            deliveries.take(0, sequence, attempt(sequence));
        }
        // Somebody waits for the third, the last is done.
        let (sender, mut kept) = oneshot::channel();
        deliveries.acknowledge(3, sender);
        deliveries.acknowledge_later(4);
        deliveries.flush();
        deliveries.forget_from(3);
        assert!(matches!(kept.try_recv(), Ok(Err(BusError::OutcomeUnknown { .. }))));
        assert_eq!(deliveries.restart(), Some(1), "what lies before is as it was");
        assert_eq!(deliveries.arrived(2, attempt(12)), Taken::Known(None));
        for sequence in [3, 4] {
            assert_eq!(deliveries.arrived(sequence, attempt(10)), Taken::New(None), "it is another message");
        }
    }
}
