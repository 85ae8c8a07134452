//! Messages that no consumer could deal with.
//!
//! Each stream has a second one for them, `NAME.dead`, whose topics are `$dead/NAME/CONSUMER`, or `$dead/NAME` for
//! subscriptions without a durable consumer. They come there as they were, with headers that say why, in the same
//! transaction in which the consumer is done with them. They are read like any other stream, and go back the same way.
//!
//! Neither way is a publish: who only listens has had the message already, or was not there. So those who want to hear of
//! dead letters say where they begin, and what is put back reaches those who read its stream.

use std::sync::Arc;

use super::publishing::milliseconds;
use super::{Stream, StreamChanged};
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::dead_letter::{HEADERS, TOPIC, TOPICS};
use crate::proto::fields::{Field, FieldsBuilder, iterate};
use crate::store::{Change, Message, Name, NewMessage, Outcome, Reading, StoreError, StreamSettings};
use crate::topic::TopicPattern;

/// Why it is there.
const REASON: &str = "dead-reason";

/// How many attempts have failed.
const ATTEMPTS: &str = "dead-attempts";

/// Where it was in its stream. It is the last of the headers that are put before those of the message.
const SEQUENCE: &str = "dead-sequence";

/// Until when the message is of use: milliseconds since 1970 (UTC).
const EXPIRES: &str = "dead-expires";

/// That headers of the message are missing, as there was no room for them.
const CUT: &str = "dead-cut";

/// What is made for the dead letters of a stream.
///
/// # Errors
/// [`BusError::InvalidSettings`] for a name that is too long for that.
pub(super) fn settings(of: &StreamSettings) -> BusResult<StreamSettings> {
    let stream = &of.name;
    let invalid = |error: &dyn std::fmt::Display| BusError::InvalidSettings(error.to_string());
    let name = Name::new(&format!("{stream}.dead")).map_err(|error| invalid(&error))?;
    let pattern = TopicPattern::new(format!("{TOPICS}{stream}/**")).map_err(|error| invalid(&error))?;
    Ok(StreamSettings::new(name, vec![pattern]).retention(of.dead_letters))
}

/// A message as a dead letter.
///
/// # Errors
/// [`BusError::InvalidTopic`] for a consumer whose name is none; it has been checked before.
pub(super) fn letter(
    stream: &Stream,
    consumer: Option<&Name>,
    message: &Message,
    failed: u32,
    reason: &str,
) -> BusResult<NewMessage> {
    let name = &stream.name;
    let topic = match consumer {
        Some(consumer) => format!("{TOPICS}{name}/{consumer}"),
        None => format!("{TOPICS}{name}"),
    };
    let mut fields = FieldsBuilder::new();
    // There is room for what is put first with whatever is published to a stream. Another's store may have more.
    if message.fields.len() > limits::STORED_FIELDS_LIMIT {
        fields.header(CUT, "true")?;
    }
    if let Some(expires) = message.expires {
        fields.header(EXPIRES, &expires.to_string())?;
    }
    fields.header(TOPIC, message.topic.as_str())?;
    fields.header(REASON, reason)?;
    fields.header(ATTEMPTS, &failed.to_string())?;
    fields.header(SEQUENCE, &message.sequence.to_string())?;
    for field in iterate(&message.fields) {
        let _ = match field {
            Field::Header { name, value } => fields.header(name, value),
            Field::Origin(bus) => fields.origin(bus),
            _ => Ok(()),
        };
    }
    Ok(NewMessage {
        topic: TopicPattern::new(topic)?,
        fields: fields.finish().into(),
        payload: message.payload.clone(),
        time: milliseconds(),
        expires: None,
        id: None,
    })
}

/// A dead letter as the message that it was, to be published once more now; `None` where some of it is missing, or it is of no
/// use any more.
fn message(letter: &Message, now: u64) -> Option<NewMessage> {
    let (mut topic, mut expires) = (None, None);
    let mut fields = FieldsBuilder::new();
    let mut is_of_bus = true;
    for field in iterate(&letter.fields) {
        match field {
            Field::Header { name, value } if is_of_bus && name.starts_with(HEADERS) => match name {
                TOPIC => topic = TopicPattern::new(value).ok(),
                EXPIRES => expires = Some(value.parse().ok()?),
                CUT => return None,
                // What comes behind it has its name from the publisher.
                _ => is_of_bus = name != SEQUENCE,
            },
            Field::Header { name, value } => {
                is_of_bus = false;
                fields.header(name, value).ok()?;
            }
            Field::Origin(bus) => fields.origin(bus).ok()?,
            _ => {}
        }
    }
    Some(NewMessage {
        topic: topic?,
        fields: fields.finish().into(),
        payload: letter.payload.clone(),
        time: now,
        expires,
        id: None,
    })
    .filter(|_| expires.is_none_or(|expires| expires > now))
}

/// What becomes of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// They go back to their stream.
    Redrive,
    Drop,
}

/// How many dead letters went with that.
fn settled_by(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Appended { .. } => 1,
        Outcome::Done { dropped } => *dropped,
        Outcome::Known { .. } | Outcome::Delayed { .. } => 0,
    }
}

/// Sequences in their order, each once.
///
/// # Errors
/// [`BusError::LimitReached`] for more than there may be dead letters.
fn in_their_order(mut sequences: Vec<u64>) -> BusResult<Vec<u64>> {
    let (count, most) = (sequences.len(), limits::DEAD_LETTERS);
    if count as u64 > most {
        let what = format!(
            "a stream keeps {most} dead letters at the most, and {count} are named; name none for all of them"
        );
        return Err(BusError::LimitReached { what });
    }
    sequences.sort_unstable();
    sequences.dedup();
    Ok(sequences)
}

/// The first of these sequences from there on, or of all that there are.
fn next_of(which: Option<&[u64]>, from: u64) -> Option<u64> {
    let Some(which) = which else { return Some(from) };
    which.get(which.partition_point(|sequence| *sequence < from)).copied()
}

impl Stream {
    /// Gives dead letters back to their stream, or drops them: those with these sequences, or all. Returns how many it were.
    /// Each page of them that is given back is one transaction. What somebody else has given back or dropped meanwhile is his, and
    /// does not count. What the stream has no topics for any more stays, and what is of no use any more.
    ///
    /// # Errors
    /// [`BusError::LimitReached`] for more sequences than there may be dead letters, and [`BusError::NotStored`] with what the
    /// store says; what was done before stays done.
    pub(crate) async fn settle_dead(
        self: &Arc<Self>,
        which: Option<Vec<u64>>,
        fate: Fate,
    ) -> BusResult<StreamChanged> {
        let Some(dead) = &self.dead else { return Ok(StreamChanged { count: 0, left: 0 }) };
        let failed = |error: StoreError| BusError::NotStored {
            reason: format!("the dead letters of \"{}\": {error}", self.name),
        };
        let which = which.map(in_their_order).transpose()?;
        let mut settled = StreamChanged { count: 0, left: 0 };
        let Some(mut from) = next_of(which.as_deref(), 0) else { return Ok(settled) };
        // Those that come meanwhile are for the next time.
        let end = *dead.end.borrow();
        loop {
            let page = dead.store.read(dead.name.clone(), Reading::from(from, milliseconds())).await;
            let page = page.map_err(failed)?;
            let (mut dropped, mut moves) = (Vec::new(), Vec::new());
            for letter in &page.messages {
                let is_meant =
                    which.as_ref().is_none_or(|which| which.binary_search(&letter.sequence).is_ok());
                if !is_meant || letter.sequence >= end {
                    continue;
                }
                let sequence = letter.sequence;
                if fate == Fate::Drop {
                    dropped.push(sequence);
                    continue;
                }
                // As for what is published, which may go to several topics of which the stream has some.
                match message(letter, milliseconds()).filter(|message| self.meets(&message.topic)) {
                    Some(message) => {
                        moves.push(Change::Move { sequence, stream: self.name.clone(), message });
                    }
                    None => settled.left += 1,
                }
            }
            if !moves.is_empty() {
                let done = dead.commit(moves).await.map_err(failed)?;
                self.grow_by(&done);
                settled.count += done.iter().map(settled_by).sum::<u64>();
            }
            settled.count += dead.drop_these(dropped).await.map_err(failed)?;
            match next_of(which.as_deref(), page.next) {
                Some(next) if page.has_more() && next < end => from = next,
                _ => return Ok(settled),
            }
            // A store in memory answers at once, and there may be many pages.
            tokio::task::yield_now().await;
        }
    }

    /// Drops these messages. A store takes a part of them at a time. Returns how many were still there.
    async fn drop_these(&self, sequences: Vec<u64>) -> Result<u64, StoreError> {
        let mut dropped = 0;
        while dropped < sequences.len() as u64 {
            let outcomes = self.commit(vec![Change::Drop { sequences: sequences.clone() }]).await?;
            match outcomes.iter().map(settled_by).sum() {
                0 => break,
                more => dropped += more,
            }
        }
        Ok(dropped)
    }

    /// Tells readers of what was appended, or known: who has appended that may not have been told so yet.
    pub(crate) fn grow_by(&self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            if let Outcome::Appended { sequence } | Outcome::Known { sequence } = outcome {
                self.grow(*sequence);
            }
        }
    }
}
