//! What is published elsewhere, on its way to those who have subscribed at this bus.
//!
//! | file | what it holds |
//! |---|---|
//! | `wanted` | what is subscribed to at NATS |
//! | `intake` | what these subscriptions bring, read at once |
//! | `taking` | from messages of NATS to publishes at this bus |
//! | `held` | what waits for messages that were sent before it |
//! | `outcomes` | what the bus has refused of it |
//! | `memory` | what is known of it, for the link that begins in place of this one |

mod held;
mod intake;
mod memory;
mod outcomes;
mod taking;
mod wanted;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use whispeer::BusResult;
use whispeer::bus::{BusView, Interest};
use whispeer::client::Client;

use self::intake::{Bounds, Intake, Item};
pub(crate) use self::memory::Kept;
use self::memory::{Memory, Since};
use self::outcomes::Loss;
use self::taking::Taking;
use self::wanted::Wanted;
use crate::limits;
use crate::members::{MemberEvent, Members};
use crate::subject::Subjects;

/// How much further back than the last that has come others are asked for marks: a link that hangs is found out by then.
const LOOK_BACK: Duration = Duration::from_secs(10);

/// The token of the subject where marks are asked for.
pub(crate) const AGAIN: &str = "again";

/// What has become of it so far.
#[derive(Debug, Default)]
pub(crate) struct InboundCounts {
    /// Messages that were published at this bus.
    pub(crate) received: AtomicU64,
    /// Messages that are missing.
    pub(crate) missing: AtomicU64,
    /// Messages that could not be published at this bus.
    pub(crate) refused: AtomicU64,
    /// Messages that found no room here, as others were taken too slowly.
    pub(crate) overrun: AtomicU64,
    /// Patterns that are subscribed to at NATS.
    pub(crate) patterns: AtomicU64,
}

/// What a subscription at NATS is for.
#[derive(Debug)]
struct Source {
    /// In the order in which they were made.
    number: u64,
    kind: Taken,
    /// Since when it brings what is sent.
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Messages,
    Marks,
    Wildcards,
    WildcardMarks,
    /// That NATS has answered.
    Flushed,
}

impl Taken {
    fn is_of_marks(self) -> bool {
        matches!(self, Self::Marks | Self::WildcardMarks)
    }
}

/// Takes what is published elsewhere to this bus.
pub(crate) struct Inbound {
    nats: async_nats::Client,
    subjects: Subjects,
    members: Members,
    counts: Arc<InboundCounts>,
    /// When others are to be asked for marks, and were last.
    ask_at: Option<Instant>,
    asked_at: Option<Instant>,
    /// When something has come last, before the connection was lost.
    heard_at: Instant,
    intake: Intake,
    wanted: Wanted,
    taking: Taking,
    has_warned: bool,
    /// Where the next link finds what this one knows.
    kept: Kept,
    /// What the one before was subscribed to.
    before: Option<Since>,
    /// What the one before gave to the bus without knowing what became of it.
    unsettled: Vec<Loss>,
    /// Others are to be asked for marks as soon as it is subscribed to what was wanted before.
    asks_first: bool,
}

impl Inbound {
    /// Goes on where the link before this one has left off, if there was one. Where this one ends it leaves to the next what it knows by then, when it is
    /// dropped.
    pub(crate) fn new(
        bus: BusView,
        client: Client,
        nats: async_nats::Client,
        subjects: Subjects,
        members: Members,
        counts: Arc<InboundCounts>,
        kept: Kept,
    ) -> Self {
        let own = members.own();
        let bounds = Bounds { messages: limits::INBOUND_MESSAGES, bytes: limits::INBOUND_BYTES };
        let most = limits::INTEREST_PATTERNS;
        let Memory { seen, subscribed, heard_at, unsettled } = kept.take();
        Self {
            wanted: Wanted::new(nats.clone(), subjects.clone(), own, Arc::clone(&counts), most),
            taking: Taking::new(bus, client, subjects.clone(), own, Arc::clone(&counts), seen),
            intake: Intake::new(bounds),
            nats,
            subjects,
            members,
            counts,
            ask_at: None,
            asked_at: None,
            heard_at: heard_at.unwrap_or_else(Instant::now),
            has_warned: false,
            kept,
            before: Some(subscribed),
            unsettled,
            asks_first: heard_at.is_some(),
        }
    }

    /// Takes what the patterns of `interest` want from NATS until the bus ends, or `leaving` does: then it waits for what becomes of all that it has given
    /// to the bus. Each time that `disturbed` changes, messages may have been missed.
    ///
    /// # Errors
    /// Why the bus or the connection has ended.
    ///
    /// # Cancel safety
    /// What it has taken from NATS and not published is lost, and told by the link that begins in its place.
    pub(crate) async fn run(
        mut self,
        mut interest: Interest,
        mut disturbed: watch::Receiver<u64>,
        mut leaving: oneshot::Receiver<()>,
    ) -> BusResult<()> {
        self.begin().await?;
        let mut events = self.members.events();
        // By itself, as it may have to look at all there is, which is not to begin again with each message.
        let (wants, mut wanted) = mpsc::channel(1);
        let mut watching = JoinSet::new();
        watching.spawn(async move {
            loop {
                let changes = interest.changed().await;
                let has_ended = changes.is_err();
                if wants.send(changes).await.is_err() || has_ended {
                    return;
                }
            }
        });
        loop {
            let settle_at = self.taking.held.since().map(|since| since + limits::REORDERING);
            let due = self.ask_at.into_iter().chain(settle_at).chain(self.wanted.due());
            let due = due.chain(self.taking.outcomes.due()).min();
            tokio::select! {
                item = self.intake.next() => {
                    if self.ask_at.is_none() {
                        self.heard_at = Instant::now();
                    }
                    self.take(item).await?;
                    self.settle_if_nothing_comes().await?;
                    self.note_overrun();
                }
                Some(changes) = wanted.recv() => {
                    self.wanted.follow(changes?, &mut self.intake).await?;
                    if std::mem::take(&mut self.asks_first) {
                        // By then all servers of NATS know of it.
                        self.ask_at = Some(Instant::now() + limits::SETTLING);
                    }
                }
                Ok(()) = disturbed.changed() => {
                    disturbed.borrow_and_update();
                    self.ask_soon();
                }
                event = events.recv() => self.note(event),
                _ = &mut leaving => {
                    self.taking.outcomes.finish().await;
                    return Ok(());
                }
                () = self.taking.outcomes.changed() => self.taking.tell().await?,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.do_due().await?,
            }
        }
    }

    /// Goes on where the link before has left off.
    async fn begin(&mut self) -> BusResult<()> {
        let unsettled = std::mem::take(&mut self.unsettled);
        let count: u64 = unsettled.iter().map(|(_, count)| count).sum();
        if count > 0 {
            tracing::warn!(
                count,
                "messages of other buses were on their way to this one when it cut off their link, and count as lost"
            );
        }
        unsettled.into_iter().for_each(|loss| self.taking.outcomes.note_loss(loss));
        self.taking.tell().await?;
        self.wanted.begin(self.before.take().unwrap_or_default(), &mut self.intake).await
    }

    /// Does what is due by now. What the bus has refused is looked for whenever anything happens.
    async fn do_due(&mut self) -> BusResult<()> {
        let now = Instant::now();
        if self.ask_at.is_some_and(|at| at <= now) {
            self.ask_for_marks().await;
        }
        self.wanted.end_due(now, &mut self.intake);
        if let Some(since) = self.taking.held.since()
            && since + limits::REORDERING <= now
        {
            self.settle_if_nothing_comes().await?;
            if self.taking.held.since().is_some_and(|since| since.elapsed() > 10 * limits::REORDERING) {
                self.taking.settle().await?;
            }
        }
        Ok(())
    }

    async fn take(&mut self, item: Item) -> BusResult<()> {
        let Self { intake, wanted, taking, .. } = self;
        match item {
            Item::Messages(source, messages) if source.kind == Taken::Flushed => {
                messages.iter().for_each(|answer| wanted.answered(&answer.subject, intake));
                Ok(())
            }
            Item::Messages(source, messages) => intake.beside(taking.take(wanted, &source, messages)).await,
            Item::Ended(ended) => {
                wanted.forget(ended);
                Ok(())
            }
        }
    }

    /// What is held up does not wait any longer once all that has come was looked at.
    async fn settle_if_nothing_comes(&mut self) -> BusResult<()> {
        let mut rounds = 0;
        while self.taking.held.since().is_some() {
            match self.intake.take_now() {
                Some(item) => self.take(item).await?,
                None => return self.intake.beside(self.taking.settle()).await,
            }
            rounds += 1;
            if rounds >= limits::INBOUND_RUN {
                // Others get their turn; it is settled in time.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Messages that found no room are missing; those of programs without numbers are counted only.
    fn note_overrun(&mut self) {
        let dropped = self.intake.take_dropped();
        if dropped == 0 {
            return;
        }
        self.counts.overrun.fetch_add(dropped, Ordering::Relaxed);
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                dropped,
                "this bus does not take messages of others as fast as they come, and its subscribers are told gaps. Later ones are counted only"
            );
        }
        // Perhaps nothing follows that would show it.
        self.ask_soon();
    }

    /// What becomes of other buses tells whether something of theirs was lost.
    fn note(&mut self, event: Result<MemberEvent, RecvError>) {
        match event {
            // One that was gone is back; of a new one there is nothing to miss.
            Ok(MemberEvent::Joined { id }) if !self.taking.seen.knows(id) => {}
            // What was lost may have had company.
            Ok(MemberEvent::Joined { .. } | MemberEvent::Missed { .. } | MemberEvent::Reconnected { .. })
            | Err(RecvError::Lagged(_)) => self.ask_soon(),
            _ => {}
        }
    }

    /// Others are to be asked for marks, but not too often.
    fn ask_soon(&mut self) {
        let now = Instant::now();
        let next = self.asked_at.map_or(now, |asked| asked + limits::ASK_AGAIN);
        self.ask_at.get_or_insert(next.max(now));
    }

    /// Asks all buses for marks of what they have sent since something has come last.
    async fn ask_for_marks(&mut self) {
        let now = Instant::now();
        (self.ask_at, self.asked_at) = (None, Some(now));
        let back = now.saturating_duration_since(self.heard_at) + LOOK_BACK;
        let subject = self.subjects.own(AGAIN);
        let millis = back.as_millis().to_string();
        // Where NATS is away again, that will be another disturbance.
        let _ = self.nats.publish(subject, millis.into()).await;
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        let seen = std::mem::replace(&mut self.taking.seen, Memory::default().seen);
        let subscribed = self.before.take().unwrap_or_else(|| self.wanted.since());
        let mut unsettled = std::mem::take(&mut self.unsettled);
        unsettled.extend(self.taking.outcomes.unsettled());
        self.counts.patterns.store(0, Ordering::Relaxed);
        self.kept.put(Memory { seen, subscribed, heard_at: Some(self.heard_at), unsettled });
    }
}

#[cfg(test)]
mod tests;
