//! Connections and subscriptions over which nothing goes.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Phases;
use super::client::PubSub;
use super::measured::{Measured, Metric};
use crate::address::Address;
use crate::clock::Ticks;

/// How often a subscription is made, and one ended: 1,000 a second.
const CHANGE: Duration = Duration::from_millis(1);

/// Holds `connections` connections with a subscription each, to a topic of its own, until the
/// process is ended. `first` numbers the first one.
///
/// # Errors
/// When the bus cannot be reached.
pub async fn idle<C: PubSub>(
    address: &Address,
    first: u32,
    connections: u32,
    ready: impl FnOnce(),
) -> Result<()> {
    let mut held = Vec::new();
    for connection in first..first + connections {
        let client = C::connect(address).await?;
        let subscription = client.hold(&format!("idle/{connection}")).await?;
        held.push((client, subscription));
    }
    ready();
    std::future::pending::<()>().await;
    drop(held);
    Ok(())
}

/// Makes a subscription to a pattern that was never used before, and ends it, a thousand times a
/// second.
///
/// # Errors
/// When the bus cannot be reached.
pub async fn change<C: PubSub>(
    address: &Address,
    phases: Phases,
    ready: impl FnOnce(),
) -> Result<Measured> {
    let client = C::connect(address).await?;
    let mut ticks = Ticks::every(CHANGE)?;
    ready();
    let begun = Instant::now();
    let mut count: u32 = 0;
    loop {
        let elapsed = begun.elapsed();
        if elapsed >= phases.total() {
            let rate = f64::from(count) / elapsed.as_secs_f64();
            return Ok(Measured::of(Metric::Changes, rate));
        }
        while CHANGE * count < elapsed && begun.elapsed() < phases.total() {
            let held = client.hold(&format!("bench/{count}/*")).await?;
            client.release(held).await?;
            count += 1;
        }
        ticks.next().await?;
    }
}
