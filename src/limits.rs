//! Every bound of the bus, with its unit, its reason and what happens at it.
//!
//! Constants here are either fixed by the wire format or the defaults of a setting; where a setting
//! exists, the constant's documentation names it. Nothing in the crate grows past one of these.

mod broker;
mod plugins;
mod streams;

use std::time::Duration;

pub use self::broker::*;
pub use self::plugins::*;
pub use self::streams::*;

/// Bytes of the largest frame, its 24-byte header included.
///
/// The default of [`Settings::frame_limit`](crate::bus::Settings::frame_limit); the bus tells it to
/// each client in the handshake. 16 MiB carries a large document and still lets a few hundred slow
/// peers hold one each. One byte over fails the call that tried it with
/// [`BusError::FrameTooLarge`](crate::BusError::FrameTooLarge) before anything is sent.
pub const FRAME_LIMIT: usize = 16 * 1024 * 1024;

/// Bytes of the smallest frame limit that can be configured: room for the handshake, a full header
/// section and the longest topic.
pub const FRAME_LIMIT_MIN: usize = 128 * 1024;

/// Bytes of the largest frame limit that can be configured: windows count bytes in 32 bits.
pub const FRAME_LIMIT_MAX: usize = 1024 * 1024 * 1024;

/// Bytes by which a frame from the bus may exceed the frame limit: what the bus adds to a request or a
/// scattered reply (deadline, topic) on its way. Clients accept that much more.
pub const FRAME_SLACK: usize = 2 * 1024;

/// Bytes of the largest frame before the handshake is done: a stranger gets no more memory than that.
///
/// A longer frame ends the connection as malformed.
pub const HANDSHAKE_FRAME_LIMIT: usize = 4 * 1024;

/// Handshakes that are under way at a time: those of transports (TLS, WebSocket, QUIC) up to `HELLO`. Each costs
/// tens of KiB and some computing for somebody who has not said who he is. Others wait for a place, which whoever
/// has been at it for [`HANDSHAKE_PATIENCE`] gives up to them.
pub const HANDSHAKES: usize = 1024;

/// Certificates of sessions that a thread looks at in one go, when the files that decide have been read again.
/// Each takes about a hundred microseconds, so that the thread is done within some ten milliseconds when the bus is
/// stopped meanwhile.
pub const CERTIFICATES_INSPECTED: usize = 128;

/// How often the end of a certificate or token is compared with the clock of the system, also where it is further away:
/// so much later than it says may a session end whose host has slept, or had its clock set.
pub const EXPIRY_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// How long before the end of its certificate a bus begins to warn of it in the log: time enough for somebody who looks
/// there once a week. Certificates that are renewed by a machine are so earlier, mostly.
pub const CERTIFICATE_WARNING: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// How often it does.
pub const CERTIFICATE_WARNING_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Those of them that one address may have, or one /64 of IPv6: a quarter, so that four have to conspire to be in the way
/// of others. The loopback may have all.
pub const HANDSHAKES_OF_ADDRESS: usize = HANDSHAKES / 4;

/// How long a handshake may take while others wait for its place: several round trips around the world.
pub const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(1);

/// How long a connection that is refused may take to hear why, where that needs an answer, as over QUIC: three times what
/// one over a long way takes.
pub const REFUSAL_LINGER: Duration = Duration::from_millis(500);

/// Bytes of a link that one side has sent and the other has not confirmed to have received, where the link may
/// outlive its connection; then it waits. They are kept to be sent again. It is what a connection of 80 Mbit/s
/// carries in 100 ms, or 8 Gbit/s in 1 ms; and a whole batch may always be added to less.
pub const UNCONFIRMED_BYTES: usize = 1024 * 1024;

/// Bytes of confirmations that are sent without hearing any: twice as many as after which the other side has to confirm
/// them, though nothing else may go its way. Who hears that much and confirms nothing gets no more of them, and waits.
pub const UNCONFIRMED_CONFIRMS: usize = 2 * CONFIRM_BYTES as usize;

/// Bytes that are received on such a link before the other side is told.
pub const CONFIRM_BYTES: u64 = 64 * 1024;

/// How long a bus keeps a session whose connection broke, for its client to come back.
///
/// Ten seconds are enough for a client that tries at once and then every second or so, and short enough that
/// requests do not wait for long for a server whose process is gone.
pub const RESUME_LIMIT: Duration = Duration::from_secs(10);

/// How long a client waits before its second attempt to come back to a bus.
pub const RECONNECT_DELAY: Duration = Duration::from_millis(100);

/// The longest time between two such attempts: a bus that has been restarted is found again that soon.
pub const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(5);

/// How soon a client asks a bus again for what that has refused for now, whatever it is told to wait between attempts to connect: one that asks at
/// the speed of its link would do nothing else.
pub const ASK_AGAIN_LEAST: Duration = Duration::from_millis(10);

/// How long a client tries to come back before it ends.
pub const RECONNECT_PATIENCE: Duration = Duration::from_secs(120);

/// Addresses of buses that one client has to choose from: more than anybody keeps of a kind.
pub const CLIENT_ADDRESSES: usize = 16;

/// Events of a client's connection that wait to be taken; there are a few in each outage.
pub const CLIENT_EVENTS: usize = 64;

/// Bytes of the largest file of certificates, keys or revocations that is read: a list of a hundred thousand
/// revocations. A larger one is a mistake.
pub const PEM_FILE: usize = 8 * 1024 * 1024;

/// Bytes of the head of a request or answer that begins a WebSocket: several times what a browser sends. A longer
/// one is refused.
pub const WEBSOCKET_HEAD: usize = 8 * 1024;

/// Bytes of the longest WebSocket message that is sent, in which many frames or a part of one may be. Common
/// libraries refuse messages of more than a megabyte unless they are told to take them, and headers of ten bytes
/// cost nothing at this size. Messages that arrive may have any length, as nothing is kept of them.
pub const WEBSOCKET_MESSAGE: usize = 256 * 1024;

/// Bytes of the longest path of a WebSocket address; a longer one is refused.
pub const WEBSOCKET_PATH: usize = 1024;

/// Handshakes of QUIC under way at one address from which on whoever connects has to show first that he can be
/// reached where he seems to come from. That costs him a round trip; datagrams with made-up addresses get no
/// further, and cost nothing but an answer as small as they are.
pub const QUIC_UNVALIDATED: usize = 64;

/// Bytes that are kept of what somebody sends over QUIC whose handshake waits for a place, beside the first
/// packet: a few more of its size. The rest is lost, and sent again.
pub const QUIC_INCOMING: u32 = 4 * 1024;

/// Bytes that one side of a QUIC connection may have sent and the other not read, and bytes that a side keeps
/// until the other has told that they arrived: what the system has for a socket of TCP.
///
/// It lies outside of the byte budget, as that does. As much as a default window for messages: 100 MB/s where a
/// round trip takes 10 ms.
pub const QUIC_WINDOW: u32 = 1024 * 1024;

/// Bytes of the least that a side of a QUIC connection keeps until they have arrived, however little the path takes:
/// as much as is written at a time.
pub const QUIC_KEPT_MIN: u32 = 32 * 1024;

/// Bytes of the largest packet of QUIC that is taken, and told to the other side: what fits an Ethernet.
pub const QUIC_PACKET: u16 = 1472;

/// Bytes of the system's buffers of a UDP socket that are asked for; it usually gives less. A burst of all
/// windows of one busy connection fits.
pub const UDP_BUFFER: usize = 2 * QUIC_WINDOW as usize;

/// Addresses of one host that connecting tries: more than any name service gives for good reason.
pub const CONNECT_ADDRESSES: usize = 16;

/// How often the system is asked for another port where the one that it chose for the first address of a host is
/// somebody else's at another address. Nearly all ports would have to be taken for that to happen as often.
pub const PORT_ATTEMPTS: usize = 16;

/// How long a peer may take from connecting to a complete `HELLO`; then the bus hangs up.
///
/// Five seconds is far beyond any local scheduling delay and short enough that idle strangers do
/// not fill the connection limit.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Engines of one chain: each is another pass over the payload, and there are not that many sorts of them.
pub const ENGINES: usize = 8;

/// Bytes that engines may add to one another's output within a sealed payload: heads, and lengths. What is padded beyond
/// that is refused.
pub const SEALING_SLACK: usize = 2 * 1024;

/// Memories of engines that a client keeps for the answers to its requests, and a
/// [`PayloadOpener`](crate::engine::PayloadOpener) for all that it opens: so many tasks may open at once without making one anew.
pub const SHARED_MEMORIES: usize = 16;

/// Rules that say which engines are for which topics; each is compared with a topic that none before it covers.
pub const ENGINE_RULES: usize = 256;

/// The fastest level of zstd that is taken: below it, what is gained in time is lost in size twice over, and lz4 is
/// faster still.
pub const COMPRESSION_LEVEL_MIN: i32 = -7;

/// The highest level of zstd that is taken: those above it need windows that not every receiver can be asked to have,
/// and gain next to nothing on messages.
pub const COMPRESSION_LEVEL_MAX: i32 = 19;

/// Bytes of the largest window of a zstd frame that is opened: what RFC 8878 asks every decoder to support, and as much
/// as the highest level that is taken uses. A frame with a larger one is refused.
pub const COMPRESSION_WINDOW: usize = 8 * 1024 * 1024;

/// Bytes that are set aside for a compressed payload because of what its head claims, and no more before it has been
/// seen to hold them: few payloads are larger, and a buffer of that size is kept for reuse.
pub const COMPRESSION_TRUSTED: usize = POOLED_BUFFER_BYTES;

/// How many times what has arrived is set aside likewise, where that is more: few payloads compress better, and nobody
/// makes a receiver set much aside by sending little.
pub const COMPRESSION_TRUSTED_RATIO: usize = 16;

/// Bytes of a state of zstd that a thread keeps for reuse; it has one for each direction. The default level needs up to
/// 1.3 MiB; a larger one is given back at once.
pub const COMPRESSION_STATE: usize = 4 * 1024 * 1024;

/// Bytes of the smallest dictionary that can be trained: zstd makes none that are smaller.
pub const DICTIONARY_BYTES_MIN: usize = 256;

/// Bytes of the largest dictionary. A hundred KiB is usual; each holds three times its size in memory, and more than this
/// does not fit into the caches of a processor, which costs more than it gains.
pub const DICTIONARY_BYTES: usize = 1024 * 1024;

/// Bytes of all samples that a dictionary is trained from: a hundred times the largest one, which is what zstd's
/// documentation recommends. They are copied once.
pub const DICTIONARY_SAMPLES: usize = 128 * 1024 * 1024;
/// Messages that one encrypting engine seals; then it is exhausted. A million a second take nine years. With
/// AES-256-GCM, where what counts are blocks of 16 bytes, so many of 1 KiB leave an odds of one in two million that anybody
/// can tell the cipher from a perfect one.
pub const ENCRYPTED_MESSAGES: u64 = 1 << 48;

/// Messages by which an encrypted one may be late and still be told from one that is repeated; 504 bytes for each sender.
/// Messages of one client overtake each other where several tasks send, with up to [`PUBLISH_WINDOW_MESSAGES`] under way:
/// almost four times as many. Later ones are refused as replayed.
pub const REPLAY_WINDOW: u64 = 4_032;

/// Senders of encrypted messages of which a subscription or serving knows which of the last ones have come, about 0.8 KiB
/// each once they have sent something that is authentic. Beyond it the one that has not sent for the longest time is
/// remembered by its highest number alone.
pub const ENCRYPTION_SENDERS: usize = 1024;

/// Senders that are remembered by their highest number, about 0.15 KiB each. Beyond it the one of the longest time ago
/// is forgotten, and what it sent could come again: `Encryption::fresh_within` refuses that, too, by its
/// time.
pub const ENCRYPTION_SENDERS_PAST: usize = 16 * 1024;

/// Senders whose message keys a receiver keeps, about 0.8 KiB each. Another one costs about two microseconds.
pub const ENCRYPTION_CIPHERS: usize = 1024;

/// Keys of one keyring: those in use and those that are still read with. More are refused until some are retired.
pub const KEYRING_KEYS: usize = 1024;

/// Patterns that a keyring has keys for; each is compared with a topic that is new. More are refused.
pub const KEYRING_PATTERNS: usize = 256;

/// Retired keys whose ids a keyring remembers, so that they do not come back; then the oldest are forgotten.
pub const KEYRING_RETIRED: usize = 4096;

/// Bytes of the largest keyring that is read: several times what these limits allow with ordinary patterns.
pub const KEYRING_BYTES: usize = 2 * 1024 * 1024;

/// Granters that a keyring has pinned; each is compared with a grant that arrives. More are refused.
pub const KEYRING_PINS: usize = 256;

/// Members that a keyring hands keys to, over all its patterns: twice as many as one grant can have. They take an eighth of
/// [`KEYRING_BYTES`], and some ten milliseconds to read. More are refused.
pub const KEYRING_MEMBERS: usize = 2 * GRANT_RECIPIENTS;

/// Recipients of one grant: it stays small beside a frame, and takes a fraction of a second to make. More are refused; a
/// larger group can have a key for each part of its topics.
pub const GRANT_RECIPIENTS: usize = 1024;

/// Bytes of the largest grant: what stands in each, the longest pattern, and a hundred for each recipient. A larger one is
/// refused before it is looked at.
pub const GRANT_BYTES: usize = 256 + MAX_TOPIC_BYTES + 100 * GRANT_RECIPIENTS;

/// The highest generation of a grant: the largest integer that TOML has. A granter that has got there grants nothing more
/// for these topics; one that rises by one for each grant does not.
pub const GRANT_GENERATION_MAX: u64 = i64::MAX as u64;

/// How far the generation of a grant may lie above the last one of its topics. Nobody grants that often; and whoever means to
/// use the numbers up has to make millions of millions of grants for it.
pub const GRANT_LEAP: u64 = 1_000_000;

/// Bytes of an identity's file: twice what is written there, for comments.
pub const IDENTITY_BYTES: usize = 1024;

/// Rules of one encrypting engine about who has to have signed; each is compared with a topic that is new. More are
/// refused.
pub const TRUST_RULES: usize = 64;

/// Signers that one of these rules may name; each is compared with that of a message. More are refused.
pub const TRUSTED_SIGNERS: usize = 256;

/// Bytes of all fields of one frame (headers, options) together: their length is a `u16` on the wire.
pub const FIELDS_LIMIT: usize = u16::MAX as usize;

/// Bytes of the headers of a message that is kept in a stream: what the bus says of it has to fit beside them when it is read, and
/// when it becomes a dead letter, with its topic. More are refused as [`HeadersTooLarge`](crate::BusError::HeadersTooLarge).
pub const STORED_FIELDS_LIMIT: usize = FIELDS_LIMIT - MAX_TOPIC_BYTES - 256;

/// Bytes of a client's name as shown by introspection; a longer one is cut.
pub const CLIENT_NAME_LIMIT: usize = 64;

/// Bytes of the text that goes with an error over the wire; a longer one is cut.
pub const ERROR_TEXT_LIMIT: usize = 4 * 1024;

/// Bytes of a queue group's name.
pub const GROUP_NAME_LIMIT: usize = 256;

/// Messages a subscription may have outstanding (sent by the bus, not yet taken by the application).
///
/// The default of `SubscribeOptions::window`. 1,024 small messages fit a second-level cache and
/// cover the hand-over between two processes; deeper queues were measured slower.
pub const WINDOW_MESSAGES: u32 = 1024;

/// Bytes a subscription may have outstanding; the default of `SubscribeOptions::window`.
///
/// While anything is left of it, one more message of any size may pass.
pub const WINDOW_BYTES: u64 = 1024 * 1024;

/// Messages of the largest window a subscription or serving may ask for; a larger one is refused.
pub const WINDOW_MESSAGES_MAX: u32 = 1_048_576;

/// Bytes of the largest window a subscription or serving may ask for; a larger one is refused.
pub const WINDOW_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Messages a session may have published that the bus has not resolved (queued, parked no longer,
/// or counted as dropped). The default of `Settings::publish_window`.
pub const PUBLISH_WINDOW_MESSAGES: u32 = 1024;

/// Bytes a session may have published that the bus has not resolved.
pub const PUBLISH_WINDOW_BYTES: u64 = 1024 * 1024;

/// How long a publish is parked for a subscription without credit before that subscription takes a
/// gap, and how long a publish waits for the byte budget before it fails as overloaded.
///
/// The default of `Settings::block_limit`. A second outlasts a garbage collection or a page fault
/// storm at the subscriber, and is short enough that a stuck one does not stop its publishers.
pub const BLOCK_LIMIT: Duration = Duration::from_secs(1);

/// Bytes that all queues of the bus together may hold; the default of `Settings::byte_budget`.
///
/// At it, new publishes wait up to the block limit and then fail as
/// [`BusError::Overloaded`](crate::BusError::Overloaded); new requests do at once, but for those to the bus
/// itself.
pub const BYTE_BUDGET: usize = 512 * 1024 * 1024;

/// Bytes in which a session takes its part of the byte budget, so that the shared counter is
/// touched once per turn and not once per message.
pub const BUDGET_QUANTUM: usize = 4 * 1024;

/// The part of the byte budget that one session may have waiting on its link, again parked for its
/// subscriptions, again read for them from streams, and again known by consumers of what it has not acknowledged: an eighth. Beyond it a subscription or serving is treated as one without
/// credit, and streams are read one message at a time.
pub const SESSION_PART: usize = 8;

/// Bytes that the subscriptions and servings of all sessions together may take; the default of
/// `Settings::table_budget`.
///
/// A million ordinary ones, of four fragments. The next one fails as
/// [`BusError::LimitReached`](crate::BusError::LimitReached).
pub const TABLE_BUDGET: usize = 1024 * 1024 * 1024;

/// Bytes of the smallest table budget that can be configured: a session's part of it has room for the
/// largest subscription.
pub const TABLE_BUDGET_MIN: usize = 256 * 1024;

/// The part of the table budget that one session may take: a quarter, by default 256 MiB. That is 2 KiB for each of [`SUBSCRIPTIONS_PER_SESSION`], of which ordinary ones take half.
pub const TABLE_PART: usize = 4;

/// Bytes that a subscription or a serving counts in the table budget, without its pattern: its state at the
/// session, its places in the tables that find it, and what the allocator adds.
pub const SUBSCRIPTION_BYTES: usize = 512;

/// Bytes that a fragment of a subscription's pattern counts in the table budget: a node, an edge and a
/// symbol of the trie, with the places that their tables keep free.
pub const FRAGMENT_BYTES: usize = 160;

/// Bytes that a subscription in a queue group counts in the table budget beside: the group, if it is the
/// only member.
pub const GROUP_BYTES: usize = 512;

/// Threads of its own that a bus can have: more than any machine's cores, as more would only take turns.
/// More are refused with [`BusError::InvalidSettings`](crate::BusError::InvalidSettings).
pub const WORKERS: usize = 1024;

/// Connections a bus accepts; the default of `Settings::max_sessions`.
///
/// One idle connection costs a few KiB, so this many cost less than the byte budget. The next one is
/// told [`BusError::LimitReached`](crate::BusError::LimitReached) and closed.
pub const SESSIONS: usize = 65_536;

/// Connections of one address, and of one principal: a quarter of all, so that four have to conspire to keep
/// others out, and nobody is in the way of a host that really has many.
pub const SESSIONS_OF_ONE: usize = SESSIONS / 4;

/// Subscriptions one session may hold; the default of `Settings::max_subscriptions`.
pub const SUBSCRIPTIONS_PER_SESSION: usize = 131_072;

/// Topics one session may serve; the default of `Settings::max_servings`.
pub const SERVINGS_PER_SESSION: usize = 16_384;

/// How long a session that wants to be the only server of a topic waits for those who decide that over several buses. After that it serves at
/// this bus, as if it were the only one; they may still end it.
pub const SERVE_CLAIM: Duration = Duration::from_secs(5);

/// Such wishes of all sessions that nobody has looked at yet; some 200 bytes each. One more fails as
/// [`BusError::Overloaded`](crate::BusError::Overloaded).
pub const SERVE_CLAIMS: usize = 16_384;

/// Bytes of `SERVE` frames of one session that are not decided yet: as many as a session may have, with short topics. One more fails as
/// [`BusError::LimitReached`](crate::BusError::LimitReached).
pub const SERVE_CLAIM_BYTES: usize = 2 * 1024 * 1024;

/// Watches of what is served, of one bus: each topic that changes is noted for each of them. One more fails as
/// [`BusError::LimitReached`](crate::BusError::LimitReached). Few need one: a part of the process that tells others what is served here.
pub const SERVED_WATCHES: usize = 16;

/// Changed topics that are noted for a watch of what is served and not taken yet; some 100 KiB. Beyond that it is told
/// all that is served.
pub const SERVED_CHANGES: usize = 4096;

/// Requests one session may have unanswered; the default of `Settings::max_requests`.
pub const REQUESTS_PER_SESSION: usize = 8_192;

/// Bytes of requests one session may have unanswered; the default of `Settings::request_bytes`. A request to
/// one server always passes when nothing is outstanding.
///
/// A scattered request counts once for each server that has not answered, since each has a copy of it
/// queued or a reference to it.
///
/// The next request fails as `LimitReached`.
///
/// As many bytes, but no more than a session's [part](SESSION_PART) of the byte budget, may wait on a
/// session's link when a reply comes for it or it asks again. Beyond that the reply reaches it as `Overloaded`,
/// unless it is as small as that error, and the request is refused as such. If what was asked before brings
/// so many of these small answers that they take another part of the budget
/// ([`CONTROL_LANE_BYTES`] at least), the session is cut off with
/// [`BusError::ControlOverrun`](crate::BusError::ControlOverrun).
pub const REQUEST_BYTES_PER_SESSION: usize = 64 * 1024 * 1024;

/// Bytes that may wait on a link when a reply comes for it while the byte budget is spent.
///
/// As much as a default window, so that a stream and its reader go on. Beyond it a reply becomes
/// `Overloaded`, whatever the session's own room: many sessions, each within its own, must not outgrow the
/// budget.
pub const ANSWERS_WHEN_SPENT: usize = 1024 * 1024;

/// Requests that wait at the bus for one served topic while none of its servers has credit, and room on its
/// link.
///
/// Beyond it a request fails as `Overloaded` at once, which tells more than a late timeout. So does one beyond
/// as many bytes as one session may have unanswered or a session's [part](SESSION_PART) of the byte budget,
/// whichever is less.
pub const REQUESTS_WAITING_PER_SERVICE: usize = 8_192;

/// Requests a serving may have outstanding (handed over, not yet taken by the application); the
/// default of `ServeOptions::window`.
pub const SERVING_WINDOW: u32 = 1024;

/// Replies of a streaming response that may be outstanding; the default of a requester's window.
pub const STREAM_WINDOW: u32 = 256;

/// How long a request waits for its reply unless the caller says otherwise.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest deadline a request may carry; a longer one is shortened to it.
pub const REQUEST_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How much later than the client the bus gives up a request by itself. The client keeps the exact
/// time; the bus only has to clean up after one that does not.
pub const REQUEST_GRACE: Duration = Duration::from_millis(250);

/// How often the bus looks at what waits outside a session: requests without a server's credit and
/// messages parked for a queue group.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(50);

/// Servers that one scattered request reaches at most; the rest of the matches are left out and the
/// number asked is told with the end of the replies. Those at other buses count as well; that more of these are
/// known is one of the replies.
pub const SCATTER_LIMIT: usize = 4_096;

/// Steps that it may take to find them: some milliseconds. A pattern that leads to more places among
/// the served topics is refused.
pub const SCATTER_STEPS: usize = 65_536;

/// Topics of one `publish_many`.
pub const PUBLISH_MANY_TOPICS: usize = 256;

/// Bytes of control frames (acknowledgements, credit, pongs) that may wait for one peer to read.
///
/// A peer that causes more of them than it reads is cut off with
/// [`BusError::ControlOverrun`](crate::BusError::ControlOverrun). The answers to a full window of
/// publishes need a tenth of it.
pub const CONTROL_LANE_BYTES: usize = 256 * 1024;

/// Bytes of waiting control frames above which the bus stops granting publish credit.
pub const CONTROL_LANE_PRESSURE: usize = 64 * 1024;

/// How often a side sends something when it has nothing to say; the default of `Settings::keep_alive`.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Keep-alive intervals of silence after which the other side is taken for dead.
pub const KEEP_ALIVE_MISSED: u32 = 3;

/// How long a peer may leave everything unread that waits for it; then it is cut off.
pub const STALL_LIMIT: Duration = Duration::from_secs(30);

/// Bytes read from a link at a time. The buffer is lent to a connection only while it is read.
pub const READ_CHUNK: usize = 64 * 1024;

/// Bytes of a frame from which on it is read into a buffer of its own, which is then shared by
/// reference with all that it goes to instead of being copied.
pub const LARGE_FRAME: usize = 16 * 1024;

/// Bytes of a payload from which on a fan-out shares it instead of copying it per destination.
pub const SHARED_PAYLOAD: usize = 4 * 1024;

/// Buffers that each thread keeps for reuse.
pub const POOLED_BUFFERS: usize = 16;

/// Bytes of the largest buffer that is kept for reuse.
pub const POOLED_BUFFER_BYTES: usize = 256 * 1024;

/// Bytes of the buffers of large frames that a process keeps for reuse: twice what a publisher and a
/// subscriber at full speed have under way by default.
pub const POOLED_LARGE_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of the largest of them.
pub const POOLED_LARGE_BUFFER: usize = POOLED_LARGE_BYTES / 4;

/// How many of these buffers there may be; a search looks at all of them.
pub const POOLED_LARGE_BUFFERS: usize = 128;

/// Capacities of the buffers of large frames are multiples of this, the usual size of a page.
pub const PAGE: usize = 4 * 1024;

/// Frames that wait in one direction of a memory link.
pub const MEMORY_LINK_FRAMES: usize = 512;

/// Bytes that wait in one direction of a memory link, outside of the byte budget; one frame more always
/// passes, so that one of any size does.
///
/// As much as a default window: a reader that keeps up is never waited for. At it the link takes nothing
/// more, as a socket does, and what is left waits where the budget counts it.
pub const MEMORY_LINK_BYTES: usize = 1024 * 1024;

/// Connections that wait to be accepted at a memory listener; more fail as refused.
pub const MEMORY_BACKLOG: usize = 1_024;

/// Matches served in one turn of a session, before other sessions of its thread get theirs: some
/// milliseconds of work. What has been read beyond waits for the next turn, and so does the rest of a
/// publish that has more matches.
pub const TURN_MATCHES: u64 = 32_768;

/// Matches of a turn that a step of a look-up counts for: a turn has 16,384 steps, some hundred
/// microseconds. A publish that has to look further goes on in the next one.
///
/// A step is less work than a match. But a session may go on looking up for long, and while all threads
/// have work, Tokio asks the system for what has arrived for others only once in 61 turns by default.
pub const MATCHES_PER_STEP: usize = 2;

/// Steps of a look-up for which it holds the lock of the routing table: a hundred microseconds at most may
/// a subscribe have to wait for it. It is also the least that a look-up gets at the end of a turn.
pub const LOOKUP_HOLD: usize = 4_096;

/// Matches of a turn that a subscribe or an unsubscribe counts for, beside the steps that it takes to find
/// the routes it touches: about as much work.
pub const CHANGE_MATCHES: u64 = 16;

/// Subscriptions of a session that has ended which are taken out of the tables in one turn: about a
/// millisecond of work.
pub const ENDED_PER_TURN: usize = 512;

/// Reads in one turn of a session, before other sessions of its thread get theirs.
pub const TURN_READS: usize = 4;

/// Routes that one session keeps in its cache; a full cache is emptied.
pub const ROUTES_PER_SESSION: usize = 512;

/// Routes that the bus keeps for all sessions; a full table is emptied, which costs one lookup per
/// topic still in use.
pub const ROUTES: usize = 16_384;

/// Bytes of the topics of all cached routes and of their places in the tables; beyond it the table is
/// emptied. Room for [`ROUTES`] ordinary topics, of four fragments.
pub const ROUTES_BYTES: usize = 24 * 1024 * 1024;

/// Steps that a change to a subscription takes to find the cached routes it touches. If they do not
/// suffice, the table is emptied, which keeps its lock for a shorter time.
pub const ROUTES_STEPS: usize = 16_384;

/// Cached routes that are taken out one by one when a change to a subscription touches them; if it touches
/// more, the table is emptied.
pub const ROUTES_TOUCHED: usize = 1_024;

/// Targets of the largest route that is cached; one with more is looked up for each publish.
pub const ROUTE_TARGETS: usize = 4_096;

/// Targets of all cached routes together, 16 bytes each; beyond it the table is emptied.
pub const ROUTES_TARGETS: usize = 1_048_576;

/// Rows of one introspection reply, if the frame limit leaves room for them; what is left out is counted in
/// the reply.
pub const INTROSPECTION_ROWS: usize = 10_000;

/// How long a bus that drains waits for clients to answer that they know: what they have sent before comes before that. Who takes longer, as he hangs, is not
/// waited for; what he sends later may or may not be acted upon.
pub const DRAIN_ANSWER: Duration = Duration::from_secs(1);

/// How long `BusHandle::stop` waits for sessions to write what they have queued.
pub const STOP_GRACE: Duration = Duration::from_secs(2);

/// Tasks that run beside a bus and belong to it; a bus with more is not started. Each is a link to something else, of which there
/// are few kinds.
pub const COMPANIONS: usize = 16;

/// Bytes of the name of a link to another system, and of what it counts: parts of names of metrics. One with a longer name is refused.
pub const LINK_NAME_BYTES: usize = 64;

/// How long a bus that ends waits for its companions once nothing else is in flight; those that take longer are dropped where they
/// wait. As long as sessions have for what they have queued.
pub const COMPANION_GRACE: Duration = STOP_GRACE;

/// Longest topic or pattern, in bytes of UTF-8.
///
/// A topic travels with every message, so it must stay small beside a small payload, and a peer must
/// not make the bus keep long texts. A longer text is refused as
/// [`TooLong`](crate::topic::TopicErrorKind::TooLong).
pub const MAX_TOPIC_BYTES: usize = 1_024;

/// Most fragments in a topic or pattern.
///
/// It bounds the depth of the subscription trie and lets matching keep its state in one 128-bit word. A
/// text with more is refused as
/// [`TooManyFragments`](crate::topic::TopicErrorKind::TooManyFragments).
pub const MAX_TOPIC_FRAGMENTS: usize = 64;

/// Most `**` fragments in a pattern.
///
/// Each one multiplies the positions at which the rest of a pattern can begin; no real naming scheme
/// needs more than two or three. A pattern with more is refused as
/// [`TooManyDoubleWildcards`](crate::topic::TopicErrorKind::TooManyDoubleWildcards).
pub const MAX_DOUBLE_WILDCARDS: usize = 8;

/// Most bytes of a refused topic or fragment that its error keeps.
///
/// The text may come from a peer and be as long as a frame; an error is logged and sent back, so it
/// shows the beginning only, followed by `…`.
pub const MAX_TOPIC_EXCERPT_BYTES: usize = 96;

/// Most entries in one subscription trie.
///
/// An entry takes at most one node for each fragment and one more, so with this many entries the 32-bit
/// indices of nodes, symbols and entries cannot overflow. An insert beyond it fails as
/// [`TrieFull`](crate::topic::TrieFull). The bus stops far below, at its limits on subscriptions.
pub const MAX_TRIE_ENTRIES: usize = 1 << 25;

/// Nodes whose memory a trie keeps when its last entry goes.
///
/// A small trie that is emptied and filled again should not return to the allocator each time; a large
/// one should give its memory back.
pub const TRIE_RETAINED_NODES: usize = 4_096;

/// Places of a subscription trie that one lookup may have before it at once, 16 bytes each.
///
/// Every child that a published wildcard may stand for is such a place: four times as many as there are
/// connections by default, so that a topic with a fragment for each of them can be published to with a
/// wildcard in its place. A lookup that needs more ends with
/// [`LookupTooWide`](crate::topic::LookupTooWide).
pub const LOOKUP_WIDTH: usize = 262_144;

/// States whose memory a lookup's [`Scratch`](crate::topic::Scratch) keeps for the next lookup.
///
/// A concrete topic needs a few dozen. A pattern published over a large trie can need millions once;
/// each holder of a scratch must not keep that memory for ever.
pub const SCRATCH_RETAINED_STATES: usize = 4_096;

/// Patterns that one principal may be allowed for one action, and as many that it may be denied, when all its
/// roles are put together.
///
/// Each is looked at when a right is checked: this many of both sorts take up to sixty microseconds. More are
/// refused when the rights are loaded.
pub const PERMISSION_PATTERNS: usize = 256;

/// Users, certificates, Unix users, issuers of tokens and roles that a policy may name, each. More are refused
/// when it is loaded: a list of that length belongs to a service that issues tokens.
pub const POLICY_ENTRIES: usize = 65_536;

/// Bytes of the largest file that says who may do what: room for [`POLICY_ENTRIES`] users. A larger one is
/// refused before it is parsed.
pub const AUTH_FILE_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of the name of a user, a certificate, a role, or of an issuer, audience or subject of tokens.
///
/// It is kept with each session, logged and shown. A longer one is refused.
pub const PRINCIPAL_NAME_BYTES: usize = 256;

/// Roles that one principal may have, and that one token may name.
pub const ROLES_PER_PRINCIPAL: usize = 32;

/// Bytes of the longest token. It travels in the handshake, whose frame is bounded as well; a longer one is
/// refused before anything of it is read.
pub const TOKEN_BYTES: usize = 3 * 1024;

/// How far the clocks of an issuer and of a bus may be apart: so much later does a token end, and so much
/// earlier does it begin.
pub const TOKEN_LEEWAY: Duration = Duration::from_secs(30);

/// How long a token made by `whispeer token` is valid unless the caller says otherwise.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Bytes of the shortest secret for HS256: as many as its hash has (RFC 7518, section 3.2). A shorter one
/// could be guessed from one token, and is refused.
pub const TOKEN_SECRET_BYTES_MIN: usize = 32;

/// Bytes of the longest secret for HS256; a longer one adds nothing.
pub const TOKEN_SECRET_BYTES_MAX: usize = 1024;

/// Bytes of the largest file that is read as a key. A larger one is no key.
pub const KEY_FILE_BYTES: usize = 16 * 1024;

/// Characters of the shortest password that is hashed (NIST SP 800-63B, section 5.1.1.1).
pub const PASSWORD_CHARACTERS_MIN: usize = 8;

/// Bytes of the longest password. A longer one is refused before it costs anything.
pub const PASSWORD_BYTES: usize = 1024;

/// KiB of memory that hashing a new password takes: 19 MiB, with [`PASSWORD_PASSES`] and
/// [`PASSWORD_LANES`] what OWASP's Password Storage Cheat Sheet recommends for Argon2id.
pub const PASSWORD_MEMORY_KIB: u32 = 19 * 1024;

/// Passes over this memory.
pub const PASSWORD_PASSES: u32 = 2;

/// Lanes of this memory.
pub const PASSWORD_LANES: u32 = 1;

/// KiB of memory that checking a password may take: 128 MiB, twice the second recommendation of RFC 9106. A
/// hash that asks for more is refused when it is loaded, as each check of it would be an attack on the bus.
pub const PASSWORD_MEMORY_KIB_MAX: u32 = 128 * 1024;

/// Passes over its memory that checking a password may take; together with
/// [`PASSWORD_MEMORY_KIB_MAX`] about two seconds.
pub const PASSWORD_PASSES_MAX: u32 = 16;

/// Lanes of its memory that checking a password may have.
pub const PASSWORD_LANES_MAX: u32 = 16;

/// Passwords that are checked at once, on threads that no session runs on. With ordinary hashes they take
/// 76 MiB, and some tens of milliseconds each.
pub const PASSWORD_CHECKS: usize = 4;

/// Passwords that wait for their check. Who finds as many waiting is told at once that the bus is overloaded, as
/// [`PASSWORD_WAIT`] would not suffice for so many.
pub const PASSWORD_PLACES: usize = 512;

/// Of these, those that come from one source. So eight hosts that flood the bus leave none for a ninth, and one
/// host whose clients all come back at once has its half of the turns for longer than they wait.
pub const PASSWORD_PLACES_OF_A_SOURCE: usize = 64;

/// Wrong passwords from one source that cost nothing: a person mistypes, and a few people share an address.
pub const GUESSES_OF_A_SOURCE: u32 = 5;

/// Wrong passwords for one name that cost nothing. More than of one source, so that a single guesser is slowed down
/// before he slows down others.
pub const GUESSES_OF_A_NAME: u32 = 10;

/// How long the first wrong password beyond these makes the next one wait; each further one doubles it.
pub const GUESS_DELAY: Duration = Duration::from_secs(1);

/// The longest that a source waits after a wrong password: some 300 guesses a day.
pub const GUESS_DELAY_OF_A_SOURCE_MAX: Duration = Duration::from_secs(5 * 60);

/// The longest that a name waits after a wrong password, from where it is not known: some 3,000 guesses a day from
/// all the world, which no password of eight random characters fears. Short, as its owner waits as well.
pub const GUESS_DELAY_OF_A_NAME_MAX: Duration = Duration::from_secs(30);

/// After so long without a wrong password those before are forgotten. Longer than any delay, so that nobody gets
/// more guesses by pausing.
pub const GUESSES_FORGOTTEN: Duration = Duration::from_secs(60 * 60);

/// So long after it was last entered from a source is a name known there.
pub const PASSWORD_KNOWN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Sources, names, and pairs of both, that guesses are remembered of; some hundred KiB each. Where there is no room
/// for another, the one with the fewest wrong passwords is forgotten, of these the oldest; of sources where a name
/// is known, the one that has not come for the longest time.
pub const GUESSES_TABLE: usize = 8192;

/// Lines of the log in each [`REFUSALS_INTERVAL`] that say who was not let in. Further ones are counted, and the
/// number is one line: who tries ten thousand times does not fill the disk.
pub const REFUSALS_TOLD: u32 = 5;

/// See [`REFUSALS_TOLD`].
pub const REFUSALS_INTERVAL: Duration = Duration::from_secs(10);

/// How long a password waits for its check while as many are under way; then it fails as
/// [`BusError::Overloaded`](crate::BusError::Overloaded). Well below the time of a handshake.
pub const PASSWORD_WAIT: Duration = Duration::from_secs(2);
