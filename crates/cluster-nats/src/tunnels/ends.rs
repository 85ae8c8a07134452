//! One end of a tunnel: what is to be sent, what has come, and whether anything is missing. It has no clock and no socket.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::{Buf as _, Bytes, BytesMut};

use super::wire::{End, Kind, Note};
use crate::limits;

/// Why a tunnel has ended without a word of either end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("a message between two buses was lost: number {came} came in place of {expected}")]
    Hole { expected: u64, came: u64 },
    #[error("the other bus has lost its connection to NATS")]
    PeerMoved,
    #[error("the other bus is gone")]
    PeerGone,
    #[error("the other bus was silent for too long")]
    Silent,
    #[error("the other bus has sent more than it may")]
    Overrun,
    #[error("this bus has lost its connection to NATS")]
    Moved,
}

/// How far an end is.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) own: End,
    /// The other end, once it is known.
    pub(super) peer: Option<End>,
    /// What is to be sent.
    outgoing: BytesMut,
    /// Messages with data that were sent, and how many of them the other end has read.
    sent: u64,
    read_there: u64,
    /// What has come and has not been read.
    incoming: VecDeque<Bytes>,
    /// Messages with data that have come, how many of them have been read, and how many of these the other end knows of.
    received: u64,
    taken: u64,
    told: u64,
    /// How often the other end was heard.
    pub(super) heard: u64,
    /// It is to say first that it is open.
    is_to_accept: bool,
    /// This side has sent all that it wanted to.
    pub(super) is_closing: bool,
    /// Nothing goes out any more.
    pub(super) has_closed: bool,
    /// The other side has said its last.
    pub(super) peer_closed: bool,
    pub(super) broken: Option<Broken>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Ends {
    /// An end that waits for another one, or has been asked to open by this one.
    pub(super) fn new(own: End, peer: Option<End>) -> Self {
        Self {
            own,
            peer,
            outgoing: BytesMut::new(),
            sent: 0,
            read_there: 0,
            incoming: VecDeque::new(),
            received: 0,
            taken: 0,
            told: 0,
            heard: 0,
            is_to_accept: peer.is_some(),
            is_closing: false,
            has_closed: false,
            peer_closed: false,
            broken: None,
            reader: None,
            writer: None,
        }
    }

    /// Bytes that may be written now.
    pub(super) fn room(&self) -> usize {
        limits::TUNNEL_OUTGOING_BYTES.saturating_sub(self.outgoing.len())
    }

    /// Takes what is to be sent, no more than there is [room](Self::room) for.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
    }

    /// Reads what has come; `None` where nothing has.
    pub(super) fn read(&mut self, most: usize) -> Option<Bytes> {
        let first = self.incoming.front_mut()?;
        let bytes = first.split_to(first.len().min(most));
        if !first.has_remaining() {
            self.incoming.pop_front();
            self.taken += 1;
        }
        Some(bytes)
    }

    /// Whether it has ended in both directions, or is broken.
    pub(super) fn is_over(&self) -> bool {
        self.has_closed || self.peer_closed || self.broken.is_some()
    }

    /// What is to be said next, if anything is; with `beat`, that the end is there if it has nothing else to say. Data goes in parts of
    /// `chunk` bytes at the most.
    pub(super) fn next_note(&mut self, chunk: usize, beat: bool) -> Option<Note> {
        if self.is_over() || self.peer.is_none() {
            return None;
        }
        let may_send = self.sent - self.read_there < limits::TUNNEL_WINDOW;
        let (kind, data) = if std::mem::take(&mut self.is_to_accept) {
            (Kind::Accept, Bytes::new())
        } else if !self.outgoing.is_empty() && may_send {
            self.sent += 1;
            let length = self.outgoing.len().min(chunk);
            (Kind::Data, self.outgoing.split_to(length).freeze())
        } else if self.is_closing && self.outgoing.is_empty() {
            self.has_closed = true;
            (Kind::Close, Bytes::new())
        } else if beat || self.taken - self.told >= limits::TUNNEL_WINDOW / 2 {
            (Kind::State, Bytes::new())
        } else {
            return None;
        };
        self.told = self.taken;
        Some(Note { kind, from: self.own, sent: self.sent, taken: self.taken, data })
    }

    /// Takes what the other end has said.
    ///
    /// # Errors
    /// That something is missing, or is not what it may say: nothing goes on then.
    pub(super) fn take(&mut self, note: Note) -> Result<(), Broken> {
        match self.peer {
            None if note.kind == Kind::Accept => self.peer = Some(note.from),
            Some(peer) if (peer.bus, peer.number) != (note.from.bus, note.from.number) => return Ok(()),
            Some(peer) if peer.epoch == note.from.epoch => {}
            Some(_) => return Err(Broken::PeerMoved),
            None => return Ok(()),
        }
        let expected = self.received + u64::from(note.kind == Kind::Data);
        if note.sent != expected {
            return Err(Broken::Hole { expected, came: note.sent });
        }
        if note.taken > self.sent {
            return Err(Broken::Overrun);
        }
        self.heard += 1;
        self.read_there = self.read_there.max(note.taken);
        match note.kind {
            Kind::Data if note.data.is_empty() || self.received - self.taken >= limits::TUNNEL_WINDOW => {
                return Err(Broken::Overrun);
            }
            Kind::Data => {
                self.received += 1;
                self.incoming.push_back(note.data);
            }
            Kind::Close => self.peer_closed = true,
            Kind::Open | Kind::Accept | Kind::State => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(bus: u64) -> End {
        End { bus, epoch: 1, number: bus + 10 }
    }

    /// Two ends of an open tunnel: who has asked, and who has accepted.
    fn open() -> (Ends, Ends) {
        let (mut one, mut other) = (Ends::new(end(1), None), Ends::new(end(2), Some(end(1))));
        let accept = other.next_note(100, false).unwrap();
        assert_eq!(accept.kind, Kind::Accept);
        one.take(accept).unwrap();
        assert_eq!(one.peer, Some(end(2)));
        (one, other)
    }

    /// Carries all that one end has to say to the other.
    fn carry(from: &mut Ends, to: &mut Ends) -> usize {
        let mut notes = 0;
        while let Some(note) = from.next_note(100, false) {
            to.take(note).unwrap();
            notes += 1;
        }
        notes
    }

    fn read_all(end: &mut Ends) -> Vec<u8> {
        std::iter::from_fn(|| end.read(7)).flatten().collect()
    }

    #[test]
    fn bytes_go_both_ways_in_their_order_and_in_parts() {
        let (mut one, mut other) = open();
        let bytes: Vec<u8> = (0..=255).cycle().take(1_000).collect();
        one.write(&bytes);
        other.write(b"and back");
        assert_eq!((carry(&mut one, &mut other), carry(&mut other, &mut one)), (10, 1));
        assert_eq!(read_all(&mut other), bytes);
        assert_eq!(read_all(&mut one), b"and back");
    }

    #[test]
    fn no_more_is_under_way_than_the_window_and_it_goes_on_when_that_is_read() {
        let (mut one, mut other) = open();
        let window = usize::try_from(limits::TUNNEL_WINDOW).unwrap();
        one.write(&vec![7; (window + 3) * 100]);
        assert_eq!(carry(&mut one, &mut other), window);
        assert_eq!(read_all(&mut other).len(), window * 100);
        assert_eq!(carry(&mut other, &mut one), 1, "it says that it has read them");
        assert_eq!(carry(&mut one, &mut other), 3);
        // One who sends more all the same is not listened to any more.
        let (mut one, mut other) = open();
        for number in 1..=limits::TUNNEL_WINDOW + 1 {
            one.write(b"x");
            one.read_there = one.sent;
            let taken = other.take(one.next_note(100, false).unwrap());
            let is_more = number > limits::TUNNEL_WINDOW;
            assert_eq!(taken, if is_more { Err(Broken::Overrun) } else { Ok(()) });
        }
    }

    #[test]
    fn what_is_missing_breaks_it_also_where_nothing_follows() {
        let (mut one, mut other) = open();
        one.write(b"lost");
        one.next_note(100, false).unwrap();
        one.write(b"next");
        let next = one.next_note(100, false).unwrap();
        assert_eq!(other.take(next), Err(Broken::Hole { expected: 1, came: 2 }));
        let (mut one, mut other) = open();
        one.write(b"lost");
        one.next_note(100, false).unwrap();
        assert_eq!(one.next_note(100, false), None, "it has nothing to say");
        let beat = one.next_note(100, true).unwrap();
        assert_eq!(other.take(beat), Err(Broken::Hole { expected: 0, came: 1 }));
        // A message that comes twice is not in its order either.
        let (mut one, mut other) = open();
        one.write(b"twice");
        let note = one.next_note(100, false).unwrap();
        other.take(note.clone()).unwrap();
        assert_eq!(other.take(note), Err(Broken::Hole { expected: 2, came: 1 }));
    }

    #[test]
    fn another_epoch_breaks_it_and_what_is_of_another_end_is_left_out() {
        let (mut one, mut other) = open();
        one.own.epoch = 2;
        one.write(b"x");
        assert_eq!(other.take(one.next_note(100, false).unwrap()), Err(Broken::PeerMoved));
        let (mut stranger, mut other) = (open().0, open().1);
        stranger.own.number = 99;
        stranger.write(b"x");
        other.take(stranger.next_note(100, false).unwrap()).unwrap();
        assert_eq!(read_all(&mut other), b"");
        // Nobody is listened to before one has accepted.
        let mut new = Ends::new(end(1), None);
        let (_, mut speaks) = open();
        speaks.write(b"x");
        new.take(speaks.next_note(100, false).unwrap()).unwrap();
        assert_eq!((new.peer, read_all(&mut new).len()), (None, 0));
    }

    #[test]
    fn one_that_is_closed_sends_the_rest_first() {
        let (mut one, mut other) = open();
        one.write(b"the last");
        one.is_closing = true;
        assert_eq!(carry(&mut one, &mut other), 2);
        assert!(one.is_over() && other.is_over());
        assert_eq!(read_all(&mut other), b"the last");
        assert_eq!(one.next_note(100, true), None);
    }
}
