//! Finds out what each thing costs: runs that differ by one thing, each at a low and at a high rate.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;
use whispeer::prelude::*;

use crate::Outcome;
use crate::clients::{self, Load};
use crate::costs::{Costs, Memory, Work, Works};
use crate::place::{Measured, Place};
use crate::processes::Used;

/// Clients of a bus that is measured at work.
const CLIENTS: usize = 250;

/// Messages in a second: so few that each wakes the process, and so many that few do.
const RATES: [f64; 2] = [500.0, 8_000.0];

/// Seconds of each run.
const SECONDS: f64 = 4.0;

/// Clients that do nothing, and seconds for which they are watched: each is asked every ten seconds whether it is there.
const IDLE: usize = 2_000;
const IDLE_SECONDS: f64 = 20.0;

/// Subscriptions of each of them to what all have.
const SHARED: usize = 5;

/// Clients with patterns of their own, and how many each.
const OWNERS: usize = 20;
const OWN: usize = 1_000;

/// Heartbeats in a second, of so many buses that are none.
const BEATS: u64 = 2_000;
const BEATING: u64 = 20;

/// What a process took for one of what it did, at both rates.
#[derive(Debug, Clone, Copy)]
struct Both {
    work: [f64; 2],
    wakes: [f64; 2],
}

impl Both {
    /// Of what was used in a second, beside what it takes when nothing is done, for so many things.
    fn new(used: [Used; 2], idle: Used, count: [f64; 2]) -> Self {
        let each = |of: fn(&Used) -> f64| [0, 1].map(|at| (of(&used[at]) - of(&idle)).max(0.0) / count[at]);
        Self { work: each(|used| used.work), wakes: each(|used| used.wakes) }
    }

    /// What being woken costs is what the difference between the rates is due to.
    fn cost(self) -> Work {
        let fewer_wakes = self.wakes[0] - self.wakes[1];
        let wake = if fewer_wakes > 0.01 { (self.work[0] - self.work[1]) / fewer_wakes } else { 0.0 };
        let busy = (self.work[1] - wake * self.wakes[1]).clamp(0.0, self.work[1]);
        Work { busy, wake: (self.work[0] - busy).max(0.0) }
    }
}

/// What all processes took at both rates.
struct Runs([Measured; 2]);

impl Runs {
    fn bus(&self, bus: usize, idle: &Measured) -> Work {
        let used = [0, 1].map(|at| self.0[at].buses[bus]);
        Both::new(used, idle.buses[bus], self.sent()).cost()
    }

    fn nats(&self, idle: &Measured) -> Work {
        Both::new([0, 1].map(|at| self.0[at].nats), idle.nats, self.sent()).cost()
    }

    fn clients(&self, idle: &Measured) -> Work {
        Both::new([0, 1].map(|at| self.0[at].clients), idle.clients, self.sent()).cost()
    }

    fn sent(&self) -> [f64; 2] {
        [0, 1].map(|at| self.0[at].sent)
    }
}

fn topic(number: usize) -> String {
    format!("measured/{number}")
}

async fn publish(place: &Place) -> Outcome<Runs> {
    let publishers = |clients: &[Client]| {
        let each = clients.iter().enumerate();
        each.map(|(number, client)| client.publisher_bytes(&topic(number))).collect::<BusResult<Vec<_>>>()
    };
    let mut runs = Vec::new();
    for rate in RATES {
        let load = Load::publish(publishers(&place.clients[0])?, rate, &place.seen);
        runs.push(place.observe(SECONDS).await?);
        drop(load);
    }
    Ok(Runs(runs.try_into().map_err(|_| "two runs")?))
}

/// Lets each client of a bus have what another one publishes.
async fn subscribe(place: &Place, bus: usize) -> Outcome<Vec<JoinHandle<()>>> {
    let mut tasks = Vec::new();
    for number in 0..CLIENTS {
        let client = &place.clients[bus][(number + 1) % CLIENTS];
        tasks.push(clients::subscribe(client, &topic(number), &place.seen).await?);
    }
    Ok(tasks)
}

/// Finds out all of it. Takes some three minutes.
pub(crate) async fn calibrate() -> Outcome<Costs> {
    let mut work = Works::default();
    at_one_bus(&mut work).await?;
    eprintln!("at one bus: {work:?}");
    between_two(&mut work).await?;
    eprintln!("between two: {work:?}");
    let memory = at_rest(&mut work).await?;
    eprintln!("at rest: {work:?} {memory:?}");
    Ok(Costs { work, memory })
}

async fn at_one_bus(work: &mut Works) -> Outcome {
    let place = Place::new(1, CLIENTS).await?;
    let idle = place.observe(SECONDS).await?;
    let alone = publish(&place).await?;
    work.publish = alone.bus(0, &idle);
    work.client_publish = alone.clients(&idle);
    let _tasks = subscribe(&place, 0).await?;
    let delivered = publish(&place).await?;
    work.deliver = delivered.bus(0, &idle).beside(work.publish);
    work.client_deliver = delivered.clients(&idle).beside(work.client_publish);
    Ok(())
}

async fn between_two(work: &mut Works) -> Outcome {
    let place = Place::new(2, CLIENTS).await?;
    let idle = place.observe(SECONDS).await?;
    let sent = publish(&place).await?;
    work.send = sent.bus(0, &idle).beside(work.publish);
    work.nats_in = sent.nats(&idle);
    let tasks = subscribe(&place, 1).await?;
    place.settled().await?;
    let received = publish(&place).await?;
    work.receive = received.bus(1, &idle).beside(work.deliver);
    work.nats_out = received.nats(&idle).beside(work.nats_in);
    for task in tasks {
        task.abort();
    }
    requests(&place, work, &idle).await?;
    heartbeats(&place, work, &idle).await
}

async fn requests(place: &Place, work: &mut Works, idle: &Measured) -> Outcome {
    let services: Vec<String> = (0..CLIENTS).map(|number| format!("served/{number}")).collect();
    let mut serving = Vec::new();
    for (client, service) in place.clients[1].iter().zip(&services) {
        serving.push(client.handle_bytes(service, |asked| async move { Ok(asked) }).await?);
    }
    place.settled().await?;
    let mut runs = Vec::new();
    for rate in RATES {
        let load = Load::ask(place.clients[0].clone(), services.clone(), rate, &place.seen);
        runs.push(place.observe(SECONDS).await?);
        drop(load);
    }
    let runs = Runs(runs.try_into().map_err(|_| "two runs")?);
    work.ask = runs.bus(0, idle);
    work.answer = runs.bus(1, idle);
    Ok(())
}

/// Buses that are none say that they are there.
async fn heartbeats(place: &Place, work: &mut Works, idle: &Measured) -> Outcome {
    let nats = async_nats::connect(place.url()?).await?;
    let saying = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(1000 * BEATING / BEATS));
        for number in 1_u64.. {
            ticks.tick().await;
            for id in 1..=BEATING {
                let beat = format!(
                    r#"{{"id":"{id:016x}","name":"none","epoch":1,"number":{number},"interval_ms":1000,"leaving":false}}"#
                );
                let said = nats.publish(format!("whispeer.bus.{id:016x}"), beat.into()).await;
                if said.is_err() {
                    return;
                }
            }
        }
    });
    let measured = place.observe(SECONDS).await?;
    saying.abort();
    let busy = (measured.buses[1].work - idle.buses[1].work).max(0.0) / BEATS as f64;
    // Several come at a time here. Alone, each wakes its bus as a message does.
    work.heartbeat = Work { busy, wake: work.receive.wake };
    Ok(())
}

async fn at_rest(work: &mut Works) -> Outcome<Memory> {
    let mut place = Place::with(1, 0, true).await?;
    let mut memory = Memory::default();
    let empty = place.observe(IDLE_SECONDS).await?;
    memory.bus = empty.buses[0].memory;
    memory.nats = empty.nats.memory;

    let before = place.buses[0].used()?;
    place.clients[0] = clients::connect(&place.buses[0], IDLE).await?;
    let connected = place.buses[0].used()? - before;
    let each = IDLE as f64;
    memory.connection = connected.memory / each;
    work.connect = Work { busy: connected.work / each, wake: 0.0 };
    let idle = place.observe(IDLE_SECONDS).await?;
    work.idle_connection = (idle.buses[0].work - empty.buses[0].work).max(0.0) / each;

    let before = place.buses[0].used()?;
    let mut tasks = Vec::new();
    for client in &place.clients[0] {
        for number in 0..SHARED {
            tasks.push(clients::subscribe(client, &format!("shared/{number}"), &place.seen).await?);
        }
    }
    place.settled().await?;
    memory.subscription = (place.buses[0].used()? - before).memory / (each * SHARED as f64);

    let (before, nats_before, state) =
        (place.buses[0].used()?, place.nats_used()?, place.nats_state().await?);
    for (owner, client) in place.clients[0].iter().enumerate().take(OWNERS) {
        for number in 0..OWN {
            let pattern = format!("owned/{owner}/{number}");
            tasks.push(clients::subscribe(client, &pattern, &place.seen).await?);
        }
    }
    place.settled().await?;
    // What NATS was given is in its table, and its memory has been looked through by its collector.
    sleep(Duration::from_secs(2)).await;
    let (own, at_nats) = (place.buses[0].used()? - before, place.nats_used()? - nats_before);
    let patterns = (OWNERS * OWN) as f64;
    let subscribed = place.nats_state().await?.subscriptions - state.subscriptions;
    memory.pattern = own.memory / patterns;
    memory.nats_subscription = at_nats.memory / subscribed;
    work.subscribe = Work { busy: own.work / patterns, wake: 0.0 };
    work.nats_subscribe = Work { busy: at_nats.work / subscribed, wake: 0.0 };
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_between_the_rates_is_due_to_waking() {
        // 2 microseconds each, and 10 for each time that it is woken: each time at the low rate, every fifth at the high one.
        let both = Both { work: [12_000.0, 4_000.0], wakes: [1.0, 0.2] };
        let cost = both.cost();
        assert!((cost.busy - 2_000.0).abs() < 1.0, "{cost:?}");
        assert!((cost.wake - 10_000.0).abs() < 1.0, "{cost:?}");
    }

    #[test]
    fn what_costs_the_same_at_both_rates_has_nothing_to_wake() {
        let both = Both { work: [3_000.0, 3_000.0], wakes: [0.0, 0.0] };
        assert_eq!(both.cost(), Work { busy: 3_000.0, wake: 0.0 });
    }
}
