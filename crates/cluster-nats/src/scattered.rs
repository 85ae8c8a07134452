//! Which topics are served at which buses, for requests to many of them.
//!
//! `$bus/uplink/topics` is served at each bus by its link, as long as there are others. Asked with a pattern, that asks all buses at
//! `{prefix}.serving`, which answer with the topics that are served there and meet it; each is asked for then as any other topic that
//! nobody serves here.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client as Nats, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use whispeer::bus::BusView;
use whispeer::client::{Client, RequestId, Serving};
use whispeer::limits::SCATTER_LIMIT;
use whispeer::proto::ServedElsewhere;
use whispeer::topic::{Topic, TopicPattern};
use whispeer::{BusError, BusResult, ErrorReply};

use crate::limits;
use crate::members::{Connection, Members, read_id, written};
use crate::subject::Subjects;
use crate::survey::Survey;

/// Where a bus asks its link what is served at others.
const TOPICS: &str = "$bus/uplink/topics";

/// The token of the subject where all buses are asked.
const SERVING: &str = "serving";

/// The code of an answer that says why nothing is known of the others.
const UNKNOWN: &str = "topics-unknown";

/// What one bus serves, of what meets a pattern.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    id: String,
    topics: Vec<String>,
    /// How many more there are, at the least.
    #[serde(default)]
    left_out: u32,
}

/// What it takes to tell what is served here, and to ask others.
#[derive(Clone)]
pub(crate) struct Scattered {
    pub(crate) bus: BusView,
    pub(crate) client: Client,
    pub(crate) nats: Nats,
    pub(crate) subjects: Subjects,
    pub(crate) members: Members,
    /// Whether there is a connection to NATS.
    pub(crate) connection: Connection,
    /// Buses that were asked and have not answered in time.
    pub(crate) silent: Arc<AtomicU64>,
}

impl Scattered {
    /// Subscribes to the questions of others. Who knows of this bus before that waits for its answer in vain.
    ///
    /// # Errors
    /// That the connection to NATS has ended.
    ///
    /// # Cancel safety
    /// Nothing is left when the future is dropped.
    pub(crate) async fn listen(&self) -> BusResult<Subscriber> {
        self.nats.subscribe(self.subjects.own(SERVING)).await.map_err(|_| closed())
    }

    /// Answers others and this bus until the bus ends.
    ///
    /// # Errors
    /// Why it has ended.
    ///
    /// # Cancel safety
    /// Who has asked and has no answer yet is told that there is none.
    pub(crate) async fn run(mut self, mut questions: Subscriber) -> BusResult<()> {
        let mut events = self.members.events();
        let mut serving = None;
        let mut asking = JoinSet::new();
        loop {
            self.follow(&mut serving).await?;
            tokio::select! {
                question = questions.next() => self.answer(question.ok_or_else(closed)?).await,
                asked = next(&mut serving), if asking.len() < limits::SERVING_SURVEYS => {
                    let (pattern, id) = asked.ok_or_else(closed)?;
                    let scattered = self.clone();
                    asking.spawn(async move { scattered.ask(pattern, id).await });
                }
                Some(_) = asking.join_next(), if !asking.is_empty() => {}
                event = events.recv() => {
                    if event == Err(RecvError::Closed) {
                        return Err(closed());
                    }
                }
                changed = self.connection.changed() => changed.map_err(|_| closed())?,
            }
        }
    }

    /// Has this bus ask as long as there are others: alone it is not to wait for anything.
    async fn follow(&self, serving: &mut Option<Serving<Bytes>>) -> BusResult<()> {
        let has_others = self.connection.borrow().is_some() && !self.members.is_alone();
        match (has_others, &serving) {
            (true, None) => match self.client.serve_bytes(TOPICS).await {
                Ok(begun) => *serving = Some(begun),
                // It takes no requests any more either.
                Err(BusError::Draining { .. }) => {}
                Err(error) => return Err(error),
            },
            (false, Some(_)) => *serving = None,
            _ => {}
        }
        Ok(())
    }

    /// Tells another bus what is served here.
    async fn answer(&self, question: Message) {
        let Some(reply) = question.reply else { return };
        let Ok(pattern) = TopicPattern::from_utf8(&question.payload) else { return };
        let told = self.told(&pattern);
        if let Ok(told) = serde_json::to_vec(&told) {
            // Who has asked may be gone, and so may this link.
            let _ = self.nats.publish(reply, told.into()).await;
        }
    }

    /// What is served here and meets the pattern, as far as NATS takes it as one message.
    fn told(&self, pattern: &TopicPattern) -> Told {
        let id = written(self.members.own());
        // Clients of a bus that drains are on their way to others.
        let is_asked = !self.bus.is_draining() && !pattern.is_reserved();
        let found = match is_asked {
            true => self.bus.served_topics(pattern, SCATTER_LIMIT + 1),
            false => Ok(Vec::new()),
        };
        let Ok(mut found) = found else {
            // The pattern leads through too much of what is served here.
            return Told { id, topics: Vec::new(), left_out: 1 };
        };
        let mut left_out = found.len().saturating_sub(SCATTER_LIMIT);
        found.truncate(SCATTER_LIMIT);
        let mut room = self.nats.max_payload().saturating_sub(limits::SERVING_ANSWER_BYTES);
        let mut topics = Vec::new();
        for topic in found {
            // As it is written, with what separates it from the next one.
            let size = serde_json::to_string(topic.as_str()).map_or(usize::MAX, |text| text.len() + 1);
            match room.checked_sub(size) {
                Some(left) => {
                    room = left;
                    topics.push(topic.to_string());
                }
                None => left_out += 1,
            }
        }
        Told { id, topics, left_out: u32::try_from(left_out).unwrap_or(u32::MAX) }
    }

    /// Tells this bus what is served at others.
    async fn ask(self, pattern: TopicPattern, id: RequestId) {
        let patience = id.time_left().map_or(limits::SERVING_TOLD, |left| left.min(limits::SERVING_TOLD));
        let mut connection = self.connection.clone();
        connection.borrow_and_update();
        let told = tokio::select! {
            biased;
            () = id.cancelled() => return,
            // There is nobody else without a connection.
            _ = connection.changed() => Ok(ServedElsewhere::default()),
            told = self.survey(&pattern, patience) => told,
        };
        // Who has asked may not wait any more.
        let _ = match told {
            Ok(told) => self.client.respond_bytes(id, told.encode().into()).await,
            Err(error) => self.client.respond_error(id, ErrorReply::new(UNKNOWN, error.to_string())).await,
        };
    }

    async fn survey(&self, pattern: &TopicPattern, patience: Duration) -> BusResult<ServedElsewhere> {
        let survey = Survey::new(self.nats.clone(), self.subjects.own(SERVING), self.members.clone());
        // They are put together as they come: together they could be as many times as large as there are buses.
        let union = Mutex::new(Union::default());
        let read = |payload: &[u8]| {
            let told: Told = serde_json::from_slice(payload).ok()?;
            let bus = read_id(&told.id)?;
            self.members.epoch(bus)?;
            union.lock().unwrap_or_else(PoisonError::into_inner).add(told);
            Some((bus, ()))
        };
        let question = Bytes::copy_from_slice(pattern.as_str().as_bytes());
        let silent = survey.ask(question, patience, read).await?.silent.len();
        self.silent.fetch_add(silent as u64, Ordering::Relaxed);
        let Union { told, .. } = union.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(told)
    }
}

/// What several buses serve.
#[derive(Default)]
struct Union {
    seen: HashSet<Topic>,
    told: ServedElsewhere,
}

impl Union {
    fn add(&mut self, told: Told) {
        let Self { seen, told: all } = self;
        all.left_out = all.left_out.saturating_add(told.left_out);
        for topic in told.topics.iter().filter_map(|topic| Topic::new(topic).ok()) {
            if seen.contains(&topic) {
                continue;
            }
            if seen.len() >= SCATTER_LIMIT {
                all.left_out = all.left_out.saturating_add(1);
                continue;
            }
            seen.insert(topic.clone());
            all.topics.push(topic);
        }
    }
}

/// The next question of this bus, if it asks.
async fn next(serving: &mut Option<Serving<Bytes>>) -> Option<(TopicPattern, RequestId)> {
    match serving {
        Some(serving) => serving.recv().await.map(|(pattern, id, _)| (pattern, id)),
        None => std::future::pending().await,
    }
}

impl fmt::Debug for Scattered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Scattered").finish_non_exhaustive()
    }
}

fn closed() -> BusError {
    BusError::Closed { what: "the link to NATS".into() }
}
