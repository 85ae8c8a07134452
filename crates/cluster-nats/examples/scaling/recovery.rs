//! How long it takes until all is well when something has died.

use super::costs::{Costs, Work};
use super::random::Random;
use super::simulate::heartbeat_interval;
use super::station::{Host, Process};
use super::system::{AT_NATS, System};

/// The pause before a bus connects again, and that of a client, in nanoseconds; up to half of it is left out by chance.
const LINK_PAUSE: f64 = 50e6;
const CLIENT_PAUSE: f64 = 100e6;

/// Heartbeats that are missed before a bus counts as gone.
const MISSED: f64 = 3.0;

/// Seconds from a death on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Recovery {
    /// Until half of those who were at it are where they go on.
    pub(crate) half: f64,
    /// Until the last of them is.
    pub(crate) all: f64,
}

impl Recovery {
    fn of(mut ends: Vec<u64>) -> Self {
        ends.sort_unstable();
        let seconds = |nanoseconds: Option<&u64>| nanoseconds.copied().unwrap_or(0) as f64 / 1e9;
        Self { half: seconds(ends.get(ends.len() / 2)), all: seconds(ends.last()) }
    }
}

/// Those who connect again, each with some work at one of several places.
struct Arrival {
    at: u64,
    place: usize,
    work: Work,
}

fn recover(mut arrivals: Vec<Arrival>, places: usize, cores: usize) -> Recovery {
    let mut hosts = vec![Host::new(cores); places];
    let mut processes = vec![Process::default(); places];
    arrivals.sort_unstable_by_key(|arrival| arrival.at);
    let ends = arrivals
        .iter()
        .map(|Arrival { at, place, work }| processes[*place].work(&mut hosts[*place], *at, *work))
        .collect();
    Recovery::of(ends)
}

fn pause(random: &mut Random, longest: f64) -> u64 {
    (longest * (0.5 + 0.5 * random.share())) as u64
}

/// A node of NATS dies: its buses go to the others, with all patterns that they want. A node takes subscriptions one after another.
pub(crate) fn node_dies(system: &System, patterns: &[u64], costs: &Costs) -> Recovery {
    let mut random = Random::new(1);
    let left = system.nodes.saturating_sub(1).max(1);
    let again = |(bus, patterns): (usize, &u64)| Arrival {
        // To connect takes a few messages there and back.
        at: pause(&mut random, LINK_PAUSE) + 6 * system.distance,
        place: bus % left,
        work: costs.work.nats_subscribe.times(AT_NATS * *patterns as f64),
    };
    let its = |(bus, _): &(usize, &u64)| system.node_of(*bus) == system.nodes - 1;
    recover(patterns.iter().enumerate().filter(its).map(again).collect(), left, 1)
}

/// A bus dies: its clients go to the others.
pub(crate) fn bus_dies(system: &System, subscriptions: f64, costs: &Costs) -> Recovery {
    let mut random = Random::new(1);
    let left = system.buses.saturating_sub(1).max(1);
    let again = |_| Arrival {
        at: pause(&mut random, CLIENT_PAUSE) + 6 * system.distance,
        place: random.below(left as u64) as usize,
        work: costs.work.connect.and(costs.work.subscribe.times(subscriptions)),
    };
    recover((0..system.connections).map(again).collect(), left, system.bus_cores)
}

/// All clients connect at once, each to its bus, as after a loss of power.
pub(crate) fn all_connect(system: &System, subscriptions: f64, costs: &Costs) -> Recovery {
    let work = costs.work.connect.and(costs.work.subscribe.times(subscriptions));
    let at_a_bus = |_| Arrival { at: 0, place: 0, work };
    // Each bus has the same to do.
    recover((0..system.connections).map(at_a_bus).collect(), 1, system.bus_cores)
}

/// Seconds until requests at a bus that hangs, or whose host has lost its power, have failed.
pub(crate) fn requests_fail_after(system: &System) -> f64 {
    MISSED * heartbeat_interval(system.buses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::costs::Works;

    fn costs() -> Costs {
        let of = |busy| Work { busy, wake: 0.0 };
        let work = Works {
            connect: of(100_000.0),
            subscribe: of(10_000.0),
            nats_subscribe: of(1_000.0),
            ..Works::default()
        };
        Costs { work, ..Costs::default() }
    }

    #[test]
    fn buses_of_a_dead_node_are_back_when_the_others_have_their_patterns() {
        let system = System::in_a_data_centre(300, 1);
        let recovery = node_dies(&system, &vec![10_000; 300], &costs());
        // A hundred with ten thousand each, at two nodes: a second, after the pause.
        assert!((1.0..1.06).contains(&recovery.all), "{recovery:?}");
        assert!(recovery.half < recovery.all);
    }

    #[test]
    fn clients_of_a_dead_bus_are_soon_elsewhere() {
        let recovery = bus_dies(&System::in_a_data_centre(1_000, 1_000), 1.0, &costs());
        assert!((0.05..0.11).contains(&recovery.all), "{recovery:?}");
    }

    #[test]
    fn all_who_connect_at_once_share_the_cores_of_their_bus() {
        let recovery = all_connect(&System::in_a_data_centre(10, 1_000), 1.0, &costs());
        // A thousand with 110 microseconds each, at four cores.
        assert!((recovery.all - 0.0275).abs() < 0.001, "{recovery:?}");
    }

    #[test]
    fn a_bus_that_hangs_is_found_out_within_the_keep_alive_time() {
        assert_eq!(requests_fail_after(&System::in_a_data_centre(8, 1)), 3.0);
        assert!(requests_fail_after(&System::in_a_data_centre(1_000, 1)) < 30.0);
    }
}
