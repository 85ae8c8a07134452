//! Messages of few topics in a large stream, which the index finds without looking at the others.

use rusqlite::{Connection, params};

use super::schema::{sequence, signed};
use super::streams::Trouble;
use crate::limits;
use crate::topic::TopicPattern;

/// Topics whose messages are found one topic after the other. For more, looking at all messages is as good.
const FEW: usize = 64;

/// Topics of a stream that are looked at for it: some ten milliseconds.
const LOOKS: usize = 16 * 1024;

/// The topics of a stream that meet the pattern, if they are few, and so are those that there are.
pub(super) fn topics(
    connection: &Connection,
    stream: i64,
    pattern: &TopicPattern,
) -> Result<Option<Vec<i64>>, Trouble> {
    let mut find = connection.prepare_cached("SELECT id, topic FROM topics WHERE stream = ?1 LIMIT ?2")?;
    let mut rows = find.query(params![stream, signed(LOOKS as u64 + 1)])?;
    let (mut few, mut looked_at) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        looked_at += 1;
        let text = row.get::<_, String>(1)?;
        let topic =
            TopicPattern::new(text).map_err(|_| Trouble::Damaged("a message has a topic that is none"))?;
        if pattern.meets(&topic) {
            few.push(row.get(0)?);
        }
        if few.len() > FEW || looked_at > LOOKS {
            return Ok(None);
        }
    }
    Ok(Some(few))
}

/// The first messages of these topics from a row on, in their order.
pub(super) fn next(
    connection: &Connection,
    topics: &[i64],
    from: i64,
    count: usize,
) -> Result<Vec<i64>, Trouble> {
    let count = count.min(limits::STORE_LOOKS);
    let mut find = connection
        .prepare_cached("SELECT id FROM messages WHERE topic = ?1 AND id >= ?2 ORDER BY id LIMIT ?3")?;
    let mut found = Vec::new();
    for topic in topics {
        let rows = find.query_map(params![topic, from, signed(count as u64)], |row| row.get(0))?;
        found.extend(rows.collect::<rusqlite::Result<Vec<i64>>>()?);
    }
    found.sort_unstable();
    found.truncate(count);
    Ok(found)
}

/// The first of the last so many messages of these topics.
pub(super) fn last(connection: &Connection, topics: &[i64], count: usize) -> Result<Option<u64>, Trouble> {
    let mut find =
        connection.prepare_cached("SELECT id FROM messages WHERE topic = ?1 ORDER BY id DESC LIMIT ?2")?;
    let mut found = Vec::new();
    for topic in topics {
        let rows = find.query_map(params![topic, signed(count as u64)], |row| row.get(0))?;
        found.extend(rows.collect::<rusqlite::Result<Vec<i64>>>()?);
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    found.truncate(count);
    Ok(found.last().map(|row| sequence(*row)))
}
