//! The link to the bus that has a consumer whose members wait here: a session of the protocol there, with a subscription for each of them.
//!
//! ```text
//! ask     LinkWish -> whoever joins the buses -> a link
//! open    HELLO -> WELCOME, SUBSCRIBE for each member as it comes
//! lasts   DELIVER, GAP -> the member, as it has credit and room    CREDIT, ACK -> the other bus    its answers -> who waits for them
//! ends    with the link, or when the other bus does not have the consumer any more: it is asked anew who has
//! ```
//!
//! One subscription for each member is what gives them their shares, and takes back what one had that is gone, by the ledger of the bus that has the
//! consumer and without a word of that here. What was confirmed was written by that bus. All that was not comes again when the link ends: to somebody
//! else, or to the same member from whoever has the consumer then.

use std::collections::BTreeSet;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::fed::{Came, Fed};
use super::{Consumer, MemberId};
use crate::bus::session::{Session, State as SessionState};
use crate::bus::subscription::Slot;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::plugin::Hooks;
use crate::proto::fields::{DeliveryRules, FieldsBuilder, Policy, Quality, Start, decode_gap};
use crate::proto::{Capabilities, ContentRef, Flags, Header, Hello, Kind, Lane, Refusal, Welcome};
use crate::store::Name;
use crate::transport::{Batch, Incoming, Link, Sent};

/// What the session is called at the other bus.
const NAME: &str = "members at another bus";

/// How far members are with the bus that has their consumer.
#[derive(Default)]
pub(super) enum Across {
    #[default]
    Idle,
    /// A link is being looked for.
    Asked(oneshot::Receiver<Link>),
    /// It has come, and waits for the store to say whose the consumer is by now.
    Granted(Link),
    Open(Box<Joined>),
}

/// A session at that bus.
pub(super) struct Joined {
    link: Link,
    incoming: Incoming,
    batch: Batch,
    /// The link has taken what it could.
    is_blocked: bool,
    /// How often either side gives a sign of life, once it has been let in.
    interval: Option<Duration>,
    heard: Instant,
    sent: Instant,
    pings: u64,
}

impl Across {
    /// Asks for a link, unless there is one, or nobody else may share the consumer, or plugins of this bus are to be asked who may have a message:
    /// the other bus does not know for whom it hands them over, and has no plugins of this one.
    pub(super) fn ask(&mut self, consumer: &Consumer, name: &Name) {
        if !matches!(self, Self::Idle) || !consumer.is_shared {
            return;
        }
        let Consumer { stream, wishing, plugins, .. } = consumer;
        if plugins.as_ref().is_some_and(|plugins| plugins.want(Hooks::DELIVER)) {
            return;
        }
        let Ok(epoch) = stream.epoch() else { return };
        let granted = wishing.ask(stream.name.clone(), epoch, name.clone());
        *self = granted.map_or(Self::Idle, Self::Asked);
    }

    /// A link that has come and is not used yet.
    pub(super) fn take_granted(&mut self) -> Option<Link> {
        match std::mem::take(self) {
            Self::Granted(link) => Some(link),
            other => {
                *self = other;
                None
            }
        }
    }

    pub(super) fn open(&mut self, link: Link) {
        *self = Self::Open(Box::new(Joined::begin(link)));
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// Whether something of members that have gone is still to be sent.
    pub(super) fn has_more_to_send(&self, consumer: &Consumer) -> bool {
        match self {
            Self::Open(joined) => {
                joined.interval.is_some()
                    && (!joined.batch.is_empty() || !consumer.lock().outgoing.is_empty())
            }
            _ => false,
        }
    }

    /// Goes on with what has come and what is to be sent; ready when something may have changed.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn step(&mut self, consumer: &Consumer) {
        match self {
            Self::Idle | Self::Granted(_) => pending().await,
            Self::Asked(granted) => match granted.await {
                Ok(link) => *self = Self::Granted(link),
                Err(_) => *self = Self::Idle,
            },
            Self::Open(joined) => {
                if let Err(reason) = joined.step(consumer).await {
                    *self = Self::Idle;
                    consumer.unfeed(&reason);
                }
            }
        }
    }
}

impl Joined {
    fn begin(link: Link) -> Self {
        let form = link.sender.form();
        let mut batch = Batch::new(form);
        let hello = Hello { name: NAME.into(), capabilities: Capabilities::NONE, ..Hello::default() };
        batch.push(&Header::new(Kind::Hello, 0, 0), &ContentRef::of_payload(&hello.encode()));
        let now = Instant::now();
        let incoming = Incoming::new(form, limits::FRAME_LIMIT_MAX);
        Self { link, incoming, batch, is_blocked: false, interval: None, heard: now, sent: now, pings: 0 }
    }

    /// # Errors
    /// Why the session has ended.
    async fn step(&mut self, consumer: &Consumer) -> BusResult<()> {
        self.take(consumer)?;
        if self.interval.is_some() {
            consumer.feed(&mut self.batch);
        }
        let due = self.due();
        let timer = sleep_until(due);
        tokio::pin!(timer);
        let timed_out = poll_fn(|context| {
            let was_full = self.batch.size() >= limits::CONSUMER_LINK_BATCH;
            let is_sent = self.poll_send(context)?.is_ready();
            // There may be more to be sent.
            if is_sent && was_full {
                return Poll::Ready(Ok(false));
            }
            if self.poll_receive(context)?.is_ready() {
                return Poll::Ready(Ok(false));
            }
            timer.as_mut().poll(context).map(|()| BusResult::Ok(true))
        });
        if timed_out.await? {
            self.give_sign_of_life()?;
        }
        Ok(())
    }

    /// When a sign of life is due, or the other bus has been silent for too long.
    fn due(&self) -> Instant {
        match self.interval {
            None => self.heard + limits::CONSUMER_LINK_OPENS,
            Some(interval) => (self.sent + interval).min(self.heard + interval * limits::KEEP_ALIVE_MISSED),
        }
    }

    fn give_sign_of_life(&mut self) -> BusResult<()> {
        let silence = match self.interval {
            None => limits::CONSUMER_LINK_OPENS,
            Some(interval) => interval * limits::KEEP_ALIVE_MISSED,
        };
        if self.heard.elapsed() >= silence {
            let reason = format!("the bus that has the consumer was silent for {silence:?}");
            return Err(BusError::Disconnected { reason });
        }
        self.pings += 1;
        self.sent = Instant::now();
        self.batch.push(&Header::new(Kind::Ping, 0, self.pings), &ContentRef::empty());
        Ok(())
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<BusResult<()>> {
        while !self.batch.is_empty() {
            if std::mem::take(&mut self.is_blocked)
                && self.link.sender.poll_ready(context).map_err(broken)?.is_pending()
            {
                self.is_blocked = true;
                return Poll::Pending;
            }
            self.is_blocked = self.link.sender.try_send(&mut self.batch).map_err(broken)? == Sent::Blocked;
            self.sent = Instant::now();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<BusResult<()>> {
        let received = self.link.receiver.poll_receive(context, &mut self.incoming);
        received.map(|received| match received.map_err(broken)? {
            0 => Err(BusError::Disconnected {
                reason: "the bus that has the consumer has closed the link".into(),
            }),
            _ => {
                self.heard = Instant::now();
                Ok(())
            }
        })
    }

    /// Takes what has come.
    fn take(&mut self, consumer: &Consumer) -> BusResult<()> {
        let mut touched = BTreeSet::new();
        let Self { incoming, batch, interval, .. } = self;
        while let Some((header, content)) = incoming.next_frame()? {
            match (header.kind, header.answers()) {
                (Kind::Welcome, _) => {
                    let welcome = Welcome::decode(content.payload())?;
                    *interval = Some(welcome.keep_alive);
                }
                (Kind::Ping, _) => {
                    batch.push(&Header::new(Kind::Pong, 0, header.sequence), &ContentRef::empty());
                }
                (Kind::Deliver, _) => {
                    consumer.came(header.id, Came::Message(content.shared()));
                    touched.insert(header.id);
                }
                (Kind::Gap, _) => {
                    let (count, reason) = decode_gap(content.payload())?;
                    consumer.came(header.id, Came::Gap(count, reason));
                    touched.insert(header.id);
                }
                (Kind::Ended, Some(Kind::Subscribe)) => {
                    if !content.payload().is_empty() {
                        return Err(Refusal::decode(content.payload())?.into_error());
                    }
                    if !consumer.is_drained(header.id) {
                        return Err(BusError::Closed { what: consumer.label() });
                    }
                    consumer.came(header.id, Came::End);
                    touched.insert(header.id);
                }
                (Kind::Accepted, Some(Kind::Ack)) => consumer.answered(&header, &Ok(())),
                (Kind::Failed, Some(Kind::Ack)) => {
                    let error = Refusal::decode(content.payload())?.into_error();
                    consumer.answered(&header, &Err(error));
                }
                (Kind::Failed, Some(Kind::Subscribe)) => {
                    consumer.refused(header.id, Refusal::decode(content.payload())?.into_error())?;
                }
                (Kind::Goodbye, _) => return Err(Refusal::decode(content.payload())?.into_error()),
                // What is of no account to a session that only takes part.
                _ => {}
            }
        }
        incoming.settle();
        for id in touched {
            consumer.hand_on(id);
        }
        Ok(())
    }
}

impl Drop for Joined {
    /// Says goodbye, as far as the link takes it at once.
    fn drop(&mut self) {
        let goodbye = Refusal::from(&BusError::Closed { what: "the session".into() }).encode();
        self.batch.push(&Header::new(Kind::Goodbye, 0, 0), &ContentRef::of_payload(&goodbye));
        // It is closed in any case.
        let _ = self.link.sender.try_send(&mut self.batch);
        self.link.sender.close();
    }
}

impl Consumer {
    /// Has those that have come take part at the other bus, and passes on what members have to say.
    fn feed(&self, batch: &mut Batch) {
        let (mut new, mut waiting) = (Vec::new(), Vec::new());
        {
            let mut state = self.lock();
            let rules = state.rules;
            for member in &mut state.members {
                let Some(fed_as) = member.fed_as() else { continue };
                let takes_part = member.is_accepted && !member.is_drained && !member.is_left_out();
                match &mut member.fed {
                    None if takes_part => {
                        new.push((member.id, fed_as, Arc::clone(&member.session), member.slot, rules));
                    }
                    None => {}
                    Some(fed) => {
                        if let Some((messages, bytes)) = fed.take_grant() {
                            let header = Header::new(Kind::Credit, messages, u64::from(fed_as))
                                .flagged(Flags(Lane::Subscription as u8));
                            batch.push(&header, &ContentRef::of_payload(&bytes.to_le_bytes()));
                        }
                        if fed.is_waiting() {
                            waiting.push(fed_as);
                        }
                    }
                }
            }
        }
        for (id, fed_as, session, slot, rules) in new {
            let Some(window) = self.begin_to_feed(id, &session, slot) else { continue };
            // It fits, and the stream is open, or nobody would take part.
            if let Ok(fields) = self.described(rules, window) {
                let content = ContentRef::lent(&fields, self.pattern.as_str().as_bytes(), &[]);
                batch.push(&Header::new(Kind::Subscribe, fed_as, 0), &content);
            }
        }
        for id in waiting {
            self.hand_on(id);
        }
        let mut state = self.lock();
        while batch.size() < limits::CONSUMER_LINK_BATCH
            && let Some((header, payload)) = state.outgoing.pop()
        {
            batch.push(&header, &ContentRef::of_payload(&payload));
        }
    }

    /// What is asked for a member with this window.
    fn described(&self, rules: DeliveryRules, window: (u32, u64)) -> BusResult<Vec<u8>> {
        let mut fields = FieldsBuilder::new();
        fields.group(self.name.as_ref().map_or("", Name::as_str))?;
        fields.quality(Quality::AtLeastOnce)?;
        // Nothing waits at that bus that is not in its stream.
        fields.policy(Policy::DropNewest)?;
        fields.start(Start::New)?;
        fields.epoch(self.stream.epoch()?)?;
        fields.delivery(rules)?;
        fields.window(window.0, window.1)?;
        Ok(fields.finish())
    }

    /// Notes that a member is fed from here on. Returns its window; `None` where it has gone.
    fn begin_to_feed(&self, id: MemberId, session: &Arc<Session>, slot: Slot) -> Option<(u32, u64)> {
        let mut own = session.lock();
        // What its client grants counts before or behind this.
        let subscription = own.subscriptions.at(slot)?;
        let (window, credit) = (subscription.window, subscription.credit);
        let mut state = self.lock();
        let member = state.member(id)?;
        member.fed = Some(Fed::new(session, window, credit, member.handed));
        Some(window)
    }

    /// Whether the end of a member's subscription there is its own doing, or nobody's any more.
    fn is_drained(&self, id: u32) -> bool {
        self.lock().fed(id).is_none_or(|member| member.is_drained)
    }

    /// Something has come for a member, unless that has gone.
    fn came(&self, id: u32, came: Came) {
        if let Some(fed) = self.lock().fed(id).and_then(|member| member.fed.as_mut()) {
            fed.push(came);
        }
    }

    /// Hands a member what has come, as far as it has credit and room.
    fn hand_on(&self, id: u32) {
        let place = self.lock().fed(id).map(|member| (Arc::clone(&member.session), member.slot));
        let Some((session, slot)) = place else { return };
        let mut state = session.lock();
        let mut has_ended = false;
        // Where it has none it is noted, and gone on with when it has.
        if state.has_room_for_readers() {
            let SessionState { subscriptions, lanes, totals, .. } = &mut *state;
            let Some(subscription) = subscriptions.at(slot) else { return };
            let mut own = self.lock();
            let Some(member) = own.fed(id) else { return };
            let super::Member { fed: Some(fed), handed, .. } = member else { return };
            while lanes.has_room()
                && let Some(came) = fed.next(subscription.credit.is_left())
            {
                match came {
                    Came::Message(content) => {
                        *handed += 1;
                        subscription.matched += 1;
                        totals.matched += 1;
                        subscription.deliver(&content.borrowed(), lanes, totals);
                    }
                    Came::Gap(count, reason) => subscription.miss(count, reason, lanes, totals),
                    Came::End => has_ended = true,
                }
            }
            let is_waiting = fed.is_waiting();
            drop(own);
            if is_waiting {
                state.has_room_for_readers();
            }
        }
        if has_ended {
            state.end_drained(slot);
        }
        drop(state);
        session.flush();
    }

    /// The other bus has answered to what a member has said of a message.
    fn answered(&self, header: &Header, result: &BusResult<()>) {
        let waiting =
            self.lock().fed(header.id).and_then(|member| member.fed.as_mut()?.answered(header.sequence));
        self.tell(waiting.into_iter().collect(), result);
    }

    /// The other bus does not let a member take part.
    ///
    /// # Errors
    /// That it does not have the consumer, or drains and feeds nobody else here.
    fn refused(&self, id: u32, error: BusError) -> BusResult<()> {
        let is_over = match error {
            BusError::Closed { .. } => true,
            // Those that it feeds are to finish there what they have.
            BusError::Draining { .. } => self.lock().feeds_nobody_but(MemberId::from(id)),
            _ => false,
        };
        if is_over {
            return Err(error);
        }
        let refused = self.lock().fed(id).and_then(|member| {
            let mut fed = member.fed.take()?;
            member.left_out = Some(Instant::now());
            let place = (Arc::clone(&member.session), member.slot, member.subscription);
            Some((place, fed.take_confirmations(), member.is_drained))
        });
        let Some(((session, slot, subscription), waiting, is_drained)) = refused else { return Ok(()) };
        let consumer = self.label();
        tracing::debug!(consumer, %error, "a member is not fed by the bus that has it");
        let told = format!(
            "the bus that has {consumer} has not let its member take part ({error}), and has not said so"
        );
        self.tell(waiting, &Err(BusError::NotStored { reason: told }));
        // As where both are at one bus.
        if matches!(error, BusError::InvalidSettings(_)) {
            session.lock().end_with(subscription, &error);
            session.flush();
        } else if is_drained {
            // Nothing comes any more. Any other one is tried again.
            session.lock().end_drained(slot);
            session.flush();
        }
        Ok(())
    }

    /// The other bus feeds nobody any more. What it has not written comes again. Who waits to hear of that is told that nobody here knows.
    fn unfeed(&self, reason: &BusError) {
        let (waiting, drained) = self.lock().unfeed();
        let consumer = self.label();
        tracing::debug!(consumer, %reason, "the bus that has it feeds its members here no more");
        let told = format!(
            "the bus that had {consumer} is gone ({reason}), and has not said so: the message comes again unless it was"
        );
        self.tell(waiting, &Err(BusError::NotStored { reason: told }));
        for (session, slot) in drained {
            session.lock().end_drained(slot);
            session.flush();
        }
    }
}

fn broken(error: std::io::Error) -> BusError {
    BusError::Disconnected { reason: error.to_string() }
}
