//! What a transaction does to streams.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::failure::{damaged, told};
use super::schema::{LAST_SEQUENCE, row, sequence, signed, unsigned};
use super::topics::Topics;
use super::{consumers, delayed, expiry, ids, removal};
use crate::error::StoreError;
use crate::limits;
use crate::store::change::{Change, Outcome};
use crate::store::delays::Held;
use crate::store::message::{Delayed, NewMessage, weight};
use crate::store::settings::{Name, Retention, StreamSettings, StreamState, drawn_epoch};
use crate::topic::TopicPattern;

/// Why something cannot be done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It is refused, and nothing was changed for it.
    Refused(StoreError),
    /// The file says so: the transaction fails.
    File(rusqlite::Error),
    /// What is in the file is not what a store has written.
    Damaged(&'static str),
}

impl Trouble {
    pub(super) fn told(self, place: &str) -> StoreError {
        match self {
            Self::Refused(error) => error,
            Self::File(error) => told(place, &error),
            Self::Damaged(what) => damaged(place, what),
        }
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::File(error)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

/// The streams of a file, as a transaction sees them.
pub(super) struct Streams {
    streams: BTreeMap<Name, Stream>,
    topics: Topics,
    /// Those that were taken out, of which something is left.
    removed: Vec<i64>,
}

struct Stream {
    id: i64,
    settings: StreamSettings,
    epoch: [u8; 16],
    first: u64,
    end: u64,
    messages: u64,
    bytes: u64,
    /// The time of the last message; none has an earlier one.
    time: u64,
    /// Ids of messages that are known.
    ids: u64,
    /// Those that were forgotten before their time.
    forgotten: u64,
    /// Ids of delayed messages that have been given.
    delays: u64,
    /// Delayed messages, and their bytes.
    delayed: Held,
    is_changed: bool,
}

/// A message that may have to go.
pub(super) struct Oldest {
    row: i64,
    topic: i64,
    time: u64,
    /// Bytes of its fields and payload.
    length: usize,
}

impl Oldest {
    const COLUMNS: &'static str = "id, topic, time, length(fields) + length(payload)";

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            row: row.get(0)?,
            topic: row.get(1)?,
            time: unsigned(row.get(2)?),
            length: usize::try_from(row.get::<_, i64>(3)?).unwrap_or_default(),
        })
    }
}

/// What is dropped together, so that others are served in between.
#[derive(Default)]
struct Step {
    messages: u64,
    bytes: u64,
}

impl Step {
    fn is_over(&self) -> bool {
        self.messages >= limits::RETENTION_STEP || self.bytes >= limits::RETENTION_STEP_BYTES
    }

    fn add(&mut self, dropped: &Oldest) {
        self.messages += 1;
        self.bytes += dropped.length as u64;
    }
}

impl Streams {
    pub(super) fn load(connection: &Connection) -> Result<Self, Trouble> {
        let mut find = connection.prepare_cached("SELECT * FROM streams")?;
        let mut rows = find.query([])?;
        let mut streams = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let stream = Stream::read(row)?;
            streams.insert(stream.settings.name.clone(), stream);
        }
        let mut by_id: HashMap<i64, &mut Stream> =
            streams.values_mut().map(|stream| (stream.id, stream)).collect();
        delayed::count_owners(connection, |stream, owner, weight| {
            if let Some(stream) = by_id.get_mut(&stream) {
                stream.delayed.count_for(owner, weight);
            }
        })?;
        Ok(Self { streams, topics: Topics::default(), removed: removal::load(connection)? })
    }

    pub(super) fn states(&self) -> Vec<StreamState> {
        self.streams.values().map(Stream::state).collect()
    }

    /// Bytes that they keep at the most, if all of them are bounded so. Those without messages take nothing, as long as others
    /// have some.
    pub(super) fn bound(&self) -> Option<u64> {
        let has_any = self.streams.values().any(|stream| stream.messages > 0);
        let taking = self.streams.values().filter(|stream| stream.messages > 0 || !has_any);
        let mut bounds = taking.map(|stream| stream.settings.retention.bytes).peekable();
        bounds.peek()?;
        bounds.try_fold(0_u64, |sum, bound| Some(sum.saturating_add(bound?)))
    }

    pub(super) fn open(
        &mut self,
        connection: &Connection,
        settings: &StreamSettings,
    ) -> Result<StreamState, Trouble> {
        settings.check(self.streams.values().map(|stream| &stream.settings))?;
        if let Some(stream) = self.streams.get_mut(&settings.name) {
            stream.settings = settings.clone();
            stream.write(connection)?;
            return Ok(stream.state());
        }
        let epoch = drawn_epoch()?;
        // Not the number of one of which there are messages.
        let mut insert = connection.prepare_cached(
            "INSERT INTO streams (id, name, epoch, patterns, known_for, first, next, messages, bytes, time, ids)
             SELECT coalesce(max(id), 0) + 1, ?1, ?2, '', 0, 1, 1, 0, 0, 0, 0
             FROM (SELECT id FROM streams UNION ALL SELECT stream FROM removed)",
        )?;
        let id = insert.insert(params![settings.name.as_str(), epoch])?;
        let stream = Stream {
            id,
            settings: settings.clone(),
            epoch,
            first: 1,
            end: 1,
            messages: 0,
            bytes: 0,
            time: 0,
            ids: 0,
            forgotten: 0,
            delays: 0,
            delayed: Held::default(),
            is_changed: true,
        };
        stream.write(connection)?;
        let state = stream.state();
        self.streams.insert(settings.name.clone(), stream);
        Ok(state)
    }

    pub(super) fn remove(&mut self, connection: &Connection, name: &Name) -> Result<(), Trouble> {
        let stream = self.stream(name)?.id;
        removal::begin(connection, stream)?;
        self.streams.remove(name);
        self.topics.forget_stream(stream);
        self.removed.push(stream);
        Ok(())
    }

    /// Whether something is left of streams that were taken out.
    pub(super) fn has_remains(&self) -> bool {
        !self.removed.is_empty()
    }

    /// Takes out a part of what is left of them.
    pub(super) fn remove_remains(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if let Some(stream) = self.removed.last()
            && removal::step(connection, *stream)?
        {
            self.removed.pop();
        }
        Ok(())
    }

    pub(super) fn commit(
        &mut self,
        connection: &Connection,
        name: &Name,
        changes: &[Change],
    ) -> Result<Vec<Outcome>, Trouble> {
        self.stream(name)?;
        for change in changes {
            match change {
                Change::Append(_) | Change::Delay { .. } | Change::Release { .. } => {
                    self.check_room(name, changes.len())?;
                }
                Change::AppendTo { stream, .. } | Change::Move { stream, .. } => {
                    self.check_room(stream, changes.len())?;
                }
                _ => {}
            }
        }
        let stream = self.stream(name)?;
        stream.delayed.check(changes)?;
        consumers::check(connection, (stream.id, name), changes)?;
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            outcomes.push(match change {
                Change::AppendTo { stream, message } => self.changing(connection, stream)?.append(message)?,
                Change::Move { sequence, stream, message } => {
                    match self.changing(connection, name)?.drop_these(&[*sequence])? {
                        0 => Outcome::Done { dropped: 0 },
                        _ => self.changing(connection, stream)?.append(message)?,
                    }
                }
                change => self.changing(connection, name)?.change(change)?,
            });
        }
        Ok(outcomes)
    }

    /// Whether a stream assigns so many more sequences, and ids of messages that are not due yet.
    fn check_room(&self, name: &Name, more: usize) -> Result<(), StoreError> {
        let stream = self.stream(name)?;
        if stream.end.max(stream.delays).saturating_add(more as u64) > LAST_SEQUENCE {
            let what = format!("the stream \"{name}\" has had {LAST_SEQUENCE} messages");
            return Err(StoreError::LimitReached { what });
        }
        Ok(())
    }

    fn changing<'a>(
        &'a mut self,
        connection: &'a Connection,
        name: &Name,
    ) -> Result<Changing<'a>, StoreError> {
        let no_stream = || StoreError::NoStream { stream: name.to_string() };
        let stream = self.streams.get_mut(name).ok_or_else(no_stream)?;
        Ok(Changing { connection, stream, topics: &mut self.topics })
    }

    /// Writes what has changed, at the end of a transaction.
    pub(super) fn flush(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.topics.flush(connection)?;
        for stream in self.streams.values_mut().filter(|stream| stream.is_changed) {
            stream.write(connection)?;
            stream.is_changed = false;
        }
        Ok(())
    }

    fn stream(&self, name: &Name) -> Result<&Stream, StoreError> {
        self.streams.get(name).ok_or_else(|| StoreError::NoStream { stream: name.to_string() })
    }
}

impl Stream {
    fn read(row: &Row<'_>) -> Result<Self, Trouble> {
        let number = |column: &str| row.get::<_, Option<i64>>(column).map(|number| number.map(unsigned));
        let name: String = row.get("name")?;
        let patterns: String = row.get("patterns")?;
        let patterns = patterns.split('\n').filter(|_| !patterns.is_empty());
        let damaged = |_| Trouble::Damaged("a stream has a pattern that is none");
        let patterns = patterns.map(TopicPattern::new).collect::<Result<Vec<_>, _>>().map_err(damaged)?;
        let name = Name::new(&name).map_err(|_| Trouble::Damaged("a stream has a name that is none"))?;
        let mut settings = StreamSettings::new(name, patterns);
        settings.retention = Retention {
            age: number("age")?.map(Duration::from_millis),
            messages: number("most_messages")?,
            bytes: number("most_bytes")?,
            topic_messages: number("most_topic_messages")?,
            topic_bytes: number("most_topic_bytes")?,
        };
        settings.known_for = Duration::from_millis(number("known_for")?.unwrap_or_default());
        settings.known_messages = number("most_ids")?.unwrap_or(limits::MESSAGE_IDS);
        let counted = |column| number(column).map(Option::unwrap_or_default);
        Ok(Self {
            id: row.get("id")?,
            settings,
            epoch: row.get("epoch")?,
            first: counted("first")?,
            end: counted("next")?,
            messages: counted("messages")?,
            bytes: counted("bytes")?,
            time: counted("time")?,
            ids: counted("ids")?,
            forgotten: counted("forgotten")?,
            delays: counted("delays")?,
            delayed: Held::new((counted("delayed")?, counted("delayed_bytes")?)),
            is_changed: false,
        })
    }

    fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let StreamSettings { patterns, retention, known_for, known_messages, .. } = &self.settings;
        // No pattern has white space.
        let patterns: Vec<_> = patterns.iter().map(TopicPattern::as_str).collect();
        let mut update = connection.prepare_cached(
            "UPDATE streams SET patterns = ?2, age = ?3, most_messages = ?4, most_bytes = ?5,
             most_topic_messages = ?6, most_topic_bytes = ?7, known_for = ?8, first = ?9, next = ?10,
             messages = ?11, bytes = ?12, time = ?13, ids = ?14, delays = ?15, delayed = ?16,
             delayed_bytes = ?17, most_ids = ?18, forgotten = ?19, epoch = ?20 WHERE id = ?1",
        )?;
        update
            .execute(params![
                self.id,
                patterns.join("\n"),
                retention.age.map(milliseconds),
                retention.messages.map(signed),
                retention.bytes.map(signed),
                retention.topic_messages.map(signed),
                retention.topic_bytes.map(signed),
                milliseconds(*known_for),
                signed(self.first),
                signed(self.end),
                signed(self.messages),
                signed(self.bytes),
                signed(self.time),
                signed(self.ids),
                signed(self.delays),
                signed(self.delayed.all().0),
                signed(self.delayed.all().1),
                signed(*known_messages),
                signed(self.forgotten),
                self.epoch,
            ])
            .map(drop)
    }

    fn state(&self) -> StreamState {
        StreamState {
            settings: self.settings.clone(),
            epoch: self.epoch,
            first: self.first,
            end: self.end,
            messages: self.messages,
            bytes: self.bytes,
            ids: self.ids,
            forgotten: self.forgotten,
            delayed: self.delayed.all().0,
        }
    }

    /// Whether its messages and the ids that it knows take more than they may.
    fn is_over_bytes(&self) -> bool {
        self.settings.retention.is_over_bytes(self.bytes, self.ids)
    }

    /// The row ids that its messages have.
    fn rows(&self) -> (i64, i64) {
        (row(self.id, self.first), row(self.id, self.end))
    }
}

/// A stream that is being changed.
struct Changing<'a> {
    connection: &'a Connection,
    stream: &'a mut Stream,
    topics: &'a mut Topics,
}

impl Changing<'_> {
    fn change(&mut self, change: &Change) -> Result<Outcome, Trouble> {
        let stream = self.stream.id;
        let mut dropped = 0;
        match change {
            Change::Append(message) => return Ok(self.append(message)?),
            Change::Delay { message, due, author, owner } => {
                return Ok(self.delay(message, (*due, author, owner))?);
            }
            Change::Release { id, time } => {
                if let Some(delayed) = self.take_delayed(*id)? {
                    return Ok(self.append(&NewMessage { time: *time, ..delayed.message })?);
                }
            }
            Change::DropDelayed { id } => dropped = u64::from(self.take_delayed(*id)?.is_some()),
            Change::Expire { now } => dropped = self.expire(*now)?,
            Change::Purge { before } => {
                let before = row(stream, *before);
                dropped = self.drop_while(|_, oldest| oldest.row < before)?.messages;
            }
            Change::Consumer { name, pattern, from } => {
                consumers::make(self.connection, stream, name, pattern.as_ref(), *from)?;
            }
            Change::RemoveConsumer(name) => consumers::remove(self.connection, stream, name)?,
            Change::Done { consumer, floor, sequences } => {
                consumers::done(self.connection, stream, consumer, *floor, sequences)?;
            }
            Change::Attempted { consumer, sequence, attempts } => {
                consumers::attempted(self.connection, stream, consumer, *sequence, *attempts)?;
            }
            Change::Handed { consumer, before } => {
                consumers::handed(self.connection, stream, consumer, *before)?;
            }
            Change::Renew { epoch } => {
                (self.stream.epoch, self.stream.is_changed) = (*epoch, true);
            }
            Change::Drop { sequences } => dropped = self.drop_these(sequences)?,
            // It was done to that stream.
            Change::AppendTo { .. } | Change::Move { .. } => {}
        }
        Ok(Outcome::Done { dropped })
    }

    fn append(&mut self, message: &NewMessage) -> rusqlite::Result<Outcome> {
        let time = message.time.max(self.stream.time);
        if let Some(id) = &message.id {
            self.forget_ids(time)?;
            if let Some(sequence) = ids::known(self.connection, self.stream.id, id)? {
                return Ok(Outcome::Known { sequence });
            }
        }
        let sequence = self.stream.end;
        let topic = self.topics.id(self.connection, self.stream.id, message.topic.as_str())?;
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO messages (id, topic, time, expires, fields, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        insert.execute(params![
            row(self.stream.id, sequence),
            topic,
            signed(time),
            message.expires.map(signed),
            &message.fields[..],
            &message.payload[..],
        ])?;
        if let Some(id) = &message.id {
            ids::know(self.connection, self.stream.id, id, (sequence, time))?;
            self.stream.ids += 1;
        }
        let bytes = message.weight();
        self.topics.add(self.connection, topic, row(self.stream.id, sequence), bytes)?;
        let stream = &mut self.stream;
        (stream.end, stream.time, stream.is_changed) = (sequence + 1, time, true);
        (stream.messages, stream.bytes) = (stream.messages + 1, stream.bytes + bytes);
        self.keep_to_bounds(topic)?;
        Ok(Outcome::Appended { sequence })
    }

    fn delay(
        &mut self,
        message: &NewMessage,
        (due, author, owner): (u64, &[u8], &Bytes),
    ) -> rusqlite::Result<Outcome> {
        if let Some(id) = &message.id {
            if let Some(sequence) = ids::known(self.connection, self.stream.id, id)? {
                return Ok(Outcome::Known { sequence });
            }
            if let Some(id) = delayed::known(self.connection, self.stream.id, id)? {
                return Ok(Outcome::Delayed { id });
            }
        }
        let id = self.stream.delays + 1;
        delayed::keep(self.connection, (self.stream.id, id), (due, author, owner), message)?;
        self.stream.delayed.add(owner, message.weight() + (author.len() + owner.len()) as u64);
        (self.stream.delays, self.stream.is_changed) = (id, true);
        Ok(Outcome::Delayed { id })
    }

    fn take_delayed(&mut self, id: u64) -> Result<Option<Delayed>, Trouble> {
        let taken = delayed::take(self.connection, self.stream.id, id)?;
        if let Some(delayed) = &taken {
            self.stream.delayed.remove(&delayed.owner, delayed.weight());
            self.stream.is_changed = true;
        }
        Ok(taken)
    }

    /// Forgets ids that nobody sends again, and those that there is no room for.
    fn forget_ids(&mut self, now: u64) -> rusqlite::Result<()> {
        let (window, most) = (self.stream.settings.window(), self.stream.settings.most_ids());
        // Those that are too old and left for the next time are only known for longer.
        for _ in 0..limits::RETENTION_STEP.min(self.stream.ids) {
            let Some((id, time)) = ids::oldest(self.connection, self.stream.id)? else { break };
            let is_too_old = time.saturating_add(window) <= now;
            if !is_too_old && self.stream.ids <= most {
                break;
            }
            ids::forget(self.connection, self.stream.id, &id)?;
            self.stream.forgotten += u64::from(!is_too_old);
            (self.stream.ids, self.stream.is_changed) = (self.stream.ids - 1, true);
        }
        Ok(())
    }

    /// Drops what the bounds do not leave; the newest message stays.
    fn keep_to_bounds(&mut self, topic: i64) -> rusqlite::Result<()> {
        let bounds = self.stream.settings.retention;
        if bounds.bounds_topics() {
            self.keep_topic_to_bounds(topic, &bounds)?;
        }
        if self.stream.is_over_bytes() {
            self.forget_ids(self.stream.time)?;
        }
        if bounds.messages.is_some() || bounds.bytes.is_some() {
            self.drop_while(|stream, _| {
                let is_over = bounds.messages.is_some_and(|most| stream.messages > most);
                (is_over || stream.is_over_bytes()) && stream.messages > 1
            })?;
        }
        Ok(())
    }

    fn keep_topic_to_bounds(&mut self, topic: i64, bounds: &Retention) -> rusqlite::Result<()> {
        let connection = self.connection;
        let sql = format!("SELECT {} FROM messages WHERE topic = ?1 ORDER BY id LIMIT 1", Oldest::COLUMNS);
        let mut step = Step::default();
        while !step.is_over() {
            let row = self.topics.row(connection, topic)?;
            let is_over = bounds.topic_messages.is_some_and(|most| row.messages > most)
                || bounds.topic_bytes.is_some_and(|most| row.bytes > most);
            if !is_over || row.messages <= 1 {
                break;
            }
            let oldest = connection.prepare_cached(&sql)?.query_row([topic], Oldest::read).optional()?;
            let Some(oldest) = oldest else { break };
            self.drop_message(&oldest)?;
            step.add(&oldest);
        }
        self.find_first()
    }

    fn expire(&mut self, now: u64) -> rusqlite::Result<u64> {
        let mut step = Step::default();
        if let Some(youngest) = self.stream.settings.retention.youngest(now) {
            step = self.drop_while(|_, oldest| oldest.time < youngest)?;
        }
        let left = limits::RETENTION_STEP - step.messages;
        let expired = expiry::expired(self.connection, self.stream.id, now, left)?;
        for oldest in &expired {
            if step.is_over() {
                break;
            }
            self.drop_message(oldest)?;
            step.add(oldest);
        }
        self.find_first()?;
        self.give_back()?;
        Ok(step.messages)
    }

    fn drop_these(&mut self, sequences: &[u64]) -> rusqlite::Result<u64> {
        let sql = format!("SELECT {} FROM messages WHERE id = ?1", Oldest::COLUMNS);
        let mut dropped = 0;
        for sequence in sequences.iter().filter(|sequence| **sequence <= LAST_SEQUENCE) {
            let row = row(self.stream.id, *sequence);
            let found = self.connection.prepare_cached(&sql)?.query_row([row], Oldest::read).optional()?;
            if let Some(found) = found {
                self.drop_message(&found)?;
                dropped += 1;
            }
        }
        self.find_first()?;
        Ok(dropped)
    }

    /// Drops the oldest messages as long as this is so, and not too many at once.
    fn drop_while(&mut self, mut goes: impl FnMut(&Stream, &Oldest) -> bool) -> rusqlite::Result<Step> {
        let sql = format!(
            "SELECT {} FROM messages WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 1",
            Oldest::COLUMNS
        );
        let mut step = Step::default();
        while !step.is_over() && self.stream.messages > 0 {
            let (from, to) = self.stream.rows();
            let oldest =
                self.connection.prepare_cached(&sql)?.query_row([from, to], Oldest::read).optional()?;
            let Some(oldest) = oldest.filter(|oldest| goes(self.stream, oldest)) else { break };
            self.drop_message(&oldest)?;
            // There may be holes behind it.
            self.stream.first = sequence(oldest.row) + 1;
            step.add(&oldest);
        }
        if step.messages > 0 {
            self.find_first()?;
        }
        Ok(step)
    }

    fn drop_message(&mut self, oldest: &Oldest) -> rusqlite::Result<()> {
        self.connection.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([oldest.row])?;
        let bytes = weight(self.topics.row(self.connection, oldest.topic)?.text.len(), oldest.length);
        self.topics.subtract(self.connection, oldest.topic, oldest.row, bytes)?;
        let stream = &mut self.stream;
        stream.messages = stream.messages.saturating_sub(1);
        stream.bytes = stream.bytes.saturating_sub(bytes);
        stream.is_changed = true;
        Ok(())
    }

    /// Finds the first message that is left.
    fn find_first(&mut self) -> rusqlite::Result<()> {
        let mut find =
            self.connection.prepare_cached("SELECT min(id) FROM messages WHERE id >= ?1 AND id < ?2")?;
        let (from, to) = self.stream.rows();
        let first: Option<i64> = find.query_row([from, to], |row| row.get(0))?;
        let first = first.map_or(self.stream.end, sequence);
        if first != self.stream.first {
            (self.stream.first, self.stream.is_changed) = (first, true);
        }
        Ok(())
    }

    /// Gives pages back to the system that nothing is in, if they are many.
    fn give_back(&self) -> rusqlite::Result<()> {
        let number = |sql: &str| self.connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        let (free, all) = (number("PRAGMA freelist_count")?, number("PRAGMA page_count")?);
        if free > 256 && free > all / 20 {
            self.connection.execute_batch("PRAGMA incremental_vacuum(1024)")?;
        }
        Ok(())
    }
}
