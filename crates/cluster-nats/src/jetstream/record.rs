//! What is done to streams, as it is written to the journal.
//!
//! A call is one entry, of one or several messages of NATS, its parts:
//!
//! | subject behind the prefix | what it is |
//! |---|---|
//! | `s.<stream>.t.<topic>` | a message that is added, with its payload; a call that adds no more than that has no other part |
//! | `s.<stream>.d.<topic>` | one that is kept until it is due |
//! | `s.<stream>.tw`, `….dw` | the same for one that was published to a pattern, which is in `Whispeer-Topic` |
//! | `s.<stream>.p` | a part of a payload that NATS does not take at once, before its message |
//! | `s.<stream>.c` | all changes of the call as JSON in `Whispeer-Action`, the last parts of it |
//! | `j.writer`, `j.image` | what tells of the journal, likewise |
//!
//! `Whispeer-Commit` says whose it is, the number of the call, that of the part, and how many parts there are.

use std::fmt::Write as _;

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use whispeer::store::index::{Act, Entry, SettingsImage};
use whispeer::store::{Change, MessageId, Name, NewMessage, StoreError, weight};
use whispeer::topic::TopicPattern;

use super::address::{Addresses, Place as Subject};
use crate::limits;

const COMMIT: &str = "Whispeer-Commit";
const TOPIC: &str = "Whispeer-Topic";
const TIME: &str = "Whispeer-Time";
const EXPIRES: &str = "Whispeer-Expires";
const ID: &str = "Whispeer-Id";
const FIELDS: &str = "Whispeer-Fields";
/// Bytes of the fields, where they are the first of the pieces, as JetStream takes no header of their length.
const FIELDS_SIZE: &str = "Whispeer-Fields-Size";
const PIECES: &str = "Whispeer-Pieces";
const SIZE: &str = "Whispeer-Size";
const ACTION: &str = "Whispeer-Action";
/// What NATS says where it leaves the payload out.
const NATS_SIZE: &str = "Nats-Msg-Size";

/// What is to be published.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

impl Wire {
    fn new(subject: String) -> Self {
        Self { subject, headers: HeaderMap::new(), payload: Bytes::new() }
    }

    /// Bytes that it takes, about.
    pub(super) fn size(&self) -> usize {
        let values = |name: &HeaderName, values: &[HeaderValue]| -> usize {
            values.iter().map(|value| name.to_string().len() + value.as_str().len()).sum()
        };
        let headers: usize = self.headers.iter().map(|(name, all)| values(name, all)).sum();
        self.subject.len() + headers + self.payload.len() + 64
    }

    /// Says whose it is.
    pub(super) fn signed(&self, stamp: Stamp) -> Self {
        let mut signed = self.clone();
        let Stamp { writer, number, part, parts } = stamp;
        signed.headers.insert(COMMIT, format!("{writer:016x} {number} {part} {parts}"));
        signed
    }
}

/// Whose part of which call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// Drawn at random by each store that is opened.
    pub(super) writer: u64,
    /// Of the call, among those of the writer.
    pub(super) number: u64,
    /// Of the part, among those of the call.
    pub(super) part: u32,
    pub(super) parts: u32,
}

impl Stamp {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let writer = u64::from_str_radix(words.next()?, 16).ok()?;
        let number = words.next()?.parse().ok()?;
        let (part, parts) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        (words.next().is_none() && part < parts).then_some(Self { writer, number, part, parts })
    }
}

/// A part as it is found in the journal, without payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Part {
    Message(MessagePart),
    Piece,
    /// Of an action, which is done to this stream if it names one.
    Action(Option<String>, String),
}

/// What is known of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MessagePart {
    pub(super) stream: String,
    pub(super) topic: String,
    pub(super) weight: u64,
    pub(super) time: u64,
    pub(super) expires: Option<u64>,
    pub(super) id: Option<([u8; 16], u64)>,
    pub(super) pieces: u32,
}

impl MessagePart {
    /// The message, with where it lies, and its stream.
    pub(super) fn entry<C>(self, content: C) -> Option<(Name, Entry<C>)> {
        let Self { stream, topic, weight, time, expires, id, .. } = self;
        let id = id.map(|(publisher, number)| MessageId { publisher, number });
        let topic = TopicPattern::new(topic).ok()?;
        Some((Name::new(&stream).ok()?, Entry { topic, weight, time, expires, id, content }))
    }
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Action {
    /// Changes of a stream, together. Messages are those of the call, in their order.
    Commit(Vec<Record>),
    /// Opens a stream.
    Open { settings: Box<SettingsImage>, epoch: [u8; 16] },
    /// Takes it out.
    Remove,
    /// The writer is there.
    Idle,
    /// It goes.
    Leave,
    /// It is the same as this one before, of which nothing more counts.
    Replace(u64),
    /// There is an image of all behind this entry.
    Image(Image),
}

/// An image that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Image {
    /// It holds all up to this entry.
    pub(super) at: u64,
    pub(super) writer: u64,
    pub(super) parts: usize,
    pub(super) bytes: usize,
}

/// A message that comes with a change, and its stream if that is another one.
type Brought = (Option<Name>, NewMessage);

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Record {
    Append,
    AppendTo,
    Move { sequence: u64 },
    Delay { due: u64, author: String, owner: String },
    Release { id: u64, time: u64 },
    DropDelayed { id: u64 },
    Recall { publisher: [u8; 16], number: u64 },
    Consumer { name: String, pattern: Option<String>, from: u64, owner: String },
    RemoveConsumer { name: String },
    FreeConsumer { name: String },
    Done { consumer: String, floor: u64, sequences: Vec<u64> },
    Attempted { consumer: String, sequence: u64, attempts: u32 },
    Handed { consumer: String, before: u64 },
    Drop { sequences: Vec<u64> },
    Expire { now: u64 },
    Purge { before: u64 },
    Renew { epoch: [u8; 16] },
}

impl Record {
    /// A change, and the message that it brings.
    fn of(change: Change) -> Option<(Self, Option<Brought>)> {
        let plain = |record| (record, None);
        Some(match change {
            Change::Append(message) => (Self::Append, Some((None, message))),
            Change::AppendTo { stream, message } => (Self::AppendTo, Some((Some(stream), message))),
            Change::Move { sequence, stream, message } => {
                (Self::Move { sequence }, Some((Some(stream), message)))
            }
            Change::Delay { message, due, author, owner } => {
                let (author, owner) = (STANDARD.encode(author), STANDARD.encode(owner));
                (Self::Delay { due, author, owner }, Some((None, message)))
            }
            Change::Release { id, time } => plain(Self::Release { id, time }),
            Change::DropDelayed { id } => plain(Self::DropDelayed { id }),
            Change::Recall { id } => plain(Self::Recall { publisher: id.publisher, number: id.number }),
            Change::Consumer { name, pattern, from, owner } => plain(Self::Consumer {
                name: name.to_string(),
                pattern: pattern.map(|pattern| pattern.to_string()),
                from,
                owner: STANDARD.encode(owner),
            }),
            Change::RemoveConsumer(name) => plain(Self::RemoveConsumer { name: name.to_string() }),
            Change::FreeConsumer(name) => plain(Self::FreeConsumer { name: name.to_string() }),
            Change::Done { consumer, floor, sequences } => {
                plain(Self::Done { consumer: consumer.to_string(), floor, sequences })
            }
            Change::Attempted { consumer, sequence, attempts } => {
                plain(Self::Attempted { consumer: consumer.to_string(), sequence, attempts })
            }
            Change::Handed { consumer, before } => {
                plain(Self::Handed { consumer: consumer.to_string(), before })
            }
            Change::Drop { sequences } => plain(Self::Drop { sequences }),
            Change::Expire { now } => plain(Self::Expire { now }),
            Change::Purge { before } => plain(Self::Purge { before }),
            Change::Renew { epoch } => plain(Self::Renew { epoch }),
            // Of a later release of the library, which this one knows nothing of.
            _ => return None,
        })
    }

    /// What it does, with the message that is its turn; `None` for what no store has written.
    pub(super) fn act<C>(self, next: &mut impl Iterator<Item = (Name, Entry<C>)>) -> Option<Act<C>> {
        let name = |text: String| Name::new(&text).ok();
        let bytes = |text: String| STANDARD.decode(text).ok().map(Bytes::from);
        Some(match self {
            Self::Append => Act::Append { stream: None, entry: next.next()?.1 },
            Self::AppendTo => {
                let (stream, entry) = next.next()?;
                Act::Append { stream: Some(stream), entry }
            }
            Self::Move { sequence } => {
                let (stream, entry) = next.next()?;
                Act::Move { sequence, stream, entry }
            }
            Self::Delay { due, author, owner } => {
                Act::Delay { entry: next.next()?.1, due, author: bytes(author)?, owner: bytes(owner)? }
            }
            Self::Release { id, time } => Act::Plain(Change::Release { id, time }),
            Self::DropDelayed { id } => Act::Plain(Change::DropDelayed { id }),
            Self::Recall { publisher, number } => {
                Act::Plain(Change::Recall { id: MessageId { publisher, number } })
            }
            Self::Consumer { name: text, pattern, from, owner } => {
                let pattern = pattern.map(TopicPattern::new).transpose().ok()?;
                Act::Plain(Change::Consumer { name: name(text)?, pattern, from, owner: bytes(owner)? })
            }
            Self::RemoveConsumer { name: text } => Act::Plain(Change::RemoveConsumer(name(text)?)),
            Self::FreeConsumer { name: text } => Act::Plain(Change::FreeConsumer(name(text)?)),
            Self::Done { consumer, floor, sequences } => {
                Act::Plain(Change::Done { consumer: name(consumer)?, floor, sequences })
            }
            Self::Attempted { consumer, sequence, attempts } => {
                Act::Plain(Change::Attempted { consumer: name(consumer)?, sequence, attempts })
            }
            Self::Handed { consumer, before } => {
                Act::Plain(Change::Handed { consumer: name(consumer)?, before })
            }
            Self::Drop { sequences } => Act::Plain(Change::Drop { sequences }),
            Self::Expire { now } => Act::Plain(Change::Expire { now }),
            Self::Purge { before } => Act::Plain(Change::Purge { before }),
            Self::Renew { epoch } => Act::Plain(Change::Renew { epoch }),
        })
    }
}

/// What was in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) fields: Bytes,
    pub(super) payload: Bytes,
}

/// A call as it is to be published.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) wires: Vec<Wire>,
    /// What is in its messages, in their order.
    pub(super) contents: Vec<Content>,
}

impl Encoded {
    /// These changes of a stream, where NATS takes messages of so many bytes.
    pub(super) fn commit(
        addresses: &Addresses,
        stream: &Name,
        changes: Vec<Change>,
        max_payload: usize,
    ) -> Result<Self, StoreError> {
        let is_one_message = matches!(changes[..], [Change::Append(_)]);
        let mut encoded = Self { wires: Vec::new(), contents: Vec::new() };
        let mut records = Vec::with_capacity(changes.len());
        for change in changes {
            let unknown = || StoreError::Failed {
                place: "the store in JetStream".to_owned(),
                reason: "it does not know a change that it was told to make".to_owned(),
            };
            let (record, message) = Record::of(change).ok_or_else(unknown)?;
            if let Some((other, message)) = message {
                let is_delayed = matches!(record, Record::Delay { .. });
                let to = other.as_ref().unwrap_or(stream);
                encoded.push_message(addresses, (to, is_delayed), message, max_payload)?;
            }
            records.push(record);
        }
        if !is_one_message {
            encoded.push_action(addresses.of_action(stream), &Action::Commit(records))?;
        }
        Ok(encoded)
    }

    /// One action that brings no messages.
    pub(super) fn action(subject: String, action: &Action) -> Result<Self, StoreError> {
        let mut encoded = Self { wires: Vec::new(), contents: Vec::new() };
        encoded.push_action(subject, action)?;
        Ok(encoded)
    }

    /// Bytes that it takes while it waits.
    pub(super) fn size(&self) -> usize {
        self.wires.iter().map(Wire::size).sum::<usize>() + limits::JETSTREAM_CALL_BYTES
    }

    fn push_message(
        &mut self,
        addresses: &Addresses,
        (stream, is_delayed): (&Name, bool),
        message: NewMessage,
        max_payload: usize,
    ) -> Result<(), StoreError> {
        let NewMessage { topic, fields, payload, time, expires, id } = message;
        let subject = match is_delayed {
            true => addresses.of_delayed(stream, &topic),
            false => addresses.of_message(stream, &topic),
        };
        let mut wire = Wire::new(subject);
        if topic.as_str().contains('*') {
            wire.headers.insert(TOPIC, topic.as_str());
        }
        wire.headers.insert(TIME, time.to_string());
        if let Some(expires) = expires {
            wire.headers.insert(EXPIRES, expires.to_string());
        }
        if let Some(id) = id {
            wire.headers.insert(ID, id_text(&id));
        }
        let written = STANDARD.encode(&fields);
        let mut in_pieces = BytesMut::new();
        if written.len() > limits::JETSTREAM_HEADER_VALUE {
            wire.headers.insert(FIELDS_SIZE, fields.len().to_string());
            in_pieces.extend_from_slice(&fields);
        } else if !fields.is_empty() {
            wire.headers.insert(FIELDS, written.as_str());
        }
        let taken = wire.size() + limits::JETSTREAM_HEADER_BYTES;
        let Some(room) = max_payload.checked_sub(taken).filter(|room| *room > 0) else {
            let what = format!(
                "NATS takes messages of {max_payload} bytes, of which the headers of this one leave no room; raise its max_payload"
            );
            return Err(StoreError::LimitReached { what });
        };
        if in_pieces.is_empty() && payload.len() <= room {
            wire.payload = payload.clone();
        } else {
            in_pieces.extend_from_slice(&payload);
            let (mut rest, mut pieces) = (in_pieces.freeze(), 0);
            while !rest.is_empty() {
                let mut piece = Wire::new(addresses.of_piece(stream));
                piece.payload = rest.split_to(rest.len().min(room));
                self.wires.push(piece);
                pieces += 1;
            }
            wire.headers.insert(PIECES, pieces.to_string());
            wire.headers.insert(SIZE, payload.len().to_string());
        }
        self.wires.push(wire);
        self.contents.push(Content { fields, payload });
        Ok(())
    }

    fn push_action(&mut self, subject: String, action: &Action) -> Result<(), StoreError> {
        let text = serde_json::to_string(action).map_err(|error| StoreError::Failed {
            place: "the store in JetStream".to_owned(),
            reason: format!("a change cannot be written: {error}"),
        })?;
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let at = rest.floor_char_boundary(limits::JETSTREAM_HEADER_VALUE);
            let (chunk, behind) = rest.split_at(at);
            let mut wire = Wire::new(subject.clone());
            // Where a part begins or ends with a blank, it would be lost.
            wire.headers.insert(ACTION, format!("|{chunk}|"));
            self.wires.push(wire);
            rest = behind;
        }
        Ok(())
    }
}

fn id_text(id: &MessageId) -> String {
    let mut text = String::with_capacity(53);
    for byte in id.publisher {
        // Nothing fails that is written to a string.
        let _ = write!(text, "{byte:02x}");
    }
    let _ = write!(text, "-{}", id.number);
    text
}

fn parse_id(text: &str) -> Option<([u8; 16], u64)> {
    let (publisher, number) = text.split_once('-')?;
    let publisher = u128::from_str_radix(publisher, 16).ok().filter(|_| publisher.len() == 32)?;
    Some((publisher.to_be_bytes(), number.parse().ok()?))
}

/// Reads a message of the journal. Without a stamp it is of somebody who has nothing but NATS. `None` for what nobody can read.
pub(super) fn decode(
    addresses: &Addresses,
    subject: &str,
    headers: &HeaderMap,
    stored: u64,
) -> Option<(Option<Stamp>, Part)> {
    let value = |name: &str| headers.get(name).map(|value| value.as_str());
    let stamp = match value(COMMIT) {
        Some(text) => Some(Stamp::parse(text)?),
        None => None,
    };
    let action = |stream: Option<&Name>| {
        let text = value(ACTION)?.strip_prefix('|')?.strip_suffix('|')?;
        Some(Part::Action(stream.map(ToString::to_string), text.to_owned()))
    };
    let part = match addresses.read(subject)? {
        Subject::Piece(_) => Part::Piece,
        Subject::Action(stream) => action(Some(&stream))?,
        Subject::Journal => action(None)?,
        Subject::Message(stream, topic) | Subject::Delayed(stream, topic) => {
            let topic = match topic {
                Some(topic) => topic,
                None => TopicPattern::new(value(TOPIC)?).ok()?,
            };
            let number = |name| value(name).map(str::parse::<u64>).transpose().ok();
            let fields = match (value(FIELDS), number(FIELDS_SIZE)?) {
                (Some(text), _) => STANDARD.decode(text).ok()?.len(),
                (None, size) => usize::try_from(size.unwrap_or_default()).ok()?,
            };
            let size = number(SIZE)?.or(number(NATS_SIZE)?).unwrap_or_default();
            let id = match value(ID) {
                Some(text) => Some(parse_id(text)?),
                None => None,
            };
            Part::Message(MessagePart {
                stream: stream.to_string(),
                weight: weight(topic.as_str().len(), fields + usize::try_from(size).ok()?),
                topic: topic.to_string(),
                time: number(TIME)?.unwrap_or(stored),
                expires: number(EXPIRES)?,
                id,
                pieces: u32::try_from(number(PIECES)?.unwrap_or_default()).ok()?,
            })
        }
    };
    Some((stamp, part))
}

/// What is in a message; `pieces` are those of its payload, joined, where it has some.
pub(super) fn content(headers: &HeaderMap, payload: Bytes, pieces: Option<Bytes>) -> Option<Content> {
    let mut payload = pieces.unwrap_or(payload);
    let fields = match (headers.get(FIELDS), headers.get(FIELDS_SIZE)) {
        (Some(text), _) => STANDARD.decode(text.as_str()).ok()?.into(),
        (None, Some(size)) => {
            let size = size.as_str().parse().ok().filter(|size| *size <= payload.len())?;
            payload.split_to(size)
        }
        (None, None) => Bytes::new(),
    };
    Some(Content { fields, payload })
}
