//! What becomes of the publishes of an earlier session when another one begins.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::PublishWindow;
use crate::client::keeping::Kept;
use crate::client::publisher::PublishFailures;
use crate::client::shared::unknown;
use crate::error::{BusError, BusResult};
use crate::proto::{Credit, Flags, Frame, Header, Kind};

/// A caller that waits for his publish, and why that is given up.
pub(in crate::client) type GivenUp = (oneshot::Sender<BusResult<usize>>, BusError);

/// What a bus takes.
#[derive(Debug, Clone, Copy)]
pub(in crate::client) struct Limits {
    /// Messages and bytes under way.
    pub(in crate::client) window: (u32, u64),
    /// Bytes of a frame.
    pub(in crate::client) frame: usize,
}

impl Limits {
    /// Why the bus does not take this, if it does not. It would end the session of whoever sends it, and the next one.
    pub(in crate::client) fn refuse(self, frame: &Frame) -> Option<BusError> {
        self.refuse_size(frame.content.frame_size())
    }

    fn refuse_size(self, size: usize) -> Option<BusError> {
        (size > self.frame).then_some(BusError::FrameTooLarge { size, limit: self.frame })
    }
}

impl PublishWindow {
    /// A new session begins at a bus with these limits, and `unsent` are the next publishes.
    /// Publishers learn when they flush, and callers by what is returned, that what was sent before and is not known to have
    /// been routed may or may not have been, and that the bus does not take what is larger than its frames. What is to be kept
    /// is sent again before the unsent; all of it is held back until it is [released](super::State::release_held_back).
    pub(in crate::client) fn restart(&mut self, limits: Limits, mut unsent: Vec<Frame>) -> Vec<GivenUp> {
        // What the session before has not got round to follows what it has queued.
        unsent.extend(self.held_back.take());
        let sent = self.last_sequence - (unsent.len() as u64).min(self.last_sequence);
        debug_assert!(unsent.first().is_none_or(|first| first.header.sequence + self.base == sent + 1));
        let mut given_up = Vec::new();
        let kept = self.take_kept(sent, limits, &mut given_up);
        let unsent = self.fitting(sent, limits, unsent, &mut given_up);
        self.base = sent - kept.len() as u64;
        self.credit = Credit::new(limits.window);
        self.holds = false;
        self.fail_publishers(sent);
        let mut again = Vec::with_capacity(kept.len());
        let mut waiting = Vec::new();
        for (sequence, (before, kept)) in (self.base + 1..).zip(kept) {
            waiting.extend(self.acknowledgements.remove(&before).map(|sender| (sequence, sender)));
            let header = Header::new(Kind::Publish, 0, sequence).flagged(Flags::ACKNOWLEDGE);
            again.push(Frame { header, content: Arc::clone(&kept.content) });
            self.keeping.insert(sequence, kept);
        }
        let unanswered: Vec<u64> =
            self.acknowledgements.keys().copied().filter(|sequence| *sequence <= sent).collect();
        for sequence in unanswered {
            let sender = self.acknowledgements.remove(&sequence);
            given_up.extend(sender.map(|sender| (sender, unknown("the message was published"))));
        }
        self.acknowledgements.extend(waiting);
        self.held_back.hold(again.into_iter().chain(unsent));
        given_up
    }

    /// Takes what was sent up to `sent` and is to be kept, without what is too large for the bus.
    fn take_kept(&mut self, sent: u64, limits: Limits, given_up: &mut Vec<GivenUp>) -> Vec<(u64, Kept)> {
        let mut kept = self.keeping.take_until(sent);
        kept.retain(|(sequence, kept)| {
            let error = limits.refuse_size(kept.content.frame_size());
            let fits = error.is_none();
            if let Some(error) = error {
                given_up.extend(self.give_up(*sequence, kept.publisher, error));
            }
            fits
        });
        kept
    }

    /// What has not been sent, without what is too large for the bus. What follows that is numbered as if it had never been.
    fn fitting(
        &mut self,
        sent: u64,
        limits: Limits,
        mut unsent: Vec<Frame>,
        given_up: &mut Vec<GivenUp>,
    ) -> Vec<Frame> {
        let mut gone = Vec::new();
        let mut sequence = sent;
        unsent.retain(|frame| {
            sequence += 1;
            let Some(error) = limits.refuse(frame) else { return true };
            let kept = self.keeping.remove(sequence);
            let publisher = kept.and_then(|kept| kept.publisher).or_else(|| self.turn_of(sequence));
            given_up.extend(self.give_up(sequence, publisher, error));
            gone.push(sequence);
            false
        });
        if gone.is_empty() {
            return unsent;
        }
        let moved = |sequence| sequence - gone.partition_point(|gone| *gone < sequence) as u64;
        self.last_sequence -= gone.len() as u64;
        let acknowledgements = std::mem::take(&mut self.acknowledgements);
        self.acknowledgements =
            acknowledgements.into_iter().map(|(sequence, sender)| (moved(sequence), sender)).collect();
        self.keeping.renumber(moved);
        for (first, _) in &mut self.turns {
            *first = moved(*first);
        }
        unsent
    }

    /// Tells a publisher, or whoever is returned, that a publish has failed.
    fn give_up(&mut self, sequence: u64, publisher: Option<u32>, error: BusError) -> Option<GivenUp> {
        if let Some(sender) = self.acknowledgements.remove(&sequence) {
            return Some((sender, error));
        }
        if let Some(error) = self.note_failure(publisher, error) {
            tracing::warn!(%error, sequence, "a publish failed after its publisher was dropped");
        }
        None
    }

    /// Lets publishers know that what they sent up to `sent` and is not known to have been routed may or may not have been.
    fn fail_publishers(&mut self, sent: u64) {
        for index in 0..self.turns.len() {
            let Some(&(first, publisher)) = self.turns.get(index) else { break };
            let first = first.max(self.settled + 1);
            let last = self.turns.get(index + 1).map_or(sent, |(next, _)| next - 1).min(sent);
            if first <= last
                && let Some(failures) = self.publishers.get_mut(&publisher)
            {
                let why = || unknown("all that was sent before has been published");
                let failures = failures.get_or_insert_with(|| PublishFailures { count: 0, first: why() });
                failures.count += last - first + 1;
            }
        }
        self.settled = sent;
    }
}
