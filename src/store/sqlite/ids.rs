//! The ids by which messages are known that are sent again.

use rusqlite::{Connection, OptionalExtension, params};

use super::schema::{signed, unsigned};
use crate::store::message::MessageId;

/// The message of this id, if it is known.
pub(super) fn known(connection: &Connection, stream: i64, id: &MessageId) -> rusqlite::Result<Option<u64>> {
    let mut find = connection.prepare_cached(
        "SELECT sequence FROM message_ids WHERE stream = ?1 AND publisher = ?2 AND number = ?3",
    )?;
    let key = params![stream, id.publisher, id.number.cast_signed()];
    find.query_row(key, |row| row.get(0).map(unsigned)).optional()
}

/// Notes the id of a message.
pub(super) fn know(
    connection: &Connection,
    stream: i64,
    id: &MessageId,
    (sequence, time): (u64, u64),
) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO message_ids (stream, publisher, number, sequence, time) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let number = id.number.cast_signed();
    insert.execute(params![stream, id.publisher, number, signed(sequence), signed(time)]).map(drop)
}

/// The id of the message that came first, and its sequence.
pub(super) fn oldest(connection: &Connection, stream: i64) -> rusqlite::Result<Option<(MessageId, u64)>> {
    let mut oldest = connection.prepare_cached(
        "SELECT publisher, number, sequence FROM message_ids WHERE stream = ?1 ORDER BY sequence LIMIT 1",
    )?;
    let found = oldest.query_row([stream], |row| {
        let (publisher, number) = (row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned());
        Ok((MessageId { publisher, number }, unsigned(row.get(2)?)))
    });
    found.optional()
}

/// The first message in a range of sequences whose id is known, if there is one, and its time.
pub(super) fn next(
    connection: &Connection,
    stream: i64,
    from: u64,
    to: u64,
) -> rusqlite::Result<Option<(u64, u64)>> {
    let mut find = connection.prepare_cached(
        "SELECT sequence, time FROM message_ids WHERE stream = ?1 AND sequence >= ?2 AND sequence < ?3
         ORDER BY sequence LIMIT 1",
    )?;
    let range = params![stream, signed(from), signed(to)];
    find.query_row(range, |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?)))).optional()
}

/// Forgets one.
pub(super) fn forget(connection: &Connection, stream: i64, id: &MessageId) -> rusqlite::Result<()> {
    let mut delete = connection
        .prepare_cached("DELETE FROM message_ids WHERE stream = ?1 AND publisher = ?2 AND number = ?3")?;
    delete.execute(params![stream, id.publisher, id.number.cast_signed()]).map(drop)
}
