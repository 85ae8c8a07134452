//! The frames of the raw subjects: a little-endian `u32` length, then that many bytes of payload.

use std::io;

use anyhow::{Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of the length that precedes each payload.
pub const HEADER_BYTES: usize = 4;

/// The most that is read from a socket at once, in bytes. Raw relays and raw load generators share
/// it, so that no side of a measurement batches more than another.
pub const READ_BYTES: usize = 64 * 1024;

/// The longest payload accepted, in bytes. It only has to exceed the largest payload measured; a
/// longer claim means that the stream lost its framing.
const LONGEST_PAYLOAD_BYTES: usize = 1024 * 1024;

/// Room for a whole frame of 64 KiB left over from the last read, and for one more read behind it.
const INITIAL_BUFFER_BYTES: usize = 4 * READ_BYTES;

/// Cuts a byte stream into frames without allocating: the buffer is allocated once and grows only
/// for a frame that does not fit into it.
#[derive(Debug)]
pub struct FrameReader {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl FrameReader {
    /// A reader with an empty buffer.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; INITIAL_BUFFER_BYTES],
            start: 0,
            end: 0,
        }
    }

    /// Reads once from `source`, at most [`READ_BYTES`], and returns how much came; zero at the end
    /// of the stream.
    ///
    /// # Errors
    /// The error of the read.
    ///
    /// # Cancel safety
    /// Cancel safe: bytes are either in the buffer or still in the source.
    pub async fn fill<R: AsyncRead + Unpin>(&mut self, source: &mut R) -> io::Result<usize> {
        self.make_room();
        let window = self.end..self.end + READ_BYTES;
        let Some(free) = self.bytes.get_mut(window) else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        let count = source.read(free).await?;
        self.end += count;
        Ok(count)
    }

    /// The next complete frame with its header, or `None` until more bytes are read.
    ///
    /// # Errors
    /// When a header claims more than any measured payload.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>> {
        let Some(unread) = self.bytes.get(self.start..self.end) else {
            return Ok(None);
        };
        let Some((header, rest)) = unread.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let payload_bytes = u32::from_le_bytes(*header) as usize;
        if payload_bytes > LONGEST_PAYLOAD_BYTES {
            bail!("a frame claims {payload_bytes} bytes, so the stream has lost its framing");
        }
        if rest.len() < payload_bytes {
            return Ok(None);
        }
        let frame_bytes = HEADER_BYTES + payload_bytes;
        self.start += frame_bytes;
        Ok(unread.get(..frame_bytes))
    }

    /// As [`next_frame`](Self::next_frame), without the header.
    ///
    /// # Errors
    /// As [`next_frame`](Self::next_frame).
    pub fn next_payload(&mut self) -> Result<Option<&[u8]>> {
        Ok(self
            .next_frame()?
            .and_then(|frame| frame.get(HEADER_BYTES..)))
    }

    fn make_room(&mut self) {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        if self.bytes.len() - self.end < READ_BYTES {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.bytes.len() - self.end < READ_BYTES {
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
    }
}

/// Appends a frame whose payload is written by `fill`, which is given exactly `payload_bytes`
/// zeroed bytes.
pub fn append_frame(target: &mut Vec<u8>, payload_bytes: usize, fill: impl FnOnce(&mut [u8])) {
    let length = u32::try_from(payload_bytes).unwrap_or(u32::MAX);
    target.extend_from_slice(&length.to_le_bytes());
    let start = target.len();
    target.resize(start + payload_bytes, 0);
    if let Some(payload) = target.get_mut(start..) {
        fill(payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_out_as_they_went_in_however_the_stream_is_cut() {
        let sizes = [0, 1, 16, 1024, READ_BYTES, 5 * READ_BYTES, 16];
        let mut stream = Vec::new();
        for size in sizes {
            append_frame(&mut stream, size, |payload| payload.fill(size as u8));
        }
        for cut in [1, 3, 4, 5, 1000, READ_BYTES, stream.len()] {
            let mut reader = FrameReader::new();
            let mut seen = Vec::new();
            for mut chunk in stream.chunks(cut) {
                while reader.fill(&mut chunk).await.unwrap() > 0 {
                    while let Some(payload) = reader.next_payload().unwrap() {
                        assert!(payload.iter().all(|byte| *byte == payload.len() as u8));
                        seen.push(payload.len());
                    }
                }
            }
            assert_eq!(seen, sizes);
        }
    }

    #[tokio::test]
    async fn an_absurd_length_is_an_error() {
        let mut reader = FrameReader::new();
        reader.fill(&mut &u32::MAX.to_le_bytes()[..]).await.unwrap();
        assert!(reader.next_frame().is_err());
    }
}
