//! What is published elsewhere, on its way to those who have subscribed at this bus.

mod held;
mod outcomes;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Subscriber;
use foldhash::fast::RandomState;
use futures_util::stream::{AbortHandle, Abortable, BoxStream, SelectAll};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, unconstrained};
use tokio::time::{Instant, sleep_until};
use whispeer::bus::{BusView, Interest};
use whispeer::client::{Client, GapReason, PublishOptions};
use whispeer::topic::{Topic, TopicPattern};
use whispeer::{BusError, BusResult};

use self::held::Held;
use self::outcomes::{Loss, Outcomes, Sender};
use crate::envelope;
use crate::limits;
use crate::members::{MemberEvent, Members};
use crate::seen::{Seen, Verdict};
use crate::stamp::{self, Stamp};
use crate::subject::{Kind, Subjects};

/// How much further back than the last that has come others are asked for marks: a link that hangs is found out by then.
const LOOK_BACK: Duration = Duration::from_secs(10);

/// What has become of it so far.
#[derive(Debug, Default)]
pub(crate) struct InboundCounts {
    /// Messages that were published at this bus.
    pub(crate) received: AtomicU64,
    /// Messages that are missing.
    pub(crate) missing: AtomicU64,
    /// Messages that could not be published at this bus.
    pub(crate) refused: AtomicU64,
    /// Patterns that are subscribed to at NATS.
    pub(crate) patterns: AtomicU64,
}

/// What a subscription at NATS is for.
#[derive(Debug)]
struct Source {
    /// In the order in which they were made.
    number: u64,
    kind: Taken,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Messages,
    Marks,
    Wildcards,
    WildcardMarks,
}

/// Messages of one subscription, in the order in which they came.
type Run = (Arc<Source>, Vec<async_nats::Message>);

/// Ends the subscriptions for one pattern when it is dropped.
#[derive(Debug)]
struct Handles(Vec<AbortHandle>);

impl Drop for Handles {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// A message, or a mark, with the place of its topic: what is behind the kind in its subject.
#[derive(Debug)]
struct Arrived {
    source: Arc<Source>,
    stamp: Stamp,
    message: async_nats::Message,
}

/// Takes what is published elsewhere to this bus.
pub(crate) struct Inbound {
    bus: BusView,
    client: Client,
    nats: async_nats::Client,
    subjects: Subjects,
    origin: u64,
    members: Members,
    /// When others are to be asked for marks, and were last.
    ask_at: Option<Instant>,
    asked_at: Option<Instant>,
    /// When something has come last, before the connection was lost.
    heard_at: Instant,
    stamps: String,
    counts: Arc<InboundCounts>,
    sources: SelectAll<BoxStream<'static, Run>>,
    /// What is subscribed to for each pattern.
    patterns: HashMap<TopicPattern, Option<(Arc<Source>, Handles)>, RandomState>,
    /// There are so many patterns that everything is subscribed to.
    everything: Option<(Arc<Source>, Handles)>,
    next_number: u64,
    seen: Seen<Option<Arc<Sender>>>,
    outcomes: Outcomes,
    held: Held<Arrived>,
}

/// The names of the wildcards' subjects among the places of topics, which begin with a dot.
const WILDCARDS: &str = "w";

impl Inbound {
    pub(crate) fn new(
        bus: BusView,
        client: Client,
        nats: async_nats::Client,
        subjects: Subjects,
        members: Members,
        counts: Arc<InboundCounts>,
    ) -> Self {
        Self {
            stamps: format!("{}.", subjects.own(stamp::TOKEN)),
            origin: members.own(),
            members,
            ask_at: None,
            asked_at: None,
            heard_at: Instant::now(),
            bus,
            outcomes: Outcomes::new(client.clone(), Arc::clone(&counts)),
            client,
            nats,
            subjects,
            counts,
            sources: SelectAll::new(),
            patterns: HashMap::default(),
            everything: None,
            next_number: 0,
            seen: Seen::new(limits::KNOWN_TOPICS, limits::SETTLING),
            held: Held::new(limits::REORDERED),
        }
    }

    /// Takes what the patterns of `interest` want from NATS until the bus ends. Each time that `disturbed` changes, messages may have
    /// been missed.
    ///
    /// # Errors
    /// Why the bus or the connection has ended.
    ///
    /// # Cancel safety
    /// What it has taken from NATS and not published is lost; no other bus has another opinion of it.
    pub(crate) async fn run(
        mut self,
        mut interest: Interest,
        mut disturbed: watch::Receiver<u64>,
    ) -> BusResult<()> {
        let wildcards = self.subjects.of_wildcards();
        let marks = self.subjects.of_wildcard_marks();
        let _wildcards = [
            self.subscribe(Taken::Wildcards, [wildcards]).await?,
            self.subscribe(Taken::WildcardMarks, [marks]).await?,
        ];
        let mut events = self.members.events();
        // By itself, as it may have to look at all there is, which is not to begin again with each message.
        let (wants, mut wanted) = mpsc::channel(1);
        let mut watching = JoinSet::new();
        watching.spawn(async move {
            loop {
                let changes = interest.changed().await;
                let has_ended = changes.is_err();
                if wants.send(changes).await.is_err() || has_ended {
                    return;
                }
            }
        });
        loop {
            let settle_at = self.held.since().map(|since| since + limits::REORDERING);
            let outcomes_at = self.outcomes.due();
            tokio::select! {
                Some((source, messages)) = self.sources.next() => {
                    if self.ask_at.is_none() {
                        self.heard_at = Instant::now();
                    }
                    self.take_run(&source, messages).await?;
                    self.settle_if_nothing_comes().await?;
                }
                Some(changes) = wanted.recv() => self.follow(changes?).await?,
                Ok(()) = disturbed.changed() => {
                    disturbed.borrow_and_update();
                    self.ask_soon();
                }
                event = events.recv() => self.note(event),
                refused = self.outcomes.refused() => tell(&self.bus, refused).await?,
                () = sleep_until(outcomes_at.unwrap_or_else(Instant::now)), if outcomes_at.is_some() => {}
                () = sleep_until(self.ask_at.unwrap_or_else(Instant::now)), if self.ask_at.is_some() => self.ask_for_marks().await,
                () = sleep_until(settle_at.unwrap_or_else(Instant::now)), if settle_at.is_some() => {
                    self.settle_if_nothing_comes().await?;
                    if self.held.since().is_some_and(|since| since.elapsed() > 10 * limits::REORDERING) {
                        self.settle().await?;
                    }
                }
            }
        }
    }

    /// Subscribes at NATS to what has come to be wanted, and ends what is wanted no more.
    async fn follow(&mut self, changes: Vec<(TopicPattern, bool)>) -> BusResult<()> {
        for (pattern, is_wanted) in changes {
            if !is_wanted {
                self.patterns.remove(&pattern);
            } else if self.everything.is_some() {
                self.patterns.insert(pattern, None);
            } else {
                let own = self.subscribe_both(&pattern).await?;
                self.patterns.insert(pattern, Some(own));
            }
        }
        if self.everything.is_none() && self.patterns.len() > limits::INTEREST_PATTERNS {
            self.everything = Some(self.subscribe_both(&TopicPattern::everything()).await?);
            self.patterns.values_mut().for_each(|own| *own = None);
        } else if self.everything.is_some() && self.patterns.len() <= limits::INTEREST_PATTERNS / 2 {
            let patterns: Vec<_> = self.patterns.keys().cloned().collect();
            for pattern in patterns {
                let own = self.subscribe_both(&pattern).await?;
                self.patterns.insert(pattern, Some(own));
            }
            self.everything = None;
        }
        self.counts.patterns.store(self.patterns.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Subscribes to the messages of a pattern and to their marks.
    async fn subscribe_both(&mut self, pattern: &TopicPattern) -> BusResult<(Arc<Source>, Handles)> {
        // Marks first, so that nothing is between the two that neither of them shows.
        let marks = self.subjects.interest(Kind::Marks, pattern).subjects;
        let (_, mut handles) = self.subscribe(Taken::Marks, marks).await?;
        let messages = self.subjects.interest(Kind::Messages, pattern).subjects;
        let (source, mut others) = self.subscribe(Taken::Messages, messages).await?;
        handles.0.append(&mut others.0);
        Ok((source, handles))
    }

    async fn subscribe(
        &mut self,
        kind: Taken,
        subjects: impl IntoIterator<Item = String>,
    ) -> BusResult<(Arc<Source>, Handles)> {
        self.next_number += 1;
        let source = Arc::new(Source { number: self.next_number, kind, since: Instant::now() });
        let mut handles = Handles(Vec::new());
        for subject in subjects {
            let subscriber =
                self.nats.subscribe(subject.clone()).await.map_err(|error| BusError::Closed {
                    what: format!("the connection to NATS, when \"{subject}\" was subscribed to: {error}"),
                })?;
            handles.0.push(self.add(Arc::clone(&source), subscriber));
        }
        Ok((source, handles))
    }

    fn add(&mut self, source: Arc<Source>, subscriber: Subscriber) -> AbortHandle {
        let (handle, registration) = AbortHandle::new_pair();
        let runs = subscriber.ready_chunks(limits::INBOUND_RUN).map(move |run| (Arc::clone(&source), run));
        self.sources.push(Abortable::new(runs, registration).boxed());
        handle
    }

    /// What becomes of other buses tells whether something of theirs was lost.
    fn note(&mut self, event: Result<MemberEvent, RecvError>) {
        match event {
            // One that was gone is back; of a new one there is nothing to miss.
            Ok(MemberEvent::Joined { id }) if !self.seen.knows(id) => {}
            // What was lost may have had company.
            Ok(MemberEvent::Joined { .. } | MemberEvent::Missed { .. } | MemberEvent::Reconnected { .. })
            | Err(RecvError::Lagged(_)) => self.ask_soon(),
            _ => {}
        }
    }

    /// Others are to be asked for marks, but not too often.
    fn ask_soon(&mut self) {
        let now = Instant::now();
        let next = self.asked_at.map_or(now, |asked| asked + limits::ASK_AGAIN);
        self.ask_at.get_or_insert(next.max(now));
    }

    /// Asks all buses for marks of what they have sent since something has come last.
    async fn ask_for_marks(&mut self) {
        let now = Instant::now();
        (self.ask_at, self.asked_at) = (None, Some(now));
        let back = now.saturating_duration_since(self.heard_at) + LOOK_BACK;
        let subject = self.subjects.own(AGAIN);
        let millis = back.as_millis().to_string();
        // Where NATS is away again, that will be another disturbance.
        let _ = self.nats.publish(subject, millis.into()).await;
    }

    async fn take_run(&mut self, source: &Arc<Source>, messages: Vec<async_nats::Message>) -> BusResult<()> {
        for message in messages {
            let stamp = message.reply.as_ref().and_then(|reply| Stamp::read(reply, &self.stamps));
            match stamp {
                Some(stamp) if stamp.origin == self.origin => {}
                Some(stamp) => {
                    self.take_stamped(Arrived { source: Arc::clone(source), stamp, message }, false).await?
                }
                None => self.take_plain(source, &message).await?,
            }
        }
        Ok(())
    }

    /// Takes what no bus has sent. It has no number, so that of several subscriptions that bring it the oldest one counts.
    async fn take_plain(&mut self, source: &Source, message: &async_nats::Message) -> BusResult<()> {
        let Some(target) = self.target(source, message) else { return Ok(()) };
        if let (Target::Topic(topic), None) = (&target, &self.everything) {
            let own = self.patterns.iter().filter(|(pattern, _)| pattern.matches(topic));
            let oldest = own.filter_map(|(_, own)| own.as_ref().map(|(source, _)| source.number)).min();
            if oldest != Some(source.number) {
                return Ok(());
            }
        }
        self.publish(&target, None, message, None).await
    }

    /// Takes what another bus has sent; it `settles` where nothing can come any more that was sent before.
    async fn take_stamped(&mut self, arrived: Arrived, settles: bool) -> BusResult<()> {
        let Arrived { source, stamp, message } = &arrived;
        let Some(place) = self.place(source, &message.subject) else { return Ok(()) };
        if !settles && self.held.holds(stamp.origin, place) {
            return self.hold(place.to_owned(), arrived).await;
        }
        let times = (source.since, Instant::now());
        // Nobody fills the table with what is no topic.
        let is_known = place == WILDCARDS || self.seen.knows_topic(stamp.origin, place.as_bytes());
        if !is_known && self.subjects.topic_at(place).is_none() {
            return Ok(());
        }
        if matches!(source.kind, Taken::Marks | Taken::WildcardMarks) {
            let missing = self.seen.mark(place.as_bytes(), stamp, times, || None);
            if missing == 0 {
                return Ok(());
            }
            if !settles {
                return self.hold(place.to_owned(), arrived).await;
            }
            self.seen.pass(place.as_bytes(), stamp);
            return self.lose(place, missing).await;
        }
        match self.seen.message(place.as_bytes(), stamp, times, || None) {
            Verdict::Known => return Ok(()),
            Verdict::Missing(_) if !settles => return self.hold(place.to_owned(), arrived).await,
            Verdict::Missing(missing) => {
                self.seen.pass(place.as_bytes(), stamp);
                self.lose(place, missing).await?;
            }
            Verdict::Take => {}
        }
        let Some(target) = self.target(source, message) else { return Ok(()) };
        let sender = self.sender(place, &target, stamp.origin);
        self.publish(&target, sender, message, Some(stamp.origin)).await
    }

    async fn hold(&mut self, place: String, arrived: Arrived) -> BusResult<()> {
        let is_mark = matches!(arrived.source.kind, Taken::Marks | Taken::WildcardMarks);
        if self.held.hold(arrived.stamp.origin, place, (arrived.stamp.number, is_mark), arrived) {
            Box::pin(self.settle()).await?;
        }
        Ok(())
    }

    /// What is held up does not wait any longer once all that has come was looked at.
    async fn settle_if_nothing_comes(&mut self) -> BusResult<()> {
        let mut rounds = 0;
        while self.held.since().is_some() {
            // Whatever the task has done in its turn: nothing may be taken for missing that is there.
            match unconstrained(self.sources.next()).now_or_never() {
                Some(Some((source, messages))) => self.take_run(&source, messages).await?,
                _ => return self.settle().await,
            }
            rounds += 1;
            if rounds >= limits::INBOUND_RUN {
                // Others get their turn; it is settled in time.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes what is held up, with what is missing before it.
    async fn settle(&mut self) -> BusResult<()> {
        for arrived in self.held.take() {
            Box::pin(self.take_stamped(arrived, true)).await?;
        }
        Ok(())
    }

    /// What tells a topic from others in the subject of its messages and of its marks.
    fn place<'a>(&self, source: &Source, subject: &'a str) -> Option<&'a str> {
        match source.kind {
            Taken::Messages => self.subjects.place(Kind::Messages, subject),
            Taken::Marks => self.subjects.place(Kind::Marks, subject),
            Taken::Wildcards | Taken::WildcardMarks => Some(WILDCARDS),
        }
    }

    /// Where a message is for; `None` for what nobody may send, or is no message.
    fn target(&self, source: &Source, message: &async_nats::Message) -> Option<Target> {
        let target = match source.kind {
            Taken::Messages => Target::Topic(self.subjects.topic_of(&message.subject)?),
            Taken::Wildcards => {
                Target::Pattern(TopicPattern::new(envelope::topic(message.headers.as_ref())?).ok()?)
            }
            Taken::Marks | Taken::WildcardMarks => return None,
        };
        let is_reserved = match &target {
            Target::Topic(topic) => topic.is_reserved(),
            Target::Pattern(pattern) => pattern.is_reserved(),
        };
        // What is a bus's own is told by that bus.
        (!is_reserved).then_some(target)
    }

    /// Who publishes to a topic of another bus, which is made once.
    fn sender(&mut self, place: &str, target: &Target, origin: u64) -> Option<Arc<Sender>> {
        let Target::Topic(topic) = target else { return None };
        let kept = self.seen.kept(origin, place.as_bytes())?;
        if kept.is_none() {
            let made = self.client.publisher_bytes_with(topic.as_str(), options(Some(origin)));
            *kept = made.ok().map(|publisher| Arc::new(Sender::new(topic.clone(), publisher)));
        }
        kept.clone()
    }

    async fn publish(
        &mut self,
        target: &Target,
        sender: Option<Arc<Sender>>,
        message: &async_nats::Message,
        origin: Option<u64>,
    ) -> BusResult<()> {
        if let (Some(sender), None) = (sender, &message.headers) {
            return self.outcomes.send(&sender, &message.payload).await;
        }
        let topic = || match target {
            Target::Topic(topic) => topic.clone().into(),
            Target::Pattern(pattern) => pattern.clone(),
        };
        let Ok(envelope::Read { headers, expires }) = envelope::read(message.headers.as_ref()) else {
            let error = BusError::Protocol { what: "a message of NATS has headers that cannot be read".into() };
            self.outcomes.refuse(topic(), 1, &error);
            return Ok(());
        };
        let mut options = options(origin).headers(headers);
        if let Some(left) = expires {
            options = options.ttl(left);
        }
        let topic = topic();
        match self.client.send_bytes_with(topic.as_str(), message.payload.clone(), options).await {
            Ok(answer) => self.outcomes.wait_for(topic, answer),
            Err(error) if self.client.close_reason().is_some() => return Err(error),
            Err(error) => self.outcomes.refuse(topic, 1, &error),
        }
        Ok(())
    }

    /// Tells those who would have had messages that they are missing.
    async fn lose(&mut self, place: &str, count: u64) -> BusResult<()> {
        self.counts.missing.fetch_add(count, Ordering::Relaxed);
        let topic = match place {
            // Nobody knows what they were published to.
            WILDCARDS => TopicPattern::everything(),
            place => match self.subjects.topic_at(place) {
                Some(topic) if !topic.is_reserved() => topic.into(),
                _ => return Ok(()),
            },
        };
        // What came before is there by then.
        self.client.flush().await?;
        tell(&self.bus, vec![(topic, count)]).await
    }
}

/// Tells those who would have had messages that these do not come.
async fn tell(bus: &BusView, losses: Vec<Loss>) -> BusResult<()> {
    for (topic, count) in losses {
        if let Err(closed @ BusError::Closed { .. }) = bus.lost(&topic, count, GapReason::Link).await {
            return Err(closed);
        }
    }
    Ok(())
}

/// The token of the subject where marks are asked for.
pub(crate) const AGAIN: &str = "again";

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
