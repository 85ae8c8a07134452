//! What the two ends of a tunnel tell each other, as messages of NATS.
//!
//! ```text
//!  0        1          9          17         25         33         41
//!  +--------+----------+----------+----------+----------+----------+------------
//!  | kind   | bus      | epoch    | number   | sent     | taken    | data
//!  +--------+----------+----------+----------+----------+----------+------------
//! ```
//!
//! All numbers are little-endian. `bus`, `epoch` and `number` are the end that sends; `sent` is how many messages with data it has sent, this one
//! included, and `taken` how many of the other end's have been read there.

use bytes::{BufMut as _, Bytes, BytesMut};

/// Bytes before the data.
pub(super) const HEAD: usize = 41;

/// One end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) bus: u64,
    /// Which of its bus's connections to NATS it was made by.
    pub(super) epoch: u64,
    /// Which of the ends of its bus it is.
    pub(super) number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Who has this consumer is to open a tunnel: said to all.
    Open = 1,
    /// It is open: the first that the other end says.
    Accept = 2,
    Data = 3,
    /// How far an end is, where it has nothing else to say.
    State = 4,
    /// The last that an end says.
    Close = 5,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) kind: Kind,
    pub(super) from: End,
    pub(super) sent: u64,
    pub(super) taken: u64,
    pub(super) data: Bytes,
}

/// Which consumer a tunnel is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) epoch: [u8; 16],
    pub(super) stream: String,
    pub(super) consumer: String,
}

impl Note {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEAD + self.data.len());
        bytes.put_u8(self.kind as u8);
        for number in [self.from.bus, self.from.epoch, self.from.number, self.sent, self.taken] {
            bytes.put_u64_le(number);
        }
        bytes.put_slice(&self.data);
        bytes.freeze()
    }

    /// `None` for what is no such message.
    pub(super) fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.len() < HEAD {
            return None;
        }
        let data = bytes.split_off(HEAD);
        let kind = match bytes.first()? {
            1 => Kind::Open,
            2 => Kind::Accept,
            3 => Kind::Data,
            4 => Kind::State,
            5 => Kind::Close,
            _ => return None,
        };
        let (numbers, _) = bytes.get(1..)?.as_chunks::<8>();
        let &[bus, epoch, number, sent, taken] = numbers else { return None };
        let [bus, epoch, number, sent, taken] = [bus, epoch, number, sent, taken].map(u64::from_le_bytes);
        Some(Self { kind, from: End { bus, epoch, number }, sent, taken, data })
    }
}

impl Wanted {
    /// The epoch of the stream, the length of its name in one byte, its name, and the consumer.
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_slice(&self.epoch);
        // Names have no more bytes than that.
        bytes.put_u8(u8::try_from(self.stream.len()).unwrap_or(u8::MAX));
        bytes.put_slice(self.stream.as_bytes());
        bytes.put_slice(self.consumer.as_bytes());
        bytes.freeze()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (epoch, rest) = bytes.split_first_chunk::<16>()?;
        let (length, rest) = rest.split_first()?;
        let (stream, consumer) = rest.split_at_checked(usize::from(*length))?;
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        Some(Self { epoch: *epoch, stream: text(stream)?, consumer: text(consumer)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_again(numbers: [u64; 5], data: Vec<u8>) {
            let [bus, epoch, number, sent, taken] = numbers;
            for kind in [Kind::Open, Kind::Accept, Kind::Data, Kind::State, Kind::Close] {
                let from = End { bus, epoch, number };
                let note = Note { kind, from, sent, taken, data: data.clone().into() };
                prop_assert_eq!(Note::decode(note.encode()), Some(note));
            }
        }

        #[test]
        fn anything_else_is_no_note_and_harms_nothing(bytes: Vec<u8>) {
            let _ = Wanted::decode(&bytes);
            if let Some(note) = Note::decode(bytes.clone().into()) {
                prop_assert_eq!(note.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_consumer_is_named_by_its_stream_and_that_ones_epoch() {
        let wanted =
            Wanted { epoch: *b"0123456789abcdef", stream: "orders".into(), consumer: "printers".into() };
        assert_eq!(Wanted::decode(&wanted.encode()), Some(wanted));
        assert_eq!(Wanted::decode(b"0123456789abcdef\x07orders"), None);
    }
}
