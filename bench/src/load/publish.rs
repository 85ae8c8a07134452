//! Publishers: at full speed, or on a schedule that does not wait for anybody.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::try_join_all;

use super::client::{PubSub, Publisher};
use super::message::{write_due, write_end, write_message};
use super::window::Window;
use super::{Holding, Phases, Streams, topic};
use crate::address::Address;
use crate::clock::{self, Ticks};

/// Messages sent between two looks at the clock, and between two turns of a publisher where there
/// are several.
pub const MESSAGES_A_LOOK: u64 = 64;

/// How often a publisher on a schedule wakes. What is due in between is due together, at the wake;
/// waking more often would take a processor for itself.
const TICK: Duration = Duration::from_micros(100);

/// How fast messages are published.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// As fast as they are taken.
    Full,
    /// So many a second over all publishers, each when it is due, however late the ones before it
    /// were.
    Rate(f64),
}

/// Publishes on each stream over a connection of its own, and says at the end of each how many
/// messages there were. The connections stay until what is returned is dropped.
///
/// # Errors
/// When the bus cannot be reached or goes away, or a publish fails.
pub async fn publish<C: PubSub>(
    address: &Address,
    streams: Streams,
    payload_bytes: usize,
    pace: Pace,
    holding: &Holding,
    phases: Phases,
) -> Result<Vec<(C, C::Publisher)>> {
    let mut connections = Vec::new();
    for stream in 0..streams.publishers {
        let client = C::connect(address).await?;
        let topic = topic(streams.channel(stream));
        let publisher = client.publisher(&topic, payload_bytes).await?;
        connections.push((stream, client, publisher));
    }
    let several = streams.publishers > 1;
    let publishing = connections
        .into_iter()
        .map(async |(stream, client, mut publisher)| {
            let count = match pace {
                Pace::Full => {
                    let window = holding.window(stream)?;
                    at_full_speed(&mut publisher, stream, several, window, phases).await?
                }
                Pace::Rate(all) => {
                    let rate = all / f64::from(streams.publishers);
                    on_schedule(&mut publisher, stream, rate, phases).await?
                }
            };
            publisher
                .send(|payload| write_end(payload, stream, count))
                .await?;
            publisher.finish().await?;
            anyhow::Ok((client, publisher))
        });
    try_join_all(publishing).await
}

/// Publishes one stream at full speed.
///
/// # Errors
/// When a publish fails.
pub async fn stream(publisher: &mut impl Publisher, phases: Phases) -> Result<()> {
    let count = at_full_speed(publisher, 0, false, None, phases).await?;
    publisher
        .send(|payload| write_end(payload, 0, count))
        .await?;
    publisher.finish().await
}

async fn at_full_speed(
    publisher: &mut impl Publisher,
    stream: u16,
    several: bool,
    mut window: Option<Window>,
    phases: Phases,
) -> Result<u64> {
    let until = Instant::now() + phases.total();
    let mut sequence: u64 = 0;
    loop {
        if sequence.is_multiple_of(MESSAGES_A_LOOK) {
            if Instant::now() >= until {
                return Ok(sequence);
            }
            if several {
                tokio::task::yield_now().await;
            }
        }
        hold(&mut window, sequence, publisher).await?;
        publisher
            .send(|payload| write_message(payload, stream, sequence))
            .await?;
        sequence += 1;
    }
}

/// Waits until message number `sequence` is within the window, if there is one; what was sent
/// before must not wait for it.
#[inline]
pub async fn hold(
    window: &mut Option<Window>,
    sequence: u64,
    publisher: &mut impl Publisher,
) -> Result<()> {
    if let Some(window) = window
        && !window.has_room(sequence)
    {
        publisher.push().await?;
        window.wait(sequence).await?;
    }
    Ok(())
}

async fn on_schedule(
    publisher: &mut impl Publisher,
    stream: u16,
    rate: f64,
    phases: Phases,
) -> Result<u64> {
    let schedule = Schedule::new(rate);
    let mut ticks = Ticks::every(schedule.interval)?;
    let begun = clock::nanoseconds();
    let until = begun + u64::try_from(phases.total().as_nanos())?;
    let mut sequence = 0;
    loop {
        let now = clock::nanoseconds();
        while begun + schedule.due(sequence) <= now.min(until) {
            let due = begun + schedule.due(sequence);
            publisher
                .send(|payload| write_due(payload, stream, sequence, due))
                .await?;
            sequence += 1;
        }
        publisher.push().await?;
        if now >= until {
            return Ok(sequence);
        }
        ticks.next().await?;
    }
}

/// When messages are due.
#[derive(Debug)]
struct Schedule {
    interval: Duration,
    /// Messages of each interval, which are due together.
    together: u64,
}

impl Schedule {
    fn new(rate: f64) -> Self {
        let together = (rate * TICK.as_secs_f64()).ceil().max(1.0);
        Self {
            interval: Duration::from_secs_f64(together / rate),
            together: together as u64,
        }
    }

    /// When message number `sequence` is due, in nanoseconds after the first.
    fn due(&self, sequence: u64) -> u64 {
        let interval = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX);
        (sequence / self.together) * interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_messages_are_due_one_by_one() {
        let schedule = Schedule::new(1_000.0);
        assert_eq!(schedule.due(0), 0);
        assert_eq!(schedule.due(3), 3_000_000);
    }

    #[test]
    fn many_messages_are_due_together_and_keep_the_rate() {
        let schedule = Schedule::new(1_000_000.0);
        assert_eq!(schedule.due(99), 0);
        assert_eq!(schedule.due(100), 100_000);
        assert_eq!(schedule.due(1_000_000), 1_000_000_000);
    }
}
