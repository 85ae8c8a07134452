//! Every bound of the link, with its unit, its reason and what happens at it.

use std::time::Duration;

/// Topics that are numbered, at each bus. One that is new takes the place of the one that has been quiet for longest. So the end of
/// what was lost of that may not be noticed. About 40 MiB.
pub const NUMBERED_TOPICS: usize = 100_000;

/// Topics of other buses whose numbers are known here. One that is new takes the place of the one that came first; what is lost of
/// that before its next message is not noticed.
pub const KNOWN_TOPICS: usize = 200_000;

/// Patterns that are subscribed to at NATS. Where there are more at a bus, it subscribes to all topics instead, and leaves out what is
/// not for it: that takes less of NATS than so many subscriptions.
pub const INTEREST_PATTERNS: usize = 32_768;

/// For how long a topic is quiet before its number is told once more, so that others find out that its last messages were lost.
pub const QUIET: Duration = Duration::from_secs(1);

/// Position marks that are sent in one go. The others follow with the next tick, so that a link that comes back is not filled by them.
pub const MARKS: usize = 8_192;

/// How young a subscription may be at NATS, for what was sent before it not to count as lost: as long as it may take to reach all of
/// NATS's servers.
pub const SETTLING: Duration = Duration::from_secs(1);

/// How long a message waits for the ones before it, where several subscriptions bring the same topic.
pub const REORDERING: Duration = Duration::from_millis(100);

/// Messages that wait for the ones before them. At this many they wait no longer.
pub const REORDERED: usize = 8_192;

/// How long NATS may hold messages up that are to be sent, and with them their publishers. After that they are dropped and counted, and
/// told as gaps elsewhere. Half of what the bus lets a subscriber hold up its publishers by default.
pub const SENDING: Duration = Duration::from_millis(500);

/// How long a subscriber without room may hold up what comes from elsewhere. It is one stream for all of them, so this is short.
pub const BLOCKING: Duration = Duration::from_millis(20);

/// The window of the subscription that takes what is published here: messages and bytes.
pub const OUTBOUND_WINDOW: (u32, u64) = (16_384, 16 * 1024 * 1024);

/// Messages that are taken of one subscription at NATS in a row.
pub const INBOUND_RUN: usize = 256;

/// Servers that a link is told of. More are refused; those of a cluster tell of each other, so that a few are enough.
pub const LINK_SERVERS: usize = 64;

/// Bytes of a file with a key, with credentials or with certificates. A larger one is no such file and is not read.
pub const LINK_FILE_BYTES: u64 = 1024 * 1024;

/// How long a server may take to let a link in, TLS included; then another one is tried.
pub const LINK_CONNECT: Duration = Duration::from_secs(5);

/// How long nothing may come from NATS until it is asked whether it is there. After three such intervals without an answer the link counts
/// as broken: 6 seconds, where a bus and its clients have 30 for each other.
pub const LINK_PING: Duration = Duration::from_secs(2);

/// The pause after the first attempt to connect that failed. It doubles with each, and up to half of it is left out by chance, so that many
/// buses do not come back at the same moment.
pub const LINK_PAUSE_FIRST: Duration = Duration::from_millis(50);

/// The longest of these pauses: so much later than NATS a link is back at the most, beside what connecting takes.
pub const LINK_PAUSE_LAST: Duration = Duration::from_secs(5);

/// Messages of a subscription at NATS that wait to be taken. More are dropped, which counts as a disturbance of the link.
pub const LINK_SUBSCRIPTION_MESSAGES: usize = 8192;

/// What waits to be sent to NATS, in messages and commands. Whoever sends more waits, also while NATS is away.
pub const LINK_COMMANDS: usize = 2048;

/// How long a link that is closed may take to hand over what it was given; then it is left.
pub const LINK_CLOSE: Duration = Duration::from_secs(2);

/// Different errors of a server, such as subjects that it does not allow, that are logged until the link breaks. More are not.
pub const LINK_COMPLAINTS: usize = 16;

/// Characters of an error that are kept to be shown.
pub const LINK_ERROR_CHARACTERS: usize = 300;

/// How often it is looked for what a server says of itself, a millisecond apart, when it has let a link in: that comes a moment later.
pub const LINK_GREETING_LOOKS: usize = 50;
