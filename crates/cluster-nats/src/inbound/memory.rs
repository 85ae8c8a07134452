//! What a link knows of other buses' messages, for the one that begins in its place.
//!
//! A link that its bus has cut off begins anew a moment later. What was sent meanwhile is missing here, and so may be what was on its way to the bus. By the numbers of
//! what came before, those who are still subscribed are told how much that is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use tokio::time::Instant;
use whispeer::topic::TopicPattern;

use super::outcomes::{Loss, Sender};
use crate::limits;
use crate::seen::Seen;

/// Where what is known lies while no link has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    memory: Arc<Mutex<Memory>>,
}

/// What is known.
#[derive(Debug)]
pub(super) struct Memory {
    /// What has come.
    pub(super) seen: Seen<Option<Arc<Sender>>>,
    /// What was subscribed to, and since when.
    pub(super) subscribed: Since,
    /// When something has come last; nothing where no link has been before.
    pub(super) heard_at: Option<Instant>,
    /// What the bus was given and may not have taken.
    pub(super) unsettled: Vec<Loss>,
}

/// Since when there have been subscriptions at NATS.
#[derive(Debug, Default)]
pub(super) struct Since {
    /// Those that every bus has.
    pub(super) wildcards: Option<Instant>,
    pub(super) everything: Option<Instant>,
    pub(super) patterns: HashMap<TopicPattern, Instant, RandomState>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            seen: Seen::new((limits::KNOWN_TOPICS, limits::KNOWN_BYTES), limits::SETTLING),
            subscribed: Since::default(),
            heard_at: None,
            unsettled: Vec::new(),
        }
    }
}

impl Kept {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes it, without who published to the bus by then.
    pub(super) fn take(&self) -> Memory {
        let mut memory = std::mem::take(&mut *self.memory());
        memory.seen.keep_anew(|| None);
        memory
    }

    /// Puts it back for the next link.
    pub(super) fn put(&self, memory: Memory) {
        *self.memory() = memory;
    }
}
