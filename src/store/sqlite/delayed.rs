//! Messages that are kept until they are due.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::schema::{row, sequence, signed, unsigned};
use super::streams::Trouble;
use crate::limits;
use crate::store::message::{Delayed, MessageId, NewMessage, weight};
use crate::topic::TopicPattern;

const COLUMNS: &str = "id, due, topic, expires, publisher, number, author, fields, payload, owner";

/// The id of the one that was sent with this id.
pub(super) fn known(connection: &Connection, stream: i64, id: &MessageId) -> rusqlite::Result<Option<u64>> {
    let mut find = connection
        .prepare_cached("SELECT id FROM delayed WHERE stream = ?1 AND publisher = ?2 AND number = ?3")?;
    let key = params![stream, id.publisher, id.number.cast_signed()];
    find.query_row(key, |row| row.get(0).map(sequence)).optional()
}

pub(super) fn keep(
    connection: &Connection,
    (stream, id): (i64, u64),
    (due, author, owner): (u64, &[u8], &[u8]),
    message: &NewMessage,
) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO delayed (id, stream, due, topic, expires, publisher, number, author, fields, payload, owner)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    let known = message.id.map(|id| (id.publisher, id.number.cast_signed()));
    insert
        .execute(params![
            row(stream, id),
            stream,
            signed(due),
            message.topic.as_str(),
            message.expires.map(signed),
            known.map(|(publisher, _)| publisher),
            known.map(|(_, number)| number),
            author,
            &message.fields[..],
            &message.payload[..],
            owner,
        ])
        .map(drop)
}

/// Counts what there is for those whom it counts for.
pub(super) fn count_owners(
    connection: &Connection,
    mut count: impl FnMut(i64, &Bytes, u64),
) -> rusqlite::Result<()> {
    // Lengths are known without reading what lies on further pages.
    let mut find = connection.prepare_cached(
        "SELECT stream, owner, length(CAST(topic AS BLOB)), length(fields) + length(payload),
         length(author) + length(owner) FROM delayed WHERE owner <> x''",
    )?;
    let mut rows = find.query([])?;
    while let Some(row) = rows.next()? {
        let length = |column| row.get(column).map(|length: i64| usize::try_from(length).unwrap_or_default());
        let weight = weight(length(2)?, length(3)?) + length(4)? as u64;
        count(row.get(0)?, &row.get::<_, Vec<u8>>(1)?.into(), weight);
    }
    Ok(())
}

/// Takes one out, if it is there.
pub(super) fn take(connection: &Connection, stream: i64, id: u64) -> Result<Option<Delayed>, Trouble> {
    let mut find = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM delayed WHERE id = ?1"))?;
    let mut rows = find.query([row(stream, id)])?;
    let taken = rows.next()?.map(read).transpose()?;
    if taken.is_some() {
        connection.prepare_cached("DELETE FROM delayed WHERE id = ?1")?.execute([row(stream, id)])?;
    }
    Ok(taken)
}

/// Those that are due by then, at most so many.
pub(super) fn due_by(
    connection: &Connection,
    stream: i64,
    until: u64,
    most: usize,
) -> Result<Vec<Delayed>, Trouble> {
    let mut find = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM delayed WHERE stream = ?1 AND due <= ?2 ORDER BY due, id LIMIT ?3"
    ))?;
    let mut rows = find.query(params![stream, signed(until), signed(most as u64)])?;
    let (mut due, mut bytes) = (Vec::new(), 0);
    while bytes < limits::STORE_PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        let delayed = read(row)?;
        bytes += delayed.weight();
        due.push(delayed);
    }
    Ok(due)
}

fn read(row: &Row<'_>) -> Result<Delayed, Trouble> {
    let topic: String = row.get(2)?;
    let topic = TopicPattern::new(topic).map_err(|_| Trouble::Damaged("a delayed message has no topic"))?;
    let due = unsigned(row.get(1)?);
    let number: Option<i64> = row.get(5)?;
    let publisher: Option<[u8; 16]> = row.get(4)?;
    let id = publisher.zip(number);
    let bytes = |column| row.get::<_, Vec<u8>>(column);
    Ok(Delayed {
        id: sequence(row.get(0)?),
        due,
        author: bytes(6)?.into(),
        owner: bytes(9)?.into(),
        message: NewMessage {
            topic,
            fields: bytes(7)?.into(),
            payload: bytes(8)?.into(),
            time: due,
            expires: row.get::<_, Option<i64>>(3)?.map(unsigned),
            id: id.map(|(publisher, number)| MessageId { publisher, number: number.cast_unsigned() }),
        },
    })
}
