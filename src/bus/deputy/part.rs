//! When the deputy publishes what.
//!
//! Where several buses have a store, each publishes what it has taken in when that is due, and a little later what is still there: its
//! bus is gone. Releasing takes a message out of what the store keeps, once for all buses, and who has released it publishes it.
//!
//! What is for the topics of one stream has a session of its own, and all else has one: whoever publishes to a stream, or releases
//! what it keeps, waits for its store, and a store that stalls holds up nobody else's.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::RETRY;
use super::session::Publishing;
use crate::auth::Author;
use crate::bus::Shared;
use crate::bus::clock::{SystemDeadline, system_time};
use crate::bus::streams::Stream;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::FieldsBuilder;
use crate::proto::{Content, Flags};
use crate::store::{Change, Delayed, Outcome, StoreError};
use crate::topic::TopicPattern;
use crate::transport::Accepted;

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

/// What is published over one session.
pub(super) struct Part {
    shared: Arc<Shared>,
    /// The stream whose topics it is for; `None` for all topics of no stream.
    stream: Option<Arc<Stream>>,
    wait: Wait,
    /// What its stream has released and those who listen have not been given yet, also if the session has ended meanwhile. It
    /// is one page at the most.
    released: VecDeque<Delayed>,
    /// The store of its stream did not take what was last tried.
    is_refused: bool,
}

impl Part {
    pub(super) fn new(shared: &Arc<Shared>, stream: Option<&Arc<Stream>>) -> Self {
        let (shared, stream) = (Arc::clone(shared), stream.map(Arc::clone));
        Self { shared, stream, wait: Wait::default(), released: VecDeque::new(), is_refused: false }
    }

    /// Publishes what is due, for as long as it is polled.
    pub(super) async fn act(mut self, attach: mpsc::Sender<Accepted>) {
        loop {
            while !self.has_something_due() {
                self.changed().await;
            }
            // Without a session of its own until there is something to do.
            let ended = async {
                let mut session = Publishing::begin(&self.shared, &attach).await?;
                self.run(&mut session).await
            };
            if let Err(error) = ended.await {
                tracing::debug!(%error, "the session for what is due later ended");
            }
            sleep(RETRY).await;
        }
    }

    /// Waits until something has come that is due earlier than all before.
    async fn changed(&self) {
        match &self.stream {
            Some(stream) => stream.due_changed().await,
            None => self.shared.deputy.changed.notified().await,
        }
    }

    fn has_something_due(&self) -> bool {
        let is_kept = self.shared.deputy.next_due(self.stream.as_deref()).is_some();
        is_kept || self.next_stored().is_some() || (self.stream.is_none() && self.shared.presence.has_news())
    }

    /// When the next message is due that the stream keeps: milliseconds since 1970 (UTC).
    fn next_stored(&self) -> Option<u64> {
        if !self.released.is_empty() {
            return Some(0);
        }
        self.stream.as_ref().map(|stream| stream.next_due()).filter(|due| *due < u64::MAX)
    }

    /// Publishes what is due, until the session ends.
    async fn run(&mut self, session: &mut Publishing) -> BusResult<()> {
        loop {
            let retry = self.publish_due(session).await?;
            // A bus that drains begins nothing.
            let is_open = !self.shared.is_draining();
            let next_stored = self.next_stored().filter(|_| is_open);
            let stored = self.wait.until(next_stored);
            let kept = self.shared.deputy.next_due(self.stream.as_deref()).filter(|_| is_open);
            let until =
                kept.into_iter().chain(stored).min().map(|at| retry.map_or(at, |retry| at.max(retry)));
            tokio::select! {
                () = self.changed() => {}
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
                read = session.read() => read?,
            }
        }
    }

    /// Publishes all that is due. Returns when to try again what could not be done now.
    async fn publish_due(&mut self, session: &mut Publishing) -> BusResult<Option<Instant>> {
        if self.shared.is_draining() {
            return Ok(None);
        }
        let shared = Arc::clone(&self.shared);
        let stream = self.stream.clone();
        let next = || shared.deputy.next(stream.as_deref(), Instant::now(), &shared.budget);
        while let Some(mandate) = next() {
            let Ok(topic) = TopicPattern::from_utf8(mandate.content.topic()) else { continue };
            if !shared.may_still_publish(&mandate.author, &topic) {
                continue;
            }
            let answer = session.publish(&mandate.content, Flags::NONE).await?;
            let was_refused =
                std::mem::replace(&mut self.is_refused, matches!(answer, Err(BusError::NotStored { .. })));
            match answer {
                Err(error @ BusError::NotStored { .. }) => {
                    // Whoever has left it behind cannot try again.
                    if !was_refused {
                        tracing::warn!(%topic, %error, "what somebody has left to be published is tried again");
                    }
                    shared.deputy.put_back(stream.as_deref(), mandate, &shared.budget);
                    return Ok(Some(Instant::now() + RETRY));
                }
                answer => tell(&topic, answer),
            }
        }
        let Some(stream) = &stream else {
            while let Some(content) = shared.presence.next() {
                let told = session.publish(&content, Flags::NONE).await?;
                tell(&String::from_utf8_lossy(content.topic()), told);
            }
            return Ok(None);
        };
        self.publish_released(session).await?;
        let now = self.wait.now();
        if stream.next_due() <= now && !self.release_all(session, stream, now).await? {
            return Ok(Some(Instant::now() + RETRY));
        }
        Ok(None)
    }

    /// Releases what is due of a stream; whether its store has done so. Whatever fails, the stream is looked at again.
    async fn release_all(&mut self, session: &mut Publishing, stream: &Stream, now: u64) -> BusResult<bool> {
        // What comes from here on is noted anew.
        let before = stream.forget_due();
        let released = self.release(session, stream, now).await;
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
    /// listen get it by the next session, but for what was on its way. The inner error is the store's.
    async fn release(
        &mut self,
        session: &mut Publishing,
        stream: &Stream,
        now: u64,
    ) -> BusResult<Result<(), StoreError>> {
        loop {
            let due = match session.wait_for(stream.delayed(now, RELEASED_TOGETHER)).await {
                Ok(due) if due.is_empty() => break,
                Ok(due) => due,
                Err(error) => return Ok(Err(error)),
            };
            let changes = due.iter().map(|delayed| match self.may_be_released(delayed) {
                true => Change::Release { id: delayed.id, time: now },
                false => Change::DropDelayed { id: delayed.id },
            });
            let outcomes = match session.wait_for(stream.commit(changes.collect())).await {
                Ok(outcomes) => outcomes,
                Err(error) => return Ok(Err(error)),
            };
            // Before anything can fail.
            stream.grow_by(&outcomes);
            let released = due.into_iter().zip(outcomes);
            let appended = |outcome: &Outcome| matches!(outcome, Outcome::Appended { .. });
            self.released.extend(released.filter_map(|(due, outcome)| appended(&outcome).then_some(due)));
            self.publish_released(session).await?;
        }
        let next = match session.wait_for(stream.delayed(u64::MAX, 1)).await {
            Ok(next) => next,
            Err(error) => return Ok(Err(error)),
        };
        if let Some(next) = next.first() {
            stream.note_next_due(next.due);
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

    /// Gives what is in its stream to those who listen, each once: what was on its way when a session ended may have come.
    async fn publish_released(&mut self, session: &mut Publishing) -> BusResult<()> {
        while let Some(Delayed { message, .. }) = self.released.pop_front() {
            let mut fields = FieldsBuilder::new();
            // There was room for it before it was stored.
            let _ = fields.append(&message.fields);
            if let Some(expires) = message.expires {
                let Some(left) = expires.checked_sub(self.wait.now()) else { continue };
                let _ = fields.expires(Duration::from_millis(left));
            }
            let topic = message.topic.as_str().to_owned();
            let content = Content::new(fields.finish().into(), topic.clone().into(), message.payload);
            tell(&topic, session.publish(&Arc::new(content), Flags::STORED).await?);
        }
        Ok(())
    }
}

/// Says in the log what could not be published, and is not tried again.
fn tell(topic: &impl fmt::Display, answer: BusResult<()>) {
    if let Err(error) = answer {
        tracing::warn!(%topic, %error, "what was due could not be published");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Principal;
    use crate::bus::{Bus, Streams};
    use crate::client::Client;
    use crate::store::{MemoryStore, Name, NewMessage, StreamSettings};
    use crate::transport::memory_pair;

    fn due_at(due: u64) -> Change {
        let author = rmp_serde::to_vec_named(&Author::unasked(&Principal::Local)).unwrap();
        let topic = TopicPattern::new("log/a").unwrap();
        let (fields, payload) = ("".into(), due.to_string().into());
        let message = NewMessage { topic, fields, payload, time: 0, expires: None, id: None };
        Change::Delay { message, due, author: author.into(), owner: "".into() }
    }

    #[tokio::test]
    async fn a_session_that_ends_while_a_stream_is_released_loses_nothing_but_what_is_on_its_way() {
        let log = StreamSettings::new(Name::new("log").unwrap(), vec![TopicPattern::new("log/**").unwrap()]);
        let streams = Streams::open(Arc::new(MemoryStore::new()), [log]).await.unwrap();
        let stream = streams.iter().next().unwrap();
        stream.commit(vec![due_at(1), due_at(2), due_at(10_000)]).await.unwrap();
        stream.note_due(1);
        let bus = Bus::builder().start().unwrap();
        let client = Client::new_memory(&bus.connector()).unwrap();
        let mut live = client.subscribe_bytes("log/*").await.unwrap();
        let mut part = Part::new(bus.shared(), Some(stream));
        let (bus_end, link) = memory_pair();
        let mut session = Publishing::over(link, (100, 1 << 20));
        drop(bus_end);
        assert!(part.release_all(&mut session, stream, 5).await.is_err(), "it cannot publish the first");
        assert_eq!(stream.live_from(), 3, "readers are told of both that are in the stream");
        assert_eq!(stream.next_due(), 1, "the next session looks at it");
        assert_eq!(stream.delayed(u64::MAX, 9).await.unwrap().len(), 1);
        // It publishes what is left, and finds that nothing else is due.
        let (attach, mut attached) = mpsc::channel(1);
        let attaching = async {
            let Some(Accepted::Open { link, peer }) = attached.recv().await else { panic!("nothing") };
            bus.attach(link, peer).unwrap();
        };
        let (session, ()) = tokio::join!(Publishing::begin(bus.shared(), &attach), attaching);
        let mut session = session.unwrap();
        part.publish_released(&mut session).await.unwrap();
        assert_eq!(live.recv().await.unwrap().1, "2");
        assert!(part.release_all(&mut session, stream, 5).await.unwrap());
        assert_eq!(stream.next_due(), 10_000);
        bus.stop().await;
    }
}
