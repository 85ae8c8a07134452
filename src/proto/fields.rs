//! The optional parts of a frame.
//!
//! The field section is a row of `tag (u8) | length (u16) | value`. A reader skips tags that it does
//! not know, so that a later version can add some. What a publisher puts there reaches its
//! subscribers unchanged.

mod values;

use std::time::Duration;

pub use self::values::{
    Attempt, DeliveryRules, Due, Epoch, GapReason, MessageId, Policy, Position, Quality, ServeMode, Start,
};
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
const CONSUMER: u8 = 13;
const DELIVERY: u8 = 14;
const ATTEMPT: u8 = 15;
const MESSAGE_ID: u8 = 16;
const EPOCH: u8 = 17;
const LIMIT: u8 = 18;
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

    /// The durable consumer that a subscription reads its stream for.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn consumer(&mut self, name: &str) -> BusResult<()> {
        self.push(CONSUMER, &[name.as_bytes()])
    }

    /// How messages are sent again that a subscription does not acknowledge.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn delivery(&mut self, rules: DeliveryRules) -> BusResult<()> {
        let wait = u32::try_from(rules.ack_wait.as_millis()).unwrap_or(u32::MAX).to_le_bytes();
        self.push(DELIVERY, &[&wait, &rules.max_deliver.to_le_bytes(), &rules.max_pending.to_le_bytes()])
    }

    /// By what a message is acknowledged, and how often it was tried.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn attempt(&mut self, attempt: Attempt) -> BusResult<()> {
        let Attempt { token, number, redelivered } = attempt;
        self.push(ATTEMPT, &[&token.to_le_bytes(), &number.to_le_bytes(), &[u8::from(redelivered)]])
    }

    /// By what a publish is known if it is sent again.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn message_id(&mut self, id: MessageId) -> BusResult<()> {
        self.push(MESSAGE_ID, &[&id.publisher, &id.number.to_le_bytes()])
    }

    /// The epoch of the stream that a subscription began to read.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn epoch(&mut self, epoch: Epoch) -> BusResult<()> {
        self.push(EPOCH, &[&epoch])
    }

    /// How much of its stream a subscription reads: no more than there is when it begins, and no more than this. The last
    /// message may exceed the bytes.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub fn limit(&mut self, messages: u32, bytes: u64) -> BusResult<()> {
        self.push(LIMIT, &[&messages.to_le_bytes(), &bytes.to_le_bytes()])
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
        self.append_without(&[DEADLINE], fields)
    }

    /// The fields of a well-formed section, after those that are here, but for what says where and how far a stream is
    /// read.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub(crate) fn append_without_reading(&mut self, fields: &[u8]) -> BusResult<()> {
        self.append_without(&[START, EPOCH, LIMIT], fields)
    }

    /// The fields of a well-formed section, after those that are here, but for headers.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub(crate) fn append_without_headers(&mut self, fields: &[u8]) -> BusResult<()> {
        self.append_without(&[HEADER], fields)
    }

    /// The fields of a well-formed section, after those that are here, but for when it is due.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub(crate) fn append_without_due(&mut self, fields: &[u8]) -> BusResult<()> {
        self.append_without(&[DELIVER_AT], fields)
    }

    /// The fields of a well-formed section, after those that are here, but for topics.
    ///
    /// # Errors
    /// [`BusError::HeadersTooLarge`] when the section would exceed [`limits::FIELDS_LIMIT`].
    pub(crate) fn append_without_topics(&mut self, fields: &[u8]) -> BusResult<()> {
        self.append_without(&[TOPIC], fields)
    }

    fn append_without(&mut self, without: &[u8], fields: &[u8]) -> BusResult<()> {
        let mut rest = fields;
        while let Some((tag, _, after)) = split(rest) {
            if !without.contains(&tag) {
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
        self.bytes.reserve(3 + length);
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
    /// See [`FieldsBuilder::consumer`].
    Consumer(&'a str),
    /// See [`FieldsBuilder::delivery`].
    Delivery(DeliveryRules),
    /// See [`FieldsBuilder::attempt`].
    Attempt(Attempt),
    /// See [`FieldsBuilder::message_id`].
    MessageId(MessageId),
    /// See [`FieldsBuilder::epoch`].
    Epoch(Epoch),
    /// See [`FieldsBuilder::limit`].
    Limit {
        /// Messages that may come.
        messages: u32,
        /// Bytes of their frames after which no more come.
        bytes: u64,
    },
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

/// What a message is acknowledged by, and where it lies, if it is to be acknowledged.
pub(crate) fn attempt_of(section: &[u8]) -> Option<(u64, Attempt)> {
    let (mut position, mut attempt) = (None, None);
    for field in iterate(section) {
        match field {
            Field::Position(last) => position = Some(last.sequence),
            Field::Attempt(last) => attempt = Some(last),
            _ => {}
        }
    }
    position.zip(attempt)
}

/// Where to go on in a stream, behind what was read.
pub(crate) fn next_of(section: &[u8]) -> Option<u64> {
    iterate(section).find_map(|field| match field {
        Field::Start(Start::From(sequence)) => Some(sequence),
        _ => None,
    })
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
        QUALITY => Field::Quality(Quality::from_u8(reader.u8().ok()?)?),
        START => {
            let kind = reader.u8().ok()?;
            Field::Start(Start::from_wire(kind, reader.u64().ok()?)?)
        }
        POSITION => {
            let (sequence, time) = (reader.u64().ok()?, reader.u64().ok()?);
            Field::Position(Position { sequence, time, replayed: reader.u8().ok()? != 0 })
        }
        CONSUMER => Field::Consumer(std::str::from_utf8(value).ok()?),
        DELIVERY => Field::Delivery(DeliveryRules {
            ack_wait: Duration::from_millis(u64::from(reader.u32().ok()?)),
            max_deliver: reader.u32().ok()?,
            max_pending: reader.u32().ok()?,
        }),
        ATTEMPT => {
            let (token, number) = (reader.u64().ok()?, reader.u32().ok()?);
            Field::Attempt(Attempt { token, number, redelivered: reader.u8().ok()? != 0 })
        }
        MESSAGE_ID => {
            let publisher = *reader.bytes(16).ok()?.first_chunk()?;
            Field::MessageId(MessageId { publisher, number: reader.u64().ok()? })
        }
        EPOCH => Field::Epoch(*value.first_chunk()?),
        LIMIT => Field::Limit { messages: reader.u32().ok()?, bytes: reader.u64().ok()? },
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
    /// The durable consumer that a subscription reads for.
    pub consumer: Option<&'a str>,
    /// How messages are sent again that are not acknowledged.
    pub delivery: DeliveryRules,
    /// By what a publish is known if it is sent again.
    pub message_id: Option<MessageId>,
    /// The epoch of the stream that its start is meant for.
    pub epoch: Option<Epoch>,
    /// Messages and bytes that it reads of what is there; `None` where it goes on with what comes.
    pub limit: Option<(u32, u64)>,
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
                Field::Consumer(name) => options.consumer = Some(name),
                Field::Delivery(rules) => options.delivery = checked(rules)?,
                Field::MessageId(id) => options.message_id = Some(id),
                Field::Epoch(epoch) => options.epoch = Some(epoch),
                Field::Limit { messages, bytes } => {
                    if messages == 0 || bytes == 0 {
                        return Err(Refusal::invalid("a limit of 0 would never let a message pass"));
                    }
                    options.limit = Some((messages, bytes));
                }
                Field::Expires(left) => options.expires = Some(left),
                Field::DeliverAt(due) => options.deliver_at = Some(due),
                // An option that is known but cannot be read must not be taken for its default.
                Field::Unknown(
                    tag @ (WINDOW..=START | CONSUMER | DELIVERY | MESSAGE_ID..=LIMIT | EXPIRES | DELIVER_AT),
                ) => {
                    return Err(Refusal::invalid(format!("the value of option {tag} cannot be read")));
                }
                Field::Header { .. }
                | Field::Origin(_)
                | Field::Position(_)
                | Field::Attempt(_)
                | Field::Unknown(_) => {}
            }
        }
        Ok(options)
    }
}

/// Rules that can be kept.
fn checked(rules: DeliveryRules) -> Result<DeliveryRules, Refusal> {
    let wait = limits::ACK_WAIT_MIN..=limits::ACK_WAIT_MAX;
    if !wait.contains(&rules.ack_wait) {
        return Err(Refusal::invalid(format!(
            "an acknowledgement is waited for {:?} to {:?}, not {:?}",
            limits::ACK_WAIT_MIN,
            limits::ACK_WAIT_MAX,
            rules.ack_wait
        )));
    }
    if rules.max_deliver == 0 || !(1..=limits::CONSUMER_PENDING_MAX).contains(&rules.max_pending) {
        return Err(Refusal::invalid(format!(
            "messages are delivered at least once, and 1 to {} at a time are not acknowledged; not {} times and {}",
            limits::CONSUMER_PENDING_MAX,
            rules.max_deliver,
            rules.max_pending
        )));
    }
    Ok(rules)
}
