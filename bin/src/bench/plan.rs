//! What is to be measured.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Bytes of the smallest payload: it carries a sequence number and, at the end, the count of all.
pub(crate) const SIZE_MIN: usize = 16;

/// What is done to the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// One request at a time
    Request,
    /// Many requests at a time (--outstanding)
    Outstanding,
    /// One publisher, one subscriber
    OneToOne,
    /// One publisher, many subscribers (--subscribers)
    FanOut,
    /// Many publishers with a subscriber each (--pairs)
    NToN,
}

impl Mode {
    /// All of them, in the order in which they are run.
    pub(crate) const ALL: [Self; 5] =
        [Self::Request, Self::Outstanding, Self::OneToOne, Self::FanOut, Self::NToN];

    /// Its name in output.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Outstanding => "outstanding",
            Self::OneToOne => "one-to-one",
            Self::FanOut => "fan-out",
            Self::NToN => "n-to-n",
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) mode: Mode,
    /// Bytes of each payload.
    pub(crate) size: usize,
    /// How many requesters at a time, subscribers or pairs, as the mode has it.
    pub(crate) width: usize,
    pub(crate) limit: Limit,
}

impl Run {
    /// What is run, for people: `fan-out ×64`.
    pub(crate) fn title(&self) -> String {
        match self.mode {
            Mode::Request | Mode::OneToOne => self.mode.name().to_owned(),
            Mode::Outstanding | Mode::FanOut | Mode::NToN => format!("{} ×{}", self.mode.name(), self.width),
        }
    }

    /// The topic that pair or service number `index` of this run uses: no two runs share one.
    pub(crate) fn topic(&self, index: usize) -> String {
        let process = std::process::id();
        format!("whispeer-bench/{process}/{}/{}/{index}", self.mode.name(), self.size)
    }
}

/// When a load ends.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Limit {
    /// After that many messages of each publisher or requests of all.
    Messages(u64),
    /// After that time.
    Time(Duration),
}

/// What one process does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) role: Role,
    /// Where the bus is.
    pub(crate) address: String,
    pub(crate) topic: String,
    pub(crate) size: usize,
    /// Requests at a time, or connections that subscribe.
    pub(crate) width: usize,
    pub(crate) limit: Limit,
}

/// The part of one process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Role {
    Publish,
    Subscribe,
    Request,
    Serve,
    /// A whole run over the memory transport, bus included, on so many threads.
    Memory {
        run: Run,
        threads: usize,
    },
}

/// What one process found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// Messages sent, deliveries received, or requests answered.
    pub(crate) count: u64,
    /// Deliveries that did not come, or came twice or out of order; requests that failed.
    pub(crate) lost: u64,
    /// From the first to the last.
    pub(crate) time: Duration,
    /// Nanoseconds, and how often they were seen.
    pub(crate) latencies: Vec<(u64, u64)>,
}
