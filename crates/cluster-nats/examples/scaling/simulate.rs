//! The simulation: each message goes its way through the processes, and waits where they are at work.
//!
//! ```text
//! client -> its bus -> its node of NATS -> the other nodes -> the buses that want it -> their clients
//! ```
//!
//! Clients at the same bus have it from there. What is decided by chance, who publishes what and when, follows from the seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hdrhistogram::Histogram;

use super::costs::{Costs, Work};
use super::random::Random;
use super::station::{Host, Process};
use super::system::{Group, System, Traffic};

/// What is to be simulated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// The machines.
    pub(crate) system: System,
    /// What the clients do.
    pub(crate) traffic: Traffic,
    /// Messages, or requests, of all clients together in a second.
    pub(crate) rate: f64,
    /// For how long. The first tenth does not count.
    pub(crate) seconds: f64,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Cores that each bus has work for. Where it is more than there are it piles up.
    pub(crate) buses: Vec<f64>,
    /// Cores that each node of NATS has work for.
    pub(crate) nodes: Vec<f64>,
    /// Cores that the clients have work for, where they are at the same host.
    pub(crate) clients: f64,
    /// Nanoseconds until a client had a message, or the reply to its request.
    pub(crate) latency: Histogram<u64>,
    /// Deliveries to clients in a second, or replies.
    pub(crate) deliveries: f64,
    /// Messages that the nodes took of buses in a second.
    pub(crate) nats_in: f64,
    /// Messages that they gave to buses in a second.
    pub(crate) nats_out: f64,
    /// What was still on its way at the end. Where it grows with the time there is more than can be carried.
    pub(crate) on_its_way: usize,
}

/// Where a message is, with what it needs from there on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The next one is published.
    Publish,
    /// It comes to its bus.
    OwnBus { group: u32, bus: u32, began: u64 },
    /// It comes from there to a node, for these who want it.
    Node { group: u32, bus: u32, began: u64 },
    /// It comes from that node to another one.
    OtherNode { group: u32, node: u32, began: u64 },
    /// It comes to a bus with others who want it.
    Bus { group: u32, bus: u32, began: u64 },
    /// It comes to clients.
    Clients { count: u32, began: u64 },
    /// A request or a reply goes from one bus to another one: to the node of the sender, to that of the other one, to it.
    Exchange { from: u32, to: u32, is_reply: bool, at: Part, began: u64 },
    /// A request comes to the client that answers it, at this bus.
    Answer { asker: u32, bus: u32, began: u64 },
    /// A reply comes from a client to its bus, where who asked is as well.
    OwnReply { bus: u32, began: u64 },
    /// A bus says that it is there.
    Beat { bus: u32 },
    /// It comes to a node, which may be that of another bus.
    BeatAtNode { node: u32, is_first: bool },
    /// It comes to the buses there.
    BeatHeard { node: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    FirstNode,
    LastNode,
    Bus,
}

/// Buses up to which each says every second that it is there, as the crate's limits have it.
const AT_FULL_RATE: usize = 128;

/// Seconds between two heartbeats of a bus.
pub(crate) fn heartbeat_interval(buses: usize) -> f64 {
    buses.div_ceil(AT_FULL_RATE) as f64
}

struct Simulation<'a> {
    run: Run,
    costs: &'a Costs,
    groups: &'a [Group],
    random: Random,
    hosts: Vec<Host>,
    buses: Vec<Process>,
    nodes: Vec<Process>,
    clients: Process,
    events: BinaryHeap<Reverse<(u64, u64, Step)>>,
    numbered: u64,
    latency: Histogram<u64>,
    counted: Counted,
    counts_from: u64,
}

#[derive(Default)]
struct Counted {
    deliveries: u64,
    nats_in: u64,
    nats_out: u64,
}

/// For nanoseconds up to a minute, with three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "three digits are allowed")]
    Histogram::new_with_max(60_000_000_000, 3).expect("three digits are allowed")
}

/// Simulates one run with these who want something, and with what `random` decides.
pub(crate) fn simulate(run: Run, costs: &Costs, groups: &[Group], random: Random) -> Outcome {
    let system = run.system;
    let hosts = if system.is_one_host {
        vec![Host::new(system.bus_cores)]
    } else {
        let buses = (0..system.buses).map(|_| Host::new(system.bus_cores));
        buses.chain((0..system.nodes).map(|_| Host::new(system.node_cores))).collect()
    };
    let mut simulation = Simulation {
        run,
        costs,
        groups,
        random,
        hosts,
        buses: vec![Process::default(); system.buses],
        nodes: vec![Process::default(); system.nodes],
        clients: Process::default(),
        events: BinaryHeap::new(),
        numbered: 0,
        latency: histogram(),
        counted: Counted::default(),
        counts_from: (run.seconds * 1e8) as u64,
    };
    simulation.begin();
    simulation.until((run.seconds * 1e9) as u64)
}

impl Simulation<'_> {
    fn begin(&mut self) {
        self.at(0, Step::Publish);
        let interval = heartbeat_interval(self.run.system.buses) * 1e9;
        for bus in 0..self.run.system.buses {
            let first = (self.random.share() * interval) as u64;
            self.at(first, Step::Beat { bus: bus as u32 });
        }
    }

    fn at(&mut self, time: u64, step: Step) {
        self.numbered += 1;
        self.events.push(Reverse((time, self.numbered, step)));
    }

    fn until(mut self, end: u64) -> Outcome {
        let mut begun = false;
        while let Some(&Reverse((now, _, _))) = self.events.peek() {
            if now >= end {
                break;
            }
            if now >= self.counts_from && !begun {
                begun = true;
                for process in self.buses.iter_mut().chain(&mut self.nodes).chain([&mut self.clients]) {
                    process.worked = 0.0;
                }
                self.counted = Counted::default();
            }
            let Some(Reverse((now, _, step))) = self.events.pop() else { break };
            self.step(now, step);
        }
        let counted = (end - self.counts_from) as f64;
        let cores = |process: &Process| process.worked / counted;
        let in_a_second = |count: u64| count as f64 / counted * 1e9;
        let idle = self.costs.work.idle_connection * self.run.system.connections as f64 / 1e9;
        Outcome {
            buses: self.buses.iter().map(|process| cores(process) + idle).collect(),
            nodes: self.nodes.iter().map(cores).collect(),
            clients: cores(&self.clients),
            latency: self.latency,
            deliveries: in_a_second(self.counted.deliveries),
            nats_in: in_a_second(self.counted.nats_in),
            nats_out: in_a_second(self.counted.nats_out),
            // Each bus has a heartbeat to send, and somebody something to publish.
            on_its_way: self.events.len().saturating_sub(self.run.system.buses + 1),
        }
    }

    fn bus(&mut self, bus: u32, now: u64, work: Work) -> u64 {
        let host = if self.run.system.is_one_host { 0 } else { bus as usize };
        self.buses[bus as usize].work(&mut self.hosts[host], now, work)
    }

    fn node(&mut self, node: u32, now: u64, work: Work) -> u64 {
        let host = if self.run.system.is_one_host { 0 } else { self.run.system.buses + node as usize };
        self.nodes[node as usize].work(&mut self.hosts[host], now, work)
    }

    /// Clients take time only where they are at the same host.
    fn client(&mut self, now: u64, work: Work) -> u64 {
        if !self.run.system.is_one_host {
            return now;
        }
        self.clients.work(&mut self.hosts[0], now, work)
    }

    fn node_of(&self, bus: u32) -> u32 {
        self.run.system.node_of(bus as usize) as u32
    }

    fn away(&self, now: u64) -> u64 {
        now + self.run.system.distance
    }

    fn has(&mut self, began: u64, now: u64, count: u32) {
        if began < self.counts_from {
            return;
        }
        self.counted.deliveries += u64::from(count);
        self.latency.saturating_record_n(now - began, u64::from(count));
    }

    fn step(&mut self, now: u64, step: Step) {
        let work = &self.costs.work;
        match step {
            Step::Publish => self.publish(now),
            Step::OwnBus { group, bus, began } => self.own_bus(now, group, bus, began),
            Step::Node { group, bus, began } => {
                let own = self.node_of(bus);
                let mut here = 0;
                let mut others = vec![false; self.run.system.nodes];
                let groups = self.groups;
                for (other, _) in groups[group as usize].at.iter().filter(|(other, _)| *other != bus) {
                    let node = self.node_of(*other);
                    here += u32::from(node == own);
                    others[node as usize] |= node != own;
                }
                let routes = others.iter().filter(|is_wanted| **is_wanted).count() as u32;
                let takes = work.nats_in.and(work.nats_out.times(f64::from(here + routes)));
                let done = self.node(own, now, takes);
                self.counted.nats_in += 1;
                self.deliver(self.away(done), group, own, Some(bus), began);
                for (node, _) in others.iter().enumerate().filter(|(_, is_wanted)| **is_wanted) {
                    let step = Step::OtherNode { group, node: node as u32, began };
                    self.at(self.away(done), step);
                }
            }
            Step::OtherNode { group, node, began } => {
                let at = &self.groups[group as usize].at;
                let here = at.iter().filter(|(bus, _)| self.node_of(*bus) == node).count();
                let done = self.node(node, now, work.nats_in.and(work.nats_out.times(here as f64)));
                self.deliver(self.away(done), group, node, None, began);
            }
            Step::Bus { group, bus, began } => {
                let count = self.groups[group as usize].count_at(bus);
                let done = self.bus(bus, now, work.receive.and(work.deliver.times(f64::from(count))));
                self.at(done, Step::Clients { count, began });
            }
            Step::Clients { count, began } => {
                let done = self.client(now, work.client_deliver.times(f64::from(count)));
                self.has(began, done, count);
            }
            Step::Exchange { from, to, is_reply, at, began } => {
                self.exchange(now, (from, to), is_reply, at, began);
            }
            Step::Answer { asker, bus, began } => {
                let done = self.client(now, work.client_deliver.and(work.client_publish));
                let step = if asker == bus {
                    Step::OwnReply { bus, began }
                } else {
                    Step::Exchange { from: bus, to: asker, is_reply: true, at: Part::FirstNode, began }
                };
                self.at(self.away(done), step);
            }
            Step::OwnReply { bus, began } => {
                let done = self.bus(bus, now, work.publish.and(work.deliver));
                self.at(done, Step::Clients { count: 1, began });
            }
            Step::Beat { bus } => {
                let interval = heartbeat_interval(self.run.system.buses) * 1e9;
                self.at(now + interval as u64, Step::Beat { bus });
                let done = self.bus(bus, now, work.heartbeat);
                let node = self.node_of(bus);
                self.at(self.away(done), Step::BeatAtNode { node, is_first: true });
            }
            Step::BeatAtNode { node, is_first } => {
                let System { buses, nodes, .. } = self.run.system;
                let here = (node as usize..buses).step_by(nodes).count() - usize::from(is_first);
                let routes = if is_first { nodes - 1 } else { 0 };
                let done =
                    self.node(node, now, work.nats_in.and(work.nats_out.times((here + routes) as f64)));
                self.counted.nats_in += u64::from(is_first);
                self.counted.nats_out += here as u64;
                self.at(self.away(done), Step::BeatHeard { node });
                if is_first {
                    for other in (0..nodes as u32).filter(|other| *other != node) {
                        self.at(self.away(done), Step::BeatAtNode { node: other, is_first: false });
                    }
                }
            }
            Step::BeatHeard { node } => {
                let System { buses, nodes, .. } = self.run.system;
                for bus in (node as usize..buses).step_by(nodes) {
                    self.bus(bus as u32, now, work.heartbeat);
                }
            }
        }
    }

    fn publish(&mut self, now: u64) {
        let next = now + self.random.gap(self.run.rate);
        self.at(next, Step::Publish);
        let group = self.random.below(self.groups.len() as u64) as u32;
        let members = &self.groups[group as usize];
        let bus = if self.run.traffic.is_among_members() {
            let member = self.random.below(u64::from(members.members()).max(1)) as u32;
            members.bus_of(member).unwrap_or(0)
        } else {
            self.random.below(self.run.system.buses as u64) as u32
        };
        let done = self.client(now, self.costs.work.client_publish);
        self.at(done, Step::OwnBus { group, bus, began: now });
    }

    fn own_bus(&mut self, now: u64, group: u32, bus: u32, began: u64) {
        let work = &self.costs.work;
        let members = &self.groups[group as usize];
        if matches!(self.run.traffic, Traffic::Requests { .. }) {
            // Servers at the same bus come first. Otherwise NATS chooses.
            let to = if members.count_at(bus) > 0 {
                bus
            } else {
                let number = self.random.below(u64::from(members.members()).max(1)) as u32;
                members.bus_of(number).unwrap_or(bus)
            };
            if to == bus {
                // The request and the reply are two messages of this bus.
                let done = self.bus(bus, now, work.publish.and(work.deliver));
                self.at(done, Step::Answer { asker: bus, bus, began });
            } else {
                let done = self.bus(bus, now, work.ask.times(0.5));
                let step = Step::Exchange { from: bus, to, is_reply: false, at: Part::FirstNode, began };
                self.at(self.away(done), step);
            }
            return;
        }
        let own = u32::from(self.run.traffic.is_among_members());
        let here = members.count_at(bus).saturating_sub(own);
        let takes = work.publish.and(work.send).and(work.deliver.times(f64::from(here)));
        let done = self.bus(bus, now, takes);
        if here > 0 {
            self.at(done, Step::Clients { count: here, began });
        }
        self.at(self.away(done), Step::Node { group, bus, began });
    }

    /// To the buses at a node that want it.
    fn deliver(&mut self, at: u64, group: u32, node: u32, except: Option<u32>, began: u64) {
        let groups = self.groups;
        for (bus, _) in &groups[group as usize].at {
            if self.node_of(*bus) == node && Some(*bus) != except {
                self.counted.nats_out += 1;
                self.at(at, Step::Bus { group, bus: *bus, began });
            }
        }
    }

    fn exchange(&mut self, now: u64, (from, to): (u32, u32), is_reply: bool, part: Part, began: u64) {
        let work = &self.costs.work;
        let next = |at| Step::Exchange { from, to, is_reply, at, began };
        let through = work.nats_in.and(work.nats_out);
        match part {
            Part::FirstNode => {
                let (node, other) = (self.node_of(from), self.node_of(to));
                let done = self.node(node, now, through);
                self.counted.nats_in += 1;
                let part = if node == other { Part::Bus } else { Part::LastNode };
                self.counted.nats_out += u64::from(node == other);
                self.at(self.away(done), next(part));
            }
            Part::LastNode => {
                let done = self.node(self.node_of(to), now, through);
                self.counted.nats_out += 1;
                self.at(self.away(done), next(Part::Bus));
            }
            Part::Bus if is_reply => {
                let done = self.bus(to, now, work.ask.times(0.5));
                self.at(done, Step::Clients { count: 1, began });
            }
            Part::Bus => {
                let done = self.bus(to, now, work.answer);
                self.at(done, Step::Answer { asker: from, bus: to, began });
            }
        }
    }
}

#[cfg(test)]
#[path = "simulate_tests.rs"]
mod tests;
