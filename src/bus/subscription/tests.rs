//! What becomes of what is offered to a subscription.

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
                uncounted: false,
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
                drained: false,
                noted: Noted::default(),
                reads: None,
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
