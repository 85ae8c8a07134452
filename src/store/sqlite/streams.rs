//! What a transaction does to streams.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, params};

use super::changing::Changing;
use super::failure::{damaged, told};
use super::retention::Step;
use super::schema::LAST_SEQUENCE;
use super::stream::Stream;
use super::topics::Topics;
use super::{consumers, delayed, removal};
use crate::error::StoreError;
use crate::store::change::{Change, Outcome};
use crate::store::held::{Held, delays};
use crate::store::settings::{Name, StreamSettings, StreamState, drawn_epoch};

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
    /// What the transaction has dropped.
    dropped: Step,
    /// It has changed what is not due yet, or whose that is.
    has_delays_changed: bool,
}

impl Streams {
    pub(super) fn load(connection: &Connection) -> Result<Self, Trouble> {
        let mut loaded = Self::read(connection)?;
        let mut by_id: HashMap<i64, &mut Stream> =
            loaded.streams.values_mut().map(|stream| (stream.id, stream)).collect();
        delayed::count_owners(connection, |stream, owner, weight| {
            if let Some(stream) = by_id.get_mut(&stream) {
                stream.delayed.count_for(owner, weight);
            }
        })?;
        Ok(loaded)
    }

    /// Goes back to what the file says, as a transaction was undone. What is not due yet may be much, and is looked at only where
    /// the transaction had to do with it: on a disk that is full each publish comes here.
    pub(super) fn undo(&mut self, connection: &Connection) -> Result<(), Trouble> {
        if self.has_delays_changed {
            *self = Self::load(connection)?;
            return Ok(());
        }
        let mut loaded = Self::read(connection)?;
        for (name, stream) in &mut loaded.streams {
            if let Some(before) = self.streams.remove(name) {
                stream.delayed = before.delayed;
            }
        }
        *self = loaded;
        Ok(())
    }

    /// A transaction is on the disk.
    pub(super) fn committed(&mut self) {
        self.has_delays_changed = false;
    }

    /// All but whose messages are that are not due yet.
    fn read(connection: &Connection) -> Result<Self, Trouble> {
        let mut find = connection.prepare_cached("SELECT * FROM streams")?;
        let mut rows = find.query([])?;
        let mut streams = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let stream = Stream::read(row)?;
            streams.insert(stream.settings.name.clone(), stream);
        }
        let (topics, dropped, removed) = (Topics::default(), Step::default(), removal::load(connection)?);
        Ok(Self { streams, topics, removed, dropped, has_delays_changed: false })
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
        // All of it is read again if that is undone.
        self.has_delays_changed = true;
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
        stream.delayed.check(delays(changes))?;
        consumers::check(connection, (stream.id, name), changes)?;
        let mut outcomes = Vec::with_capacity(changes.len());
        let mut step = Step::default();
        for change in changes {
            outcomes.push(match change {
                Change::AppendTo { stream, message } => self.changing(connection, stream)?.append(message)?,
                Change::Move { sequence, stream, message } => {
                    match self.changing(connection, name)?.drop_these(&[*sequence], &mut Step::default())? {
                        0 => Outcome::Done { dropped: 0 },
                        _ => self.changing(connection, stream)?.append(message)?,
                    }
                }
                change => self.changing(connection, name)?.change(change, &mut step)?,
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
        let Self { streams, topics, dropped, has_delays_changed, .. } = self;
        let stream = streams.get_mut(name).ok_or_else(no_stream)?;
        Ok(Changing { connection, stream, topics, dropped, has_delays_changed })
    }

    /// Writes what has changed, at the end of a transaction.
    pub(super) fn flush(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.topics.flush(connection)?;
        for stream in self.streams.values_mut().filter(|stream| stream.is_changed) {
            stream.write(connection)?;
            stream.is_changed = false;
        }
        self.dropped = Step::default();
        Ok(())
    }

    /// Whether the transaction has dropped as much as is dropped at once: what else is to be done is for the next one.
    pub(super) fn has_dropped_enough(&self) -> bool {
        self.dropped.is_over()
    }

    fn stream(&self, name: &Name) -> Result<&Stream, StoreError> {
        self.streams.get(name).ok_or_else(|| StoreError::NoStream { stream: name.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::message::NewMessage;
    use crate::store::sqlite::schema::MIGRATIONS;
    use crate::topic::TopicPattern;

    #[test]
    fn what_was_undone_leaves_what_a_file_says_of_whom_delayed_messages_count_for() {
        let mut connection = Connection::open_in_memory().unwrap();
        MIGRATIONS.to_latest(&mut connection).unwrap();
        let (name, topic) = (Name::new("s").unwrap(), TopicPattern::new("a").unwrap());
        let message = || {
            let (fields, payload) = ("".into(), "x".into());
            NewMessage { topic: topic.clone(), fields, payload, time: 1, expires: None, id: None }
        };
        let delay = |owner: &'static str| {
            let (author, owner) = ("somebody".into(), owner.into());
            Change::Delay { message: message(), due: 9, author, owner }
        };
        let mut streams = Streams::load(&connection).unwrap();
        streams.open(&connection, &StreamSettings::new(name.clone(), vec![topic.clone()])).unwrap();
        streams.commit(&connection, &name, &[delay("alice"), delay("bob"), delay("alice")]).unwrap();
        streams.flush(&connection).unwrap();
        streams.committed();
        for (change, looks_at_delays) in [
            (Change::Append(message()), false),
            (Change::Expire { now: 5 }, false),
            (delay("carol"), true),
            (Change::DropDelayed { id: 1 }, true),
            (Change::Release { id: 2, time: 9 }, true),
        ] {
            connection.execute_batch("BEGIN").unwrap();
            streams.commit(&connection, &name, &[change]).unwrap();
            streams.flush(&connection).unwrap();
            connection.execute_batch("ROLLBACK").unwrap();
            assert_eq!(streams.has_delays_changed, looks_at_delays);
            streams.undo(&connection).unwrap();
            let loaded = Streams::load(&connection).unwrap();
            assert_eq!(streams.streams[&name].delayed, loaded.streams[&name].delayed);
            assert_eq!(streams.states(), loaded.states());
            assert_eq!(streams.states()[0].delayed, 3);
        }
    }
}
