//! What is counted.

mod codec;
mod delivery;
mod memory;
mod requests;
mod routing;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use whispeer::bus::{Bus, BusHandle};

/// Something that is counted.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its name in the file of figures and on the command line.
    pub name: &'static str,
    /// What one operation is.
    pub operation: &'static str,
    /// How many per cent more are taken for no change.
    pub tolerance_percent: f64,
    /// Prepares it, runs the counted part, and says how much that was.
    pub run: fn() -> Result<Work>,
}

/// How much the counted part of a row did.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Work {
    /// Operations.
    pub operations: u64,
    /// Messages in all of them: frames decoded or encoded, matches found, deliveries, or requests.
    pub messages: u64,
    /// Bytes in all of them: of the frames that came in and went out, or of the topics.
    pub bytes: u64,
}

/// The tolerance, in per cent, of rows that repeat exactly: a change anywhere in the library may move the
/// compiler's inlining by a few instructions.
const EXACT: f64 = 0.5;

/// The tolerance, in per cent, of rows that depend on the random seeds of hash tables. The least of a few
/// runs repeats to a tenth of this.
const SEEDED: f64 = 1.0;

/// All rows, in the order in which they are shown.
pub const ROWS: &[Row] = &[
    Row {
        name: "decode",
        operation: "decoding one publish of 16 B from a read of 512",
        tolerance_percent: EXACT,
        run: codec::decode,
    },
    Row {
        name: "encode",
        operation: "encoding one delivery of 16 B into a batch of 512, to the slices for writing it",
        tolerance_percent: EXACT,
        run: codec::encode,
    },
    Row {
        name: "route",
        operation: "finding the 10 matches of a fresh topic among 10,000 patterns with wildcards",
        tolerance_percent: SEEDED,
        run: routing::look_up,
    },
    Row {
        name: "fresh-topic",
        operation: "at the bus, a publish of 16 B to a fresh topic with 10 matches among 1,000 patterns",
        tolerance_percent: SEEDED,
        run: routing::fresh_topic,
    },
    Row {
        name: "one-to-one",
        operation: "at the bus, one of 512 publishes of 16 B in a read, to one subscriber",
        tolerance_percent: EXACT,
        run: delivery::one_to_one,
    },
    Row {
        name: "one-to-one-1k",
        operation: "at the bus, one of 512 publishes of 1 KiB in a row, to one subscriber",
        tolerance_percent: EXACT,
        run: delivery::one_to_one_of_1_kib,
    },
    Row {
        name: "one-by-one",
        operation: "at the bus, a publish of 16 B in a turn of its own, to one subscriber",
        tolerance_percent: EXACT,
        run: delivery::one_by_one,
    },
    Row {
        name: "fan-out",
        operation: "at the bus, one of 256 publishes of 16 B in a read, to 64 subscribers",
        tolerance_percent: EXACT,
        run: delivery::fan_out,
    },
    Row {
        name: "park-and-pump",
        operation: "at the bus, one of 512 publishes of 16 B that waits for credit and is sent when it comes",
        tolerance_percent: EXACT,
        run: delivery::park_and_pump,
    },
    Row {
        name: "request",
        operation: "at the bus, a request of 16 B and its reply, one at a time",
        tolerance_percent: SEEDED,
        run: requests::round_trip,
    },
    Row {
        name: "memory-publish",
        operation: "a value published and received over memory links, publisher, bus and subscriber",
        tolerance_percent: EXACT,
        run: memory::publish,
    },
    Row {
        name: "memory-request",
        operation: "a value requested and answered over memory links, requester, bus and server",
        tolerance_percent: SEEDED,
        run: memory::request,
    },
];

/// The topic of rows that have one.
const TOPIC: &str = "plant/line/7/speed";

/// The payload of rows that have a small one.
const SMALL: [u8; 16] = [0x5A; 16];

/// Messages of one round, which mostly arrive in one read: half of the default window, after which a client grants
/// credit again.
const ROUND: u64 = 512;

/// One thread, with a clock that stands still: otherwise timers would fire by the time that counting
/// takes.
fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?)
}

/// A bus with default settings on `runtime`.
fn start_bus(runtime: &Runtime) -> Result<BusHandle> {
    let _entered = runtime.enter();
    Ok(Bus::builder().start()?)
}
