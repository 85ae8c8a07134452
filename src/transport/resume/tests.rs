//! Two ends over connections that take and give a little at a time and break at any byte.

use std::task::{Wake, Waker};

use proptest::prelude::*;

use super::*;
use crate::proto::ContentRef;

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    /// How much more the writer is taken, and the reader given.
    room: usize,
    ready: usize,
    broken: bool,
}

/// One end of a connection.
struct End {
    out: Arc<Mutex<Pipe>>,
    back: Arc<Mutex<Pipe>>,
}

fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap()
}

impl Channel for End {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut pipe = lock(&self.out);
        if pipe.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut written = 0;
        for slice in slices {
            let count = slice.len().min(pipe.room);
            pipe.bytes.extend(&slice[..count]);
            pipe.room -= count;
            written += count;
        }
        if written == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(written) }
    }

    fn poll_room(&self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let pipe = lock(&self.out);
        if pipe.room > 0 || pipe.broken { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_read(&self, _context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut pipe = lock(&self.back);
        let count = buffer.len().min(pipe.ready).min(pipe.bytes.len());
        if count == 0 {
            return if pipe.broken { Poll::Ready(Ok(0)) } else { Poll::Pending };
        }
        for (to, from) in buffer.iter_mut().zip(pipe.bytes.drain(..count)) {
            *to = from;
        }
        pipe.ready -= count;
        Poll::Ready(Ok(count))
    }

    fn close(&self) {}
}

/// One side: what it sends and what it has got.
struct Side {
    link: Link,
    incoming: Incoming,
    waiting: Batch,
    next: u64,
    got: u64,
}

impl Side {
    fn new(end: End) -> Self {
        let link = link(end);
        link.sender.resumable().unwrap().keep();
        let (incoming, waiting) = (Incoming::new(Form::Bytes, 1 << 20), Batch::new(Form::Bytes));
        Self { link, incoming, waiting, next: 0, got: 0 }
    }

    fn resumable(&self) -> &ResumableLink {
        self.link.sender.resumable().unwrap()
    }

    fn push(&mut self, size: usize) {
        // What the link has not taken goes first, as in the lanes.
        self.next += 1;
        let header = Header::new(Kind::Publish, 0, self.next);
        self.waiting.push(&header, &ContentRef::lent(&[], b"topic", &vec![self.next as u8; size]));
    }

    fn send(&mut self) {
        self.link.sender.try_send(&mut self.waiting).unwrap();
    }

    fn receive(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(read) = self.link.receiver.poll_receive(&mut context, &mut self.incoming) {
            read.unwrap();
            while let Some((header, content)) = self.incoming.next_frame().unwrap() {
                match header.kind {
                    Kind::Publish => {
                        self.got += 1;
                        assert_eq!(header.sequence, self.got);
                        assert!(content.payload().iter().all(|byte| *byte == self.got as u8));
                    }
                    Kind::Confirm => {
                        self.link.sender.resumable().unwrap().confirm(header.sequence).unwrap();
                    }
                    kind => panic!("{kind:?}"),
                }
            }
            self.incoming.settle();
        }
    }
}

struct World {
    sides: [Side; 2],
    pipes: [Arc<Mutex<Pipe>>; 2],
}

fn connection() -> ([End; 2], [Arc<Mutex<Pipe>>; 2]) {
    let pipes = [Arc::default(), Arc::default()];
    let [there, back] = pipes.clone();
    let ends = [End { out: Arc::clone(&there), back: Arc::clone(&back) }, End { out: back, back: there }];
    (ends, pipes)
}

impl World {
    fn new() -> Self {
        let (ends, pipes) = connection();
        Self { sides: ends.map(Side::new), pipes }
    }

    fn allow(&self, direction: usize, amount: usize) {
        let mut pipe = lock(&self.pipes[direction]);
        pipe.room += amount;
        pipe.ready += amount;
    }

    /// Breaks the connection and makes another one; the second end tells the first what it has got in a
    /// preface of a few bytes, as the bus does.
    fn reconnect(&mut self) {
        for pipe in &self.pipes {
            lock(pipe).broken = true;
        }
        let ([first, second], pipes) = connection();
        self.pipes = pipes;
        for side in &mut self.sides {
            side.send();
            side.receive();
            side.resumable().break_off("test");
        }
        let received = self.sides.each_ref().map(|side| side.resumable().received());
        let attached = |channel: End, read: Vec<u8>| Attachment { channel: Arc::new(channel), read };
        assert!(self.sides[1].resumable().attach(attached(second, Vec::new()), received[0], vec![7; 3]));
        self.allow(1, 40);
        self.sides[1].resumable().send();
        // The first end reads the preface, and perhaps more.
        let mut buffer = [0; 30];
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(count)) = first.poll_read(&mut context, &mut buffer) else { panic!() };
        assert_eq!(buffer[..3], [7; 3]);
        assert!(self.sides[0].resumable().attach(
            attached(first, buffer[3..count].to_vec()),
            received[1],
            Vec::new()
        ));
    }
}

/// A waker that counts.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_owner_learns_of_a_loss_that_its_own_sending_found() {
    let (ends, pipes) = connection();
    let mut side = ends.map(Side::new).into_iter().next().unwrap();
    lock(&pipes[0]).broken = true;
    let wakes = Arc::new(Wakes::default());
    // It waits for nothing yet, as in the first turn of its task.
    side.push(10);
    side.send();
    assert!(side.resumable().is_lost());
    let waker = Waker::from(Arc::clone(&wakes));
    for turn in 0..3 {
        let read = side.link.receiver.poll_receive(&mut Context::from_waker(&waker), &mut side.incoming);
        assert!(read.is_pending());
        assert_eq!(
            wakes.0.load(Ordering::Relaxed),
            1,
            "turn {turn}: one more turn, and not one after the other"
        );
    }
}

#[test]
fn confirmations_that_have_not_been_sent_are_one_and_tell_the_last() {
    let mut world = World::new();
    // The second end hears much, and cannot send.
    world.allow(0, usize::MAX / 2);
    for _ in 0..100 {
        world.sides[0].push(100_000);
        world.sides[0].send();
        world.sides[1].receive();
    }
    let (sender, receiver) = (world.sides[0].resumable(), world.sides[1].resumable());
    assert_eq!(receiver.held(), crate::proto::HEADER_LEN);
    let received = receiver.received();
    assert!(received > limits::UNCONFIRMED_BYTES as u64, "{received}");
    world.allow(1, 1024);
    receiver.send();
    assert!(sender.held() > 0);
    world.sides[0].receive();
    let left = world.sides[0].resumable().held() as u64;
    assert!(left <= limits::CONFIRM_BYTES + 200_000, "{left}");
}

#[test]
fn who_confirms_nothing_is_told_nothing_more_beyond_a_bound() {
    let mut world = World::new();
    for pipe in 0..2 {
        world.allow(pipe, usize::MAX / 2);
    }
    // It has heard almost as much as the bound already.
    let before = limits::UNCONFIRMED_CONFIRMS - 10 * crate::proto::HEADER_LEN;
    world.sides[1].resumable().lock().confirmations = before;
    // It reads all that it is told, and goes on sending past its own bound.
    for number in 1..=100_u64 {
        let mut batch = Batch::new(Form::Bytes);
        let header = Header::new(Kind::Publish, 0, number);
        batch.push(&header, &ContentRef::lent(&[], b"topic", &vec![number as u8; 100_000]));
        let mut slices = [IoSlice::new(&[]); VECTORS];
        let filled = batch.slices(&mut slices);
        let mut pipe = lock(&world.pipes[0]);
        slices[..filled].iter().for_each(|slice| pipe.bytes.extend(slice.iter()));
        drop(pipe);
        world.sides[1].receive();
    }
    let held = world.sides[1].resumable().held();
    assert_eq!(held, 10 * crate::proto::HEADER_LEN);
}

proptest! {
    #[test]
    fn whatever_breaks_each_frame_comes_once_and_in_order(
        steps in prop::collection::vec((0..6_u8, 0..2_usize, 0..200_000_usize), 1..120),
    ) {
        let mut world = World::new();
        for (what, side, amount) in steps {
            match what {
                0 | 1 => world.sides[side].push(amount),
                2 => world.allow(side, amount),
                3 => world.sides[side].send(),
                4 => world.sides[side].receive(),
                _ => world.reconnect(),
            }
        }
        world.reconnect();
        for _ in 0..400 {
            for side in 0..2 {
                world.allow(side, 1 << 16);
                world.sides[side].send();
                world.sides[1 - side].receive();
            }
        }
        prop_assert_eq!(world.sides[0].got, world.sides[1].next);
        prop_assert_eq!(world.sides[1].got, world.sides[0].next);
    }
}
