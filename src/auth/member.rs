//! Who is subscribed to a topic.

use serde::{Deserialize, Serialize};

use super::Principal;

/// A subscription of somebody, as presence shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Member {
    /// The session that has the subscription.
    pub session: u64,
    /// Who it acts for.
    pub principal: Principal,
    /// What its client calls itself.
    pub name: String,
    /// What is subscribed to.
    pub pattern: String,
    /// Since when: milliseconds since 1970 (UTC).
    pub since: u64,
    /// The other bus that it is subscribed at, where buses are joined: its id among them, as [`BusPresence::id`] has it. `None` for the
    /// bus that tells it. Sessions are numbered by each bus for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<u64>,
}

impl Member {
    /// A member.
    pub(crate) fn new(
        (session, principal, name): (u64, &Principal, &str),
        pattern: &str,
        since: u64,
    ) -> Self {
        Self {
            session,
            principal: principal.clone(),
            name: name.to_owned(),
            pattern: pattern.to_owned(),
            since,
            bus: None,
        }
    }

    /// The same, at another bus with this id; for who joins buses.
    #[must_use]
    pub fn at(self, bus: u64) -> Self {
        Self { bus: Some(bus), ..self }
    }
}

/// What happens to the members of topics, as the bus tells it under `$presence/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PresenceEvent {
    /// Somebody has subscribed.
    Join(Member),
    /// A subscription has ended.
    Leave(Member),
    /// So many joins and leaves came faster than they could be told. Ask who is there.
    Missed(u64),
    /// From here on it is told as well who comes and goes at another bus that this one is joined with: ask who is there.
    BusJoin {
        /// Its id among them.
        bus: u64,
        /// What it is called there; empty if that is not known yet.
        name: String,
    },
    /// So many joins and leaves at another bus came faster than they could be told, or were lost on their way. Ask who is there.
    BusMissed {
        /// Its id among them.
        bus: u64,
        /// How many there were at the most; at least one where that is not known.
        count: u64,
    },
    /// Another bus is gone, or has left, and with it all of its members. Those of them that are alive come back at another bus, or
    /// at that one when it is there again.
    BusLeave {
        /// Its id among them.
        bus: u64,
        /// What it was called there.
        name: String,
    },
}

/// Who is subscribed to a topic at all buses that are joined; the answer of a request to `$bus/cluster/presence`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ClusterPresence {
    /// The buses that have answered, in the order of their ids; the one that was asked is among them.
    pub buses: Vec<BusPresence>,
    /// The ids of those that are there and have not answered in time.
    pub silent: Vec<u64>,
}

impl ClusterPresence {
    /// What these buses have told, without those that have told nothing in time.
    #[must_use]
    pub fn new(buses: Vec<BusPresence>, silent: Vec<u64>) -> Self {
        Self { buses, silent }
    }

    /// All members that were told, bus by bus.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.buses.iter().flat_map(|bus| &bus.members)
    }

    /// How many there are beside these, at the buses that have answered.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.buses.iter().fold(0, |sum, bus| sum.saturating_add(bus.left_out))
    }
}

/// Who is subscribed to a topic at one of several buses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BusPresence {
    /// The bus's id among them, which it draws when it joins.
    pub id: u64,
    /// What it is called there.
    pub name: String,
    /// Its members: at most [`INTROSPECTION_ROWS`](crate::limits::INTROSPECTION_ROWS), and no more than fit what carries them.
    pub members: Vec<Member>,
    /// How many there are beside these.
    pub left_out: usize,
}

impl BusPresence {
    /// The members of a bus with this id and name, and how many there are beside.
    #[must_use]
    pub fn new(id: u64, name: String, members: Vec<Member>, left_out: usize) -> Self {
        Self { id, name, members, left_out }
    }
}
