//! Publishes what is due later, in the name of those who have asked for it.
//!
//! It has a session of the bus's own, over a memory link, and publishes there like any client: so order, credit, the byte
//! budget and stores are as they are for everybody, and the router knows nothing of it. The session begins when it is first
//! needed. What is due is published in turn; whoever has asked for it must still be allowed to publish there by the policy
//! of that time.
//!
//! Delayed messages of a stream are kept by its store (`delayed`), which adds what is due to the log before it goes live. All
//! others are kept here, and end with the bus.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use super::Shared;
use super::budget::{Budget, Share};
use super::clock::SystemDeadline;
use super::introspect::send;
use super::streams::Stream;
use crate::auth::{Action, Author, Principal};
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::FieldsBuilder;
use crate::proto::{Content, ContentRef, Credit, Flags, Header, Hello, Kind, Welcome};
use crate::store::{Change, Delayed, Outcome, StoreError};
use crate::topic::TopicPattern;
use crate::transport::{Accepted, Batch, Incoming, Link, Peer, memory_pair};

/// How long to wait before a store that failed is asked again, or a session that ended is begun anew.
const RETRY: Duration = Duration::from_secs(1);

/// Delayed messages of a stream that are released together.
const RELEASED_TOGETHER: usize = 256;

/// What is to be published, and in whose name.
#[derive(Debug)]
pub(crate) struct Mandate {
    pub(crate) author: Author,
    /// Topic, fields and payload, as they are published then.
    pub(crate) content: Arc<Content>,
}

/// What waits to be published.
#[derive(Debug, Default)]
pub(super) struct Deputy {
    state: Mutex<Waiting>,
    /// Something has come that is due earlier than all before.
    changed: Arc<Notify>,
    /// Sessions that it has begun.
    sessions: AtomicU64,
    /// What was not published, as it was not allowed any more.
    lapsed: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    /// By when they are due; those of one time in the order in which they came.
    later: BTreeMap<(Instant, u64), Mandate>,
    now: VecDeque<Mandate>,
    count: u64,
    /// Bytes of `later`.
    bytes: usize,
    /// Bytes of `now`. They have a bound of their own, so that what is due later takes no room from wills.
    will_bytes: usize,
    /// Messages in `later` and their bytes, by whom they count for.
    holders: HashMap<String, (usize, usize)>,
    share: Share,
}

impl Deputy {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What wakes it.
    pub(super) fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// Keeps a message until it is due.
    ///
    /// # Errors
    /// [`BusError::LimitReached`] where so many are kept, or bytes of them, as may be: of all, or of one principal, which
    /// has at most as much as it leaves free for others.
    pub(super) fn keep(&self, due: Instant, mandate: Mandate, budget: &Budget) -> BusResult<()> {
        let mut state = self.lock();
        state.check(&mandate, budget)?;
        state.bytes += mandate.content.size();
        if let Some(holder) = mandate.author.holder() {
            let (messages, bytes) = state.holders.entry(holder).or_default();
            (*messages, *bytes) = (*messages + 1, *bytes + mandate.content.size());
        }
        state.count += 1;
        let place = (due, state.count);
        state.later.insert(place, mandate);
        state.account(budget);
        let is_first = state.later.first_key_value().is_some_and(|(first, _)| *first == place);
        drop(state);
        if is_first {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Publishes as soon as it can. What it holds was held by a session before, so that it needs no more of the budget.
    ///
    /// # Errors
    /// [`BusError::LimitReached`] where so much waits to be published that nothing more is taken.
    pub(super) fn publish(&self, mandate: Mandate, budget: &Budget) -> BusResult<()> {
        let mut state = self.lock();
        if state.now.len() >= limits::WILLS_WAITING {
            let what = format!("{} wills wait to be published", limits::WILLS_WAITING);
            return Err(BusError::LimitReached { what });
        }
        let bytes = state.will_bytes.saturating_add(mandate.content.size());
        if bytes > budget.per_session() {
            let what = format!("wills of {} bytes wait to be published", state.will_bytes);
            return Err(BusError::LimitReached { what });
        }
        state.will_bytes = bytes;
        state.now.push_back(mandate);
        state.account(budget);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// What is to be published next, if anything is by now.
    fn next(&self, now: Instant, budget: &Budget) -> Option<Mandate> {
        let mut state = self.lock();
        let next = match state.now.pop_front() {
            Some(will) => {
                state.will_bytes = state.will_bytes.saturating_sub(will.content.size());
                will
            }
            None => state.take_due(now)?,
        };
        state.account(budget);
        Some(next)
    }

    /// When the next message is due that is kept here.
    fn next_due(&self) -> Option<Instant> {
        let state = self.lock();
        match state.now.is_empty() {
            true => state.later.first_key_value().map(|((due, _), _)| *due),
            false => Some(Instant::now()),
        }
    }

    /// A stream has a message that is due earlier than those before.
    pub(super) fn look_again(&self) {
        self.changed.notify_one();
    }

    /// Messages that are kept here, and their bytes.
    pub(super) fn held(&self) -> (usize, usize) {
        let state = self.lock();
        (state.later.len() + state.now.len(), state.bytes + state.will_bytes)
    }

    /// How often something was not published, as it was not allowed any more.
    pub(super) fn lapsed(&self) -> u64 {
        self.lapsed.load(Ordering::Relaxed)
    }

    /// Sessions of the bus's own that it has begun.
    pub(super) fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }
}

impl Waiting {
    /// Whether there is room for one more that is due later.
    fn check(&self, mandate: &Mandate, budget: &Budget) -> BusResult<()> {
        let most = usize::try_from(limits::DELAYED_MESSAGES).unwrap_or(usize::MAX);
        let refused = |what: String| Err(BusError::LimitReached { what });
        let free = most.checked_sub(self.later.len() + 1);
        let Some(free) = free else {
            return refused(format!("the bus keeps {most} messages that are not due yet"));
        };
        let size = mandate.content.size();
        // What is kept here is a part of the budget that nobody can wait for.
        let free_bytes = budget.per_session().checked_sub(self.bytes.saturating_add(size));
        let Some(free_bytes) = free_bytes.filter(|_| !budget.is_spent()) else {
            return refused(format!("the bus keeps {} bytes that are to be published later", self.bytes));
        };
        if let Some(holder) = mandate.author.holder() {
            let (messages, bytes) = self.holders.get(&holder).copied().unwrap_or_default();
            if messages >= free || bytes.saturating_add(size) > free_bytes {
                return refused(format!(
                    "{holder} has {messages} messages that are not due yet, and {bytes} bytes; one keeps at most as much as is \
                     left for others"
                ));
            }
        }
        Ok(())
    }

    /// The first that is due by now.
    fn take_due(&mut self, now: Instant) -> Option<Mandate> {
        let first = self.later.first_entry().filter(|first| first.key().0 <= now)?;
        let mandate = first.remove();
        let size = mandate.content.size();
        self.bytes = self.bytes.saturating_sub(size);
        if let Some(holder) = mandate.author.holder()
            && let Some((messages, bytes)) = self.holders.get_mut(&holder)
        {
            (*messages, *bytes) = (messages.saturating_sub(1), bytes.saturating_sub(size));
            if *messages == 0 {
                self.holders.remove(&holder);
            }
        }
        Some(mandate)
    }

    fn account(&mut self, budget: &Budget) {
        let entries = self.later.len() + self.now.len();
        self.share
            .follow(self.bytes + self.will_bytes + entries * size_of::<((Instant, u64), Mandate)>(), budget);
    }
}

impl Shared {
    /// Publishes what is due, for as long as it is polled.
    pub(super) async fn act_as_deputy(self: &Arc<Self>, attach: &mpsc::Sender<Accepted>) {
        loop {
            while !self.has_something_due() {
                self.deputy.changed.notified().await;
            }
            // Without a session of its own until there is something to do.
            let ended = async { Publishing::begin(self, attach).await?.run().await };
            if let Err(error) = ended.await {
                tracing::debug!(%error, "the session for what is due later ended");
            }
            sleep(RETRY).await;
        }
    }

    fn has_something_due(&self) -> bool {
        self.deputy.next_due().is_some() || self.streams.next_due().is_some() || self.presence.has_news()
    }

    /// Whether somebody may still publish there.
    fn may_still_publish(&self, author: &Author, topic: &TopicPattern) -> bool {
        let (policy, _) = self.policies.current();
        let permissions = policy.permissions_later(author, SystemTime::now());
        let allowed = permissions.is_some_and(|rights| rights.allows(Action::Publish, topic).is_ok());
        if !allowed {
            self.deputy.lapsed.fetch_add(1, Ordering::Relaxed);
            let principal = author.principal();
            tracing::warn!(%principal, %topic, "not published, as that is not allowed any more");
        }
        allowed
    }
}

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
            _ => Self::deadline(due, SystemTime::now()),
        };
        self.0 = Some((due, deadline));
        Some(deadline.at)
    }

    /// What time it is: as the system says, but never before what has been waited for.
    fn now(&mut self) -> u64 {
        let mut now = SystemTime::now();
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
struct Publishing {
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
    async fn begin(shared: &Arc<Shared>, attach: &mpsc::Sender<Accepted>) -> BusResult<Self> {
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

    async fn run(mut self) -> BusResult<()> {
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
