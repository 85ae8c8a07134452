//! What can be seen of a bus from outside after a step. The system tells it, and the reference has to explain it.

use std::collections::VecDeque;

use super::steps::{CONSUMERS, CURSORS, SEATS};

/// A message that an application was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) sequence: u64,
    pub(super) topic: String,
    pub(super) text: String,
    /// Which attempt it is, from 1.
    pub(super) attempt: u32,
    pub(super) redelivered: bool,
}

/// What a plain subscription was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read {
    Message {
        sequence: u64,
        topic: String,
        text: String,
        replayed: bool,
    },
    /// Messages that retention has dropped before.
    Gap(u64),
}

/// What became of something that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// There is none.
    None,
    Done,
    /// So many were changed.
    Count(u64),
    Busy,
    Refused,
    Page(Page),
}

/// A page of what the stream has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) messages: Vec<(u64, String, String)>,
    pub(super) next: Option<u64>,
    pub(super) end: u64,
    pub(super) dropped: u64,
}

/// A dead letter: its topic, its text, and what its headers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) consumer: String,
    pub(super) text: String,
    pub(super) topic: String,
    pub(super) reason: String,
    pub(super) attempts: String,
    pub(super) sequence: String,
}

/// What one subscription of a consumer got.
#[derive(Debug, Clone, Default)]
pub(super) struct Got {
    /// Messages that arrived, those included that its application was not given.
    pub(super) arrived: u64,
    /// What its application was given.
    pub(super) given: VecDeque<Given>,
}

/// A consumer, as `$bus/consumers` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) subscriptions: usize,
    pub(super) floor: u64,
    pub(super) behind: u64,
    pub(super) pending: u64,
    pub(super) again: u64,
}

/// All that can be seen since the last look.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) got: [Got; SEATS.len()],
    /// By consumers: messages that were told of as being of no use any more, and as dropped by retention.
    pub(super) gaps: [(u64, u64); CONSUMERS.len()],
    pub(super) read: [Vec<Read>; CURSORS],
    /// Acknowledgements that were answered: by whose, of which message, and whether they are kept.
    pub(super) answered: Vec<(usize, u64, bool)>,
    pub(super) rows: [Option<Row>; CONSUMERS.len()],
    /// Messages of the stream, their bytes, the first sequence and the one that comes next.
    pub(super) stream: (u64, u64, u64, u64),
    pub(super) messages: Vec<(u64, String, String)>,
    pub(super) letters: Vec<(u64, Letter)>,
}
