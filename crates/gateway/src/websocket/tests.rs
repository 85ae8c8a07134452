//! What a client sends and is sent, frame by frame, and what is kept of it.

use std::io::IoSlice;

use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tungstenite::protocol::frame::{Frame, FrameHeader};

use super::*;

const TEXT: OpCode = OpCode::Data(Data::Text);
const MORE: OpCode = OpCode::Data(Data::Continue);
const PING: OpCode = OpCode::Control(Control::Ping);
const CLOSE: OpCode = OpCode::Control(Control::Close);

/// A frame as a client sends it.
fn frame(opcode: OpCode, is_final: bool, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader { opcode, is_final, mask: Some([1, 2, 3, 4]), ..FrameHeader::default() };
    let mut bytes = Vec::new();
    Frame::from_payload(header, payload.to_vec().into()).format(&mut bytes).unwrap();
    bytes
}

/// A frame as a server sends it.
fn sent(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader { opcode, is_final: true, ..FrameHeader::default() };
    let mut bytes = Vec::new();
    Frame::from_payload(header, payload.to_vec().into()).format(&mut bytes).unwrap();
    bytes
}

/// A socket, and the client's end of its connection, in which there is room for so many bytes.
fn pair(room: usize) -> (WebSocket<DuplexStream>, DuplexStream) {
    let (stream, client) = duplex(room);
    (WebSocket::new(stream, Bytes::new(), 1 << 20, &Budget::new(1 << 22)), client)
}

async fn next(socket: &mut WebSocket<DuplexStream>) -> Result<Option<Message>, Fault> {
    poll_fn(|context| socket.poll_next(context)).await
}

/// What comes of these bytes, however they arrive.
async fn heard(bytes: &[u8]) -> Vec<Message> {
    let (mut socket, mut client) = pair(1 << 22);
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let mut all = Vec::new();
    while let Some(message) = next(&mut socket).await.unwrap() {
        all.push(message);
    }
    all
}

fn text(text: &str) -> Message {
    Message::Text(text.into())
}

#[tokio::test]
async fn messages_come_as_they_were_sent_whole_or_in_parts() {
    let bytes = [
        frame(TEXT, true, "grüße".as_bytes()),
        frame(OpCode::Data(Data::Binary), true, &[0, 255]),
        frame(TEXT, false, b"one "),
        frame(PING, true, b"in between"),
        frame(MORE, false, b""),
        frame(MORE, true, b"message"),
        frame(TEXT, true, b""),
        frame(OpCode::Control(Control::Pong), true, b"unasked"),
    ];
    let expected = [
        text("grüße"),
        Message::Binary(Bytes::from_static(&[0, 255])),
        Message::Ping,
        text("one message"),
        text(""),
        Message::Pong,
    ];
    assert_eq!(heard(&bytes.concat()).await, expected);
}

proptest! {
    #[test]
    fn it_is_the_same_however_the_bytes_are_divided(
        texts in prop::collection::vec((".{0,300}", 1_usize..4), 1..8),
        cuts in prop::collection::vec(1_usize..40, 1..40),
    ) {
        let mut bytes = Vec::new();
        for (text, parts) in &texts {
            let parts: Vec<&[u8]> = text.as_bytes().chunks((text.len() / parts).max(1)).collect();
            let last = parts.len().saturating_sub(1);
            for (number, part) in parts.iter().enumerate() {
                bytes.extend(frame(if number == 0 { TEXT } else { MORE }, number == last, part));
            }
            if parts.is_empty() {
                bytes.extend(frame(TEXT, true, b""));
            }
        }
        let mut reader = Reader::new(1 << 20, &Budget::new(0));
        let (mut rest, mut heard) = (&bytes[..], Vec::new());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let part = &rest[..rest.len().min(*cut)];
            let (count, received) = reader.take(part).unwrap();
            rest = &rest[count..];
            if let Some(Received::Text(text)) = received {
                heard.push(text.to_string());
            }
        }
        let expected: Vec<String> = texts.into_iter().map(|(text, _)| text).collect();
        prop_assert_eq!(heard, expected);
    }

    #[test]
    fn whatever_arrives_is_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut reader = Reader::new(100, &Budget::new(0));
        let mut rest = &bytes[..];
        while let Ok((count, received)) = reader.take(rest) {
            if received.is_none() {
                break;
            }
            rest = &rest[count..];
        }
    }
}

#[tokio::test]
async fn what_breaks_the_rules_is_an_error_and_nothing_that_follows_is_looked_at() {
    let (reserved, unmasked) = (OpCode::Data(Data::Reserved(5)), sent(TEXT, b"x"));
    let compressed = {
        let mut bytes = frame(TEXT, true, b"x");
        bytes[0] |= 0x40;
        bytes
    };
    let broken = [
        ("a reserved opcode", frame(reserved, true, b"x")),
        ("a reserved opcode of control", frame(OpCode::Control(Control::Reserved(11)), true, b"")),
        ("no mask", unmasked),
        ("an extension", compressed),
        ("what goes on with nothing", frame(MORE, true, b"x")),
        ("a message in another", [frame(TEXT, false, b"x"), frame(TEXT, true, b"y")].concat()),
        ("a divided ping", frame(PING, false, b"")),
        ("a long ping", frame(PING, true, &[0; 126])),
        ("half a code", frame(CLOSE, true, &[3])),
        ("a code that is none", frame(CLOSE, true, &1005_u16.to_be_bytes())),
        ("a reason that is no text", frame(CLOSE, true, &[3, 232, 0xff])),
    ];
    for (what, bytes) in broken {
        let (mut socket, mut client) = pair(1 << 10);
        client.write_all(&[&bytes[..], &frame(TEXT, true, b"behind")].concat()).await.unwrap();
        client.shutdown().await.unwrap();
        let heard = next(&mut socket).await;
        assert!(matches!(heard, Err(Fault::Protocol(_))), "{what}: {heard:?}");
        assert_eq!(next(&mut socket).await.unwrap(), None, "{what}");
    }
    let (mut socket, mut client) = pair(1 << 10);
    client.write_all(&frame(TEXT, true, b"\xff")).await.unwrap();
    assert!(matches!(next(&mut socket).await, Err(Fault::Text)));
}

#[tokio::test]
async fn a_message_over_its_bound_is_refused_before_it_has_come() {
    let budget = Budget::new(1 << 20);
    for bytes in [
        frame(TEXT, true, &[b'x'; 101])[..8].to_vec(),
        [frame(TEXT, false, &[b'x'; 60]), frame(MORE, true, &[b'x'; 41])[..6].to_vec()].concat(),
        // It says that it has 2⁶³ - 1 bytes.
        [&[0x81, 0xff, 0x7f][..], &[0xff; 7], &[0; 4]].concat(),
        [&[0x81, 0xff][..], &[0xff; 8], &[0; 4]].concat(),
    ] {
        let (stream, mut client) = duplex(1 << 10);
        let mut socket = WebSocket::new(stream, Bytes::new(), 100, &budget);
        client.write_all(&bytes).await.unwrap();
        assert!(matches!(next(&mut socket).await, Err(Fault::TooLarge)), "{bytes:?}");
    }
    let (stream, mut client) = duplex(1 << 10);
    let mut socket = WebSocket::new(stream, Bytes::new(), 100, &budget);
    socket.set_limit(101);
    client.write_all(&frame(TEXT, true, &[b'x'; 101])).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap(), Some(text(&"x".repeat(101))));
}

#[tokio::test]
async fn messages_that_do_not_come_to_their_end_share_one_budget() {
    let long = frame(TEXT, true, &[b'x'; 60_000]);
    let (half, rest) = long.split_at(40_000);
    let budget = Budget::new(100_000);
    let open = || {
        let (stream, client) = duplex(1 << 17);
        (WebSocket::new(stream, Bytes::new(), 1 << 20, &budget), client)
    };
    let mut first = open();
    first.1.write_all(half).await.unwrap();
    assert!(poll_once(&mut first.0).await.is_none() && first.0.is_midway());

    let mut second = open();
    second.1.write_all(half).await.unwrap();
    assert!(matches!(poll_once(&mut second.0).await, Some(Err(Fault::Busy))));
    let mut short = open();
    short.1.write_all(&frame(TEXT, true, b"short ones find room")).await.unwrap();
    assert_eq!(next(&mut short.0).await.unwrap(), Some(text("short ones find room")));

    first.1.write_all(rest).await.unwrap();
    assert!(matches!(next(&mut first.0).await, Ok(Some(Message::Text(_)))));
    // Until the next is asked for, somebody may still be busy with it.
    let mut third = open();
    third.1.write_all(half).await.unwrap();
    assert!(poll_once(&mut third.0).await.is_some_and(|heard| matches!(heard, Err(Fault::Busy))));
    let mut third = open();
    third.1.write_all(half).await.unwrap();
    assert!(poll_once(&mut first.0).await.is_none(), "it waits for the next, which may never come");
    assert!(poll_once(&mut third.0).await.is_none() && third.0.is_midway());
}

/// Puts a text to what is written, when there is room for it.
async fn feed(socket: &mut WebSocket<DuplexStream>, text: Bytes) {
    socket.ready().await.unwrap();
    socket.push(text);
}

async fn poll_once(socket: &mut WebSocket<DuplexStream>) -> Option<Result<Option<Message>, Fault>> {
    poll_fn(|context| match socket.poll_next(context) {
        Poll::Ready(next) => Poll::Ready(Some(next)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn texts_leave_in_their_order_however_long_they_are_and_however_little_is_taken() {
    let texts: Vec<Bytes> = [3, 0, 125, 126, 20_000, 7, 65_535, 65_536, 9, 8_192, 8_191, 200_000, 1]
        .into_iter()
        .map(|length| Bytes::from(vec![b'x'; length]))
        .collect();
    let expected: Vec<u8> = texts.iter().flat_map(|text| sent(TEXT, text)).collect();
    for room in [61, 4096, 1 << 20] {
        let (mut socket, mut client) = pair(room);
        let write = async {
            for text in &texts {
                feed(&mut socket, text.clone()).await;
            }
            socket.flush().await.unwrap();
        };
        let read = async {
            let mut bytes = vec![0; expected.len()];
            client.read_exact(&mut bytes).await.unwrap();
            bytes
        };
        let ((), bytes) = tokio::join!(write, read);
        assert!(bytes == expected, "with room for {room}");
        assert!(socket.writer.is_empty());
        assert_eq!(socket.kept(), 0);
    }
}

#[tokio::test]
async fn nothing_is_kept_of_what_has_been_written_and_read() {
    let (mut socket, mut client) = pair(1 << 22);
    for _ in 0..100 {
        feed(&mut socket, Bytes::from(vec![b'x'; 10_000])).await;
    }
    feed(&mut socket, Bytes::from(vec![b'x'; 1 << 20])).await;
    socket.flush().await.unwrap();
    client.write_all(&[frame(TEXT, true, &[b'x'; 1 << 20]), frame(PING, true, b"x")].concat()).await.unwrap();
    let message = next(&mut socket).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap(), Some(Message::Ping));
    drop(message);
    assert!(poll_once(&mut socket).await.is_none());
    assert_eq!(socket.kept(), 0);
}

#[tokio::test]
async fn what_waits_is_bounded_whoever_does_not_read() {
    let (mut socket, mut client) = pair(64);
    let mut fed = 0;
    while feed(&mut socket, Bytes::from(vec![b'x'; 1000])).now_or_never().is_some() {
        fed += 1;
    }
    assert_eq!(fed, limits::SOCKET_WRITE_BYTES / 1000 + 1);
    assert_eq!(socket.waiting(), fed);
    // Of many pings the last one that has not been answered is.
    for number in 0..50_u8 {
        client.write_all(&frame(PING, true, &[number])[..3]).await.unwrap();
        let _ = poll_once(&mut socket).await;
        client.write_all(&frame(PING, true, &[number])[3..]).await.unwrap();
        assert_eq!(next(&mut socket).await.unwrap(), Some(Message::Ping));
    }
    assert!(socket.writer.len() < limits::SOCKET_WRITE_BYTES + 1100);
    let read = async {
        let mut bytes = Vec::new();
        while !bytes.ends_with(&[0x8a, 1, 49]) {
            bytes.push(client.read_u8().await.unwrap());
        }
        bytes
    };
    let bytes = tokio::select! {
        bytes = read => bytes,
        ended = socket.flush() => panic!("not all is read: {ended:?}"),
    };
    assert_eq!(bytes.len(), 1004 + 3, "behind the frame that was under way, and before the others");
}

#[tokio::test]
async fn a_close_is_answered_with_its_code_and_nothing_follows_it() {
    let (mut socket, mut client) = pair(1 << 10);
    let reason = [&4000_u16.to_be_bytes()[..], b"bye"].concat();
    client.write_all(&frame(CLOSE, true, &reason)).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap(), Some(Message::Close));
    feed(&mut socket, Bytes::from_static(b"too late")).await;
    socket.ping();
    socket.flush().await.unwrap();
    drop(socket);
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, sent(CLOSE, &4000_u16.to_be_bytes()));
}

#[tokio::test]
async fn what_has_come_with_the_request_is_heard() {
    let (stream, _client) = duplex(64);
    let early = Bytes::from(frame(TEXT, true, b"early"));
    let mut socket = WebSocket::new(stream, early, 100, &Budget::new(0));
    assert_eq!(next(&mut socket).await.unwrap(), Some(text("early")));
}

/// Takes some bytes of each write, from a few slices.
struct Sparing {
    written: Vec<u8>,
    turn: usize,
}

impl AsyncWrite for Sparing {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.turn += 1;
        let count = bytes.len().min(1 + self.turn * 37 % 5000);
        self.written.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.turn += 1;
        let bytes = slices.iter().map(|slice| &**slice).collect::<Vec<_>>().concat();
        let count = bytes.len().min(1 + self.turn * 37 % 5000);
        self.written.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

proptest! {
    #[test]
    fn frames_are_whole_however_much_each_write_takes(
        lengths in prop::collection::vec(prop_oneof![0_usize..300, 8_000_usize..8_400, 0_usize..40_000], 1..20),
        turn in 0_usize..1000,
    ) {
        let mut writer = Writer::default();
        let mut expected = Vec::new();
        for (number, length) in lengths.iter().enumerate() {
            let payload = vec![number as u8; *length];
            expected.extend(sent(TEXT, &payload));
            writer.push(TEXT, payload.into());
        }
        prop_assert_eq!(writer.len(), expected.len());
        let mut stream = Sparing { written: Vec::new(), turn };
        let mut context = Context::from_waker(std::task::Waker::noop());
        let written = writer.poll_write(Pin::new(&mut stream), &mut context);
        prop_assert!(matches!(written, Poll::Ready(Ok(()))));
        prop_assert!(stream.written == expected);
    }
}
