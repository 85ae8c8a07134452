//! Bounds of embedded brokers.

use std::time::Duration;

/// Messages that wait in the queue of a broker until they are sent: a second or so of publishing as fast as one thread
/// can. The default of `BrokerOptions::queue`, as the next one. Beyond it a publish is refused, counted,
/// and its handle says [`BusError::QueueFull`](crate::BusError::QueueFull).
pub const BROKER_QUEUE_MESSAGES: usize = 64 * 1024;

/// Bytes of these, topics included. A message of any size has room in an empty queue.
pub const BROKER_QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// Subscriptions that wait in the queue of a broker to be made: more than a program makes in one go, each
/// with its handler and a topic of at most 1 KiB. Further ones are refused, and their handles say so.
pub const BROKER_SUBSCRIBES: usize = 4096;

/// Handlers of a broker that run at a time, each of which that is not asynchronous takes a thread. Threads are made when
/// they are needed; this many cost some MiB, and let handlers wait for disks and networks. Messages wait for a place in the
/// windows of their subscriptions.
pub const BROKER_HANDLERS: usize = 64;

/// The most of them that can be configured: a thread for each.
pub const BROKER_HANDLERS_MAX: usize = 4096;

/// Threads on which a broker runs asynchronous handlers and hands messages to the others. The bus itself has one more, so
/// that a handler that keeps these busy holds up handlers alone.
pub const BROKER_WORKERS: usize = 2;

/// Messages that a handler that is not asynchronous gets in one turn on its thread, before others have theirs.
pub const BROKER_TURN: usize = 128;

/// Acknowledgements of one subscription of a broker that the bus has not confirmed: as many as the bus hands over without one,
/// unless it is told otherwise, about 100 B each. At this many the subscription begins with no further message;
/// calls that run then may add theirs.
pub const BROKER_UNCONFIRMED: usize = 1024;

/// How long a broker that is dropped or closed takes to send what was published and to let handlers finish; then it gives
/// up, and says in the log what was left.
pub const BROKER_DRAIN: Duration = Duration::from_secs(5);

/// How long the threads of a broker that has drained may take to end. They have nothing left to do.
pub const BROKER_HALT: Duration = Duration::from_secs(1);
