//! The ledger against a model that keeps a list of what became of each message.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::ledger::{Ledger, Unwritten};
use crate::limits;
use crate::proto::fields::DeliveryRules;
use crate::store::{ConsumerState, Name, Progress};

const WAIT: Duration = Duration::from_secs(10);
const MOST: u32 = 3;
const PENDING: u32 = 4;
const MEMBERS: u64 = 3;

#[derive(Debug, Clone)]
enum Step {
    /// So many messages come to the stream.
    Publish(u64),
    /// A member takes what comes next.
    Take(u64),
    /// One of the messages that somebody has, counted from the first.
    Acknowledge(usize),
    Refuse(usize, u64),
    Progress(usize),
    /// One of them is not for its member.
    Withhold(usize),
    /// So many members are there, the first ones.
    Settle(u64),
    /// Seconds pass, and members have begun with so many of their messages by then.
    Pass(u64, u64),
    /// A member is gone, which has begun with so many of its messages.
    Leave(u64, u64),
    /// The first messages of the stream are dropped.
    Retain(u64),
    /// Dead letters are put away.
    Bury,
    /// The bus ends and begins anew with what was written.
    Restart,
    Write,
    /// The store takes neither what is to be written nor dead letters.
    Fail,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..5_u64).prop_map(Step::Publish),
        10 => (0..3_u64).prop_map(Step::Take),
        6 => (0..6_usize).prop_map(Step::Acknowledge),
        4 => (0..6_usize, 0..20_u64).prop_map(|(which, delay)| Step::Refuse(which, delay)),
        2 => (0..6_usize).prop_map(Step::Progress),
        4 => (0..6_usize).prop_map(Step::Withhold),
        2 => (0..=MEMBERS).prop_map(Step::Settle),
        4 => (0..30_u64, 0..6_u64).prop_map(|(seconds, begun)| Step::Pass(seconds, begun)),
        2 => (0..3_u64, 0..6_u64).prop_map(|(member, begun)| Step::Leave(member, begun)),
        1 => (0..4_u64).prop_map(Step::Retain),
        3 => Just(Step::Bury),
        1 => Just(Step::Restart),
        4 => Just(Step::Write),
        2 => Just(Step::Fail),
    ]
}

/// What the model knows of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    New,
    With { member: u64, number: u64, token: u64, until: Instant },
    Again { from: Instant },
    Aside,
    Dead,
    Done,
}

impl Is {
    fn is_with(self, member: u64) -> bool {
        matches!(self, Self::With { member: other, .. } if other == member)
    }
}

#[derive(Debug, Clone)]
struct Message {
    is: Is,
    failed: u32,
    was_handed: bool,
    /// What was said of that when it was handed over last.
    redelivered: bool,
    /// Members that may not have it, since it was last with one that may.
    withheld: BTreeSet<u64>,
}

impl Message {
    /// Whether none of the first members may have it, of so many.
    fn is_for_none(&self, members: u64) -> bool {
        members > 0 && (0..members).all(|member| self.withheld.contains(&member))
    }
}

struct Model {
    messages: BTreeMap<u64, Message>,
    handed: BTreeMap<u64, u64>,
    /// As a store has it: the floor, what is done above it, failures, and before where somebody may have been handed any.
    floor: u64,
    done: BTreeSet<u64>,
    failed: BTreeMap<u64, u32>,
}

impl Model {
    fn end(&self) -> u64 {
        self.messages.keys().next_back().map_or(1, |last| last + 1)
    }

    fn wait(failed: u32) -> Duration {
        WAIT * 2_u32.pow(failed)
    }

    fn with(&self) -> Vec<(u64, u64)> {
        let with = self.messages.iter().filter_map(|(sequence, message)| match message.is {
            Is::With { token, .. } => Some((*sequence, token)),
            _ => None,
        });
        with.collect()
    }

    /// Members that are at work in time on something of what they have begun with, which is up to this number.
    fn busy(&self, begun: u64, now: Instant) -> BTreeSet<u64> {
        let busy = self.messages.values().filter_map(|message| match message.is {
            Is::With { member, number, until, .. } if until > now && number <= begun => Some(member),
            _ => None,
        });
        busy.collect()
    }

    fn fail(&mut self, sequence: u64, from: Instant) {
        let message = self.messages.get_mut(&sequence).unwrap();
        message.failed += 1;
        message.is = if message.failed >= MOST { Is::Dead } else { Is::Again { from } };
    }

    fn open(&self, is_open: impl Fn(&Message) -> bool) -> u64 {
        let open = self.messages.iter().find(|(_, message)| is_open(message));
        open.map_or(self.end(), |(sequence, _)| *sequence)
    }
}

fn rules() -> DeliveryRules {
    DeliveryRules { ack_wait: WAIT, max_deliver: MOST, max_pending: PENDING }
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn a_ledger_does_what_a_list_does(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(check(steps));
    }
}

async fn check(steps: Vec<Step>) {
    let name = Name::new("c").unwrap();
    let mut ledger = Ledger::new(rules(), ConsumerState::new(name.clone(), None, 1), 1 << 40);
    let (messages, handed) = (BTreeMap::new(), BTreeMap::new());
    let mut model = Model { messages, handed, floor: 1, done: BTreeSet::new(), failed: BTreeMap::new() };
    let mut restarts = 0;
    for step in steps {
        let now = Instant::now();
        match step {
            Step::Publish(count) => {
                for sequence in model.end()..model.end() + count {
                    let (is, withheld) = (Is::New, BTreeSet::new());
                    let message = Message { is, failed: 0, was_handed: false, redelivered: false, withheld };
                    model.messages.insert(sequence, message);
                }
            }
            Step::Take(member) => take(&mut ledger, &mut model, member, now),
            Step::Acknowledge(which) => {
                let Some((sequence, token)) = model.with().get(which).copied() else {
                    assert!(ledger.acknowledge(7).is_err(), "nobody has been given that token");
                    continue;
                };
                assert_eq!(ledger.acknowledge(token).unwrap().0, sequence);
                assert!(ledger.acknowledge(token).is_err(), "it was acknowledged already");
                model.messages.get_mut(&sequence).unwrap().is = Is::Done;
            }
            Step::Refuse(which, delay) => {
                let Some((sequence, token)) = model.with().get(which).copied() else { continue };
                let delay = Duration::from_secs(delay);
                ledger.refuse(token, Some(delay), now).unwrap();
                model.fail(sequence, now + delay);
            }
            Step::Progress(which) => {
                let Some((sequence, token)) = model.with().get(which).copied() else { continue };
                ledger.progress(token, now).unwrap();
                let message = model.messages.get_mut(&sequence).unwrap();
                if let Is::With { until, number, .. } = &mut message.is {
                    *until = now + Model::wait(message.failed);
                    // It is begun with, whatever is known of others.
                    *number = 0;
                }
            }
            Step::Withhold(which) => {
                let Some((sequence, token)) = model.with().get(which).copied() else { continue };
                let message = model.messages.get_mut(&sequence).unwrap();
                if let Is::With { member, .. } = message.is {
                    message.withheld.insert(member);
                }
                // Its member has not seen it.
                message.was_handed = message.redelivered;
                let is_dead = message.is_for_none(MEMBERS);
                message.is = if is_dead { Is::Dead } else { Is::Aside };
                assert_eq!(ledger.withhold(token, 0..MEMBERS), Ok(is_dead));
                assert!(ledger.withhold(token, 0..MEMBERS).is_err(), "nobody has it any more");
            }
            Step::Settle(members) => {
                let aside = model.messages.values_mut().filter(|message| message.is == Is::Aside);
                let over: Vec<_> = aside.filter(|message| message.is_for_none(members)).collect();
                let there: Vec<u64> = (0..members).collect();
                assert_eq!(ledger.settle_aside(&there), over.len() as u64);
                over.into_iter().for_each(|message| message.is = Is::Dead);
            }
            Step::Pass(seconds, begun) => {
                tokio::time::advance(Duration::from_secs(seconds)).await;
                let now = Instant::now();
                ledger.expire(now, |_| begun);
                let busy = model.busy(begun, now);
                for (sequence, _) in model.with() {
                    let message = model.messages.get_mut(&sequence).unwrap();
                    match &mut message.is {
                        Is::With { number, until, .. } if *until <= now && *number <= begun => {
                            model.fail(sequence, now);
                        }
                        Is::With { until, member, .. } if *until <= now && busy.contains(member) => {
                            *until = now + Model::wait(message.failed);
                        }
                        Is::With { until, .. } if *until <= now => message.is = Is::Again { from: now },
                        _ => {}
                    }
                }
            }
            Step::Leave(gone, begun) => {
                ledger.leave(gone, begun, now);
                for (sequence, _) in model.with() {
                    match model.messages[&sequence].is {
                        Is::With { member, number, .. } if member == gone && number <= begun => {
                            model.fail(sequence, now);
                        }
                        Is::With { member, .. } if member == gone => {
                            model.messages.get_mut(&sequence).unwrap().is = Is::Again { from: now };
                        }
                        _ => {}
                    }
                }
            }
            Step::Retain(count) => {
                // What is gone and was to come again is found to be so when it is read.
                let again = model.messages.iter();
                let again = again.filter(|(_, message)| matches!(message.is, Is::Again { .. } | Is::Aside));
                let gone: Vec<_> = again.map(|(sequence, _)| *sequence).take(count as usize).collect();
                for sequence in gone {
                    ledger.forget(sequence);
                    model.messages.get_mut(&sequence).unwrap().is = Is::Done;
                }
            }
            Step::Bury => {
                while let Some(first) = ledger.next_dead() {
                    let (dead, floor, unwritten) = take_dead(&mut ledger, &model, first);
                    keep(&mut model, floor, unwritten);
                    ledger.put_away(&dead);
                    for sequence in dead {
                        model.messages.get_mut(&sequence).unwrap().is = Is::Done;
                    }
                }
                assert!(model.messages.values().all(|message| message.is != Is::Dead));
            }
            Step::Write => {
                if let Some((floor, unwritten)) = ledger.take_unwritten() {
                    keep(&mut model, floor, unwritten);
                }
                assert!(ledger.take_unwritten().is_none(), "all of it was taken");
            }
            Step::Fail => {
                if let Some((_, unwritten)) = ledger.take_unwritten() {
                    ledger.put_back(unwritten);
                    assert!(ledger.owes());
                }
                if let Some(first) = ledger.next_dead() {
                    let (_, _, unwritten) = take_dead(&mut ledger, &model, first);
                    ledger.put_back(unwritten);
                    assert_eq!(ledger.next_dead(), Some(first), "it is dead until that is written");
                }
            }
            Step::Restart => {
                restarts += 1;
                ledger = restart(&mut model, &name, restarts);
            }
        }
        let is_open = |message: &Message| message.is != Is::Done;
        assert_eq!(ledger.floor(), model.open(is_open).min(ledger.next()));
        for (sequence, message) in &model.messages {
            let knows = *sequence < ledger.next();
            assert_eq!(ledger.is_done(*sequence) && knows, message.is == Is::Done && knows, "{sequence}");
        }
        let pending = model.with().len() as u64;
        let again = model.messages.values();
        let again = again.filter(|message| matches!(message.is, Is::Again { .. } | Is::Aside)).count();
        let dead = model.messages.values().filter(|message| message.is == Is::Dead).count();
        assert_eq!(ledger.counts(), (pending, (again + dead) as u64));
        assert_eq!(ledger.has_room(), pending < u64::from(PENDING));
        for member in 0..MEMBERS {
            let has_any = model.messages.values().any(|message| message.is.is_with(member));
            assert_eq!(ledger.has_any(member), has_any, "{member}");
            let own = model.messages.values().filter(|message| message.is.is_with(member)).count() as u64;
            for of_group in [None, Some(1), Some(2), Some(3)] {
                let room = room_for(own, pending, of_group);
                assert_eq!(ledger.room_for(member, of_group) as u64, room, "{member} of {of_group:?}");
            }
        }
    }
}

/// How many more a member can be handed that has so many of all pending ones, one after the other.
fn room_for(own: u64, pending: u64, of_group: Option<usize>) -> u64 {
    let most = u64::from(PENDING);
    let may_take = |taken: u64| match (most.saturating_sub(pending + taken), of_group) {
        (free, Some(2..)) => own + taken < free,
        (free, Some(_)) => free > most / limits::GROUP_RESERVE as u64,
        (free, None) => free > 0,
    };
    (0..).take_while(|taken| may_take(*taken)).count() as u64
}

/// What is due again, or kept from others, goes first, in the order of the stream, and then what nobody has had.
fn take(ledger: &mut Ledger, model: &mut Model, member: u64, now: Instant) {
    if !ledger.has_room() {
        return;
    }
    let due = model.messages.iter().filter_map(|(sequence, message)| match message.is {
        Is::Again { from } if from <= now => Some(*sequence),
        Is::Aside if !message.withheld.contains(&member) => Some(*sequence),
        _ => None,
    });
    let due = due.min();
    assert_eq!(ledger.next_again(member, now), due);
    let sequence = due.unwrap_or(ledger.next());
    let Some(message) = model.messages.get_mut(&sequence) else { return };
    let number = model.handed.entry(member).or_default();
    let Some(attempt) = ledger.hand(sequence, member, *number + 1, now) else {
        // It was done before the bus began anew, or has failed too often by then.
        assert!(message.is == Is::Done || message.failed >= MOST, "{sequence} is not handed over");
        if message.is != Is::Done {
            message.is = Is::Dead;
        }
        return;
    };
    *number += 1;
    assert_eq!(attempt.number, message.failed + 1);
    assert!(attempt.redelivered || !message.was_handed, "{sequence} was handed over before");
    assert!(ledger.has(attempt.token, member) && !ledger.has(attempt.token, member + 1));
    let until = now + Model::wait(message.failed);
    if message.is != Is::Aside {
        message.withheld.clear();
    }
    message.is = Is::With { member, number: *number, token: attempt.token, until };
    (message.was_handed, message.redelivered) = (true, attempt.redelivered);
}

/// Takes what is dead from the first on to be put away, with what else is to be written.
fn take_dead(ledger: &mut Ledger, model: &Model, first: u64) -> (BTreeSet<u64>, u64, Unwritten) {
    let mut dead = BTreeSet::new();
    for (sequence, death) in ledger.dead_within(first..first + 8) {
        let message = &model.messages[&sequence];
        assert_eq!((message.is, message.failed), (Is::Dead, death.failed));
        dead.insert(sequence);
    }
    let (floor, unwritten) = ledger.take_unwritten_with(&dead);
    (dead, floor, unwritten)
}

/// The store has what the ledger says.
fn keep(model: &mut Model, floor: u64, unwritten: Unwritten) {
    assert!(floor >= model.floor, "it never goes back");
    model.floor = floor;
    model.done.extend(unwritten.done);
    model.failed.extend(unwritten.failed);
}

/// What was not written is not known any more, but that all of it may have been handed over.
fn restart(model: &mut Model, name: &Name, restarts: u64) -> Ledger {
    let mut state = ConsumerState::new(name.clone(), None, model.floor);
    state.handed = model.end();
    for (sequence, message) in &mut model.messages {
        let is_done = *sequence < model.floor || model.done.contains(sequence);
        message.failed = model.failed.get(sequence).copied().unwrap_or(0);
        message.is = if is_done { Is::Done } else { Is::New };
        if *sequence >= model.floor && (is_done || message.failed > 0) {
            state.known.insert(*sequence, Progress { attempts: message.failed, is_done });
        }
    }
    Ledger::new(rules(), state, restarts << 48)
}
