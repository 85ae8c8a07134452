//! What waits to be sent on one link: a control lane and a data lane, and who is writing.

use std::io;

use tokio::time::Instant;

use super::{Batch, Form, Sent};
use crate::proto::{ContentRef, Header};

/// The outgoing side of one link. It lives under its owner's lock; the writing itself happens
/// outside of it, by whoever has something to send, one at a time:
///
/// ```text
/// step = lanes.begin()
/// while step is Write(batch): unlock; try_send(batch); lock; step = lanes.finish(batch, …)
/// ```
#[derive(Debug)]
pub(crate) struct Lanes {
    form: Form,
    control: Batch,
    data: Batch,
    /// What the link did not take; it goes before everything else.
    rest: Option<Batch>,
    /// Somebody is between `begin` and `finish`.
    writing: Option<usize>,
    /// The link was full; only the owner's task, which waits for room, begins again.
    blocked: bool,
    /// Nothing is taken or sent any more.
    closed: bool,
    /// Since when the link has taken nothing although something waits.
    stuck_since: Option<Instant>,
}

/// What the writer does next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing is left, or somebody else is at it.
    Idle,
    /// Send this, then call `finish`.
    Write(Batch),
    /// The link is full: the owner's task has to wait for room.
    Blocked,
}

impl Lanes {
    pub(crate) fn new(form: Form) -> Self {
        Self {
            form,
            control: Batch::new(form),
            data: Batch::new(form),
            rest: None,
            writing: None,
            blocked: false,
            closed: false,
            stuck_since: None,
        }
    }

    /// Adds a frame to the data lane; returns its size, or 0 when the lanes are closed.
    #[inline]
    pub(crate) fn data(&mut self, header: &Header, content: &ContentRef<'_>) -> usize {
        if self.closed { 0 } else { self.data.push(header, content) }
    }

    /// Adds a frame to the control lane, which is sent before what waits in the data lane.
    pub(crate) fn control(&mut self, header: &Header, content: &ContentRef<'_>) {
        if !self.closed {
            self.control.push(header, content);
        }
    }

    /// Bytes that wait in both lanes and with the writer.
    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        self.control.size()
            + self.data.size()
            + self.rest.as_ref().map_or(0, Batch::size)
            + self.writing.unwrap_or(0)
    }

    /// Bytes that wait in the control lane.
    pub(crate) fn control_waiting(&self) -> usize {
        self.control.size()
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Since when the link has taken nothing although something waits.
    pub(crate) fn stuck_since(&self) -> Option<Instant> {
        self.stuck_since
    }

    /// Takes what is to be written next, if nobody writes and the link is not full.
    pub(crate) fn begin(&mut self) -> Step {
        if self.writing.is_some() || self.blocked || self.closed {
            return Step::Idle;
        }
        self.next()
    }

    /// The owner's task found room again.
    pub(crate) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Gives back what is left of a batch and takes the next one.
    pub(crate) fn finish(&mut self, mut batch: Batch, sent: &io::Result<Sent>) -> Step {
        let before = self.writing.take().unwrap_or(0);
        match sent {
            Ok(Sent::All) if batch.is_empty() => {
                self.stuck_since = None;
                self.next()
            }
            Ok(_) => {
                if batch.size() < before || self.stuck_since.is_none() {
                    self.stuck_since = Some(Instant::now());
                }
                batch.shrink();
                self.rest = Some(batch);
                self.blocked = true;
                Step::Blocked
            }
            Err(_) => {
                self.close();
                Step::Idle
            }
        }
    }

    /// Forgets what waits and takes nothing more.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.control = Batch::new(self.form);
        self.data = Batch::new(self.form);
        self.rest = None;
    }

    fn next(&mut self) -> Step {
        if self.closed {
            return Step::Idle;
        }
        let batch = match self.rest.take() {
            Some(rest) => rest,
            None if !self.control.is_empty() => std::mem::replace(&mut self.control, Batch::new(self.form)),
            None if !self.data.is_empty() => std::mem::replace(&mut self.data, Batch::new(self.form)),
            None => return Step::Idle,
        };
        self.writing = Some(batch.size());
        Step::Write(batch)
    }
}
