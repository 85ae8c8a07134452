//! From what was measured to 1,000 buses with 1,000,000 connections.

use std::fmt::Write as _;

use crate::costs::{Costs, Work};
use crate::memory;
use crate::random::Random;
use crate::recovery::{self, Recovery};
use crate::simulate::{Run, simulate};
use crate::system::{System, Traffic, patterns};

/// Buses, each with so many clients.
const BUSES: [usize; 4] = [8, 64, 256, 1_000];
const CONNECTIONS: usize = 1_000;

/// Members of a room, and seconds between two things that somebody says there.
const ROOM: usize = 20;
const SAYS_EVERY: f64 = 60.0;

/// Seconds between two messages of a device, and two requests of a client.
const ACTS_EVERY: f64 = 10.0;

/// Seconds that are simulated.
const SECONDS: f64 = 10.0;

const SEED: u64 = 1;
const MIB: f64 = 1024.0 * 1024.0;

/// What each thing costs, as a table.
pub(crate) fn table_of_costs(costs: &Costs) -> String {
    let mut table =
        String::from("| work, microseconds of a core | at work anyway | woken for it |\n|---|--:|--:|\n");
    let work = &costs.work;
    let rows: [(&str, Work); 13] = [
        ("publish, at the bus", work.publish),
        ("deliver to a client, at its bus", work.deliver),
        ("from its bus to NATS, at the bus", work.send),
        ("from NATS to another bus, at that", work.receive),
        ("from a bus, at NATS", work.nats_in),
        ("to a bus, at NATS", work.nats_out),
        ("a request to another bus with its reply, at the asking bus", work.ask),
        ("the same at the answering bus", work.answer),
        ("a heartbeat that a bus hears", work.heartbeat),
        ("a client connects, at the bus", work.connect),
        ("a new pattern, at the bus", work.subscribe),
        ("a new pattern, at NATS", work.nats_subscribe),
        ("publish and take, at the clients", work.client_publish.and(work.client_deliver)),
    ];
    for (what, Work { busy, wake }) in rows {
        let (busy, woken) = (busy / 1e3, (busy + wake) / 1e3);
        _ = writeln!(table, "| {what} | {busy:.2} | {woken:.1} |");
    }
    _ = writeln!(table, "| an idle connection, in a second | {:.2} | |", work.idle_connection / 1e3);
    table.push_str("\n| memory | KiB |\n|---|--:|\n");
    let memory = &costs.memory;
    let rows = [
        ("a bus with its link", memory.bus),
        ("an idle connection through a Unix socket", memory.connection),
        ("a subscription to what others at the bus have too", memory.subscription),
        ("a subscription to a pattern that nobody else there has", memory.pattern),
        ("a node of NATS", memory.nats),
        ("a subscription at NATS", memory.nats_subscription),
    ];
    for (what, bytes) in rows {
        _ = writeln!(table, "| {what} | {:.2} |", bytes / 1024.0);
    }
    table
}

/// All tables of the simulation.
pub(crate) fn tables(costs: &Costs) -> String {
    let mut text = String::new();
    for (title, traffic, rate) in loads() {
        _ = writeln!(text, "\n{title}\n");
        text.push_str(
            "| buses | connections | messages/s | deliveries/s | cores of a bus, mean and most | cores of a node of NATS | NATS in and out, /s | p50, ms | p99, ms | MiB of a bus | MiB of a node |\n",
        );
        text.push_str("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n");
        for buses in BUSES {
            text.push_str(&row(buses, traffic(buses), rate(buses * CONNECTIONS), costs));
        }
    }
    text.push_str(&recoveries(costs));
    text
}

type Load = (&'static str, fn(usize) -> Traffic, fn(usize) -> f64);

fn loads() -> [Load; 4] {
    [
        (
            "**Rooms** of 20 whose members are anywhere; each says something every minute:",
            |_| Traffic::Rooms { size: ROOM },
            |connections| connections as f64 / SAYS_EVERY,
        ),
        (
            "**Devices** that publish every ten seconds, for as many services as there are buses:",
            |buses| Traffic::Devices { services: buses },
            |connections| connections as f64 / ACTS_EVERY,
        ),
        (
            "**Requests** of each every ten seconds, to 100 services, each at every tenth bus:",
            |buses| Traffic::Requests { services: 100, buses: buses.div_ceil(10) },
            |connections| connections as f64 / ACTS_EVERY,
        ),
        ("**Everybody**: one message in a second that all want:", |_| Traffic::Everybody, |_| 1.0),
    ]
}

fn row(buses: usize, traffic: Traffic, rate: f64, costs: &Costs) -> String {
    let system = System::in_a_data_centre(buses, CONNECTIONS);
    let mut random = Random::new(SEED);
    let groups = traffic.groups(&system, &mut random);
    let run = Run { system, traffic, rate, seconds: SECONDS };
    let outcome = simulate(run, costs, &groups, random);
    let patterns = patterns(&groups, buses);
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let mean = outcome.buses.iter().sum::<f64>() / buses as f64;
    // What piles up waits for longer and longer.
    let is_carried = (outcome.on_its_way as f64) < outcome.deliveries.max(rate);
    let latency = |quantile| {
        let milliseconds = outcome.latency.value_at_quantile(quantile) as f64 / 1e6;
        if is_carried { format!("{milliseconds:.2}") } else { "piles up".to_owned() }
    };
    let of_a_bus = memory::of_a_bus(&system, &patterns, 1.0, costs) / MIB;
    let of_a_node = memory::of_a_node(&system, &patterns, groups.len() as u64, costs) / MIB;
    format!(
        "| {buses} | {} | {} | {} | {mean:.3}, {:.3} | {:.3} | {}, {} | {} | {} | {of_a_bus:.0} | {of_a_node:.0} |\n",
        thousands(system.all_connections() as f64),
        thousands(rate),
        thousands(outcome.deliveries),
        most(&outcome.buses),
        most(&outcome.nodes),
        thousands(outcome.nats_in),
        thousands(outcome.nats_out),
        latency(0.5),
        latency(0.99),
    )
}

fn recoveries(costs: &Costs) -> String {
    let mut text = String::from(
        "\nSeconds until half of those concerned, and all of them, go on:\n\n\
         | buses | a node of NATS dies: its buses | a bus dies: its clients | all clients connect at once | a bus hangs: requests there fail |\n\
         |--:|--:|--:|--:|--:|\n",
    );
    for buses in BUSES {
        let system = System::in_a_data_centre(buses, CONNECTIONS);
        let groups = Traffic::Rooms { size: ROOM }.groups(&system, &mut Random::new(SEED));
        let patterns = patterns(&groups, buses);
        let shown = |Recovery { half, all }| format!("{half:.2}, {all:.2}");
        _ = writeln!(
            text,
            "| {buses} | {} | {} | {} | {:.0} |",
            shown(recovery::node_dies(&system, &patterns, costs)),
            shown(recovery::bus_dies(&system, 1.0, costs)),
            shown(recovery::all_connect(&system, 1.0, costs)),
            recovery::requests_fail_after(&system),
        );
    }
    text
}

/// A whole number with commas between thousands.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        assert_eq!(thousands(1.4), "1");
        assert_eq!(thousands(1_000.0), "1,000");
        assert_eq!(thousands(123_456_789.0), "123,456,789");
    }
}
