//! The session over which the deputy publishes, and when it does.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{Mandate, RETRY};
use crate::auth::{Author, Principal};
use crate::bus::Shared;
use crate::bus::clock::{SystemDeadline, system_time};
use crate::bus::introspect::send;
use crate::bus::streams::Stream;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::FieldsBuilder;
use crate::proto::{Content, ContentRef, Credit, Flags, Header, Hello, Kind, Welcome};
use crate::store::{Change, Delayed, Outcome, StoreError};
use crate::topic::TopicPattern;
use crate::transport::{Accepted, Batch, Incoming, Link, Peer, memory_pair};

/// Delayed messages of a stream that are released together.
const RELEASED_TOGETHER: usize = 256;

/// The time of what stores keep, which goes by the clock of the system, waited for by that of the runtime.
#[derive(Debug, Default)]
struct Wait(Option<(u64, SystemDeadline)>);

impl Wait {
    /// Waits until so many milliseconds since 1970. A wait for the same time goes on.
    fn until(&mut self, due: Option<u64>) -> Option<Instant> {
        let Some(due) = due else {
            self.0 = None;
            return None;
        };
        let deadline = match self.0 {
            Some((before, deadline)) if before == due => deadline,
            _ => Self::deadline(due, system_time()),
        };
        self.0 = Some((due, deadline));
        Some(deadline.at)
    }

    /// What time it is: as the system says, but never before what has been waited for.
    fn now(&mut self) -> u64 {
        let mut now = system_time();
        if let Some((due, deadline)) = self.0
            && deadline.at <= Instant::now()
        {
            now = deadline.reached(now);
            self.0 = Some((due, Self::deadline(due, now)));
        }
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn deadline(due: u64, now: SystemTime) -> SystemDeadline {
        let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(due));
        // It is looked at again in an hour in any case.
        SystemDeadline::new(end.unwrap_or(now + limits::EXPIRY_INTERVAL), now)
    }
}

/// The session over which things are published.
pub(super) struct Publishing {
    shared: Arc<Shared>,
    link: Link,
    incoming: Incoming,
    batch: Batch,
    credit: Credit,
    published: u64,
    /// The last publish that has been answered, and why it failed if it did.
    answered: (u64, Option<BusError>),
}

impl Publishing {
    pub(super) async fn begin(shared: &Arc<Shared>, attach: &mpsc::Sender<Accepted>) -> BusResult<Self> {
        let (bus_end, link) = memory_pair();
        let peer = Peer::new(Principal::Bus, "memory");
        let attached = attach.send(Accepted::Open { link: bus_end, peer }).await;
        attached.map_err(|_| BusError::Closed { what: "the bus".into() })?;
        shared.deputy.sessions.fetch_add(1, Ordering::Relaxed);
        let form = link.sender.form();
        let mut session = Self {
            shared: Arc::clone(shared),
            link,
            incoming: Incoming::new(form, usize::MAX),
            batch: Batch::new(form),
            credit: Credit::new((0, 0)),
            published: 0,
            answered: (0, None),
        };
        let hello = Hello { name: "deputy".into(), ..Hello::default() };
        session.batch.push(&Header::new(Kind::Hello, 0, 0), &ContentRef::of_payload(&hello.encode()));
        session.send().await?;
        while !session.credit.is_left() {
            session.read().await?;
        }
        Ok(session)
    }

    pub(super) async fn run(mut self) -> BusResult<()> {
        let mut wait = Wait::default();
        loop {
            let retry = self.publish_due(wait.now()).await?;
            let shared = Arc::clone(&self.shared);
            // A bus that drains begins nothing.
            let is_open = !shared.is_draining();
            let stored = wait.until(shared.streams.next_due().filter(|_| is_open));
            let stored = stored.map(|at| retry.map_or(at, |retry| at.max(retry)));
            let kept = shared.deputy.next_due().filter(|_| is_open);
            let until = kept.into_iter().chain(stored).min();
            tokio::select! {
                () = shared.deputy.changed.notified() => {}
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
                read = self.read() => read?,
            }
        }
    }

    /// Publishes all that is due. Returns when to try again what could not be done now.
    async fn publish_due(&mut self, now: u64) -> BusResult<Option<Instant>> {
        if self.shared.is_draining() {
            return Ok(None);
        }
        let shared = Arc::clone(&self.shared);
        while let Some(Mandate { author, content }) = shared.deputy.next(Instant::now(), &shared.budget) {
            let Ok(topic) = TopicPattern::from_utf8(content.topic()) else { continue };
            if shared.may_still_publish(&author, &topic) {
                self.publish(&content, Flags::NONE).await?;
            }
        }
        while let Some(content) = shared.presence.next() {
            self.publish(&content, Flags::NONE).await?;
        }
        let mut failed = false;
        for stream in shared.streams.iter().filter(|stream| stream.next_due() <= now) {
            failed |= !self.release_all(stream, now).await?;
        }
        Ok(failed.then(|| Instant::now() + RETRY))
    }

    /// Releases what is due of a stream; whether its store has done so. Whatever fails, the stream is looked at again.
    async fn release_all(&mut self, stream: &Stream, now: u64) -> BusResult<bool> {
        // What comes from here on is noted anew.
        let before = stream.forget_due();
        let released = self.release(stream, now).await;
        if !matches!(released, Ok(Ok(()))) {
            stream.note_due(before);
        }
        match released? {
            Ok(()) => Ok(true),
            Err(error) => {
                tracing::debug!(stream = %stream.name, %error, "what is due is not released");
                Ok(false)
            }
        }
    }

    /// Releases what is due of a stream, and notes what is due next.
    ///
    /// # Errors
    /// Why the session has ended. What has been released by then is in the stream, and its readers get it; those who only
    /// listen miss what was not published yet. The inner error is the store's.
    async fn release(&mut self, stream: &Stream, now: u64) -> BusResult<Result<(), StoreError>> {
        loop {
            let due = match stream.delayed(now, RELEASED_TOGETHER).await {
                Ok(due) if due.is_empty() => break,
                Ok(due) => due,
                Err(error) => return Ok(Err(error)),
            };
            let changes = due.iter().map(|delayed| match self.may_be_released(delayed) {
                true => Change::Release { id: delayed.id, time: now },
                false => Change::DropDelayed { id: delayed.id },
            });
            let outcomes = match stream.commit(changes.collect()).await {
                Ok(outcomes) => outcomes,
                Err(error) => return Ok(Err(error)),
            };
            // Before anything can fail.
            stream.grow_by(&outcomes);
            for (delayed, outcome) in due.into_iter().zip(outcomes) {
                if matches!(outcome, Outcome::Appended { .. }) {
                    self.publish_released(delayed, now).await?;
                }
            }
        }
        let next = match stream.delayed(u64::MAX, 1).await {
            Ok(next) => next,
            Err(error) => return Ok(Err(error)),
        };
        if let Some(next) = next.first() {
            stream.note_due(next.due);
        }
        Ok(Ok(()))
    }

    fn may_be_released(&self, delayed: &Delayed) -> bool {
        match rmp_serde::from_slice::<Author>(&delayed.author) {
            Ok(author) => self.shared.may_still_publish(&author, &delayed.message.topic),
            Err(error) => {
                self.shared.deputy.lapsed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, topic = %delayed.message.topic, "it cannot be told who has published a message");
                false
            }
        }
    }

    /// Gives what is in its stream to those who listen.
    async fn publish_released(&mut self, delayed: Delayed, now: u64) -> BusResult<()> {
        let message = delayed.message;
        let mut fields = FieldsBuilder::new();
        // There was room for it before it was stored.
        let _ = fields.append(&message.fields);
        if let Some(expires) = message.expires {
            let Some(left) = expires.checked_sub(now) else { return Ok(()) };
            let _ = fields.expires(Duration::from_millis(left));
        }
        let topic = message.topic.as_str().to_owned();
        let content = Content::new(fields.finish().into(), topic.into(), message.payload);
        self.publish(&Arc::new(content), Flags::STORED).await
    }

    /// Publishes, and waits until the bus has taken it.
    async fn publish(&mut self, content: &Arc<Content>, flags: Flags) -> BusResult<()> {
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
        if let Some(error) = self.answered.1.take() {
            let topic = String::from_utf8_lossy(content.topic()).into_owned();
            tracing::warn!(topic, %error, "what was due could not be published");
        }
        Ok(())
    }

    async fn send(&mut self) -> BusResult<()> {
        send(&*self.link.sender, &mut self.batch).await.map_err(|error| lost(&error))
    }

    /// Waits until something has arrived, and takes it.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped while it waits.
    async fn read(&mut self) -> BusResult<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Bus, Streams};
    use crate::store::{MemoryStore, Name, NewMessage, StreamSettings};

    fn due_at(due: u64) -> Change {
        let author = rmp_serde::to_vec_named(&Author::unasked(&Principal::Local)).unwrap();
        let topic = TopicPattern::new("log/a").unwrap();
        let (fields, payload) = ("".into(), "x".into());
        let message = NewMessage { topic, fields, payload, time: 0, expires: None, id: None };
        Change::Delay { message, due, author: author.into(), owner: "".into() }
    }

    #[tokio::test]
    async fn a_session_that_ends_while_a_stream_is_released_loses_nothing_of_it() {
        let log = StreamSettings::new(Name::new("log").unwrap(), vec![TopicPattern::new("log/**").unwrap()]);
        let streams = Streams::open(Arc::new(MemoryStore::new()), [log]).await.unwrap();
        let stream = streams.iter().next().unwrap();
        stream.commit(vec![due_at(1), due_at(2), due_at(10_000)]).await.unwrap();
        stream.note_due(1);
        let bus = Bus::builder().start().unwrap();
        let (bus_end, link) = memory_pair();
        let form = link.sender.form();
        let mut session = Publishing {
            shared: Arc::clone(bus.shared()),
            link,
            incoming: Incoming::new(form, usize::MAX),
            batch: Batch::new(form),
            credit: Credit::new((100, 1 << 20)),
            published: 0,
            answered: (0, None),
        };
        drop(bus_end);
        assert!(session.release_all(stream, 5).await.is_err(), "it cannot publish the first");
        assert_eq!(stream.live_from(), 3, "readers are told of both that are in the stream");
        assert_eq!(stream.next_due(), 1, "the next session looks at it");
        assert_eq!(stream.delayed(u64::MAX, 9).await.unwrap().len(), 1);
        // It finds what is left, though nothing is due.
        assert!(session.release_all(stream, 5).await.unwrap());
        assert_eq!(stream.next_due(), 10_000);
        bus.stop().await;
    }
}
