//! Messages that are published later.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::Stream;
use super::publishing::milliseconds;
use crate::auth::Author;
use crate::bus::clock::system_time;
use crate::bus::deputy::Mandate;
use crate::bus::task::SessionTask;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::{Due, FieldsBuilder, Quality};
use crate::proto::{Content, ContentRef, Header};
use crate::store::{Change, Delayed, Operation, Outcome};
use crate::topic::TopicPattern;

impl SessionTask {
    /// Keeps a publish until it is due.
    pub(crate) fn delay(
        &mut self,
        header: &Header,
        content: &ContentRef<'_>,
        due: Due,
        quality: Quality,
    ) -> BusResult<()> {
        let topic = TopicPattern::from_utf8(content.topic)?;
        self.may_publish(topic.as_str(), topic.is_reserved())?;
        let now = milliseconds();
        let left = due.left(now);
        if left > limits::DELAY_MAX {
            let days = limits::DELAY_MAX.as_secs() / (24 * 60 * 60);
            let what = format!("a message is published {days} days later at the most");
            return Err(BusError::LimitReached { what });
        }
        let author = self.author();
        if author.has_ended(system_time() + left) {
            let what =
                "the token ends before the message is due; publish it with one that lasts longer".into();
            return Err(BusError::Denied { what });
        }
        if let Some(stream) = self.stream_of(&topic, quality)? {
            let due = now.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
            return self.store_delayed(&stream, header, content, (due, &author));
        }
        let mut fields = FieldsBuilder::new();
        fields.append_without_due(content.fields)?;
        let payload = content.shared().shared_payload();
        let content_then = Content::new(fields.finish().into(), content.topic.to_vec().into(), payload);
        let mandate = Mandate { author, content: Arc::new(content_then) };
        let shared = Arc::clone(&self.shared);
        shared.deputy.keep(self.clock.now() + left, mandate, &shared.budget)?;
        self.accept_delayed(header, self.arrived_size.unwrap_or(content.frame_size()));
        Ok(())
    }

    /// In whose name something is done later that this session asks for.
    pub(crate) fn author(&self) -> Author {
        match &self.rights {
            Some(rights) => Author::of(rights.identity()),
            None => Author::unasked(&self.session.peer.principal),
        }
    }
}

impl Stream {
    /// When the next of its delayed messages is due: milliseconds since 1970 (UTC), or the end of time.
    pub(crate) fn next_due(&self) -> u64 {
        self.next_due.load(Ordering::Acquire)
    }

    /// Notes that one is due then.
    pub(crate) fn note_due(&self, due: u64) {
        self.next_due.fetch_min(due, Ordering::AcqRel);
    }

    /// Notes one that is due then, and that this bus has taken in.
    pub(crate) fn note_own_due(&self, due: u64) {
        if self.is_shared() {
            self.own_due().insert(due);
        }
        self.note_due(due);
    }

    /// Notes when the store is to be looked at next, whose first message is due then. What another bus has taken in is its to publish as long as it
    /// is there, and is looked for a little later.
    pub(crate) fn note_next_due(&self, first: u64) {
        if !self.is_shared() {
            return self.note_due(first);
        }
        let mut own = self.own_due();
        *own = own.split_off(&first);
        let first_own = own.first().copied().unwrap_or(u64::MAX);
        drop(own);
        self.note_due(first_own.min(due_elsewhere(first)));
    }

    /// Notes what is due that other buses have taken in, which may be gone by then.
    pub(super) async fn follow_due(self: Arc<Self>, mut first_due: watch::Receiver<u64>) {
        self.opened().await;
        loop {
            let first = *first_due.borrow_and_update();
            if first < u64::MAX {
                self.note_due(due_elsewhere(first));
                self.look_again();
            }
            if first_due.changed().await.is_err() {
                // The store is closed.
                return;
            }
        }
    }

    fn own_due(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.own_due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the deputy look at what is due.
    pub(crate) fn look_again(&self) {
        self.due_changed.notify_one();
    }

    /// Waits until the deputy is to look at what is due.
    pub(crate) async fn due_changed(&self) {
        self.due_changed.notified().await;
    }

    /// Forgets what is noted, as the store is about to be asked; returns what it was.
    pub(crate) fn forget_due(&self) -> u64 {
        self.next_due.swap(u64::MAX, Ordering::AcqRel)
    }

    pub(crate) fn delayed(&self, until: u64, most: usize) -> Operation<Vec<Delayed>> {
        self.store.delayed(self.name.clone(), until, most)
    }

    pub(crate) fn commit(&self, changes: Vec<Change>) -> Operation<Vec<Outcome>> {
        self.store.commit(self.name.clone(), changes)
    }
}

/// When a message that another bus has taken in, and that is due then, is looked for here.
fn due_elsewhere(due: u64) -> u64 {
    due.saturating_add(u64::try_from(limits::DELAYED_ELSEWHERE.as_millis()).unwrap_or(u64::MAX))
}

impl Due {
    /// Whether that is not later than now.
    pub(crate) fn is_over(self) -> bool {
        match self {
            Self::In(left) => left.is_zero(),
            Self::At(time) => time <= milliseconds(),
        }
    }

    /// How long that is from now, in milliseconds since 1970 (UTC).
    pub(crate) fn left(self, now: u64) -> Duration {
        match self {
            Self::In(left) => left,
            Self::At(time) => Duration::from_millis(time.saturating_sub(now)),
        }
    }
}
