//! Messages of a stream that have expired.

use rusqlite::{Connection, params};

use super::retention::Oldest;
use super::schema::signed;

/// By an index that begins with the stream, so that what others have is not looked at.
const EXPIRED: &str = "SELECT id, topic, time, length(fields) + length(payload) FROM messages
    WHERE id >> 40 = ?1 AND expires <= ?2 ORDER BY expires LIMIT ?3";

/// As many of them as that, the first to expire first.
pub(super) fn expired(
    connection: &Connection,
    stream: i64,
    now: u64,
    most: u64,
) -> rusqlite::Result<Vec<Oldest>> {
    let mut find = connection.prepare_cached(EXPIRED)?;
    let found = find.query_map(params![stream, signed(now), signed(most)], Oldest::read)?;
    found.collect()
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::store::sqlite::schema::{MIGRATIONS, row};

    #[test]
    fn a_sweep_looks_at_what_has_expired_of_its_own_stream_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        MIGRATIONS.to_latest(&mut connection).unwrap();
        let mut add = |stream, sequences: std::ops::RangeInclusive<u64>, expires: u64| {
            let adding = connection.transaction().unwrap();
            let sql = "INSERT INTO messages VALUES (?1, 1, 0, ?2, x'', x'00')";
            let mut insert = adding.prepare(sql).unwrap();
            for sequence in sequences {
                insert.execute(params![row(stream, sequence), signed(expires + sequence)]).unwrap();
            }
            drop(insert);
            adding.commit().unwrap();
        };
        // Around it, both of their numbers and of their times.
        add(1, 1..=5_000, 10);
        add(2, 1..=3, 20);
        add(2, 4..=5_000, 100_000);
        add(3, 1..=5_000, 30);
        for (stream, now, most, found) in
            [(1, 9_000, 10, 10), (2, 9_000, 10, 3), (2, 21, 10, 1), (2, 9_000, 2, 2), (4, 9_000, 10, 0)]
        {
            let said = expired(&connection, stream, now, most).unwrap();
            assert_eq!(said.len(), found, "{stream} {now} {most}");
            let find = connection.prepare_cached(EXPIRED).unwrap();
            let steps = find.reset_status(StatementStatus::VmStep);
            assert!((0..40 + 30 * found as i32).contains(&steps), "{steps} for {found} of stream {stream}");
        }
    }
}
