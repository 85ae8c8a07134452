//! How far consumers are.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::schema::{signed, unsigned};
use super::streams::Trouble;
use crate::error::StoreError;
use crate::limits;
use crate::store::change::{Change, ConsumerState, Progress};
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
        let (consumer, is_made, is_removed) = match change {
            Change::Consumer { name, .. } => (name, true, false),
            Change::RemoveConsumer(name) => (name, false, true),
            Change::Done { consumer, .. }
            | Change::Attempted { consumer, .. }
            | Change::Handed { consumer, .. } => (consumer, false, false),
            Change::Append(_)
            | Change::AppendTo { .. }
            | Change::Move { .. }
            | Change::Drop { .. }
            | Change::Delay { .. }
            | Change::Release { .. }
            | Change::DropDelayed { .. }
            | Change::Expire { .. }
            | Change::Purge { .. }
            | Change::Renew { .. } => continue,
        };
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
                let what = format!("a stream has at most {} consumers", limits::STREAM_CONSUMERS);
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
    stream: i64,
    name: &Name,
    pattern: Option<&TopicPattern>,
    from: u64,
) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO consumers (stream, name, pattern, floor, handed) VALUES (?1, ?2, ?3, ?4, ?4)
         ON CONFLICT (stream, name) DO NOTHING",
    )?;
    let pattern = pattern.map(TopicPattern::as_str);
    insert.execute(params![stream, name.as_str(), pattern, signed(from)]).map(drop)
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

/// All of a stream, in the order of their names.
pub(super) fn all(connection: &Connection, stream: i64) -> Result<Vec<ConsumerState>, Trouble> {
    let mut find = connection.prepare_cached(
        "SELECT id, name, pattern, floor, handed FROM consumers WHERE stream = ?1 ORDER BY name",
    )?;
    let mut progress = connection.prepare_cached(
        "SELECT sequence, attempts, is_done FROM progress WHERE consumer = ?1 ORDER BY sequence",
    )?;
    let mut rows = find.query([stream])?;
    let mut consumers = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, name, pattern): (i64, String, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let pattern = pattern.map(TopicPattern::new).transpose();
        let pattern = pattern.map_err(|_| Trouble::Damaged("a consumer has a pattern that is none"))?;
        let known = progress.query_map([id], |row| {
            let known = Progress { attempts: row.get(1)?, is_done: row.get(2)? };
            Ok((unsigned(row.get(0)?), known))
        })?;
        consumers.push(ConsumerState {
            name: Name::new(&name).map_err(|_| Trouble::Damaged("a consumer has a name that is none"))?,
            pattern,
            floor: unsigned(row.get(3)?),
            handed: unsigned(row.get(4)?),
            known: known.collect::<rusqlite::Result<_>>()?,
        });
    }
    Ok(consumers)
}
