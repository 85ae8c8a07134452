//! What is left of streams that were taken out. It goes in steps, so that nobody waits for all of it.

use rusqlite::{Connection, OptionalExtension, params};

use super::schema::row;

/// Rows that go in one transaction: some ten milliseconds.
const STEP: i64 = 4096;

/// Streams of which something is left.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<i64>> {
    let mut find = connection.prepare_cached("SELECT stream FROM removed")?;
    find.query_map([], |row| row.get(0))?.collect()
}

/// Notes that a stream is taken out.
pub(super) fn begin(connection: &Connection, stream: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM streams WHERE id = ?1")?.execute([stream])?;
    connection.prepare_cached("INSERT INTO removed (stream) VALUES (?1)")?.execute([stream]).map(drop)
}

/// Takes a part of it out. Whether that was the last.
pub(super) fn step(connection: &Connection, stream: i64) -> rusqlite::Result<bool> {
    let goes = |sql: &str, parameters: &[i64]| -> rusqlite::Result<bool> {
        let mut delete = connection.prepare_cached(sql)?;
        Ok(delete.execute(rusqlite::params_from_iter(parameters))? > 0)
    };
    let has_gone = goes(
        "DELETE FROM messages WHERE id IN
         (SELECT id FROM messages WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3)",
        &[row(stream, 0), row(stream + 1, 0), STEP],
    )? || goes(
        "DELETE FROM topics WHERE id IN (SELECT id FROM topics WHERE stream = ?1 LIMIT ?2)",
        &[stream, STEP],
    )? || goes(
        "DELETE FROM message_ids WHERE stream = ?1 AND sequence <= (SELECT max(sequence) FROM
         (SELECT sequence FROM message_ids WHERE stream = ?1 ORDER BY sequence LIMIT ?2))",
        &[stream, STEP],
    )? || goes(
        "DELETE FROM delayed WHERE id IN
         (SELECT id FROM delayed WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3)",
        &[row(stream, 0), row(stream + 1, 0), STEP],
    )? || consumer_goes(connection, stream)?;
    if !has_gone {
        connection.prepare_cached("DELETE FROM removed WHERE stream = ?1")?.execute([stream])?;
    }
    Ok(!has_gone)
}

/// Takes a consumer out, or a part of what is known of it. Whether there was one.
fn consumer_goes(connection: &Connection, stream: i64) -> rusqlite::Result<bool> {
    let mut find = connection.prepare_cached("SELECT id FROM consumers WHERE stream = ?1 LIMIT 1")?;
    let found: Option<i64> = find.query_row([stream], |row| row.get(0)).optional()?;
    let Some(consumer) = found else { return Ok(false) };
    let mut forget = connection.prepare_cached(
        "DELETE FROM progress WHERE consumer = ?1 AND sequence <= (SELECT max(sequence) FROM
         (SELECT sequence FROM progress WHERE consumer = ?1 ORDER BY sequence LIMIT ?2))",
    )?;
    if forget.execute(params![consumer, STEP])? == 0 {
        connection.prepare_cached("DELETE FROM consumers WHERE id = ?1")?.execute([consumer])?;
    }
    Ok(true)
}
