//! The last messages of a stream, looked for in steps: others who read have their turns in between, and no step keeps the log
//! from being moved.

use tokio::sync::oneshot;

use super::queue::Taken;
use super::reader::{Extent, ThreadReader};
use super::schema::{row, sequence, signed};
use super::streams::Trouble;
use super::{rare, topics};
use crate::error::StoreError;
use crate::limits;
use crate::store::settings::Name;
use crate::topic::TopicPattern;

/// A search that is not over, and whom to tell.
pub(super) struct Searching {
    pub(super) search: Search,
    pub(super) answer: oneshot::Sender<Result<u64, StoreError>>,
    /// Its place among the calls that wait.
    pub(super) _taken: Taken,
}

/// A search for the first of the last so many messages.
pub(super) struct Search {
    stream: Name,
    count: u64,
    pattern: Option<TopicPattern>,
    /// How far it is, once it has begun.
    reached: Option<Reached>,
}

struct Reached {
    /// Messages that are still to be found.
    left: u64,
    /// The last that was found.
    found: Option<u64>,
    /// All from this sequence on have been looked at.
    before: u64,
    /// The end of the stream when it began.
    end: u64,
}

impl Search {
    pub(super) fn new(stream: Name, count: u64, pattern: Option<TopicPattern>) -> Self {
        Self { stream, count, pattern, reached: None }
    }

    /// Looks at [`limits::STORE_LOOKS`] messages. Returns where a reader begins, if that is known by then.
    pub(super) fn step(&mut self, reader: &mut ThreadReader) -> Result<Option<u64>, Trouble> {
        let stream = reader.stream(&self.stream)?;
        let Extent { id, first, end, messages } = stream;
        let begins = self.reached.is_none();
        if begins && self.count == 0 {
            return Ok(Some(end));
        }
        if begins && self.count >= messages {
            // These are all, and what is not of the pattern is left out by who reads.
            return Ok(Some(first));
        }
        // Without holes it is known where it is.
        if begins && self.pattern.is_none() && end - first == messages {
            return Ok(Some(end.saturating_sub(self.count).max(first)));
        }
        let reached = self.reached.get_or_insert(Reached { left: self.count, found: None, before: end, end });
        let is_over = reached.look(reader, (id, first), self.pattern.as_ref())?;
        if is_over {
            return Ok(Some(reached.found.unwrap_or(reached.end)));
        }
        if begins
            && let Some(pattern) = &self.pattern
            && let Some(few) = rare::topics(&reader.connection, id, pattern)?
        {
            // The index has them, unless they are too many to be taken from it at once.
            let most = limits::STORE_LOOKS as u64;
            if self.count <= most || topics::messages(&reader.connection, &few)? <= most {
                let count = usize::try_from(self.count.min(most)).unwrap_or(limits::STORE_LOOKS);
                return Ok(Some(rare::last(&reader.connection, &few, count)?.unwrap_or(end)));
            }
        }
        Ok(None)
    }
}

impl Reached {
    /// Goes back by one step; `true` if that was the last one.
    fn look(
        &mut self,
        reader: &mut ThreadReader,
        (stream, first): (i64, u64),
        pattern: Option<&TopicPattern>,
    ) -> Result<bool, Trouble> {
        let ThreadReader { connection, topics, .. } = reader;
        let mut find = connection.prepare_cached(
            "SELECT id, topic FROM messages WHERE id >= ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3",
        )?;
        let looks = limits::STORE_LOOKS;
        let mut rows = find.query([row(stream, first), row(stream, self.before), signed(looks as u64)])?;
        let mut looked_at = 0;
        while let Some(row) = rows.next()? {
            self.before = sequence(row.get(0)?);
            looked_at += 1;
            let takes = match pattern {
                Some(pattern) => pattern.meets(super::reader::topic(topics, connection, row.get(1)?)?),
                None => true,
            };
            if takes {
                (self.left, self.found) = (self.left - 1, Some(self.before));
            }
            if self.left == 0 {
                return Ok(true);
            }
        }
        Ok(looked_at < looks)
    }
}
