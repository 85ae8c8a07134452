//! A session's subscriptions at the bus: credit, sequence and what waits.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::backlog::{Backlog, Next, Overdue, Patience, Verdict};
use super::deadlines::Deadlines;
use super::group::Group;
use super::hold::Holds;
use super::presence::{Present, Watching};
use super::stats::Totals;
use super::streams::Cursor;
use super::table::Room;
use crate::proto::fields::{GapReason, Policy, encode_gap};
use crate::proto::{ContentRef, Credit, Header, Kind};
use crate::topic::{EntryId, TopicPattern};
use crate::transport::{EncodedRun, Form, Lanes};

/// One subscription.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) id: u32,
    /// What it takes of the table budget.
    pub(crate) room: Room,
    pub(crate) pattern: TopicPattern,
    pub(crate) policy: Policy,
    pub(crate) no_echo: bool,
    /// Its place in the routing table, once it is there; members of a group share the group's.
    pub(crate) entry: Option<EntryId>,
    pub(crate) group: Option<Arc<Group>>,
    pub(crate) window: (u32, u64),
    pub(crate) credit: Credit,
    /// Matches told to the subscriber so far: delivered, or within a gap.
    pub(crate) sequence: u64,
    pub(crate) backlog: Backlog,
    /// Matches so far, told or not; counted apart from what became of them.
    pub(crate) matched: u64,
    pub(crate) delivered: u64,
    pub(crate) dropped: [u64; GapReason::ALL.len()],
    /// It ends once its backlog is empty.
    pub(crate) draining: bool,
    /// What its session has noted of its backlog.
    pub(crate) noted: Noted,
    /// What reads its stream, where it is to one.
    pub(crate) cursor: Option<Cursor>,
    /// What shows that it is there, once it is accepted.
    pub(crate) present: Option<Present>,
    /// It hears who comes and goes.
    pub(crate) _watching: Option<Watching>,
}

/// What a session notes of a subscription with a backlog, so that it finds those without a search.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    /// It is among those with a backlog.
    waits: bool,
    /// The time that is noted for it.
    due: Option<Instant>,
}

/// What became of messages that were offered to one subscription.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// So many matched: all, unless the subscription ends.
    pub(crate) matched: u64,
    /// Some wait or were counted, and whoever keeps the times has to note it: the session of a
    /// subscription, the sweeper of a group.
    pub(crate) unnoted: bool,
    /// The subscription is to be ended for falling behind.
    pub(crate) ends: bool,
}

/// Messages of one publisher to one topic, on their way to their matches.
#[derive(Debug)]
pub(crate) struct Offered<'a> {
    pub(crate) contents: &'a [ContentRef<'a>],
    /// Bytes of their frames.
    pub(crate) bytes: usize,
    /// Some are values of this process.
    pub(crate) values: bool,
    /// Their frames, where several links take them.
    pub(crate) encoded: Option<&'a EncodedRun>,
    /// The session they come from.
    pub(crate) publisher: u64,
    pub(crate) patience: Patience<'a>,
}

impl Subscription {
    /// Delivers the messages as far as there is credit, and leaves the others to the policy. What is
    /// kept without holding anybody's credit may take `room` bytes.
    #[inline]
    pub(crate) fn offer(
        &mut self,
        offered: &Offered<'_>,
        lanes: &mut Lanes,
        totals: &mut Totals,
        room: usize,
        holds: &mut Holds,
    ) -> Outcome {
        let passing = self.passing(offered, lanes);
        self.matched += passing as u64;
        self.deliver_first(passing, offered, lanes, totals);
        let mut outcome = Outcome { matched: passing as u64, ..Outcome::default() };
        for (index, content) in offered.contents.iter().enumerate().skip(passing) {
            self.matched += 1;
            outcome.matched += 1;
            let has_room = self.backlog.bytes() < room;
            let holds = &mut *holds;
            match self
                .backlog
                .offer(content, offered.publisher, offered.patience, has_room, move || holds.hold(index))
            {
                Verdict::Parked | Verdict::Kept => {}
                Verdict::Dropped(count, reason) => self.count_dropped(count, reason, totals),
                Verdict::End => {
                    outcome.ends = true;
                    return outcome;
                }
            }
        }
        outcome.unnoted = passing < offered.contents.len() && !self.is_noted();
        outcome
    }

    /// How many of the messages can be delivered now.
    #[inline]
    fn passing(&self, offered: &Offered<'_>, lanes: &Lanes) -> usize {
        if !self.backlog.is_empty() {
            return 0;
        }
        let messages = usize::try_from(self.credit.messages).unwrap_or(0).min(offered.contents.len());
        let mut credit = usize::try_from(self.credit.bytes).unwrap_or(0);
        let mut room = lanes.room_left();
        // A value that leaves the process takes what its bytes take.
        let encoded = offered.values && lanes.form() == Form::Bytes;
        if !encoded && offered.bytes < credit.min(room) {
            return messages;
        }
        let passes = |content: &&ContentRef<'_>| {
            let size = if encoded { content.encoded_size() } else { content.frame_size() };
            let passes = credit > 0 && room > 0;
            (credit, room) = (credit.saturating_sub(size), room.saturating_sub(size));
            passes
        };
        offered.contents.iter().take(messages).take_while(passes).count()
    }

    #[inline]
    fn deliver_first(&mut self, count: usize, offered: &Offered<'_>, lanes: &mut Lanes, totals: &mut Totals) {
        if count > 1
            && let Some(run) = offered.encoded
            && let Some(size) = lanes.data_run(run, count, self.id, self.sequence + 1)
        {
            self.sequence += count as u64;
            self.credit.spend_several(count, size);
            self.delivered += count as u64;
            totals.delivered += count as u64;
            totals.delivered_bytes += size as u64;
            return;
        }
        for content in offered.contents.iter().take(count) {
            self.deliver(content, lanes, totals);
        }
    }

    /// Whether its session knows of its backlog what it has to.
    fn is_noted(&self) -> bool {
        self.noted.waits && self.noted.due == self.backlog.next_expiry()
    }

    /// Queues a message on the link and spends credit for it.
    #[inline]
    pub(crate) fn deliver(&mut self, content: &ContentRef<'_>, lanes: &mut Lanes, totals: &mut Totals) {
        self.sequence += 1;
        let size = lanes.data(&Header::new(Kind::Deliver, self.id, self.sequence), content);
        self.credit.spend(size);
        self.delivered += 1;
        totals.delivered += 1;
        totals.delivered_bytes += size as u64;
    }

    /// Tells the subscriber of messages that it will not get.
    pub(crate) fn tell_gap(&mut self, count: u64, reason: GapReason, lanes: &mut Lanes) {
        self.sequence += count;
        let payload = encode_gap(count, reason);
        lanes.data(&Header::new(Kind::Gap, self.id, self.sequence), &ContentRef::of_payload(&payload));
    }

    pub(crate) fn count_dropped(&mut self, count: u64, reason: GapReason, totals: &mut Totals) {
        self.dropped[reason.index()] += count;
        totals.dropped[reason.index()] += count;
    }

    /// Delivers from the backlog as far as credit goes, and tells the gaps on the way. A gap costs no
    /// credit, and waits for some like the messages behind it.
    pub(crate) fn pump(&mut self, lanes: &mut Lanes, totals: &mut Totals) {
        if self.credit.is_left() {
            self.backlog.resume();
        }
        // The backlog lends what it delivers, so it is taken out meanwhile.
        let mut backlog = std::mem::replace(&mut self.backlog, Backlog::new(self.policy, self.window));
        while self.credit.is_left() && lanes.has_room() {
            match backlog.next(Instant::now) {
                Some(Next::Gap(count, reason)) => self.tell_gap(count, reason, lanes),
                Some(Next::Message(content)) => self.deliver(&content, lanes, totals),
                Some(Next::Expired) => {
                    self.count_dropped(1, GapReason::Expired, totals);
                    self.tell_gap(1, GapReason::Expired, lanes);
                }
                None => break,
            }
        }
        backlog.settle();
        self.backlog = backlog;
    }

    /// Takes over what waited for the group whose last member this was.
    pub(crate) fn inherit(&mut self, left: Backlog) {
        self.matched += left.messages() as u64;
        self.backlog = left;
    }

    /// Counts what waits as dropped and tells the gap.
    pub(crate) fn abandon(&mut self, lanes: &mut Lanes, totals: &mut Totals) {
        let dropped = self.backlog.abandon();
        self.count_dropped(dropped, GapReason::Link, totals);
        while let Some((count, reason)) = self.backlog.next_gap() {
            self.tell_gap(count, reason, lanes);
        }
    }

    /// Drops what has waited long enough; returns how many that were.
    pub(crate) fn expire(&mut self, now: Instant, totals: &mut Totals) -> Overdue {
        let dropped = self.backlog.expire(now);
        for (count, reason) in dropped.by_reason() {
            self.count_dropped(count, reason, totals);
        }
        dropped
    }

    /// Matches that were sent and whose credit has not come back.
    pub(crate) fn unacknowledged(&self) -> u64 {
        u64::try_from(i64::from(self.window.0) - self.credit.messages).unwrap_or(0)
    }
}

/// Where a subscription lies among its session's: routes point at it without a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot {
    index: u32,
    serial: u32,
}

/// The subscriptions of one session.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    slots: Slots,
    free: Vec<u32>,
    by_id: HashMap<u32, Slot, RandomState>,
    /// What all of them take of the table budget.
    table_bytes: usize,
    /// Places of those that have a backlog, or had one until a while ago.
    waiting: BTreeSet<u32>,
    /// Places of those that read a stream, or did until a while ago.
    cursors: BTreeSet<u32>,
    /// Where [`pump_in_turn`](Self::pump_in_turn) stopped.
    next_in_turn: u32,
    deadlines: Deadlines<Slot>,
}

type Slots = Vec<(u32, Option<Box<Subscription>>)>;

/// Whether that is the time noted for the subscription in that slot.
fn is_live(slots: &Slots, at: Instant, slot: Slot) -> bool {
    slots.get(slot.index as usize).is_some_and(|(serial, place)| {
        *serial == slot.serial && place.as_ref().is_some_and(|own| own.noted.due == Some(at))
    })
}

impl Subscriptions {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Bytes that all of them take of the table budget.
    pub(crate) fn table_bytes(&self) -> usize {
        self.table_bytes
    }

    /// A slot for tests that need no subscription in it.
    #[cfg(test)]
    pub(crate) fn any_slot() -> Slot {
        Slot { index: 0, serial: 0 }
    }

    pub(crate) fn contains(&self, id: u32) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(crate) fn slot(&self, id: u32) -> Option<Slot> {
        self.by_id.get(&id).copied()
    }

    /// Adds a subscription; its id must be new.
    pub(crate) fn insert(&mut self, subscription: Subscription) -> Slot {
        let id = subscription.id;
        self.table_bytes += subscription.room.bytes();
        let subscription = Some(Box::new(subscription));
        let slot = match self.free.pop() {
            Some(index) => {
                let (serial, place) = &mut self.slots[index as usize];
                *place = subscription;
                Slot { index, serial: *serial }
            }
            None => {
                self.slots.push((0, subscription));
                Slot { index: (self.slots.len() - 1) as u32, serial: 0 }
            }
        };
        self.by_id.insert(id, slot);
        slot
    }

    /// The subscription in that slot, if it is still the one that the slot was given for.
    #[inline]
    pub(crate) fn at(&mut self, slot: Slot) -> Option<&mut Subscription> {
        match self.slots.get_mut(slot.index as usize) {
            Some((serial, Some(subscription))) if *serial == slot.serial => Some(subscription),
            _ => None,
        }
    }

    pub(crate) fn by_id(&mut self, id: u32) -> Option<&mut Subscription> {
        let slot = self.slot(id)?;
        self.at(slot)
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<Subscription> {
        let slot = self.by_id.remove(&id)?;
        let (serial, place) = self.slots.get_mut(slot.index as usize)?;
        *serial = serial.wrapping_add(1);
        self.free.push(slot.index);
        let subscription = *place.take()?;
        self.table_bytes = self.table_bytes.saturating_sub(subscription.room.bytes());
        if subscription.noted.waits {
            self.waiting.remove(&slot.index);
        }
        if subscription.noted.due.is_some() {
            self.deadlines.call_off(|at, slot| is_live(&self.slots, at, slot));
        }
        Some(subscription)
    }

    /// Ids and slots of as many as there are, up to a limit.
    pub(crate) fn some(&self, limit: usize) -> Vec<(u32, Slot)> {
        self.by_id.iter().take(limit).map(|(id, slot)| (*id, *slot)).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.slots.iter().filter_map(|(_, place)| place.as_deref())
    }

    /// Takes all of them.
    pub(crate) fn take(&mut self) -> Vec<Subscription> {
        self.by_id.clear();
        self.table_bytes = 0;
        self.free.clear();
        self.waiting.clear();
        self.deadlines = Deadlines::default();
        std::mem::take(&mut self.slots)
            .into_iter()
            .filter_map(|(_, place)| place.map(|boxed| *boxed))
            .collect()
    }

    /// Messages that wait in all backlogs.
    pub(crate) fn parked_messages(&self) -> usize {
        let places = self.waiting.iter().filter_map(|index| self.slots.get(*index as usize));
        places.filter_map(|(_, place)| place.as_ref()).map(|own| own.backlog.messages()).sum()
    }

    /// Notes that the subscription has a backlog, and when something in it is due, which is returned.
    pub(crate) fn note(&mut self, slot: Slot) -> Option<Instant> {
        let own = self.at(slot)?;
        let due = own.backlog.next_expiry();
        let listed = std::mem::replace(&mut own.noted.waits, true);
        let before = std::mem::replace(&mut own.noted.due, due);
        if !listed {
            self.waiting.insert(slot.index);
        }
        if before != due {
            if let Some(at) = due {
                self.deadlines.add(at, slot);
            }
            if before.is_some() {
                self.deadlines.call_off(|at, slot| is_live(&self.slots, at, slot));
            }
        }
        due
    }

    /// When the first of the parked messages may have waited long enough.
    pub(crate) fn next_expiry(&mut self) -> Option<Instant> {
        self.deadlines.next(|at, slot| is_live(&self.slots, at, slot))
    }

    /// One of those in which something may have waited long enough. It is to be [noted](Self::note)
    /// again afterwards.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Slot> {
        let slot = self.deadlines.take_due(now, |at, slot| is_live(&self.slots, at, slot))?;
        self.at(slot)?.noted.due = None;
        Some(slot)
    }

    /// Calls `pump` for those with a backlog until it says that there is no room for more, and goes on
    /// behind the last one when it is called again.
    pub(crate) fn pump_in_turn(&mut self, mut pump: impl FnMut(&mut Subscription) -> bool) {
        let Self { slots, waiting, next_in_turn, .. } = self;
        for index in waiting.range(*next_in_turn..).chain(waiting.range(..*next_in_turn)) {
            let Some((_, Some(own))) = slots.get_mut(*index as usize) else { continue };
            if !own.backlog.is_empty() && !pump(own) {
                *next_in_turn = index.saturating_add(1);
                return;
            }
        }
    }

    /// Begins to read a stream for the subscription in that slot, if it is still there.
    pub(crate) fn read_stream(&mut self, slot: Slot, cursor: Cursor) {
        if let Some(subscription) = self.at(slot) {
            subscription.cursor = Some(cursor);
            self.cursors.insert(slot.index);
        }
    }

    /// Has those that read a stream look whether they can go on.
    pub(crate) fn wake_cursors(&mut self) {
        let Self { slots, cursors, .. } = self;
        cursors.retain(|index| match slots.get(*index as usize) {
            Some((_, Some(own))) => own.cursor.as_ref().map(Cursor::go_on).is_some(),
            _ => false,
        });
    }

    /// Lets those whose backlog has gone give back its memory.
    pub(crate) fn trim(&mut self) {
        let Self { slots, waiting, .. } = self;
        waiting.retain(|index| match slots.get_mut(*index as usize) {
            Some((_, Some(own))) if own.backlog.is_empty() => {
                own.backlog.trim();
                own.noted.waits = false;
                false
            }
            Some((_, place)) => place.is_some(),
            None => false,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::auth::Principal;
    use crate::bus::backlog::Asked;
    use crate::bus::budget::Budget;
    use crate::bus::clock::Clock;
    use crate::bus::session::Session;
    use crate::bus::table::TableBudget;
    use crate::proto::fields::decode_gap;
    use crate::transport::{Form, Incoming, Peer, Step, memory_pair};

    const BLOCK_LIMIT: Duration = Duration::from_secs(1);

    #[derive(Debug, Clone)]
    enum Action {
        /// Offers a message of so many bytes, whose publisher waits at most so many milliseconds, and that is of use
        /// for so many.
        Offer { bytes: usize, patience: Option<u64>, ttl: Option<u64> },
        /// The subscriber takes so many of the messages it has.
        Take(u32),
        /// So many milliseconds pass.
        Pass(u64),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            4 => (0usize..300, proptest::option::of(0u64..1_500), proptest::option::of(0u64..3_000))
                .prop_map(|(bytes, patience, ttl)| Action::Offer { bytes, patience, ttl }),
            2 => (1u32..6).prop_map(Action::Take),
            1 => (1u64..1_200).prop_map(Action::Pass),
        ]
    }

    /// A subscription without a bus, and the subscriber's view of what it sends.
    struct Bench {
        subscription: Subscription,
        lanes: Lanes,
        totals: Totals,
        holds: Holds,
        now: Instant,
        offered: u64,
        /// Messages that have arrived and not been taken, with their sizes.
        arrived: VecDequeOf,
        last_sequence: u64,
        last_payload: Option<u64>,
        gaps: u64,
        taken: u64,
    }

    type VecDequeOf = std::collections::VecDeque<usize>;

    impl Bench {
        fn new(policy: Policy, window: (u32, u64)) -> Self {
            let (end, _other) = memory_pair();
            let peer = Peer::new(Principal::Local, "memory");
            let budget = Arc::new(Budget::new(usize::MAX));
            let pattern = TopicPattern::new("a").unwrap();
            Self {
                subscription: Subscription {
                    id: 1,
                    room: Arc::new(TableBudget::new(usize::MAX)).reserve(&pattern, None, 0).unwrap(),
                    pattern,
                    policy,
                    no_echo: false,
                    entry: None,
                    group: None,
                    window,
                    credit: Credit::new(window),
                    sequence: 0,
                    backlog: Backlog::new(policy, window),
                    matched: 0,
                    delivered: 0,
                    dropped: [0; GapReason::ALL.len()],
                    draining: false,
                    noted: Noted::default(),
                    cursor: None,
                    present: None,
                    _watching: None,
                },
                lanes: Lanes::new(Form::Values),
                totals: Totals::default(),
                holds: Holds::new(Arc::new(Session::new(
                    1,
                    peer,
                    String::new(),
                    crate::proto::ResumeToken::new([0; 32]),
                    end.sender,
                    budget,
                    usize::MAX,
                ))),
                now: Instant::now(),
                offered: 0,
                arrived: VecDequeOf::new(),
                last_sequence: 0,
                last_payload: None,
                gaps: 0,
                taken: 0,
            }
        }

        fn act(&mut self, action: &Action) {
            match action {
                Action::Offer { bytes, patience, ttl } => self.offer(
                    *bytes,
                    Asked {
                        block_limit: patience.map(Duration::from_millis),
                        expires: ttl.map(|ttl| self.now + Duration::from_millis(ttl)),
                    },
                ),
                Action::Take(count) => self.take(*count),
                Action::Pass(millis) => {
                    self.now += Duration::from_millis(*millis);
                    if self.subscription.backlog.next_expiry().is_some_and(|at| at <= self.now) {
                        self.subscription.expire(self.now, &mut self.totals);
                        self.subscription.pump(&mut self.lanes, &mut self.totals);
                    }
                }
            }
            self.receive();
            self.check();
        }

        fn offer(&mut self, bytes: usize, publisher: Asked) {
            self.offered += 1;
            let mut payload = self.offered.to_le_bytes().to_vec();
            payload.resize(8 + bytes, 0);
            let content = ContentRef::lent(&[], b"a", &payload);
            let clock = Clock::at(self.now);
            let patience = Patience { clock: &clock, bus: BLOCK_LIMIT, publisher };
            let offered = Offered {
                bytes: content.frame_size(),
                contents: &[content],
                values: false,
                encoded: None,
                publisher: 1,
                patience,
            };
            let Self { subscription, lanes, totals, holds, .. } = self;
            subscription.offer(&offered, lanes, totals, usize::MAX, holds);
            holds.settle([offered.bytes].into_iter());
        }

        fn take(&mut self, count: u32) {
            let (mut messages, mut bytes) = (0, 0);
            for size in (0..count).map_while(|_| self.arrived.pop_front()) {
                messages += 1;
                bytes += size as u64;
            }
            self.taken += u64::from(messages);
            if messages > 0 {
                let window = self.subscription.window;
                self.subscription.credit.grant_within(messages, bytes, window);
                self.subscription.pump(&mut self.lanes, &mut self.totals);
            }
        }

        fn receive(&mut self) {
            let (bus_end, mut subscriber_end) = memory_pair();
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let mut incoming = Incoming::new(Form::Values, usize::MAX);
            let mut step = self.lanes.begin();
            while let Step::Write(mut batch) = step {
                let sent = bus_end.sender.try_send(&mut batch);
                step = self.lanes.finish(batch, &sent);
                let _ = subscriber_end.receiver.poll_receive(&mut context, &mut incoming);
                self.lanes.unblock();
            }
            while let Some((header, content)) = incoming.next_frame().unwrap() {
                match header.kind {
                    Kind::Deliver => {
                        assert_eq!(header.sequence, self.last_sequence + 1, "a hole that no gap explains");
                        let number = u64::from_le_bytes(content.payload()[..8].try_into().unwrap());
                        assert!(self.last_payload.is_none_or(|last| number > last), "disorder");
                        self.last_payload = Some(number);
                        self.arrived.push_back(content.frame_size());
                    }
                    Kind::Gap => {
                        let (count, _) = decode_gap(content.payload()).unwrap();
                        assert_eq!(header.sequence, self.last_sequence + count);
                        self.gaps += count;
                    }
                    kind => panic!("{kind:?} from a subscription"),
                }
                self.last_sequence = header.sequence;
            }
        }

        fn check(&self) {
            let own = &self.subscription;
            let dropped: u64 = own.dropped.iter().sum();
            assert_eq!(own.matched, self.offered);
            assert_eq!(own.delivered + dropped + own.backlog.messages() as u64, self.offered, "conservation");
            assert_eq!(own.delivered, self.taken + self.arrived.len() as u64);
            assert!(self.gaps <= dropped, "a gap of what was not dropped");
            assert!(self.arrived.len() <= own.window.0 as usize, "more than the window");
            let (messages, bytes) = (own.backlog.messages(), own.backlog.bytes());
            assert_eq!(messages == 0, bytes == 0);
            if own.policy == Policy::DropOldest {
                assert!(messages <= own.window.0 as usize, "the ring has no bound");
            }
        }

        /// Takes everything; afterwards what was offered was taken or told as a gap.
        fn finish(mut self) {
            self.now += 2 * BLOCK_LIMIT;
            self.act(&Action::Pass(1));
            while !self.arrived.is_empty() {
                self.act(&Action::Take(3));
            }
            assert_eq!(self.taken + self.gaps, self.offered);
            assert_eq!(self.taken + self.subscription.dropped.iter().sum::<u64>(), self.offered);
            assert!(self.subscription.backlog.is_empty());
        }
    }

    proptest! {
        #[test]
        fn every_match_is_taken_or_told_as_a_gap_in_order_under_each_policy(
            policy in prop_oneof![Just(Policy::Block), Just(Policy::DropOldest), Just(Policy::DropNewest)],
            window in (1u32..6, 1u64..600),
            actions in proptest::collection::vec(action(), 1..80),
        ) {
            let mut bench = Bench::new(policy, window);
            for action in &actions {
                bench.act(action);
            }
            bench.finish();
        }
    }

    #[test]
    fn what_is_due_or_waits_is_found_without_looking_at_ten_thousand_others() {
        let mut bench = Bench::new(Policy::Block, (1, 1_000));
        let mut all = Subscriptions::default();
        for id in 0..10_000 {
            let idle = Bench::new(Policy::Block, (1, 1_000)).subscription;
            all.insert(Subscription { id, ..idle });
        }
        bench.act(&Action::Offer { bytes: 0, patience: None, ttl: None });
        bench.act(&Action::Offer { bytes: 0, patience: None, ttl: None });
        let now = bench.now;
        all.remove(7_000);
        let slot = all.insert(Subscription { id: 7_000, ..bench.subscription });
        assert_eq!(all.note(slot), Some(now + BLOCK_LIMIT));
        assert_eq!(all.parked_messages(), 1);
        let mut seen = Vec::new();
        all.pump_in_turn(|own| {
            seen.push(own.id);
            true
        });
        assert_eq!(seen, [7_000]);
        assert_eq!(all.take_due(now), None);
        assert_eq!(all.take_due(now + BLOCK_LIMIT), Some(slot));
        assert_eq!(all.take_due(now + BLOCK_LIMIT), None);
        all.at(slot).unwrap().backlog.abandon();
        all.at(slot).unwrap().backlog.next_gap();
        all.trim();
        assert!(all.waiting.is_empty() && all.next_expiry().is_none());
    }

    #[test]
    fn those_with_a_backlog_go_on_in_turn() {
        let mut all = Subscriptions::default();
        for id in 0..3 {
            let mut bench = Bench::new(Policy::DropNewest, (1, 1_000));
            bench.act(&Action::Offer { bytes: 0, patience: None, ttl: None });
            bench.act(&Action::Offer { bytes: 0, patience: None, ttl: None });
            let slot = all.insert(Subscription { id, ..bench.subscription });
            all.note(slot);
        }
        let mut seen = Vec::new();
        for _ in 0..4 {
            all.pump_in_turn(|own| {
                seen.push(own.id);
                false
            });
        }
        assert_eq!(seen, [0, 1, 2, 0]);
        all.remove(1);
        seen.clear();
        all.pump_in_turn(|own| {
            seen.push(own.id);
            true
        });
        assert_eq!(seen, [2, 0]);
    }

    #[test]
    fn a_lagging_subscription_counts_at_once_until_a_message_is_taken() {
        let mut bench = Bench::new(Policy::Block, (1, 1_000));
        let offer = Action::Offer { bytes: 0, patience: None, ttl: None };
        bench.act(&offer);
        bench.act(&offer);
        assert_eq!(bench.subscription.backlog.messages(), 1, "the second is parked");
        bench.act(&Action::Pass(1_000));
        assert!(bench.subscription.backlog.is_lagging());
        bench.act(&offer);
        assert_eq!(bench.subscription.dropped[GapReason::Lagging.index()], 2, "counted at once");
        bench.act(&Action::Take(1));
        assert_eq!(bench.gaps, 2, "the gap is told as soon as a message is taken");
        bench.act(&offer);
        assert_eq!(bench.arrived.len(), 1);
        bench.finish();
    }

    #[test]
    fn the_newest_messages_are_kept_when_the_oldest_are_dropped() {
        let mut bench = Bench::new(Policy::DropOldest, (2, 10_000));
        for _ in 0..10 {
            bench.act(&Action::Offer { bytes: 0, patience: None, ttl: None });
        }
        bench.act(&Action::Take(2));
        assert_eq!((bench.gaps, bench.last_payload), (6, Some(10)));
        bench.finish();
    }

    #[test]
    fn an_impatient_publisher_leaves_its_place_to_a_gap() {
        let mut bench = Bench::new(Policy::Block, (1, 1_000));
        bench.act(&Action::Offer { bytes: 0, patience: None, ttl: None });
        bench.act(&Action::Offer { bytes: 0, patience: None, ttl: None });
        bench.act(&Action::Offer { bytes: 0, patience: Some(10), ttl: None });
        bench.act(&Action::Offer { bytes: 0, patience: None, ttl: None });
        bench.act(&Action::Pass(20));
        assert!(!bench.subscription.backlog.is_lagging());
        assert_eq!(bench.subscription.backlog.messages(), 2);
        bench.act(&Action::Take(1));
        assert_eq!((bench.last_payload, bench.gaps), (Some(2), 0));
        bench.act(&Action::Take(1));
        assert_eq!((bench.last_payload, bench.gaps), (Some(4), 1));
        bench.finish();
    }
}
