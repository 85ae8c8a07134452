//! Wildcard routing: many patterns, of which each message's topic matches one at every subscriber,
//! and each topic is one that was never used before, so that no cache has its route.

use std::fmt::Write;
use std::time::Instant;

use anyhow::Result;
use futures_util::future::try_join_all;

use super::client::{PubSub, Publisher};
use super::measured::{Measured, Metric};
use super::message::{write_end, write_message};
use super::publish::{MESSAGES_A_LOOK, hold};
use super::receiver::{self, Expecting, Receiver, WarmUp};
use super::{Holding, Phases, topic};
use crate::address::Address;

/// Patterns that match one topic, each at a connection of its own, so that a bus which delivers
/// once to a client however many of its patterns match delivers as often as one that does not.
pub const MATCHES: u16 = 10;

/// A number without common divisors with the number of groups, by which one message's group is
/// followed by a distant one.
const STRIDE: u64 = 7919;

/// Makes `groups` × [`MATCHES`] subscriptions, and counts what arrives.
///
/// # Errors
/// When the bus cannot be reached, or a delivery is lost or doubled.
pub async fn subscribe<C: PubSub>(
    address: &Address,
    groups: u32,
    holding: &Holding,
    phases: Phases,
    ready: impl FnOnce(),
) -> Result<Measured> {
    let progress = holding.progress(usize::from(MATCHES))?;
    let mut clients = Vec::new();
    for _ in 0..MATCHES {
        clients.push(C::connect(address).await?);
    }
    let warm_up = WarmUp::new(phases.warm_up);
    let begun = Instant::now();
    let subscribing = clients.iter().zip(0..).map(async |(client, form)| {
        let patterns = (0..groups).map(|group| pattern(form, group)).collect();
        let receiver = Receiver::new(Expecting::Unordered, 0, 1, warm_up.clone())?
            .telling(progress.as_ref(), usize::from(form));
        client.subscribe(patterns, receiver).await
    });
    let receiving = try_join_all(subscribing).await?;
    let subscribing = begun.elapsed();
    ready();
    let mut measured = receiver::measured(try_join_all(receiving).await?)?;
    // Told by message, and not by delivery.
    measured.operations /= u64::from(MATCHES);
    if let Some(rate) = measured.figure(Metric::Rate) {
        measured.set(Metric::Rate, rate / f64::from(MATCHES));
    }
    measured.set(Metric::Subscribing, subscribing.as_secs_f64());
    Ok(measured)
}

/// Publishes at full speed, each message to a topic of its own.
///
/// # Errors
/// When the bus cannot be reached or goes away, or a publish fails.
pub async fn publish<C: PubSub>(
    address: &Address,
    groups: u32,
    payload_bytes: usize,
    holding: &Holding,
    phases: Phases,
) -> Result<(C, C::Publisher)> {
    let client = C::connect(address).await?;
    let mut publisher = client.publisher(&topic(0), payload_bytes).await?;
    let mut window = holding.window(0)?;
    let until = Instant::now() + phases.total();
    let mut fresh = String::new();
    let mut sequence: u64 = 0;
    while !sequence.is_multiple_of(MESSAGES_A_LOOK) || Instant::now() < until {
        hold(&mut window, sequence, &mut publisher).await?;
        write_topic(&mut fresh, groups, sequence)?;
        publisher
            .send_to(&fresh, |payload| write_message(payload, 0, sequence))
            .await?;
        sequence += 1;
    }
    write_topic(&mut fresh, groups, sequence)?;
    publisher
        .send_to(&fresh, |payload| write_end(payload, 0, sequence))
        .await?;
    publisher.finish().await?;
    Ok((client, publisher))
}

/// The topic of message number `sequence`.
fn write_topic(topic: &mut String, groups: u32, sequence: u64) -> Result<()> {
    let group = sequence.wrapping_mul(STRIDE) % u64::from(groups.max(1));
    topic.clear();
    Ok(write!(topic, "route/{group}/a/b/{sequence}")?)
}

/// The pattern of `group` in one of [`MATCHES`] forms: the first eight have wildcards in place of
/// any of three fragments, the others end early.
fn pattern(form: u16, group: u32) -> String {
    match form {
        8 => format!("route/{group}/**"),
        9 => format!("*/{group}/a/**"),
        _ => {
            let fragment = |bit: u16, literal| if form & bit == 0 { literal } else { "*" };
            let (first, third, fourth) = (fragment(1, "route"), fragment(2, "a"), fragment(4, "b"));
            format!("{first}/{group}/{third}/{fourth}/*")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, topic: &str) -> bool {
        let pattern = whispeer::TopicPattern::new(pattern).unwrap();
        pattern.matches(&whispeer::Topic::new(topic).unwrap())
    }

    #[test]
    fn each_topic_matches_one_pattern_of_each_form() {
        let groups = 7;
        let mut topic = String::new();
        for sequence in 0..20 {
            write_topic(&mut topic, groups, sequence).unwrap();
            for form in 0..MATCHES {
                let matching = (0..groups).filter(|group| matches(&pattern(form, *group), &topic));
                assert_eq!(matching.count(), 1, "{topic} in form {form}");
            }
        }
    }
}
