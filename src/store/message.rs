//! What is stored, and what is read.

use bytes::Bytes;

use crate::limits;
use crate::topic::TopicPattern;

/// A message that is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// The topic, or the pattern that it was published to.
    pub topic: TopicPattern,
    /// The field section of its frame, with its headers.
    pub fields: Bytes,
    /// The payload.
    pub payload: Bytes,
    /// When it is published, by the clock as it is now: milliseconds since 1970 (UTC). It is stored with the time of the message before it where that is
    /// later, but by no more than [`CLOCK_AHEAD`](crate::limits::CLOCK_AHEAD).
    pub time: u64,
    /// When it is of no use any more, likewise; it is then as good as dropped.
    pub expires: Option<u64>,
    /// By which it is known if its publisher sends it again.
    pub id: Option<MessageId>,
}

impl NewMessage {
    /// Bytes that it counts as towards what a stream keeps; see [`weight`].
    #[must_use]
    pub fn weight(&self) -> u64 {
        weight(self.topic.as_str().len(), self.fields.len() + self.payload.len())
    }
}

/// Bytes that a message counts as towards what a stream keeps, of so many bytes of its topic, and of its fields and payload
/// together. It is what the message takes of a disk, give or take a tenth, so that [`Retention::bytes`] bounds that:
/// topic, fields, payload, [`limits::STORED_OVERHEAD`], and what its row leaves empty of the pages of a file, which is
/// half a page of 4 KiB where there is one row on each. All stores count so, and keep the same messages.
///
/// [`Retention::bytes`]: super::Retention::bytes
///
/// # Examples
/// ```
/// use whispeer::store::weight;
///
/// assert_eq!(weight(5, 100), 5 + 100 + 48 + 2);
/// // Two of these do not fit on a page.
/// assert_eq!(weight(5, 2_100), 5 + 2_100 + 48 + 1_966);
/// ```
#[must_use]
pub fn weight(topic: usize, content: usize) -> u64 {
    (topic + content + limits::STORED_OVERHEAD + row::unused(content)) as u64
}

/// How SQLite lays rows out; see "B-tree Pages" in <https://www.sqlite.org/fileformat2.html>.
mod row {
    /// Bytes of a page: SQLite's default.
    const PAGE: usize = 4096;
    /// Of them without the head of a leaf: for cells.
    const LEAF: usize = PAGE - 8;
    /// The longest row that lies on a leaf as a whole.
    const WHOLE: usize = PAGE - 35;
    /// The least of a longer one that does.
    const PART: usize = (PAGE - 12) * 32 / 255 - 23;
    /// The rest of it lies on pages of its own; this is what each of them takes.
    const FURTHER: usize = PAGE - 4;
    /// What a row has beside fields and payload: the kinds of its columns, its topic and its time.
    const COLUMNS: usize = 17;
    /// What a cell has beside that: its id, its length and its place.
    const CELL: usize = 13;

    /// Bytes that a row with so much content leaves empty, if those before and after it are as long.
    pub(super) fn unused(content: usize) -> usize {
        let length = content.saturating_add(COLUMNS);
        if length <= WHOLE {
            return beside(length + CELL);
        }
        let fitting = PART + (length - PART) % FURTHER;
        let local = if fitting <= WHOLE { fitting } else { PART };
        let rest = length - local;
        let pages = rest.div_ceil(FURTHER);
        (pages * PAGE - rest) + beside(local + CELL + 4)
    }

    /// A cell's part of what is left of its page.
    fn beside(cell: usize) -> usize {
        (PAGE / (LEAF / cell).max(1)).saturating_sub(cell)
    }
}

/// By which a message is known if it is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// Its publisher, who has drawn this at random.
    pub publisher: [u8; 16],
    /// Its number among all of the publisher.
    pub number: u64,
}

/// A message that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its place in the stream, from 1.
    pub sequence: u64,
    /// The topic, or the pattern that it was published to.
    pub topic: TopicPattern,
    /// The field section of its frame, with its headers.
    pub fields: Bytes,
    /// The payload.
    pub payload: Bytes,
    /// When it was published: milliseconds since 1970 (UTC).
    pub time: u64,
    /// When it is of no use any more, likewise.
    pub expires: Option<u64>,
}

/// A message that is kept until it is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delayed {
    /// Its number among those of its stream, from 1, in the order in which they came.
    pub id: u64,
    /// When it is due: milliseconds since 1970 (UTC).
    pub due: u64,
    /// In whose name it is added then, as it was given.
    pub author: Bytes,
    /// Whom it counts for, as it was given.
    pub owner: Bytes,
    /// The message. Its time is when it is due.
    pub message: NewMessage,
}

#[cfg(feature = "sqlite")]
impl Delayed {
    /// Bytes that it counts as.
    pub(super) fn weight(&self) -> u64 {
        self.message.weight() + (self.author.len() + self.owner.len()) as u64
    }
}

/// Which messages are to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The sequence to begin with.
    pub from: u64,
    /// Only those whose topic meets this.
    pub pattern: Option<TopicPattern>,
    /// Messages that are returned at the most.
    pub messages: usize,
    /// Bytes after which no more are returned: at least one message is.
    pub bytes: u64,
    /// The time; what has expired by then is left out.
    pub now: u64,
}

impl Reading {
    /// A page of the ordinary size from this sequence on, of all that has not expired by `now`.
    #[must_use]
    pub fn from(from: u64, now: u64) -> Self {
        Self {
            from,
            pattern: None,
            messages: limits::STORE_PAGE_MESSAGES,
            bytes: limits::STORE_PAGE_BYTES,
            now,
        }
    }

    /// Only of topics that this meets.
    #[must_use]
    pub fn of(mut self, pattern: TopicPattern) -> Self {
        self.pattern = Some(pattern);
        self
    }

    /// At most so many messages.
    #[must_use]
    pub fn at_most(mut self, messages: usize) -> Self {
        self.messages = messages;
        self
    }

    /// Whether a message of this topic belongs to it.
    pub(super) fn takes(&self, topic: &TopicPattern) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.meets(topic))
    }
}

/// Some messages of a stream, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The messages.
    pub messages: Vec<Message>,
    /// The sequence to go on from. It is behind the last that there is once all have been read.
    pub next: u64,
    /// The first sequence that retention has left.
    pub first: u64,
    /// The first sequence that is still to be assigned.
    pub end: u64,
}

impl Page {
    /// Whether there was more to be read at that time.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.next < self.end
    }
}

/// Where a reader begins.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// With what comes next.
    New,
    /// With the last so many messages, of the topics that the pattern meets.
    Last(u64, Option<TopicPattern>),
    /// With the oldest that there is.
    All,
    /// With this sequence. The first of a stream is 1, and 0 counts as that.
    From(u64),
    /// With the first that was published then or later: milliseconds since 1970 (UTC). Where the
    /// clock was ahead meanwhile and has been set right, it may be the first that was stored by the wrong one; nothing is missed.
    Since(u64),
}
