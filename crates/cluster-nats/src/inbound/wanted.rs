//! What is subscribed to at NATS: what somebody has subscribed to at this bus.
//!
//! A subscription that ends is read on until NATS has answered what was sent to it behind the one that takes its place: what it brings until then may not come by
//! any other one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_nats::Client as Nats;
use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::stream::AbortHandle;
use tokio::time::Instant;
use whispeer::topic::{EntryId, Scratch, Topic, TopicPattern, Trie};
use whispeer::{BusError, BusResult};

use super::intake::Intake;
use super::memory::Since;
use super::{InboundCounts, Source, Taken};
use crate::limits;
use crate::subject::{Kind, Subjects};

/// The subject that nobody is subscribed to: NATS says so, behind all that it has sent before.
const FLUSH: &str = "flush";

/// Where it says that: behind this come the id of the bus and a number.
const FLUSHED: &str = "flushed";

/// A pattern that is wanted.
#[derive(Debug)]
struct Own {
    since: Instant,
    /// Nothing where all topics are subscribed to instead.
    subscribed: Option<Subscribed>,
}

/// The subscriptions at NATS for one pattern.
#[derive(Debug)]
struct Subscribed {
    since: Instant,
    entry: EntryId,
    handles: Vec<AbortHandle>,
}

/// Subscriptions that end when NATS has answered.
#[derive(Debug)]
struct Ending {
    flush: u64,
    until: Instant,
    subscribed: Vec<Subscribed>,
    /// Patterns of them that are not wanted any more.
    unwanted: usize,
}

/// What is subscribed to, and what was.
pub(super) struct Wanted {
    nats: Nats,
    subjects: Subjects,
    counts: Arc<InboundCounts>,
    most: usize,
    flushed: String,
    patterns: HashMap<TopicPattern, Own, RandomState>,
    /// What the link before this one was subscribed to, until it is known what is still wanted of it.
    before: Since,
    began: Instant,
    wildcards_since: Instant,
    /// There are so many patterns that everything is subscribed to.
    everything: Option<Subscribed>,
    /// The numbers of all subscriptions of which something may come.
    living: Trie<u64>,
    scratch: Scratch,
    ending: VecDeque<Ending>,
    last_source: u64,
    last_flush: u64,
}

impl Wanted {
    /// Nothing, of up to `most` patterns, beyond which all topics are subscribed to.
    pub(super) fn new(
        nats: Nats,
        subjects: Subjects,
        own: u64,
        counts: Arc<InboundCounts>,
        most: usize,
    ) -> Self {
        Self {
            flushed: format!("{}.{own:016x}.", subjects.own(FLUSHED)),
            nats,
            subjects,
            counts,
            most,
            patterns: HashMap::default(),
            before: Since::default(),
            began: Instant::now(),
            wildcards_since: Instant::now(),
            everything: None,
            living: Trie::new(),
            scratch: Scratch::new(),
            ending: VecDeque::new(),
            last_source: 0,
            last_flush: 0,
        }
    }

    /// Subscribes to what every bus is subscribed to. What was subscribed to `before`, by the link in whose place this one is, counts as subscribed to
    /// since then.
    ///
    /// # Errors
    /// That the connection to NATS has ended.
    pub(super) async fn begin(&mut self, before: Since, intake: &mut Intake) -> BusResult<()> {
        let since = before.wildcards.unwrap_or(self.wildcards_since);
        (self.before, self.wildcards_since) = (before, since);
        let (wildcards, marks) = (self.subjects.of_wildcards(), self.subjects.of_wildcard_marks());
        self.subscribe(Taken::WildcardMarks, since, [marks], intake).await?;
        self.subscribe(Taken::Wildcards, since, [wildcards], intake).await?;
        let flushed = format!("{}*", self.flushed);
        self.subscribe(Taken::Flushed, since, [flushed], intake).await?;
        Ok(())
    }

    /// Since when there have been subscriptions.
    pub(super) fn since(&mut self) -> Since {
        let mut since = std::mem::take(&mut self.before);
        since.wildcards = Some(self.wildcards_since);
        since.everything = self.everything.as_ref().map(|own| own.since).or(since.everything);
        since.patterns.extend(self.patterns.drain().map(|(pattern, own)| (pattern, own.since)));
        since
    }

    /// Subscribes to what has come to be wanted, and ends what is wanted no more.
    ///
    /// # Errors
    /// That the connection to NATS has ended.
    pub(super) async fn follow(
        &mut self,
        changes: Vec<(TopicPattern, bool)>,
        intake: &mut Intake,
    ) -> BusResult<()> {
        if self.began.elapsed() > limits::WANTED_BEFORE {
            self.before = Since::default();
        }
        let (begun, gone): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(_, is_wanted)| *is_wanted);
        let gone = gone.into_iter().filter_map(|(pattern, _)| self.patterns.remove(&pattern));
        let mut ended: Vec<_> = gone.filter_map(|own| own.subscribed).collect();
        let unwanted = ended.len();
        if self.everything.is_none() && self.patterns.len() + begun.len() > self.most {
            let since = self.before.everything.unwrap_or_else(Instant::now);
            self.everything = Some(self.subscribe_both(&TopicPattern::everything(), since, intake).await?);
            ended.extend(self.patterns.values_mut().filter_map(|own| own.subscribed.take()));
        }
        for (pattern, _) in begun {
            let since = self.before.patterns.remove(&pattern).unwrap_or_else(Instant::now);
            let subscribed = match self.everything.is_some() {
                true => None,
                false => Some(self.subscribe_both(&pattern, since, intake).await?),
            };
            let before = self.patterns.insert(pattern, Own { since, subscribed });
            ended.extend(before.and_then(|own| own.subscribed));
        }
        if self.everything.is_some() && self.patterns.len() <= self.most / 2 {
            let patterns: Vec<_> =
                self.patterns.iter().map(|(pattern, own)| (pattern.clone(), own.since)).collect();
            for (pattern, since) in patterns {
                let subscribed = Some(self.subscribe_both(&pattern, since, intake).await?);
                self.patterns.insert(pattern, Own { since, subscribed });
            }
            ended.extend(self.everything.take());
        }
        // The first changes are all that is wanted.
        self.before = Since::default();
        if !ended.is_empty() {
            self.end(ended, unwanted, intake).await;
        }
        self.count();
        Ok(())
    }

    /// The number of the oldest subscription of which something of this topic may come.
    pub(super) fn oldest(&mut self, topic: &Topic) -> Option<u64> {
        let mut oldest: Option<u64> = None;
        self.living.visit(topic.as_str(), &mut self.scratch, |number| {
            oldest = Some(oldest.map_or(*number, |least| least.min(*number)));
        });
        oldest
    }

    /// NATS has answered at this subject: what was to end by then does so.
    pub(super) fn answered(&mut self, subject: &str, intake: &mut Intake) {
        let Some(number) = subject.strip_prefix(&*self.flushed).and_then(|number| number.parse().ok()) else {
            return;
        };
        while self.ending.front().is_some_and(|ending| ending.flush <= number) {
            self.end_first(intake);
        }
        self.count();
    }

    /// When subscriptions end also without an answer.
    pub(super) fn due(&self) -> Option<Instant> {
        self.ending.front().map(|ending| ending.until)
    }

    /// Ends those that are due without an answer.
    pub(super) fn end_due(&mut self, now: Instant, intake: &mut Intake) {
        while self.ending.front().is_some_and(|ending| ending.until <= now) {
            self.end_first(intake);
        }
        self.count();
    }

    /// All that has come of these subscriptions was looked at.
    pub(super) fn forget(&mut self, ended: Vec<EntryId>) {
        for entry in ended {
            self.living.remove(entry);
        }
    }

    /// Ends subscriptions as soon as NATS has answered.
    async fn end(&mut self, subscribed: Vec<Subscribed>, unwanted: usize, intake: &mut Intake) {
        self.last_flush += 1;
        let flush = self.last_flush;
        self.ending.push_back(Ending { flush, until: Instant::now() + limits::ENDING, subscribed, unwanted });
        let reply = format!("{}{flush}", self.flushed);
        // Without an answer they end in time.
        let _ = self.nats.publish_with_reply(self.subjects.own(FLUSH), reply, Bytes::new()).await;
        let mut count: usize = self.ending.iter().map(|ending| ending.subscribed.len()).sum();
        while count > self.most + 1
            && let Some(first) = self.ending.front()
        {
            count -= first.subscribed.len();
            self.end_first(intake);
        }
    }

    fn end_first(&mut self, intake: &mut Intake) {
        let Some(ending) = self.ending.pop_front() else { return };
        intake.end(ending.subscribed.iter().map(|own| own.entry).collect());
        ending.subscribed.iter().flat_map(|own| &own.handles).for_each(AbortHandle::abort);
        // With this NATS is told.
        intake.read_now();
    }

    fn count(&self) {
        let ending: usize = self.ending.iter().map(|ending| ending.unwanted).sum();
        self.counts.patterns.store((self.patterns.len() + ending) as u64, Ordering::Relaxed);
    }

    /// Subscribes to the messages of a pattern and to their marks.
    async fn subscribe_both(
        &mut self,
        pattern: &TopicPattern,
        since: Instant,
        intake: &mut Intake,
    ) -> BusResult<Subscribed> {
        // Marks first, so that nothing is between the two that neither of them shows.
        let marks = self.subjects.interest(Kind::Marks, pattern).subjects;
        let (_, mut handles) = self.subscribe(Taken::Marks, since, marks, intake).await?;
        let messages = self.subjects.interest(Kind::Messages, pattern).subjects;
        let (number, others) = self.subscribe(Taken::Messages, since, messages, intake).await?;
        handles.extend(others);
        let full = |full| BusError::LimitReached { what: format!("subscriptions at NATS: {full}") };
        let entry = self.living.insert(pattern, number).map_err(full)?;
        Ok(Subscribed { since, entry, handles })
    }

    async fn subscribe(
        &mut self,
        kind: Taken,
        since: Instant,
        subjects: impl IntoIterator<Item = String>,
        intake: &mut Intake,
    ) -> BusResult<(u64, Vec<AbortHandle>)> {
        self.last_source += 1;
        let number = self.last_source;
        let source = Arc::new(Source { number, kind, since });
        let mut handles = Vec::new();
        for subject in subjects {
            let subscriber =
                self.nats.subscribe(subject.clone()).await.map_err(|error| BusError::Closed {
                    what: format!("the connection to NATS, when \"{subject}\" was subscribed to: {error}"),
                })?;
            handles.push(intake.add(Arc::clone(&source), subscriber));
        }
        Ok((number, handles))
    }
}

#[cfg(test)]
mod tests;
