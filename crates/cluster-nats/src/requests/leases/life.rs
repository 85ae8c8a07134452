//! The bucket, and the bus's own lease.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::bucket::{Bucket, NoBucket};
use super::steps::{self, Lease, Renewed};
use super::{Done, LeaseNews, Leases, State};
use crate::limits;

/// A lease that this bus has.
pub(super) struct Life {
    pub(super) lease: Lease,
    pub(super) revision: u64,
    pub(super) until: Instant,
}

impl Leases {
    pub(super) fn open(&mut self) {
        let (State::Unknown { is_opening } | State::Alone { is_opening }) = &mut self.state else { return };
        if !self.is_connected || std::mem::replace(is_opening, true) {
            return;
        }
        let (jetstream, name, settings) = (self.jetstream.clone(), self.name.clone(), self.settings.clone());
        let open = async move { Done::Opened(Bucket::open(jetstream, name, &settings).await.map(Arc::new)) };
        self.doing.push(open.boxed());
    }

    /// Renews the lease, or begins one.
    pub(super) fn renew(&mut self, now: Instant) {
        let State::Open(bucket) = &self.state else { return };
        let is_wanted = self.life.is_some() || !self.topics.is_empty();
        if self.renewing.is_some() || !self.is_connected || !is_wanted {
            return;
        }
        self.last_renewal += 1;
        let number = self.last_renewal;
        self.renewing = Some(number);
        let (bucket, last) = (Arc::clone(bucket), self.life.as_ref().map(|life| life.revision));
        let lease = self
            .life
            .as_ref()
            .map_or(Lease { bus: self.members.own(), number: self.next }, |life| life.lease);
        let renew = async move {
            let renewed = steps::renew(&bucket, lease, last).await;
            Done::Renewed { number, lease, begun: now, renewed }
        };
        self.doing.push(renew.boxed());
    }

    pub(super) fn opened(&mut self, opened: Result<Arc<Bucket>, NoBucket>, now: Instant) {
        // Where there was a bucket, others may still have it: this bus does not go on as if it were alone.
        let opened = opened.map_err(|error| match self.had_bucket && error == NoBucket::NoJetStream {
            true => NoBucket::Failed("there is no JetStream any more".to_owned()),
            false => error,
        });
        match (opened, &mut self.state) {
            (_, State::Ended | State::Open(_)) => {}
            (Ok(bucket), before) => {
                if matches!(before, State::Alone { .. }) {
                    tracing::info!(
                        "there is JetStream now: topics with a single server have one among all buses"
                    );
                }
                self.state = State::Open(bucket);
                (self.told, self.had_bucket) = (None, true);
                self.renew(now);
            }
            (Err(NoBucket::NoJetStream), before) => {
                if matches!(before, State::Unknown { .. }) {
                    tracing::info!(
                        "the servers of NATS have no JetStream: a topic may have a single server at each bus, and not one among all"
                    );
                    self.news.push_back(LeaseNews::Alone);
                }
                self.state = State::Alone { is_opening: false };
                self.answer_all();
                self.open_at = Some(now + limits::LEASE_LOOK);
            }
            (Err(NoBucket::Failed(reason)), State::Unknown { is_opening } | State::Alone { is_opening }) => {
                *is_opening = false;
                self.open_at = Some(now + self.settings.lasts / 10);
                if self.told.as_ref() != Some(&reason) {
                    tracing::warn!(
                        reason,
                        "no topic can be leased; others do not ask those with a single server here until one can"
                    );
                    self.told = Some(reason);
                }
            }
        }
    }

    pub(super) fn renewed(&mut self, lease: Lease, begun: Instant, renewed: Renewed, now: Instant) {
        if matches!(self.state, State::Ended) {
            return;
        }
        let is_first = self.life.is_none();
        // One that has ended meanwhile is not begun again.
        if self.life.as_ref().map_or(self.next, |life| life.lease.number) != lease.number {
            self.renew_at = Some(now);
            return;
        }
        match renewed {
            Renewed::Alive(revision) => {
                let until = begun + self.settings.lasts;
                self.life = Some(Life { lease, revision, until });
                self.renew_at = Some(begun + self.settings.lasts / 3);
                if is_first {
                    self.next = lease.number + 1;
                    self.rewrite_at = Some(now + limits::LEASE_REWRITE / 24);
                    self.examine_all(now);
                }
            }
            Renewed::Ended if is_first => {
                self.next += 1;
                self.renew_at = Some(now);
            }
            Renewed::Ended => self.lose(now),
            Renewed::Unknown => {
                let soon = now + self.settings.lasts / 20;
                self.renew_at = Some(soon);
                if is_first {
                    self.look_for_bucket(soon);
                }
            }
        }
    }

    /// It may be gone; it is made anew then.
    fn look_for_bucket(&mut self, at: Instant) {
        if matches!(self.state, State::Open(_)) {
            self.state = State::Unknown { is_opening: false };
            self.open_at = Some(at);
        }
    }

    /// None of the topics is this bus's any more. They are asked for again with the next lease.
    pub(super) fn lose(&mut self, now: Instant) {
        let Some(Life { lease, .. }) = self.life.take() else { return };
        tracing::warn!(
            %lease,
            "the lease could not be renewed: others do not ask servers here that are the only ones, until there is another"
        );
        for wish in self.topics.values_mut() {
            wish.lose();
        }
        // An answer of one that was on its way says nothing of the next one.
        (self.renewing, self.renew_at) = (None, Some(now));
        self.look_for_bucket(now);
    }
}
