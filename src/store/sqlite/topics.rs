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
        row.is_changed = true;
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
        row.is_changed = true;
        if row.last == dropped && row.messages > 0 {
            let mut find = connection.prepare_cached("SELECT max(id) FROM messages WHERE topic = ?1")?;
            row.last = find.query_row([id], |row| row.get(0))?;
        }
        Ok(())
    }

    /// Writes what has changed. A topic without messages is not kept.
    pub(super) fn flush(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut update = connection
            .prepare_cached("UPDATE topics SET messages = ?2, bytes = ?3, last = ?4 WHERE id = ?1")?;
        let mut delete = connection.prepare_cached("DELETE FROM topics WHERE id = ?1")?;
        for (id, row) in self.rows.iter_mut().filter(|(_, row)| row.is_changed) {
            match row.messages {
                0 => delete.execute([id])?,
                messages => update.execute(params![id, signed(messages), signed(row.bytes), row.last])?,
            };
            row.is_changed = false;
        }
        let Self { ids, rows } = self;
        ids.retain(|_, id| rows.get(id).is_some_and(|row| row.messages > 0));
        rows.retain(|_, row| row.messages > 0);
        if rows.len() > REMEMBERED {
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
