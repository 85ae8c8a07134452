//! Subscriptions that acknowledge what they are handed.
//!
//! A consumer reads a stream for one subscription, or for a group of them that share its messages. One that has a name
//! keeps its position in the store, and goes on there whoever comes next. What is to be done when is the ledger's to say
//! (`ledger`); the consumer's task does it (`task`): it reads the log (`reading`), hands messages to members that have credit (`handing`) as far
//! as plugins let them have these (`judging`), writes what is done, and puts away what has failed too often (`dead`). How much may be known of what is not done is `remembered`'s to say. What members' clients say comes by `told`. The
//! task ends with the last member. Where buses share a store, a consumer is one bus's at a time; its members at others wait (`elsewhere`), and are fed by that
//! bus meanwhile where there is a link to it (`across`, `fed`).
//!
//! Locks are taken in this order: the registry of a stream, a session, a consumer.

mod across;
mod dead;
mod elsewhere;
mod fed;
mod handing;
mod judging;
mod ledger;
#[cfg(test)]
mod model;
mod reading;
mod registry;
mod remembered;
mod task;
mod told;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::fed::{Fed, Outgoing};
use self::ledger::{Ledger, MemberId};
use self::registry::Reserved;
pub(crate) use self::registry::{Claim, Consumers, Held};
use self::remembered::{Kind as MessageKind, Remembered};
use self::told::Answers;
pub(crate) use self::told::{Answer, Told};
use super::Stream;
use crate::bus::presence::Presence;
use crate::bus::session::Session;
use crate::bus::subscription::Slot;
use crate::bus::wishes::Wishing;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::plugin::{self, Acknowledged, Hooks, Plugins};
use crate::proto::Kind;
use crate::proto::fields::{DeliveryRules, Epoch, Start};
use crate::store::Name;
use crate::topic::TopicPattern;
use crate::transport::Part;

/// What a subscription asks for that acknowledges.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// The consumer that keeps its position; without a name it lives with the subscription.
    pub(crate) name: Option<Name>,
    /// Others may share it.
    pub(crate) is_shared: bool,
    pub(crate) pattern: TopicPattern,
    pub(crate) start: Start,
    /// The epoch of the stream that it knows; `None` for whichever there is.
    pub(crate) epoch: Option<Epoch>,
    pub(crate) rules: DeliveryRules,
    /// Who asks for it.
    pub(crate) claim: Claim,
}

/// Where a consumer begins whose position nobody keeps.
#[derive(Debug, Clone, Copy)]
struct First {
    start: Start,
    /// Who asks for it knows the epoch that the start is of.
    knows_epoch: bool,
}

/// One consumer.
#[derive(Debug)]
pub(crate) struct Consumer {
    name: Option<Name>,
    is_shared: bool,
    stream: Arc<Stream>,
    pattern: TopicPattern,
    /// Who came first.
    claim: Claim,
    state: Mutex<State>,
    /// Told of acknowledgements, of credit, of room and of members.
    changed: Notify,
    plugins: Option<Arc<Plugins>>,
    presence: Arc<Presence>,
    /// Brings links to other buses.
    wishing: Arc<Wishing>,
}

#[derive(Debug, Default)]
struct State {
    /// Once it has been read from the store.
    ledger: Option<Ledger>,
    rules: DeliveryRules,
    members: Vec<Member>,
    last_member: MemberId,
    /// Who is to be told when what has been told to the ledger is written.
    confirmations: Vec<Confirmation>,
    /// Who is to be told when a message is done.
    when_done: BTreeMap<u64, Vec<Confirmation>>,
    /// How many answers are owed in all.
    answers: Answers,
    /// What counts of messages that nobody has.
    unheld: Option<Remembered>,
    /// How many of them a store is to write that has not yet.
    being_written: usize,
    /// The store has not taken what was to be written, and it is to be written again.
    is_refused: bool,
    /// How far the ledger was when it was last looked which of them are done.
    noted_next: u64,
    /// Another bus has it.
    is_elsewhere: bool,
    /// What members have to say to that bus.
    outgoing: Outgoing,
    /// It takes nobody any more.
    is_over: bool,
    /// What the registry has of it that the store may not have yet.
    reserved: Option<Reserved>,
    /// What plugins are told when it is written.
    acknowledged: Vec<Acknowledged>,
}

/// A subscription that takes part.
#[derive(Debug)]
struct Member {
    id: MemberId,
    session: Arc<Session>,
    slot: Slot,
    subscription: u32,
    /// Its client has been told that it takes part.
    is_accepted: bool,
    /// Its client knows another stream than there is, and is to be told so behind that.
    knows_another: bool,
    /// It is handed nothing more, and is gone when it has no message left.
    is_drained: bool,
    /// What counts of the messages that it has.
    remembered: Remembered,
    /// Messages that it was handed.
    handed: u64,
    /// Messages that its application is known to have taken.
    taken: u64,
    /// The last of its messages that it has acknowledged.
    acknowledged: u64,
    /// How many of its messages its application has taken, as its client says where it ends the subscription.
    told_at_end: Option<u64>,
    /// What is known of it where another bus has the consumer and feeds it.
    fed: Option<Fed>,
    /// When that bus has refused to, which it is asked again a while later.
    left_out: Option<Instant>,
}

impl Member {
    /// Which of its messages it may have begun with: what its application has taken, and the one behind the last that
    /// it has acknowledged, unless its client says that it has not taken that.
    fn begun(&self) -> u64 {
        let behind = self.acknowledged + 1;
        let is_taken = self.told_at_end.is_none_or(|taken| taken >= behind);
        self.taken.max(if is_taken { behind } else { self.acknowledged })
    }
}

/// What draining a member comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drained {
    /// It has no message, and ends as any subscription.
    NothingLeft,
    /// It stays until its messages are acknowledged, refused or somebody else's.
    SomeLeft,
    /// The same, and some may be on their way from another bus: it is ended behind these.
    SomeToCome,
}

/// A subscription whose session is lost, and that session.
type Ghost = (Arc<Session>, u32);

/// Somebody who waits for an acknowledgement to be kept.
#[derive(Debug)]
struct Confirmation {
    member: MemberId,
    session: Arc<Session>,
    subscription: u32,
    /// What its frame has said.
    sequence: u64,
}

impl Confirmation {
    fn tell(self, result: &Result<(), BusError>) {
        let mut state = self.session.lock();
        match result {
            Ok(()) => state.accept(Kind::Ack, self.subscription, self.sequence),
            Err(error) => state.fail(Kind::Ack, self.subscription, self.sequence, error),
        }
        drop(state);
        self.session.flush();
    }
}

/// A subscription's part in a consumer. It ends with it.
#[derive(Debug)]
pub(crate) struct Membership {
    consumer: Arc<Consumer>,
    id: MemberId,
    /// Who takes part, as owners are kept.
    owner: Bytes,
}

impl Membership {
    /// There is credit or room again.
    pub(crate) fn go_on(&self) {
        self.consumer.changed.notify_one();
    }

    /// The application has taken so many more, of so many bytes: no more than its credit was short of, as another bus that feeds it is granted that.
    pub(crate) fn taken(&self, messages: u32, bytes: u64) {
        if let Some(member) = self.consumer.lock().member(self.id) {
            member.taken = member.handed.min(member.taken.saturating_add(u64::from(messages)));
            if let Some(fed) = &mut member.fed {
                fed.grant(messages, bytes);
            }
        }
    }

    /// Its client ends it, and says how many messages the application has taken of those that it was handed.
    pub(crate) fn ended_by_client(&self, taken: u64) {
        if let Some(member) = self.consumer.lock().member(self.id) {
            member.told_at_end = Some(taken.min(member.handed));
        }
    }

    /// Hands it nothing more.
    pub(crate) fn drain(&self) -> Drained {
        let mut state = self.consumer.lock();
        if state.drain_fed(self.id) {
            drop(state);
            self.consumer.changed.notify_one();
            return Drained::SomeToCome;
        }
        let has_some = state.ledger.as_ref().is_some_and(|ledger| ledger.has_any(self.id));
        let Some(member) = state.member(self.id).filter(|member| member.is_accepted && has_some) else {
            return Drained::NothingLeft;
        };
        member.is_drained = true;
        Drained::SomeLeft
    }

    /// The durable consumer, if it is one.
    pub(crate) fn held(&self) -> Option<Held> {
        Held::of(self)
    }

    /// What may tell it of acknowledgements.
    pub(crate) fn told(&self) -> Told {
        Told { consumer: Arc::clone(&self.consumer), member: self.id }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.consumer.leave(self.id);
    }
}

/// Takes part for the subscription in this slot. Its client is answered by the consumer's task.
///
/// # Errors
/// [`BusError::Denied`] for a consumer of somebody else, [`BusError::ConsumerBusy`], [`BusError::LimitReached`],
/// [`BusError::NotStored`] for a stream that is not open, [`BusError::InvalidSettings`] for a consumer that is another than is
/// asked for, and [`BusError::Closed`] where another bus asks for one that this bus does not have.
pub(crate) fn join(
    stream: &Arc<Stream>,
    wanted: Wanted,
    (session, slot, subscription): (&Arc<Session>, Slot, u32),
    runtime: &Handle,
    (plugins, presence, wishing): (Option<Arc<Plugins>>, &Arc<Presence>, &Arc<Wishing>),
) -> BusResult<Membership> {
    let own_epoch = stream.epoch()?;
    let knows_another = wanted.epoch.is_some_and(|epoch| epoch != own_epoch);
    let is_of_bus = session.peer.part == Part::Sharing;
    let first = First {
        // All of a stream that nobody has read yet is new.
        start: if knows_another { Start::All } else { wanted.start },
        knows_epoch: wanted.epoch.is_some(),
    };
    let member = Member {
        id: 0,
        session: Arc::clone(session),
        slot,
        subscription,
        is_accepted: false,
        knows_another,
        is_drained: false,
        remembered: Remembered::of(session),
        handed: 0,
        taken: 0,
        acknowledged: 0,
        told_at_end: None,
        fed: None,
        left_out: None,
    };
    let Some(name) = wanted.name.clone() else {
        let consumer = Consumer::new(stream, &wanted, plugins, presence, wishing);
        let id = consumer.lock().admit(member);
        consumer.begin(first, runtime);
        return Ok(Membership { consumer, id, owner: wanted.claim.owner() });
    };
    let owner = wanted.claim.owner();
    let mut registry = stream.consumers.lock();
    // First of all: whose it is not learns nothing else of it, and is in nobody's way.
    registry.check(&stream.name, &name, &wanted.claim)?;
    if is_of_bus && (knows_another || !stream.is_shared() || !registry.hands_out(name.as_str())) {
        return Err(BusError::Closed { what: format!("the consumer \"{name}\" at this bus") });
    }
    if let Some(consumer) = registry.busy.get(&name) {
        let joined = consumer.take_in(member, &wanted);
        let consumer = Arc::clone(consumer);
        drop(registry);
        let (id, ghosts) = joined?;
        for (session, subscription) in ghosts {
            let mut state = session.lock();
            state.end_with(subscription, &BusError::TakenOver { topic: wanted.pattern.to_string() });
            drop(state);
            session.flush();
        }
        consumer.changed.notify_one();
        return Ok(Membership { consumer, id, owner });
    }
    let reserved = registry.reserve(&name, &wanted.claim)?;
    let consumer = Consumer::new(stream, &wanted, plugins, presence, wishing);
    let id = {
        let mut state = consumer.lock();
        state.reserved = reserved;
        state.admit(member)
    };
    registry.busy.insert(name, Arc::clone(&consumer));
    drop(registry);
    consumer.begin(first, runtime);
    Ok(Membership { consumer, id, owner })
}

impl Consumer {
    fn new(
        stream: &Arc<Stream>,
        wanted: &Wanted,
        plugins: Option<Arc<Plugins>>,
        presence: &Arc<Presence>,
        wishing: &Arc<Wishing>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: wanted.name.clone(),
            is_shared: wanted.is_shared,
            stream: Arc::clone(stream),
            pattern: wanted.pattern.clone(),
            claim: wanted.claim.clone(),
            state: Mutex::new(State { rules: wanted.rules, ..State::default() }),
            changed: Notify::new(),
            plugins,
            presence: Arc::clone(presence),
            wishing: Arc::clone(wishing),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One member more. Those that it takes the place of are returned.
    fn take_in(&self, member: Member, wanted: &Wanted) -> BusResult<(MemberId, Vec<Ghost>)> {
        let name = || wanted.name.as_ref().map_or_else(String::new, ToString::to_string);
        let is_busy = !(self.is_shared && wanted.is_shared);
        // Whether sessions are lost is asked before the consumer is locked.
        let members: Vec<_> = {
            let state = self.lock();
            // Those that are as good as gone are in nobody's way.
            let own = state.members.iter().filter(|member| !state.is_done_with(member));
            own.map(|member| (member.id, Arc::clone(&member.session), member.subscription)).collect()
        };
        let (lost, living): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|(_, session, _)| session.lock().is_lost());
        if is_busy && !living.is_empty() {
            return Err(BusError::ConsumerBusy { consumer: name() });
        }
        if self.pattern != wanted.pattern {
            return Err(another_pattern(&name(), &self.pattern));
        }
        let mut state = self.lock();
        if !living.is_empty() && state.rules != wanted.rules {
            return Err(other_rules(&name(), &state.rules, &wanted.rules));
        }
        if state.members.len() >= limits::CONSUMER_MEMBERS {
            let what = format!("a consumer has at most {} subscriptions", limits::CONSUMER_MEMBERS);
            return Err(BusError::LimitReached { what });
        }
        state.rules = wanted.rules;
        if let Some(ledger) = &mut state.ledger {
            ledger.follow(wanted.rules);
        }
        let ghosts = lost.into_iter().filter(|_| is_busy);
        Ok((state.admit(member), ghosts.map(|(_, session, subscription)| (session, subscription)).collect()))
    }

    /// Notes an acknowledgement that plugins want to know of.
    fn note_for_plugins(&self, state: &mut State, session: &Session, sequence: u64) {
        if self.plugins.as_ref().is_some_and(|plugins| plugins.want(Hooks::ACK)) {
            let name = self.name.as_ref().map_or("", Name::as_str);
            let (id, peer) = (session.id, &session.peer);
            let session = plugin::Session::new(id, &*session.name, peer.principal.clone(), peer.transport);
            state.acknowledged.push(Acknowledged::new(session, self.stream.name.as_str(), name, sequence));
        }
    }

    /// Begins to work, until its last member is gone.
    fn begin(self: &Arc<Self>, first: First, runtime: &Handle) {
        let working = self.stream.consumers.begin();
        let work = Arc::clone(self).run(first);
        runtime.spawn(async move {
            work.await;
            drop(working);
        });
    }

    fn leave(&self, id: MemberId) {
        let mut state = self.lock();
        if let Some(index) = state.members.iter().position(|member| member.id == id) {
            let mut member = state.members.remove(index);
            state.forget_waiting(id);
            state.end_fed(&mut member);
            if let Some(ledger) = &mut state.ledger {
                ledger.leave(id, member.begun(), Instant::now());
            }
            state.count();
        }
        drop(state);
        self.changed.notify_one();
    }

    /// How it is called in errors.
    fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("the consumer \"{name}\" of the stream \"{}\"", self.stream.name),
            None => format!("a subscription to \"{}\"", self.pattern),
        }
    }
}

/// A durable consumer reads the topics that it was made for.
fn another_pattern(name: &str, pattern: &TopicPattern) -> BusError {
    BusError::InvalidSettings(format!(
        "the consumer \"{name}\" reads \"{pattern}\"; take that, another name, or remove it first"
    ))
}

/// Those who share a consumer have its rules in common.
fn other_rules(name: &str, rules: &DeliveryRules, wanted: &DeliveryRules) -> BusError {
    let differing = [
        ("ack_wait", format!("{:?}", rules.ack_wait), format!("{:?}", wanted.ack_wait)),
        ("max_deliver", rules.max_deliver.to_string(), wanted.max_deliver.to_string()),
        ("max_pending", rules.max_pending.to_string(), wanted.max_pending.to_string()),
    ];
    let differing = differing.into_iter().filter(|(_, is, wanted)| is != wanted);
    let told: Vec<_> =
        differing.map(|(what, is, wanted)| format!("{what} of {is} and not {wanted}")).collect();
    BusError::InvalidSettings(format!(
        "the group \"{name}\" has {}; ask for the same, or end its other subscriptions first: who comes to a group without \
         any says what its settings are",
        told.join(", ")
    ))
}

impl State {
    fn admit(&mut self, mut member: Member) -> MemberId {
        self.last_member += 1;
        member.id = self.last_member;
        self.members.push(member);
        self.last_member
    }

    /// Takes back what members have not acknowledged in time.
    fn expire(&mut self, now: Instant) -> BusResult<()> {
        let Self { ledger, members, .. } = self;
        let ledger = ledger.as_mut().ok_or_else(task::not_opened)?;
        if ledger.next_due_at().is_some_and(|due| due <= now) {
            let begun: HashMap<MemberId, u64> =
                members.iter().map(|member| (member.id, member.begun())).collect();
            ledger.expire(now, |member| begun.get(&member).copied().unwrap_or(u64::MAX));
        }
        Ok(())
    }

    /// What the next message of a stream that ends here waits for.
    fn waits_for(&self, end: u64, is_shared: bool) -> Option<&'static str> {
        if self.is_elsewhere {
            return self.members.iter().all(|member| member.fed.is_none()).then_some("bus");
        }
        let (ledger, sharers) = (self.ledger.as_ref()?, self.sharers(is_shared));
        let is_held_up = |member: &Member| ledger.room_for(member.id, sharers) == 0;
        match ledger {
            _ if self.is_refused || ledger.owes_too_much() => Some("store"),
            _ if ledger.next() >= end => None,
            _ if ledger.is_too_far() => Some("floor"),
            _ if ledger.withholds_too_much() => Some("withheld"),
            _ if !self.members.is_empty() && self.members.iter().all(is_held_up) => Some("pending"),
            _ if self.is_short(is_shared)
                && self.hearing().all(|member| self.may_know(member, MessageKind::Fresh) == 0) =>
            {
                Some("memory")
            }
            _ => None,
        }
    }

    /// How many members share the messages now, of a consumer that can be shared.
    fn sharers(&self, is_shared: bool) -> Option<usize> {
        is_shared.then(|| self.hearing().count())
    }

    fn is_done_with(&self, member: &Member) -> bool {
        if let Some(fed) = &member.fed {
            return member.is_drained && fed.has_nothing_left();
        }
        member.is_drained && self.ledger.as_ref().is_none_or(|ledger| !ledger.has_any(member.id))
    }

    /// Drained members that have no message any more, by their sessions.
    fn done_with(&self) -> Vec<(Arc<Session>, Slot, u32)> {
        let done = self.members.iter().filter(|member| self.is_done_with(member));
        done.map(|member| (Arc::clone(&member.session), member.slot, member.subscription)).collect()
    }

    fn member(&mut self, id: MemberId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.id == id)
    }
}
