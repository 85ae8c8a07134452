//! WebSocket's framing (RFC 6455, section 5): what a peer sends becomes a stream of bytes where it was read.
//!
//! Nothing is kept but where in a frame the stream is: how the bytes are divided into messages means nothing
//! here, so a message is handed on as it arrives, whatever its length, and an idle connection has no buffer.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// Bytes of the longest header of a frame.
const HEADER_LIMIT: usize = 14;

/// Bytes of the longest payload of a ping, a pong or a close (RFC 6455, section 5.5).
pub(super) const CONTROL_LIMIT: usize = 125;

/// The key that a payload is masked with.
pub(super) type Mask = [u8; 4];

/// What a peer did against the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) code: CloseCode,
    pub(super) what: &'static str,
}

impl Violation {
    const fn protocol(what: &'static str) -> Self {
        Self { code: CloseCode::Protocol, what }
    }
}

/// What a peer wants beside sending bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// An answer with the same payload.
    Ping(&'a [u8]),
    /// To end the connection, with this code if it named one.
    Close(Option<u16>),
}

/// Takes frames apart.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Whether the peer has to mask what it sends: clients must, and servers must not.
    masked: bool,
    /// The beginning of a header whose rest has not arrived.
    head: [u8; HEADER_LIMIT],
    head_len: usize,
    /// The frame whose payload is arriving.
    frame: Option<Frame>,
    /// A message has begun, and its last frame has not.
    in_message: bool,
    /// The beginning of a control frame's payload.
    control: [u8; CONTROL_LIMIT],
    control_len: usize,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    mask: Option<Mask>,
    /// Bytes of the payload that have not arrived.
    left: u64,
    /// `None` for data.
    control: Option<Control>,
}

impl Decoder {
    /// For what a client sends (`masked`), or what a server does.
    pub(super) fn new(masked: bool) -> Self {
        Self {
            masked,
            head: [0; HEADER_LIMIT],
            head_len: 0,
            frame: None,
            in_message: false,
            control: [0; CONTROL_LIMIT],
            control_len: 0,
        }
    }

    /// Takes apart what has arrived: the data in it is moved to the front of `bytes`. Returns how much that is,
    /// and what ended it, if the peer is not to be listened to any further.
    pub(super) fn decode(
        &mut self,
        bytes: &mut [u8],
        mut event: impl FnMut(Event<'_>),
    ) -> (usize, Result<Goes, Violation>) {
        let (mut at, mut filled) = (0, 0);
        while at < bytes.len() || self.frame.is_some_and(|frame| frame.left == 0) {
            let Some(frame) = &mut self.frame else {
                match self.take_header(bytes.get(at..).unwrap_or_default()) {
                    Ok(taken) => at += taken,
                    Err(violation) => return (filled, Err(violation)),
                }
                continue;
            };
            let arrived = bytes.len() - at;
            let count = usize::try_from(frame.left).unwrap_or(usize::MAX).min(arrived);
            frame.left -= count as u64;
            let ended = frame.left == 0;
            let (mask, control) = (frame.mask, frame.control);
            if let Some(frame) = &mut self.frame {
                // The next byte meets the next byte of the key.
                frame.mask = mask.map(|mask| advanced(mask, count));
            }
            match control {
                None => {
                    bytes.copy_within(at..at + count, filled);
                    if let (Some(mask), Some(data)) = (mask, bytes.get_mut(filled..filled + count)) {
                        apply(mask, data);
                    }
                    filled += count;
                }
                Some(_) => {
                    let part = bytes.get(at..at + count).unwrap_or_default();
                    if let Some(place) = self.control.get_mut(self.control_len..self.control_len + count) {
                        place.copy_from_slice(part);
                        if let Some(mask) = mask {
                            apply(mask, place);
                        }
                        self.control_len += count;
                    }
                }
            }
            at += count;
            if ended {
                self.frame = None;
                match self.end_of_frame(control, &mut event) {
                    Ok(Goes::On) => {}
                    other => return (filled, other),
                }
            }
        }
        (filled, Ok(Goes::On))
    }

    /// Takes as much of a header as there is; returns how many bytes that was.
    fn take_header(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let before = self.head_len;
        let count = bytes.len().min(HEADER_LIMIT - before);
        let (part, place) = (bytes.get(..count), self.head.get_mut(before..before + count));
        if let (Some(part), Some(place)) = (part, place) {
            place.copy_from_slice(part);
        }
        let mut cursor = Cursor::new(self.head.get(..before + count).unwrap_or_default());
        let parsed = FrameHeader::parse(&mut cursor)
            .map_err(|_| Violation::protocol("a frame has an unknown sort of content"))?;
        let Some((header, length)) = parsed else {
            self.head_len = before + count;
            return Ok(count);
        };
        let taken = usize::try_from(cursor.position()).unwrap_or(HEADER_LIMIT).saturating_sub(before);
        self.head_len = 0;
        self.frame = Some(self.check(&header, length)?);
        self.control_len = 0;
        Ok(taken)
    }

    fn check(&mut self, header: &FrameHeader, length: u64) -> Result<Frame, Violation> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Violation::protocol("a frame uses an extension, and none was agreed on"));
        }
        if length >> 63 != 0 {
            return Err(Violation::protocol("the length of a frame is over its bound"));
        }
        match (self.masked, header.mask.is_some()) {
            (true, false) => return Err(Violation::protocol("a client has to mask its frames")),
            (false, true) => return Err(Violation::protocol("a server must not mask its frames")),
            _ => {}
        }
        let control = match header.opcode {
            OpCode::Control(control) => {
                if !header.is_final || length > CONTROL_LIMIT as u64 {
                    return Err(Violation::protocol("a control frame is divided, or longer than 125 bytes"));
                }
                Some(control)
            }
            OpCode::Data(data) => {
                match (data, self.in_message) {
                    (Data::Binary, false) | (Data::Continue, true) => {}
                    (Data::Text, false) => {
                        let what = "messages have to be binary; this is a text";
                        return Err(Violation { code: CloseCode::Unsupported, what });
                    }
                    _ => return Err(Violation::protocol("messages are not sent one after the other")),
                }
                self.in_message = !header.is_final;
                None
            }
        };
        Ok(Frame { mask: header.mask, left: length, control })
    }

    fn end_of_frame(
        &mut self,
        control: Option<Control>,
        event: &mut impl FnMut(Event<'_>),
    ) -> Result<Goes, Violation> {
        let payload = self.control.get(..self.control_len).unwrap_or_default();
        match (control, payload) {
            (Some(Control::Ping), payload) => event(Event::Ping(payload)),
            (Some(Control::Close), []) => {
                event(Event::Close(None));
                return Ok(Goes::NoFurther);
            }
            (Some(Control::Close), [high, low, reason @ ..]) => {
                let code = u16::from_be_bytes([*high, *low]);
                if !CloseCode::from(code).is_allowed() || std::str::from_utf8(reason).is_err() {
                    return Err(Violation::protocol("a close gives a reason that is none"));
                }
                event(Event::Close(Some(code)));
                return Ok(Goes::NoFurther);
            }
            (Some(Control::Close), _) => return Err(Violation::protocol("a close gives half a reason")),
            _ => {}
        }
        Ok(Goes::On)
    }
}

/// Whether more may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goes {
    /// It may.
    On,
    /// The peer has said that nothing will.
    NoFurther,
}

/// The key for what follows the next `count` bytes.
pub(super) fn advanced(mut mask: Mask, count: usize) -> Mask {
    mask.rotate_left(count % size_of::<Mask>());
    mask
}

/// Masks `bytes`, or takes the mask off again.
pub(super) fn apply(mask: Mask, bytes: &mut [u8]) {
    let [first, second, third, fourth] = mask;
    let word = u64::from_ne_bytes([first, second, third, fourth, first, second, third, fourth]);
    let (words, rest) = bytes.as_chunks_mut();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// The header of a frame, and the bytes of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    bytes: [u8; HEADER_LIMIT],
    len: usize,
}

impl Head {
    /// Of a whole binary message of `length` bytes, which is masked with `mask`.
    pub(super) fn of_message(length: usize, mask: Option<Mask>) -> Self {
        Self::new(OpCode::Data(Data::Binary), length, mask)
    }

    /// Of a control frame.
    pub(super) fn of_control(control: Control, length: usize, mask: Option<Mask>) -> Self {
        Self::new(OpCode::Control(control), length, mask)
    }

    fn new(opcode: OpCode, length: usize, mask: Option<Mask>) -> Self {
        let header = FrameHeader { opcode, mask, is_final: true, ..FrameHeader::default() };
        let mut bytes = [0; HEADER_LIMIT];
        let mut rest = &mut bytes[..];
        // It has room for the longest header.
        let _ = header.format(length as u64, &mut rest);
        let len = HEADER_LIMIT - rest.len();
        Self { bytes, len }
    }
}

impl AsRef<[u8]> for Head {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
