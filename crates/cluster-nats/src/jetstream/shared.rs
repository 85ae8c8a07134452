//! What the calls to a store and its tasks have in common.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout};
use whispeer::store::{Change, Name, NewMessage, StoreError};

use super::journal::Journal;
use super::record::{Action, Content, Encoded, Stamp, Wire};
use super::replica::{Answer, Done, Effect, Place, Replica};
use super::watched::Watched;
use crate::limits;

/// How far a store is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Phase {
    /// What is in the journal has not been read.
    Starting,
    Ready,
    /// It cannot go on.
    Failed(StoreError),
    Closed,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) journal: Journal,
    state: Mutex<State>,
    pub(super) phase: watch::Sender<Phase>,
    /// There is something to be sent.
    pub(super) work: Notify,
    /// The journal is to be looked at anew.
    pub(super) follow: Notify,
    /// An image is due.
    pub(super) image: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) replica: Replica,
    /// By what its calls are known in the journal.
    pub(super) writer: u64,
    /// The number of the next call.
    next: u64,
    pub(super) queue: VecDeque<Pending>,
    bytes: usize,
    /// How many of the queue have been sent, the first ones, and how many parts of the one behind them.
    sent: (usize, usize),
    /// Bytes of each part that was sent, and nothing was heard of yet.
    flight: VecDeque<usize>,
    flight_bytes: usize,
    /// The writer that takes the place of this one.
    pub(super) successor: Option<u64>,
    /// When something was heard of what has been sent, or that was sent.
    pub(super) heard: Instant,
    /// When it was last begun to send again.
    rewound: Instant,
    /// How long a call waits.
    answer: Duration,
    is_closed: bool,
    /// When the last entry was stored by the clock of NATS (milliseconds since 1970, UTC), and when it was read here.
    clock: Option<(u64, Instant)>,
    /// The last entry that was read, and when it was stored: nanoseconds since 1970 (UTC).
    pub(super) last: Option<(u64, i128)>,
    /// Entries that should be there and that no server has: since when, and when one has said so last.
    missed: BTreeMap<u64, (Instant, Instant)>,
    /// The last entry that JetStream has told to be stored.
    pub(super) told: u64,
    cache: Cache,
    /// What calls have come to that were told that the store is busy, for those who may ask for the same again.
    late: VecDeque<(Call, Result<Answer, StoreError>)>,
    pub(super) watched: Watched,
    is_imaging: bool,
}

/// A stream and what is done to it.
type Call = (Name, Vec<Change>);

type Waiter = oneshot::Sender<Result<Answer, StoreError>>;

/// A call that is to be stored.
#[derive(Debug)]
pub(super) struct Pending {
    /// Its number, once it may have been sent.
    pub(super) number: Option<u64>,
    pub(super) encoded: Encoded,
    pub(super) bytes: usize,
    /// Who waits. Where nobody does, he was told that the store is busy.
    pub(super) waiter: Option<Waiter>,
    pub(super) deadline: Instant,
    /// What it does, where asking for the same again is to come to the same.
    call: Option<Call>,
}

impl Shared {
    pub(super) fn new(journal: Journal, writer: u64) -> Self {
        let state = State {
            replica: Replica::default(),
            writer,
            next: 0,
            queue: VecDeque::new(),
            bytes: 0,
            sent: (0, 0),
            flight: VecDeque::new(),
            flight_bytes: 0,
            successor: None,
            heard: Instant::now(),
            rewound: Instant::now(),
            answer: journal.answer(),
            is_closed: false,
            clock: None,
            last: None,
            missed: BTreeMap::new(),
            told: 0,
            cache: Cache::default(),
            late: VecDeque::new(),
            watched: Watched::default(),
            is_imaging: false,
        };
        let (work, follow, image) = (Notify::new(), Notify::new(), Notify::new());
        let phase = watch::Sender::new(Phase::Starting);
        Self { journal, state: Mutex::new(state), phase, work, follow, image }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the journal has been read.
    pub(super) async fn ready(&self) -> Result<(), StoreError> {
        let mut phase = self.phase.subscribe();
        let begun = phase.wait_for(|phase| *phase != Phase::Starting);
        match timeout(self.journal.answer(), begun).await {
            Ok(Ok(phase)) => match &*phase {
                Phase::Failed(error) => Err(error.clone()),
                Phase::Closed => Err(StoreError::Closed),
                Phase::Starting | Phase::Ready => Ok(()),
            },
            Ok(Err(_)) => Err(StoreError::Closed),
            Err(_) => Err(self.journal.away(format!("not within {:?}", self.journal.answer()))),
        }
    }

    /// Nothing goes on from here.
    pub(super) fn fail(&self, error: &StoreError) {
        tracing::error!(%error, "a store in JetStream cannot go on");
        self.phase.send_replace(Phase::Failed(error.clone()));
        self.lock().end(error);
    }

    /// Gives a call to the store, behind all before it. Who asks for the same again that he was told the store is too busy for, and that may be
    /// done nevertheless, gets what that comes to, if it [is one of a kind](is_unique).
    pub(super) fn submit(
        &self,
        call: Option<Call>,
        encode: impl FnOnce(Option<&Call>) -> Result<Encoded, StoreError>,
    ) -> Result<oneshot::Receiver<Result<Answer, StoreError>>, StoreError> {
        if let Phase::Failed(error) = &*self.phase.borrow() {
            return Err(error.clone());
        }
        let (waiter, waiting) = oneshot::channel();
        let deadline = Instant::now() + self.journal.answer();
        let mut state = self.lock();
        if state.is_closed {
            return Err(StoreError::Closed);
        }
        let Some(waiter) = state.join(call.as_ref(), waiter, deadline) else { return Ok(waiting) };
        let encoded = encode(call.as_ref())?;
        let bytes = encoded.size();
        if state.bytes + bytes > limits::JETSTREAM_QUEUE_BYTES && !state.queue.is_empty() {
            let what = format!("{} MiB of calls wait for JetStream", limits::JETSTREAM_QUEUE_BYTES >> 20);
            return Err(StoreError::Busy { what });
        }
        state.bytes += bytes;
        let call = call.filter(|(_, changes)| is_unique(changes));
        let pending = Pending { number: None, encoded, bytes, waiter: Some(waiter), deadline, call };
        state.queue.push_back(pending);
        drop(state);
        self.work.notify_one();
        Ok(waiting)
    }

    /// Takes no more calls, and says goodbye behind those that there are.
    pub(super) fn leave(&self) -> Result<oneshot::Receiver<Result<Answer, StoreError>>, StoreError> {
        let subject = self.journal.addresses.of_writers();
        let left = self.submit(None, |_| Encoded::action(subject, &Action::Leave))?;
        self.lock().is_closed = true;
        Ok(left)
    }
}

impl State {
    /// Takes the place of who has asked for the same before. Returns who waits, if there is none.
    fn join(&mut self, call: Option<&Call>, waiter: Waiter, deadline: Instant) -> Option<Waiter> {
        let Some(call) = call.filter(|(_, changes)| is_unique(changes)) else { return Some(waiter) };
        let is_same = |other: &Call| is_same(other, call);
        if let Some(at) = self.late.iter().position(|(other, _)| is_same(other)) {
            if let Some((_, answer)) = self.late.remove(at) {
                // Whoever waits has just asked.
                let _ = waiter.send(answer);
            }
            return None;
        }
        let mut left = self.queue.iter_mut().filter(|pending| pending.waiter.is_none());
        let joined = left.find(|pending| pending.call.as_ref().is_some_and(is_same));
        let Some(pending) = joined else { return Some(waiter) };
        (pending.waiter, pending.deadline) = (Some(waiter), deadline);
        None
    }

    /// What time it is by the clock of NATS: milliseconds since 1970 (UTC), and never later than it is there. `None` where no entry has told.
    pub(super) fn now(&self) -> Option<u64> {
        let (stored, read) = self.clock?;
        let since = u64::try_from(read.elapsed().as_millis()).unwrap_or(u64::MAX);
        Some(stored.saturating_add(since))
    }

    /// An entry was stored at that time.
    pub(super) fn set_clock(&mut self, stored: u64) {
        self.clock = Some((stored, Instant::now()));
    }

    /// An entry is not there. How long that has been so whenever it was asked for.
    pub(super) fn miss(&mut self, at: u64) -> Duration {
        let now = Instant::now();
        self.missed.retain(|_, (_, last)| now.duration_since(*last) < limits::JETSTREAM_MISSED_FOR);
        if self.missed.len() >= limits::JETSTREAM_MISSED && !self.missed.contains_key(&at) {
            self.missed.clear();
        }
        let (since, last) = self.missed.entry(at).or_insert((now, now));
        *last = now;
        now.duration_since(*since)
    }

    /// The last entry that was read, and the last that JetStream has told to be stored.
    pub(super) fn read_and_told(&self) -> (u64, u64) {
        (self.replica.applied, self.told)
    }

    /// Takes what an entry has done: who waits for it is told, and who reads.
    pub(super) fn take(&mut self, effect: Effect) {
        if effect.heard == Some(self.writer) {
            self.heard = Instant::now();
            self.flight_bytes -= self.flight.pop_front().unwrap_or_default();
            // A call is not given up while its parts are taken.
            let deadline = self.heard + self.answer;
            if let Some(first) = self.queue.front_mut() {
                first.deadline = first.deadline.max(deadline);
            }
        }
        if let Some(Done { writer, number, answer, places }) = effect.done {
            if self.successor == Some(writer) {
                self.succeed(writer);
            } else if writer == self.writer {
                self.finish(number, answer, places);
            }
        }
        for stream in effect.touched {
            self.watched.follow(&self.replica.index, &stream);
        }
        match effect.broken {
            // All that is under way behind what is missing says the same. What is stored already comes by itself, and what is missing may be there.
            Some(writer)
                if writer == self.writer
                    && self.successor.is_none()
                    && self.told <= self.replica.applied
                    && self.rewound.elapsed() >= limits::JETSTREAM_REWIND =>
            {
                self.send_again();
            }
            _ => {}
        }
    }

    fn finish(&mut self, number: u64, answer: Result<Answer, StoreError>, places: Vec<Place>) {
        if self.queue.front().is_none_or(|first| first.number != Some(number)) {
            return;
        }
        let Some(pending) = self.queue.pop_front() else { return };
        self.sent = match self.sent {
            // It has come by what was sent before.
            (0, _) => (0, 0),
            (calls, parts) => (calls - 1, parts),
        };
        self.bytes = self.bytes.saturating_sub(pending.bytes);
        if answer.is_ok() {
            for (place, content) in places.iter().zip(pending.encoded.contents) {
                self.cache.keep(place.at, content);
            }
        }
        match (pending.waiter, pending.call) {
            // He may wait no more.
            (Some(waiter), _) => drop(waiter.send(answer)),
            (None, Some(call)) => {
                if self.late.len() >= limits::JETSTREAM_LATE {
                    self.late.pop_front();
                }
                self.late.push_back((call, answer));
            }
            (None, None) => {}
        }
    }

    /// All that has been sent is sent again, as something of it has been lost.
    pub(super) fn send_again(&mut self) {
        self.rewind();
        if self.replica.expected(self.writer).is_none()
            && self.queue.iter().any(|pending| pending.number.is_some_and(|number| number > 0))
        {
            // The journal knows it no more, so that nothing of it counts that is yet to come.
            if let Ok(writer) = drawn() {
                self.begin(writer, 0);
            }
        }
    }

    /// Nothing counts any more that has been sent in the name before.
    fn succeed(&mut self, writer: u64) {
        self.successor = None;
        let (mut bytes, mut left) = (0, VecDeque::new());
        for pending in self.queue.drain(..) {
            // Those whom nobody waits for have not been done, as who had asked was told.
            if pending.waiter.is_some() {
                bytes += pending.bytes;
                left.push_back(pending);
            }
        }
        (self.queue, self.bytes) = (left, bytes);
        self.begin(writer, 1);
    }

    fn begin(&mut self, writer: u64, next: u64) {
        (self.writer, self.next) = (writer, next);
        self.rewind();
        for pending in &mut self.queue {
            pending.number = None;
        }
    }

    /// All that is not stored is to be sent from the beginning.
    fn rewind(&mut self) {
        (self.heard, self.rewound) = (Instant::now(), Instant::now());
        self.flight.clear();
        (self.sent, self.flight_bytes) = ((0, 0), 0);
        // What has come of the first call need not come again.
        if let Some((number, parts)) = self.replica.expected(self.writer)
            && self.queue.front().is_some_and(|first| first.number == Some(number))
        {
            self.sent.1 = parts;
        }
    }

    /// The next part to be sent, if there is room for it.
    pub(super) fn next_part(&mut self) -> Option<(Stamp, Wire)> {
        if self.flight.len() >= limits::JETSTREAM_WINDOW
            || !self.flight.is_empty() && self.flight_bytes >= limits::JETSTREAM_WINDOW_BYTES
        {
            return None;
        }
        let (call, part) = self.sent;
        let next = self.next;
        let pending = self.queue.get_mut(call)?;
        let number = *pending.number.get_or_insert(next);
        self.next = next.max(number + 1);
        let wires = &pending.encoded.wires;
        let parts = u32::try_from(wires.len()).unwrap_or(u32::MAX);
        let wire = wires.get(part)?.clone();
        let stamp =
            Stamp { writer: self.writer, number, part: u32::try_from(part).unwrap_or(u32::MAX), parts };
        self.sent = if part + 1 < wires.len() { (call, part + 1) } else { (call + 1, 0) };
        if self.flight.is_empty() {
            self.heard = Instant::now();
        }
        let size = wire.size();
        self.flight.push_back(size);
        self.flight_bytes += size;
        Some((stamp, wire))
    }

    /// Whether something was sent and is not stored.
    pub(super) fn is_sending(&self) -> bool {
        self.sent != (0, 0) || self.successor.is_some()
    }

    /// Tells those who have waited too long. What cannot have been sent is forgotten; whether the rest is done will be seen.
    pub(super) fn expire(&mut self, now: Instant, error: &StoreError) {
        let mut at = 0;
        while let Some(pending) = self.queue.get_mut(at) {
            if pending.deadline > now || pending.waiter.is_none() {
                at += 1;
                continue;
            }
            if let Some(waiter) = pending.waiter.take() {
                // He may wait no more.
                let _ = waiter.send(Err(error.clone()));
            }
            if pending.number.is_none()
                && let Some(gone) = self.queue.remove(at)
            {
                self.bytes = self.bytes.saturating_sub(gone.bytes);
            } else {
                at += 1;
            }
        }
    }

    /// Tells who waits for a call that it was refused. Something of it may be stored.
    pub(super) fn refuse(&mut self, number: u64, error: StoreError) {
        let refused = self.queue.iter_mut().find(|pending| pending.number == Some(number));
        if let Some(waiter) = refused.and_then(|pending| pending.waiter.take()) {
            // He may wait no more.
            let _ = waiter.send(Err(error));
        }
    }

    /// Whether there is something that may have been sent and nobody waits for.
    pub(super) fn has_left(&self) -> bool {
        self.queue.iter().any(|pending| pending.waiter.is_none() && pending.number.is_some())
    }

    /// Tells all who wait, as nothing goes on.
    pub(super) fn end(&mut self, error: &StoreError) {
        for pending in self.queue.drain(..) {
            if let Some(waiter) = pending.waiter {
                // He may wait no more.
                let _ = waiter.send(Err(error.clone()));
            }
        }
        (self.bytes, self.sent) = (0, (0, 0));
        self.watched = Watched::default();
    }

    pub(super) fn cached(&self, at: u64) -> Option<Content> {
        self.cache.contents.get(&at).cloned()
    }

    /// Goes on with another replica, which is ahead.
    pub(super) fn catch_up(&mut self, replica: Replica) {
        self.replica = replica;
        self.is_imaging = false;
        let expected = self.replica.expected(self.writer).map_or(0, |(number, _)| number);
        while let Some(pending) =
            self.queue.pop_front_if(|pending| pending.number < Some(expected) && pending.number.is_some())
        {
            self.bytes = self.bytes.saturating_sub(pending.bytes);
            if let Some(waiter) = pending.waiter {
                let what =
                    "this process stood still for so long that what its calls have come to is not known";
                // He may wait no more.
                let _ = waiter.send(Err(StoreError::Busy { what: what.to_owned() }));
            }
        }
        self.send_again();
        self.watched.follow_all(&self.replica.index);
    }

    /// Whether an image is to be written now; the caller does it, and says when it is over.
    pub(super) fn begins_image(&mut self, least: u64) -> bool {
        let Replica { applied, imaged, garbage_bytes, .. } = self.replica;
        let entries = applied.saturating_sub(imaged);
        let is_due = garbage_bytes >= limits::JETSTREAM_IMAGE_GARBAGE
            || entries >= least && entries.is_multiple_of(least.min(256));
        if !is_due || self.is_imaging {
            return false;
        }
        // It takes as long as there are messages, so that it is written for as many entries.
        let messages: u64 = self.replica.index.streams().iter().map(|state| state.messages + state.ids).sum();
        self.is_imaging = entries >= messages / 2 || garbage_bytes / 16 >= messages;
        self.is_imaging
    }

    pub(super) fn ends_image(&mut self) {
        self.is_imaging = false;
    }
}

/// Draws a number at random.
pub(super) fn drawn() -> Result<u64, StoreError> {
    getrandom::u64().map_err(|error| StoreError::Failed {
        place: "the system's random generator".to_owned(),
        reason: error.to_string(),
    })
}

/// Whether this is asked for twice only by who does not know what has become of it: messages with an id, and those that a consumer puts among its dead
/// letters together with being done with theirs. A message without an id may be meant to come again, behind others; what is done to consumers
/// may be done again, as it comes to the same.
fn is_unique(changes: &[Change]) -> bool {
    changes.iter().any(|change| match change {
        Change::Append(message) | Change::Delay { message, .. } => message.id.is_some(),
        Change::AppendTo { .. } => true,
        _ => false,
    })
}

/// Whether these are the same, but for when they were made.
fn is_same((stream, one): &Call, (other_stream, other): &Call) -> bool {
    let same_message = |one: &NewMessage, other: &NewMessage| {
        (&one.topic, &one.fields, &one.payload, one.id)
            == (&other.topic, &other.fields, &other.payload, other.id)
            && one.expires.is_some() == other.expires.is_some()
    };
    let same = |one: &Change, other: &Change| match (one, other) {
        (Change::Append(one), Change::Append(other)) => same_message(one, other),
        (Change::AppendTo { stream, message }, Change::AppendTo { stream: other_stream, message: other }) => {
            stream == other_stream && same_message(message, other)
        }
        (one, other) => one == other,
    };
    stream == other_stream
        && one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| same(one, other))
}

/// What was stored last, by where it lies.
#[derive(Debug, Default)]
struct Cache {
    contents: HashMap<u64, Content>,
    order: VecDeque<u64>,
    bytes: usize,
}

impl Cache {
    fn keep(&mut self, at: u64, content: Content) {
        let size =
            |content: &Content| content.fields.len() + content.payload.len() + limits::JETSTREAM_CALL_BYTES;
        self.bytes += size(&content);
        self.contents.insert(at, content);
        self.order.push_back(at);
        while self.bytes > limits::JETSTREAM_CACHE_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            if let Some(gone) = self.contents.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(size(&gone));
            }
        }
    }
}
