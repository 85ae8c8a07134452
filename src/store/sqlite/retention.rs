//! What goes of a stream: by its bounds, by its age, and as it is told.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::changing::Changing;
use super::expiry;
use super::schema::{LAST_SEQUENCE, row, sequence, unsigned};
use super::stream::Stream;
use crate::limits;
use crate::store::halving::sure_time;
use crate::store::message::weight;
use crate::store::settings::Retention;

/// A message that may have to go.
pub(super) struct Oldest {
    pub(super) row: i64,
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
pub(super) struct Step {
    pub(super) messages: u64,
    bytes: u64,
}

impl Step {
    pub(super) fn is_over(&self) -> bool {
        self.messages >= limits::RETENTION_STEP || self.bytes >= limits::RETENTION_STEP_BYTES
    }

    fn add(&mut self, dropped: &Oldest) {
        self.messages += 1;
        self.bytes += dropped.length as u64;
    }
}

/// The first message in a range of sequences, if there is one, and its time.
pub(super) fn next(
    connection: &Connection,
    stream: i64,
    from: u64,
    to: u64,
) -> rusqlite::Result<Option<(u64, u64)>> {
    let mut find = connection
        .prepare_cached("SELECT id, time FROM messages WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 1")?;
    let range = params![row(stream, from), row(stream, to)];
    find.query_row(range, |row| Ok((sequence(row.get(0)?), unsigned(row.get(1)?)))).optional()
}

impl Changing<'_> {
    /// Drops what the bounds do not leave; the newest message stays.
    pub(super) fn keep_to_bounds(&mut self, topic: i64) -> rusqlite::Result<()> {
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

    pub(super) fn expire(&mut self, now: u64) -> rusqlite::Result<u64> {
        let mut step = Step::default();
        if let Some(youngest) = self.stream.settings.retention.youngest(now) {
            let (stream, range) = (self.stream.id, (self.stream.first, self.stream.end));
            let sure = sure_time(range, now, |from, to| next(self.connection, stream, from, to))?;
            // All before one that is too old were stored before it.
            let before = sure.map_or(0, |(sequence, time)| if time < youngest { sequence } else { 0 });
            let before = row(stream, before);
            step = self.drop_while(|_, oldest| oldest.row < before || oldest.time < youngest)?;
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

    /// Drops these messages, as far as the step goes. Returns how many it were.
    pub(super) fn drop_these(&mut self, sequences: &[u64], step: &mut Step) -> rusqlite::Result<u64> {
        let sql = format!("SELECT {} FROM messages WHERE id = ?1", Oldest::COLUMNS);
        let mut dropped = 0;
        for sequence in sequences.iter().filter(|sequence| **sequence <= LAST_SEQUENCE) {
            if step.is_over() {
                break;
            }
            let row = row(self.stream.id, *sequence);
            let found = self.connection.prepare_cached(&sql)?.query_row([row], Oldest::read).optional()?;
            if let Some(found) = found {
                self.drop_message(&found)?;
                step.add(&found);
                dropped += 1;
            }
        }
        self.find_first()?;
        Ok(dropped)
    }

    /// Drops the oldest messages as long as this is so, and not too many at once.
    pub(super) fn drop_while(
        &mut self,
        mut goes: impl FnMut(&Stream, &Oldest) -> bool,
    ) -> rusqlite::Result<Step> {
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
        self.dropped.add(oldest);
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
