//! Bounds that are not settings, with their reasons.

use std::time::Duration;

/// Bytes of a request's head: line and headers. Browsers send some kB with their cookies.
pub const HEAD_BYTES: usize = 32 * 1024;

/// How long the head of a request may take, the wait for it on a connection that is kept included.
pub const HEAD_TIME: Duration = Duration::from_secs(15);

/// How long the body of a request, or a message on a WebSocket, may take.
pub const BODY_TIME: Duration = Duration::from_secs(30);

/// How long a connection may take none of what is written to it.
pub const STALL_TIME: Duration = Duration::from_secs(30);

/// Bytes that are read from a WebSocket at once, onto the stack.
pub const SOCKET_READ_BYTES: usize = 16 * 1024;

/// Bytes that wait to be written to a WebSocket, beside one message, before more is taken; and that are written at once.
pub const SOCKET_WRITE_BYTES: usize = 16 * 1024;

/// Bytes of a message on a WebSocket of which it is not known yet who sends it. A token has [`TOKEN_BYTES`].
pub const SOCKET_STRANGER_BYTES: usize = 16 * 1024;

/// Bytes of a body or message that is being received which do not count for what all may take together
/// ([`Settings::bodies_limit`](crate::Settings::bodies_limit)), so that short ones find room when long ones take it all.
pub const UNCLAIMED_BYTES: usize = 4 * 1024;

/// Between two pings to a WebSocket that says nothing. One that has not said anything by the second is closed.
pub const SOCKET_PING: Duration = Duration::from_secs(30);

/// How long a WebSocket may take to say who it is.
pub const LOGIN_TIME: Duration = Duration::from_secs(15);

/// How long somebody who is let in may wait until the bus takes him over, where many come at once.
pub const JOIN_TIME: Duration = Duration::from_secs(5);

/// Addresses whose rates are remembered. Each takes less than 100 bytes; the one that has been silent for longest makes way.
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

/// How long a session of Turbine's or PopSub's that ends may take to take in what it is told last, and what it publishes to be published.
pub const LAST_TIME: Duration = Duration::from_secs(1);

/// Messages that a subscriber of PopSub has been sent and not acknowledged. At the bound nothing more is taken from its
/// subscriptions until it acknowledges, and their windows drop and count.
pub const POPSUB_UNACKED: usize = 1024;

/// Bytes of these, at the bound of which it is the same. All subscribers of a message share them.
pub const POPSUB_UNACKED_BYTES: usize = 1024 * 1024;

/// Bytes of the id of a message of PopSub. A UUID has 36.
pub const POPSUB_MESSAGE_ID_BYTES: usize = 128;

/// Bytes of the name of a user of PopSub.
pub const POPSUB_NAME_BYTES: usize = 256;

/// Characters of what a client has said that an error repeats.
pub const POPSUB_EXCERPT_CHARS: usize = 64;

/// Logins of PopSub that are checked or wait for it. Each waits for two seconds at the most; more of them would only wait in vain.
pub const POPSUB_LOGINS: usize = 64;

/// Messages of a topic of PopSub that are replayed, at the most. More are better kept in a stream.
pub const POPSUB_REPLAY: usize = 10_000;

/// Topics of PopSub whose last messages are kept. The least recently used gives way. Each takes some 2 KiB beside its messages.
pub const POPSUB_RINGS: usize = 10_000;

/// Topics of PopSub of which it is not known yet whether the bus allows anybody to use them. Further ones are not replayed.
pub const POPSUB_RINGS_TENTATIVE: usize = 1024;

/// Messages that wait to be put into a ring, if it keeps no more. Where there are more the oldest are dropped and counted.
pub const POPSUB_RING_WINDOW: u32 = 4096;

/// Bytes of these.
pub const POPSUB_RING_WINDOW_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes that wait for a session and topic of PopSub, beside one message.
pub const POPSUB_WINDOW_BYTES: u64 = 1024 * 1024;

/// How long a new subscription of PopSub is served from the ring. A message that was looked up before the subscription began is given to
/// the ring within one turn of its publisher, which is far less, unless the system gives others that publisher's time.
pub const POPSUB_JOIN_TIME: Duration = Duration::from_secs(1);

/// How long a new subscription of PopSub remembers, after that, what came from the ring and not yet from the bus. What a publisher has
/// handed to the ring it hands to the subscription in the same turn, but the system may stop it in the midst of that for as long as others
/// want to run. Most of what is remembered never comes, as it is older than the subscription: that is no more than is replayed.
pub const POPSUB_REMEMBER_TIME: Duration = Duration::from_secs(10);

/// How long a new subscription of PopSub waits for its ring to have what the bus gave that before. It takes as long as one task has to wait for
/// its turn; where that is longer, nothing is replayed, and that is counted.
pub const POPSUB_CATCH_UP_TIME: Duration = Duration::from_secs(2);

/// How often it looks whether its ring has got there.
pub const POPSUB_CATCH_UP_INTERVAL: Duration = Duration::from_millis(20);

/// Messages that wait to be sent from the ring to a new subscription, beside those that are replayed; messages that
/// the bus delivers meanwhile and that are not in the ring yet; and messages that are remembered as sent from the ring until the bus
/// delivers them. At any of these bounds it goes on by itself: nothing is dropped, but what is in the ring alone then is not waited for.
pub const POPSUB_FEED_MESSAGES: usize = 4096;

/// Bytes of each of these, beside those that are replayed: as many as wait at the bus for a subscription, so that a session that begins takes
/// no more than a few times what one takes that has begun.
pub const POPSUB_FEED_BYTES: usize = 1024 * 1024;

/// Messages of a user of PopSub that are known when they come again.
pub const POPSUB_RECENT: usize = 1024;

/// How long they are: as long as the bus knows ids of messages that it keeps.
pub const POPSUB_RECENT_TIME: Duration = whispeer::limits::MESSAGE_ID_WINDOW;

/// How long a message of PopSub that its user is publishing over another connection waits for what becomes of that; then he is told to
/// publish it again. The bus answers most within a millisecond; where it is held up for longer, the connection is not to be held up as long.
pub const POPSUB_UNDER_WAY_TIME: Duration = Duration::from_secs(5);

/// Sessions that the HTTP API keeps for those who show who they are; who shows nothing has that of his connection. Each takes some 16
/// KiB at the bus and here; where there is no room the one
/// makes way that was used longest ago.
pub const API_CLIENTS: usize = 1_024;

/// How long such a session is kept that nobody uses.
pub const API_CLIENT_IDLE: Duration = Duration::from_secs(60);

/// Bytes of a token that the bus is shown: those of a `HELLO`, which has 4 KiB in all.
pub const API_TOKEN_BYTES: usize = 3 * 1024;

/// Parameters in the query of a request.
pub const API_PARAMETERS: usize = 64;

/// Messages of one batch: what is published of it at once waits for one answer.
pub const API_BATCH_MESSAGES: usize = 1_024;

/// Patterns of one stream of events. Each is a subscription.
pub const API_PATTERNS: usize = 16;

/// Messages of a subscription that wait to be written to a stream of events. What comes when it is full is dropped and counted.
pub const API_EVENT_WINDOW: u32 = 256;

/// Bytes of these; a longer message comes alone. Ten thousand readers who do not read take as many times that at the most.
pub const API_EVENT_WINDOW_BYTES: u64 = 256 * 1024;

/// Bytes of events that are put together before they are written: as many as are there already, beside the last one.
pub const API_EVENTS_BYTES: usize = 64 * 1024;

/// How often a stream of events gives a sign of life: proxies close what is silent for a minute, some for half of one.
pub const API_EVENTS_INTERVAL: Duration = Duration::from_secs(15);

/// How long a browser waits before it comes back to a stream of events that has ended.
pub const API_EVENTS_RETRY: Duration = Duration::from_secs(2);

/// How long a stream of events lasts at the most where its reader says how long.
pub const API_EVENTS_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// Messages of a page of history at the most.
pub const API_HISTORY_MESSAGES: u32 = 1_024;

/// Messages of a page of history unless the caller says otherwise.
pub const API_HISTORY_DEFAULT: u32 = 100;

/// Bytes of the messages of a page of history, of which the last may exceed what is left. Base64 and escapes make them longer.
pub const API_HISTORY_BYTES: u64 = 1024 * 1024;

/// How long a ticket is good: from the answer to the request that it is for.
pub const API_TICKET_TIME: Duration = Duration::from_secs(30);

/// Tickets that are good at once. Each takes up to 4 KiB, with the credentials that it stands for.
pub const API_TICKETS: usize = 4_096;

/// Of these, tickets of one address (IPv6: of one /64 network).
pub const API_TICKETS_OF_ADDRESS: usize = 256;
