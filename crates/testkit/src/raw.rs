//! A peer that speaks in frames, and may say what no client would.

use std::future::poll_fn;
use std::io;

use bytes::Bytes;
use whispeer::proto::{ContentRef, Header, Hello, Kind, Refusal, Welcome};
use whispeer::transport::{Batch, Incoming, Link, Sent};
use whispeer::{BusError, BusResult};

/// One end of a link, in the hands of a test.
#[derive(Debug)]
pub struct RawPeer {
    link: Link,
    incoming: Incoming,
    batch: Batch,
    publishes: u64,
}

/// A frame that arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its header.
    pub header: Header,
    /// Its topic.
    pub topic: Bytes,
    /// Its fields: headers and options.
    pub fields: Bytes,
    /// Its payload.
    pub payload: Bytes,
}

impl RawPeer {
    /// A peer that has said nothing yet.
    #[must_use]
    pub fn new(link: Link) -> Self {
        let form = link.sender.form();
        Self { link, incoming: Incoming::new(form, usize::MAX), batch: Batch::new(form), publishes: 0 }
    }

    /// A peer that has been welcomed.
    ///
    /// # Errors
    /// What the bus refused it with.
    pub async fn welcomed(link: Link) -> BusResult<(Self, Welcome)> {
        Self::greeted(link, &Hello { name: "raw".into(), ..Hello::default() }).await
    }

    /// A peer that has been welcomed when it said this.
    ///
    /// # Errors
    /// What the bus refused it with.
    pub async fn greeted(link: Link, hello: &Hello) -> BusResult<(Self, Welcome)> {
        let mut peer = Self::new(link);
        peer.send(&Header::new(Kind::Hello, 0, 0), "", &hello.encode()).await.map_err(broken)?;
        loop {
            match peer.receive().await.map_err(broken)? {
                None => return Err(BusError::Disconnected { reason: "closed without a word".into() }),
                Some(frame) if frame.header.kind == Kind::Welcome => {
                    return Ok((peer, Welcome::decode(&frame.payload)?));
                }
                Some(frame) if frame.header.kind == Kind::Goodbye => {
                    return Err(Refusal::decode(&frame.payload)?.into_error());
                }
                Some(_) => {}
            }
        }
    }

    /// Queues a frame.
    pub fn push(&mut self, header: &Header, topic: &str, payload: &[u8]) {
        self.batch.push(header, &ContentRef::lent(&[], topic.as_bytes(), payload));
    }

    /// Queues a frame with a field section.
    pub fn push_with(&mut self, header: &Header, fields: &[u8], topic: &[u8], payload: &[u8]) {
        self.batch.push(header, &ContentRef::lent(fields, topic, payload));
    }

    /// Queues a publish with the next sequence.
    pub fn push_publish(&mut self, topic: &str, payload: &[u8]) {
        self.publishes += 1;
        self.push(&Header::new(Kind::Publish, 0, self.publishes), topic, payload);
    }

    /// Sends a frame and all that is queued before it.
    ///
    /// # Errors
    /// The link's error.
    pub async fn send(&mut self, header: &Header, topic: &str, payload: &[u8]) -> io::Result<()> {
        self.push(header, topic, payload);
        self.flush().await
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// The link's error.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.batch.is_empty() {
            if self.link.sender.try_send(&mut self.batch)? == Sent::Blocked {
                poll_fn(|context| self.link.sender.poll_ready(context)).await?;
            }
        }
        Ok(())
    }

    /// The next frame; `None` at the end of the link.
    ///
    /// # Errors
    /// The link's error, or that of a frame that is none.
    pub async fn receive(&mut self) -> io::Result<Option<Received>> {
        loop {
            if let Some((header, content)) = self.incoming.next_frame().map_err(io::Error::other)? {
                return Ok(Some(Received {
                    header,
                    topic: Bytes::copy_from_slice(content.topic),
                    fields: Bytes::copy_from_slice(content.fields),
                    payload: Bytes::copy_from_slice(content.payload()),
                }));
            }
            let Self { link, incoming, .. } = self;
            if poll_fn(|context| link.receiver.poll_receive(context, incoming)).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads until the bus says why it ends the connection. Without a word it is [`BusError::Closed`].
    pub async fn goodbye(&mut self) -> BusError {
        loop {
            match self.receive().await {
                Ok(Some(frame)) if frame.header.kind == Kind::Goodbye => {
                    return Refusal::decode(&frame.payload).map_or_else(Into::into, Refusal::into_error);
                }
                Ok(Some(_)) => {}
                Ok(None) => return BusError::Closed { what: "the link, without a word,".into() },
                Err(error) => return broken(error),
            }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is used as a function for `map_err`")]
fn broken(error: io::Error) -> BusError {
    BusError::Disconnected { reason: error.to_string() }
}
