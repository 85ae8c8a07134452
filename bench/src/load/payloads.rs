//! Payloads for a publisher that takes them by reference and may keep them: each is used again once
//! nobody else holds it, because a fresh page costs more than a small message.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::message::SMALLEST_BYTES;

/// Payloads in rotation at most. At 64 KiB they are 2 MiB, about what a bus and its sockets hold of
/// a stream; beyond them each payload is a new one.
const MOST_IN_ROTATION: usize = 32;

/// Makes payloads of one size.
#[derive(Debug)]
pub struct Payloads {
    size: usize,
    /// What [`next`](Self::next) gave out last.
    latest: Bytes,
    /// What it gave out before, the oldest in front.
    earlier: VecDeque<Bytes>,
}

impl Payloads {
    /// Payloads of `size` bytes, or of [`SMALLEST_BYTES`] if that is more.
    pub fn new(size: usize) -> Self {
        Self {
            size: size.max(SMALLEST_BYTES),
            latest: Bytes::new(),
            earlier: VecDeque::with_capacity(MOST_IN_ROTATION),
        }
    }

    /// The next payload, after `write` has written to it.
    pub fn next(&mut self, write: impl FnOnce(&mut [u8])) -> &Bytes {
        if !self.latest.is_empty() {
            self.earlier.push_back(std::mem::take(&mut self.latest));
        }
        let mut payload = self.take();
        write(&mut payload);
        self.latest = payload.freeze();
        &self.latest
    }

    fn take(&mut self) -> BytesMut {
        match self.earlier.pop_front().map(Bytes::try_into_mut) {
            Some(Ok(free)) => return free,
            Some(Err(in_use)) if self.earlier.len() + 1 < MOST_IN_ROTATION => {
                self.earlier.push_front(in_use);
            }
            Some(Err(_)) | None => {}
        }
        BytesMut::zeroed(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_nobody_holds_is_used_again() {
        let mut payloads = Payloads::new(16);
        let first = payloads.next(|payload| payload.fill(1)).as_ptr();
        let second = payloads.next(|payload| payload.fill(2));
        assert_eq!((second.as_ptr(), &second[..]), (first, &[2; 16][..]));
    }

    #[test]
    fn a_payload_that_is_held_is_left_alone() {
        let mut payloads = Payloads::new(16);
        let held: Vec<Bytes> = (0..=2 * MOST_IN_ROTATION as u8)
            .map(|number| payloads.next(|payload| payload.fill(number)).clone())
            .collect();
        for (number, payload) in held.iter().enumerate() {
            assert!(payload.iter().all(|byte| usize::from(*byte) == number));
        }
        assert!(payloads.earlier.len() < MOST_IN_ROTATION);
    }
}
