//! Whatever the peer makes of the stream, and however it arrives, the same bytes come out; and tungstenite
//! agrees on what is allowed.

use std::io::{self, Read, Write};

use proptest::collection::vec;
use proptest::prelude::*;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

use super::*;

/// What came of some bytes: the data, the events, and the end if there was one.
#[derive(Debug, PartialEq, Eq, Default)]
struct Decoded {
    data: Vec<u8>,
    pings: Vec<Vec<u8>>,
    close: Option<Option<u16>>,
    violated: bool,
}

/// Decodes bytes that arrive in parts of these lengths, and then as a whole.
fn decoded(bytes: &[u8], masked: bool, parts: &[usize]) -> Decoded {
    let mut decoder = Decoder::new(masked);
    let mut all = Decoded::default();
    let mut rest = bytes;
    let mut parts = parts.iter().copied().chain(std::iter::repeat(usize::MAX));
    while !rest.is_empty() {
        let (part, left) = rest.split_at(parts.next().unwrap().clamp(1, rest.len()));
        rest = left;
        let mut part = part.to_vec();
        let (pings, close) = (&mut all.pings, &mut all.close);
        let (filled, goes) = decoder.decode(&mut part, |event| match event {
            Event::Ping(payload) => pings.push(payload.to_vec()),
            Event::Close(code) => *close = Some(code),
        });
        all.data.extend_from_slice(&part[..filled]);
        match goes {
            Ok(Goes::On) => {}
            Ok(Goes::NoFurther) => break,
            Err(_) => {
                all.violated = true;
                break;
            }
        }
    }
    all
}

/// A frame as a peer may send it, well made or not.
#[derive(Debug, Clone)]
struct Sent {
    opcode: u8,
    is_final: bool,
    reserved: bool,
    mask: Option<Mask>,
    payload: Vec<u8>,
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes =
            vec![self.opcode | if self.is_final { 0x80 } else { 0 } | if self.reserved { 0x40 } else { 0 }];
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        match self.payload.len() {
            length @ ..126 => bytes.push(masked | length as u8),
            length @ ..65_536 => {
                bytes.push(masked | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                bytes.push(masked | 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        match self.mask {
            None => bytes.extend_from_slice(&self.payload),
            Some(mask) => {
                bytes.extend_from_slice(&mask);
                bytes.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
            }
        }
        bytes
    }
}

/// Any frame, most of them good ones of a client.
fn any_frame() -> impl Strategy<Value = Sent> {
    let opcode = prop_oneof![
        6 => Just(2), 3 => Just(0), 2 => Just(9), 1 => Just(10), 1 => Just(8), 1 => 0..16u8
    ];
    let payload = prop_oneof![8 => vec(any::<u8>(), 0..200), 1 => (any::<u8>(), 65_530..65_540usize).prop_map(|(byte, length)| vec![byte; length])];
    let mask = prop::option::weighted(0.97, any::<Mask>());
    (opcode, prop::bool::weighted(0.7), prop::bool::weighted(0.02), mask, payload).prop_map(
        |(opcode, is_final, reserved, mask, payload)| Sent { opcode, is_final, reserved, mask, payload },
    )
}

/// A stream of bytes, divided into messages, these into frames, with pings between them.
fn any_division() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, usize)> {
    let frame = (vec(any::<u8>(), 0..300), any::<bool>(), any::<Mask>(), prop::bool::weighted(0.2));
    vec(frame, 0..20).prop_map(|frames| {
        let (mut data, mut bytes, mut pings) = (Vec::new(), Vec::new(), 0);
        let (mut begun, last) = (false, frames.len().saturating_sub(1));
        for (index, (payload, is_final, mask, ping)) in frames.into_iter().enumerate() {
            let is_final = is_final || index == last;
            data.extend_from_slice(&payload);
            let opcode = if begun { 0 } else { 2 };
            bytes.extend(Sent { opcode, is_final, reserved: false, mask: Some(mask), payload }.bytes());
            begun = !is_final;
            if ping {
                let payload = b"still there?".to_vec();
                bytes.extend(
                    Sent { opcode: 9, is_final: true, reserved: false, mask: Some(mask), payload }.bytes(),
                );
                pings += 1;
            }
        }
        (data, bytes, pings)
    })
}

/// What tungstenite says of a stream that then stands still.
struct Fixed<'a>(&'a [u8]);

impl Read for Fixed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Fixed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The messages, pings and end as tungstenite sees them. A text is none, and ends it.
fn by_tungstenite(bytes: &[u8]) -> Decoded {
    let config = WebSocketConfig::default().read_buffer_size(4096);
    let mut socket = WebSocket::from_raw_socket(Fixed(bytes), Role::Server, Some(config));
    let mut all = Decoded::default();
    loop {
        match socket.read() {
            Ok(Message::Binary(data)) => all.data.extend_from_slice(&data),
            Ok(Message::Ping(payload)) => all.pings.push(payload.to_vec()),
            Ok(Message::Close(frame)) => {
                all.close = Some(frame.map(|frame| frame.code.into()));
                return all;
            }
            Ok(Message::Pong(_)) => {}
            Ok(Message::Text(_) | Message::Frame(_)) => {
                all.violated = true;
                return all;
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return all,
            Err(_) => {
                all.violated = true;
                return all;
            }
        }
    }
}

proptest! {
    #[test]
    fn any_division_into_messages_frames_and_reads_gives_the_same_bytes(
        (data, bytes, pings) in any_division(),
        parts in vec(1..400usize, 0..40),
    ) {
        let all = decoded(&bytes, true, &parts);
        prop_assert_eq!(all.data, data);
        prop_assert_eq!(all.pings.len(), pings);
        prop_assert!(!all.violated && all.close.is_none());
    }

    #[test]
    fn what_arrives_byte_by_byte_is_what_arrives_at_once(frames in vec(any_frame(), 0..8)) {
        let bytes: Vec<u8> = frames.iter().flat_map(Sent::bytes).collect();
        let single = vec![1; bytes.len().min(2_000)];
        prop_assert_eq!(decoded(&bytes, true, &single), decoded(&bytes, true, &[]));
    }

    #[test]
    fn tungstenite_sees_the_same_messages_and_the_same_violations(
        frames in vec(any_frame(), 0..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes: Vec<u8> = frames.iter().flat_map(Sent::bytes).collect();
        // A text is refused by its header here, and there by this test where it ends.
        let text = frames.iter().any(|frame| frame.opcode == 1);
        let (ours, theirs) = (decoded(&bytes, true, &[]), by_tungstenite(&bytes));
        // It takes a close with a code that is none for a close.
        let closed = ours.violated && theirs.close.is_some();
        prop_assert!(text || closed || ours.violated == theirs.violated, "{:?} {:?}", ours, theirs);
        // It hands on whole messages; here one is handed on as far as it has arrived.
        prop_assert!(ours.data.starts_with(&theirs.data));
        if !text && !closed {
            prop_assert_eq!(ours.pings, theirs.pings);
            prop_assert_eq!(ours.close.is_some(), theirs.close.is_some());
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let (ours, theirs) = (decoded(&bytes, true, &[]), by_tungstenite(&bytes));
        // Here a header is refused before its payload has arrived.
        prop_assert!(text || ours.violated || !theirs.violated, "{:?} {:?}", ours, theirs);
        prop_assert!(ours.data.starts_with(&theirs.data));
    }

    #[test]
    fn noise_never_panics(bytes in vec(any::<u8>(), 0..400), masked: bool) {
        decoded(&bytes, masked, &[1, 2, 3]);
    }

    #[test]
    fn a_mask_taken_twice_is_none_wherever_it_is_taken_up_again(
        data in vec(any::<u8>(), 0..100),
        mask: Mask,
        at in any::<prop::sample::Index>(),
    ) {
        let at = at.index(data.len() + 1);
        let mut masked = data.clone();
        apply(mask, &mut masked);
        let (front, back) = masked.split_at_mut(at);
        apply(mask, front);
        apply(advanced(mask, at), back);
        prop_assert_eq!(masked, data);
    }

    #[test]
    fn a_header_is_what_tungstenite_reads(length in prop_oneof![0..200usize, 65_500..65_600usize], mask: Option<Mask>) {
        let head = Head::of_message(length, mask);
        let mut cursor = Cursor::new(head.as_ref());
        let (header, read) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
        prop_assert_eq!((header.mask, read as usize, cursor.position() as usize), (mask, length, head.as_ref().len()));
    }
}

#[test]
fn what_is_against_the_protocol_is_named_with_its_code() {
    let good =
        Sent { opcode: 2, is_final: true, reserved: false, mask: Some([1, 2, 3, 4]), payload: vec![7] };
    for (frame, code, what) in [
        (Sent { opcode: 1, ..good.clone() }, CloseCode::Unsupported, "text"),
        (Sent { mask: None, ..good.clone() }, CloseCode::Protocol, "mask"),
        (Sent { reserved: true, ..good.clone() }, CloseCode::Protocol, "extension"),
        (Sent { opcode: 9, is_final: false, ..good.clone() }, CloseCode::Protocol, "control"),
        (Sent { opcode: 9, payload: vec![0; 126], ..good.clone() }, CloseCode::Protocol, "control"),
        (Sent { opcode: 0, ..good.clone() }, CloseCode::Protocol, "one after the other"),
        (Sent { opcode: 3, ..good.clone() }, CloseCode::Protocol, "unknown"),
        (Sent { opcode: 8, ..good.clone() }, CloseCode::Protocol, "half a reason"),
        (Sent { opcode: 8, payload: vec![3, 237], ..good.clone() }, CloseCode::Protocol, "reason"),
    ] {
        // What came before is not lost.
        let mut bytes = [good.bytes(), frame.bytes()].concat();
        let (filled, goes) = Decoder::new(true).decode(&mut bytes, |_| {});
        let violation = goes.unwrap_err();
        assert_eq!((filled, violation.code), (1, code), "{frame:?}");
        assert!(violation.what.contains(what), "{}", violation.what);
    }
    let masked = good.bytes();
    assert!(Decoder::new(false).decode(&mut masked.clone(), |_| {}).1.is_err());
}

#[test]
fn a_length_over_its_bound_is_refused_before_anything_else_arrives() {
    let mut bytes = vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    assert!(Decoder::new(true).decode(&mut bytes, |_| {}).1.is_err());
}
