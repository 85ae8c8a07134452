//! One stream.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;

use super::delays::{DelayedEntry, Delays};
use super::entry::{Act, Entry, IndexPage, Row};
use crate::error::StoreError;
use crate::limits;
use crate::store::change::{Change, ConsumerState, Outcome, Progress};
use crate::store::halving::{sure_time, time_behind};
use crate::store::message::{MessageId, Reading};
use crate::store::settings::{Name, StreamSettings, StreamState};

/// One stream.
pub(super) struct Log<C> {
    pub(super) settings: StreamSettings,
    pub(super) epoch: [u8; 16],
    pub(super) end: u64,
    pub(super) bytes: u64,
    /// The time of the last message.
    pub(super) time: u64,
    pub(super) messages: BTreeMap<u64, Row<C>>,
    pub(super) topics: HashMap<String, TopicLog>,
    /// The last message of each topic.
    lasts: BTreeSet<u64>,
    /// Those that expire, by when.
    expiring: BTreeSet<(u64, u64)>,
    /// Ids that are known, and their messages.
    pub(super) ids: HashMap<MessageId, u64>,
    /// When they came, by the sequences of their messages.
    pub(super) known: BTreeMap<u64, (u64, MessageId)>,
    /// Ids that were forgotten before their time.
    pub(super) forgotten: u64,
    pub(super) consumers: BTreeMap<Name, ConsumerState>,
    pub(super) delays: Delays<C>,
    /// Contents of what has gone.
    pub(super) gone: Vec<C>,
}

#[derive(Default)]
pub(super) struct TopicLog {
    bytes: u64,
    pub(super) sequences: BTreeSet<u64>,
}

impl<C: Clone> Log<C> {
    pub(super) fn new(settings: StreamSettings, epoch: [u8; 16]) -> Self {
        Self {
            settings,
            epoch,
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
            gone: Vec::new(),
        }
    }

    pub(super) fn first(&self) -> u64 {
        self.messages.first_key_value().map_or(self.end, |(sequence, _)| *sequence)
    }

    pub(super) fn state(&self) -> StreamState {
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
    pub(super) fn check(&self, acts: &[Act<C>]) -> Result<(), StoreError> {
        self.delays.held().check(acts.iter().filter_map(Act::delay))?;
        let mut made: BTreeSet<&Name> = self.consumers.keys().collect();
        for act in acts {
            let Act::Plain(change) = act else { continue };
            let Some(name) = change.consumer() else { continue };
            if matches!(change, Change::Consumer { .. }) {
                made.insert(name);
                if made.len() > limits::STREAM_CONSUMERS {
                    let what = format!(
                        "a stream has at most {} consumers; remove one that nobody needs",
                        limits::STREAM_CONSUMERS
                    );
                    return Err(StoreError::LimitReached { what });
                }
                continue;
            }
            if !made.contains(name) {
                let (stream, consumer) = (self.settings.name.to_string(), name.to_string());
                return Err(StoreError::NoConsumer { stream, consumer });
            }
            if matches!(change, Change::RemoveConsumer(_)) {
                made.remove(name);
            }
        }
        Ok(())
    }

    /// Does it. What is dropped as it is told is taken from these messages.
    pub(super) fn change(&mut self, change: Change, left: &mut u64) -> Outcome {
        let dropped = match change {
            // These bring messages, and come as acts of their own.
            Change::Append(_) | Change::AppendTo { .. } | Change::Move { .. } | Change::Delay { .. } => 0,
            Change::Release { id, time } => match self.delays.take(id) {
                Some(delayed) => return self.append(Entry { time, ..delayed.entry }),
                None => 0,
            },
            Change::DropDelayed { id } => match self.delays.take(id) {
                Some(delayed) => {
                    self.gone.push(delayed.entry.content);
                    1
                }
                None => 0,
            },
            Change::Recall { id } => match self.recall(&id) {
                Some(known) => return known,
                None => 0,
            },
            Change::Expire { now } => self.expire(now),
            Change::Purge { before } => self.drop_while(limits::RETENTION_STEP, |log| log.first() < before),
            Change::Consumer { name, pattern, from, owner } => {
                let new = || ConsumerState::new(name.clone(), pattern, from);
                let state = self.consumers.entry(name.clone()).or_insert_with(new);
                if state.owner.is_empty() {
                    state.owner = owner;
                }
                0
            }
            Change::RemoveConsumer(name) => {
                self.consumers.remove(&name);
                0
            }
            Change::FreeConsumer(_) => 0,
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
                let most = usize::try_from(*left).unwrap_or(usize::MAX);
                let dropped = sequences.into_iter().filter(|sequence| self.drop_message(*sequence));
                let dropped = dropped.take(most).count() as u64;
                *left -= dropped;
                dropped
            }
        };
        Outcome::Done { dropped }
    }

    pub(super) fn append(&mut self, message: Entry<C>) -> Outcome {
        let time = time_behind(self.time, message.time);
        if let Some(id) = message.id {
            self.forget_ids(time);
            if let Some(sequence) = self.ids.get(&id) {
                self.gone.push(message.content);
                return Outcome::Known { sequence: *sequence };
            }
        }
        let sequence = self.end;
        let bytes = message.weight;
        (self.end, self.time, self.bytes) = (sequence + 1, time, self.bytes + bytes);
        if let Some(id) = message.id {
            self.ids.insert(id, sequence);
            self.known.insert(sequence, (time, id));
        }
        let Entry { topic, weight, expires, content, .. } = message;
        let topic_text = topic.to_string();
        self.insert(Row { sequence, topic, weight, time, expires, content });
        self.keep_to_bounds(&topic_text);
        Outcome::Appended { sequence }
    }

    /// Puts one in its place, which is behind all others.
    pub(super) fn insert(&mut self, row: Row<C>) {
        let sequence = row.sequence;
        if let Some(expires) = row.expires {
            self.expiring.insert((expires, sequence));
        }
        let topic = self.topics.entry(row.topic.to_string()).or_default();
        topic.bytes += row.weight;
        if let Some(before) = topic.sequences.last() {
            self.lasts.remove(before);
        }
        topic.sequences.insert(sequence);
        self.lasts.insert(sequence);
        self.messages.insert(sequence, row);
    }

    pub(super) fn delay(&mut self, mut delayed: DelayedEntry<C>) -> Outcome {
        if let Some(known) = delayed.entry.id.and_then(|id| self.recall(&id)) {
            self.gone.push(delayed.entry.content);
            return known;
        }
        delayed.entry.time = delayed.due;
        Outcome::Delayed { id: self.delays.keep(delayed) }
    }

    /// What is known of a message by its id.
    fn recall(&self, id: &MessageId) -> Option<Outcome> {
        let stored = self.ids.get(id).map(|sequence| Outcome::Known { sequence: *sequence });
        stored.or_else(|| self.delays.known(id).map(|id| Outcome::Delayed { id }))
    }

    /// Forgets ids that nobody sends again, and those that there is no room for.
    fn forget_ids(&mut self, now: u64) {
        let (window, most) = (self.settings.window(), self.settings.most_ids());
        let mut aged = 0;
        // Those that are too old and left for the next time are only known for longer.
        for _ in 0..limits::RETENTION_STEP {
            let Some((sequence, (_, id))) = self.known.first_key_value() else { break };
            let (sequence, id) = (*sequence, *id);
            let next = |from, to| {
                let mut known = self.known.range(from..to);
                Ok::<_, Infallible>(known.next().map(|(sequence, (time, _))| (*sequence, *time)))
            };
            let Ok(sure) = sure_time((sequence, self.end), now, next);
            let is_too_old = sure.is_some_and(|(_, time)| time.saturating_add(window) <= now);
            let goes = is_too_old && aged < limits::MESSAGE_IDS_AGED;
            if !goes && self.known.len() as u64 <= most {
                break;
            }
            aged += usize::from(is_too_old);
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

    /// Whether [`expire`](Self::expire) would drop something.
    pub(super) fn has_expired(&self, now: u64) -> bool {
        let has_aged = |youngest| {
            let oldest = self.messages.first_key_value();
            oldest.is_some_and(|(sequence, message)| {
                *sequence < self.aged_before(now, youngest) || message.time < youngest
            })
        };
        self.settings.retention.youngest(now).is_some_and(has_aged)
            || self.expiring.first().is_some_and(|(expires, _)| *expires <= now)
    }

    /// All before this sequence were stored before one that is too old.
    fn aged_before(&self, now: u64, youngest: u64) -> u64 {
        let next = |from, to| {
            let mut messages = self.messages.range(from..to);
            Ok::<_, Infallible>(messages.next().map(|(sequence, message)| (*sequence, message.time)))
        };
        let Ok(sure) = sure_time((self.first(), self.end), now, next);
        sure.map_or(0, |(sequence, time)| if time < youngest { sequence } else { 0 })
    }

    fn expire(&mut self, now: u64) -> u64 {
        let mut dropped = 0;
        if let Some(youngest) = self.settings.retention.youngest(now) {
            let before = self.aged_before(now, youngest);
            dropped = self.drop_while(limits::RETENTION_STEP, |log| {
                let oldest = log.messages.first_key_value();
                oldest.is_some_and(|(sequence, message)| *sequence < before || message.time < youngest)
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
    pub(super) fn drop_message(&mut self, sequence: u64) -> bool {
        let Some(message) = self.messages.remove(&sequence) else { return false };
        let bytes = message.weight;
        self.gone.push(message.content);
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

    pub(super) fn read(&self, reading: &Reading) -> IndexPage<C> {
        self.page(reading, self.messages.range(reading.from..).map(|(_, message)| message))
    }

    pub(super) fn last_per_topic(&self, reading: &Reading) -> IndexPage<C> {
        let last = self.lasts.range(reading.from..);
        self.page(reading, last.filter_map(|sequence| self.messages.get(sequence)))
    }

    fn page<'a>(&self, reading: &Reading, messages: impl Iterator<Item = &'a Row<C>>) -> IndexPage<C>
    where
        C: 'a,
    {
        let mut page = IndexPage { rows: Vec::new(), next: self.end, first: self.first(), end: self.end };
        let (mut bytes, mut looked_at) = (0, 0);
        for row in messages {
            let is_full = page.rows.len() >= reading.messages || bytes >= reading.bytes;
            if is_full || looked_at >= limits::STORE_LOOKS {
                page.next = row.sequence;
                break;
            }
            looked_at += 1;
            let has_expired = row.expires.is_some_and(|expires| expires <= reading.now);
            if !has_expired && reading.takes(&row.topic) {
                bytes += row.weight;
                page.rows.push(row.clone());
            }
        }
        page
    }
}
