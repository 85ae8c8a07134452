//! How much there may be that is not due yet, in any store.

use std::collections::HashMap;

use bytes::Bytes;

#[cfg(feature = "sqlite")]
use super::change::Change;
use crate::error::StoreError;
use crate::limits;

/// Whom each of these counts for, and how much, that are to be kept until they are due.
#[cfg(feature = "sqlite")]
pub(super) fn delays(changes: &[Change]) -> impl Iterator<Item = (&Bytes, u64)> {
    changes.iter().filter_map(|change| match change {
        Change::Delay { message, author, owner, .. } => {
            Some((owner, message.weight() + (author.len() + owner.len()) as u64))
        }
        _ => None,
    })
}

/// How many messages a stream keeps that are not due yet, and their bytes: all, and those of each owner.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    all: (u64, u64),
    owners: HashMap<Bytes, (u64, u64)>,
}

impl Held {
    /// So many in all; whose they are is counted besides.
    #[cfg(feature = "sqlite")]
    pub(super) fn new(all: (u64, u64)) -> Self {
        Self { all, owners: HashMap::new() }
    }

    pub(super) fn all(&self) -> (u64, u64) {
        self.all
    }

    pub(super) fn add(&mut self, owner: &Bytes, weight: u64) {
        self.all = (self.all.0 + 1, self.all.1.saturating_add(weight));
        self.count_for(owner, weight);
    }

    /// Counts one of those that there are for its owner.
    pub(super) fn count_for(&mut self, owner: &Bytes, weight: u64) {
        if !owner.is_empty() {
            let (messages, bytes) = self.owners.entry(owner.clone()).or_default();
            (*messages, *bytes) = (*messages + 1, bytes.saturating_add(weight));
        }
    }

    pub(super) fn remove(&mut self, owner: &Bytes, weight: u64) {
        self.all = (self.all.0.saturating_sub(1), self.all.1.saturating_sub(weight));
        if let Some((messages, bytes)) = self.owners.get_mut(owner) {
            (*messages, *bytes) = (messages.saturating_sub(1), bytes.saturating_sub(weight));
            if *messages == 0 {
                self.owners.remove(owner);
            }
        }
    }

    /// Whether there is room for these, with whom each counts for and how much: for all of them, and so that no owner has more than it leaves free.
    pub(super) fn check<'a>(&self, delays: impl Iterator<Item = (&'a Bytes, u64)>) -> Result<(), StoreError> {
        let ((mut messages, mut bytes), mut more) = (self.all, HashMap::<&Bytes, (u64, u64)>::new());
        for (owner, weight) in delays {
            (messages, bytes) = (messages + 1, bytes.saturating_add(weight));
            let (own, own_bytes) = more.entry(owner).or_default();
            (*own, *own_bytes) = (*own + 1, own_bytes.saturating_add(weight));
        }
        let (most, most_bytes) = (limits::DELAYED_MESSAGES, limits::DELAYED_BYTES);
        if !more.is_empty() && (messages > most || bytes > most_bytes) {
            let what = format!(
                "a stream keeps at most {most} messages that are not due yet, and {most_bytes} bytes"
            );
            return Err(StoreError::LimitReached { what });
        }
        for (owner, (own, own_bytes)) in more.into_iter().filter(|(owner, _)| !owner.is_empty()) {
            let (before, before_bytes) = self.owners.get(owner).copied().unwrap_or_default();
            if before + own > most - messages || before_bytes + own_bytes > most_bytes - bytes {
                let owner = String::from_utf8_lossy(owner);
                let what = format!(
                    "{owner} has {before} messages in a stream that are not due yet, and {before_bytes} bytes; \
                     one keeps at most as much as is left for others"
                );
                return Err(StoreError::LimitReached { what });
            }
        }
        Ok(())
    }
}
