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
