//! The table of the other buses. It has no clock: whoever calls says what time it is.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::{limits, read_id, written};

/// One heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Beat {
    pub(super) id: String,
    #[serde(default)]
    pub(super) name: String,
    pub(super) epoch: u64,
    pub(super) number: u64,
    pub(super) interval_ms: u64,
    #[serde(default)]
    pub(super) draining: bool,
    #[serde(default)]
    pub(super) leaving: bool,
    /// Somebody there wants to hear who comes and goes at other buses.
    #[serde(default)]
    pub(super) watches: bool,
}

/// Another bus.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Its id at the cluster.
    pub id: u64,
    /// What it is called; empty until it has said so.
    pub name: String,
    /// Which of its connections to NATS this is, from 1; 0 until it has said so.
    pub epoch: u64,
    /// How often it says that it is there.
    pub interval: Duration,
    /// When it was last heard.
    pub heard: Instant,
    /// It is about to leave, and its clients go to other buses, or goes to another server of NATS: it takes no new requests from others.
    pub draining: bool,
    /// Somebody there wants to hear who comes and goes at other buses.
    pub watches: bool,
    /// The number of its last heartbeat.
    number: u64,
}

/// What has become of a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberEvent {
    /// It is there.
    Joined {
        /// Its id.
        id: u64,
    },
    /// So many of its heartbeats were lost on the way.
    Missed {
        /// Its id.
        id: u64,
        /// How many.
        count: u64,
    },
    /// It has lost its connection to NATS and has another: it has given up what it was doing for others, and others for it.
    Reconnected {
        /// Its id.
        id: u64,
        /// The number of its new connection.
        epoch: u64,
        /// When it was last heard before.
        heard: Instant,
    },
    /// It has said that it leaves.
    Left {
        /// Its id.
        id: u64,
    },
    /// It has not been heard for three of its intervals.
    Gone {
        /// Its id.
        id: u64,
        /// When it was last heard.
        heard: Instant,
    },
}

/// The other buses of the cluster. Clones are the same table.
#[derive(Clone)]
pub struct Members {
    own: u64,
    table: Arc<Mutex<Table>>,
    events: broadcast::Sender<MemberEvent>,
    /// Whether this bus is about to go to another server of NATS, and whether the others have been told so last.
    moves: watch::Sender<bool>,
    told: watch::Sender<bool>,
    /// Whether somebody at this bus wants to hear who comes and goes at others, and at how many others somebody does.
    watches: watch::Sender<bool>,
    watching: watch::Sender<usize>,
}

#[derive(Default)]
struct Table {
    members: HashMap<u64, Member, RandomState>,
    /// When a bus was last seen to drain or to have left.
    parted: Option<Instant>,
    /// That there is no room has been told.
    told_full: bool,
}

impl Members {
    /// An empty table of the bus with this id, which is not in it.
    #[must_use]
    pub fn new(own: u64) -> Self {
        let events = broadcast::Sender::new(limits::MEMBER_EVENTS);
        let (moves, told) = (watch::Sender::new(false), watch::Sender::new(false));
        let (watches, watching) = (watch::Sender::new(false), watch::Sender::new(0));
        Self { own, table: Arc::default(), events, moves, told, watches, watching }
    }

    /// The id of this bus.
    #[must_use]
    pub fn own(&self) -> u64 {
        self.own
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of buses from here on. Who listens too rarely is told that he has missed events and looks at the
    /// [list](Self::list).
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<MemberEvent> {
        self.events.subscribe()
    }

    /// The other buses now, in the order of their ids.
    #[must_use]
    pub fn list(&self) -> Vec<Member> {
        let mut members: Vec<Member> = self.lock().members.values().cloned().collect();
        members.sort_unstable_by_key(|member| member.id);
        members
    }

    /// Which of its connections to NATS this bus has, from 1; 0 until it has said so, `None` where it is not there.
    #[must_use]
    pub fn epoch(&self, id: u64) -> Option<u64> {
        self.lock().members.get(&id).map(|member| member.epoch)
    }

    /// What it is called; empty until it has said so, or where it is not there.
    pub(crate) fn name(&self, id: u64) -> String {
        self.lock().members.get(&id).map(|member| member.name.clone()).unwrap_or_default()
    }

    /// Whether there are no other buses.
    pub(crate) fn is_alone(&self) -> bool {
        self.lock().members.is_empty()
    }

    /// Whether a bus drains, or has left a moment ago: its servers may be on their way to others.
    #[must_use]
    pub fn servers_move(&self, now: Instant) -> bool {
        // One that drains says so in intervals.
        let lasting = limits::SERVERS_MOVE.max(self.interval() + limits::HEARTBEAT);
        let parted = self.lock().parted;
        parted.is_some_and(|parted| now < parted + lasting)
    }

    /// Has the others told that this bus does not serve for a moment, as it goes to another server of NATS, or that it does again. The future is
    /// ready when that is sent.
    pub(crate) fn tell_move(&self, moves: bool) -> impl Future<Output = ()> + Send + use<> {
        let mut told = self.told.subscribe();
        self.moves.send_replace(moves);
        async move { _ = told.wait_for(|told| *told == moves).await }
    }

    /// Whether the others are to be told that this bus moves, as it changes.
    pub(super) fn moves(&self) -> watch::Receiver<bool> {
        self.moves.subscribe()
    }

    /// The others have been told whether it moves.
    pub(super) fn has_told(&self, moves: bool) {
        self.told.send_replace(moves);
    }

    /// Has the others told whether somebody at this bus wants to hear who comes and goes at them.
    pub(crate) fn watch(&self, watches: bool) {
        self.watches.send_replace(watches);
    }

    /// Whether they are to be told that, as it changes.
    pub(super) fn watches(&self) -> watch::Receiver<bool> {
        self.watches.subscribe()
    }

    /// At how many other buses somebody wants to hear who comes and goes at this one.
    pub(crate) fn watching(&self) -> watch::Receiver<usize> {
        self.watching.subscribe()
    }

    /// Counts them, where one of them may have changed. Nothing is told where their number stays.
    fn count_watching(&self, table: &Table) {
        let count = table.members.values().filter(|member| member.watches).count();
        self.watching.send_if_modified(|before| std::mem::replace(before, count) != count);
    }

    /// How often a bus says that it is there, with as many others as there are.
    #[must_use]
    pub fn interval(&self) -> Duration {
        let buses = self.lock().members.len() + 1;
        let times = buses.div_ceil(limits::MEMBERS_AT_FULL_RATE).max(1);
        limits::HEARTBEAT * u32::try_from(times).unwrap_or(u32::MAX)
    }

    /// A bus has done something for us, and may not have said yet that it is there. `false` where there is no room for it.
    pub fn note(&self, id: u64, now: Instant) -> bool {
        if id == self.own {
            return true;
        }
        let interval = self.interval();
        let mut table = self.lock();
        if let Some(member) = table.members.get_mut(&id) {
            member.heard = now;
            return true;
        }
        let name = String::new();
        let (draining, watches) = (false, false);
        let member = Member { id, name, epoch: 0, interval, heard: now, draining, watches, number: 0 };
        let added = table.add(member);
        drop(table);
        if added {
            self.tell(MemberEvent::Joined { id });
        }
        added
    }

    /// A heartbeat has come. Returns whether the bus is new.
    pub(super) fn heard(&self, beat: &Beat, now: Instant) -> bool {
        let Some(id) = read_id(&beat.id).filter(|id| *id != self.own) else { return false };
        let mut table = self.lock();
        if beat.draining || beat.leaving {
            table.parted = Some(now);
        }
        if beat.leaving {
            let left = table.members.remove(&id);
            if left.as_ref().is_some_and(|left| left.watches) {
                self.count_watching(&table);
            }
            drop(table);
            if left.is_some() {
                self.tell(MemberEvent::Left { id });
            }
            return false;
        }
        let interval =
            Duration::from_millis(beat.interval_ms).clamp(limits::HEARTBEAT, limits::HEARTBEAT_MAX);
        let Some(member) = table.members.get_mut(&id) else {
            let name = cut(&beat.name);
            let (epoch, number) = (beat.epoch, beat.number);
            let (draining, watches) = (beat.draining, beat.watches);
            let member = Member { id, name, epoch, interval, heard: now, draining, watches, number };
            let added = table.add(member);
            if watches {
                self.count_watching(&table);
            }
            drop(table);
            if added {
                self.tell(MemberEvent::Joined { id });
            }
            return added;
        };
        // One that was overtaken says nothing new.
        if (beat.epoch, beat.number) <= (member.epoch, member.number) {
            return false;
        }
        let (epoch, number, heard) = (member.epoch, member.number, member.heard);
        (member.epoch, member.number, member.heard, member.interval) =
            (beat.epoch, beat.number, now, interval);
        member.draining = beat.draining;
        if member.name.is_empty() {
            member.name = cut(&beat.name);
        }
        if std::mem::replace(&mut member.watches, beat.watches) != beat.watches {
            self.count_watching(&table);
        }
        drop(table);
        // What it has not said itself is not compared.
        if epoch > 0 && beat.epoch != epoch {
            self.tell(MemberEvent::Reconnected { id, epoch: beat.epoch, heard });
        } else if epoch > 0 && beat.number > number + 1 {
            self.tell(MemberEvent::Missed { id, count: beat.number - number - 1 });
        }
        epoch == 0
    }

    /// Takes out those that have not been heard for too long.
    pub(super) fn expire(&self, now: Instant) {
        let mut gone = Vec::new();
        let mut table = self.lock();
        table.members.retain(|_, member| {
            let stays = now < member.gone_at();
            if !stays {
                gone.push((member.id, member.heard));
            }
            stays
        });
        if !gone.is_empty() {
            self.count_watching(&table);
        }
        drop(table);
        for (id, heard) in gone {
            self.tell(MemberEvent::Gone { id, heard });
        }
    }

    /// When the next of them would be gone.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.lock().members.values().map(Member::gone_at).min()
    }

    /// This bus has its connection again: it has heard nobody meanwhile, which is not the others' doing.
    pub(super) fn hear_anew(&self, now: Instant) {
        for member in self.lock().members.values_mut() {
            member.heard = now;
        }
    }

    fn tell(&self, event: MemberEvent) {
        tracing::debug!(?event, "a bus of the cluster");
        // Nobody may listen.
        let _ = self.events.send(event);
    }

    /// The heartbeat of this bus.
    pub(super) fn beat(
        &self,
        name: &str,
        (epoch, number): (u64, u64),
        (draining, leaving): (bool, bool),
    ) -> Beat {
        let interval_ms = u64::try_from(self.interval().as_millis()).unwrap_or(u64::MAX);
        let (id, name, watches) = (written(self.own), cut(name), *self.watches.borrow());
        Beat { id, name, epoch, number, interval_ms, draining, leaving, watches }
    }
}

impl Table {
    fn add(&mut self, member: Member) -> bool {
        if self.members.len() < limits::MEMBERS {
            self.members.insert(member.id, member);
            return true;
        }
        if !std::mem::replace(&mut self.told_full, true) {
            tracing::warn!(
                most = limits::MEMBERS,
                "more buses than this one keeps count of; the others are left out"
            );
        }
        false
    }
}

impl Member {
    fn gone_at(&self) -> Instant {
        self.heard + self.interval * limits::HEARTBEATS_MISSED
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Members").field("members", &self.lock().members.len()).finish_non_exhaustive()
    }
}

fn cut(name: &str) -> String {
    name[..name.floor_char_boundary(limits::MEMBER_NAME_BYTES)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Ground {
        members: Members,
        events: broadcast::Receiver<MemberEvent>,
        start: Instant,
    }

    fn ground() -> Ground {
        let members = Members::new(1);
        Ground { events: members.events(), members, start: Instant::now() }
    }

    impl Ground {
        fn told(&mut self) -> Vec<MemberEvent> {
            std::iter::from_fn(|| self.events.try_recv().ok()).collect()
        }

        fn hear(&self, id: u64, epoch: u64, number: u64, at: Instant) -> bool {
            self.members.heard(&beat(id, epoch, number), at)
        }
    }

    fn beat(id: u64, epoch: u64, number: u64) -> Beat {
        let (id, name) = (written(id), "other".into());
        let (draining, leaving, watches) = (false, false, false);
        Beat { id, name, epoch, number, interval_ms: 1_000, draining, leaving, watches }
    }

    #[test]
    fn a_bus_is_there_from_its_first_heartbeat_and_gone_after_three_that_are_missing() {
        let mut ground = ground();
        let start = ground.start;
        assert!(ground.hear(7, 1, 1, start));
        assert!(!ground.hear(7, 1, 2, start + SECOND));
        ground.members.expire(start + 4 * SECOND - Duration::from_millis(1));
        assert_eq!(ground.members.list().len(), 1);
        assert_eq!(ground.members.next_expiry(), Some(start + 4 * SECOND));
        ground.members.expire(start + 4 * SECOND);
        assert_eq!(ground.members.list(), []);
        let heard = start + SECOND;
        assert_eq!(ground.told(), [MemberEvent::Joined { id: 7 }, MemberEvent::Gone { id: 7, heard }]);
    }

    #[test]
    fn lost_heartbeats_and_lost_connections_are_told_apart_and_what_is_late_is_ignored() {
        let mut ground = ground();
        let start = ground.start;
        ground.hear(7, 1, 1, start);
        ground.hear(7, 1, 4, start + SECOND);
        ground.hear(7, 1, 3, start + 2 * SECOND);
        ground.hear(7, 2, 5, start + 3 * SECOND);
        ground.hear(7, 1, 9, start + 4 * SECOND);
        let heard = start + SECOND;
        let expected = [
            MemberEvent::Joined { id: 7 },
            MemberEvent::Missed { id: 7, count: 2 },
            MemberEvent::Reconnected { id: 7, epoch: 2, heard },
        ];
        assert_eq!(ground.told(), expected);
        assert_eq!(ground.members.list()[0].heard, start + 3 * SECOND);
    }

    #[test]
    fn a_bus_that_says_so_has_left_at_once() {
        let mut ground = ground();
        ground.hear(7, 1, 1, ground.start);
        ground.members.heard(&Beat { leaving: true, ..beat(7, 1, 2) }, ground.start);
        assert_eq!(ground.told(), [MemberEvent::Joined { id: 7 }, MemberEvent::Left { id: 7 }]);
        assert_eq!(ground.members.epoch(7), None);
    }

    #[test]
    fn servers_move_from_when_a_bus_drains_until_a_while_after_it_has_left() {
        let mut ground = ground();
        let start = ground.start;
        ground.hear(7, 1, 1, start);
        assert!(!ground.members.servers_move(start));
        ground.members.heard(&Beat { draining: true, ..beat(7, 1, 2) }, start + SECOND);
        assert!(ground.members.list()[0].draining);
        assert!(ground.members.servers_move(start + SECOND));
        ground.members.heard(&Beat { leaving: true, ..beat(7, 1, 3) }, start + 2 * SECOND);
        let last = start + 2 * SECOND + limits::SERVERS_MOVE;
        assert!(ground.members.servers_move(last - Duration::from_millis(1)));
        assert!(!ground.members.servers_move(last));
        assert_eq!(ground.told(), [MemberEvent::Joined { id: 7 }, MemberEvent::Left { id: 7 }]);
    }

    #[test]
    fn servers_move_from_one_heartbeat_to_the_next_also_where_these_are_rare() {
        let ground = ground();
        let buses = 3 * limits::MEMBERS_AT_FULL_RATE as u64;
        for id in 2..=buses {
            ground.hear(id, 1, 1, ground.start);
        }
        let interval = ground.members.interval();
        assert!(interval > limits::SERVERS_MOVE, "{interval:?}");
        ground.members.heard(&Beat { draining: true, ..beat(7, 1, 2) }, ground.start);
        assert!(ground.members.servers_move(ground.start + interval));
        assert!(!ground.members.servers_move(ground.start + 2 * interval));
    }

    #[test]
    fn it_is_known_at_how_many_buses_somebody_watches() {
        let ground = ground();
        let mut watching = ground.members.watching();
        let start = ground.start;
        let watches = |id, number| Beat { watches: true, ..beat(id, 1, number) };
        ground.hear(6, 1, 1, start);
        assert!(!watching.has_changed().unwrap());
        ground.members.heard(&watches(7, 1), start);
        ground.members.heard(&watches(8, 1), start + SECOND);
        assert_eq!(*watching.borrow_and_update(), 2);
        ground.hear(8, 1, 2, start + SECOND);
        assert_eq!(*watching.borrow_and_update(), 1);
        ground.members.heard(&watches(6, 2), start + SECOND);
        ground.members.heard(&Beat { leaving: true, ..watches(6, 3) }, start + SECOND);
        assert_eq!(*watching.borrow_and_update(), 1);
        ground.members.expire(start + 3 * SECOND);
        assert_eq!(*watching.borrow_and_update(), 0, "one that is gone does not");
    }

    #[test]
    fn a_bus_says_whether_somebody_there_watches() {
        let ground = ground();
        let says = || ground.members.beat("own", (1, 1), (false, false)).watches;
        assert!(!says());
        ground.members.watch(true);
        assert!(says());
        let old = r#"{"id":"0000000000000007","epoch":1,"number":1,"interval_ms":1000}"#;
        assert!(
            !serde_json::from_str::<Beat>(old).unwrap().watches,
            "one of an earlier version does not say so"
        );
    }

    #[test]
    fn a_bus_that_has_done_something_is_watched_before_it_has_said_that_it_is_there() {
        let mut ground = ground();
        let start = ground.start;
        assert!(ground.members.note(7, start));
        assert!(ground.hear(7, 3, 40, start + SECOND), "what it says of itself is new");
        ground.members.expire(start + 4 * SECOND);
        let heard = start + SECOND;
        assert_eq!(ground.told(), [MemberEvent::Joined { id: 7 }, MemberEvent::Gone { id: 7, heard }]);
    }

    #[test]
    fn a_bus_does_not_count_itself_nor_who_is_nobody() {
        let ground = ground();
        assert!(!ground.hear(1, 1, 1, ground.start));
        assert!(ground.members.note(1, ground.start));
        for id in ["", "1", "00000000000000zz", "00000000000000007", "+000000000000007", "000000000000000A"] {
            assert!(!ground.members.heard(&Beat { id: id.into(), ..beat(7, 1, 1) }, ground.start), "{id}");
        }
        assert_eq!(ground.members.list(), []);
    }

    #[test]
    fn heartbeats_become_rarer_as_buses_become_more_so_that_each_hears_as_many() {
        let ground = ground();
        for (others, seconds) in [(0, 1), (127, 1), (128, 2), (255, 2), (256, 3), (999, 8)] {
            for id in 0..others {
                ground.hear(id + 2, 1, 1, ground.start);
            }
            assert_eq!(ground.members.interval(), seconds * SECOND, "{others} others");
        }
    }

    #[test]
    fn the_table_is_bounded_and_so_is_what_a_bus_says_of_itself() {
        let ground = ground();
        for id in 0..=limits::MEMBERS as u64 {
            ground.hear(id + 2, 1, 1, ground.start);
        }
        assert_eq!(ground.members.list().len(), limits::MEMBERS);
        assert!(!ground.members.note(u64::MAX, ground.start));

        let ground = self::ground();
        let long = Beat { name: "ä".repeat(100), interval_ms: u64::MAX, ..beat(7, 1, 1) };
        ground.members.heard(&long, ground.start);
        let member = &ground.members.list()[0];
        assert_eq!((member.name.len(), member.interval), (limits::MEMBER_NAME_BYTES, limits::HEARTBEAT_MAX));
    }

    #[test]
    fn while_this_bus_was_away_the_others_were_not() {
        let ground = ground();
        ground.hear(7, 1, 1, ground.start);
        ground.members.hear_anew(ground.start + 60 * SECOND);
        ground.members.expire(ground.start + 61 * SECOND);
        assert_eq!(ground.members.epoch(7), Some(1));
    }
}
