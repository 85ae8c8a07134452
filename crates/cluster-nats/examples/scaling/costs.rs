//! What each thing costs, as `scaling measure` finds out and the simulation takes for given.

use serde::{Deserialize, Serialize};

/// What one thing takes of a processor, in nanoseconds of one core.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Work {
    /// In a process that is at work anyway.
    pub(crate) busy: f64,
    /// More, where that sleeps: to wake it, and to read and write for this alone.
    pub(crate) wake: f64,
}

impl Work {
    /// `times` of it, woken once at the most.
    pub(crate) fn times(self, times: f64) -> Self {
        Self { busy: self.busy * times, wake: self.wake * times.min(1.0) }
    }

    /// Both, one after the other.
    pub(crate) fn and(self, next: Self) -> Self {
        Self { busy: self.busy + next.busy, wake: self.wake + next.wake }
    }

    /// What is left of it beside `known`, which is part of it.
    pub(crate) fn beside(self, known: Self) -> Self {
        Self { busy: (self.busy - known.busy).max(0.0), wake: (self.wake - known.wake).max(0.0) }
    }
}

/// What each thing costs.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Costs {
    /// Of processors.
    pub(crate) work: Works,
    /// Of memory.
    pub(crate) memory: Memory,
}

/// What takes a processor's time.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Works {
    /// A message that a client publishes, at its bus.
    pub(crate) publish: Work,
    /// Its delivery to one client, at that one's bus.
    pub(crate) deliver: Work,
    /// Its way from its bus to NATS, at the bus.
    pub(crate) send: Work,
    /// Its way from NATS to another bus, at that bus.
    pub(crate) receive: Work,
    /// A message that a bus sends, at the node of NATS that it is at.
    pub(crate) nats_in: Work,
    /// Its way to one bus, at that one's node.
    pub(crate) nats_out: Work,
    /// A request that goes to another bus, and its reply, at the bus of who asks.
    pub(crate) ask: Work,
    /// The same at the bus of who answers.
    pub(crate) answer: Work,
    /// A heartbeat of another bus that a bus hears.
    pub(crate) heartbeat: Work,
    /// A second of a client that is connected and does nothing, at its bus.
    pub(crate) idle_connection: f64,
    /// A client that connects, at its bus.
    pub(crate) connect: Work,
    /// A pattern that nobody at the bus had before, at the bus.
    pub(crate) subscribe: Work,
    /// The same at NATS.
    pub(crate) nats_subscribe: Work,
    /// A message that a client publishes, at the client: what the machine does beside, where clients are at it too.
    pub(crate) client_publish: Work,
    /// A message that a client is delivered, at the client.
    pub(crate) client_deliver: Work,
}

/// What takes memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// A bus with its link to NATS and nothing else.
    pub(crate) bus: f64,
    /// An idle connection of a client through a Unix socket, at its bus.
    pub(crate) connection: f64,
    /// A subscription to a pattern that others at the bus have too.
    pub(crate) subscription: f64,
    /// One to a pattern that nobody else there has.
    pub(crate) pattern: f64,
    /// A node of NATS with nothing.
    pub(crate) nats: f64,
    /// A subscription at NATS, in a node.
    pub(crate) nats_subscription: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Work = Work { busy: 10.0, wake: 5.0 };

    #[test]
    fn several_of_a_kind_wake_a_process_once() {
        assert_eq!(ONE.times(3.0), Work { busy: 30.0, wake: 5.0 });
        assert_eq!(ONE.times(0.0), Work::default());
        assert_eq!(ONE.times(0.5), Work { busy: 5.0, wake: 2.5 });
    }

    #[test]
    fn what_is_put_together_can_be_taken_apart() {
        let other = Work { busy: 1.0, wake: 7.0 };
        assert_eq!(ONE.and(other).beside(ONE), other);
        assert_eq!(ONE.beside(ONE.times(2.0)), Work::default());
    }
}
