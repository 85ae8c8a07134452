//! What one change does to a stream.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::retention::Step;
use super::schema::{row, signed, unsigned};
use super::stream::Stream;
use super::streams::Trouble;
use super::topics::Topics;
use super::{consumers, delayed};
use crate::limits;
use crate::store::change::{Change, Outcome};
use crate::store::message::{Delayed, MessageId, NewMessage};

/// A stream that is being changed.
pub(super) struct Changing<'a> {
    pub(super) connection: &'a Connection,
    pub(super) stream: &'a mut Stream,
    pub(super) topics: &'a mut Topics,
    /// What its transaction has dropped.
    pub(super) dropped: &'a mut Step,
}

impl Changing<'_> {
    /// Does it. What is dropped as it is told is a part of this step.
    pub(super) fn change(&mut self, change: &Change, step: &mut Step) -> Result<Outcome, Trouble> {
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
            Change::Consumer { name, pattern, from, owner } => {
                consumers::make(self.connection, (stream, name, owner), pattern.as_ref(), *from)?;
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
            Change::Drop { sequences } => dropped = self.drop_these(sequences, step)?,
            // It was done to that stream.
            Change::AppendTo { .. } | Change::Move { .. } => {}
        }
        Ok(Outcome::Done { dropped })
    }

    pub(super) fn append(&mut self, message: &NewMessage) -> rusqlite::Result<Outcome> {
        let time = message.time.max(self.stream.time);
        if let Some(id) = &message.id {
            self.forget_ids(time)?;
            if let Some(sequence) = self.known(id)? {
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
            self.know(id, sequence, time)?;
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
            if let Some(sequence) = self.known(id)? {
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

    /// The message of this id, if it is known.
    fn known(&self, id: &MessageId) -> rusqlite::Result<Option<u64>> {
        let mut find = self.connection.prepare_cached(
            "SELECT sequence FROM message_ids WHERE stream = ?1 AND publisher = ?2 AND number = ?3",
        )?;
        let key = params![self.stream.id, id.publisher, id.number.cast_signed()];
        find.query_row(key, |row| row.get(0).map(unsigned)).optional()
    }

    fn know(&mut self, id: &MessageId, sequence: u64, time: u64) -> rusqlite::Result<()> {
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO message_ids (stream, publisher, number, sequence, time) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        let number = id.number.cast_signed();
        insert.execute(params![self.stream.id, id.publisher, number, signed(sequence), signed(time)])?;
        self.stream.ids += 1;
        Ok(())
    }

    /// Forgets ids that nobody sends again.
    fn forget_ids(&mut self, now: u64) -> rusqlite::Result<()> {
        let window = u64::try_from(self.stream.settings.known_for.as_millis()).unwrap_or(u64::MAX);
        let mut oldest = self.connection.prepare_cached(
            "SELECT publisher, number, time FROM message_ids WHERE stream = ?1 ORDER BY sequence LIMIT 1",
        )?;
        let mut delete = self
            .connection
            .prepare_cached("DELETE FROM message_ids WHERE stream = ?1 AND publisher = ?2 AND number = ?3")?;
        // Those that are too old and left for the next time are only known for longer.
        for _ in 0..limits::RETENTION_STEP.min(self.stream.ids) {
            let found = oldest.query_row([self.stream.id], |row| {
                Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, i64>(1)?, unsigned(row.get(2)?)))
            });
            let Some((publisher, number, time)) = found.optional()? else { break };
            if time.saturating_add(window) > now && self.stream.ids <= self.stream.settings.known_messages {
                break;
            }
            delete.execute(params![self.stream.id, publisher, number])?;
            (self.stream.ids, self.stream.is_changed) = (self.stream.ids - 1, true);
        }
        Ok(())
    }
}
