//! What arrives, put together to messages.

use std::io::Cursor;
use std::mem::take;
use std::sync::Arc;

use bytes::Bytes;
use tungstenite::Utf8Bytes;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::{CONTROL_LIMIT, Fault};
use crate::received::{Budget, Claim, Exhausted, append};

/// Bytes of the longest header of a frame.
const HEADER_LIMIT: usize = 14;

/// Bytes of the key that a payload is masked with.
const MASK_BYTES: usize = 4;

/// A message, or what stands in the place of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Text(Utf8Bytes),
    Binary(Bytes),
    Ping(Bytes),
    Pong,
    /// With the code, if it names one.
    Close(Option<u16>),
}

/// Takes frames apart, and puts messages together.
pub(super) struct Reader {
    /// Bytes that a message may have.
    limit: usize,
    /// The beginning of a header whose rest has not arrived.
    head: [u8; HEADER_LIMIT],
    head_len: usize,
    /// The frame whose payload is arriving.
    frame: Option<Frame>,
    /// The kind of the message that has begun, and not ended.
    kind: Option<Kind>,
    /// As much of it as has arrived.
    message: Vec<u8>,
    /// As much of a control frame's payload, which may come between the frames of a message.
    control: Vec<u8>,
    claim: Claim,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    /// The key that the next byte meets first.
    mask: [u8; MASK_BYTES],
    /// Bytes of the payload that have not arrived.
    left: usize,
    is_final: bool,
    /// `None` for data.
    control: Option<Control>,
}

impl From<Exhausted> for Fault {
    fn from(_: Exhausted) -> Self {
        Self::Busy
    }
}

impl Reader {
    pub(super) fn new(limit: usize, budget: &Arc<Budget>) -> Self {
        Self {
            limit,
            head: [0; HEADER_LIMIT],
            head_len: 0,
            frame: None,
            kind: None,
            message: Vec::new(),
            control: Vec::new(),
            claim: Claim::new(budget),
        }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    pub(super) fn is_midway(&self) -> bool {
        self.kind.is_some()
    }

    /// Whoever had the message before is done with it: its room is free for others.
    pub(super) fn release(&mut self) {
        if self.kind.is_none() {
            self.claim.clear();
        }
    }

    /// Takes as many bytes as the next message ends with, or all. Returns how many those were, and the message.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(usize, Option<Received>), Fault> {
        let mut at = 0;
        while at < bytes.len() || self.frame.is_some_and(|frame| frame.left == 0) {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(mut frame) = self.frame else {
                at += self.take_header(rest)?;
                continue;
            };
            let part = rest.get(..frame.left).unwrap_or(rest);
            let whole = match frame.control {
                None => {
                    let more = if frame.is_final { frame.left } else { usize::MAX };
                    let expected = self.limit.min(self.message.len().saturating_add(more));
                    append(&mut self.message, part, expected, &mut self.claim)?;
                    &mut self.message
                }
                Some(_) => {
                    self.control.extend_from_slice(part);
                    &mut self.control
                }
            };
            let begin = whole.len() - part.len();
            unmask(frame.mask, whole.get_mut(begin..).unwrap_or_default());
            frame.mask.rotate_left(part.len() % MASK_BYTES);
            frame.left -= part.len();
            at += part.len();
            self.frame = Some(frame);
            if frame.left == 0 {
                self.frame = None;
                if let Some(received) = self.end_of_frame(frame)? {
                    return Ok((at, Some(received)));
                }
            }
        }
        Ok((at, None))
    }

    /// Takes as much of a header as there is; returns how many bytes that was.
    fn take_header(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let before = self.head_len;
        let count = bytes.len().min(HEADER_LIMIT - before);
        let (part, place) = (bytes.get(..count), self.head.get_mut(before..before + count));
        if let (Some(part), Some(place)) = (part, place) {
            place.copy_from_slice(part);
        }
        let mut cursor = Cursor::new(self.head.get(..before + count).unwrap_or_default());
        let parsed = FrameHeader::parse(&mut cursor)
            .map_err(|_| Fault::Protocol("a frame has an unknown sort of content"))?;
        let Some((header, length)) = parsed else {
            self.head_len = before + count;
            return Ok(count);
        };
        let taken = usize::try_from(cursor.position()).unwrap_or(HEADER_LIMIT).saturating_sub(before);
        self.head_len = 0;
        self.frame = Some(self.begin(&header, length)?);
        Ok(taken)
    }

    /// Begins a frame, if it may be there.
    fn begin(&mut self, header: &FrameHeader, length: u64) -> Result<Frame, Fault> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Fault::Protocol("a frame uses an extension, and none was agreed on"));
        }
        let Some(mask) = header.mask else {
            return Err(Fault::Protocol("a client has to mask its frames"));
        };
        let left = usize::try_from(length).unwrap_or(usize::MAX);
        let control = match header.opcode {
            OpCode::Control(Control::Reserved(_)) | OpCode::Data(Data::Reserved(_)) => {
                return Err(Fault::Protocol("a frame has an unknown sort of content"));
            }
            OpCode::Control(control) => {
                if !header.is_final || left > CONTROL_LIMIT {
                    return Err(Fault::Protocol("a control frame is divided, or longer than 125 bytes"));
                }
                Some(control)
            }
            OpCode::Data(data) => {
                self.kind = Some(match (data, self.kind) {
                    (Data::Text, None) => Kind::Text,
                    (Data::Binary, None) => Kind::Binary,
                    (Data::Continue, Some(kind)) => kind,
                    _ => return Err(Fault::Protocol("messages are not sent one after the other")),
                });
                if left > self.limit.saturating_sub(self.message.len()) {
                    return Err(Fault::TooLarge);
                }
                None
            }
        };
        Ok(Frame { mask, left, is_final: header.is_final, control })
    }

    fn end_of_frame(&mut self, frame: Frame) -> Result<Option<Received>, Fault> {
        let Some(control) = frame.control else {
            let Some(kind) = self.kind.filter(|_| frame.is_final) else { return Ok(None) };
            self.kind = None;
            let message = Bytes::from(take(&mut self.message));
            return match kind {
                Kind::Text => Utf8Bytes::try_from(message).map(Received::Text).map_err(|_| Fault::Text),
                Kind::Binary => Ok(Received::Binary(message)),
            }
            .map(Some);
        };
        let payload = take(&mut self.control);
        Ok(Some(match control {
            Control::Ping => Received::Ping(payload.into()),
            Control::Close => Received::Close(code_of(&payload)?),
            _ => Received::Pong,
        }))
    }
}

/// The code of a close.
fn code_of(payload: &[u8]) -> Result<Option<u16>, Fault> {
    let [high, low, reason @ ..] = payload else {
        return match payload {
            [] => Ok(None),
            _ => Err(Fault::Protocol("a close gives half a reason")),
        };
    };
    let code = u16::from_be_bytes([*high, *low]);
    match CloseCode::from(code).is_allowed() && str::from_utf8(reason).is_ok() {
        true => Ok(Some(code)),
        false => Err(Fault::Protocol("a close gives a reason that is none")),
    }
}

/// Takes the mask off, eight bytes at a time.
fn unmask(mask: [u8; MASK_BYTES], bytes: &mut [u8]) {
    let key = u32::from_ne_bytes(mask);
    let word = u64::from(key) << 32 | u64::from(key);
    let (words, rest) = bytes.as_chunks_mut();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
impl Reader {
    /// Bytes that it keeps room for, on the heap.
    pub(super) fn kept(&self) -> usize {
        self.message.capacity() + self.control.capacity()
    }
}
