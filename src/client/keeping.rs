//! Publishes that are to be kept and have not been answered. They are sent again at a new session.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::BusResult;
use crate::proto::fields::{Field, FieldsBuilder, MessageId, Quality, iterate};
use crate::proto::{Content, ContentRef};

/// Publishes that a session's window for publishes has room for, at the most, as each takes of it until it is answered.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    unanswered: BTreeMap<u64, Kept>,
    /// By what the bus knows the publishes of this client that are kept once.
    publisher: Option<[u8; 16]>,
    last_number: u64,
}

/// A publish that is sent until it is answered.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) content: Arc<Content>,
    /// The publisher that learns when it fails, where nobody waits for it alone.
    pub(super) publisher: Option<u32>,
}

impl Keeping {
    /// What is sent of a publish that is to be kept; `None` for others.
    ///
    /// # Errors
    /// [`HeadersTooLarge`](crate::BusError::HeadersTooLarge) where its headers leave no room for its id.
    pub(super) fn content(&mut self, content: &ContentRef<'_>) -> BusResult<Option<Arc<Content>>> {
        let quality = iterate(content.fields).find_map(|field| match field {
            Field::Quality(quality) => Some(quality),
            _ => None,
        });
        match quality {
            None | Some(Quality::AtMostOnce) => return Ok(None),
            Some(Quality::AtLeastOnce) => return Ok(Some(content.shared())),
            Some(Quality::ExactlyOnce) => {}
        }
        let publisher = match self.publisher {
            Some(publisher) => publisher,
            None => {
                let mut drawn = [0; 16];
                getrandom::fill(&mut drawn).map_err(|error| {
                    let what = format!("the system's random generator does not work: {error}");
                    crate::error::BusError::InvalidSettings(what)
                })?;
                *self.publisher.insert(drawn)
            }
        };
        let mut fields = FieldsBuilder::new();
        fields.append(content.fields)?;
        fields.message_id(MessageId::new(publisher, self.last_number + 1))?;
        self.last_number += 1;
        let payload = content.shared_payload();
        let payload = payload.unwrap_or_else(|| Bytes::copy_from_slice(content.payload()).into());
        let topic = Bytes::copy_from_slice(content.topic);
        Ok(Some(Arc::new(Content::new(fields.finish().into(), topic, payload))))
    }

    pub(super) fn insert(&mut self, sequence: u64, kept: Kept) {
        self.unanswered.insert(sequence, kept);
    }

    /// Whether it is to be kept and has not been answered.
    pub(super) fn has(&self, sequence: u64) -> bool {
        self.unanswered.contains_key(&sequence)
    }

    /// It has been answered.
    pub(super) fn remove(&mut self, sequence: u64) -> Option<Kept> {
        self.unanswered.remove(&sequence)
    }

    /// Takes those that were sent up to this one, in their order.
    pub(super) fn take_until(&mut self, sequence: u64) -> Vec<(u64, Kept)> {
        let later = self.unanswered.split_off(&(sequence + 1));
        std::mem::replace(&mut self.unanswered, later).into_iter().collect()
    }
    /// Gives each another sequence, in their order.
    pub(super) fn renumber(&mut self, moved: impl Fn(u64) -> u64) {
        let unanswered = std::mem::take(&mut self.unanswered);
        self.unanswered = unanswered.into_iter().map(|(sequence, kept)| (moved(sequence), kept)).collect();
    }
}
