//! Load generators: what requests, answers, publishes and subscribes, in processes apart from the
//! subject that is measured. [`client`] says what a client has to be able to do; the rest is
//! written against that.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use self::window::{Progress, Window};

pub mod client;
pub mod hold;
pub mod measured;
pub mod message;
pub mod payloads;
pub mod publish;
pub mod raw_publish;
pub mod raw_request;
pub mod receiver;
pub mod requests;
pub mod routing;
pub mod shared;
pub mod subscribe;
pub mod window;

/// How long a load runs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Phases {
    /// Time before anything is counted, for buffers, caches and windows to settle.
    pub warm_up: Duration,
    /// Time that is counted.
    pub measure: Duration,
}

impl Phases {
    /// Both together.
    pub fn total(self) -> Duration {
        self.warm_up + self.measure
    }
}

/// Who publishes to whom: publishers and subscribers are dealt out over as many channels as there
/// are of the fewer. Each publisher is a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Connections that publish.
    pub publishers: u16,
    /// Connections that subscribe.
    pub subscribers: u16,
}

impl Streams {
    fn channels(self) -> u16 {
        self.publishers.min(self.subscribers).max(1)
    }

    /// The channel of connection number `connection`, on either side.
    pub fn channel(self, connection: u16) -> u16 {
        connection % self.channels()
    }

    /// Which of the subscribers of its channel subscriber number `connection` is, and how many
    /// there are.
    pub fn place(self, connection: u16) -> (usize, usize) {
        let channels = self.channels();
        (
            usize::from(connection / channels),
            usize::from(self.subscribers / channels),
        )
    }

    /// The first stream of `channel`, and how many it has.
    pub fn of(self, channel: u16) -> (u16, u16) {
        // Either each channel has one publisher, or all are on the only channel.
        (channel, self.publishers / self.channels())
    }
}

/// How publishers are held back whose bus does not do it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Holding {
    /// Where both sides meet.
    pub directory: PathBuf,
    /// Messages of a stream that may be under way, or no limit.
    pub messages: Option<u64>,
}

impl Holding {
    /// The window of a publisher.
    ///
    /// # Errors
    /// When no subscriber counts.
    pub fn window(&self, stream: u16) -> Result<Option<Window>> {
        self.messages
            .map(|messages| Window::open(&self.directory, stream, messages))
            .transpose()
    }

    /// What `subscriptions` subscriptions to each stream count in.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn progress(&self, subscriptions: usize) -> Result<Option<Arc<Progress>>> {
        self.messages
            .map(|messages| Progress::new(&self.directory, subscriptions, messages))
            .transpose()
    }
}

/// The topic of a channel.
pub fn topic(channel: u16) -> String {
    format!("bench/{channel}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_dealt_out_over_the_channels() {
        let streams = |publishers, subscribers| Streams {
            publishers,
            subscribers,
        };
        assert_eq!(streams(1, 64).channel(63), 0);
        assert_eq!(streams(1, 64).of(0), (0, 1));
        assert_eq!(streams(1, 64).place(63), (63, 64));
        assert_eq!(streams(64, 1).channel(63), 0);
        assert_eq!(streams(64, 1).of(0), (0, 64));
        assert_eq!(streams(4, 4).channel(3), 3);
        assert_eq!(streams(4, 4).of(3), (3, 1));
        assert_eq!(streams(4, 4).place(3), (0, 1));
    }
}
