//! A store in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::change::{Change, ConsumerState, Outcome, Progress};
use super::delays::Delays;
use super::message::{Delayed, Message, MessageId, NewMessage, Page, Reading, Start, weight};
use super::settings::{Name, StreamSettings, StreamState};
use super::{Operation, Store};
use crate::error::StoreError;
use crate::limits;
use crate::topic::TopicPattern;

/// Keeps streams in memory: they end with the process.
///
/// # Examples
/// ```
/// use whispeer::store::{Change, MemoryStore, Name, NewMessage, Outcome, Reading, Store, StreamSettings};
/// use whispeer::TopicPattern;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let orders = Name::new("orders")?;
/// store.open(StreamSettings::new(orders.clone(), vec![TopicPattern::new("orders/**")?])).await?;
///
/// let message = NewMessage {
///     topic: TopicPattern::new("orders/7")?,
///     fields: "".into(),
///     payload: "two apples".into(),
///     time: 1_700_000_000_000,
///     expires: None,
///     id: None,
/// };
/// let outcomes = store.commit(orders.clone(), vec![Change::Append(message)]).await?;
/// assert_eq!(outcomes, [Outcome::Appended { sequence: 1 }]);
///
/// let page = store.read(orders, Reading::from(1, 1_700_000_000_000)).await?;
/// assert_eq!(page.messages[0].payload, "two apples");
/// assert!(!page.has_more());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    streams: BTreeMap<Name, Log>,
    is_closed: bool,
}

impl MemoryStore {
    /// A store without streams.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Operation<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let done = if state.is_closed { Err(StoreError::Closed) } else { work(&mut state) };
        Box::pin(std::future::ready(done))
    }

    fn with_stream<T: Send + 'static>(
        &self,
        stream: &Name,
        work: impl FnOnce(&mut Log) -> Result<T, StoreError>,
    ) -> Operation<T> {
        self.with(|state| {
            let log = state.streams.get_mut(stream);
            work(log.ok_or_else(|| StoreError::NoStream { stream: stream.to_string() })?)
        })
    }
}

impl Store for MemoryStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn open(&self, settings: StreamSettings) -> Operation<StreamState> {
        self.with(|state| {
            settings.check(state.streams.values().map(|log| &log.settings))?;
            if let Some(log) = state.streams.get_mut(&settings.name) {
                log.settings = settings;
                return Ok(log.state());
            }
            let log = Log::new(settings)?;
            let made = log.state();
            state.streams.insert(made.settings.name.clone(), log);
            Ok(made)
        })
    }

    fn streams(&self) -> Operation<Vec<StreamState>> {
        self.with(|state| Ok(state.streams.values().map(Log::state).collect()))
    }

    fn remove(&self, stream: Name) -> Operation<()> {
        self.with(|state| match state.streams.remove(&stream) {
            Some(_) => Ok(()),
            None => Err(StoreError::NoStream { stream: stream.to_string() }),
        })
    }

    fn commit(&self, stream: Name, changes: Vec<Change>) -> Operation<Vec<Outcome>> {
        self.with(|state| {
            let no_stream = |stream: &Name| StoreError::NoStream { stream: stream.to_string() };
            let log = state.streams.get(&stream).ok_or_else(|| no_stream(&stream))?;
            for change in &changes {
                if let Change::AppendTo { stream, .. } | Change::Move { stream, .. } = change
                    && !state.streams.contains_key(stream)
                {
                    return Err(no_stream(stream));
                }
            }
            log.check(&changes)?;
            let mut outcomes = Vec::with_capacity(changes.len());
            for change in changes {
                let (of, change) = match change {
                    Change::AppendTo { stream, message } => (stream, Change::Append(message)),
                    Change::Move { sequence, stream: to, message } => {
                        let log = state.streams.get_mut(&stream).ok_or_else(|| no_stream(&stream))?;
                        if !log.drop_message(sequence) {
                            outcomes.push(Outcome::Done { dropped: 0 });
                            continue;
                        }
                        (to, Change::Append(message))
                    }
                    change => (stream.clone(), change),
                };
                let log = state.streams.get_mut(&of).ok_or_else(|| no_stream(&of))?;
                outcomes.push(log.change(change));
            }
            Ok(outcomes)
        })
    }

    fn read(&self, stream: Name, reading: Reading) -> Operation<Page> {
        self.with_stream(&stream, |log| Ok(log.read(&reading)))
    }

    fn last_per_topic(&self, stream: Name, reading: Reading) -> Operation<Page> {
        self.with_stream(&stream, |log| Ok(log.last_per_topic(&reading)))
    }

    fn find(&self, stream: Name, start: Start) -> Operation<u64> {
        self.with_stream(&stream, |log| Ok(log.find(&start)))
    }

    fn delayed(&self, stream: Name, until: u64, most: usize) -> Operation<Vec<Delayed>> {
        self.with_stream(&stream, |log| Ok(log.delays.due_by(until, most)))
    }

    fn consumers(&self, stream: Name) -> Operation<Vec<ConsumerState>> {
        self.with_stream(&stream, |log| Ok(log.consumers.values().cloned().collect()))
    }

    fn close(&self) -> Operation<()> {
        self.with(|state| {
            *state = State { is_closed: true, ..State::default() };
            Ok(())
        })
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

/// One stream.
struct Log {
    settings: StreamSettings,
    epoch: [u8; 16],
    end: u64,
    bytes: u64,
    /// The time of the last message; none has an earlier one.
    time: u64,
    messages: BTreeMap<u64, Message>,
    topics: HashMap<String, TopicLog>,
    /// The last message of each topic.
    lasts: BTreeSet<u64>,
    /// Those that expire, by when.
    expiring: BTreeSet<(u64, u64)>,
    /// Ids that are known, and their messages.
    ids: HashMap<MessageId, u64>,
    /// When they came, by the sequences of their messages.
    known: BTreeMap<u64, (u64, MessageId)>,
    /// Ids that were forgotten before their time.
    forgotten: u64,
    consumers: BTreeMap<Name, ConsumerState>,
    delays: Delays,
}

#[derive(Default)]
struct TopicLog {
    bytes: u64,
    sequences: BTreeSet<u64>,
}

impl Log {
    fn new(settings: StreamSettings) -> Result<Self, StoreError> {
        Ok(Self {
            settings,
            epoch: super::settings::drawn_epoch()?,
            end: 1,
            bytes: 0,
            time: 0,
            messages: BTreeMap::new(),
            topics: HashMap::new(),
            lasts: BTreeSet::new(),
            expiring: BTreeSet::new(),
            ids: HashMap::new(),
            known: BTreeMap::new(),
            forgotten: 0,
            consumers: BTreeMap::new(),
            delays: Delays::default(),
        })
    }

    fn first(&self) -> u64 {
        self.messages.first_key_value().map_or(self.end, |(sequence, _)| *sequence)
    }

    fn state(&self) -> StreamState {
        StreamState {
            settings: self.settings.clone(),
            epoch: self.epoch,
            first: self.first(),
            end: self.end,
            messages: self.messages.len() as u64,
            bytes: self.bytes,
            ids: self.known.len() as u64,
            forgotten: self.forgotten,
            delayed: self.delays.held().all().0,
        }
    }

    /// Whether all of these can be done.
    fn check(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.delays.held().check(changes)?;
        let mut made: BTreeSet<&Name> = self.consumers.keys().collect();
        for change in changes {
            match change {
                Change::Consumer { name, .. } => {
                    made.insert(name);
                    if made.len() > limits::STREAM_CONSUMERS {
                        let what = format!("a stream has at most {} consumers", limits::STREAM_CONSUMERS);
                        return Err(StoreError::LimitReached { what });
                    }
                }
                Change::RemoveConsumer(name)
                | Change::Done { consumer: name, .. }
                | Change::Attempted { consumer: name, .. }
                | Change::Handed { consumer: name, .. } => {
                    if !made.contains(name) {
                        let (stream, consumer) = (self.settings.name.to_string(), name.to_string());
                        return Err(StoreError::NoConsumer { stream, consumer });
                    }
                    if matches!(change, Change::RemoveConsumer(_)) {
                        made.remove(name);
                    }
                }
                Change::Append(_)
                | Change::AppendTo { .. }
                | Change::Move { .. }
                | Change::Drop { .. }
                | Change::Delay { .. }
                | Change::Release { .. }
                | Change::DropDelayed { .. }
                | Change::Expire { .. }
                | Change::Purge { .. }
                | Change::Renew { .. } => {}
            }
        }
        Ok(())
    }

    fn change(&mut self, change: Change) -> Outcome {
        let dropped = match change {
            Change::Append(message) | Change::AppendTo { message, .. } | Change::Move { message, .. } => {
                return self.append(message);
            }
            Change::Delay { message, due, author, owner } => {
                return self.delay(Delayed { id: 0, due, author, owner, message });
            }
            Change::Release { id, time } => match self.delays.take(id) {
                Some(delayed) => return self.append(NewMessage { time, ..delayed.message }),
                None => 0,
            },
            Change::DropDelayed { id } => u64::from(self.delays.take(id).is_some()),
            Change::Expire { now } => self.expire(now),
            Change::Purge { before } => self.drop_while(limits::RETENTION_STEP, |log| log.first() < before),
            Change::Consumer { name, pattern, from } => {
                let state = ConsumerState::new(name.clone(), pattern, from);
                self.consumers.entry(name).or_insert(state);
                0
            }
            Change::RemoveConsumer(name) => {
                self.consumers.remove(&name);
                0
            }
            Change::Done { consumer, floor, sequences } => {
                if let Some(state) = self.consumers.get_mut(&consumer) {
                    state.floor = state.floor.max(floor);
                    state.known = state.known.split_off(&state.floor);
                    for sequence in sequences.into_iter().filter(|sequence| *sequence >= state.floor) {
                        state.known.entry(sequence).or_default().is_done = true;
                    }
                }
                0
            }
            Change::Attempted { consumer, sequence, attempts } => {
                if let Some(state) = self.consumers.get_mut(&consumer)
                    && sequence >= state.floor
                {
                    let known: &mut Progress = state.known.entry(sequence).or_default();
                    known.attempts = attempts;
                }
                0
            }
            Change::Handed { consumer, before } => {
                if let Some(state) = self.consumers.get_mut(&consumer) {
                    state.handed = state.handed.max(before);
                }
                0
            }
            Change::Renew { epoch } => {
                self.epoch = epoch;
                0
            }
            Change::Drop { sequences } => {
                let dropped = sequences.into_iter().filter(|sequence| self.drop_message(*sequence));
                dropped.count() as u64
            }
        };
        Outcome::Done { dropped }
    }

    fn append(&mut self, message: NewMessage) -> Outcome {
        let time = message.time.max(self.time);
        if let Some(id) = message.id {
            self.forget_ids(time);
            if let Some(sequence) = self.ids.get(&id) {
                return Outcome::Known { sequence: *sequence };
            }
        }
        let sequence = self.end;
        let bytes = message.weight();
        (self.end, self.time, self.bytes) = (sequence + 1, time, self.bytes + bytes);
        if let Some(id) = message.id {
            self.ids.insert(id, sequence);
            self.known.insert(sequence, (time, id));
        }
        if let Some(expires) = message.expires {
            self.expiring.insert((expires, sequence));
        }
        let topic = self.topics.entry(message.topic.to_string()).or_default();
        topic.bytes += bytes;
        if let Some(before) = topic.sequences.last() {
            self.lasts.remove(before);
        }
        topic.sequences.insert(sequence);
        self.lasts.insert(sequence);
        let NewMessage { topic, fields, payload, expires, .. } = message;
        let topic_text = topic.to_string();
        self.messages.insert(sequence, Message { sequence, topic, fields, payload, time, expires });
        self.keep_to_bounds(&topic_text);
        Outcome::Appended { sequence }
    }

    fn delay(&mut self, mut delayed: Delayed) -> Outcome {
        if let Some(id) = &delayed.message.id {
            if let Some(sequence) = self.ids.get(id) {
                return Outcome::Known { sequence: *sequence };
            }
            if let Some(id) = self.delays.known(id) {
                return Outcome::Delayed { id };
            }
        }
        delayed.message.time = delayed.due;
        Outcome::Delayed { id: self.delays.keep(delayed) }
    }

    /// Forgets ids that nobody sends again, and those that there is no room for.
    fn forget_ids(&mut self, now: u64) {
        let (window, most) = (self.settings.window(), self.settings.most_ids());
        // Those that are too old and left for the next time are only known for longer.
        for _ in 0..limits::RETENTION_STEP {
            let Some((sequence, (time, id))) = self.known.first_key_value() else { break };
            let is_too_old = time.saturating_add(window) <= now;
            if !is_too_old && self.known.len() as u64 <= most {
                break;
            }
            let (sequence, id) = (*sequence, *id);
            self.known.remove(&sequence);
            self.ids.remove(&id);
            self.forgotten += u64::from(!is_too_old);
        }
    }

    /// Whether its messages and the ids that it knows take more than they may.
    fn is_over_bytes(&self) -> bool {
        self.settings.retention.is_over_bytes(self.bytes, self.known.len() as u64)
    }

    /// Drops what the bounds do not leave; the newest message stays.
    fn keep_to_bounds(&mut self, topic: &str) {
        let bounds = self.settings.retention;
        for _ in 0..limits::RETENTION_STEP {
            let Some(log) = self.topics.get(topic).filter(|log| log.sequences.len() > 1) else { break };
            let is_over = bounds.topic_messages.is_some_and(|most| log.sequences.len() as u64 > most)
                || bounds.topic_bytes.is_some_and(|most| log.bytes > most);
            let Some(oldest) = log.sequences.first().copied().filter(|_| is_over) else { break };
            self.drop_message(oldest);
        }
        if self.is_over_bytes() {
            self.forget_ids(self.time);
        }
        self.drop_while(limits::RETENTION_STEP, |log| {
            let is_over = bounds.messages.is_some_and(|most| log.messages.len() as u64 > most);
            (is_over || log.is_over_bytes()) && log.messages.len() > 1
        });
    }

    fn expire(&mut self, now: u64) -> u64 {
        let mut dropped = 0;
        if let Some(youngest) = self.settings.retention.youngest(now) {
            dropped = self.drop_while(limits::RETENTION_STEP, |log| {
                log.messages.first_key_value().is_some_and(|(_, message)| message.time < youngest)
            });
        }
        while dropped < limits::RETENTION_STEP
            && let Some((_, sequence)) = self.expiring.first().copied().filter(|(expires, _)| *expires <= now)
        {
            self.drop_message(sequence);
            dropped += 1;
        }
        dropped
    }

    /// Drops the oldest messages as long as this is so.
    fn drop_while(&mut self, most: u64, mut goes: impl FnMut(&Self) -> bool) -> u64 {
        let mut dropped = 0;
        while dropped < most && !self.messages.is_empty() && goes(self) {
            self.drop_message(self.first());
            dropped += 1;
        }
        dropped
    }

    /// Drops a message, if it is there; whether it was.
    fn drop_message(&mut self, sequence: u64) -> bool {
        let Some(message) = self.messages.remove(&sequence) else { return false };
        let bytes = weight(message.topic.as_str().len(), message.fields.len() + message.payload.len());
        self.bytes -= bytes;
        if let Some(expires) = message.expires {
            self.expiring.remove(&(expires, sequence));
        }
        let text = message.topic.as_str();
        if let Some(topic) = self.topics.get_mut(text) {
            topic.bytes -= bytes;
            topic.sequences.remove(&sequence);
            if self.lasts.remove(&sequence)
                && let Some(last) = topic.sequences.last()
            {
                self.lasts.insert(*last);
            }
            if topic.sequences.is_empty() {
                self.topics.remove(text);
            }
        }
        true
    }

    fn read(&self, reading: &Reading) -> Page {
        self.page(reading, self.messages.range(reading.from..).map(|(_, message)| message))
    }

    fn last_per_topic(&self, reading: &Reading) -> Page {
        let last = self.lasts.range(reading.from..);
        self.page(reading, last.filter_map(|sequence| self.messages.get(sequence)))
    }

    fn page<'a>(&self, reading: &Reading, messages: impl Iterator<Item = &'a Message>) -> Page {
        let mut page = Page { messages: Vec::new(), next: self.end, first: self.first(), end: self.end };
        let (mut bytes, mut looked_at) = (0, 0);
        for message in messages {
            let is_full = page.messages.len() >= reading.messages || bytes >= reading.bytes;
            if is_full || looked_at >= limits::STORE_LOOKS {
                page.next = message.sequence;
                break;
            }
            looked_at += 1;
            let has_expired = message.expires.is_some_and(|expires| expires <= reading.now);
            if !has_expired && reading.takes(&message.topic) {
                bytes += weight(message.topic.as_str().len(), message.fields.len() + message.payload.len());
                page.messages.push(message.clone());
            }
        }
        page
    }

    fn find(&self, start: &Start) -> u64 {
        match start {
            Start::New => self.end,
            Start::All => self.first(),
            Start::From(sequence) => (*sequence).clamp(1, self.end),
            Start::Since(time) => {
                let mut messages = self.messages.values();
                messages.find(|message| message.time >= *time).map_or(self.end, |message| message.sequence)
            }
            // These are all, and what is not of the pattern is left out by who reads.
            Start::Last(count, _) if *count > 0 && *count >= self.messages.len() as u64 => self.first(),
            Start::Last(count, pattern) => {
                let takes =
                    |topic: &TopicPattern| pattern.as_ref().is_none_or(|pattern| pattern.meets(topic));
                let last = self.messages.values().rev().filter(|message| takes(&message.topic));
                let last = last.take(usize::try_from(*count).unwrap_or(usize::MAX)).last();
                last.map_or(self.end, |message| message.sequence)
            }
        }
    }
}
