//! The stream of bytes that binary messages carry.

use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tungstenite::protocol::frame::coding::{CloseCode, Control};

use super::frames::{Decoder, Event, Goes, Head, Mask, Violation, advanced, apply};
use crate::limits;
use crate::transport::channel::{Channel, VECTORS};
use crate::transport::pool;

/// A WebSocket over another channel. What is sent is divided into messages as it is written; where messages of
/// the peer begin and end does not matter.
///
/// It holds no payload: what the channel has no room for stays with whoever writes. A message that has been
/// begun goes on with what is written next, as all of it is one stream.
pub(in crate::transport) struct WebSocket<C> {
    channel: C,
    reading: Mutex<Reading>,
    writing: Mutex<Writing>,
}

struct Reading {
    decoder: Decoder,
    /// What has arrived behind the handshake.
    early: Vec<u8>,
    /// Nothing is read any more.
    ended: Option<Result<(), Violation>>,
    /// The peer has asked for an answer that may not have been sent.
    owes: bool,
}

struct Writing {
    /// The rest of a header or of a control frame, which goes before everything else.
    held: Vec<u8>,
    /// Bytes of the message that has been begun, and are still to follow.
    left: usize,
    /// The key for them.
    mask: Option<Mask>,
    /// Keys for a client's messages; a bus masks nothing.
    masks: Option<Masks>,
    /// The content of the last ping that has not been answered. RFC 6455 (section 5.5.3) lets the others be.
    pong: Option<Vec<u8>>,
    /// To be said once the message that has been begun is complete.
    close: Option<Close>,
    /// Nothing is sent any more.
    closed: bool,
}

/// What a close says.
struct Close {
    code: Option<u16>,
    reason: &'static str,
}

/// Keys that nobody can foresee, drawn some at a time.
struct Masks {
    drawn: [u8; 64],
    used: usize,
}

impl Masks {
    fn new() -> Self {
        Self { drawn: [0; 64], used: 64 }
    }

    fn next(&mut self) -> io::Result<Mask> {
        if self.used == self.drawn.len() {
            getrandom::fill(&mut self.drawn).map_err(io::Error::other)?;
            self.used = 0;
        }
        let mask = self.drawn.get(self.used..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        self.used += size_of::<Mask>();
        Ok(mask)
    }
}

impl Writing {
    fn mask(&mut self) -> io::Result<Option<Mask>> {
        self.masks.as_mut().map(Masks::next).transpose()
    }

    fn hold_control(&mut self, control: Control, payload: &[u8]) -> io::Result<()> {
        let mask = self.mask()?;
        self.held.extend_from_slice(Head::of_control(control, payload.len(), mask).as_ref());
        let start = self.held.len();
        self.held.extend_from_slice(payload);
        if let (Some(mask), Some(payload)) = (mask, self.held.get_mut(start..)) {
            apply(mask, payload);
        }
        Ok(())
    }
}

impl<C: Channel> WebSocket<C> {
    /// The bus's end, after the handshake.
    pub(super) fn of_server(channel: C) -> Self {
        Self::new(channel, Decoder::new(true), Vec::new(), None)
    }

    /// The client's end, after the handshake, with what has arrived behind it.
    pub(super) fn of_client(channel: C, early: Vec<u8>) -> Self {
        Self::new(channel, Decoder::new(false), early, Some(Masks::new()))
    }

    fn new(channel: C, decoder: Decoder, early: Vec<u8>, masks: Option<Masks>) -> Self {
        let reading = Reading { decoder, early, ended: None, owes: false };
        let writing =
            Writing { held: Vec::new(), left: 0, mask: None, masks, pong: None, close: None, closed: false };
        Self { channel, reading: Mutex::new(reading), writing: Mutex::new(writing) }
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what goes before the next bytes of the stream.
    fn pass_on(&self, writing: &mut Writing) -> io::Result<()> {
        loop {
            while !writing.held.is_empty() {
                let count = self.channel.try_write(&[IoSlice::new(&writing.held)])?;
                writing.held.drain(..count.min(writing.held.len()));
            }
            if writing.left > 0 || writing.closed {
                return Ok(());
            }
            writing.held = Vec::new();
            if let Some(payload) = writing.pong.take() {
                writing.hold_control(Control::Pong, &payload)?;
            } else if let Some(Close { code, reason }) = writing.close.take() {
                let code = code.map(u16::to_be_bytes);
                let payload = [code.as_ref().map_or(&[][..], |code| code), reason.as_bytes()].concat();
                writing.hold_control(Control::Close, &payload)?;
                // What is held still goes.
                writing.closed = true;
            } else {
                return Ok(());
            }
        }
    }

    /// Takes notice of what the peer wants, and answers as far as there is room.
    fn answer(&self, ping: Option<Vec<u8>>, close: Option<Close>) -> io::Result<()> {
        let mut writing = self.writing();
        if !writing.closed {
            writing.pong = ping.or(writing.pong.take());
            writing.close = close.or(writing.close.take());
        }
        match self.pass_on(&mut writing).and_then(|()| self.channel.try_flush()) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    /// Goes on with an answer that there was no room for; `true` when nothing is left of it. Without room the
    /// task is woken when there is.
    fn poll_owed(&self, context: &mut Context<'_>) -> io::Result<bool> {
        loop {
            let mut writing = self.writing();
            let passed = self.pass_on(&mut writing).and_then(|()| self.channel.try_flush());
            // In the middle of a message, whoever writes the rest of it writes the answer behind it.
            let midst = writing.held.is_empty() && writing.left > 0;
            drop(writing);
            match passed {
                Ok(()) => return Ok(!midst),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => match self.channel.poll_room(context) {
                    Poll::Ready(room) => room?,
                    Poll::Pending => return Ok(false),
                },
            }
        }
    }

    /// Writes the next bytes of the stream as they are, behind `head` if a message begins with them.
    fn write_plain(&self, head: Option<&Head>, left: usize, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut parts = [IoSlice::new(&[]); VECTORS + 1];
        let (mut filled, mut room) = (0, left);
        if let (Some(head), Some(part)) = (head, parts.first_mut()) {
            *part = IoSlice::new(head.as_ref());
            filled = 1;
        }
        for slice in slices {
            let Some(part) = parts.get_mut(filled) else { break };
            if room == 0 {
                break;
            }
            *part = IoSlice::new(slice.get(..room).unwrap_or(slice));
            room -= part.len();
            filled += 1;
        }
        self.channel.try_write(parts.get(..filled).unwrap_or_default())
    }

    /// As [`write_plain`](Self::write_plain), masked.
    fn write_masked(
        &self,
        head: Option<&Head>,
        mask: Mask,
        left: usize,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let mut buffer = pool::reading();
        let head = head.map_or(&[][..], Head::as_ref);
        let mut filled = 0;
        let parts = std::iter::once(head).chain(slices.iter().map(|slice| &**slice));
        for part in parts {
            let room = buffer.len().min(head.len() + left) - filled;
            let part = part.get(..room).unwrap_or(part);
            if let Some(place) = buffer.get_mut(filled..filled + part.len()) {
                place.copy_from_slice(part);
            }
            filled += part.len();
        }
        if let Some(payload) = buffer.get_mut(head.len()..filled) {
            apply(mask, payload);
        }
        let written = self.channel.try_write(&[IoSlice::new(buffer.get(..filled).unwrap_or_default())]);
        pool::return_reading(buffer);
        written
    }
}

impl<C: Channel> Channel for WebSocket<C> {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut writing = self.writing();
        self.pass_on(&mut writing)?;
        if writing.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let size: usize = slices.iter().map(|slice| slice.len()).sum();
        if size == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let (head, left, mask) = match writing.left {
            0 => {
                let (length, mask) = (size.min(limits::WEBSOCKET_MESSAGE), writing.mask()?);
                (Some(Head::of_message(length, mask)), length, mask)
            }
            left => (None, left, writing.mask),
        };
        let written = match mask {
            None => self.write_plain(head.as_ref(), left, slices),
            Some(mask) => self.write_masked(head.as_ref(), mask, left, slices),
        }?;
        // From here on the message has begun.
        let head = head.as_ref().map_or(&[][..], Head::as_ref);
        let count = written.saturating_sub(head.len());
        writing.left = left - count;
        writing.mask = mask.map(|mask| advanced(mask, count));
        writing.held.extend_from_slice(head.get(written..).unwrap_or_default());
        if count == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }

    fn try_flush(&self) -> io::Result<()> {
        self.pass_on(&mut self.writing())?;
        self.channel.try_flush()
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.channel.poll_room(context)
    }

    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match reading.ended {
                Some(Ok(())) => return Poll::Ready(Ok(0)),
                Some(Err(Violation { what, .. })) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, format!("WebSocket: {what}"));
                    return Poll::Ready(Err(error));
                }
                None => {}
            }
            if reading.owes {
                reading.owes = !self.poll_owed(context)?;
            }
            let count = if reading.early.is_empty() {
                ready!(self.channel.poll_read(context, buffer))?
            } else {
                let count = reading.early.len().min(buffer.len());
                for (place, byte) in buffer.iter_mut().zip(reading.early.drain(..count)) {
                    *place = byte;
                }
                count
            };
            if count == 0 {
                // Without a close, frames tell whether it was complete.
                return Poll::Ready(Ok(0));
            }
            let filled = self.take(&mut reading, buffer.get_mut(..count).unwrap_or_default())?;
            if filled > 0 {
                return Poll::Ready(Ok(filled));
            }
        }
    }

    fn close(&self) {
        let mut writing = self.writing();
        if !writing.closed && writing.close.is_none() {
            writing.close = Some(Close { code: Some(CloseCode::Normal.into()), reason: "" });
        }
        // Without room, or in the middle of a message, the peer sees the end of the connection alone.
        let _ = self.pass_on(&mut writing);
        writing.closed = true;
        drop(writing);
        self.channel.close();
    }
}

impl<C: Channel> WebSocket<C> {
    /// Takes apart what has been read; returns how much of the stream was in it.
    fn take(&self, reading: &mut Reading, bytes: &mut [u8]) -> io::Result<usize> {
        let (mut ping, mut close) = (None, None);
        let (filled, goes) = reading.decoder.decode(bytes, |event| match event {
            Event::Ping(payload) => ping = Some(payload.to_vec()),
            // The answer repeats the code.
            Event::Close(code) => close = Some(Close { code, reason: "" }),
        });
        match goes {
            Ok(Goes::On) => {}
            Ok(Goes::NoFurther) => reading.ended = Some(Ok(())),
            Err(violation) => {
                let (code, reason) = (Some(violation.code.into()), violation.what);
                close = Some(Close { code, reason });
                reading.ended = Some(Err(violation));
            }
        }
        if ping.is_some() || close.is_some() {
            reading.owes = true;
            self.answer(ping, close)?;
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests;
