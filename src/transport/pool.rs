//! Buffers that are lent to a connection only while it reads or writes.
//!
//! A fresh page costs microseconds, so each thread keeps a few buffers for reuse; an idle connection
//! has none.

use std::cell::RefCell;

use bytes::BytesMut;

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
