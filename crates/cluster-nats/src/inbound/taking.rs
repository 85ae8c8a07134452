//! From messages of NATS to publishes at this bus: each once, in its order, and what is missing told in its place.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::vec;

use async_nats::Message;
use tokio::time::Instant;
use whispeer::bus::BusView;
use whispeer::client::{Client, GapReason, PublishOptions};
use whispeer::topic::{Topic, TopicPattern};
use whispeer::{BusError, BusResult};

use super::held::Held;
use super::outcomes::{Loss, Outcomes, Sender};
use super::wanted::Wanted;
use super::{InboundCounts, Source, Taken};
use crate::batch;
use crate::envelope;
use crate::limits;
use crate::seen::{self, Seen, Verdict};
use crate::stamp::{self, Stamp};
use crate::subject::{Kind, Subjects};

/// The place of what is published to patterns, among the places of topics, which begin with a dot.
const WILDCARDS: &str = "w";

/// A message, or a mark, of another bus.
#[derive(Debug)]
pub(super) struct Arrived {
    source: Arc<Source>,
    stamp: Stamp,
    message: Message,
}

/// What is to be done with one.
#[derive(Debug)]
enum Look {
    /// It says nothing new.
    Nothing,
    /// It is the next one, and this one publishes those of its topic, if any were published before.
    Take(Option<Arc<Sender>>),
    /// So many before it, or up to it, have not come.
    Missing(u64),
}

/// What waits of one topic, while it is told what is missing of it.
struct Settling {
    /// A message that is to be given to the bus as soon as that is told.
    due: Option<Arrived>,
    rest: vec::IntoIter<Arrived>,
}

/// Takes messages of NATS to this bus.
pub(super) struct Taking {
    bus: BusView,
    client: Client,
    subjects: Subjects,
    origin: u64,
    stamps: String,
    counts: Arc<InboundCounts>,
    pub(super) seen: Seen<Option<Arc<Sender>>>,
    pub(super) held: Held<Arrived>,
    pub(super) outcomes: Outcomes,
}

impl Taking {
    pub(super) fn new(
        bus: BusView,
        client: Client,
        subjects: Subjects,
        origin: u64,
        counts: Arc<InboundCounts>,
        seen: Seen<Option<Arc<Sender>>>,
    ) -> Self {
        Self {
            bus,
            outcomes: Outcomes::new(client.clone(), Arc::clone(&counts)),
            client,
            stamps: format!("{}.", subjects.own(stamp::TOKEN)),
            subjects,
            origin,
            counts,
            seen,
            held: Held::new(limits::REORDERED, limits::REORDERED_BYTES),
        }
    }

    /// Takes messages of one subscription.
    ///
    /// # Errors
    /// Why the bus has ended.
    pub(super) async fn take(
        &mut self,
        wanted: &mut Wanted,
        source: &Arc<Source>,
        messages: Vec<Message>,
    ) -> BusResult<()> {
        for message in messages {
            let stamp = message.reply.as_ref().and_then(|reply| Stamp::read(reply, &self.stamps));
            match stamp {
                Some(stamp) if stamp.origin == self.origin => {}
                Some(stamp) => {
                    self.take_stamped(Arrived { source: Arc::clone(source), stamp, message }).await?
                }
                None => self.take_plain(wanted, source, &message).await?,
            }
        }
        Ok(())
    }

    /// Takes what is held up, with what is missing before it.
    ///
    /// # Errors
    /// Why the bus has ended.
    pub(super) async fn settle(&mut self) -> BusResult<()> {
        let topics = self.held.take().map(|waiting| Settling { due: None, rest: waiting.into_iter() });
        let mut topics: Vec<_> = topics.collect();
        // Each round is up to the next loss of each topic, so that there is one flush for all of them.
        while !topics.is_empty() {
            for topic in &mut topics {
                self.settle_to_loss(topic).await?;
            }
            topics.retain(|topic| topic.due.is_some() || topic.rest.len() > 0);
            self.tell_behind_all().await?;
        }
        Ok(())
    }

    /// Takes what waits of one topic, up to where something is missing.
    async fn settle_to_loss(&mut self, topic: &mut Settling) -> BusResult<()> {
        for arrived in topic.due.take().into_iter().chain(topic.rest.by_ref()) {
            match self.look(&arrived) {
                Look::Nothing => {}
                Look::Take(sender) => self.give(&arrived, sender).await?,
                Look::Missing(missing) => {
                    let Some(place) = self.place(&arrived.source, &arrived.message.subject) else { continue };
                    let is_of_marks = arrived.source.kind.is_of_marks();
                    self.seen.pass(place.as_bytes(), &arrived.stamp, is_of_marks);
                    // From here on it is told whatever becomes of the link.
                    if let Some(loss) = self.loss(place, missing) {
                        self.outcomes.note_loss(loss);
                    }
                    topic.due = Some(arrived).filter(|_| !is_of_marks);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Tells what is missing behind what came before.
    ///
    /// # Errors
    /// Why the bus has ended.
    ///
    /// # Cancel safety
    /// What is not told by then is among what the link that begins in place of this one tells.
    async fn tell_behind_all(&mut self) -> BusResult<()> {
        if self.outcomes.untold().is_none() {
            return Ok(());
        }
        // What came before is there by then.
        self.client.flush().await?;
        self.tell().await
    }

    /// Tells those who would have had messages that these do not come.
    ///
    /// # Errors
    /// That the bus has stopped.
    ///
    /// # Cancel safety
    /// As that of [`tell_behind_all`](Self::tell_behind_all); the one that it is about may be told twice.
    pub(super) async fn tell(&mut self) -> BusResult<()> {
        while let Some((topic, count)) = self.outcomes.untold() {
            if let Err(closed @ BusError::Closed { .. }) = self.bus.lost(&topic, count, GapReason::Link).await
            {
                return Err(closed);
            }
            self.outcomes.told();
        }
        Ok(())
    }

    /// Takes what no bus has sent. It has no number, so that of several subscriptions that bring it the oldest one counts.
    async fn take_plain(&mut self, wanted: &mut Wanted, source: &Source, message: &Message) -> BusResult<()> {
        let Some(target) = self.target(source, message) else { return Ok(()) };
        if let Target::Topic(topic) = &target
            && wanted.oldest(topic) != Some(source.number)
        {
            return Ok(());
        }
        self.publish(target, message, None).await
    }

    /// Takes what another bus has sent, or has it wait for what was sent before.
    async fn take_stamped(&mut self, arrived: Arrived) -> BusResult<()> {
        let Some(place) = self.place(&arrived.source, &arrived.message.subject) else { return Ok(()) };
        let look = match self.held.holds(arrived.stamp.origin, place) {
            true => Look::Missing(0),
            false => self.look(&arrived),
        };
        match look {
            Look::Nothing => Ok(()),
            Look::Take(sender) => self.give(&arrived, sender).await,
            Look::Missing(_) => {
                let (order, size) = (arrived.order(), arrived.message.length);
                let is_full = self.held.hold(arrived.stamp.origin, place.to_owned(), (order, size), arrived);
                if is_full { self.settle().await } else { Ok(()) }
            }
        }
    }

    /// Looks at what another bus has sent.
    fn look(&mut self, arrived: &Arrived) -> Look {
        let Arrived { source, stamp, message } = arrived;
        let Some(place) = self.place(source, &message.subject) else { return Look::Nothing };
        let times = (source.since, Instant::now());
        if !source.kind.is_of_marks()
            && let Some((verdict, kept)) = self.seen.known(place.as_bytes(), stamp, times)
        {
            return match verdict {
                Verdict::Known => Look::Nothing,
                Verdict::Missing(missing) => Look::Missing(missing),
                Verdict::Take => Look::Take(kept.clone()),
            };
        }
        // Nobody fills the table with what is no topic.
        let is_known = place == WILDCARDS || self.seen.knows_topic(stamp.origin, place.as_bytes());
        if !is_known && self.subjects.topic_at(place).is_none() {
            return Look::Nothing;
        }
        if source.kind.is_of_marks() {
            return match self.seen.mark(place.as_bytes(), stamp, times, || None) {
                0 => Look::Nothing,
                missing => Look::Missing(missing),
            };
        }
        match self.seen.message(place.as_bytes(), stamp, times, || None) {
            Verdict::Known => Look::Nothing,
            Verdict::Missing(missing) => Look::Missing(missing),
            Verdict::Take => Look::Take(None),
        }
    }

    /// Gives a message of another bus to this one.
    async fn give(&mut self, arrived: &Arrived, sender: Option<Arc<Sender>>) -> BusResult<()> {
        let Arrived { source, stamp, message } = arrived;
        let mut payloads = None;
        if stamp.count != 1 {
            payloads = batch::read(message.payload.clone(), stamp.count);
            if payloads.is_none() || message.headers.is_some() {
                self.refuse_batch(source, message, stamp.count);
                return Ok(());
            }
        }
        if source.kind == Taken::Messages && message.headers.is_none() {
            let sender = sender.or_else(|| self.sender(source, message, stamp.origin));
            if let Some(sender) = sender {
                let payloads = payloads.as_deref().unwrap_or(std::slice::from_ref(&message.payload));
                return self.outcomes.send(&sender, payloads).await;
            }
        }
        let Some(target) = self.target(source, message) else { return Ok(()) };
        self.publish(target, message, Some(stamp.origin)).await
    }

    /// Notes that what came as several messages is none.
    fn refuse_batch(&mut self, source: &Source, message: &Message, count: u64) {
        let topic = match self.target(source, message) {
            Some(Target::Topic(topic)) => topic.into(),
            Some(Target::Pattern(pattern)) => pattern,
            None => return,
        };
        let what =
            format!("a message of NATS is no batch of {count} messages, as its subject to reply to says");
        self.outcomes.refuse(topic, count.min(seen::MOST), &BusError::Protocol { what });
    }

    /// Who publishes to a topic of another bus, which is made once.
    fn sender(&mut self, source: &Source, message: &Message, origin: u64) -> Option<Arc<Sender>> {
        let place = self.place(source, &message.subject)?;
        if let Some(Some(kept)) = self.seen.kept(origin, place.as_bytes()) {
            return Some(Arc::clone(kept));
        }
        let Target::Topic(topic) = self.target(source, message)? else { return None };
        let publisher = self.client.publisher_bytes_with(topic.as_str(), options(Some(origin))).ok()?;
        let made = Arc::new(Sender::new(topic, publisher));
        *self.seen.kept(origin, place.as_bytes())? = Some(Arc::clone(&made));
        Some(made)
    }

    /// Publishes a message by itself.
    async fn publish(&mut self, target: Target, message: &Message, origin: Option<u64>) -> BusResult<()> {
        let topic: TopicPattern = match target {
            Target::Topic(topic) => topic.into(),
            Target::Pattern(pattern) => pattern,
        };
        let Ok(envelope::Read { headers, expires }) = envelope::read(message.headers.as_ref()) else {
            let error =
                BusError::Protocol { what: "a message of NATS has headers that cannot be read".into() };
            self.outcomes.refuse(topic, 1, &error);
            return Ok(());
        };
        let mut options = options(origin).headers(headers);
        if let Some(left) = expires {
            options = options.ttl(left);
        }
        self.outcomes.send_alone(topic, message.payload.clone(), options).await
    }

    /// What tells a topic from others in the subject of its messages and of its marks.
    fn place<'a>(&self, source: &Source, subject: &'a str) -> Option<&'a str> {
        match source.kind {
            Taken::Messages => self.subjects.place(Kind::Messages, subject),
            Taken::Marks => self.subjects.place(Kind::Marks, subject),
            Taken::Wildcards | Taken::WildcardMarks => Some(WILDCARDS),
            Taken::Flushed => None,
        }
    }

    /// Where a message is for; `None` for what nobody may send, or is no message.
    fn target(&self, source: &Source, message: &Message) -> Option<Target> {
        let target = match source.kind {
            Taken::Messages => Target::Topic(self.subjects.topic_of(&message.subject)?),
            Taken::Wildcards => {
                Target::Pattern(TopicPattern::new(envelope::topic(message.headers.as_ref())?).ok()?)
            }
            Taken::Marks | Taken::WildcardMarks | Taken::Flushed => return None,
        };
        let is_reserved = match &target {
            Target::Topic(topic) => topic.is_reserved(),
            Target::Pattern(pattern) => pattern.is_reserved(),
        };
        // What is a bus's own is told by that bus.
        (!is_reserved).then_some(target)
    }

    /// Counts what is missing at a place, and says of what; `None` for what nobody here is told of.
    fn loss(&self, place: &str, count: u64) -> Option<Loss> {
        self.counts.missing.fetch_add(count, Ordering::Relaxed);
        if place == WILDCARDS {
            // Nobody knows what they were published to.
            return Some((TopicPattern::everything(), count));
        }
        let topic = self.subjects.topic_at(place).filter(|topic| !topic.is_reserved())?;
        Some((topic.into(), count))
    }
}

impl Arrived {
    /// Its place among what waits of its topic: its number, and marks behind the message of theirs.
    fn order(&self) -> (u64, bool) {
        (self.stamp.number, self.source.kind.is_of_marks())
    }
}

/// Where a message is for.
#[derive(Debug)]
enum Target {
    Topic(Topic),
    /// What was published to a pattern.
    Pattern(TopicPattern),
}

fn options(origin: Option<u64>) -> PublishOptions {
    let options = PublishOptions::default().block_limit(limits::BLOCKING);
    match origin {
        Some(origin) => options.origin(origin),
        None => options,
    }
}
