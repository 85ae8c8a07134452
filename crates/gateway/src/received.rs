//! What is being received, and how much of it all together may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::limits;

/// Bytes for bodies and messages that are being received, of all callers together. Without it, everybody who may send a large
/// one could have the gateway keep that much and never send the rest.
pub(crate) struct Budget {
    left: AtomicUsize,
}

/// There is no room for what somebody sends, as others are sending too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exhausted;

impl Budget {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes) })
    }

    fn take(&self, bytes: usize) -> Result<(), Exhausted> {
        let take = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map(drop).map_err(|_| Exhausted)
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Bytes of a budget, which are given back when it is dropped.
pub(crate) struct Claim {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Claim {
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    /// Has it stand for so many bytes. The first [`limits::UNCLAIMED_BYTES`] are free: most that is received has fewer.
    fn grow_to(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let bytes = bytes.saturating_sub(limits::UNCLAIMED_BYTES);
        if let more @ 1.. = bytes.saturating_sub(self.bytes) {
            self.budget.take(more)?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Gives back all that it stands for.
    pub(crate) fn clear(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes > 0 {
            self.budget.give_back(bytes);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Appends what has come. Room is made as bytes arrive, for twice as many at the most, and never for more than the `expected`
/// ones in all: who says that much will come gets nothing for it.
pub(crate) fn append(
    whole: &mut Vec<u8>,
    part: &[u8],
    expected: usize,
    claim: &mut Claim,
) -> Result<(), Exhausted> {
    let needed = whole.len() + part.len();
    if needed > whole.capacity() {
        let capacity = needed.max(expected.min(needed.saturating_mul(2)));
        claim.grow_to(capacity)?;
        whole.reserve_exact(capacity - whole.len());
    }
    whole.extend_from_slice(part);
    Ok(())
}

/// Why there is no body.
#[derive(Debug)]
pub(crate) enum BodyFault {
    /// It took longer than [`limits::BODY_TIME`].
    TooSlow,
    TooLarge,
    Busy,
    /// It cannot be read.
    Broken(axum::Error),
}

/// The body of a request of `limit` bytes at the most, and its claim to the room that it takes, for as long as it is needed.
pub(crate) async fn body(
    mut body: Body,
    limit: usize,
    budget: &Arc<Budget>,
) -> Result<(Bytes, Claim), BodyFault> {
    let said = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if said > limit {
        return Err(BodyFault::TooLarge);
    }
    let mut claim = Claim::new(budget);
    let mut whole = Vec::new();
    let read = async {
        while let Some(frame) = body.frame().await {
            // What is behind a body tells nothing here.
            let Ok(part) = frame.map_err(BodyFault::Broken)?.into_data() else { continue };
            if part.len() > limit - whole.len() {
                return Err(BodyFault::TooLarge);
            }
            let expected = if said > 0 { said } else { limit };
            append(&mut whole, &part, expected, &mut claim).map_err(|Exhausted| BodyFault::Busy)?;
        }
        Ok(())
    };
    timeout(limits::BODY_TIME, read).await.map_err(|_| BodyFault::TooSlow)??;
    Ok((whole.into(), claim))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: usize = limits::UNCLAIMED_BYTES;

    #[test]
    fn what_all_receive_together_is_bounded_and_given_back() {
        let budget = Budget::new(1000);
        let (mut one, mut other) = (Claim::new(&budget), Claim::new(&budget));
        assert_eq!(one.grow_to(FREE + 600), Ok(()));
        assert_eq!(other.grow_to(FREE + 401), Err(Exhausted));
        assert_eq!(other.grow_to(FREE), Ok(()), "little is free");
        assert_eq!(one.grow_to(FREE + 1001), Err(Exhausted));
        assert_eq!(one.grow_to(FREE + 1000), Ok(()));
        assert_eq!(one.grow_to(FREE + 10), Ok(()), "what was claimed stays so");
        one.clear();
        assert_eq!(other.grow_to(FREE + 1000), Ok(()));
        drop(other);
        assert_eq!(budget.left.load(Ordering::Relaxed), 1000);
    }

    #[test]
    fn room_is_made_for_what_has_come_and_not_for_what_is_said_to_come() {
        let budget = Budget::new(1 << 20);
        let mut claim = Claim::new(&budget);
        let mut whole = Vec::new();
        append(&mut whole, &[7; 100], 1 << 20, &mut claim).unwrap();
        assert_eq!(whole.capacity(), 200);
        append(&mut whole, &[7; 900], 1 << 20, &mut claim).unwrap();
        assert_eq!(whole.capacity(), 2000);
        append(&mut whole, &[7; 1500], 2500, &mut claim).unwrap();
        assert_eq!((whole.len(), whole.capacity()), (2500, 2500), "no more than is expected");
    }
}
