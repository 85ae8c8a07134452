//! Finds out what each thing costs: runs that differ by one thing, each at a low and at a high rate.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;
use whispeer::prelude::*;

use crate::Outcome;
use crate::clients::{self, Load, Seen};
use crate::costs::{Costs, Memory, Work, Works};
use crate::place::{Measured, Place};
use crate::processes::Used;

/// Clients of a bus that is measured at work.
const CLIENTS: usize = 250;

/// Messages in a second: so few that each wakes the processes, and so many that they are at work most of the time.
const RATES: [f64; 2] = [500.0, 20_000.0];

/// The same of requests.
const REQUEST_RATES: [f64; 2] = [300.0, 5_000.0];

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

/// What all processes took at both rates.
struct Runs([Measured; 2]);

impl Runs {
    /// What each thing that was done took of a process, beside what that takes when nothing is done.
    fn cost(&self, idle: &Measured, of: impl Fn(&Measured) -> Used) -> Work {
        let [rarely, often] = self.0.each_ref().map(|run| (of(run).work - of(idle).work).max(0.0) / run.sent);
        Work { busy: often, wake: (rarely - often).max(0.0) }
    }

    fn bus(&self, bus: usize, idle: &Measured) -> Work {
        self.cost(idle, |measured| measured.buses[bus])
    }

    fn nats(&self, idle: &Measured) -> Work {
        self.cost(idle, |measured| measured.nats)
    }

    fn clients(&self, idle: &Measured) -> Work {
        self.cost(idle, |measured| measured.clients)
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
    eprintln!("one bus is measured");
    between_two(&mut work).await?;
    eprintln!("two buses are measured");
    let memory = at_rest(&mut work).await?;
    eprintln!("what is idle is measured");
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
    let mut place = Place::new(2, CLIENTS).await?;
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
    requests(&mut place, work, &idle).await?;
    heartbeats(&place, work, &idle).await
}

/// Beside what was published before, whose messages do not count as requests.
async fn requests(place: &mut Place, work: &mut Works, idle: &Measured) -> Outcome {
    let services: Vec<String> = (0..CLIENTS).map(|number| format!("served/{number}")).collect();
    let mut serving = Vec::new();
    for (client, service) in place.clients[1].iter().zip(&services) {
        serving.push(client.handle_bytes(service, |asked| async move { Ok(asked) }).await?);
    }
    place.settled().await?;
    place.seen = Seen::new();
    let mut runs = Vec::new();
    for rate in REQUEST_RATES {
        let load = Load::ask(place.clients[0].clone(), services.clone(), rate, &place.seen);
        runs.push(place.observe(SECONDS).await?);
        drop(load);
    }
    place.seen.all_answered().await?;
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
