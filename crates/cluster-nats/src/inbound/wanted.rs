//! What is subscribed to at NATS: what somebody has subscribed to at this bus.
//!
//! A subscription that ends is read on until NATS has answered what was sent to it behind the one that takes its place: what it brings until then may not come by
//! any other one. Who wants its pattern again meanwhile gets it back, and where it has just ended, the new one counts as old as that: no message falls between the
//! two untold.

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
    patterns: Vec<TopicPattern>,
}

/// The subscriptions for a pattern that end, or have, and of which something may still be looked at.
#[derive(Debug)]
struct Ended {
    flush: u64,
    subscribed: Subscribed,
    /// The pattern is still wanted: all topics are subscribed to instead.
    is_wanted: bool,
    /// Nothing more comes of them.
    is_over: bool,
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
    /// By their patterns. Each has subscriptions here once at the most, as they are taken from here when it is subscribed to again.
    ended: HashMap<TopicPattern, Ended, RandomState>,
    /// Patterns of them that are subscribed to and not wanted any more.
    unwanted: usize,
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
            ended: HashMap::default(),
            unwanted: 0,
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
        let mut ended = Vec::new();
        for (pattern, _) in gone {
            if let Some(subscribed) = self.patterns.remove(&pattern).and_then(|own| own.subscribed) {
                ended.push(self.note_end(pattern, subscribed, false));
            }
        }
        if self.everything.is_none() && self.patterns.len() + begun.len() > self.most {
            let since = self.before.everything.unwrap_or_else(Instant::now);
            self.everything = Some(self.subscribe_both(&TopicPattern::everything(), since, intake).await?);
            let instead = self.patterns.iter_mut().filter_map(|(pattern, own)| {
                let subscribed = own.subscribed.take()?;
                Some((pattern.clone(), subscribed))
            });
            for (pattern, subscribed) in instead.collect::<Vec<_>>() {
                ended.push(self.note_end(pattern, subscribed, true));
            }
        }
        for (pattern, _) in begun {
            if self.patterns.contains_key(&pattern) {
                continue;
            }
            let since = self.before.patterns.remove(&pattern).unwrap_or_else(Instant::now);
            let subscribed = match self.everything.is_some() {
                true => None,
                false => Some(self.subscribe_both(&pattern, since, intake).await?),
            };
            self.patterns.insert(pattern, Own { since, subscribed });
        }
        if self.everything.is_some() && self.patterns.len() <= self.most / 2 {
            let patterns: Vec<_> =
                self.patterns.iter().map(|(pattern, own)| (pattern.clone(), own.since)).collect();
            for (pattern, since) in patterns {
                let subscribed = Some(self.subscribe_both(&pattern, since, intake).await?);
                self.patterns.insert(pattern, Own { since, subscribed });
            }
            if let Some(everything) = self.everything.take() {
                ended.push(self.note_end(TopicPattern::everything(), everything, true));
            }
        }
        // The first changes are all that is wanted.
        self.before = Since::default();
        if !ended.is_empty() {
            self.flush(ended, intake).await;
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
    pub(super) fn forget(&mut self, ended: Vec<(TopicPattern, EntryId)>) {
        for (pattern, entry) in ended {
            self.living.remove(entry);
            if self.ended.get(&pattern).is_some_and(|ended| ended.subscribed.entry == entry) {
                self.ended.remove(&pattern);
            }
        }
    }

    /// Notes what is to end with the next flush.
    fn note_end(&mut self, pattern: TopicPattern, subscribed: Subscribed, is_wanted: bool) -> TopicPattern {
        self.unwanted += usize::from(!is_wanted);
        let flush = self.last_flush + 1;
        self.ended.insert(pattern.clone(), Ended { flush, subscribed, is_wanted, is_over: false });
        pattern
    }

    /// Ends what was noted of these patterns as soon as NATS has answered.
    async fn flush(&mut self, patterns: Vec<TopicPattern>, intake: &mut Intake) {
        self.last_flush += 1;
        let flush = self.last_flush;
        self.ending.push_back(Ending { flush, until: Instant::now() + limits::ENDING, patterns });
        let reply = format!("{}{flush}", self.flushed);
        // Without an answer they end in time.
        let _ = self.nats.publish_with_reply(self.subjects.own(FLUSH), reply, Bytes::new()).await;
        let mut count: usize = self.ending.iter().map(|ending| ending.patterns.len()).sum();
        while count > self.most + 1
            && let Some(first) = self.ending.front()
        {
            count -= first.patterns.len();
            self.end_first(intake);
        }
    }

    fn end_first(&mut self, intake: &mut Intake) {
        let Some(ending) = self.ending.pop_front() else { return };
        let (mut entries, mut handles) = (Vec::new(), Vec::new());
        for pattern in ending.patterns {
            // What has been wanted again is not here, or ends later.
            if let Some(ended) = self.ended.get_mut(&pattern).filter(|ended| ended.flush == ending.flush) {
                ended.is_over = true;
                self.unwanted -= usize::from(!ended.is_wanted);
                handles.append(&mut ended.subscribed.handles);
                entries.push((pattern, ended.subscribed.entry));
            }
        }
        if entries.is_empty() {
            return;
        }
        intake.end(entries);
        handles.iter().for_each(AbortHandle::abort);
        // With this NATS is told.
        intake.read_now();
    }

    fn count(&self) {
        self.counts.patterns.store((self.patterns.len() + self.unwanted) as u64, Ordering::Relaxed);
    }

    /// The subscriptions for a pattern that were to end and go on; or since when there were some, where they have just ended.
    fn take_back(&mut self, pattern: &TopicPattern) -> Result<Subscribed, Option<Instant>> {
        let ended = self.ended.remove(pattern).ok_or(None)?;
        if ended.is_over {
            return Err(Some(ended.subscribed.since));
        }
        self.unwanted -= usize::from(!ended.is_wanted);
        Ok(ended.subscribed)
    }

    /// Subscribes to the messages of a pattern and to their marks.
    async fn subscribe_both(
        &mut self,
        pattern: &TopicPattern,
        since: Instant,
        intake: &mut Intake,
    ) -> BusResult<Subscribed> {
        let since = match self.take_back(pattern) {
            Ok(subscribed) => return Ok(subscribed),
            Err(before) => before.map_or(since, |before| before.min(since)),
        };
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
