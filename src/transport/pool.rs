//! Buffers that are lent to a connection only while it reads or writes, and those of large frames.
//!
//! A fresh page costs microseconds, so each thread keeps a few buffers for reuse; an idle connection
//! has none. Buffers of large frames live on in what the application got, and are dropped on any
//! thread: these are kept by the process.

use std::cell::RefCell;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::limits;

thread_local! {
    static READING: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static WRITING: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer of [`limits::READ_CHUNK`] bytes capacity.
pub(super) fn reading() -> BytesMut {
    READING.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(limits::READ_CHUNK))
}

/// Gives a read buffer back.
pub(super) fn return_reading(mut buffer: BytesMut) {
    buffer.clear();
    if buffer.capacity() == limits::READ_CHUNK {
        READING.with_borrow_mut(|pool| {
            if pool.len() < limits::POOLED_BUFFERS {
                pool.push(buffer);
            }
        });
    }
}

/// An empty buffer for writing, of whatever capacity it had when it was given back.
pub(super) fn writing() -> Vec<u8> {
    WRITING.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives a write buffer back.
pub(super) fn return_writing(mut buffer: Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > 0 && buffer.capacity() <= limits::POOLED_BUFFER_BYTES {
        WRITING.with_borrow_mut(|pool| {
            if pool.len() < limits::POOLED_BUFFERS {
                pool.push(buffer);
            }
        });
    }
}

static LARGE: Mutex<Kept> = Mutex::new(Kept::new());

/// Buffers for large frames that nobody uses, the last one given back at the end: its pages are the most
/// likely to be in the processor's cache.
#[derive(Debug)]
struct Kept {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Kept {
    const fn new() -> Self {
        Self { buffers: Vec::new(), bytes: 0 }
    }

    fn lock() -> MutexGuard<'static, Self> {
        LARGE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of this capacity or a little more.
    fn take(&mut self, capacity: usize) -> Option<Vec<u8>> {
        let fits = |buffer: &Vec<u8>| (capacity..=capacity + capacity / 4).contains(&buffer.capacity());
        let index = self.buffers.iter().rposition(fits)?;
        let buffer = self.buffers.remove(index);
        self.bytes -= buffer.capacity();
        Some(buffer)
    }

    /// Keeps the buffer; returns those that there is no room for any more.
    fn put(&mut self, buffer: Vec<u8>) -> Vec<Vec<u8>> {
        self.bytes += buffer.capacity();
        self.buffers.push(buffer);
        let mut oldest = 0;
        let mut left = self.bytes;
        while left > limits::POOLED_LARGE_BYTES || self.buffers.len() - oldest > limits::POOLED_LARGE_BUFFERS
        {
            left -= self.buffers[oldest].capacity();
            oldest += 1;
        }
        self.bytes = left;
        self.buffers.drain(..oldest).collect()
    }
}

/// A buffer for one large frame, kept for reuse when it is dropped.
#[derive(Debug)]
pub(super) struct Large(Vec<u8>);

impl Large {
    /// An empty buffer for `capacity` bytes.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        // Frames of nearly the same size share their buffers.
        let capacity = capacity.next_multiple_of(limits::PAGE);
        let kept = Kept::lock().take(capacity);
        Self(kept.unwrap_or_else(|| Vec::with_capacity(capacity)))
    }

    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// What it holds, to be shared.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let mut buffer = mem::take(&mut self.0);
        buffer.clear();
        if (limits::LARGE_FRAME..=limits::POOLED_LARGE_BYTES / 4).contains(&buffer.capacity()) {
            // What goes is freed when the lock is free.
            let _gone = Kept::lock().put(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 64 * 1024;

    #[test]
    fn a_buffer_is_found_again_if_it_fits() {
        let mut kept = Kept::new();
        assert!(kept.put(Vec::with_capacity(SIZE)).is_empty());
        assert!(kept.take(SIZE + 1).is_none(), "too small");
        assert!(kept.take(SIZE / 2).is_none(), "it would hold far more than what counts");
        assert!(kept.take(SIZE * 9 / 10).is_some_and(|buffer| buffer.capacity() == SIZE));
        assert!(kept.take(SIZE).is_none());
        assert_eq!(kept.bytes, 0);
    }

    #[test]
    fn the_last_one_given_back_comes_first() {
        let mut kept = Kept::new();
        let buffers = [Vec::<u8>::with_capacity(SIZE), Vec::with_capacity(SIZE)];
        let last = buffers[1].as_ptr();
        for buffer in buffers {
            kept.put(buffer);
        }
        assert_eq!(kept.take(SIZE).map(|buffer| buffer.as_ptr()), Some(last));
    }

    #[test]
    fn what_is_kept_has_bounds() {
        let mut kept = Kept::new();
        for _ in 0..2 * limits::POOLED_LARGE_BUFFERS {
            kept.put(Vec::with_capacity(limits::LARGE_FRAME));
            assert!(kept.buffers.len() <= limits::POOLED_LARGE_BUFFERS);
        }
        for _ in 0..8 {
            kept.put(Vec::with_capacity(limits::POOLED_LARGE_BYTES / 4));
            assert!(kept.bytes <= limits::POOLED_LARGE_BYTES);
            assert_eq!(kept.bytes, kept.buffers.iter().map(Vec::capacity).sum::<usize>());
        }
        assert_eq!(kept.buffers.len(), 4, "the newest stay");
    }

    #[test]
    fn what_a_frame_was_in_is_used_again_once_nobody_has_it() {
        let mut large = Large::with_capacity(limits::POOLED_LARGE_BYTES / 5);
        large.bytes().extend_from_slice(b"content");
        let place = large.0.as_ptr();
        let content = large.freeze();
        let part = content.slice(3..);
        drop(content);
        assert_eq!(part, "tent");
        drop(part);
        let mut again = Large::with_capacity(limits::POOLED_LARGE_BYTES / 5);
        assert_eq!(again.0.as_ptr(), place);
        assert!(again.bytes().is_empty());
    }
}
