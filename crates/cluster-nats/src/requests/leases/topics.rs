//! What is done for each topic.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::time::Instant;
use whispeer::topic::Topic;

use super::steps::{self, Acquired, Lease};
use super::{Done, LeaseNews, Leases, State};
use crate::limits;

/// Another lease.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    revision: u64,
    /// Since when it has been seen to have that.
    since: Instant,
    /// It has been seen to have another one before.
    was_renewed: bool,
}

impl Leases {
    pub(super) fn examine_all(&mut self, now: Instant) {
        for topic in self.topics.keys().cloned().collect::<Vec<_>>() {
            if let Some(wish) = self.topics.get_mut(&topic) {
                wish.retry_at = None;
            }
            self.examine(topic, now);
        }
    }

    /// Writes entries again that would be taken for forgotten otherwise.
    pub(super) fn rewrite(&mut self, now: Instant) {
        for (topic, wish) in &mut self.topics {
            let is_old = wish.written.is_some_and(|at| now.duration_since(at) >= limits::LEASE_REWRITE);
            if is_old && wish.held.is_some() && !wish.is_busy && !wish.is_queued {
                wish.is_queued = true;
                self.queue.push_back(topic.clone());
            }
        }
        self.rewrite_at = Some(now + limits::LEASE_REWRITE / 24);
    }

    /// Answers claims to a topic as far as that can be done, and has done what it needs.
    pub(super) fn examine(&mut self, topic: Topic, now: Instant) {
        let decides = self.is_connected && !matches!(self.state, State::Alone { .. } | State::Ended);
        let Some(wish) = self.topics.get_mut(&topic) else { return };
        let before = wish.claims.len();
        if wish.held.is_some() && self.life.as_ref().is_some_and(|life| now < life.until) {
            if wish.agree_all() {
                wish.reserved_until = Some(now + limits::LEASE_CLAIM);
            }
        } else if decides {
            wish.answer_late(now);
        } else {
            wish.agree_all();
        }
        self.waiting = self.waiting.saturating_sub(before - wish.claims.len());
        let reserved = wish.reserved_until.filter(|until| *until > now);
        let needs = match wish.is_wanted(now) {
            true => wish.held.is_none(),
            false if wish.held.is_none() && !wish.is_uncertain && !wish.is_busy => {
                self.topics.remove(&topic);
                return;
            }
            false => true,
        };
        let is_due = wish.retry_at.is_none_or(|at| at <= now);
        if needs && is_due && !wish.is_busy && !wish.is_queued {
            wish.is_queued = true;
            self.queue.push_back(topic.clone());
        }
        if let Some(until) = reserved {
            self.wake(until, topic);
        }
    }

    /// Begins what can be done now.
    pub(super) fn begin(&mut self, now: Instant) {
        let State::Open(bucket) = &self.state else { return };
        if self.life.is_none() && self.renew_at.is_none_or(|at| at <= now) {
            return self.renew(now);
        }
        let Some(lease) = self.life.as_ref().map(|life| life.lease).filter(|_| self.is_connected) else {
            return;
        };
        while self.doing.len() < limits::LEASES_AT_ONCE {
            let Some(topic) = self.queue.pop_front() else { return };
            let Some(wish) = self.topics.get_mut(&topic) else { continue };
            wish.is_queued = false;
            if wish.is_busy {
                continue;
            }
            wish.is_busy = true;
            let bucket = Arc::clone(bucket);
            let step = if wish.is_wanted(now) {
                // The revision may be another one where something was written without that being known here.
                let held = wish.held.filter(|_| !wish.is_uncertain);
                let acquire = async move {
                    let acquired = steps::acquire(&bucket, lease, &topic, held).await;
                    Done::Acquired { topic, lease, begun: now, acquired }
                };
                acquire.boxed()
            } else {
                wish.held = None;
                wish.is_uncertain = true;
                let release = async move {
                    let done = steps::release(&bucket, lease, &topic).await;
                    Done::Released { topic, lease, done }
                };
                release.boxed()
            };
            self.doing.push(step);
        }
    }

    pub(super) fn retry(&mut self, topic: Topic, at: Instant) {
        if let Some(wish) = self.topics.get_mut(&topic) {
            wish.retry_at = Some(at);
            self.wake(at, topic);
        }
    }

    pub(super) fn acquired(&mut self, topic: Topic, acquired: Acquired, begun: Instant, now: Instant) {
        let Some(wish) = self.topics.get_mut(&topic) else { return };
        match acquired {
            Acquired::Held(revision) => {
                let is_new = wish.held.replace(revision).is_none();
                wish.written = Some(begun);
                (wish.is_uncertain, wish.was_held, wish.looked, wish.refused) = (false, false, false, false);
                if is_new && wish.served {
                    self.news.push_back(LeaseNews::Held(topic.clone()));
                }
                self.examine(topic, now);
            }
            Acquired::Unknown => {
                wish.is_uncertain = true;
                self.retry(topic, now + limits::LEASE_RETRY);
            }
            Acquired::Other { lease, revision } => self.other_has(topic, lease, revision, begun, now),
        }
    }

    /// Another lease has the topic, whose entry had this revision some time after `begun`.
    fn other_has(&mut self, topic: Topic, lease: Lease, revision: u64, begun: Instant, now: Instant) {
        let seen = self.see(lease, revision, now);
        let Some(wish) = self.topics.get_mut(&topic) else { return };
        (wish.held, wish.is_uncertain) = (None, false);
        if begun.saturating_duration_since(seen.since) >= self.settings.outlives()
            && let State::Open(bucket) = &self.state
        {
            wish.is_busy = true;
            let bucket = Arc::clone(bucket);
            let end = async move {
                if steps::end(&bucket, lease, revision).await {
                    tracing::info!(%lease, "the lease of a bus was not renewed in time and has been ended");
                }
                Done::OtherEnded { topic }
            };
            return self.doing.push(end.boxed());
        }
        // A bus that nobody hears of may be gone: those who want to serve in its place are not refused for it.
        let renews = seen.was_renewed && now < seen.since + self.settings.lasts / 3 * 2;
        let is_there = renews || self.members.epoch(lease.bus).is_some();
        if !is_there {
            wish.refused = false;
            return self.retry(topic, now + limits::LEASE_RETRY);
        }
        if !std::mem::replace(&mut wish.looked, true) {
            // It may be about to be released.
            return self.retry(topic, now + limits::LEASE_SECOND_LOOK);
        }
        wish.refused = true;
        let before = wish.claims.len();
        wish.refuse_joining(&topic);
        let takes_over = !wish.claims.is_empty();
        self.waiting = self.waiting.saturating_sub(before - wish.claims.len());
        if std::mem::take(&mut wish.served) {
            let was_held = std::mem::take(&mut wish.was_held);
            self.news.push_back(LeaseNews::Refused { topic: topic.clone(), was_held });
        }
        if takes_over {
            self.news.push_back(LeaseNews::Yield { bus: lease.bus, topic: topic.clone() });
            return self.retry(topic, now + limits::LEASE_YIELD);
        }
        self.examine(topic, now);
    }

    /// Notes what another lease is like.
    fn see(&mut self, lease: Lease, revision: u64, now: Instant) -> Seen {
        if self.seen.len() >= limits::LEASES_SEEN && !self.seen.contains_key(&lease) {
            // The one whose renewals were noticed longest ago is the likeliest to be gone.
            let oldest = self.seen.iter().min_by_key(|(_, seen)| seen.since).map(|(lease, _)| *lease);
            oldest.map(|oldest| self.seen.remove(&oldest));
        }
        let seen = self.seen.entry(lease).or_insert(Seen { revision, since: now, was_renewed: false });
        if seen.revision != revision {
            *seen = Seen { revision, since: now, was_renewed: true };
        }
        *seen
    }
}
