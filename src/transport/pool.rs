//! Buffers that are lent to a connection only while it reads or writes, and those of large frames.
//!
//! A fresh page costs microseconds, so each thread keeps a few buffers for reuse; an idle connection
//! has none. Buffers of large frames live on in what the application got, and are dropped on any
//! thread: these are kept by the process.

use std::cell::RefCell;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::limits;

thread_local! {
    static READING: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static WRITING: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of [`limits::READ_CHUNK`] bytes, whatever is in them.
pub(super) fn reading() -> Vec<u8> {
    READING.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; limits::READ_CHUNK])
}

/// Gives a read buffer back.
pub(super) fn return_reading(buffer: Vec<u8>) {
    if buffer.len() == limits::READ_CHUNK {
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

    /// A buffer of this size or a little more.
    fn take(&mut self, size: usize) -> Option<Vec<u8>> {
        let fits = |buffer: &Vec<u8>| (size..=size + size / 4).contains(&buffer.len());
        let index = self.buffers.iter().rposition(fits)?;
        let buffer = self.buffers.remove(index);
        self.bytes -= buffer.len();
        Some(buffer)
    }

    /// Keeps the buffer; returns those that there is no room for any more.
    fn put(&mut self, buffer: Vec<u8>) -> Vec<Vec<u8>> {
        self.bytes += buffer.len();
        self.buffers.push(buffer);
        let mut oldest = 0;
        while self.bytes > limits::POOLED_LARGE_BYTES
            || self.buffers.len() - oldest > limits::POOLED_LARGE_BUFFERS
        {
            self.bytes -= self.buffers[oldest].len();
            oldest += 1;
        }
        self.buffers.drain(..oldest).collect()
    }
}

/// A buffer for one large frame, kept for reuse when it is dropped.
#[derive(Debug)]
pub(super) struct Large {
    buffer: Vec<u8>,
    /// Bytes of the frame so far.
    filled: usize,
}

impl Large {
    /// An empty buffer that has room for `size` bytes.
    pub(super) fn with_capacity(size: usize) -> Self {
        // Frames of nearly the same size share their buffers.
        let size = size.next_multiple_of(limits::PAGE);
        let kept = Kept::lock().take(size);
        Self { buffer: kept.unwrap_or_else(|| vec![0; size]), filled: 0 }
    }

    /// Room for the next `size` bytes, whatever is in it.
    pub(super) fn room(&mut self, size: usize) -> &mut [u8] {
        let end = self.filled + size;
        if self.buffer.len() < end {
            self.buffer.resize(end.next_multiple_of(limits::PAGE), 0);
        }
        &mut self.buffer[self.filled..end]
    }

    /// Of the room the first `count` bytes belong to the frame now.
    pub(super) fn fill(&mut self, count: usize) {
        self.filled = (self.filled + count).min(self.buffer.len());
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// What it holds, to be shared.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let buffer = mem::take(&mut self.buffer);
        if (limits::LARGE_FRAME..=limits::POOLED_LARGE_BUFFER).contains(&buffer.len()) {
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
        assert!(kept.put(vec![0; SIZE]).is_empty());
        assert!(kept.take(SIZE + 1).is_none(), "too small");
        assert!(kept.take(SIZE / 2).is_none(), "it would hold far more than what counts");
        assert!(kept.take(SIZE * 9 / 10).is_some_and(|buffer| buffer.len() == SIZE));
        assert!(kept.take(SIZE).is_none());
        assert_eq!(kept.bytes, 0);
    }

    #[test]
    fn the_last_one_given_back_comes_first() {
        let mut kept = Kept::new();
        let buffers = [vec![0; SIZE], vec![0; SIZE]];
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
            kept.put(vec![0; limits::LARGE_FRAME]);
            assert!(kept.buffers.len() <= limits::POOLED_LARGE_BUFFERS);
        }
        for _ in 0..8 {
            kept.put(vec![0; limits::POOLED_LARGE_BUFFER]);
            assert!(kept.bytes <= limits::POOLED_LARGE_BYTES);
            assert_eq!(kept.bytes, kept.buffers.iter().map(Vec::len).sum::<usize>());
        }
        assert_eq!(kept.bytes, limits::POOLED_LARGE_BYTES, "the newest stay");
    }

    #[test]
    fn what_a_frame_was_in_is_used_again_once_nobody_has_it() {
        // No other test has frames of this size.
        const SIZE: usize = 777_777;
        let mut large = Large::with_capacity(SIZE);
        large.room(7).copy_from_slice(b"content");
        large.fill(7);
        let place = large.buffer.as_ptr();
        let content = large.freeze();
        let part = content.slice(3..);
        drop(content);
        assert_eq!(part, "tent");
        drop(part);
        let again = Large::with_capacity(SIZE);
        assert_eq!(again.buffer.as_ptr(), place);
        assert!(again.as_ref().is_empty());
    }
}
