//! How far consumers are.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::schema::{signed, unsigned};
use super::streams::Trouble;
use crate::error::StoreError;
use crate::limits;
use crate::store::change::{Change, ConsumerPosition, ConsumerState, Progress};
use crate::store::settings::Name;
use crate::topic::TopicPattern;

/// Whether all of these changes can be done to a stream's consumers.
pub(super) fn check(
    connection: &Connection,
    (stream, name): (i64, &Name),
    changes: &[Change],
) -> Result<(), Trouble> {
    // Names that an earlier one of these changes makes or takes out.
    let mut changed: BTreeMap<&Name, bool> = BTreeMap::new();
    let mut count = None;
    for change in changes {
        let Some(consumer) = change.consumer() else { continue };
        let is_made = matches!(change, Change::Consumer { .. });
        let is_removed = matches!(change, Change::RemoveConsumer(_));
        let is_there = match changed.get(consumer) {
            Some(is_there) => *is_there,
            None => find(connection, stream, consumer)?.is_some(),
        };
        if is_made && !is_there {
            let before = match count {
                Some(count) => count,
                None => count_of(connection, stream)?,
            };
            if before >= limits::STREAM_CONSUMERS {
                let what = format!(
                    "a stream has at most {} consumers; remove one that nobody needs",
                    limits::STREAM_CONSUMERS
                );
                return Err(StoreError::LimitReached { what }.into());
            }
            count = Some(before + 1);
        }
        if !is_made && !is_there {
            let (stream, consumer) = (name.to_string(), consumer.to_string());
            return Err(StoreError::NoConsumer { stream, consumer }.into());
        }
        if is_removed {
            count = Some(
                match count {
                    Some(count) => count,
                    None => count_of(connection, stream)?,
                } - 1,
            );
        }
        changed.insert(consumer, !is_removed);
    }
    Ok(())
}

fn count_of(connection: &Connection, stream: i64) -> rusqlite::Result<usize> {
    let mut count = connection.prepare_cached("SELECT count(*) FROM consumers WHERE stream = ?1")?;
    let count = count.query_row([stream], |row| row.get(0).map(unsigned))?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

fn find(connection: &Connection, stream: i64, name: &Name) -> rusqlite::Result<Option<(i64, u64)>> {
    let mut find =
        connection.prepare_cached("SELECT id, floor FROM consumers WHERE stream = ?1 AND name = ?2")?;
    find.query_row(params![stream, name.as_str()], |row| Ok((row.get(0)?, unsigned(row.get(1)?)))).optional()
}

pub(super) fn make(
    connection: &Connection,
    (stream, name, owner): (i64, &Name, &[u8]),
    pattern: Option<&TopicPattern>,
    from: u64,
) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO consumers (stream, name, pattern, floor, handed, owner) VALUES (?1, ?2, ?3, ?4, ?4, ?5)
         ON CONFLICT (stream, name) DO UPDATE SET owner = excluded.owner
         WHERE consumers.owner = x'' AND excluded.owner <> x''",
    )?;
    let pattern = pattern.map(TopicPattern::as_str);
    insert.execute(params![stream, name.as_str(), pattern, signed(from), owner]).map(drop)
}

pub(super) fn remove(connection: &Connection, stream: i64, name: &Name) -> rusqlite::Result<()> {
    let Some((consumer, _)) = find(connection, stream, name)? else { return Ok(()) };
    connection.prepare_cached("DELETE FROM progress WHERE consumer = ?1")?.execute([consumer])?;
    connection.prepare_cached("DELETE FROM consumers WHERE id = ?1")?.execute([consumer]).map(drop)
}

pub(super) fn done(
    connection: &Connection,
    stream: i64,
    name: &Name,
    floor: u64,
    sequences: &[u64],
) -> rusqlite::Result<()> {
    let Some((consumer, before)) = find(connection, stream, name)? else { return Ok(()) };
    let floor = floor.max(before);
    if floor > before {
        let mut rise = connection.prepare_cached("UPDATE consumers SET floor = ?2 WHERE id = ?1")?;
        rise.execute(params![consumer, signed(floor)])?;
        let mut forget =
            connection.prepare_cached("DELETE FROM progress WHERE consumer = ?1 AND sequence < ?2")?;
        forget.execute(params![consumer, signed(floor)])?;
    }
    let mut note = connection.prepare_cached(
        "INSERT INTO progress (consumer, sequence, attempts, is_done) VALUES (?1, ?2, 0, 1)
         ON CONFLICT (consumer, sequence) DO UPDATE SET is_done = 1",
    )?;
    for sequence in sequences.iter().filter(|sequence| **sequence >= floor) {
        note.execute(params![consumer, signed(*sequence)])?;
    }
    Ok(())
}

pub(super) fn attempted(
    connection: &Connection,
    stream: i64,
    name: &Name,
    sequence: u64,
    attempts: u32,
) -> rusqlite::Result<()> {
    let Some((consumer, floor)) = find(connection, stream, name)? else { return Ok(()) };
    if sequence < floor {
        return Ok(());
    }
    let mut note = connection.prepare_cached(
        "INSERT INTO progress (consumer, sequence, attempts, is_done) VALUES (?1, ?2, ?3, 0)
         ON CONFLICT (consumer, sequence) DO UPDATE SET attempts = ?3",
    )?;
    note.execute(params![consumer, signed(sequence), attempts]).map(drop)
}

/// Notes that a consumer may have been handed what lies before this sequence.
pub(super) fn handed(connection: &Connection, stream: i64, name: &Name, before: u64) -> rusqlite::Result<()> {
    let mut rise = connection
        .prepare_cached("UPDATE consumers SET handed = max(handed, ?3) WHERE stream = ?1 AND name = ?2")?;
    rise.execute(params![stream, name.as_str(), signed(before)]).map(drop)
}

/// All of a stream, in the order of their names, without what is known of single messages.
pub(super) fn all(connection: &Connection, stream: i64) -> Result<Vec<ConsumerPosition>, Trouble> {
    let mut find = connection.prepare_cached(
        "SELECT name, pattern, owner, floor FROM consumers WHERE stream = ?1 ORDER BY name",
    )?;
    let mut rows = find.query([stream])?;
    let mut consumers = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let name = Name::new(&name).map_err(|_| Trouble::Damaged("a consumer has a name that is none"))?;
        let mut position = ConsumerPosition::new(name, pattern(row.get(1)?)?, unsigned(row.get(3)?));
        position.owner = row.get::<_, Vec<u8>>(2)?.into();
        consumers.push(position);
    }
    Ok(consumers)
}

/// One of a stream, with all that is known of it. The messages that it knows something of lie together, by its id.
pub(super) fn one(
    connection: &Connection,
    (stream, of): (i64, &Name),
    name: &Name,
) -> Result<ConsumerState, Trouble> {
    let mut find = connection.prepare_cached(
        "SELECT id, pattern, floor, handed, owner FROM consumers WHERE stream = ?1 AND name = ?2",
    )?;
    let mut rows = find.query(params![stream, name.as_str()])?;
    let Some(row) = rows.next()? else {
        let (stream, consumer) = (of.to_string(), name.to_string());
        return Err(StoreError::NoConsumer { stream, consumer }.into());
    };
    let mut progress = connection.prepare_cached(
        "SELECT sequence, attempts, is_done FROM progress WHERE consumer = ?1 ORDER BY sequence",
    )?;
    let known = progress.query_map([row.get::<_, i64>(0)?], |row| {
        let known = Progress { attempts: row.get(1)?, is_done: row.get(2)? };
        Ok((unsigned(row.get(0)?), known))
    })?;
    Ok(ConsumerState {
        name: name.clone(),
        pattern: pattern(row.get(1)?)?,
        owner: row.get::<_, Vec<u8>>(4)?.into(),
        floor: unsigned(row.get(2)?),
        handed: unsigned(row.get(3)?),
        known: known.collect::<rusqlite::Result<_>>()?,
    })
}

fn pattern(text: Option<String>) -> Result<Option<TopicPattern>, Trouble> {
    let pattern = text.map(TopicPattern::new).transpose();
    pattern.map_err(|_| Trouble::Damaged("a consumer has a pattern that is none"))
}
