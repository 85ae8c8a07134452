//! A topic that this bus serves alone, or wants to.

use tokio::time::Instant;
use whispeer::BusError;
use whispeer::bus::ServeClaim;
use whispeer::proto::fields::ServeMode;
use whispeer::topic::Topic;

/// What is known of such a topic.
#[derive(Debug, Default)]
pub(super) struct Wish {
    /// Sessions that want to serve it, and until when each waits.
    pub(super) claims: Vec<(ServeClaim, Instant)>,
    /// A session of this bus serves it.
    pub(super) served: bool,
    /// One has been let, and is about to.
    pub(super) reserved_until: Option<Instant>,
    /// The revision by which this bus has it.
    pub(super) held: Option<u64>,
    /// When that was written.
    pub(super) written: Option<Instant>,
    /// It had it, with a lease that it has lost.
    pub(super) was_held: bool,
    /// An entry may have been written, or not have been deleted, without that being known here.
    pub(super) is_uncertain: bool,
    /// Something is being done for it.
    pub(super) is_busy: bool,
    /// Something is to be done.
    pub(super) is_queued: bool,
    /// Before that it is not tried again.
    pub(super) retry_at: Option<Instant>,
    /// Another bus was seen to have it.
    pub(super) looked: bool,
    /// The last that is known is that another bus has it.
    pub(super) refused: bool,
}

impl Wish {
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        self.served || !self.claims.is_empty() || self.reserved_until.is_some_and(|until| until > now)
    }

    /// Lets all serve that wait. Returns whether there were some.
    pub(super) fn agree_all(&mut self) -> bool {
        let some = !self.claims.is_empty();
        for (claim, _) in self.claims.drain(..) {
            claim.agree();
        }
        some
    }

    /// Answers those who have waited for long enough: where nothing is known they serve at this bus, and those who wanted to take over what another
    /// one has not released do not.
    pub(super) fn answer_late(&mut self, now: Instant) {
        for (claim, until) in std::mem::take(&mut self.claims) {
            if claim.is_given_up() {
                continue;
            }
            if until > now {
                self.claims.push((claim, until));
            } else if self.refused {
                let topic = claim.topic().to_string();
                claim.refuse(BusError::AlreadyServed { topic });
            } else {
                claim.agree();
            }
        }
    }

    /// Refuses those who do not want to take it over.
    pub(super) fn refuse_joining(&mut self, topic: &Topic) {
        for (claim, until) in std::mem::take(&mut self.claims) {
            match claim.mode() == ServeMode::TakeOver {
                true => self.claims.push((claim, until)),
                false => claim.refuse(BusError::AlreadyServed { topic: topic.to_string() }),
            }
        }
    }

    /// The lease is lost.
    pub(super) fn lose(&mut self) {
        self.was_held |= self.held.take().is_some() && self.served;
        (self.is_uncertain, self.looked) = (false, false);
        (self.reserved_until, self.retry_at) = (None, None);
    }
}
