//! The optional parts of a frame.
//!
//! The field section is a row of `tag (u8) | length (u16) | value`. A reader skips tags that it does
//! not know, so that a later version can add some. What a publisher puts there reaches its
//! subscribers unchanged.

use std::time::Duration;

use super::wire::Reader;
use super::{MalformedFrame, Refusal};
use crate::error::{BusError, BusResult};
use crate::limits;

const HEADER: u8 = 1;
const ORIGIN: u8 = 2;
const WINDOW: u8 = 3;
const POLICY: u8 = 4;
const GROUP: u8 = 5;
const BLOCK_LIMIT: u8 = 6;
const DEADLINE: u8 = 7;
const TOPIC: u8 = 8;
const MODE: u8 = 9;
const QUALITY: u8 = 10;
const START: u8 = 11;
const POSITION: u8 = 12;
const EXPIRES: u8 = 19;
const DELIVER_AT: u8 = 20;

/// A field section under construction.
///
/// # Examples
/// ```
/// use whispeer::proto::fields::{Field, FieldsBuilder, iterate};
///
/// let mut fields = FieldsBuilder::new();
/// fields.header("traceparent", "00-ab-cd-01")?;
/// let bytes = fields.finish();
/// let read: Vec<_> = iterate(&bytes).collect();
/// assert_eq!(read, [Field::Header { name: "traceparent", value: "00-ab-cd-01" }]);
/// # Ok::<(), whispeer::BusError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct FieldsBuilder {
    bytes: Vec<u8>,
}

impl FieldsBuilder {
    /// An empty section.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A header: a pair of strings for users and tracing. Names may repeat.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed
    /// [`limits::FIELDS_LIMIT`] or the name 255 bytes.
    pub fn header(&mut self, name: &str, value: &str) -> BusResult<()> {
        let Ok(name_length) = u8::try_from(name.len()) else {
            return Err(BusError::HeadersTooLarge { size: name.len(), limit: usize::from(u8::MAX) });
        };
        self.push(HEADER, &[&[name_length], name.as_bytes(), value.as_bytes()])
    }

    /// The bus that the message comes from, where it is not the one that sends the frame.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn origin(&mut self, bus: u64) -> BusResult<()> {
        self.push(ORIGIN, &[&bus.to_le_bytes()])
    }

    /// The window of a subscription, serving or streaming request.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn window(&mut self, messages: u32, bytes: u64) -> BusResult<()> {
        self.push(WINDOW, &[&messages.to_le_bytes(), &bytes.to_le_bytes()])
    }

    /// The policy of a subscription.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn policy(&mut self, policy: Policy) -> BusResult<()> {
        self.push(POLICY, &[&[policy as u8]])
    }

    /// The queue group of a subscription or serving.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn group(&mut self, name: &str) -> BusResult<()> {
        self.push(GROUP, &[name.as_bytes()])
    }

    /// How long a publish may be parked at most.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn block_limit(&mut self, limit: Duration) -> BusResult<()> {
        let millis = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        self.push(BLOCK_LIMIT, &[&millis.to_le_bytes()])
    }

    /// The time left for a request, for its server.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn deadline(&mut self, left: Duration) -> BusResult<()> {
        let micros = u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
        self.push(DEADLINE, &[&micros.to_le_bytes()])
    }

    /// One more topic of a publish to several.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn topic(&mut self, topic: &str) -> BusResult<()> {
        self.push(TOPIC, &[topic.as_bytes()])
    }

    /// How a serving shares its topic.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn mode(&mut self, mode: ServeMode) -> BusResult<()> {
        self.push(MODE, &[&[mode as u8]])
    }

    /// How sure a publish is to be.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn quality(&mut self, quality: Quality) -> BusResult<()> {
        self.push(QUALITY, &[&[quality as u8]])
    }

    /// Where a subscription begins in its stream.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn start(&mut self, start: Start) -> BusResult<()> {
        let (kind, number) = start.to_wire();
        self.push(START, &[&[kind], &number.to_le_bytes()])
    }

    /// Where a message lies in its stream.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn position(&mut self, position: Position) -> BusResult<()> {
        let Position { sequence, time, replayed } = position;
        self.push(POSITION, &[&sequence.to_le_bytes(), &time.to_le_bytes(), &[u8::from(replayed)]])
    }

    /// How long a message is of use, from when the frame is sent.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn expires(&mut self, left: Duration) -> BusResult<()> {
        let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        self.push(EXPIRES, &[&millis.to_le_bytes()])
    }

    /// When a publish is to be delivered, if that is later.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn deliver_at(&mut self, due: Due) -> BusResult<()> {
        let (kind, millis) = match due {
            Due::In(left) => (0, u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            Due::At(time) => (1, time),
        };
        self.push(DELIVER_AT, &[&[kind], &millis.to_le_bytes()])
    }

    /// Fields that are encoded already, after those that are here.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn append(&mut self, fields: &[u8]) -> BusResult<()> {
        self.check(fields.len())?;
        self.bytes.extend_from_slice(fields);
        Ok(())
    }

    /// The fields of a well-formed section, after those that are here, but for any deadline: that is for
    /// the bus to tell.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub(crate) fn append_without_deadline(&mut self, fields: &[u8]) -> BusResult<()> {
        self.append_without(DEADLINE, fields)
    }

    /// The fields of a well-formed section, after those that are here, but for any start.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub(crate) fn append_without_start(&mut self, fields: &[u8]) -> BusResult<()> {
        self.append_without(START, fields)
    }

    /// The fields of a well-formed section, after those that are here, but for when it is due.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub(crate) fn append_without_due(&mut self, fields: &[u8]) -> BusResult<()> {
        self.append_without(DELIVER_AT, fields)
    }

    fn append_without(&mut self, without: u8, fields: &[u8]) -> BusResult<()> {
        let mut rest = fields;
        while let Some((tag, _, after)) = split(rest) {
            if tag != without {
                let length = rest.len() - after.len();
                self.append(rest.get(..length).unwrap_or_default())?;
            }
            rest = after;
        }
        Ok(())
    }

    /// The encoded section.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// The section so far.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn push(&mut self, tag: u8, value: &[&[u8]]) -> BusResult<()> {
        let length: usize = value.iter().map(|part| part.len()).sum();
        self.check(3 + length)?;
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&(length as u16).to_le_bytes());
        for part in value {
            self.bytes.extend_from_slice(part);
        }
        Ok(())
    }

    fn check(&self, more: usize) -> BusResult<()> {
        let size = self.bytes.len() + more;
        if size > limits::FIELDS_LIMIT {
            return Err(BusError::HeadersTooLarge { size, limit: limits::FIELDS_LIMIT });
        }
        Ok(())
    }
}

/// What the bus does with a message when a live subscription's window is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
#[non_exhaustive]
pub enum Policy {
    /// Park the message for this subscription, at most the block limit; then count what follows as
    /// dropped until the subscriber takes a message again.
    #[default]
    Block = 0,
    /// Keep the newest messages, as many as the window holds, and count the older ones as dropped.
    DropOldest = 1,
    /// Count the message as dropped.
    DropNewest = 2,
    /// End the subscription.
    Disconnect = 3,
}

impl Policy {
    /// Its name in output and options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::DropOldest => "drop-oldest",
            Self::DropNewest => "drop-newest",
            Self::Disconnect => "disconnect",
        }
    }

    fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Block,
            1 => Self::DropOldest,
            2 => Self::DropNewest,
            3 => Self::Disconnect,
            _ => return None,
        })
    }
}

/// How a serving shares its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
#[non_exhaustive]
pub enum ServeMode {
    /// Be the only one; refused where the topic has a server. With a group, be one of its members.
    #[default]
    Join = 0,
    /// Replace the server that is there, which drains.
    TakeOver = 1,
}

/// How sure the delivery of a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
#[non_exhaustive]
pub enum Quality {
    /// It may be lost with the bus or a link.
    #[default]
    AtMostOnce = 0,
    /// It is kept before it counts as published, and can be read again.
    AtLeastOnce = 1,
}

/// Where a subscription begins in the stream of its topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Start {
    /// With what is stored from now on.
    New,
    /// With the last so many messages of its topics.
    Last(u64),
    /// With the last message of each of its topics.
    LastPerTopic,
    /// With the oldest that there is.
    All,
    /// With this sequence.
    From(u64),
    /// With the first that was stored then or later: milliseconds since 1970 (UTC).
    Since(u64),
}

impl Start {
    fn to_wire(self) -> (u8, u64) {
        match self {
            Self::New => (0, 0),
            Self::Last(count) => (1, count),
            Self::LastPerTopic => (2, 0),
            Self::All => (3, 0),
            Self::From(sequence) => (4, sequence),
            Self::Since(time) => (5, time),
        }
    }

    fn from_wire(kind: u8, number: u64) -> Option<Self> {
        Some(match kind {
            0 => Self::New,
            1 => Self::Last(number),
            2 => Self::LastPerTopic,
            3 => Self::All,
            4 => Self::From(number),
            5 => Self::Since(number),
            _ => return None,
        })
    }
}

/// When a message is to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Due {
    /// So much later than the bus has taken it in.
    In(Duration),
    /// At this time by the clock of the bus: milliseconds since 1970 (UTC).
    At(u64),
}

/// Where a message lies in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Position {
    /// Its number in the stream, from 1. There may be holes, of what retention has dropped and of other topics.
    pub sequence: u64,
    /// When it was stored: milliseconds since 1970 (UTC).
    pub time: u64,
    /// It was there before the subscription that it comes to.
    pub replayed: bool,
}

impl Position {
    /// A position.
    #[must_use]
    pub fn new(sequence: u64, time: u64, replayed: bool) -> Self {
        Self { sequence, time, replayed }
    }
}

/// Why matches of a subscription were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
#[non_exhaustive]
pub enum GapReason {
    /// The window was used up for the whole block limit.
    Lagging = 1,
    /// The policy `DropOldest` made room.
    DroppedOldest = 2,
    /// The policy `DropNewest` turned it away.
    DroppedNewest = 3,
    /// The link broke, or the subscription ended, before it was taken.
    Link = 4,
    /// The stream did not keep it long enough.
    Retention = 5,
    /// It was of no use any more before there was room for it.
    Expired = 7,
}

impl GapReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Lagging, Self::DroppedOldest, Self::DroppedNewest, Self::Link, Self::Retention, Self::Expired];

    /// The reason with that number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == number)
    }

    /// Its place in [`ALL`](Self::ALL).
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Expired => 5,
            other => other as usize - 1,
        }
    }

    /// Its name in metrics and output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lagging => "lagging",
            Self::DroppedOldest => "dropped_oldest",
            Self::DroppedNewest => "dropped_newest",
            Self::Link => "link",
            Self::Retention => "retention",
            Self::Expired => "expired",
        }
    }
}

/// The payload of a `GAP` frame.
#[must_use]
pub fn encode_gap(count: u64, reason: GapReason) -> [u8; 9] {
    let mut bytes = [0; 9];
    bytes[..8].copy_from_slice(&count.to_le_bytes());
    bytes[8] = reason as u8;
    bytes
}

/// Reads the payload of a `GAP` frame.
///
/// # Errors
/// [`MalformedFrame`] when it is cut off. A reason that is not known reads as [`GapReason::Link`].
pub fn decode_gap(payload: &[u8]) -> Result<(u64, GapReason), MalformedFrame> {
    let mut reader = Reader::new(payload, "a gap without count and reason");
    let count = reader.u64()?;
    let reason = GapReason::from_u8(reader.u8()?).unwrap_or(GapReason::Link);
    Ok((count, reason))
}

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field<'a> {
    /// See [`FieldsBuilder::header`].
    Header {
        /// What the header is called.
        name: &'a str,
        /// What it says.
        value: &'a str,
    },
    /// See [`FieldsBuilder::origin`].
    Origin(u64),
    /// See [`FieldsBuilder::window`].
    Window {
        /// Messages that may be outstanding.
        messages: u32,
        /// Bytes that may be outstanding.
        bytes: u64,
    },
    /// See [`FieldsBuilder::policy`].
    Policy(Policy),
    /// See [`FieldsBuilder::group`].
    Group(&'a str),
    /// See [`FieldsBuilder::block_limit`].
    BlockLimit(Duration),
    /// See [`FieldsBuilder::deadline`].
    Deadline(Duration),
    /// See [`FieldsBuilder::topic`].
    Topic(&'a str),
    /// See [`FieldsBuilder::mode`].
    Mode(ServeMode),
    /// See [`FieldsBuilder::quality`].
    Quality(Quality),
    /// See [`FieldsBuilder::start`].
    Start(Start),
    /// See [`FieldsBuilder::position`].
    Position(Position),
    /// See [`FieldsBuilder::expires`].
    Expires(Duration),
    /// See [`FieldsBuilder::deliver_at`].
    DeliverAt(Due),
    /// A field of a later version, or one whose value cannot be read; to be skipped.
    Unknown(u8),
}

/// The fields of a section, in order. A section that is cut off ends there; check it with
/// [`well_formed`] where that matters.
pub fn iterate(section: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = section;
    std::iter::from_fn(move || {
        let (tag, value, after) = split(rest)?;
        rest = after;
        Some(read(tag, value))
    })
}

/// Where a message lies in its stream, if it comes from one.
pub(crate) fn position_of(section: &[u8]) -> Option<Position> {
    // The bus puts it last.
    let positions = iterate(section).filter_map(|field| match field {
        Field::Position(position) => Some(position),
        _ => None,
    });
    positions.last()
}

/// Whether the section divides into fields without remainder.
#[must_use]
pub fn well_formed(section: &[u8]) -> bool {
    let mut rest = section;
    while let Some((_, _, after)) = split(rest) {
        rest = after;
    }
    rest.is_empty()
}

fn split(section: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let ([tag, low, high], rest) = section.split_first_chunk::<3>()?;
    let (value, after) = rest.split_at_checked(usize::from(u16::from_le_bytes([*low, *high])))?;
    Some((*tag, value, after))
}

fn read(tag: u8, value: &[u8]) -> Field<'_> {
    read_known(tag, value).unwrap_or(Field::Unknown(tag))
}

fn read_known(tag: u8, value: &[u8]) -> Option<Field<'_>> {
    let mut reader = Reader::new(value, "");
    Some(match tag {
        HEADER => {
            let length = usize::from(reader.u8().ok()?);
            let name = std::str::from_utf8(reader.bytes(length).ok()?).ok()?;
            Field::Header { name, value: std::str::from_utf8(reader.rest()).ok()? }
        }
        ORIGIN => Field::Origin(reader.u64().ok()?),
        WINDOW => Field::Window { messages: reader.u32().ok()?, bytes: reader.u64().ok()? },
        POLICY => Field::Policy(Policy::from_u8(reader.u8().ok()?)?),
        GROUP => Field::Group(std::str::from_utf8(value).ok()?),
        BLOCK_LIMIT => Field::BlockLimit(Duration::from_millis(u64::from(reader.u32().ok()?))),
        DEADLINE => Field::Deadline(Duration::from_micros(reader.u64().ok()?)),
        TOPIC => Field::Topic(std::str::from_utf8(value).ok()?),
        MODE => Field::Mode(match reader.u8().ok()? {
            0 => ServeMode::Join,
            1 => ServeMode::TakeOver,
            _ => return None,
        }),
        QUALITY => Field::Quality(match reader.u8().ok()? {
            0 => Quality::AtMostOnce,
            1 => Quality::AtLeastOnce,
            _ => return None,
        }),
        START => {
            let kind = reader.u8().ok()?;
            Field::Start(Start::from_wire(kind, reader.u64().ok()?)?)
        }
        POSITION => {
            let (sequence, time) = (reader.u64().ok()?, reader.u64().ok()?);
            Field::Position(Position { sequence, time, replayed: reader.u8().ok()? != 0 })
        }
        EXPIRES => Field::Expires(Duration::from_millis(reader.u64().ok()?)),
        DELIVER_AT => {
            let (kind, millis) = (reader.u8().ok()?, reader.u64().ok()?);
            Field::DeliverAt(match kind {
                0 => Due::In(Duration::from_millis(millis)),
                1 => Due::At(millis),
                _ => return None,
            })
        }
        _ => return None,
    })
}

/// The options of a `SUBSCRIBE`, `SERVE`, `PUBLISH`, `REQUEST` or `ASK` frame, taken from its fields.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Messages and bytes of the window.
    pub window: Option<(u32, u64)>,
    /// What happens when the window is used up.
    pub policy: Policy,
    /// The queue group.
    pub group: Option<&'a str>,
    /// The longest time to be parked.
    pub block_limit: Option<Duration>,
    /// The time left.
    pub deadline: Option<Duration>,
    /// How the topic is shared.
    pub mode: ServeMode,
    /// Whether there are further topics.
    pub several_topics: bool,
    /// How sure a publish is to be.
    pub quality: Quality,
    /// Where a subscription begins in its stream; `None` where it is to none.
    pub start: Option<Start>,
    /// How long a publish is of use.
    pub expires: Option<Duration>,
    /// When a publish is to be delivered; `None` for at once.
    pub deliver_at: Option<Due>,
}

impl<'a> Options<'a> {
    /// Reads the options among the fields.
    ///
    /// # Errors
    /// A [`Refusal`] for a section that is cut off, a window over the limits or of nothing, and a
    /// group name that is empty or too long.
    pub fn read(section: &'a [u8]) -> Result<Self, Refusal> {
        let mut options = Self::default();
        if section.is_empty() {
            return Ok(options);
        }
        if !well_formed(section) {
            return Err(Refusal::invalid("the field section of the frame is cut off"));
        }
        for field in iterate(section) {
            match field {
                Field::Window { messages, bytes } => {
                    if messages == 0 || bytes == 0 {
                        return Err(Refusal::invalid("a window of 0 would never let a message pass"));
                    }
                    if messages > limits::WINDOW_MESSAGES_MAX || bytes > limits::WINDOW_BYTES_MAX {
                        return Err(Refusal::limit(format!(
                            "a window of {messages} messages and {bytes} bytes; at most {} and {}",
                            limits::WINDOW_MESSAGES_MAX,
                            limits::WINDOW_BYTES_MAX
                        )));
                    }
                    options.window = Some((messages, bytes));
                }
                Field::Group(name) => {
                    if name.is_empty() || name.len() > limits::GROUP_NAME_LIMIT {
                        return Err(Refusal::invalid(format!(
                            "a group's name has 1 to {} bytes, not {}",
                            limits::GROUP_NAME_LIMIT,
                            name.len()
                        )));
                    }
                    options.group = Some(name);
                }
                Field::Policy(policy) => options.policy = policy,
                Field::BlockLimit(limit) => options.block_limit = Some(limit),
                Field::Deadline(left) => options.deadline = Some(left),
                Field::Mode(mode) => options.mode = mode,
                Field::Topic(_) => options.several_topics = true,
                Field::Quality(quality) => options.quality = quality,
                Field::Start(start) => options.start = Some(start),
                Field::Expires(left) => options.expires = Some(left),
                Field::DeliverAt(due) => options.deliver_at = Some(due),
                // An option that is known but cannot be read must not be taken for its default.
                Field::Unknown(tag @ (WINDOW..=START | EXPIRES | DELIVER_AT)) => {
                    return Err(Refusal::invalid(format!("the value of option {tag} cannot be read")));
                }
                Field::Header { .. } | Field::Origin(_) | Field::Position(_) | Field::Unknown(_) => {}
            }
        }
        Ok(options)
    }
}
