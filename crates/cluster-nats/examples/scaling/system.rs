//! What is simulated: buses, their clients, nodes of NATS, and who wants what.

use super::random::Random;

/// The machines and what is at them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct System {
    /// Buses.
    pub(crate) buses: usize,
    /// Clients of each.
    pub(crate) connections: usize,
    /// Nodes of NATS. Buses are spread over them.
    pub(crate) nodes: usize,
    /// Cores of a bus's host.
    pub(crate) bus_cores: usize,
    /// Cores of a node's host.
    pub(crate) node_cores: usize,
    /// Everything is at one host with `bus_cores`, the clients too.
    pub(crate) is_one_host: bool,
    /// Nanoseconds from one host to another.
    pub(crate) distance: u64,
}

impl System {
    /// Buses and NATS at one machine with so many cores.
    pub(crate) fn at_one_host(buses: usize, connections: usize, cores: usize) -> Self {
        let (bus_cores, node_cores) = (cores, cores);
        Self { buses, connections, nodes: 1, bus_cores, node_cores, is_one_host: true, distance: 0 }
    }

    /// A host with four cores for each bus, and three nodes of NATS with sixteen, in one data centre: 100 microseconds from each other.
    pub(crate) fn in_a_data_centre(buses: usize, connections: usize) -> Self {
        Self {
            buses,
            connections,
            nodes: 3,
            bus_cores: 4,
            node_cores: 16,
            is_one_host: false,
            distance: 100_000,
        }
    }

    /// The node that a bus is at.
    pub(crate) fn node_of(&self, bus: usize) -> usize {
        bus % self.nodes
    }

    /// All clients.
    pub(crate) fn all_connections(&self) -> usize {
        self.buses * self.connections
    }
}

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Traffic {
    /// Each client is in a room of so many, whose members are anywhere, and says something to all of them now and then.
    Rooms {
        /// Members.
        size: usize,
    },
    /// Each client publishes to a topic of its own. Services take them, each its share.
    Devices {
        /// Services, each at a bus.
        services: usize,
    },
    /// Somebody publishes what all clients want.
    Everybody,
    /// Clients ask services, each of which is at so many buses.
    Requests {
        /// Services.
        services: usize,
        /// Buses that each is at.
        buses: usize,
    },
}

/// Those who want one topic: how many clients at which buses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Group {
    /// A bus and how many at it, in the order of the buses.
    pub(crate) at: Vec<(u32, u32)>,
}

impl Group {
    fn of(mut buses: Vec<u32>) -> Self {
        buses.sort_unstable();
        let mut at: Vec<(u32, u32)> = Vec::new();
        for bus in buses {
            match at.last_mut() {
                Some((last, count)) if *last == bus => *count += 1,
                _ => at.push((bus, 1)),
            }
        }
        Self { at }
    }

    /// How many there are at a bus.
    pub(crate) fn count_at(&self, bus: u32) -> u32 {
        self.at.binary_search_by_key(&bus, |(bus, _)| *bus).map_or(0, |index| self.at[index].1)
    }

    /// The bus of the member with this number, counted over all buses.
    pub(crate) fn bus_of(&self, mut member: u32) -> Option<u32> {
        for (bus, count) in &self.at {
            if member < *count {
                return Some(*bus);
            }
            member -= count;
        }
        None
    }

    /// All members.
    pub(crate) fn members(&self) -> u32 {
        self.at.iter().map(|(_, count)| count).sum()
    }
}

impl Traffic {
    /// Who wants what, for these machines.
    pub(crate) fn groups(self, system: &System, random: &mut Random) -> Vec<Group> {
        let buses = system.buses as u64;
        match self {
            Self::Rooms { size } => {
                let mut places: Vec<u32> = (0..system.all_connections())
                    .map(|connection| (connection % system.buses) as u32)
                    .collect();
                random.shuffle(&mut places);
                places.chunks(size).map(|members| Group::of(members.to_vec())).collect()
            }
            Self::Devices { services } => {
                (0..services).map(|_| Group { at: vec![(random.below(buses) as u32, 1)] }).collect()
            }
            Self::Everybody => {
                let connections = system.connections as u32;
                vec![Group { at: (0..system.buses as u32).map(|bus| (bus, connections)).collect() }]
            }
            Self::Requests { services, buses: at } => {
                let mut all: Vec<u32> = (0..system.buses as u32).collect();
                let serving = |_| {
                    random.shuffle(&mut all);
                    Group::of(all.iter().copied().take(at).collect())
                };
                (0..services).map(serving).collect()
            }
        }
    }

    /// Whether who publishes is one of those who get it, from whom it is left out.
    pub(crate) fn is_among_members(self) -> bool {
        matches!(self, Self::Rooms { .. } | Self::Everybody)
    }
}

/// Subscriptions at NATS for a pattern: one to the messages and one to the marks that tell which was the last.
pub(crate) const AT_NATS: f64 = 2.0;

/// Patterns that each bus subscribes to at NATS.
pub(crate) fn patterns(groups: &[Group], buses: usize) -> Vec<u64> {
    let mut patterns = vec![0; buses];
    for (bus, _) in groups.iter().flat_map(|group| &group.at) {
        patterns[*bus as usize] += 1;
    }
    patterns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_is_in_one_room() {
        let system = System::at_one_host(4, 250, 2);
        let groups = Traffic::Rooms { size: 10 }.groups(&system, &mut Random::new(1));
        assert_eq!(groups.len(), 100);
        assert!(groups.iter().all(|group| group.members() == 10));
        let at_the_first: u32 = groups.iter().map(|group| group.count_at(0)).sum();
        assert_eq!(at_the_first, 250);
    }

    #[test]
    fn members_are_counted_over_all_buses() {
        let group = Group::of(vec![7, 3, 7]);
        assert_eq!(group.at, [(3, 1), (7, 2)]);
        let buses: Vec<Option<u32>> = (0..4).map(|member| group.bus_of(member)).collect();
        assert_eq!(buses, [Some(3), Some(7), Some(7), None]);
    }

    #[test]
    fn a_service_is_at_as_many_buses_as_it_says() {
        let system = System::at_one_host(8, 1, 2);
        let groups = Traffic::Requests { services: 5, buses: 3 }.groups(&system, &mut Random::new(1));
        assert!(groups.iter().all(|group| group.at.len() == 3));
        assert_eq!(patterns(&groups, 8).iter().sum::<u64>(), 15);
    }
}
