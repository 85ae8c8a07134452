//! What follows from the journal. Everybody who reads it comes to the same.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use whispeer::store::index::{Act, Entry, Index, IndexImage};
use whispeer::store::{Change, Name, Outcome, StoreError, StreamState};

use super::record::{Action, MessagePart, Part, Stamp};
use crate::limits;

/// Where what is in a message lies: entries of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Of the message.
    pub(super) at: u64,
    /// Of the pieces of its payload, where it has not got that itself.
    pub(super) pieces: Option<Box<[u64]>>,
    /// Bytes that it takes, about.
    pub(super) bytes: u64,
}

/// What a call has come to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    Outcomes(Vec<Outcome>),
    State(Box<StreamState>),
    Done,
}

/// What an entry has done.
#[derive(Debug, Default)]
pub(super) struct Effect {
    /// The call that it was the last part of, whose, and what it has come to.
    pub(super) done: Option<Done>,
    /// A part came that was expected: whose it was.
    pub(super) heard: Option<u64>,
    /// A part came before one that is missing: whose it was.
    pub(super) broken: Option<u64>,
    /// Streams that may have grown.
    pub(super) touched: Vec<Name>,
}

#[derive(Debug)]
pub(super) struct Done {
    pub(super) writer: u64,
    pub(super) number: u64,
    pub(super) answer: Result<Answer, StoreError>,
    /// Where its messages lie, in their order.
    pub(super) places: Vec<Place>,
}

/// What is known of one who writes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Writer {
    /// The call that comes next, or goes on.
    number: u64,
    /// The parts of it that have come, with their places.
    parts: Vec<(u64, Part)>,
    /// When it was last heard of, by the clock of NATS: milliseconds since 1970 (UTC).
    seen: u64,
}

/// The streams, and who writes.
#[derive(Debug, Default)]
pub(super) struct Replica {
    pub(super) index: Index<Place>,
    /// The last entry that has been read.
    pub(super) applied: u64,
    writers: BTreeMap<u64, Writer>,
    /// Whose consumers are, by stream and name.
    holders: BTreeMap<(String, String), u64>,
    /// Entries that hold nothing any more.
    pub(super) garbage: Vec<u64>,
    /// Of the last image: the entry that it goes up to.
    pub(super) imaged: u64,
    /// Bytes that could be freed since.
    pub(super) garbage_bytes: u64,
}

/// A replica as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct ReplicaImage {
    version: u32,
    applied: u64,
    index: IndexImage<Place>,
    writers: Vec<(u64, Writer)>,
    holders: Vec<(String, String, u64)>,
}

/// The format of images.
const VERSION: u32 = 1;

impl Replica {
    /// All that is known, as bytes.
    pub(super) fn image(&self) -> Result<Vec<u8>, StoreError> {
        let holders = self.holders.iter();
        let image = ReplicaImage {
            version: VERSION,
            applied: self.applied,
            index: self.index.image(),
            writers: self.writers.iter().map(|(id, writer)| (*id, writer.clone())).collect(),
            holders: holders
                .map(|((stream, name), writer)| (stream.clone(), name.clone(), *writer))
                .collect(),
        };
        rmp_serde::to_vec(&image).map_err(|error| StoreError::Failed {
            place: "the image of a store in JetStream".to_owned(),
            reason: error.to_string(),
        })
    }

    /// The replica that this is an image of, which lies at this place.
    pub(super) fn from_image(bytes: &[u8], place: &str) -> Result<Self, StoreError> {
        let corrupt = |reason: String| StoreError::Corrupt { place: place.to_owned(), reason };
        // A later one may have other fields behind it.
        let version = match rmp_serde::from_slice::<ReplicaImage>(bytes) {
            Ok(image) if image.version == VERSION => {
                return Ok(Self {
                    index: Index::from_image(image.index, place)?,
                    applied: image.applied,
                    writers: image.writers.into_iter().collect(),
                    holders: image
                        .holders
                        .into_iter()
                        .map(|(stream, name, writer)| ((stream, name), writer))
                        .collect(),
                    garbage: Vec::new(),
                    imaged: image.applied,
                    garbage_bytes: 0,
                });
            }
            Ok(image) => image.version,
            Err(error) => return Err(corrupt(error.to_string())),
        };
        match version > VERSION {
            true => Err(StoreError::Newer { place: place.to_owned() }),
            false => Err(corrupt(format!("an image of version {version}"))),
        }
    }

    /// The first entry that still holds something, if all up to `at` is in an image.
    pub(super) fn first_needed(&self, at: u64) -> u64 {
        let places = self.index.contents().flat_map(Place::entries);
        let parts = self.writers.values().flat_map(|writer| writer.parts.iter().map(|(entry, _)| *entry));
        places.chain(parts).min().unwrap_or(at + 1).min(at + 1)
    }

    /// The call that is expected of a writer, and the part of it, if it is known.
    pub(super) fn expected(&self, writer: u64) -> Option<(u64, usize)> {
        self.writers.get(&writer).map(|writer| (writer.number, writer.parts.len()))
    }

    /// The consumer that these changes of a stream are about and that is another writer's at this time, by the clock of NATS.
    pub(super) fn held_by_another<'a>(
        &self,
        writer: u64,
        now: u64,
        stream: &Name,
        mut changes: impl Iterator<Item = &'a Change>,
    ) -> Option<&'a Name> {
        let lease = u64::try_from(limits::JETSTREAM_LEASE.as_millis()).unwrap_or(u64::MAX);
        changes.find_map(|change| {
            let name = change.consumer()?;
            let holder = self.holders.get(&(stream.to_string(), name.to_string()))?;
            let seen = self.writers.get(holder).map_or(0, |holder| holder.seen);
            (*holder != writer && now.saturating_sub(seen) < lease).then_some(name)
        })
    }

    /// Whether consumers are this writer's.
    pub(super) fn holds(&self, writer: u64) -> bool {
        self.holders.values().any(|holder| *holder == writer)
    }

    /// Reads the next entry, which was stored at this time; it is `None` where nobody can read it.
    pub(super) fn apply(&mut self, entry: u64, stored: u64, read: Option<(Option<Stamp>, Part)>) -> Effect {
        self.applied = entry;
        let mut effect = Effect::default();
        match read {
            None => self.waste(entry),
            Some((None, Part::Message(message))) => self.take_foreign(entry, message, &mut effect),
            Some((None, _)) => self.waste(entry),
            Some((Some(stamp), part)) => self.take(entry, stored, (stamp, part), &mut effect),
        }
        for place in self.index.take_gone() {
            self.garbage_bytes = self.garbage_bytes.saturating_add(place.bytes);
            self.garbage.extend(place.entries());
        }
        effect
    }

    fn waste(&mut self, entry: u64) {
        self.garbage.push(entry);
    }

    /// A message of somebody who has nothing but NATS.
    fn take_foreign(&mut self, entry: u64, message: MessagePart, effect: &mut Effect) {
        let place = Place { at: entry, pieces: None, bytes: message.weight };
        let is_whole = message.pieces == 0;
        let Some((stream, message)) = message.entry(place).filter(|_| is_whole) else {
            return self.waste(entry);
        };
        let state = self.index.stream(&stream);
        let is_its = |state: StreamState| {
            state.settings.patterns.iter().any(|pattern| pattern.contains(&message.topic))
        };
        if !state.is_ok_and(is_its) {
            return self.waste(entry);
        }
        // It is there, so that nothing is wrong with it.
        let _ = self.index.commit(&stream, vec![Act::Append { stream: None, entry: message }]);
        effect.touched.push(stream);
    }

    fn take(&mut self, entry: u64, stored: u64, (stamp, part): (Stamp, Part), effect: &mut Effect) {
        if !self.writers.contains_key(&stamp.writer) && (stamp.number, stamp.part) == (0, 0) {
            self.forget_a_writer();
            self.writers.insert(stamp.writer, Writer::default());
        }
        let Some(writer) = self.writers.get_mut(&stamp.writer) else {
            effect.broken = Some(stamp.writer);
            return self.waste(entry);
        };
        writer.seen = stored;
        let expected = (writer.number, writer.parts.len() as u64);
        let came = (stamp.number, u64::from(stamp.part));
        if came != expected {
            // One that has come before is of no use; one that comes before others are there has to come again.
            if came > expected {
                effect.broken = Some(stamp.writer);
            }
            return self.waste(entry);
        }
        effect.heard = Some(stamp.writer);
        writer.parts.push((entry, part));
        if stamp.part + 1 < stamp.parts {
            return;
        }
        let parts = std::mem::take(&mut writer.parts);
        writer.number += 1;
        let mut places = Vec::new();
        let answer = self.complete(stamp.writer, stored, parts, &mut places, effect);
        effect.done = Some(Done { writer: stamp.writer, number: stamp.number, answer, places });
    }

    fn forget_a_writer(&mut self) {
        while self.writers.len() >= limits::JETSTREAM_WRITERS {
            let oldest = self.writers.iter().min_by_key(|(_, writer)| writer.seen).map(|(id, _)| *id);
            let Some(oldest) = oldest else { break };
            self.forget(oldest);
        }
    }

    /// Nothing of this writer counts any more.
    fn forget(&mut self, writer: u64) {
        if let Some(gone) = self.writers.remove(&writer) {
            self.garbage.extend(gone.parts.iter().map(|(entry, _)| *entry));
        }
        self.holders.retain(|_, holder| *holder != writer);
    }

    /// Does what a call says, all parts of which are there.
    fn complete(
        &mut self,
        writer: u64,
        stored: u64,
        parts: Vec<(u64, Part)>,
        places: &mut Vec<Place>,
        effect: &mut Effect,
    ) -> Result<Answer, StoreError> {
        let unreadable = || StoreError::Corrupt {
            place: "the journal in JetStream".to_owned(),
            reason: "a call that no whispeer has written, or a later release".to_owned(),
        };
        let (mut messages, mut pieces, mut text) = (Vec::new(), Vec::new(), String::new());
        let (mut to, mut is_readable) = (None, true);
        for (at, part) in parts {
            match part {
                Part::Piece => pieces.push(at),
                Part::Action(stream, chunk) => {
                    self.waste(at);
                    text.push_str(&chunk);
                    to = stream;
                }
                Part::Message(message) => {
                    is_readable &= message.pieces as usize == pieces.len();
                    let own = std::mem::take(&mut pieces);
                    let pieces = (!own.is_empty()).then(|| own.into());
                    let place = Place { at, pieces, bytes: message.weight };
                    places.push(place.clone());
                    match message.entry(place) {
                        Some(entry) => messages.push(entry),
                        None => is_readable = false,
                    }
                }
            }
        }
        let action = match text.is_empty() {
            true => Some(Action::Commit(vec![super::record::Record::Append])),
            false => serde_json::from_str(&text).ok(),
        };
        let alone = messages.first().map(|(stream, _)| stream.clone());
        let stream = match &to {
            Some(text) => Name::new(text).ok(),
            None => alone,
        };
        let all: Vec<u64> = places.iter().flat_map(Place::entries).chain(pieces).collect();
        let done = match (action.filter(|_| is_readable), stream) {
            (Some(Action::Commit(records)), Some(stream)) => {
                effect.touched.push(stream.clone());
                effect.touched.extend(messages.iter().map(|(stream, _)| stream.clone()));
                let mut next = messages.into_iter();
                let acts: Option<Vec<_>> = records.into_iter().map(|record| record.act(&mut next)).collect();
                match acts {
                    Some(acts) => return self.commit(writer, stored, &stream, acts),
                    None => Err(unreadable()),
                }
            }
            (Some(Action::Open { settings, epoch }), _) => {
                let opened = settings.settings("the journal in JetStream");
                opened
                    .and_then(|settings| self.index.open(settings, epoch))
                    .map(|state| Answer::State(Box::new(state)))
            }
            (Some(Action::Remove), Some(stream)) => {
                self.holders.retain(|(name, _), _| name != stream.as_str());
                self.index.remove(&stream).map(|()| Answer::Done)
            }
            (Some(Action::Idle), _) => Ok(Answer::Done),
            (Some(Action::Leave), _) => {
                self.forget(writer);
                Ok(Answer::Done)
            }
            (Some(Action::Replace(before)), _) => {
                for holder in self.holders.values_mut().filter(|holder| **holder == before) {
                    *holder = writer;
                }
                self.forget(before);
                Ok(Answer::Done)
            }
            (Some(Action::Image(image)), _) => {
                // Whoever has written it deletes these.
                self.garbage.retain(|entry| *entry > image.at);
                (self.imaged, self.garbage_bytes) = (self.imaged.max(image.at), 0);
                Ok(Answer::Done)
            }
            _ => Err(unreadable()),
        };
        // Where messages came with it, they were not taken.
        self.garbage.extend(all);
        done
    }

    fn commit(
        &mut self,
        writer: u64,
        stored: u64,
        stream: &Name,
        acts: Vec<Act<Place>>,
    ) -> Result<Answer, StoreError> {
        let plain = || {
            acts.iter().filter_map(|act| match act {
                Act::Plain(change) => Some(change),
                _ => None,
            })
        };
        if let Some(name) = self.held_by_another(writer, stored, stream, plain()) {
            let error = in_use(stream, name);
            self.refuse(acts);
            return Err(error);
        }
        let (mut taken, mut left) = (Vec::new(), Vec::new());
        for change in plain() {
            let Some(name) = change.consumer() else { continue };
            let key = (stream.to_string(), name.to_string());
            match change {
                Change::RemoveConsumer(_) | Change::FreeConsumer(_) => left.push(key),
                _ => taken.push(key),
            }
        }
        let outcomes = self.index.commit(stream, acts)?;
        for key in taken {
            self.holders.insert(key, writer);
        }
        for key in left {
            self.holders.remove(&key);
        }
        Ok(Answer::Outcomes(outcomes))
    }

    /// What these bring is not taken.
    fn refuse(&mut self, acts: Vec<Act<Place>>) {
        let entries = acts.into_iter().filter_map(|act| match act {
            Act::Append { entry, .. } | Act::Move { entry, .. } | Act::Delay { entry, .. } => Some(entry),
            Act::Plain(_) => None,
        });
        for Entry { content, .. } in entries {
            self.garbage.extend(content.entries());
        }
    }
}

/// That a consumer is another bus's.
pub(super) fn in_use(stream: &Name, consumer: &Name) -> StoreError {
    StoreError::InUse { place: format!("the consumer \"{consumer}\" of the stream \"{stream}\"") }
}

impl Place {
    /// All entries that it takes.
    pub(super) fn entries(&self) -> impl Iterator<Item = u64> {
        let pieces: Vec<u64> = self.pieces.iter().flat_map(|pieces| pieces.iter().copied()).collect();
        pieces.into_iter().chain([self.at])
    }
}
