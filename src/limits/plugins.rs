//! Bounds of plugins.

use std::time::Duration;

/// Plugins of one bus: each may be called for each message. More are refused as
/// [`BusError::InvalidSettings`](crate::BusError::InvalidSettings) when the bus starts.
pub const PLUGINS: usize = 64;

/// Bytes of the name of a plugin: it stands in errors, logs and counts.
pub const PLUGIN_NAME_BYTES: usize = 64;

/// How long one plugin may take for `on_connect`, `on_subscribe`, `on_ack` or `on_disconnect`: somebody waits for it. One
/// that takes longer counts as failed.
pub const PLUGIN_HOOK: Duration = Duration::from_secs(1);

/// How long one plugin may take for `on_init` or `on_shutdown`, which may open and close a store. Nobody is let in before
/// all have begun.
pub const PLUGIN_START: Duration = Duration::from_secs(10);

/// Subscriptions of one session that plugins are asked about at the same time; the next ones wait for these.
pub const PLUGIN_SUBSCRIBES: usize = 64;

/// Bytes of `SUBSCRIBE` frames of one session that wait for plugins: a client that comes back with as many ordinary
/// subscriptions as a session may have fits in. More are refused as
/// [`BusError::LimitReached`](crate::BusError::LimitReached).
pub const PLUGIN_SUBSCRIBE_BYTES: usize = 32 * 1024 * 1024;

/// Acknowledgements of which plugins are still to be told, some 200 B each. Beyond it the oldest are forgotten: nothing waits
/// for a plugin that is slow to hear of them.
pub const PLUGIN_ACKS: usize = 16 * 1024;

/// Sessions whose task was stopped and of whose end plugins are still to be told. Beyond it the oldest is forgotten.
pub const PLUGIN_ENDS: usize = 1024;

/// Principals that a rate limit knows, about 200 B each. All beyond that share one limit, until some of those known have
/// been quiet for long enough to be forgotten.
pub const RATE_LIMIT_PRINCIPALS: usize = 64 * 1024;

/// How often a rate limit whose table is full looks for principals to forget, which takes some milliseconds.
pub const RATE_LIMIT_TIDY: Duration = Duration::from_secs(1);

/// Differences of a payload from its type that are told.
pub const TYPE_DIFFERENCES: usize = 8;

/// Levels of nesting of a payload or schema: deeper ones would only serve to overflow the stack. The same as for
/// decoding at clients.
pub const TYPE_DEPTH: usize = 128;

/// Bytes of the text of a schema, which may come from a subscriber's header.
pub const SCHEMA_BYTES: usize = 16 * 1024;

/// Fields of a payload, and kinds of elements in its lists, that are looked at to find out whether it meets a schema, all
/// levels together; about 100 B each. One with more is refused.
pub const TYPE_PARTS: usize = 16 * 1024;

/// Kinds of elements that are told apart in one list. A list with more meets only a list of anything.
pub const TYPE_ALTERNATIVES: usize = 16;
