//! The memory transport: links within a process that hand frames over as values.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;

use super::{
    Accepted, Address, Batch, Form, Incoming, Link, LinkReceiver, LinkSender, Listener, Peer, RunInPlace,
    Sent,
};
use crate::auth::Principal;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::Frame;

/// The two ends of a memory link.
///
/// # Examples
/// ```
/// let (bus_end, client_end) = whispeer::transport::memory_pair();
/// assert_eq!(bus_end.sender.form(), whispeer::transport::Form::Values);
/// # drop(client_end);
/// ```
#[must_use]
pub fn memory_pair() -> (Link, Link) {
    let (one, other) = (Arc::new(Pipe::default()), Arc::new(Pipe::default()));
    let link = |out: &Arc<Pipe>, back: &Arc<Pipe>| Link {
        sender: Arc::new(MemorySender { pipe: Arc::clone(out) }),
        receiver: Box::new(MemoryReceiver { pipe: Arc::clone(back) }),
    };
    (link(&one, &other), link(&other, &one))
}

/// One direction of a memory link.
#[derive(Default)]
struct Pipe {
    state: Mutex<PipeState>,
    /// Waits for frames.
    receiver: AtomicWaker,
    /// Takes the frames where they are sent.
    in_place: OnceLock<Weak<dyn RunInPlace>>,
    /// Waits for room.
    sender: AtomicWaker,
}

#[derive(Default)]
struct PipeState {
    frames: VecDeque<Frame>,
    /// Bytes of these frames.
    bytes: usize,
    sender_closed: bool,
    receiver_closed: bool,
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, PipeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PipeState {
    /// Whether so many frames and bytes more are within the bounds.
    fn takes(&self, frames: usize, bytes: usize) -> bool {
        self.frames.len() + frames <= limits::MEMORY_LINK_FRAMES
            && self.bytes + bytes <= limits::MEMORY_LINK_BYTES
    }

    /// Takes frames until one of the bounds is reached; the last one may go past that of the bytes.
    fn fill(&mut self, from: &mut VecDeque<Frame>) {
        while self.frames.len() < limits::MEMORY_LINK_FRAMES && self.bytes < limits::MEMORY_LINK_BYTES {
            let Some(frame) = from.pop_front() else { return };
            self.bytes += frame.content.frame_size();
            self.frames.push_back(frame);
        }
    }
}

struct MemorySender {
    pipe: Arc<Pipe>,
}

impl LinkSender for MemorySender {
    fn form(&self) -> Form {
        Form::Values
    }

    fn try_send(&self, batch: &mut Batch) -> io::Result<Sent> {
        let size = batch.size();
        let Some(frames) = batch.values() else { return Err(io::ErrorKind::InvalidInput.into()) };
        let mut state = self.pipe.lock();
        if state.receiver_closed || state.sender_closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if !state.takes(frames.len(), size) {
            state.fill(frames);
        } else if state.frames.is_empty() {
            std::mem::swap(&mut state.frames, frames);
            state.bytes = size;
        } else {
            state.frames.append(frames);
            state.bytes += size;
        }
        drop(state);
        let sent = if frames.is_empty() { Sent::All } else { Sent::Blocked };
        batch.recount();
        match self.pipe.in_place.get().and_then(Weak::upgrade) {
            Some(task) => task.run(),
            None => self.pipe.receiver.wake(),
        }
        Ok(sent)
    }

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pipe.sender.register(context.waker());
        let state = self.pipe.lock();
        if state.receiver_closed || state.sender_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // Half of the room at once, so that a full pipe does not pass frames one by one.
        let room = state.frames.len() <= limits::MEMORY_LINK_FRAMES / 2
            && state.bytes <= limits::MEMORY_LINK_BYTES / 2;
        if room { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn close(&self) {
        self.pipe.lock().sender_closed = true;
        self.pipe.receiver.wake();
    }
}

impl Drop for MemorySender {
    fn drop(&mut self) {
        self.close();
    }
}

struct MemoryReceiver {
    pipe: Arc<Pipe>,
}

impl LinkReceiver for MemoryReceiver {
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        incoming: &mut Incoming,
    ) -> Poll<io::Result<usize>> {
        let Some(taken) = incoming.values() else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        self.pipe.receiver.register(context.waker());
        let mut state = self.pipe.lock();
        let count = state.frames.len();
        if count == 0 {
            return if state.sender_closed { Poll::Ready(Ok(0)) } else { Poll::Pending };
        }
        if taken.is_empty() {
            std::mem::swap(&mut state.frames, taken);
        } else {
            taken.append(&mut state.frames);
        }
        state.bytes = 0;
        drop(state);
        self.pipe.sender.wake();
        Poll::Ready(Ok(count))
    }

    fn run_in_place(&mut self, task: Weak<dyn RunInPlace>) {
        // A second owner of the same receiver cannot be; the first one stays.
        let _ = self.pipe.in_place.set(task);
    }
}

impl Drop for MemoryReceiver {
    fn drop(&mut self) {
        let frames = {
            let mut state = self.pipe.lock();
            state.receiver_closed = true;
            state.bytes = 0;
            std::mem::take(&mut state.frames)
        };
        drop(frames);
        self.pipe.sender.wake();
    }
}

/// Listeners by name, so that `mem:NAME` can be found from anywhere in the process.
static LISTENERS: LazyLock<Mutex<HashMap<String, Weak<Backlog>>>> = LazyLock::new(Mutex::default);

fn listeners() -> MutexGuard<'static, HashMap<String, Weak<Backlog>>> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Backlog {
    address: Address,
    waiting: Mutex<BacklogState>,
    acceptor: AtomicWaker,
}

#[derive(Default)]
struct BacklogState {
    links: VecDeque<Accepted>,
    closed: bool,
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, BacklogState> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts links from within the process.
pub struct MemoryListener {
    backlog: Arc<Backlog>,
}

impl MemoryListener {
    /// Listens under `name`, or under a name of its own that is printed by its address.
    ///
    /// # Errors
    /// [`BusError::AddressInUse`] when a living listener has the name.
    pub fn bind(name: Option<&str>) -> BusResult<Self> {
        let mut listeners = listeners();
        let name = match name {
            Some(name) => name.to_owned(),
            None => (1..)
                .map(|number| format!("#{number}"))
                .find(|name| !taken(&listeners, name))
                .unwrap_or_default(),
        };
        let address = Address::Memory(name.clone());
        if taken(&listeners, &name) {
            return Err(BusError::AddressInUse { address: address.to_string() });
        }
        let backlog = Arc::new(Backlog { address, waiting: Mutex::default(), acceptor: AtomicWaker::new() });
        listeners.insert(name, Arc::downgrade(&backlog));
        Ok(Self { backlog })
    }

    /// What clients connect with.
    #[must_use]
    pub fn connector(&self) -> MemoryConnector {
        MemoryConnector { backlog: Arc::clone(&self.backlog) }
    }
}

fn taken(listeners: &HashMap<String, Weak<Backlog>>, name: &str) -> bool {
    listeners.get(name).and_then(Weak::upgrade).is_some_and(|backlog| !backlog.lock().closed)
}

impl Listener for MemoryListener {
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        self.backlog.acceptor.register(context.waker());
        match self.backlog.lock().links.pop_front() {
            Some(accepted) => Poll::Ready(Ok(accepted)),
            None => Poll::Pending,
        }
    }

    fn local_addr(&self) -> &Address {
        &self.backlog.address
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        let refused = {
            let mut state = self.backlog.lock();
            state.closed = true;
            std::mem::take(&mut state.links)
        };
        drop(refused);
        if let Address::Memory(name) = &self.backlog.address {
            listeners().remove(name);
        }
    }
}

/// Makes links to one memory listener. Cheap to clone.
#[derive(Clone)]
pub struct MemoryConnector {
    backlog: Arc<Backlog>,
}

impl MemoryConnector {
    /// The connector of the listener with that name in this process.
    ///
    /// # Errors
    /// [`BusError::Connect`] when there is none.
    pub fn find(name: &str) -> BusResult<Self> {
        let backlog = listeners().get(name).and_then(Weak::upgrade);
        backlog.map(|backlog| Self { backlog }).ok_or_else(|| BusError::Connect {
            address: Address::Memory(name.to_owned()).to_string(),
            reason: "no bus of this process listens there".into(),
            source: None,
        })
    }

    /// The address it connects to.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.backlog.address
    }

    /// A link to the bus on which this end acts as [`Principal::Local`].
    ///
    /// # Errors
    /// [`BusError::Connect`] when the bus has stopped or accepts too slowly.
    pub fn connect(&self) -> BusResult<Link> {
        self.connect_as(Principal::Local)
    }

    /// A link to the bus on which this end acts as `principal`.
    ///
    /// # Errors
    /// [`BusError::Connect`] when the bus has stopped or accepts too slowly.
    pub fn connect_as(&self, principal: Principal) -> BusResult<Link> {
        let refuse = |reason: &str| BusError::Connect {
            address: self.backlog.address.to_string(),
            reason: reason.to_owned(),
            source: None,
        };
        let (bus_end, client_end) = memory_pair();
        {
            let mut state = self.backlog.lock();
            if state.closed {
                return Err(refuse("connection refused: the bus has stopped"));
            }
            if state.links.len() >= limits::MEMORY_BACKLOG {
                return Err(refuse("too many connections wait to be accepted; try again"));
            }
            state.links.push_back(Accepted::Open { link: bus_end, peer: Peer::new(principal, "memory") });
        }
        self.backlog.acceptor.wake();
        Ok(client_end)
    }
}

impl fmt::Debug for MemoryConnector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("MemoryConnector").field(&self.backlog.address.to_string()).finish()
    }
}

impl fmt::Debug for MemoryListener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("MemoryListener").field(&self.backlog.address.to_string()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{ContentRef, HEADER_LEN, Header, Kind};

    fn batch(sizes: &[usize]) -> Batch {
        let mut batch = Batch::new(Form::Values);
        for (number, size) in (1..).zip(sizes) {
            let header = Header::new(Kind::Publish, 0, number);
            batch.push(&header, &ContentRef::of_payload(&vec![0; *size - HEADER_LEN]));
        }
        batch
    }

    /// Takes what is in the pipe; returns the numbers of the frames.
    fn receive(link: &mut Link) -> Vec<u64> {
        let mut incoming = Incoming::new(Form::Values, usize::MAX);
        let mut context = Context::from_waker(std::task::Waker::noop());
        let _ = link.receiver.poll_receive(&mut context, &mut incoming);
        let mut numbers = Vec::new();
        while let Some((header, _)) = incoming.next_frame().unwrap() {
            numbers.push(header.sequence);
        }
        numbers
    }

    fn is_ready(link: &Link) -> bool {
        link.sender.poll_ready(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn a_pipe_holds_so_many_bytes_and_blocks_its_sender() {
        const FRAME: usize = 100_000;
        let holds = limits::MEMORY_LINK_BYTES.div_ceil(FRAME);
        let (one, mut other) = memory_pair();
        let mut batch = batch(&[FRAME; 30]);
        let mut received = 0;
        while !batch.is_empty() {
            let sent = one.sender.try_send(&mut batch).unwrap();
            assert_eq!(sent == Sent::Blocked, !batch.is_empty());
            assert!(sent == Sent::All || !is_ready(&one), "it is full");
            let numbers = receive(&mut other);
            assert!(numbers.len() <= holds, "{} bytes", numbers.len() * FRAME);
            assert_eq!(numbers.first(), Some(&(received as u64 + 1)));
            received += numbers.len();
            assert!(is_ready(&one));
        }
        assert_eq!(received, 30);
    }

    #[test]
    fn a_frame_of_any_size_passes_and_what_follows_waits() {
        let (one, mut other) = memory_pair();
        let mut batch = batch(&[3 * limits::MEMORY_LINK_BYTES, 24, 24]);
        assert_eq!(one.sender.try_send(&mut batch).unwrap(), Sent::Blocked);
        assert!(!is_ready(&one));
        assert_eq!(receive(&mut other), [1]);
        assert_eq!(one.sender.try_send(&mut batch).unwrap(), Sent::All);
        assert_eq!(receive(&mut other), [2, 3]);
    }

    #[test]
    fn a_pipe_holds_so_many_frames_however_small() {
        let (one, mut other) = memory_pair();
        let mut batch = batch(&[HEADER_LEN; 2 * limits::MEMORY_LINK_FRAMES + 1]);
        let mut counts = Vec::new();
        while !batch.is_empty() {
            let _ = one.sender.try_send(&mut batch).unwrap();
            counts.push(receive(&mut other).len());
        }
        assert_eq!(counts, [limits::MEMORY_LINK_FRAMES, limits::MEMORY_LINK_FRAMES, 1]);
    }
}
