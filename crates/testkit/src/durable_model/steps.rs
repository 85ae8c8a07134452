//! What may happen: what is drawn for a case, and shrunk when the case fails.
//!
//! A step names what it is about by a number that is taken modulo what there is, so that every step can be done in every
//! state, and whatever proptest leaves out of a case, the rest of it is one.

use proptest::prelude::*;

/// The topics that messages are published to.
pub(super) const TOPICS: [&str; 3] = ["log/a", "log/b", "log/c/d"];

/// The consumers: their names, and the topics that they read.
pub(super) const CONSUMERS: [(&str, &str); 3] = [("billing", "log/**"), ("workers", "log/a"), ("", "log/**")];

/// The one that several subscriptions share. Of the others there is one at a time.
pub(super) const GROUP: usize = 1;

/// The one that lives with its subscription.
pub(super) const NAMELESS: usize = 2;

/// The subscriptions that there may be, by the consumers that they take part in.
pub(super) const SEATS: [usize; 6] = [0, 0, GROUP, GROUP, GROUP, NAMELESS];

/// The plain subscriptions that read the stream.
pub(super) const CURSORS: usize = 2;

/// What the stream keeps; times are seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kept {
    pub(super) age: Option<u64>,
    pub(super) messages: Option<u64>,
    pub(super) bytes: Option<u64>,
    pub(super) topic_messages: Option<u64>,
    pub(super) topic_bytes: Option<u64>,
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum Begin {
    All,
    New,
    From(u64),
    Last(u64),
    LastPerTopic,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Leaving {
    /// The subscription is dropped.
    Dropped,
    /// Its client is closed while it has it.
    Closed,
    /// Its process is gone, and nobody says so, where it has a link that can break; otherwise as `Closed`.
    Killed,
}

/// One thing that happens. Times are seconds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// So many messages, at a quality from 0 to 2.
    Publish {
        topic: usize,
        count: u64,
        quality: u8,
        ttl: Option<u64>,
    },
    Delay {
        topic: usize,
        delay: u64,
        ttl: Option<u64>,
    },
    /// A message with an id, which may have been published before.
    Identified {
        topic: usize,
        number: u64,
    },
    /// Somebody comes, and may be sent so many messages that it has not taken.
    Join {
        seat: usize,
        begin: Begin,
        window: u32,
    },
    Leave {
        seat: usize,
        how: Leaving,
    },
    /// Takes nothing any more, until it does.
    Rest {
        seat: usize,
    },
    Take {
        seat: usize,
    },
    Ack {
        seat: usize,
        which: usize,
    },
    Nack {
        seat: usize,
        which: usize,
        delay: Option<u64>,
    },
    InProgress {
        seat: usize,
        which: usize,
    },
    Pass {
        seconds: u64,
    },
    /// The bus ends, and another begins on the same store.
    Restart,
    Open {
        cursor: usize,
        begin: Begin,
        pattern: usize,
    },
    Close {
        cursor: usize,
    },
    Page {
        begin: Begin,
        pattern: usize,
        limit: u32,
    },
    /// Of all dead letters, or of one of them.
    Redrive {
        which: Option<usize>,
    },
    Discard {
        which: Option<usize>,
    },
    /// Forgets the position of a consumer.
    Remove {
        consumer: usize,
    },
}

/// The patterns of those that read without acknowledging.
pub(super) const PATTERNS: [&str; 3] = ["log/**", "log/*", "log/b"];

fn seldom(values: std::ops::Range<u64>) -> impl Strategy<Value = Option<u64>> {
    prop::option::weighted(0.25, values)
}

pub(super) fn kept() -> impl Strategy<Value = Kept> {
    let parts = (seldom(3..40), seldom(2..20), seldom(150..1_500), seldom(1..6), seldom(100..600));
    parts.prop_map(|(age, messages, bytes, topic_messages, topic_bytes)| Kept {
        age,
        messages,
        bytes,
        topic_messages,
        topic_bytes,
    })
}

fn begin() -> impl Strategy<Value = Begin> {
    prop_oneof![
        4 => Just(Begin::All),
        2 => Just(Begin::New),
        2 => (1..30_u64).prop_map(Begin::From),
        2 => (1..6_u64).prop_map(Begin::Last),
    ]
}

/// Where those begin who do not acknowledge.
fn begin_to_read() -> impl Strategy<Value = Begin> {
    prop_oneof![5 => begin(), 1 => Just(Begin::LastPerTopic)]
}

fn step() -> impl Strategy<Value = Step> {
    let topic = || prop_oneof![2 => Just(0_usize), 2 => 1..TOPICS.len()];
    let seat = || 0..SEATS.len();
    let which = || 0..4_usize;
    let window = prop_oneof![Just(1_u32), Just(1024_u32)];
    let leaving = prop_oneof![Just(Leaving::Dropped), Just(Leaving::Closed), Just(Leaving::Killed)];
    let publish = (topic(), 1..4_u64, 0..3_u8, seldom(1..12));
    let publish =
        publish.prop_map(|(topic, count, quality, ttl)| Step::Publish { topic, count, quality, ttl });
    let delay = (topic(), 1..12_u64, seldom(1..6));
    let letter = || prop::option::of(0..4_usize);
    prop_oneof![
        14 => publish,
        3 => delay.prop_map(|(topic, delay, ttl)| Step::Delay { topic, delay, ttl }),
        4 => (topic(), 0..4_u64).prop_map(|(topic, number)| Step::Identified { topic, number }),
        8 => (seat(), begin(), window).prop_map(|(seat, begin, window)| Step::Join { seat, begin, window }),
        4 => (seat(), leaving).prop_map(|(seat, how)| Step::Leave { seat, how }),
        3 => seat().prop_map(|seat| Step::Rest { seat }),
        4 => seat().prop_map(|seat| Step::Take { seat }),
        12 => (seat(), which()).prop_map(|(seat, which)| Step::Ack { seat, which }),
        8 => (seat(), which(), prop::option::of(0..8_u64))
            .prop_map(|(seat, which, delay)| Step::Nack { seat, which, delay }),
        3 => (seat(), which()).prop_map(|(seat, which)| Step::InProgress { seat, which }),
        8 => (1..13_u64).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Restart),
        3 => (0..CURSORS, begin_to_read(), 0..PATTERNS.len())
            .prop_map(|(cursor, begin, pattern)| Step::Open { cursor, begin, pattern }),
        1 => (0..CURSORS).prop_map(|cursor| Step::Close { cursor }),
        3 => (begin_to_read(), 0..PATTERNS.len(), 1..8_u32)
            .prop_map(|(begin, pattern, limit)| Step::Page { begin, pattern, limit }),
        2 => letter().prop_map(|which| Step::Redrive { which }),
        1 => letter().prop_map(|which| Step::Discard { which }),
        1 => (0..NAMELESS).prop_map(|consumer| Step::Remove { consumer }),
    ]
}

/// What is done in a case. A step has ten milliseconds of its own in every second, so that there may be a hundred.
pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..60)
}
