//! The fixed header of every frame.

use std::fmt;

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 24;

/// Bytes at the start of the header that hold the length of what follows them.
pub const LENGTH_PREFIX: usize = 4;

/// What a frame is. The numbers are the wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// Client: the first frame; see [`Hello`](super::Hello).
    Hello = 1,
    /// Bus: the answer to `HELLO`; see [`Welcome`](super::Welcome).
    Welcome = 2,
    /// Either: the last frame; payload is a [`Refusal`](super::Refusal) that says why.
    Goodbye = 3,
    /// Either: asks for a `PONG` with the same sequence. A client's `PING` is answered after every
    /// earlier frame of that client has been routed, so that it also is the flush barrier.
    Ping = 4,
    /// Either: the answer to `PING`.
    Pong = 5,
    /// Either: room for more; see [`Lane`] for whose.
    Credit = 6,
    /// Bus: a call succeeded. `flags` is the kind that is answered; see [`Header::answers`].
    Accepted = 7,
    /// Bus: a call failed. `flags` is the kind that is answered; payload is a `Refusal`.
    Failed = 8,
    /// Bus: no new work is taken; finish and go elsewhere.
    Draining = 9,
    /// Either, where the session can be resumed: `sequence` bytes of the link have been received, this side's
    /// first among them.
    Confirm = 10,

    /// Client: begins the subscription `id` to the pattern in `topic`.
    Subscribe = 16,
    /// Client: ends the subscription `id`; answered by `ENDED`.
    Unsubscribe = 17,
    /// Client: a message; `sequence` counts the session's publishes from 1.
    Publish = 18,
    /// Bus: a message for subscription `id`; `sequence` counts its matches from 1.
    Deliver = 19,
    /// Bus: matches of subscription `id` were dropped; `sequence` is the last of them. Payload: how
    /// many (u64) and why (u8).
    Gap = 20,
    /// Bus: subscription or serving `id` has ended; `sequence` is its final match. `flags` is the
    /// kind of frame that began it; payload is empty or a `Refusal`.
    Ended = 21,
    /// Client: what became of the message with the token `sequence` that subscription `id` was handed; see [`Flags`]. Payload:
    /// further tokens (u64 each), or for a refusal the time until the next attempt in milliseconds (u32).
    Ack = 24,

    /// Client: what to publish when the session ends without `GOODBYE`, as a `PUBLISH` has it; without a topic
    /// nothing. `id` is for the answer.
    Will = 25,

    /// Client: begins the serving `id` of the topic.
    Serve = 32,
    /// Client: ends the serving `id`; answered by `ENDED`.
    Unserve = 33,
    /// Client: request `id` to the server of the topic; `sequence` is the time left in microseconds.
    Request = 34,
    /// Bus: a request for serving `id`; `sequence` is the token to reply with.
    Ask = 35,
    /// Client: the reply to the request with token `sequence`.
    Reply = 36,
    /// Bus: a reply to request `id`.
    Answer = 37,
    /// Client: request `id` is no longer wanted. Bus: the request with token `sequence` is not.
    Cancel = 38,
}

impl Kind {
    /// The kind with that number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::Welcome,
            3 => Self::Goodbye,
            4 => Self::Ping,
            5 => Self::Pong,
            6 => Self::Credit,
            7 => Self::Accepted,
            8 => Self::Failed,
            9 => Self::Draining,
            10 => Self::Confirm,
            16 => Self::Subscribe,
            17 => Self::Unsubscribe,
            18 => Self::Publish,
            19 => Self::Deliver,
            20 => Self::Gap,
            21 => Self::Ended,
            24 => Self::Ack,
            25 => Self::Will,
            32 => Self::Serve,
            33 => Self::Unserve,
            34 => Self::Request,
            35 => Self::Ask,
            36 => Self::Reply,
            37 => Self::Answer,
            38 => Self::Cancel,
            _ => return None,
        })
    }
}

/// The flag bits of a frame; what a bit means depends on the [`Kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// `PUBLISH`: answer with `ACCEPTED` and the number of matches. `ACK`: answer when it is kept.
    pub const ACKNOWLEDGE: Self = Self(1);
    /// `PUBLISH`: it is in its stream already; only of a session of the bus's own.
    pub(crate) const STORED: Self = Self(2);
    /// `SUBSCRIBE`: leave out what this session publishes.
    pub const NO_ECHO: Self = Self(1);
    /// `ACK`: it was not dealt with; send it again.
    pub const REFUSE: Self = Self(2);
    /// `ACK`: it is being dealt with; wait longer.
    pub const PROGRESS: Self = Self(4);
    /// `ACK`: `sequence` is the message's place in its stream; answer when it is dealt with.
    pub const WHEN_DONE: Self = Self(8);
    /// `REPLY`, `ANSWER`: more replies to this request follow.
    pub const MORE: Self = Self(1);
    /// `REPLY`, `ANSWER`: the payload is a [`Refusal`](super::Refusal).
    pub const ERROR: Self = Self(2);
    /// `ANSWER`: the end of a streaming or scattered reply; carries no reply of its own.
    pub const END: Self = Self(4);
    /// `REQUEST`, `ASK`: the requester takes several replies, as far as its window goes.
    pub const STREAM: Self = Self(1);
    /// `REQUEST`: the topic is a pattern; ask one server of each topic that it meets.
    pub const SCATTER: Self = Self(2);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Whose window a `CREDIT` frame widens (its `flags`).
///
/// In a `CREDIT` frame `sequence` names the window, `id` is the number of messages, and the payload
/// the number of bytes (u64).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Lane {
    /// Bus: the session's publishes; `sequence` is 0.
    Publish = 0,
    /// Client: subscription `sequence`.
    Subscription = 1,
    /// Client: serving `sequence`.
    Serving = 2,
    /// Client to bus: replies to its request `sequence`; bus to client: to the request with that token.
    Stream = 3,
}

impl Lane {
    /// The lane with that number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Publish,
            1 => Self::Subscription,
            2 => Self::Serving,
            3 => Self::Stream,
            _ => return None,
        })
    }
}

/// The 24 bytes that every frame begins with, little-endian:
///
/// ```text
///  0               4    5    6         8         10        12
///  +---------------+----+----+---------+---------+---------+
///  | length        |kind|flag| topic   | fields  | 0       |
///  +---------------+----+----+---------+---------+---------+
/// 12               16                            24
///  +---------------+-----------------------------+
///  | id            | sequence                    |  fields | topic | payload
///  +---------------+-----------------------------+
/// ```
///
/// `length` counts the bytes after itself, so a frame has `length + 4` bytes; `topic` and `fields` are
/// the lengths of these parts, and the payload is the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Flag bits, the lane of a credit, or the kind that an answer answers.
    pub flags: Flags,
    /// The subscription, serving or request that the frame belongs to.
    pub id: u32,
    /// Publish or delivery sequence, request token, or time left; see [`Kind`].
    pub sequence: u64,
}

impl Header {
    /// A header without flags.
    #[must_use]
    pub const fn new(kind: Kind, id: u32, sequence: u64) -> Self {
        Self { kind, flags: Flags::NONE, id, sequence }
    }

    /// The same header with these flags.
    #[must_use]
    pub const fn flagged(mut self, flags: Flags) -> Self {
        self.flags = flags;
        self
    }

    /// The header of an answer (`ACCEPTED`, `FAILED`, `ENDED`) to a frame of `kind`.
    #[must_use]
    pub const fn answering(answer: Kind, kind: Kind, id: u32, sequence: u64) -> Self {
        Self { kind: answer, flags: Flags(kind as u8), id, sequence }
    }

    /// Which kind of frame this answer answers.
    #[must_use]
    pub fn answers(&self) -> Option<Kind> {
        Kind::from_u8(self.flags.0)
    }

    /// The bytes of this header before parts of these lengths.
    ///
    /// The lengths must fit: topics and fields have 16 bits, the whole frame 32. Callers have checked
    /// them against the limits, which are far below.
    #[inline]
    #[must_use]
    pub fn encode(&self, fields: usize, topic: usize, payload: usize) -> [u8; HEADER_LEN] {
        debug_assert!(fields <= usize::from(u16::MAX) && topic <= usize::from(u16::MAX));
        let length = (HEADER_LEN - LENGTH_PREFIX + fields + topic + payload) as u32;
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&length.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = self.flags.0;
        bytes[6..8].copy_from_slice(&(topic as u16).to_le_bytes());
        bytes[8..10].copy_from_slice(&(fields as u16).to_le_bytes());
        bytes[12..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }
}

impl Header {
    /// Gives an encoded frame another id and sequence.
    #[inline]
    pub(crate) fn renumber(frame: &mut [u8], id: u32, sequence: u64) {
        if let Some(header) = frame.first_chunk_mut::<HEADER_LEN>() {
            header[12..16].copy_from_slice(&id.to_le_bytes());
            header[16..24].copy_from_slice(&sequence.to_le_bytes());
        }
    }
}

/// Where the parts of a frame lie, as its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) header: Header,
    pub(crate) fields: usize,
    pub(crate) topic: usize,
    /// Bytes of the whole frame.
    pub(crate) total: usize,
}

impl Layout {
    /// Reads a header. `Ok(None)` means that `bytes` does not hold all 24 of its bytes yet.
    #[inline]
    pub(crate) fn decode(bytes: &[u8], limit: usize) -> Result<Option<Self>, MalformedFrame> {
        let Some(bytes) = bytes.first_chunk::<HEADER_LEN>() else {
            // A length that is out of range is told at once, not after 20 more bytes.
            return match bytes.first_chunk::<LENGTH_PREFIX>() {
                Some(prefix) => total_length(*prefix, limit).map(|_| None),
                None => Ok(None),
            };
        };
        let [l0, l1, l2, l3, kind, flags, t0, t1, f0, f1, r0, r1, i0, i1, i2, i3, sequence @ ..] = *bytes;
        let total = total_length([l0, l1, l2, l3], limit)?;
        let topic = usize::from(u16::from_le_bytes([t0, t1]));
        let fields = usize::from(u16::from_le_bytes([f0, f1]));
        if HEADER_LEN + fields + topic > total {
            return Err(MalformedFrame::Parts { total, parts: HEADER_LEN + fields + topic });
        }
        if [r0, r1] != [0, 0] {
            return Err(MalformedFrame::Reserved(u16::from_le_bytes([r0, r1])));
        }
        let kind = Kind::from_u8(kind).ok_or(MalformedFrame::UnknownKind(kind))?;
        let id = u32::from_le_bytes([i0, i1, i2, i3]);
        let sequence = u64::from_le_bytes(sequence);
        Ok(Some(Self { header: Header { kind, flags: Flags(flags), id, sequence }, fields, topic, total }))
    }
}

fn total_length(prefix: [u8; LENGTH_PREFIX], limit: usize) -> Result<usize, MalformedFrame> {
    // Saturating, for targets where a length of 32 bits reaches the end of the address space.
    let total = (u32::from_le_bytes(prefix) as usize).saturating_add(LENGTH_PREFIX);
    if total < HEADER_LEN {
        return Err(MalformedFrame::TooShort(total));
    }
    if total > limit {
        return Err(MalformedFrame::TooLong { total, limit });
    }
    Ok(total)
}

/// Why bytes are not a frame. It ends the connection they came on, and only that.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MalformedFrame {
    /// The length is less than that of a header.
    TooShort(usize),
    /// The length is over the limit.
    TooLong {
        /// Bytes of the frame.
        total: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The parts are longer than the frame.
    Parts {
        /// Bytes of the frame.
        total: usize,
        /// Bytes of header, fields and topic.
        parts: usize,
    },
    /// The reserved bytes are not zero.
    Reserved(u16),
    /// No such kind of frame.
    UnknownKind(u8),
    /// The content does not have the form that its kind asks for.
    Content(&'static str),
}

impl fmt::Display for MalformedFrame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort(total) => write!(formatter, "a frame of {total} bytes is shorter than its header"),
            Self::TooLong { total, limit } => {
                write!(formatter, "a frame of {total} bytes is over the limit of {limit}")
            }
            Self::Parts { total, parts } => {
                write!(formatter, "a frame of {total} bytes claims parts of {parts} bytes")
            }
            Self::Reserved(value) => write!(formatter, "reserved header bytes are {value}, not 0"),
            Self::UnknownKind(kind) => write!(formatter, "unknown kind of frame {kind}"),
            Self::Content(what) => formatter.write_str(what),
        }
    }
}

impl std::error::Error for MalformedFrame {}
