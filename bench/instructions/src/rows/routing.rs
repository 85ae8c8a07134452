//! From a topic to those who want it.

use std::hint::black_box;

use anyhow::{Result, ensure};
use whispeer::limits;
use whispeer::topic::{Scratch, TopicPattern, Trie};

use super::{ROUND, SMALL, Work, runtime, start_bus};
use crate::counted::counted_part;
use crate::peer::{Peer, frame_bytes};

/// Patterns that meet each topic; there are as many for every device.
const MATCHES: u64 = 10;

/// Devices in the trie by itself.
const MANY_DEVICES: u64 = 1_000;

/// Devices that are subscribed to at the bus.
const DEVICES: u64 = 100;

/// Rounds that are counted.
const ROUNDS: u64 = 8;

/// Patterns with both wildcards, at the beginning, within and at the end.
fn patterns(device: u64) -> [String; MATCHES as usize] {
    [
        format!("plant/{device:03}/*/speed"),
        format!("plant/{device:03}/*/*"),
        format!("plant/{device:03}/**"),
        format!("plant/{device:03}/**/speed"),
        format!("*/{device:03}/*/speed"),
        format!("*/{device:03}/*/*"),
        format!("*/{device:03}/**"),
        format!("*/{device:03}/**/speed"),
        format!("**/{device:03}/*/speed"),
        format!("**/{device:03}/**"),
    ]
}

/// A topic that was not seen before; all of them have the same length.
fn fresh_topic_of(number: u64, devices: u64) -> String {
    format!("plant/{:03}/s{number:06}/speed", number % devices)
}

/// Looks topics up that do not come again.
pub fn look_up() -> Result<Work> {
    let mut trie = Trie::new();
    for device in 0..MANY_DEVICES {
        for pattern in patterns(device) {
            trie.insert(&TopicPattern::new(&pattern)?, device)?;
        }
    }
    let topic = |number| fresh_topic_of(number, MANY_DEVICES);
    let topics: Vec<_> = (0..ROUNDS * ROUND).map(topic).collect();
    let mut scratch = Scratch::new();
    trie.visit(&topic(ROUNDS * ROUND), &mut scratch, |_| {});
    let mut matches = 0;
    counted_part(&mut || {
        for topic in &topics {
            trie.visit(topic, &mut scratch, |device| {
                black_box(device);
                matches += 1;
            });
        }
    });
    let operations = ROUNDS * ROUND;
    ensure!(matches == operations * MATCHES, "{matches} matches");
    Ok(Work {
        operations,
        messages: matches,
        bytes: topics.iter().map(|topic| topic.len() as u64).sum(),
    })
}

/// Publishes to topics that do not come again.
pub fn fresh_topic() -> Result<Work> {
    let runtime = runtime()?;
    let bus = start_bus(&runtime)?;
    let mut publisher = runtime.block_on(Peer::connect(&bus))?;
    let subscriber = runtime.block_on(Peer::connect(&bus))?;
    let _entered = runtime.enter();
    let window = (limits::WINDOW_MESSAGES, limits::WINDOW_BYTES);
    for (id, pattern) in (1..).zip((0..DEVICES).flat_map(patterns)) {
        subscriber.subscribe(id, &pattern, window)?;
    }
    let mut frames = Vec::new();
    // One round to warm up with; no subscription gets as much as its window.
    for number in 0..(ROUNDS + 1) * ROUND {
        publisher.append_publish(&mut frames, &fresh_topic_of(number, DEVICES), &SMALL);
    }
    let one = frame_bytes(&fresh_topic_of(0, DEVICES), &SMALL);
    let read = frames.len() / (ROUNDS as usize + 1);
    publisher.load(frames);
    publisher.give(read);
    let before = subscriber.received();
    counted_part(&mut || (0..ROUNDS).for_each(|_| publisher.give(read)));
    let delivered = subscriber.received() - before;
    let operations = ROUNDS * ROUND;
    ensure!(
        delivered == operations * MATCHES * one,
        "{delivered} bytes were delivered"
    );
    Ok(Work {
        operations,
        messages: operations * MATCHES,
        bytes: operations * one + delivered,
    })
}
