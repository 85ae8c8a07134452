//! A session over which the deputy publishes.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use crate::auth::Principal;
use crate::bus::Shared;
use crate::bus::introspect::send;
use crate::error::{BusError, BusResult};
use crate::proto::{Content, ContentRef, Credit, Flags, Header, Hello, Kind, Welcome};
use crate::store::{Operation, StoreError};
use crate::transport::{Accepted, Batch, Incoming, Link, Peer, memory_pair};

/// The session over which things are published.
pub(super) struct Publishing {
    link: Link,
    incoming: Incoming,
    batch: Batch,
    credit: Credit,
    published: u64,
    /// The last publish that has been answered, and why it failed if it did.
    answered: (u64, Option<BusError>),
    /// Why the session has ended, if it has while a store was waited for.
    ended: Option<BusError>,
}

impl Publishing {
    pub(super) async fn begin(shared: &Arc<Shared>, attach: &mpsc::Sender<Accepted>) -> BusResult<Self> {
        let (bus_end, link) = memory_pair();
        let peer = Peer::new(Principal::Bus, "memory");
        let attached = attach.send(Accepted::Open { link: bus_end, peer }).await;
        attached.map_err(|_| BusError::Closed { what: "the bus".into() })?;
        shared.deputy.sessions.fetch_add(1, Ordering::Relaxed);
        let mut session = Self::over(link, (0, 0));
        let hello = Hello { name: "deputy".into(), ..Hello::default() };
        session.batch.push(&Header::new(Kind::Hello, 0, 0), &ContentRef::of_payload(&hello.encode()));
        session.send().await?;
        while !session.credit.is_left() {
            session.read().await?;
        }
        Ok(session)
    }

    /// A session over this link that has a window of so many messages and bytes.
    pub(super) fn over(link: Link, window: (u32, u64)) -> Self {
        let form = link.sender.form();
        Self {
            link,
            incoming: Incoming::new(form, usize::MAX),
            batch: Batch::new(form),
            credit: Credit::new(window),
            published: 0,
            answered: (0, None),
            ended: None,
        }
    }

    /// Waits for a store, and answers the bus meanwhile, so that the session is there however long that takes. What was begun is
    /// waited for also if the session ends: it is done.
    pub(super) async fn wait_for<T>(&mut self, mut operation: Operation<T>) -> Result<T, StoreError> {
        loop {
            tokio::select! {
                done = &mut operation => return done,
                read = self.read(), if self.ended.is_none() => self.ended = read.err(),
            }
        }
    }

    /// Publishes, and waits until the bus has taken it, or has refused it.
    ///
    /// # Errors
    /// Why the session has ended.
    pub(super) async fn publish(&mut self, content: &Arc<Content>, flags: Flags) -> BusResult<BusResult<()>> {
        if let Some(error) = self.ended.take() {
            return Err(error);
        }
        while !self.credit.is_left() {
            self.read().await?;
        }
        self.published += 1;
        self.credit.spend(content.frame_size());
        let header = Header::new(Kind::Publish, 0, self.published);
        self.batch.push(&header.flagged(flags.with(Flags::ACKNOWLEDGE)), &content.borrowed());
        self.send().await?;
        while self.answered.0 < self.published {
            self.read().await?;
        }
        Ok(self.answered.1.take().map_or(Ok(()), Err))
    }

    async fn send(&mut self) -> BusResult<()> {
        send(&*self.link.sender, &mut self.batch).await.map_err(|error| lost(&error))
    }

    /// Waits until something has arrived, and takes it.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped while it waits.
    pub(super) async fn read(&mut self) -> BusResult<()> {
        let Self { link, incoming, .. } = self;
        let read = poll_fn(|context| link.receiver.poll_receive(context, incoming)).await;
        if read.map_err(|error| lost(&error))? == 0 {
            return Err(BusError::Closed { what: "the session".into() });
        }
        while let Some((header, content)) = self.incoming.next_frame()? {
            match header.kind {
                Kind::Welcome => {
                    self.credit = Credit::new(Welcome::decode(content.payload())?.publish_window)
                }
                Kind::Credit => {
                    let bytes = content.payload().first_chunk().copied().map(u64::from_le_bytes);
                    self.credit.grant(header.id, bytes.unwrap_or_default());
                }
                Kind::Accepted => self.answered = (header.sequence, None),
                Kind::Failed => {
                    let error = crate::proto::Refusal::decode(content.payload())?.into_error();
                    self.answered = (header.sequence, Some(error));
                }
                Kind::Ping => {
                    self.batch.push(&Header::new(Kind::Pong, 0, header.sequence), &ContentRef::empty());
                }
                Kind::Goodbye => return Err(BusError::Closed { what: "the session".into() }),
                _ => {}
            }
        }
        // A `PONG` is all that there can be, for which there is room.
        self.send().await
    }
}

fn lost(error: &io::Error) -> BusError {
    BusError::Disconnected { reason: error.to_string() }
}
