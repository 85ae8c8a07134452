//! Publishes that take more than one turn.
//!
//! A published wildcard may have to be looked for in the whole table, a message may have as many matches as
//! there are subscriptions, and a publish to several topics does all that for each. What the turn of its
//! session has no time for goes on in the next one, and what the session has sent behind it waits. First
//! all matches are looked up, then all of them get the message: what fails has reached nobody.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use foldhash::fast::RandomState;

use super::Shared;
use super::backlog::Asked;
use super::router::{Target, Targets};
use super::subscription::Slot;
use super::task::SessionTask;
use crate::error::BusError;
use crate::limits;
use crate::proto::fields::{Field, FieldsBuilder, Quality, iterate};
use crate::proto::{Content, ContentRef, Header, Payload};
use crate::topic::{TopicPattern, validate_pattern_bytes};

/// Counts a publish among those that draining has to wait for.
#[derive(Debug)]
pub(super) struct Waiting(Arc<Shared>);

impl Waiting {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        shared.publishes_waiting.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.publishes_waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A publish that goes on in the next turn.
#[derive(Debug)]
pub(super) struct Underway {
    header: Header,
    content: Arc<Content>,
    /// Bytes of the frame that it came in.
    arrived: usize,
    /// What the publisher asks for.
    asked: Asked,
    several: Option<Several>,
    stage: Stage,
    /// Found so far; for several topics in their order.
    targets: Vec<Target>,
    matches: u64,
    _waiting: Waiting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    LookingUp,
    /// So many targets have been served.
    Delivering(usize),
}

/// What a publish to several topics has beside.
#[derive(Debug)]
struct Several {
    topics: Vec<TopicPattern>,
    /// Of the topics that have been looked up: where their targets end.
    ends: Vec<usize>,
    /// What is delivered of the fields.
    fields: Vec<u8>,
    payload: Payload,
    /// What plugins have made of it for topics of these numbers.
    versions: HashMap<usize, (Vec<u8>, Payload), RandomState>,
    /// Bytes of these.
    version_bytes: usize,
    /// Each subscription gets the message once.
    reached: HashSet<(u64, Option<Slot>), RandomState>,
}

impl Several {
    fn read(content: &Content) -> Result<Self, BusError> {
        let mut topics = vec![TopicPattern::from_utf8(content.topic())?];
        let mut kept = FieldsBuilder::new();
        for field in iterate(content.fields()) {
            match field {
                Field::Topic(topic) => topics.push(TopicPattern::new(topic)?),
                Field::Header { name, value } => kept.header(name, value)?,
                Field::Origin(bus) => kept.origin(bus)?,
                Field::Expires(left) => kept.expires(left)?,
                _ => {}
            }
        }
        if topics.len() > limits::PUBLISH_MANY_TOPICS {
            let what =
                format!("a publish to {} topics; at most {}", topics.len(), limits::PUBLISH_MANY_TOPICS);
            return Err(BusError::LimitReached { what });
        }
        Ok(Self {
            topics,
            ends: Vec::new(),
            fields: kept.as_bytes().to_vec(),
            payload: content.shared_payload(),
            versions: HashMap::default(),
            version_bytes: 0,
            reached: HashSet::default(),
        })
    }
}

impl Underway {
    /// Bytes of memory that it holds.
    pub(super) fn held(&self) -> usize {
        let reached = self.several.as_ref().map_or(0, |several| several.reached.capacity());
        let versions = self.several.as_ref().map_or(0, |several| several.version_bytes);
        self.content.size()
            + self.targets.capacity() * size_of::<Target>()
            + versions
            + reached * size_of::<(u64, Option<Slot>)>()
    }

    /// Whether some matches may have the message.
    pub(super) fn is_delivering(&self) -> bool {
        matches!(self.stage, Stage::Delivering(_))
    }
}

impl SessionTask {
    /// Begins a publish to several topics: each subscription gets it once, under the first topic it meets.
    pub(super) fn begin_several(
        &mut self,
        header: &Header,
        content: &ContentRef<'_>,
        (asked, quality): (Asked, Quality),
    ) -> Result<Option<u64>, BusError> {
        let content = content.shared();
        let mut several = Several::read(&content)?;
        if self.plugged.is_some() {
            self.judge_several(&mut several)?;
        }
        for topic in &several.topics {
            self.may_publish(topic.as_str(), topic.is_reserved())?;
            if self.stream_of(topic, quality)?.is_some() {
                let what = format!("\"{topic}\" is kept in a stream; publish to it by itself");
                return Err(BusError::InvalidSettings(what));
            }
        }
        self.begin(header, content, asked, Some(several), Vec::new())
    }

    /// Shows the message to plugins for each of its topics.
    fn judge_several(&mut self, several: &mut Several) -> Result<(), BusError> {
        let limit = self.shared.settings.frame_limit;
        self.matches += several.topics.len() as u64;
        for index in 0..several.topics.len() {
            let Some(topic) = several.topics.get(index).cloned() else { break };
            let Several { fields, payload, .. } = &*several;
            let came = ContentRef::with_payload(fields, topic.as_str().as_bytes(), payload);
            let Some(changed) = self.judge(&came)? else { continue };
            let grown = changed.fields.len() + changed.payload.as_ref().map_or(0, |payload| payload.len());
            several.version_bytes += grown;
            if several.version_bytes > limit {
                // All versions together: each may be as large as a frame, and there may be hundreds.
                return Err(BusError::FrameTooLarge { size: several.version_bytes, limit });
            }
            let payload = changed.payload.map_or_else(|| several.payload.clone(), Payload::Bytes);
            several.versions.insert(index, (changed.fields, payload));
            if let Some(own) = several.topics.get_mut(index) {
                *own = changed.topic;
            }
        }
        Ok(())
    }

    /// Begins a publish to one topic that takes longer than what is left of the turn. What is to be
    /// delivered is in `targets`, or still to be looked up.
    pub(super) fn begin_one(
        &mut self,
        header: &Header,
        content: &ContentRef<'_>,
        asked: Asked,
        targets: Vec<Target>,
    ) -> Result<Option<u64>, BusError> {
        self.begin(header, content.shared(), asked, None, targets)
    }

    fn begin(
        &mut self,
        header: &Header,
        content: Arc<Content>,
        asked: Asked,
        several: Option<Several>,
        targets: Vec<Target>,
    ) -> Result<Option<u64>, BusError> {
        let stage = if targets.is_empty() { Stage::LookingUp } else { Stage::Delivering(0) };
        let mut publish = Underway {
            header: *header,
            arrived: self.arrived_size.unwrap_or(content.frame_size()),
            content,
            asked,
            several,
            stage,
            targets,
            matches: 0,
            _waiting: Waiting::new(&self.shared),
        };
        if self.go_on(&mut publish)? {
            return Ok(Some(publish.matches));
        }
        self.suspend(publish);
        Ok(None)
    }

    /// Ends the turn, so that the publish goes on in the next one.
    fn suspend(&mut self, publish: Underway) {
        self.underway = Some(publish);
        self.matches = self.matches.max(limits::TURN_MATCHES);
    }

    /// Goes on with the publish under way; returns whether none is any more.
    pub(super) fn proceed(&mut self) -> bool {
        let Some(mut publish) = self.underway.take() else { return true };
        let result = match self.go_on(&mut publish) {
            Ok(true) => Ok(publish.matches),
            Ok(false) => {
                self.suspend(publish);
                return false;
            }
            Err(error) => Err(error),
        };
        self.conclude(&publish.header, publish.arrived, result);
        true
    }

    /// Does what the turn has time for; returns whether all is done.
    fn go_on(&mut self, publish: &mut Underway) -> Result<bool, BusError> {
        if self.matches_left() == 0 {
            return Ok(false);
        }
        if publish.stage == Stage::LookingUp {
            let looked_up = match &mut publish.several {
                None => self.look_up_one(publish)?,
                Some(several) => self.look_up_several(several, &mut publish.targets)?,
            };
            if !looked_up {
                return Ok(false);
            }
            publish.stage = Stage::Delivering(0);
        }
        while let Stage::Delivering(from) = publish.stage
            && from < publish.targets.len()
        {
            let room = self.matches_left();
            if room == 0 {
                return Ok(false);
            }
            let to = self.deliver_some(publish, from, room);
            publish.stage = Stage::Delivering(to);
        }
        self.cache.keep(mem::take(&mut publish.targets));
        Ok(true)
    }

    fn look_up_one(&mut self, publish: &mut Underway) -> Result<bool, BusError> {
        let content = publish.content.borrowed();
        let (text, shape) = validate_pattern_bytes(content.topic)?;
        let looked_up = self.with_steps(|task, steps| {
            let router = &task.shared.router;
            task.cache.look_up(text, shape, router, steps)
        })?;
        match looked_up {
            None => return Ok(false),
            Some(Targets::Fresh(targets)) => publish.targets = targets,
            // So few that it would not be worth a turn to stop among them.
            Some(Targets::Cached(route)) => {
                let size = content.frame_size();
                publish.matches += self.deliver(&route.targets, &content, size, publish.asked);
            }
        }
        Ok(true)
    }

    fn look_up_several(
        &mut self,
        several: &mut Several,
        targets: &mut Vec<Target>,
    ) -> Result<bool, BusError> {
        while let Some(topic) = several.topics.get(several.ends.len()) {
            let done = self.with_steps(|task, steps| {
                let router = &task.shared.router;
                task.cache.look_up_once(topic, router, steps)
            })?;
            let found = self.cache.found();
            // To tell them apart is work, too.
            self.matches += found.len() as u64;
            targets.extend(
                found.filter(|target| target.is_relay() || several.reached.insert(target.identity())),
            );
            if done {
                several.ends.push(targets.len());
            }
            if !done || self.matches_left() == 0 {
                return Ok(false);
            }
        }
        several.reached = HashSet::default();
        Ok(true)
    }

    /// Gives the message to at most `room` of the targets from `from` on; returns where it stopped.
    fn deliver_some(&mut self, publish: &mut Underway, from: usize, room: usize) -> usize {
        let Underway { content, asked, several, targets, matches, .. } = publish;
        let Some(several) = several else {
            let to = targets.len().min(from + room);
            let content = content.borrowed();
            *matches += self.deliver(&targets[from..to], &content, content.frame_size(), *asked);
            return to;
        };
        // The first topic whose targets are not all served.
        let index = several.ends.partition_point(|end| *end <= from);
        let (Some(end), Some(topic)) = (several.ends.get(index), several.topics.get(index)) else {
            return targets.len();
        };
        let to = (*end).min(from + room);
        let version = several.versions.get(&index).map(|(fields, payload)| (fields, payload));
        let (fields, payload) = version.unwrap_or((&several.fields, &several.payload));
        let one = ContentRef::with_payload(fields, topic.as_str().as_bytes(), payload);
        *matches += self.deliver(&targets[from..to], &one, one.frame_size(), *asked);
        to
    }

    /// Lets `look_up` take the steps that are left of the turn, and counts those it took.
    pub(super) fn with_steps<T>(&mut self, look_up: impl FnOnce(&mut Self, &mut usize) -> T) -> T {
        let allowed = (self.matches_left() / limits::MATCHES_PER_STEP).max(limits::LOOKUP_HOLD);
        let mut left = allowed;
        let result = look_up(self, &mut left);
        self.matches += ((allowed - left) * limits::MATCHES_PER_STEP) as u64;
        result
    }

    /// Matches that may be served in this turn.
    pub(super) fn matches_left(&self) -> usize {
        usize::try_from(limits::TURN_MATCHES.saturating_sub(self.matches)).unwrap_or(usize::MAX)
    }
}
