//! Bounds that are not settings, with their reasons.

use std::time::Duration;

/// Bytes of a request's head: line and headers. Browsers send some kB with their cookies.
pub const HEAD_BYTES: usize = 32 * 1024;

/// How long the head of a request may take, the wait for it on a connection that is kept included.
pub const HEAD_TIME: Duration = Duration::from_secs(15);

/// How long the body of a request may take.
pub const BODY_TIME: Duration = Duration::from_secs(30);

/// How long a connection may take none of what is written to it.
pub const STALL_TIME: Duration = Duration::from_secs(30);

/// Bytes that a WebSocket reads at once. Ten thousand that are idle have ten thousand such buffers.
pub const SOCKET_READ_BYTES: usize = 2 * 1024;

/// Bytes that are put together before they are written to a WebSocket.
pub const SOCKET_WRITE_BYTES: usize = 16 * 1024;

/// Bytes that wait to be written to a WebSocket at the most, beside one message.
pub const SOCKET_WRITE_LIMIT: usize = 4 * 1024 * 1024;

/// Between two pings to a WebSocket that says nothing. One that has not said anything by the second is closed.
pub const SOCKET_PING: Duration = Duration::from_secs(30);

/// How long a WebSocket may take to say who it is.
pub const LOGIN_TIME: Duration = Duration::from_secs(15);

/// Addresses whose rates are remembered. Each takes less than 100 bytes.
pub const RATED_ADDRESSES: usize = 65_536;

/// Bytes of a token. Those of well-known issuers have less than 4 KiB.
pub const TOKEN_BYTES: usize = 8 * 1024;

/// Characters of an id that a request brings.
pub const REQUEST_ID_CHARS: usize = 128;

/// Connections that wait to be accepted, at the system.
pub const BACKLOG: u32 = 1024;

/// Bytes of the id of a command of Turbine's, quotes included. It comes back in the answer.
pub const COMMAND_ID_BYTES: usize = 128;

/// Bytes of a key of Turbine's API, at the least: what has fewer can be guessed.
pub const API_KEY_BYTES: usize = 16;

/// Bytes of messages that wait for a session of Turbine's and a channel, beside their number. One message may be longer.
pub const TURBINE_BUFFER_BYTES: u64 = 1024 * 1024;

/// Messages that a session of Turbine's is pushed before it is looked whether it asks for something.
pub const TURBINE_TURN_MESSAGES: usize = 64;

/// How long the bus may take to let a session in, or to subscribe it.
pub const BUS_TIME: Duration = Duration::from_secs(10);

/// How long a session of Turbine's that ends may take to take in what it is told last.
pub const LAST_TIME: Duration = Duration::from_secs(1);

/// Bytes of a `traceparent` of a version to come. Those of today have 55.
pub const TRACE_PARENT_BYTES: usize = 128;

/// Bytes of a `tracestate`, as W3C Trace Context (3.3.1.5) asks for at the least.
pub const TRACE_STATE_BYTES: usize = 512;
