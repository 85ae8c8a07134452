//! Which hooks a plugin wants to be called at.

use std::fmt;
use std::ops::BitOr;

/// A set of hooks.
///
/// A bus asks each plugin once, when it is added. What nobody wants costs nothing: without
/// [`PUBLISH`](Self::PUBLISH) and [`DELIVER`](Self::DELIVER) messages are routed as on a bus without plugins.
///
/// # Examples
/// ```
/// use whispeer::plugin::Hooks;
///
/// let hooks = Hooks::CONNECT | Hooks::DISCONNECT;
/// assert!(hooks.contains(Hooks::CONNECT) && !hooks.contains(Hooks::PUBLISH));
/// assert!(Hooks::ALL.contains(hooks));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Hooks(u8);

impl Hooks {
    /// None.
    pub const NONE: Self = Self(0);
    /// [`on_init`](super::Plugin::on_init).
    pub const INIT: Self = Self(1);
    /// [`on_connect`](super::Plugin::on_connect).
    pub const CONNECT: Self = Self(1 << 1);
    /// [`on_subscribe`](super::Plugin::on_subscribe).
    pub const SUBSCRIBE: Self = Self(1 << 2);
    /// [`on_publish`](super::Plugin::on_publish).
    pub const PUBLISH: Self = Self(1 << 3);
    /// [`on_deliver`](super::Plugin::on_deliver).
    pub const DELIVER: Self = Self(1 << 4);
    /// [`on_ack`](super::Plugin::on_ack).
    pub const ACK: Self = Self(1 << 5);
    /// [`on_disconnect`](super::Plugin::on_disconnect).
    pub const DISCONNECT: Self = Self(1 << 6);
    /// [`on_shutdown`](super::Plugin::on_shutdown).
    pub const SHUTDOWN: Self = Self(1 << 7);
    /// All.
    pub const ALL: Self = Self(u8::MAX);

    const NAMES: [&str; 8] =
        ["init", "connect", "subscribe", "publish", "deliver", "ack", "disconnect", "shutdown"];

    /// Whether all of `others` are among these.
    #[inline]
    #[must_use]
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Whether any of `others` is among these.
    #[inline]
    #[must_use]
    pub const fn contains_any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// The names of these, as in output: `publish`, `deliver` …
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .enumerate()
            .filter(move |(bit, _)| self.0 >> bit & 1 == 1)
            .map(|(_, name)| name)
    }
}

impl BitOr for Hooks {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.names()).finish()
    }
}
