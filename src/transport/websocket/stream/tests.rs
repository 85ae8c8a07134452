//! Over a channel that takes as much as a test lets it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Waker;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// One direction of a channel.
#[derive(Default)]
struct Way {
    bytes: VecDeque<u8>,
    /// Bytes that are taken before there is no room.
    room: usize,
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Way {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// One end of a channel in memory.
struct End {
    read: Arc<Mutex<Way>>,
    write: Arc<Mutex<Way>>,
}

fn ends() -> (End, End) {
    let way = || Arc::new(Mutex::new(Way { room: usize::MAX, ..Way::default() }));
    let (there, back) = (way(), way());
    (End { read: Arc::clone(&back), write: Arc::clone(&there) }, End { read: there, write: back })
}

impl End {
    /// From now on so many bytes are taken.
    fn has_room(&self, room: usize) {
        let mut way = self.write.lock().unwrap();
        way.room = room;
        way.wake();
    }
}

impl Channel for End {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut way = self.write.lock().unwrap();
        let mut count = 0;
        for slice in slices {
            let part = slice.len().min(way.room);
            way.bytes.extend(&slice[..part]);
            way.room = way.room.saturating_sub(part);
            count += part;
        }
        way.wake();
        if count == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut way = self.write.lock().unwrap();
        if way.room > 0 {
            return Poll::Ready(Ok(()));
        }
        way.writer = Some(context.waker().clone());
        Poll::Pending
    }

    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut way = self.read.lock().unwrap();
        if way.bytes.is_empty() && !way.ended {
            way.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = way.bytes.len().min(buffer.len());
        for (place, byte) in buffer.iter_mut().zip(way.bytes.drain(..count)) {
            *place = byte;
        }
        Poll::Ready(Ok(count))
    }

    fn close(&self) {
        let mut way = self.write.lock().unwrap();
        way.ended = true;
        way.wake();
    }
}

fn pair() -> (WebSocket<End>, WebSocket<End>) {
    let (client, server) = ends();
    (WebSocket::of_client(client, Vec::new()), WebSocket::of_server(server))
}

/// Reads what there is; `None` at the end.
fn read(socket: &WebSocket<End>, room: usize) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; room];
    match socket.poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
        Poll::Ready(Ok(0)) => Ok(None),
        Poll::Ready(Ok(count)) => Ok(Some(buffer[..count].to_vec())),
        Poll::Ready(Err(error)) => Err(error),
        Poll::Pending => Ok(Some(Vec::new())),
    }
}

/// Writes all of it, with so much room at a time.
fn write(socket: &WebSocket<End>, mut bytes: &[u8], rooms: &[usize]) {
    let mut rooms = rooms.iter().copied().chain(std::iter::repeat(usize::MAX));
    while !bytes.is_empty() {
        socket.channel.has_room(rooms.next().unwrap());
        let (front, back) = bytes.split_at(bytes.len() / 3);
        match socket.try_write(&[IoSlice::new(front), IoSlice::new(back)]) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    socket.channel.has_room(usize::MAX);
    socket.try_flush().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_stream_arrives_whatever_room_there_is_for_it_and_for_reading(
        writes in vec((vec(any::<u8>(), 1..3_000), vec(1..500usize, 0..20)), 1..10),
        rooms in vec(1..2_000usize, 1..20),
        from_client: bool,
    ) {
        let (client, server) = pair();
        let (from, to) = if from_client { (&client, &server) } else { (&server, &client) };
        let mut expected = Vec::new();
        for (bytes, rooms) in &writes {
            write(from, bytes, rooms);
            expected.extend_from_slice(bytes);
        }
        let (mut arrived, mut rooms) = (Vec::new(), rooms.iter().copied().cycle());
        while arrived.len() < expected.len() {
            arrived.extend(read(to, rooms.next().unwrap()).unwrap().unwrap());
        }
        prop_assert_eq!(arrived, expected);
    }
}

#[test]
fn one_large_write_becomes_messages_of_a_bounded_length() {
    let (_client, server) = pair();
    let payload = vec![7; 2 * limits::WEBSOCKET_MESSAGE + 1];
    let mut rest = &payload[..];
    while !rest.is_empty() {
        let count = server.try_write(&[IoSlice::new(rest)]).unwrap();
        assert!(count <= limits::WEBSOCKET_MESSAGE);
        rest = &rest[count..];
    }
}

#[test]
fn a_client_draws_a_new_key_for_each_message() {
    let mut masks = Masks::new();
    let drawn: std::collections::HashSet<_> = (0..100).map(|_| masks.next().unwrap()).collect();
    assert!(drawn.len() > 95, "{} of 100", drawn.len());
}

/// What a server has written, without its reading it.
fn written(socket: &WebSocket<End>) -> Vec<u8> {
    socket.channel.write.lock().unwrap().bytes.drain(..).collect()
}

/// Sends a ping as a client.
fn ping(client: &WebSocket<End>, payload: &[u8]) {
    let mut writing = client.writing();
    writing.hold_control(Control::Ping, payload).unwrap();
    client.pass_on(&mut writing).unwrap();
}

#[test]
fn a_ping_is_answered_between_messages_and_never_within_one() {
    let (client, server) = pair();
    server.channel.has_room(5);
    assert_eq!(server.try_write(&[IoSlice::new(b"a message")]).unwrap(), 3);
    ping(&client, b"now?");
    assert_eq!(read(&server, 100).unwrap(), Some(Vec::new()));
    server.channel.has_room(usize::MAX);
    assert_eq!(server.try_write(&[IoSlice::new(b"essage")]).unwrap(), 6);
    server.try_flush().unwrap();
    assert_eq!(written(&server), b"\x82\x09a message\x8a\x04now?");
}

#[test]
fn of_many_pings_without_room_only_the_last_is_remembered() {
    let (client, server) = pair();
    server.channel.has_room(0);
    for count in 0..1_000u32 {
        ping(&client, &count.to_be_bytes());
        assert_eq!(read(&server, 64 * 1024).unwrap(), Some(Vec::new()));
    }
    assert!(server.writing().held.len() <= 20, "no more than one is on its way");
    server.channel.has_room(usize::MAX);
    server.try_flush().unwrap();
    let answers = written(&server);
    assert!(answers.len() <= 12 && answers.ends_with(&999u32.to_be_bytes()), "{answers:?}");
}

#[tokio::test]
async fn an_answer_that_there_is_no_room_for_goes_when_there_is_although_nothing_else_is_written() {
    let (client, server) = pair();
    server.channel.has_room(0);
    ping(&client, b"later");
    let (server, way) = (Arc::new(server), Arc::clone(&client.channel.read));
    let reader = Arc::clone(&server);
    let task = tokio::spawn(async move {
        let mut buffer = [0; 100];
        poll_fn(|context| reader.poll_read(context, &mut buffer)).await
    });
    tokio::task::yield_now().await;
    assert!(way.lock().unwrap().bytes.is_empty());
    server.channel.has_room(usize::MAX);
    while way.lock().unwrap().bytes.is_empty() {
        tokio::task::yield_now().await;
    }
    client.close();
    assert_eq!(task.await.unwrap().unwrap(), 0);
    assert!(written(&server).starts_with(b"\x8a\x05later"));
}

#[test]
fn a_close_is_answered_with_its_code_and_is_the_end() {
    let (client, server) = pair();
    client.try_write(&[IoSlice::new(b"last words")]).unwrap();
    client.close();
    assert_eq!(read(&server, 100).unwrap().unwrap(), b"last words");
    assert_eq!(read(&server, 100).unwrap(), None);
    assert_eq!(written(&server), [0x88, 2, 3, 232]);
    let error = server.try_write(&[IoSlice::new(b"too late")]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    server.close();
    assert!(written(&server).is_empty(), "it has been said");
}

#[test]
fn a_violation_is_told_with_its_code_after_what_came_before_it() {
    let (_client, server) = pair();
    let masked_text = [0x81, 0x81, 0, 0, 0, 0, b'x'];
    let good = [0x82, 0x81, 0, 0, 0, 0, b'g'];
    server.channel.read.lock().unwrap().bytes.extend([good, masked_text].concat());
    assert_eq!(read(&server, 100).unwrap().unwrap(), b"g");
    let error = read(&server, 100).unwrap_err();
    assert!(error.to_string().contains("text"), "{error}");
    let said = written(&server);
    assert_eq!(said[..4], [0x88, said.len() as u8 - 2, 3, 235], "{said:?}");
}

#[test]
fn a_close_that_comes_in_the_middle_of_a_message_sends_nothing_into_it() {
    let (_client, server) = pair();
    server.channel.has_room(5);
    server.try_write(&[IoSlice::new(b"a message")]).unwrap();
    server.channel.has_room(usize::MAX);
    server.close();
    assert_eq!(written(&server), b"\x82\x09a m");
    assert!(server.channel.write.lock().unwrap().ended);
}

#[test]
fn what_arrives_with_the_handshake_is_read_first() {
    let (client, server) = ends();
    let client = WebSocket::of_client(client, b"\x82\x05ear".to_vec());
    let server = WebSocket::of_server(server);
    server.channel.try_write(&[IoSlice::new(b"ly")]).unwrap();
    assert_eq!(read(&client, 4).unwrap().unwrap(), b"ea");
    assert_eq!(read(&client, 4).unwrap().unwrap(), b"r");
    assert_eq!(read(&client, 4).unwrap().unwrap(), b"ly");
}

#[test]
fn an_idle_end_holds_no_buffer_whatever_it_has_carried() {
    let (client, server) = pair();
    let payload = vec![1; 1024 * 1024];
    for (from, to) in [(&client, &server), (&server, &client)] {
        write(from, &payload, &[1, 10_000, 3]);
        let mut arrived = 0;
        while arrived < payload.len() {
            arrived += read(to, 64 * 1024).unwrap().unwrap().len();
        }
    }
    for socket in [&client, &server] {
        assert_eq!(socket.writing().held.capacity(), 0);
        assert_eq!(socket.reading.lock().unwrap().early.capacity(), 0);
        assert!(size_of::<WebSocket<()>>() <= 512, "{}", size_of::<WebSocket<()>>());
    }
}
