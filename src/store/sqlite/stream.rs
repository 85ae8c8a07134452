//! A stream as a transaction sees it.

use std::time::Duration;

use rusqlite::{Connection, Row, params};

use super::schema::{row, signed, unsigned};
use super::streams::Trouble;
use crate::limits;
use crate::store::held::Held;
use crate::store::settings::{Name, Retention, StreamSettings, StreamState};
use crate::topic::TopicPattern;

pub(super) struct Stream {
    pub(super) id: i64,
    pub(super) settings: StreamSettings,
    pub(super) epoch: [u8; 16],
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// The time of the last message.
    pub(super) time: u64,
    /// Ids of messages that are known.
    pub(super) ids: u64,
    /// Those that were forgotten before their time.
    pub(super) forgotten: u64,
    /// Ids of delayed messages that have been given.
    pub(super) delays: u64,
    /// Delayed messages, and their bytes.
    pub(super) delayed: Held,
    pub(super) is_changed: bool,
}

impl Stream {
    pub(super) fn read(row: &Row<'_>) -> Result<Self, Trouble> {
        let number = |column: &str| row.get::<_, Option<i64>>(column).map(|number| number.map(unsigned));
        let name: String = row.get("name")?;
        let patterns: String = row.get("patterns")?;
        let patterns = patterns.split('\n').filter(|_| !patterns.is_empty());
        let damaged = |_| Trouble::Damaged("a stream has a pattern that is none");
        let patterns = patterns.map(TopicPattern::new).collect::<Result<Vec<_>, _>>().map_err(damaged)?;
        let name = Name::new(&name).map_err(|_| Trouble::Damaged("a stream has a name that is none"))?;
        let mut settings = StreamSettings::new(name, patterns);
        settings.retention = Retention {
            age: number("age")?.map(Duration::from_millis),
            messages: number("most_messages")?,
            bytes: number("most_bytes")?,
            topic_messages: number("most_topic_messages")?,
            topic_bytes: number("most_topic_bytes")?,
        };
        settings.known_for = Duration::from_millis(number("known_for")?.unwrap_or_default());
        settings.known_messages = number("most_ids")?.unwrap_or(limits::MESSAGE_IDS);
        let counted = |column| number(column).map(Option::unwrap_or_default);
        Ok(Self {
            id: row.get("id")?,
            settings,
            epoch: row.get("epoch")?,
            first: counted("first")?,
            end: counted("next")?,
            messages: counted("messages")?,
            bytes: counted("bytes")?,
            time: counted("time")?,
            ids: counted("ids")?,
            forgotten: counted("forgotten")?,
            delays: counted("delays")?,
            delayed: Held::new((counted("delayed")?, counted("delayed_bytes")?)),
            is_changed: false,
        })
    }

    pub(super) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let StreamSettings { patterns, retention, known_for, known_messages, .. } = &self.settings;
        // No pattern has white space.
        let patterns: Vec<_> = patterns.iter().map(TopicPattern::as_str).collect();
        let mut update = connection.prepare_cached(
            "UPDATE streams SET patterns = ?2, age = ?3, most_messages = ?4, most_bytes = ?5,
             most_topic_messages = ?6, most_topic_bytes = ?7, known_for = ?8, first = ?9, next = ?10,
             messages = ?11, bytes = ?12, time = ?13, ids = ?14, delays = ?15, delayed = ?16,
             delayed_bytes = ?17, most_ids = ?18, forgotten = ?19, epoch = ?20 WHERE id = ?1",
        )?;
        update
            .execute(params![
                self.id,
                patterns.join("\n"),
                retention.age.map(milliseconds),
                retention.messages.map(signed),
                retention.bytes.map(signed),
                retention.topic_messages.map(signed),
                retention.topic_bytes.map(signed),
                milliseconds(*known_for),
                signed(self.first),
                signed(self.end),
                signed(self.messages),
                signed(self.bytes),
                signed(self.time),
                signed(self.ids),
                signed(self.delays),
                signed(self.delayed.all().0),
                signed(self.delayed.all().1),
                signed(*known_messages),
                signed(self.forgotten),
                self.epoch,
            ])
            .map(drop)
    }

    pub(super) fn state(&self) -> StreamState {
        StreamState {
            settings: self.settings.clone(),
            epoch: self.epoch,
            first: self.first,
            end: self.end,
            messages: self.messages,
            bytes: self.bytes,
            ids: self.ids,
            forgotten: self.forgotten,
            delayed: self.delayed.all().0,
        }
    }

    /// Whether its messages and the ids that it knows take more than they may.
    pub(super) fn is_over_bytes(&self) -> bool {
        self.settings.retention.is_over_bytes(self.bytes, self.ids)
    }

    /// The row ids that its messages have.
    pub(super) fn rows(&self) -> (i64, i64) {
        (row(self.id, self.first), row(self.id, self.end))
    }
}
