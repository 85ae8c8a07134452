//! From a publisher's link to those of its subscribers, at a bus with byte links.

use anyhow::{Result, ensure};
use whispeer::limits;
use whispeer::proto::Lane;

use super::{ROUND, SMALL, TOPIC, Work, runtime, start_bus};
use crate::counted::counted_part;
use crate::peer::{Peer, credit, frame_bytes};

/// The one subscription of each subscriber.
const SUBSCRIPTION: u32 = 1;

/// The payload of the row with a larger one. It stays below the size from which on the C library's
/// way to copy depends on the processor.
const KIBIBYTE: [u8; 1024] = [0x5A; 1024];

/// Subscribers of the row with several.
const SUBSCRIBERS: u64 = 64;

/// What is done and counted.
struct Plan {
    payload: &'static [u8],
    subscribers: u64,
    /// Messages that each subscriber may have outstanding.
    window: u64,
    /// Publishes given to the bus at a time.
    together: u64,
    /// Rounds that are counted, of [`ROUND`] publishes each and a grant of credit by each subscriber.
    rounds: u64,
}

/// The least; rows say what is different about them.
const PLAIN: Plan = Plan {
    payload: &SMALL,
    subscribers: 1,
    window: limits::WINDOW_MESSAGES as u64,
    together: ROUND,
    rounds: 16,
};

/// Publishes that arrive together.
pub fn one_to_one() -> Result<Work> {
    deliver(&PLAIN)
}

/// The same with larger payloads, whose reads end within frames.
pub fn one_to_one_of_1_kib() -> Result<Work> {
    deliver(&Plan {
        payload: &KIBIBYTE,
        ..PLAIN
    })
}

/// Publishes that arrive one at a time.
pub fn one_by_one() -> Result<Work> {
    deliver(&Plan {
        together: 1,
        ..PLAIN
    })
}

/// Publishes that go to many, as many at a time as a session handles in one turn.
pub fn fan_out() -> Result<Work> {
    deliver(&Plan {
        subscribers: SUBSCRIBERS,
        together: ROUND / 2,
        rounds: 4,
        ..PLAIN
    })
}

/// Publishes that find no credit: the first round uses up the window, and from then on credit comes
/// after the messages that it is for.
pub fn park_and_pump() -> Result<Work> {
    deliver(&Plan {
        window: ROUND,
        ..PLAIN
    })
}

fn deliver(plan: &Plan) -> Result<Work> {
    let runtime = runtime()?;
    let bus = start_bus(&runtime)?;
    let mut publisher = runtime.block_on(Peer::connect(&bus))?;
    let mut subscribers = Vec::new();
    for _ in 0..plan.subscribers {
        subscribers.push(runtime.block_on(Peer::connect(&bus))?);
    }
    let _entered = runtime.enter();
    let one = frame_bytes(TOPIC, plan.payload);
    // One round more, to warm up with.
    let rounds = plan.rounds + 1;
    let grant = credit(Lane::Subscription, SUBSCRIPTION, ROUND as u32, ROUND * one);
    for subscriber in &subscribers {
        let window = (plan.window as u32, limits::WINDOW_BYTES);
        subscriber.subscribe(SUBSCRIPTION, TOPIC, window)?;
        subscriber.load(grant.repeat(rounds as usize));
    }
    let mut frames = Vec::new();
    for _ in 0..rounds * ROUND {
        publisher.append_publish(&mut frames, TOPIC, plan.payload);
    }
    publisher.load(frames);
    let publish = || {
        for _ in 0..ROUND / plan.together {
            publisher.give((plan.together * one) as usize);
        }
    };
    let give_credit = || {
        for subscriber in &subscribers {
            subscriber.give(grant.len());
        }
    };
    let received = || subscribers.iter().map(Peer::received).sum::<u64>();
    publish();
    let waits = plan.window == ROUND;
    if !waits {
        give_credit();
    }
    let before = received();
    counted_part(&mut || {
        for _ in 0..plan.rounds {
            publish();
            give_credit();
        }
    });
    let operations = plan.rounds * ROUND;
    let messages = operations * plan.subscribers;
    let delivered = received() - before;
    ensure!(
        delivered == messages * one,
        "{delivered} bytes were delivered, and not {}",
        messages * one
    );
    Ok(Work {
        operations,
        messages,
        bytes: operations * one + delivered,
    })
}
