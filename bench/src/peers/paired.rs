//! Requests over a bus that has none: a request is published to one topic and its answer to
//! another, and the number in the payload pairs them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::sync::oneshot;

/// Bytes of the payload that number the request.
const NUMBER_BYTES: usize = 8;

type Number = [u8; NUMBER_BYTES];

/// Requests that wait for their answers.
#[derive(Debug, Clone, Default)]
pub struct Waiting {
    requests: Arc<Mutex<HashMap<Number, oneshot::Sender<Bytes>>>>,
}

impl Waiting {
    /// Makes a request wait. What is returned ends with its answer.
    ///
    /// # Errors
    /// When the payload has no number.
    pub fn add(&self, payload: &[u8]) -> Result<oneshot::Receiver<Bytes>> {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(number(payload)?, sender);
        Ok(receiver)
    }

    /// Gives an answer to the request that waits for it.
    ///
    /// # Errors
    /// When none does.
    pub fn answer(&self, payload: Bytes) -> Result<()> {
        let waiting = self.lock().remove(&number(&payload)?);
        // The asker waits for this as long as it lives.
        let _ = waiting
            .context("an answer came that nobody waits for")?
            .send(payload);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Number, oneshot::Sender<Bytes>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(payload: &[u8]) -> Result<Number> {
    payload
        .first_chunk::<NUMBER_BYTES>()
        .copied()
        .context("a payload was cut short")
}
