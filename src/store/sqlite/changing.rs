//! What one change does to a stream.

use bytes::Bytes;
use rusqlite::{Connection, params};

use super::retention::Step;
use super::schema::{row, signed};
use super::stream::Stream;
use super::streams::Trouble;
use super::topics::Topics;
use super::{consumers, delayed, ids};
use crate::limits;
use crate::store::change::{Change, Outcome};
use crate::store::halving::{sure_time, time_behind};
use crate::store::message::{Delayed, MessageId, NewMessage};

/// A stream that is being changed.
pub(super) struct Changing<'a> {
    pub(super) connection: &'a Connection,
    pub(super) stream: &'a mut Stream,
    pub(super) topics: &'a mut Topics,
    /// What its transaction has dropped.
    pub(super) dropped: &'a mut Step,
    /// It has changed what is not due yet.
    pub(super) has_delays_changed: &'a mut bool,
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
            Change::Recall { id } => {
                if let Some(known) = self.recall(id)? {
                    return Ok(known);
                }
            }
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
            Change::Renew { epoch } => {
                (self.stream.epoch, self.stream.is_changed) = (*epoch, true);
            }
            Change::Drop { sequences } => dropped = self.drop_these(sequences, step)?,
            // A file is one bus's.
            Change::FreeConsumer(_) => {}
            // It was done to that stream.
            Change::AppendTo { .. } | Change::Move { .. } => {}
        }
        Ok(Outcome::Done { dropped })
    }

    pub(super) fn append(&mut self, message: &NewMessage) -> rusqlite::Result<Outcome> {
        let time = time_behind(self.stream.time, message.time);
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
        if let Some(id) = &message.id
            && let Some(known) = self.recall(id)?
        {
            return Ok(known);
        }
        *self.has_delays_changed = true;
        let id = self.stream.delays + 1;
        delayed::keep(self.connection, (self.stream.id, id), (due, author, owner), message)?;
        self.stream.delayed.add(owner, message.weight() + (author.len() + owner.len()) as u64);
        (self.stream.delays, self.stream.is_changed) = (id, true);
        Ok(Outcome::Delayed { id })
    }

    /// What is known of a message by its id.
    fn recall(&self, id: &MessageId) -> rusqlite::Result<Option<Outcome>> {
        if let Some(sequence) = ids::known(self.connection, self.stream.id, id)? {
            return Ok(Some(Outcome::Known { sequence }));
        }
        Ok(delayed::known(self.connection, self.stream.id, id)?.map(|id| Outcome::Delayed { id }))
    }

    fn take_delayed(&mut self, id: u64) -> Result<Option<Delayed>, Trouble> {
        *self.has_delays_changed = true;
        let taken = delayed::take(self.connection, self.stream.id, id)?;
        if let Some(delayed) = &taken {
            self.stream.delayed.remove(&delayed.owner, delayed.weight());
            self.stream.is_changed = true;
        }
        Ok(taken)
    }

    /// Forgets ids that nobody sends again, and those that there is no room for.
    pub(super) fn forget_ids(&mut self, now: u64) -> rusqlite::Result<()> {
        let (window, most) = (self.stream.settings.window(), self.stream.settings.most_ids());
        let (connection, stream) = (self.connection, self.stream.id);
        let mut aged = 0;
        // Those that are too old and left for the next time are only known for longer.
        for _ in 0..limits::RETENTION_STEP.min(self.stream.ids) {
            let Some((id, sequence)) = ids::oldest(connection, stream)? else { break };
            let range = (sequence, self.stream.end);
            let sure = sure_time(range, now, |from, to| ids::next(connection, stream, from, to))?;
            let is_too_old = sure.is_some_and(|(_, time)| time.saturating_add(window) <= now);
            let goes = is_too_old && aged < limits::MESSAGE_IDS_AGED;
            if !goes && self.stream.ids <= most {
                break;
            }
            aged += usize::from(is_too_old);
            ids::forget(self.connection, self.stream.id, &id)?;
            self.stream.forgotten += u64::from(!is_too_old);
            (self.stream.ids, self.stream.is_changed) = (self.stream.ids - 1, true);
        }
        Ok(())
    }
}
