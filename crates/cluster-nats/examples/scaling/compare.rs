//! Holds the simulation against what several buses take at this machine.

use tokio::task::JoinHandle;
use whispeer::prelude::*;

use crate::Outcome;
use crate::clients::{self, Load};
use crate::costs::Costs;
use crate::memory;
use crate::place::{Measured, Place};
use crate::processes::Used;
use crate::random::Random;
use crate::simulate::{Run, simulate};
use crate::system::{AT_NATS, Group, System, Traffic, patterns};

/// Clients of all buses together.
const CLIENTS: usize = 1_000;

/// Members of a room, and messages in a second.
const ROOM: usize = 10;
const MESSAGES: f64 = 1_500.0;

/// Services, buses that each is at, and requests in a second.
const SERVICES: usize = 50;
const SERVED_AT: usize = 2;
const REQUESTS: f64 = 1_000.0;

/// Seconds of each run, and of its simulation.
const SECONDS: f64 = 8.0;

/// What chance begins with: who is in which room, here and in the simulation.
const SEED: u64 = 1;

/// Measures 2, 4 and 8 buses and prints that beside what the simulation says.
pub(crate) async fn compare(costs: &Costs) -> Outcome {
    let cores = std::thread::available_parallelism()?.get();
    println!("\n| buses | | measured | simulated | ratio |\n|--:|---|--:|--:|--:|");
    for buses in [2, 4, 8] {
        let system = System::at_one_host(buses, CLIENTS / buses, cores);
        rooms(system, costs).await?;
        requests(system, costs).await?;
    }
    Ok(())
}

/// The next client at each bus, so that those of all groups are different ones.
struct Places<'a> {
    place: &'a Place,
    taken: Vec<usize>,
}

impl<'a> Places<'a> {
    fn new(place: &'a Place) -> Self {
        Self { place, taken: vec![0; place.clients.len()] }
    }

    fn of(&mut self, group: &Group) -> Vec<&'a Client> {
        let mut members = Vec::new();
        for (bus, count) in &group.at {
            let (clients, taken) = (&self.place.clients[*bus as usize], &mut self.taken[*bus as usize]);
            for _ in 0..*count {
                members.push(&clients[*taken % clients.len()]);
                *taken += 1;
            }
        }
        members
    }
}

async fn rooms(system: System, costs: &Costs) -> Outcome {
    let traffic = Traffic::Rooms { size: ROOM };
    let mut random = Random::new(SEED);
    let groups = traffic.groups(&system, &mut random);
    let place = Place::new(system.buses, system.connections).await?;
    let before = place.nats_state().await?.subscriptions;
    let (mut tasks, mut publishers): (Vec<JoinHandle<()>>, Vec<_>) = (Vec::new(), Vec::new());
    let mut places = Places::new(&place);
    for (number, group) in groups.iter().enumerate() {
        let topic = format!("rooms/{number}");
        for client in places.of(group) {
            tasks.push(clients::subscribe(client, &topic, &place.seen).await?);
            publishers.push(client.publisher_bytes(&topic)?);
        }
    }
    place.settled().await?;
    let subscribed = place.nats_state().await?.subscriptions - before;
    let load = Load::publish(publishers, MESSAGES, &place.seen);
    let measured = place.observe(SECONDS).await?;
    drop(load);

    let run = Run { system, traffic, rate: MESSAGES, seconds: SECONDS };
    let simulated = simulate(run, costs, &groups, random);
    let wanted = patterns(&groups, system.buses);
    let row = |what: &str, measured: f64, simulated: f64| row(system.buses, what, measured, simulated);
    println!("| | **rooms of {ROOM}, {MESSAGES} messages/s** | | | |");
    work(system.buses, &measured, &simulated);
    row("subscriptions at NATS", subscribed, AT_NATS * wanted.iter().sum::<u64>() as f64);
    let of_a_bus = memory::of_a_bus(&system, &wanted, 1.0, costs);
    row("MiB of a bus", mean(&measured.buses, |used| used.memory) / MIB, of_a_bus / MIB);
    let of_a_node = memory::of_a_node(&system, &wanted, groups.len() as u64, costs);
    row("MiB of NATS", measured.nats.memory / MIB, of_a_node / MIB);
    Ok(())
}

async fn requests(system: System, costs: &Costs) -> Outcome {
    let traffic = Traffic::Requests { services: SERVICES, buses: SERVED_AT };
    let mut random = Random::new(SEED);
    let groups = traffic.groups(&system, &mut random);
    let place = Place::new(system.buses, system.connections).await?;
    let mut serving = Vec::new();
    let mut places = Places::new(&place);
    let services: Vec<String> = (0..SERVICES).map(|number| format!("served/{number}")).collect();
    for (group, service) in groups.iter().zip(&services) {
        for client in places.of(group) {
            serving.push(client.handle_bytes(service, |asked| async move { Ok(asked) }).await?);
        }
    }
    place.settled().await?;
    let askers = place.clients.iter().flatten().cloned().collect();
    let load = Load::ask(askers, services, REQUESTS, &place.seen);
    let measured = place.observe(SECONDS).await?;
    drop(load);
    place.seen.all_answered().await?;

    let run = Run { system, traffic, rate: REQUESTS, seconds: SECONDS };
    let simulated = simulate(run, costs, &groups, random);
    println!("| | **{SERVICES} services at {SERVED_AT} buses each, {REQUESTS} requests/s** | | | |");
    work(system.buses, &measured, &simulated);
    Ok(())
}

const MIB: f64 = 1024.0 * 1024.0;

fn mean<T>(all: &[T], of: impl Fn(&T) -> f64) -> f64 {
    all.iter().map(of).sum::<f64>() / all.len() as f64
}

fn work(buses: usize, measured: &Measured, simulated: &crate::simulate::Outcome) {
    let row = |what: &str, measured: f64, simulated: f64| row(buses, what, measured, simulated);
    let cores = |used: &Used| used.work / 1e9;
    row("deliveries/s", measured.received, simulated.deliveries);
    row("messages/s to NATS", measured.nats_in, simulated.nats_in);
    row("messages/s from NATS", measured.nats_out, simulated.nats_out);
    row("cores of a bus", mean(&measured.buses, cores), mean(&simulated.buses, |cores| *cores));
    row("cores of NATS", cores(&measured.nats), simulated.nodes[0]);
    row("cores of the clients", cores(&measured.clients), simulated.clients);
    let latency = |quantile| simulated.latency.value_at_quantile(quantile) as f64 / 1e6;
    row("p50, ms", measured.latency.0, latency(0.5));
    row("p99, ms", measured.latency.1, latency(0.99));
}

fn row(buses: usize, what: &str, measured: f64, simulated: f64) {
    let shown = |value: f64| if value < 10.0 { format!("{value:.3}") } else { format!("{value:.0}") };
    println!(
        "| {buses} | {what} | {} | {} | {:.2} |",
        shown(measured),
        shown(simulated),
        simulated / measured
    );
}
