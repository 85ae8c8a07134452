//! The tables of the file.
//!
//! A message's row id is the number of its stream and its sequence, so that a stream lies in one piece and in its order.

use rusqlite_migration::{M, Migrations};

/// What the file says it is: `whsp`.
pub(super) const APPLICATION: i32 = 0x7768_7370;

/// Bits of a message's row id that are its sequence: a million a second for twelve days, or ten thousand for three years.
pub(super) const SEQUENCE_BITS: u32 = 40;

/// The last sequence that a stream assigns.
pub(super) const LAST_SEQUENCE: u64 = (1 << SEQUENCE_BITS) - 1;

/// Each step leads from one version of the file to the next, and is never changed.
const STEPS: &[M<'static>] = &[
    M::up(
        "
    CREATE TABLE streams (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        epoch BLOB NOT NULL,
        patterns TEXT NOT NULL,
        age INTEGER,
        most_messages INTEGER,
        most_bytes INTEGER,
        most_topic_messages INTEGER,
        most_topic_bytes INTEGER,
        known_for INTEGER NOT NULL,
        first INTEGER NOT NULL,
        next INTEGER NOT NULL,
        messages INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        time INTEGER NOT NULL,
        ids INTEGER NOT NULL
    );
    CREATE TABLE topics (
        -- Never used again: readers remember them.
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        stream INTEGER NOT NULL,
        topic TEXT NOT NULL,
        messages INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        UNIQUE (stream, topic)
    );
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY,
        topic INTEGER NOT NULL,
        time INTEGER NOT NULL,
        expires INTEGER,
        fields BLOB NOT NULL,
        payload BLOB NOT NULL
    );
    CREATE INDEX messages_by_topic ON messages (topic);
    CREATE INDEX messages_by_expiry ON messages (expires) WHERE expires IS NOT NULL;
    CREATE TABLE message_ids (
        stream INTEGER NOT NULL,
        publisher BLOB NOT NULL,
        number INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        time INTEGER NOT NULL,
        PRIMARY KEY (stream, publisher, number)
    ) WITHOUT ROWID;
    CREATE INDEX message_ids_by_age ON message_ids (stream, sequence);
    CREATE TABLE consumers (
        id INTEGER PRIMARY KEY,
        stream INTEGER NOT NULL,
        name TEXT NOT NULL,
        pattern TEXT,
        floor INTEGER NOT NULL,
        UNIQUE (stream, name)
    );
    CREATE TABLE progress (
        consumer INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        is_done INTEGER NOT NULL,
        PRIMARY KEY (consumer, sequence)
    ) WITHOUT ROWID;
    ",
    ),
    M::up(
        "
        -- Streams that were taken out, of which something is still there.
        CREATE TABLE removed (stream INTEGER PRIMARY KEY);
        ",
    ),
    M::up("ALTER TABLE consumers ADD COLUMN handed INTEGER NOT NULL DEFAULT 0"),
    M::up(
        "
        -- Messages that are not due yet. The row id is as that of a message, of ids instead of sequences.
        CREATE TABLE delayed (
            id INTEGER PRIMARY KEY,
            stream INTEGER NOT NULL,
            due INTEGER NOT NULL,
            topic TEXT NOT NULL,
            expires INTEGER,
            publisher BLOB,
            number INTEGER,
            author BLOB NOT NULL,
            fields BLOB NOT NULL,
            payload BLOB NOT NULL
        );
        CREATE INDEX delayed_by_due ON delayed (stream, due);
        CREATE UNIQUE INDEX delayed_by_message_id ON delayed (stream, publisher, number)
            WHERE publisher IS NOT NULL;
        -- Ids given so far, and what there is of such messages.
        ALTER TABLE streams ADD COLUMN delays INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE streams ADD COLUMN delayed INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE streams ADD COLUMN delayed_bytes INTEGER NOT NULL DEFAULT 0;
        ",
    ),
    M::up(
        "
        -- The row id of its last message, by which readers find the last of each topic in their order.
        ALTER TABLE topics ADD COLUMN last INTEGER NOT NULL DEFAULT 0;
        UPDATE topics SET last = coalesce((SELECT max(id) FROM messages WHERE topic = topics.id), 0);
        CREATE INDEX topics_by_last ON topics (last);
        ",
    ),
    M::up("ALTER TABLE streams ADD COLUMN most_ids INTEGER NOT NULL DEFAULT 1048576"),
    // Whom a message that is not due yet counts for. Those that are there count for nobody.
    M::up("ALTER TABLE delayed ADD COLUMN owner BLOB NOT NULL DEFAULT x''"),
    // Whose a consumer is. Those that are there are nobody's.
    M::up("ALTER TABLE consumers ADD COLUMN owner BLOB NOT NULL DEFAULT x''"),
    M::up(
        "
        -- A sweep is of one stream, whatever others have that nobody sweeps. The number of the stream is in the row id.
        DROP INDEX messages_by_expiry;
        CREATE INDEX messages_by_expiry ON messages (id >> 40, expires) WHERE expires IS NOT NULL;
        ",
    ),
    // Ids that were forgotten earlier than the settings say.
    M::up("ALTER TABLE streams ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0"),
];

/// The steps to the tables of this release.
pub(super) const MIGRATIONS: Migrations<'static> = Migrations::from_slice(STEPS);

/// The version that a file has with all of them; SQLite's `user_version`.
pub(super) const VERSION: i64 = STEPS.len().cast_signed() as i64;

/// The row id of a message.
pub(super) fn row(stream: i64, sequence: u64) -> i64 {
    stream << SEQUENCE_BITS | signed(sequence.min(LAST_SEQUENCE))
}

/// The sequence in a row id.
pub(super) fn sequence(row: i64) -> u64 {
    row.cast_unsigned() & LAST_SEQUENCE
}

/// A number as SQLite has them.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number as it was before.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::store::{Change, Name, SqliteOptions, SqliteStore, Store, StreamSettings};
    use crate::topic::TopicPattern;

    /// The version in which consumers got owners.
    const OWNERS: usize = 8;

    #[tokio::test]
    async fn a_consumer_of_an_earlier_release_is_nobodys_keeps_its_place_and_is_the_firsts_who_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let (name, pattern) = (|text| Name::new(text).unwrap(), TopicPattern::new("a/*").unwrap());
        {
            let mut connection = Connection::open(&path).unwrap();
            connection.pragma_update(None, "application_id", APPLICATION).unwrap();
            Migrations::from_slice(&STEPS[..OWNERS - 1]).to_latest(&mut connection).unwrap();
            connection
                .execute_batch(
                    "INSERT INTO streams VALUES
                         (1, 's', zeroblob(16), 'a/*', NULL, NULL, NULL, NULL, NULL, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0, 1);
                     INSERT INTO consumers (stream, name, pattern, floor, handed) VALUES (1, 'billing', 'a/*', 7, 8);",
                )
                .unwrap();
        }
        let store = SqliteStore::open(&path, SqliteOptions::new()).unwrap();
        let state = store.open(StreamSettings::new(name("s"), vec![pattern.clone()])).await.unwrap();
        assert_eq!(state.end, 9, "it is the stream that was there");
        let consumer = async || store.consumer(name("s"), name("billing")).await.unwrap();
        let before = consumer().await;
        assert_eq!((before.owner.as_ref(), before.floor, before.handed), (&b""[..], 7, 8));
        for owner in ["alice", "bob"] {
            let (name, pattern) = (name("billing"), Some(pattern.clone()));
            let change = Change::Consumer { name, pattern, from: 1, owner: owner.into() };
            store.commit(Name::new("s").unwrap(), vec![change]).await.unwrap();
        }
        let after = consumer().await;
        assert_eq!((after.owner.as_ref(), after.floor, after.handed), (&b"alice"[..], 7, 8));
    }
}
