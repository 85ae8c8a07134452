//! An index as it is written.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Index;
use super::delays::DelayedEntry;
use super::entry::{Entry, IdImage, Row};
use super::log::Log;
use crate::error::StoreError;
use crate::store::change::{ConsumerState, Progress};
use crate::store::settings::{Name, Retention, StreamSettings};
use crate::topic::TopicPattern;

/// All that an [`Index`] knows, to be written by any format of serde.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IndexImage<C> {
    streams: Vec<StreamImage<C>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StreamImage<C> {
    settings: SettingsImage,
    epoch: [u8; 16],
    end: u64,
    time: u64,
    /// The topics of its messages, which name them by their places here.
    topics: Vec<String>,
    /// Each with its sequence and its time less those of the one before it.
    rows: Vec<RowImage<C>>,
    ids: Vec<(u64, u64, IdImage)>,
    forgotten: u64,
    consumers: Vec<ConsumerImage>,
    given: u64,
    delayed: Vec<DelayedImage<C>>,
}

/// Sequence, topic, weight, time, expiry, content.
type RowImage<C> = (u64, u32, u64, i64, Option<u64>, C);

/// The settings of a stream as they are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsImage {
    name: String,
    patterns: Vec<String>,
    retention: RetentionImage,
    known_for: Duration,
    known_messages: u64,
    dead_letters: RetentionImage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RetentionImage {
    age: Option<Duration>,
    messages: Option<u64>,
    bytes: Option<u64>,
    topic_messages: Option<u64>,
    topic_bytes: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ConsumerImage {
    name: String,
    pattern: Option<String>,
    owner: Vec<u8>,
    floor: u64,
    handed: u64,
    known: Vec<(u64, u32, bool)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct DelayedImage<C> {
    id: u64,
    due: u64,
    author: Vec<u8>,
    owner: Vec<u8>,
    topic: String,
    weight: u64,
    expires: Option<u64>,
    message: Option<IdImage>,
    content: C,
}

impl<C: Clone> Index<C> {
    /// All that it knows.
    #[must_use]
    pub fn image(&self) -> IndexImage<C> {
        IndexImage { streams: self.streams.values().map(StreamImage::of).collect() }
    }

    /// The index that this is an image of.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for what no index has written; `place` says where it comes from.
    pub fn from_image(image: IndexImage<C>, place: &str) -> Result<Self, StoreError> {
        let wrong = |reason: String| StoreError::Corrupt { place: place.to_owned(), reason };
        let mut streams = BTreeMap::new();
        for stream in image.streams {
            let log = stream.into_log().map_err(wrong)?;
            streams.insert(log.settings.name.clone(), log);
        }
        Ok(Self { streams, gone: Vec::new() })
    }
}

impl SettingsImage {
    /// How these are written.
    #[must_use]
    pub fn of(settings: &StreamSettings) -> Self {
        Self {
            name: settings.name.to_string(),
            patterns: settings.patterns.iter().map(ToString::to_string).collect(),
            retention: RetentionImage::of(settings.retention),
            known_for: settings.known_for,
            known_messages: settings.known_messages,
            dead_letters: RetentionImage::of(settings.dead_letters),
        }
    }

    /// The settings that this is an image of.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for names and patterns that are none; `place` says where it comes from.
    pub fn settings(self, place: &str) -> Result<StreamSettings, StoreError> {
        self.into_settings().map_err(|reason| StoreError::Corrupt { place: place.to_owned(), reason })
    }

    fn into_settings(self) -> Result<StreamSettings, String> {
        let patterns: Result<Vec<_>, _> = self.patterns.iter().map(|text| pattern(text)).collect();
        Ok(StreamSettings {
            name: name(&self.name)?,
            patterns: patterns?,
            retention: self.retention.into_retention(),
            known_for: self.known_for,
            known_messages: self.known_messages,
            dead_letters: self.dead_letters.into_retention(),
        })
    }
}

impl RetentionImage {
    fn of(Retention { age, messages, bytes, topic_messages, topic_bytes }: Retention) -> Self {
        Self { age, messages, bytes, topic_messages, topic_bytes }
    }

    fn into_retention(self) -> Retention {
        let Self { age, messages, bytes, topic_messages, topic_bytes } = self;
        Retention { age, messages, bytes, topic_messages, topic_bytes }
    }
}

impl<C: Clone> StreamImage<C> {
    fn of(log: &Log<C>) -> Self {
        let (mut topics, mut places) = (Vec::new(), HashMap::new());
        let (mut sequence, mut time) = (0, 0);
        let rows = log.messages.values().map(|row| {
            let place = *places.entry(row.topic.as_str()).or_insert_with(|| {
                topics.push(row.topic.to_string());
                // There are fewer than messages, which do not fit into memory in such numbers.
                u32::try_from(topics.len() - 1).unwrap_or(u32::MAX)
            });
            let delta = (row.sequence - sequence, row.time.cast_signed().wrapping_sub(time));
            (sequence, time) = (row.sequence, row.time.cast_signed());
            (delta.0, place, row.weight, delta.1, row.expires, row.content.clone())
        });
        let rows = rows.collect();
        let ids = log.known.iter().map(|(sequence, (time, id))| (*sequence, *time, (*id).into()));
        let delayed = log.delays.messages.values().map(|delayed| DelayedImage {
            id: delayed.id,
            due: delayed.due,
            author: delayed.author.to_vec(),
            owner: delayed.owner.to_vec(),
            topic: delayed.entry.topic.to_string(),
            weight: delayed.entry.weight,
            expires: delayed.entry.expires,
            message: delayed.entry.id.map(Into::into),
            content: delayed.entry.content.clone(),
        });
        Self {
            settings: SettingsImage::of(&log.settings),
            epoch: log.epoch,
            end: log.end,
            time: log.time,
            rows,
            topics,
            ids: ids.collect(),
            forgotten: log.forgotten,
            consumers: log.consumers.values().map(ConsumerImage::of).collect(),
            given: log.delays.given,
            delayed: delayed.collect(),
        }
    }

    fn into_log(self) -> Result<Log<C>, String> {
        let mut log = Log::new(self.settings.into_settings()?, self.epoch);
        let topics: Result<Vec<_>, _> = self.topics.iter().map(|text| pattern(text)).collect();
        let topics = topics?;
        let (mut sequence, mut time) = (0_u64, 0_i64);
        for (more, place, weight, later, expires, content) in self.rows {
            let behind = sequence.checked_add(more).filter(|behind| *behind > sequence && *behind < self.end);
            sequence = behind.ok_or("sequences that do not go up")?;
            time = time.wrapping_add(later);
            let topic = topics.get(place as usize).ok_or("a topic that is not there")?.clone();
            log.bytes = log.bytes.saturating_add(weight);
            log.insert(Row { sequence, topic, weight, time: time.cast_unsigned(), expires, content });
        }
        (log.end, log.time, log.forgotten) = (self.end, self.time, self.forgotten);
        for (sequence, time, id) in self.ids {
            log.known.insert(sequence, (time, id.into()));
            log.ids.insert(id.into(), sequence);
        }
        for consumer in self.consumers {
            let state = consumer.into_state()?;
            log.consumers.insert(state.name.clone(), state);
        }
        log.delays.given = self.given;
        for DelayedImage { id, due, author, owner, topic, weight, expires, message, content } in self.delayed
        {
            let id_of_message = message.map(Into::into);
            let entry =
                Entry { topic: pattern(&topic)?, weight, time: due, expires, id: id_of_message, content };
            let (author, owner) = (Bytes::from(author), Bytes::from(owner));
            log.delays.put_back(DelayedEntry { id, due, author, owner, entry });
        }
        Ok(log)
    }
}

impl ConsumerImage {
    fn of(state: &ConsumerState) -> Self {
        Self {
            name: state.name.to_string(),
            pattern: state.pattern.as_ref().map(ToString::to_string),
            owner: state.owner.to_vec(),
            floor: state.floor,
            handed: state.handed,
            known: state
                .known
                .iter()
                .map(|(sequence, known)| (*sequence, known.attempts, known.is_done))
                .collect(),
        }
    }

    fn into_state(self) -> Result<ConsumerState, String> {
        let known = self.known.into_iter();
        Ok(ConsumerState {
            name: name(&self.name)?,
            pattern: self.pattern.as_deref().map(pattern).transpose()?,
            owner: self.owner.into(),
            floor: self.floor,
            handed: self.handed,
            known: known
                .map(|(sequence, attempts, is_done)| (sequence, Progress { attempts, is_done }))
                .collect(),
        })
    }
}

fn name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|error| error.to_string())
}

fn pattern(text: &str) -> Result<TopicPattern, String> {
    TopicPattern::new(text).map_err(|error| error.to_string())
}
