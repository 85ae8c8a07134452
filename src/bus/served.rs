//! What is served, as it changes: for parts of the process that tell others of it.
//!
//! Each watch has a set of topics that have changed since it was asked, and looks up how they are served when it is. So what comes
//! and goes quickly costs it nothing, and what it has to keep is bounded: with too many changed topics it is told all that there are.

use std::collections::HashSet;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use foldhash::fast::RandomState;
use tokio::sync::{Notify, watch};

use super::Shared;
use super::answers::refusal_content;
use super::requests::claim;
use super::service::Ended;
use super::supervisor::Phase;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::ServeMode;
use crate::proto::{Header, Kind};
use crate::topic::Topic;

/// How a topic is served.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served {
    /// The group that shares it; `None` for a single server.
    pub group: Option<String>,
    /// How the first of its servers has come that are there now: to serve what nobody else did, or in place of others.
    pub mode: ServeMode,
    /// Tells this from how the topic was served before and will be later, at this bus: another first server, or one in place of
    /// all that were there, has another number.
    pub number: u64,
}

/// What has changed of what is served.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServedNews {
    /// Whether these are all topics that are served: what is not among them is not.
    pub is_all: bool,
    /// The topics, and how they are served now; `None` where they are not any more.
    pub topics: Vec<(Topic, Option<Served>)>,
}

/// Who watches what is served.
#[derive(Debug, Default)]
pub(super) struct ServedChanges {
    /// There is a watch.
    watched: AtomicBool,
    watches: Mutex<Vec<Weak<Noted>>>,
}

/// What has changed since a watch was asked.
#[derive(Debug, Default)]
pub(super) struct Noted {
    changed: Mutex<Changed>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Changed {
    /// All is to be told, because nothing has been told yet or too much has changed.
    all: bool,
    topics: HashSet<Topic, RandomState>,
}

impl Noted {
    fn lock(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Changed {
    fn add(&mut self, topic: &Topic) {
        if self.all {
            return;
        }
        self.topics.insert(topic.clone());
        if self.topics.len() > limits::SERVED_CHANGES {
            *self = Self { all: true, ..Self::default() };
        }
    }
}

impl ServedChanges {
    fn watches(&self) -> MutexGuard<'_, Vec<Weak<Noted>>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a topic is served, no more or otherwise. It may be called under the lock of the table.
    pub(super) fn note(&self, topic: &Topic) {
        // Whoever begins to watch is told all first, so that nothing is missed in between.
        if !self.watched.load(Ordering::SeqCst) || topic.is_reserved() {
            return;
        }
        let mut watches = self.watches();
        watches.retain(|watch| match watch.upgrade() {
            Some(noted) => {
                noted.lock().add(topic);
                noted.wake.notify_one();
                true
            }
            None => false,
        });
        if watches.is_empty() {
            self.watched.store(false, Ordering::SeqCst);
        }
    }

    pub(super) fn watch(&self) -> BusResult<Arc<Noted>> {
        let mut watches = self.watches();
        watches.retain(|watch| watch.strong_count() > 0);
        if watches.len() >= limits::SERVED_WATCHES {
            let what = format!("{} watches of what is served at this bus", limits::SERVED_WATCHES);
            return Err(BusError::LimitReached { what });
        }
        let noted = Arc::new(Noted::default());
        noted.lock().all = true;
        watches.push(Arc::downgrade(&noted));
        self.watched.store(true, Ordering::SeqCst);
        Ok(noted)
    }
}

/// Tells what is served at a bus, as it changes. Made by [`BusView::watch_served`](super::BusView::watch_served).
///
/// It does not keep the bus alive.
pub struct ServedWatch {
    shared: Weak<Shared>,
    noted: Arc<Noted>,
    phase: watch::Receiver<Phase>,
}

impl ServedWatch {
    pub(super) fn new(shared: &Arc<Shared>, noted: Arc<Noted>, phase: watch::Receiver<Phase>) -> Self {
        Self { shared: Arc::downgrade(shared), noted, phase }
    }

    /// What has changed since the last news: as soon as something has. `None` when the bus has stopped.
    ///
    /// # Cancel safety
    /// No news are lost when the future is dropped.
    pub async fn next(&mut self) -> Option<ServedNews> {
        loop {
            if let Some(news) = self.news()? {
                return Some(news);
            }
            let changed = pin!(self.noted.wake.notified());
            tokio::select! {
                () = changed => {}
                _ = self.phase.wait_for(|phase| *phase == Phase::Stopped) => return None,
            }
        }
    }

    /// The news there are; `None` in the outer when the bus has stopped.
    #[expect(clippy::option_option, reason = "there may be no bus, and there may be no news of it")]
    fn news(&self) -> Option<Option<ServedNews>> {
        let shared = self.shared.upgrade().filter(|_| *self.phase.borrow() != Phase::Stopped)?;
        let Changed { all, topics } = std::mem::take(&mut *self.noted.lock());
        // They are looked up after they were taken, so that a later change is noted anew.
        if all {
            let topics = shared.services.all_served();
            let topics = topics.into_iter().map(|(topic, served)| (topic, Some(served))).collect();
            return Some(Some(ServedNews { is_all: true, topics }));
        }
        if topics.is_empty() {
            return Some(None);
        }
        let look_up = |topic: Topic| {
            let served = shared.services.served(&topic);
            (topic, served)
        };
        Some(Some(ServedNews { is_all: false, topics: topics.into_iter().map(look_up).collect() }))
    }
}

impl Shared {
    /// Ends all servings of a topic for this reason, if it is still served like this.
    pub(super) fn end_served(&self, topic: &Topic, served: &Served, error: &BusError) -> bool {
        let Some(Ended { service, servers, waiting }) = self.services.end(topic, served) else {
            return false;
        };
        let mut touched = Vec::new();
        let content = refusal_content(error);
        for (session, id) in servers {
            let mut state = session.lock();
            state.forget_serving(id);
            state.data(&Header::answering(Kind::Ended, Kind::Serve, id, 0), &content.borrowed());
            claim(&session, &mut state, &mut touched);
        }
        self.fail_waiting(&service, waiting.into_iter(), &mut touched);
        for session in touched {
            session.flush();
        }
        true
    }
}

impl fmt::Debug for ServedWatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noted = self.noted.lock().topics.len();
        formatter.debug_struct("ServedWatch").field("noted", &noted).finish_non_exhaustive()
    }
}
