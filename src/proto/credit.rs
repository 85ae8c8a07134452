//! Credit: how much one side may send before the other has made room.

/// What is left of a window. A message may pass while anything is left of both counts, so that the
/// last one may overshoot the bytes and one of any size always passes in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Credit {
    pub(crate) messages: i64,
    pub(crate) bytes: i64,
}

impl Credit {
    pub(crate) fn new((messages, bytes): (u32, u64)) -> Self {
        Self { messages: i64::from(messages), bytes: i64::try_from(bytes).unwrap_or(i64::MAX) }
    }

    #[inline]
    pub(crate) fn is_left(self) -> bool {
        self.messages > 0 && self.bytes > 0
    }

    #[inline]
    pub(crate) fn spend(&mut self, size: usize) {
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub_unsigned(size as u64);
    }

    #[inline]
    pub(crate) fn spend_several(&mut self, count: usize, size: usize) {
        self.messages -= count as i64;
        self.bytes = self.bytes.saturating_sub_unsigned(size as u64);
    }

    /// Adds a grant.
    #[inline]
    pub(crate) fn grant(&mut self, messages: u32, bytes: u64) {
        self.messages = self.messages.saturating_add(i64::from(messages));
        self.bytes = self.bytes.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Adds a grant of the peer to a window that it chose; more than the whole window is its mistake
    /// and is cut, so that no grant can add up without a bound. Returns what has been added.
    #[inline]
    pub(crate) fn grant_within(&mut self, messages: u32, bytes: u64, window: (u32, u64)) -> (u32, u64) {
        let (whole, before) = (Self::new(window), *self);
        self.grant(messages, bytes);
        self.messages = self.messages.min(whole.messages);
        self.bytes = self.bytes.min(whole.bytes);
        let added = self.messages.saturating_sub(before.messages).max(0);
        let added_bytes = self.bytes.saturating_sub(before.bytes).max(0);
        (u32::try_from(added).unwrap_or(u32::MAX), added_bytes.unsigned_abs())
    }
}

/// What has been consumed of a window that this side granted, until it is worth granting again.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Owed {
    pub(crate) messages: u32,
    pub(crate) bytes: u64,
}

impl Owed {
    #[inline]
    pub(crate) fn add(&mut self, messages: u32, bytes: u64) {
        self.messages = self.messages.saturating_add(messages);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether half of the window has been consumed.
    #[inline]
    pub(crate) fn is_due(self, window: (u32, u64)) -> bool {
        self.messages >= window.0.div_ceil(2) || self.bytes >= window.1.div_ceil(2)
    }
}
