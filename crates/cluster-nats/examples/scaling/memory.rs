//! What is where in memory.

use super::costs::Costs;
use super::system::{AT_NATS, System};

/// Bytes of the bus with the most patterns, each of whose clients has so many subscriptions.
pub(crate) fn of_a_bus(system: &System, patterns: &[u64], subscriptions: f64, costs: &Costs) -> f64 {
    let memory = &costs.memory;
    let patterns = patterns.iter().max().copied().unwrap_or(0) as f64;
    let connections = system.connections as f64;
    // The first subscription to a pattern costs more than those after it.
    let more = memory.pattern - memory.subscription;
    memory.bus
        + memory.connection * connections
        + memory.subscription * subscriptions * connections
        + more.max(0.0) * patterns
}

/// Bytes of a node of NATS: each knows what its own buses want, and for each other node what somebody there wants.
pub(crate) fn of_a_node(system: &System, patterns: &[u64], topics: u64, costs: &Costs) -> f64 {
    let all: u64 = patterns.iter().sum();
    let own = all.div_ceil(system.nodes as u64);
    let of_others = own.min(topics) * (system.nodes as u64 - 1);
    costs.memory.nats + costs.memory.nats_subscription * AT_NATS * (own + of_others) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::costs::Memory;

    const MEMORY: Memory = Memory {
        bus: 1_000_000.0,
        connection: 5_000.0,
        subscription: 300.0,
        pattern: 1_300.0,
        nats: 10_000_000.0,
        nats_subscription: 500.0,
    };

    #[test]
    fn a_bus_has_its_connections_subscriptions_and_patterns() {
        let costs = Costs { memory: MEMORY, ..Costs::default() };
        let system = System::in_a_data_centre(2, 1_000);
        let bytes = of_a_bus(&system, &[10, 100], 2.0, &costs);
        assert_eq!(bytes, 1_000_000.0 + 5_000_000.0 + 600_000.0 + 100_000.0);
    }

    #[test]
    fn a_node_knows_what_others_want_once() {
        let costs = Costs { memory: MEMORY, ..Costs::default() };
        let system = System::in_a_data_centre(6, 1);
        // 600 patterns, 200 at each node, of 50 topics.
        let bytes = of_a_node(&system, &[100; 6], 50, &costs);
        assert_eq!(bytes, 10_000_000.0 + 500.0 * 2.0 * (200.0 + 2.0 * 50.0));
    }
}
