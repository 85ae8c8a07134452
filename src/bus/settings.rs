//! What can be set about a bus.

use std::time::Duration;

use crate::error::{BusError, BusResult};
use crate::limits;

/// The limits and times of a bus. Each field's default is a constant of [`limits`](crate::limits),
/// which says why.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use whispeer::bus::Settings;
///
/// let settings = Settings { block_limit: Duration::from_millis(200), ..Settings::default() };
/// assert!(settings.check().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of the largest frame, header included (default 16 MiB).
    pub frame_limit: usize,
    /// Bytes that all queues together may hold (default 512 MiB).
    pub byte_budget: usize,
    /// Bytes that the subscriptions and servings of all sessions together may take (default 1 GiB). One
    /// session may take a quarter of it.
    pub table_budget: usize,
    /// How long a publish is parked for a subscription without credit (default 1 s).
    pub block_limit: Duration,
    /// Whether subscriptions may ask for the policy `Block`, which can slow publishers down (default
    /// true).
    pub allow_block: bool,
    /// Messages and bytes that one session may have published and not yet resolved (default 1,024 and
    /// 1 MiB).
    pub publish_window: (u32, u64),
    /// Connections (default 65,536).
    pub max_sessions: usize,
    /// Connections of one address of a network, of one /64 with IPv6, the loopback aside. Default
    /// [`limits::SESSIONS_OF_ONE`].
    pub max_sessions_per_address: usize,
    /// Connections of one principal: a user of this host, or somebody by the name that he has proven. Default
    /// [`limits::SESSIONS_OF_ONE`].
    pub max_sessions_per_principal: usize,
    /// Durable consumers, groups that acknowledge included, that one principal may make in one stream, where there is a policy.
    /// Those beyond a lowered limit stay. The bus's own process has as many as there can be. Default
    /// [`limits::CONSUMERS_OF_ONE`].
    pub max_consumers_per_principal: usize,
    /// Subscriptions of one session (default 131,072).
    pub max_subscriptions: usize,
    /// Servings of one session (default 16,384).
    pub max_servings: usize,
    /// Unanswered requests of one session (default 8,192).
    pub max_requests: usize,
    /// Bytes of unanswered requests of one session (default 64 MiB). As many may wait unread on its link, but
    /// no more than an eighth of the byte budget, before it gets no more large replies.
    pub request_bytes: usize,
    /// How often each side gives a sign of life (default 10 s). A client may ask for more often.
    pub keep_alive: Duration,
    /// How long a peer may leave everything unread (default 30 s).
    pub stall_limit: Duration,
    /// How long the handshake may take (default 5 s).
    pub handshake_timeout: Duration,
    /// How long a session whose connection over a network broke is kept for its client to come back; zero for
    /// not at all. Default [`limits::RESUME_LIMIT`].
    pub resume_limit: Duration,
}

/// What became of settings that a bus was given while it runs; see
/// [`BusHandle::apply`](crate::BusHandle::apply). The names are those of the fields of [`Settings`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// Those that have changed and hold from now on.
    pub now: Vec<&'static str>,
    /// Those that differ from what the bus was started with, and would only hold after a restart.
    pub at_restart: Vec<&'static str>,
}

/// The settings that can change while the bus runs: none of them has been told to a client, or is the size
/// of something that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) allow_block: bool,
    pub(super) max_sessions: usize,
    pub(super) max_sessions_per_address: usize,
    pub(super) max_sessions_per_principal: usize,
    pub(super) max_consumers_per_principal: usize,
    pub(super) max_servings: usize,
    /// For sessions that begin from now on: the interval is agreed on in the handshake.
    pub(super) keep_alive: Duration,
    pub(super) stall_limit: Duration,
    pub(super) handshake_timeout: Duration,
    pub(super) resume_limit: Duration,
}

impl Live {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            allow_block: settings.allow_block,
            max_sessions: settings.max_sessions,
            max_sessions_per_address: settings.max_sessions_per_address,
            max_sessions_per_principal: settings.max_sessions_per_principal,
            max_consumers_per_principal: settings.max_consumers_per_principal,
            max_servings: settings.max_servings,
            keep_alive: settings.keep_alive,
            stall_limit: settings.stall_limit,
            handshake_timeout: settings.handshake_timeout,
            resume_limit: settings.resume_limit,
        }
    }

    /// The names of those that differ.
    pub(super) fn differences(&self, other: &Self) -> Vec<&'static str> {
        named([
            ("allow_block", self.allow_block != other.allow_block),
            ("max_sessions", self.max_sessions != other.max_sessions),
            ("max_sessions_per_address", self.max_sessions_per_address != other.max_sessions_per_address),
            (
                "max_sessions_per_principal",
                self.max_sessions_per_principal != other.max_sessions_per_principal,
            ),
            (
                "max_consumers_per_principal",
                self.max_consumers_per_principal != other.max_consumers_per_principal,
            ),
            ("max_servings", self.max_servings != other.max_servings),
            ("keep_alive", self.keep_alive != other.keep_alive),
            ("stall_limit", self.stall_limit != other.stall_limit),
            ("handshake_timeout", self.handshake_timeout != other.handshake_timeout),
            ("resume_limit", self.resume_limit != other.resume_limit),
        ])
    }
}

/// The names that are marked.
fn named<const N: usize>(marked: [(&'static str, bool); N]) -> Vec<&'static str> {
    marked.into_iter().filter_map(|(name, marked)| marked.then_some(name)).collect()
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            frame_limit: limits::FRAME_LIMIT,
            byte_budget: limits::BYTE_BUDGET,
            table_budget: limits::TABLE_BUDGET,
            block_limit: limits::BLOCK_LIMIT,
            allow_block: true,
            publish_window: (limits::PUBLISH_WINDOW_MESSAGES, limits::PUBLISH_WINDOW_BYTES),
            max_sessions: limits::SESSIONS,
            max_sessions_per_address: limits::SESSIONS_OF_ONE,
            max_sessions_per_principal: limits::SESSIONS_OF_ONE,
            max_consumers_per_principal: limits::CONSUMERS_OF_ONE,
            max_subscriptions: limits::SUBSCRIPTIONS_PER_SESSION,
            max_servings: limits::SERVINGS_PER_SESSION,
            max_requests: limits::REQUESTS_PER_SESSION,
            request_bytes: limits::REQUEST_BYTES_PER_SESSION,
            keep_alive: limits::KEEP_ALIVE,
            stall_limit: limits::STALL_LIMIT,
            handshake_timeout: limits::HANDSHAKE_TIMEOUT,
            resume_limit: limits::RESUME_LIMIT,
        }
    }
}

impl Settings {
    /// The names of the settings that differ and hold as long as the bus runs.
    pub(super) fn fixed_differences(&self, other: &Self) -> Vec<&'static str> {
        named([
            ("frame_limit", self.frame_limit != other.frame_limit),
            ("byte_budget", self.byte_budget != other.byte_budget),
            ("table_budget", self.table_budget != other.table_budget),
            ("block_limit", self.block_limit != other.block_limit),
            ("publish_window", self.publish_window != other.publish_window),
            ("max_subscriptions", self.max_subscriptions != other.max_subscriptions),
            ("max_requests", self.max_requests != other.max_requests),
            ("request_bytes", self.request_bytes != other.request_bytes),
        ])
    }

    /// Checks that the settings make sense together.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] that names the first one that does not.
    pub fn check(&self) -> BusResult<()> {
        let refuse = |text: String| Err(BusError::InvalidSettings(text));
        if !(limits::FRAME_LIMIT_MIN..=limits::FRAME_LIMIT_MAX).contains(&self.frame_limit) {
            return refuse(format!(
                "frame_limit is {} bytes; it can be {} to {}",
                self.frame_limit,
                limits::FRAME_LIMIT_MIN,
                limits::FRAME_LIMIT_MAX
            ));
        }
        if self.byte_budget < self.frame_limit {
            return refuse(format!(
                "byte_budget ({} bytes) is below frame_limit ({}): not even one frame would fit",
                self.byte_budget, self.frame_limit
            ));
        }
        if self.table_budget < limits::TABLE_BUDGET_MIN {
            return refuse(format!(
                "table_budget is {} bytes; it can be {} and more",
                self.table_budget,
                limits::TABLE_BUDGET_MIN
            ));
        }
        let (messages, bytes) = self.publish_window;
        if messages == 0
            || bytes == 0
            || messages > limits::WINDOW_MESSAGES_MAX
            || bytes > limits::WINDOW_BYTES_MAX
        {
            return refuse(format!(
                "publish_window is {messages} messages and {bytes} bytes; it can be 1 to {} and {}",
                limits::WINDOW_MESSAGES_MAX,
                limits::WINDOW_BYTES_MAX
            ));
        }
        for (name, value) in [
            ("max_sessions", self.max_sessions),
            ("max_sessions_per_address", self.max_sessions_per_address),
            ("max_sessions_per_principal", self.max_sessions_per_principal),
            ("max_consumers_per_principal", self.max_consumers_per_principal),
            ("max_subscriptions", self.max_subscriptions),
            ("max_servings", self.max_servings),
            ("max_requests", self.max_requests),
            ("request_bytes", self.request_bytes),
        ] {
            if value == 0 || u32::try_from(value).is_err() {
                return refuse(format!("{name} is {value}; it can be 1 to {}", u32::MAX));
            }
        }
        for (name, value) in [
            ("keep_alive", self.keep_alive),
            ("stall_limit", self.stall_limit),
            ("handshake_timeout", self.handshake_timeout),
        ] {
            if value < Duration::from_millis(10) || value > Duration::from_secs(86_400) {
                return refuse(format!("{name} is {value:?}; it can be 10 ms to a day"));
            }
        }
        if self.block_limit > Duration::from_secs(3_600) {
            return refuse(format!("block_limit is {:?}; it can be up to an hour", self.block_limit));
        }
        Ok(())
    }
}
