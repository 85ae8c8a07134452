//! The file beside the database that writes go to first (the write-ahead log), and when they are moved to their places.
//!
//! SQLite would do that by itself where a transaction ends, and tell nobody if it fails: a sync that has failed once has
//! lost something, whatever the next one says.

use std::time::Instant;

use rusqlite::Connection;

use super::measured::Measured;
use super::schema::signed;
use crate::limits;

/// Pages of 4 KiB that are written there before they are moved, at the most: 16 MiB. One that is written often is moved
/// once.
const MOST_PAGES: u64 = 4096;

/// Likewise where streams keep little, at the least: 1 MiB. What is moved more often costs more syncs.
const LEAST_PAGES: u64 = 256;

/// The part of what streams keep that is written there before it is moved. The log may become twice as long, and
/// longer by one transaction, as pages that somebody reads cannot be written over.
const PART: u64 = 32;

const PAGE: u64 = 4096;

/// How full the log may be, and when that is to be looked after.
pub(super) struct Log {
    /// Pages from which on they are moved.
    most: u64,
    /// Pages at which it is tried next.
    next: u64,
}

impl Log {
    /// Of a file whose streams keep so many bytes.
    pub(super) fn new(connection: &Connection, bound: Option<u64>) -> rusqlite::Result<Self> {
        let mut log = Self { most: 0, next: 0 };
        log.bound(connection, bound)?;
        Ok(log)
    }

    /// From now on the streams keep so many bytes.
    pub(super) fn bound(&mut self, connection: &Connection, bound: Option<u64>) -> rusqlite::Result<()> {
        let most = bound.map_or(MOST_PAGES, |bytes| (bytes / PART / PAGE).clamp(LEAST_PAGES, MOST_PAGES));
        if most != self.most {
            (self.most, self.next) = (most, most);
            // What is beyond that is cut off when it is begun anew.
            connection.pragma_update_and_check(
                None,
                "journal_size_limit",
                signed(most * PAGE),
                |_| Ok(()),
            )?;
        }
        Ok(())
    }

    /// Bytes of messages that are to be written in one transaction.
    pub(super) fn group_bytes(&self) -> u64 {
        (self.most * PAGE).min(limits::STORE_GROUP_BYTES)
    }

    /// Messages, likewise. One that is added and those that go for it change some pages each, where topics are many.
    pub(super) fn group_messages(&self) -> usize {
        usize::try_from(self.most / 4).unwrap_or(limits::STORE_GROUP).min(limits::STORE_GROUP)
    }

    /// Moves what has been written to its place, if it is much.
    pub(super) fn relieve(&mut self, connection: &Connection, measured: &Measured) -> rusqlite::Result<()> {
        let (pages, _) = checkpoint(connection, "PRAGMA wal_checkpoint(NOOP)")?;
        if pages < self.most {
            self.next = self.most;
        } else if pages >= self.next {
            // Not with each transaction, if somebody reads what cannot be written over as long.
            self.next = pages + self.most / 4;
            let begun = Instant::now();
            if pages < 2 * self.most {
                checkpoint(connection, "PRAGMA wal_checkpoint(PASSIVE)")?;
            } else {
                // Waits until nobody reads from the log; who begins meanwhile reads from the places.
                let (_, is_begun_anew) = checkpoint(connection, "PRAGMA wal_checkpoint(RESTART)")?;
                if is_begun_anew {
                    // A single transaction may be longer than that, so that its pages never are fewer when they are counted.
                    self.next = self.most;
                }
            }
            measured.moved(begun);
        }
        Ok(())
    }
}

/// Moves pages as it says, which need not be all. Returns how many are in the log, and whether nobody was in its way.
fn checkpoint(connection: &Connection, sql: &str) -> rusqlite::Result<(u64, bool)> {
    let mut moving = connection.prepare_cached(sql)?;
    moving.query_row([], |row| {
        let (is_busy, pages): (bool, i64) = (row.get(0)?, row.get(1)?);
        Ok((u64::try_from(pages).unwrap_or_default(), !is_busy))
    })
}
