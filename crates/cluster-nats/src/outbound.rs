//! What is published at this bus, on its way to NATS.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Subject, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::task::unconstrained;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout};
use whispeer::client::{Event, Message, Subscription};
use whispeer::proto::Content;
use whispeer::topic::Topic;

use crate::batch::Batch;
use crate::envelope;
use crate::limits;
use crate::numbering::Numbering;
use crate::stamp::{self, Stamp};
use crate::subject::Subjects;

/// What the messages to patterns and to several topics are numbered as: no topic has a wildcard.
const WILDCARDS: &[u8] = b"**";

/// Messages that are taken in a row before it is looked at what else there is to do.
const RUN: usize = 256;

/// How often it is looked at whether NATS is there.
const LOOK: Duration = Duration::from_millis(250);

/// What has become of it so far.
#[derive(Debug, Default)]
pub(crate) struct OutboundCounts {
    /// Messages that were handed to NATS.
    pub(crate) sent: AtomicU64,
    /// Messages that were not, as NATS was away or took them too slowly.
    pub(crate) dropped: AtomicU64,
    /// Messages that were not, as they are larger than NATS takes them.
    pub(crate) too_large: AtomicU64,
    /// Topics that were forgotten before they were marked.
    pub(crate) forgotten: AtomicU64,
}

/// A message that has its number.
struct Outgoing {
    subject: Subject,
    stamp: Stamp,
    headers: Option<async_nats::HeaderMap>,
    payload: Bytes,
}

/// Takes what is published at this bus to NATS.
pub(crate) struct Outbound {
    nats: async_nats::Client,
    subjects: Subjects,
    stamps: String,
    numbering: Numbering,
    /// What is to be sent as one message, where that is wanted, and its place and numbers, where there is something.
    batch: Option<Batch>,
    first: Option<(Subject, Stamp)>,
    counts: Arc<OutboundCounts>,
    /// Since when NATS has been away.
    away_since: Option<Instant>,
    /// The last time that it was seen to be there.
    seen_at: Instant,
    /// From when on others have asked for marks.
    asked_since: Option<Instant>,
    /// When topics may be marked again for that.
    mark_again_at: Instant,
    /// Too large a message has been told of.
    has_warned: bool,
    /// Messages that no link has sent, before this one.
    missed: u64,
}

impl Outbound {
    pub(crate) fn new(
        nats: async_nats::Client,
        subjects: Subjects,
        origin: u64,
        counts: Arc<OutboundCounts>,
    ) -> Self {
        Self {
            stamps: format!("{}.", subjects.own(stamp::TOKEN)),
            nats,
            subjects,
            numbering: Numbering::new(
                origin,
                (limits::NUMBERED_TOPICS, limits::NUMBERED_BYTES),
                limits::QUIET,
            ),
            batch: None,
            first: None,
            counts,
            away_since: None,
            seen_at: Instant::now(),
            asked_since: None,
            mark_again_at: Instant::now(),
            has_warned: false,
            missed: 0,
        }
    }

    /// Sends messages of one topic that follow each other as one, if so.
    pub(crate) fn in_batches(self, batches: bool) -> Self {
        Self { batch: batches.then(Batch::default), ..self }
    }

    /// Tells others that so many messages are missing that were published here before it was there.
    pub(crate) fn having_missed(self, missed: u64) -> Self {
        Self { missed, ..self }
    }

    /// Takes what the subscription yields to NATS until that ends, which it does with what was published until `end`; `asked` yields how far back
    /// other buses want to have marks.
    ///
    /// # Cancel safety
    /// What it has numbered and not sent is missing elsewhere, as if NATS had lost it.
    pub(crate) async fn run(
        mut self,
        mut published: Subscription<Arc<Content>>,
        mut asked: Subscriber,
        end: impl Future<Output = ()>,
    ) {
        let mut next_look = Instant::now();
        self.miss(self.missed, "the bus had cut the link off");
        let (mut end, mut is_ending) = (std::pin::pin!(end), false);
        loop {
            let due = self.numbering.next_mark().map_or(next_look, |mark| mark.min(next_look));
            tokio::select! {
                () = sleep_until(due) => {}
                () = &mut end, if !is_ending => {
                    is_ending = true;
                    // Where it has ended, so has the subscription.
                    let _ = published.drain().await;
                    continue;
                }
                event = published.next_event() => {
                    let Some(event) = event else { return };
                    self.take(event).await;
                    let mut left = RUN - 1;
                    while left > 0
                        && let Some(Some(event)) = published.next_event().now_or_never()
                    {
                        self.take(event).await;
                        left -= 1;
                    }
                    self.send_batch().await;
                    continue;
                }
                Some(request) = asked.next() => {
                    self.ask(&request.payload);
                    continue;
                }
            }
            let now = Instant::now();
            if now >= next_look {
                next_look = now + LOOK;
                self.look(now);
            }
            self.mark(now).await;
        }
    }

    /// Notes that somebody has missed what was sent in the milliseconds that he says.
    fn ask(&mut self, payload: &[u8]) {
        let millis = str::from_utf8(payload).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
        let now = Instant::now();
        let since = now.checked_sub(Duration::from_millis(millis)).unwrap_or(self.seen_at.min(now));
        self.asked_since = Some(self.asked_since.map_or(since, |before| before.min(since)));
    }

    /// Looks whether NATS is there.
    fn look(&mut self, now: Instant) {
        self.counts.forgotten.store(self.numbering.forgotten(), Ordering::Relaxed);
        if self.nats.connection_state() != State::Connected {
            self.away_since.get_or_insert(self.seen_at);
            return;
        }
        if let Some(since) = self.away_since.take() {
            // Also what was sent shortly before may have been lost with the connection.
            self.asked_since = Some(self.asked_since.map_or(since, |before| before.min(since)));
        }
        self.seen_at = now;
        if now >= self.mark_again_at
            && let Some(since) = self.asked_since.take()
        {
            self.mark_again_at = now + limits::MARK_AGAIN;
            // A connection that hangs counts as there until it has not answered for so long.
            let margin = 4 * limits::LINK_PING + 2 * limits::QUIET;
            let since = since.checked_sub(margin).unwrap_or(since);
            self.numbering.mark_since(since, now);
        }
    }

    /// Tells the last numbers of topics that are quiet.
    async fn mark(&mut self, now: Instant) {
        for _ in 0..limits::MARKS {
            if self.nats.connection_state() != State::Connected {
                // They are told when it is back. Until then there is nothing to be done for them.
                self.numbering.put_off(now + LOOK);
                return;
            }
            let Some((subject, stamp)) = self.numbering.take_mark(now) else { return };
            if !self.send(subject, &stamp, None, Bytes::new()).await {
                // Nor does it take others; the last one is told again with what comes.
                self.asked_since = Some(self.asked_since.map_or(now, |before| before.min(now)));
                self.numbering.put_off(now + limits::QUIET);
                return;
            }
        }
    }

    async fn take(&mut self, event: Event<Arc<Content>>) {
        match event {
            Event::Message(message) => self.publish(message).await,
            Event::Gap { count, reason } => {
                self.send_batch().await;
                self.miss(count, reason.name());
            }
            _ => {}
        }
    }

    /// Messages were published here that did not come to be numbered. Nobody knows of which topics they are, so that it is told to all who may have
    /// wanted them.
    fn miss(&mut self, count: u64, reason: &str) {
        if count == 0 {
            return;
        }
        self.counts.dropped.fetch_add(count, Ordering::Relaxed);
        self.number_wildcard(Instant::now());
        self.numbering.skip(WILDCARDS, count - 1);
        tracing::warn!(
            count,
            reason,
            "messages did not reach the link to NATS; subscribers of other buses are told"
        );
    }

    async fn publish(&mut self, message: Message<Arc<Content>>) {
        let text = message.topic.as_str();
        let concrete = message.topic.as_topic();
        let (fields, payload) = (message.value.fields(), message.value.payload_bytes());
        let mut before = None;
        if let Some(batch) = &self.batch {
            let max_payload = self.nats.max_payload();
            let topic = concrete.as_ref().filter(|_| fields.is_empty());
            let topic = topic.filter(|_| Batch::takes(payload.len(), max_payload));
            if topic.is_none() || !batch.has_room(text.as_bytes(), payload.len(), max_payload) {
                // What was published before goes before it.
                before = self.take_batch();
            }
            if let Some(topic) = topic {
                self.add_to_batch(topic, payload);
                return self.hand_over(before).await;
            }
        }
        let now = Instant::now();
        let Self { subjects, numbering, .. } = &mut *self;
        let (subject, stamp) = match &concrete {
            Some(topic) => numbering.next(text.as_bytes(), now, || subjects_of(subjects, topic)),
            None => self.number_wildcard(now),
        };
        let headers = envelope::write(fields, concrete.is_none().then_some(text));
        self.hand_over(before).await;
        self.hand_over(Some(Outgoing { subject, stamp, headers, payload })).await;
    }

    /// Numbers a message that goes with others.
    fn add_to_batch(&mut self, topic: &Topic, payload: Bytes) {
        let Self { subjects, numbering, batch: Some(batch), first, .. } = self else { return };
        let name = topic.as_str().as_bytes();
        match first {
            Some((_, stamp)) => {
                numbering.skip(name, 1);
                stamp.count += 1;
            }
            None => *first = Some(numbering.next(name, Instant::now(), || subjects_of(subjects, topic))),
        }
        batch.push(name, payload);
    }

    /// What waits to be sent as one message.
    fn take_batch(&mut self) -> Option<Outgoing> {
        let (subject, stamp) = self.first.take()?;
        let payload = self.batch.as_mut()?.take();
        Some(Outgoing { subject, stamp, headers: None, payload })
    }

    async fn send_batch(&mut self) {
        let batch = self.take_batch();
        self.hand_over(batch).await;
    }

    /// Hands over what has its numbers, where NATS is there.
    async fn hand_over(&mut self, outgoing: Option<Outgoing>) {
        let Some(Outgoing { subject, stamp, headers, payload }) = outgoing else { return };
        if self.nats.connection_state() != State::Connected {
            self.counts.dropped.fetch_add(stamp.count, Ordering::Relaxed);
            return;
        }
        let _ = self.send(subject, &stamp, headers, payload).await;
    }

    fn number_wildcard(&mut self, now: Instant) -> (Subject, Stamp) {
        let subjects = &self.subjects;
        self.numbering.next(WILDCARDS, now, || {
            (Subject::from(subjects.of_wildcards()), Subject::from(subjects.of_wildcard_marks()))
        })
    }

    /// Hands a message to NATS, or drops it; returns whether NATS takes more.
    async fn send(
        &mut self,
        subject: Subject,
        stamp: &Stamp,
        headers: Option<async_nats::HeaderMap>,
        payload: Bytes,
    ) -> bool {
        let reply = Subject::from(stamp.write(&self.stamps));
        let sent = match headers {
            None => in_time(self.nats.publish_with_reply(subject, reply, payload)).await,
            Some(headers) => {
                in_time(self.nats.publish_with_reply_and_headers(subject, reply, headers, payload)).await
            }
        };
        match sent {
            Ok(Ok(())) => self.counts.sent.fetch_add(stamp.count, Ordering::Relaxed),
            Ok(Err(error)) => {
                if !std::mem::replace(&mut self.has_warned, true) {
                    tracing::warn!(
                        %error,
                        "NATS does not take a message that was published here, and other buses are told a gap; if it is larger than \
                         NATS takes, raise its `max_payload`. Later ones are counted only"
                    );
                }
                self.counts.too_large.fetch_add(stamp.count, Ordering::Relaxed)
            }
            Err(_) => {
                self.counts.dropped.fetch_add(stamp.count, Ordering::Relaxed);
                return false;
            }
        };
        true
    }
}

/// The subjects of a topic's messages and of its marks.
fn subjects_of(subjects: &Subjects, topic: &Topic) -> (Subject, Subject) {
    (Subject::from(subjects.of_topic(topic)), Subject::from(subjects.of_marks(topic)))
}

/// Waits for NATS to take a message, for as long as it may. Most are taken at once; the subscription they come from sees to it that others get their turn.
async fn in_time<T>(sending: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut sending = pin!(unconstrained(sending));
    match sending.as_mut().now_or_never() {
        Some(sent) => Ok(sent),
        None => timeout(limits::SENDING, sending).await,
    }
}
