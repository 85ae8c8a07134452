//! A peer of a bus that speaks in frames prepared beforehand.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use whispeer::BusHandle;
use whispeer::auth::Principal;
use whispeer::proto::fields::FieldsBuilder;
use whispeer::proto::{ContentRef, Flags, Header, Hello, Kind, Lane};
use whispeer::transport::Peer as Other;

use crate::wire::Wire;

/// Polls of the bus's tasks that a handshake may take; it takes a handful.
const HANDSHAKE_POLLS: usize = 1_000;

/// One session of a bus, over a [`Wire`].
#[derive(Debug)]
pub struct Peer {
    wire: Arc<Wire>,
    published: u64,
}

impl Peer {
    /// Connects to the bus and waits for its welcome.
    ///
    /// # Errors
    /// When the bus does not welcome the peer.
    pub async fn connect(bus: &BusHandle) -> Result<Self> {
        let wire = Arc::new(Wire::default());
        bus.attach(wire.link(), Other::new(Principal::Local, "wire"))?;
        let hello = Hello::default().encode();
        wire.begin(frame(&Header::new(Kind::Hello, 0, 0), &[], "", &hello));
        for _ in 0..HANDSHAKE_POLLS {
            if wire.is_served() {
                ensure!(
                    wire.last_kind() == Some(Kind::Welcome),
                    "the bus gave no welcome"
                );
                // The task can be run in place from its first poll on.
                tokio::task::yield_now().await;
                return Ok(Self { wire, published: 0 });
            }
            tokio::task::yield_now().await;
        }
        bail!("the bus did not take the link over");
    }

    /// Subscribes to a pattern, with a window of so many messages.
    ///
    /// # Errors
    /// When the bus refuses.
    pub fn subscribe(&self, id: u32, pattern: &str, window: (u32, u64)) -> Result<()> {
        self.begin(Kind::Subscribe, id, pattern, window)
    }

    /// Serves a topic, with a window of so many requests.
    ///
    /// # Errors
    /// When the bus refuses.
    pub fn serve(&self, id: u32, topic: &str, window: (u32, u64)) -> Result<()> {
        self.begin(Kind::Serve, id, topic, window)
    }

    fn begin(&self, kind: Kind, id: u32, text: &str, (messages, bytes): (u32, u64)) -> Result<()> {
        let mut fields = FieldsBuilder::new();
        fields.window(messages, bytes)?;
        let frame = frame(&Header::new(kind, id, 0), fields.as_bytes(), text, &[]);
        let size = frame.len();
        self.load(frame);
        self.give(size);
        ensure!(
            self.wire.last_kind() == Some(Kind::Accepted),
            "the bus refused {kind:?} of {text}"
        );
        Ok(())
    }

    /// Appends the frame of this peer's next publish.
    pub fn append_publish(&mut self, frames: &mut Vec<u8>, topic: &str, payload: &[u8]) {
        self.published += 1;
        append_frame(
            frames,
            &Header::new(Kind::Publish, 0, self.published),
            &[],
            topic,
            payload,
        );
    }

    /// Lays out the frames that are to be given next.
    pub fn load(&self, frames: Vec<u8>) {
        self.wire.load(frames);
    }

    /// Gives the next `count` bytes of what was loaded to the bus, which handles them before this
    /// returns.
    pub fn give(&self, count: usize) {
        self.wire.give(count);
    }

    /// As [`give`](Self::give) of one frame, to which a sequence is given first.
    pub fn give_numbered(&self, count: usize, sequence: u64) {
        self.wire.number_next(sequence);
        self.wire.give(count);
    }

    /// Bytes that the bus has sent to this peer.
    pub fn received(&self) -> u64 {
        self.wire.sent()
    }

    /// The sequence of the frame that the bus sent last, where it sends one at a time.
    pub fn last_sequence(&self) -> u64 {
        self.wire.last_sequence()
    }
}

/// The frame that widens a window again by so many messages and bytes.
pub fn credit(lane: Lane, id: u32, messages: u32, bytes: u64) -> Vec<u8> {
    let header = Header::new(Kind::Credit, messages, u64::from(id)).flagged(Flags(lane as u8));
    frame(&header, &[], "", &bytes.to_le_bytes())
}

/// One frame.
pub fn frame(header: &Header, fields: &[u8], topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    append_frame(&mut bytes, header, fields, topic, payload);
    bytes
}

/// Appends one frame.
pub fn append_frame(
    bytes: &mut Vec<u8>,
    header: &Header,
    fields: &[u8],
    topic: &str,
    payload: &[u8],
) {
    bytes.extend_from_slice(&header.encode(fields.len(), topic.len(), payload.len()));
    bytes.extend_from_slice(fields);
    bytes.extend_from_slice(topic.as_bytes());
    bytes.extend_from_slice(payload);
}

/// Bytes of a frame without fields.
pub fn frame_bytes(topic: &str, payload: &[u8]) -> u64 {
    ContentRef::lent(&[], topic.as_bytes(), payload).frame_size() as u64
}
