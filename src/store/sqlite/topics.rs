//! The topics of streams, and what they count.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::schema::{signed, unsigned};

/// Topics that are remembered from one transaction to the next: some megabytes.
const REMEMBERED: usize = 16 * 1024;

/// Topics that were used last. What they count is written at the end of a transaction, once for each.
#[derive(Default)]
pub(super) struct Topics {
    ids: HashMap<(i64, Box<str>), i64>,
    rows: HashMap<i64, TopicRow>,
    /// Those that are to be written, once each: a transaction of one message is not to look at all that are remembered.
    changed: Vec<i64>,
}

pub(super) struct TopicRow {
    pub(super) stream: i64,
    pub(super) text: Box<str>,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// The row id of the last message.
    last: i64,
    is_changed: bool,
}

impl Topics {
    /// The id of a topic, which is entered if it is new.
    pub(super) fn id(&mut self, connection: &Connection, stream: i64, text: &str) -> rusqlite::Result<i64> {
        let key = (stream, Box::from(text));
        if let Some(id) = self.ids.get(&key) {
            return Ok(*id);
        }
        let mut find = connection.prepare_cached(
            "SELECT id, messages, bytes, last FROM topics WHERE stream = ?1 AND topic = ?2",
        )?;
        let found = find.query_row(params![stream, text], |row| {
            Ok((row.get(0)?, (unsigned(row.get(1)?), unsigned(row.get(2)?), row.get(3)?)))
        });
        let (id, counted) = match found.optional()? {
            Some(found) => found,
            None => {
                let mut insert = connection.prepare_cached(
                    "INSERT INTO topics (stream, topic, messages, bytes) VALUES (?1, ?2, 0, 0)",
                )?;
                (insert.insert(params![stream, text])?, (0, 0, 0))
            }
        };
        self.remember(id, key, counted);
        Ok(id)
    }

    /// The topic of this id.
    pub(super) fn row(&mut self, connection: &Connection, id: i64) -> rusqlite::Result<&mut TopicRow> {
        if !self.rows.contains_key(&id) {
            let mut find = connection
                .prepare_cached("SELECT stream, topic, messages, bytes, last FROM topics WHERE id = ?1")?;
            let (key, counted) = find.query_row([id], |row| {
                let text: String = row.get(1)?;
                Ok(((row.get(0)?, text.into()), (unsigned(row.get(2)?), unsigned(row.get(3)?), row.get(4)?)))
            })?;
            self.remember(id, key, counted);
        }
        self.rows.get_mut(&id).ok_or(rusqlite::Error::QueryReturnedNoRows)
    }

    /// Counts a message that was added as this row.
    pub(super) fn add(
        &mut self,
        connection: &Connection,
        id: i64,
        last: i64,
        bytes: u64,
    ) -> rusqlite::Result<()> {
        let row = self.row(connection, id)?;
        (row.messages, row.bytes, row.last) = (row.messages + 1, row.bytes + bytes, last);
        self.note(id);
        Ok(())
    }

    /// Counts a message that was dropped, which was this row.
    pub(super) fn subtract(
        &mut self,
        connection: &Connection,
        id: i64,
        dropped: i64,
        bytes: u64,
    ) -> rusqlite::Result<()> {
        let row = self.row(connection, id)?;
        row.messages = row.messages.saturating_sub(1);
        row.bytes = row.bytes.saturating_sub(bytes);
        if row.last == dropped && row.messages > 0 {
            let mut find = connection.prepare_cached("SELECT max(id) FROM messages WHERE topic = ?1")?;
            row.last = find.query_row([id], |row| row.get(0))?;
        }
        self.note(id);
        Ok(())
    }

    /// Notes that this one is to be written.
    fn note(&mut self, id: i64) {
        if let Some(row) = self.rows.get_mut(&id)
            && !std::mem::replace(&mut row.is_changed, true)
        {
            self.changed.push(id);
        }
    }

    /// Writes what has changed. A topic without messages is not kept.
    pub(super) fn flush(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut update = connection
            .prepare_cached("UPDATE topics SET messages = ?2, bytes = ?3, last = ?4 WHERE id = ?1")?;
        let mut delete = connection.prepare_cached("DELETE FROM topics WHERE id = ?1")?;
        for id in self.changed.drain(..) {
            // Those of a stream that was taken out are forgotten.
            let Some(row) = self.rows.get_mut(&id) else { continue };
            row.is_changed = false;
            if row.messages > 0 {
                update.execute(params![id, signed(row.messages), signed(row.bytes), row.last])?;
                continue;
            }
            delete.execute([id])?;
            if let Some(TopicRow { stream, text, .. }) = self.rows.remove(&id) {
                self.ids.remove(&(stream, text));
            }
        }
        if self.rows.len() > REMEMBERED {
            self.forget();
        }
        Ok(())
    }

    /// Forgets those of a stream that was taken out: what they count is not written any more.
    pub(super) fn forget_stream(&mut self, removed: i64) {
        self.ids.retain(|(stream, _), _| *stream != removed);
        self.rows.retain(|_, row| row.stream != removed);
    }

    /// Forgets all, after what they count was written or undone.
    pub(super) fn forget(&mut self) {
        self.ids.clear();
        self.rows.clear();
        self.changed.clear();
    }

    fn remember(&mut self, id: i64, key: (i64, Box<str>), (messages, bytes, last): (u64, u64, i64)) {
        let (stream, text) = key.clone();
        self.ids.insert(key, id);
        self.rows.insert(id, TopicRow { stream, text, messages, bytes, last, is_changed: false });
    }
}

/// How many messages these topics have.
pub(super) fn messages(connection: &Connection, topics: &[i64]) -> rusqlite::Result<u64> {
    let mut find = connection.prepare_cached("SELECT messages FROM topics WHERE id = ?1")?;
    let mut sum = 0_u64;
    for topic in topics {
        sum = sum.saturating_add(find.query_row([topic], |row| row.get(0).map(unsigned))?);
    }
    Ok(sum)
}
