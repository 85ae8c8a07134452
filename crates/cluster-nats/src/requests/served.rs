//! What is served at this bus, as subscriptions at NATS.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::future::BoxFuture;
use futures_util::stream::SelectAll;
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::oneshot;
use tokio::task::unconstrained;
use tokio::time::timeout;
use whispeer::bus::{Served, ServedNews};
use whispeer::topic::Topic;

use crate::limits;
use crate::members::written;
use crate::subject::Subjects;

/// More than any server counts: what ends a subscription there at once, and at its client, which counts as well, not before all that is
/// on its way has come. `Subscriber::drain` forgets it as soon as that is sent. Were a server to take it for a number that it has
/// to reach, the end of the subscriber, a round trip later, ends it as well.
const NO_MORE: u64 = 10_000_000_000;

/// What is to be done for a topic that is served now, or not any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It is served, by a group or another single server than before.
    Served(Topic),
    /// It has no single server any more.
    Gone(Topic),
}

/// The subscriptions, and those that are being made.
pub(super) struct ServedTopics {
    ending: Ending,
    /// Subscriptions that were made so far.
    made: u64,
    /// There are to be no subscriptions for a while.
    is_paused: bool,
    topics: HashMap<Topic, (Served, Subscription), RandomState>,
    requests: SelectAll<Requests>,
    /// That there is no room has been told.
    told_full: bool,
}

enum Subscription {
    /// It is to be made, or must not be yet.
    Wanted,
    /// It is to be made later.
    Paused,
    /// It is there, until this is dropped.
    There { _keep: oneshot::Sender<()> },
}

/// What it takes to find out that NATS has ended a subscription: a request to nobody behind it, and where that is said.
#[derive(Clone)]
struct Ending {
    nats: Client,
    nobody: String,
    answers: String,
}

impl ServedTopics {
    pub(super) fn new(nats: Client, subjects: &Subjects, own: u64) -> Self {
        let nobody = format!("{}.nobody", subjects.prefix());
        let answers = format!("{}.ended.{}", subjects.prefix(), written(own));
        let ending = Ending { nats, nobody, answers };
        let (made, is_paused) = (0, false);
        Self {
            ending,
            made,
            is_paused,
            topics: HashMap::default(),
            requests: SelectAll::new(),
            told_full: false,
        }
    }

    /// Whether the topic is served here.
    pub(super) fn has(&self, topic: &Topic) -> bool {
        self.topics.contains_key(topic)
    }

    /// Takes in what has changed at the bus. Returns what is to be done for it.
    pub(super) fn changed(&mut self, news: ServedNews) -> Vec<Change> {
        let mut changes = Vec::new();
        if news.is_all {
            let all: HashSet<&Topic> = news.topics.iter().map(|(topic, _)| topic).collect();
            let gone: Vec<Topic> = self.topics.keys().filter(|topic| !all.contains(topic)).cloned().collect();
            gone.into_iter().for_each(|topic| self.changed_one(topic, None, &mut changes));
        }
        for (topic, served) in news.topics {
            self.changed_one(topic, served, &mut changes);
        }
        changes
    }

    fn changed_one(&mut self, topic: Topic, served: Option<Served>, changes: &mut Vec<Change>) {
        let is_alone = |served: &Served| served.group.is_none();
        let is_full = self.topics.len() >= limits::SERVED_TOPICS;
        match (self.topics.get_mut(&topic), served) {
            // Another server has come, with the same right.
            (Some((before, _)), Some(now)) if is_alone(before) == is_alone(&now) => {
                *before = now;
                if is_alone(before) {
                    changes.push(Change::Served(topic));
                }
            }
            (Some((before, _)), now) => {
                if is_alone(before) {
                    changes.push(Change::Gone(topic.clone()));
                }
                self.topics.remove(&topic);
                if now.is_some() {
                    self.changed_one(topic, now, changes);
                }
            }
            (None, None) => {}
            (None, Some(_)) if is_full => {
                if !std::mem::replace(&mut self.told_full, true) {
                    let most = limits::SERVED_TOPICS;
                    tracing::warn!(
                        most,
                        "more topics are served here than other buses can ask; those beyond are left out"
                    );
                }
            }
            (None, Some(now)) => {
                let subscription = match self.is_paused {
                    true => Subscription::Paused,
                    false => Subscription::Wanted,
                };
                self.topics.insert(topic.clone(), (now, subscription));
                changes.push(Change::Served(topic));
            }
        }
    }

    /// How the topic is served, if it has a single server, as far as that is known here.
    pub(super) fn alone(&self, topic: &Topic) -> Option<&Served> {
        self.topics.get(topic).map(|(served, _)| served).filter(|served| served.group.is_none())
    }

    /// The topics with a single server that are not subscribed to.
    pub(super) fn unsubscribed_alone(&self) -> Vec<Topic> {
        let wanted = self.topics.iter().filter(|(_, (served, subscription))| {
            served.group.is_none() && matches!(subscription, Subscription::Wanted)
        });
        wanted.map(|(topic, _)| topic.clone()).collect()
    }

    /// Whether there is no subscription to the topic yet.
    pub(super) fn is_unsubscribed(&self, topic: &Topic) -> bool {
        matches!(self.topics.get(topic), Some((_, Subscription::Wanted)))
    }

    /// A subscription has been made. What is not served any more is ended again.
    pub(super) fn subscribed(&mut self, topic: Topic, subscriber: Subscriber) {
        let (keep, ends) = oneshot::channel();
        if let Some((_, subscription @ Subscription::Wanted)) = self.topics.get_mut(&topic) {
            *subscription = Subscription::There { _keep: keep };
        }
        self.made += 1;
        let answers = format!("{}.{}", self.ending.answers, self.made);
        let ending = Ending { answers, ..self.ending.clone() };
        self.requests.push(Requests { topic, ends, ending, source: Source::Live(subscriber) });
    }

    /// Ends all subscriptions. What has been sent here before still comes; then there are [none](Self::is_empty).
    pub(super) fn end(&mut self) {
        self.topics.clear();
    }

    /// Ends all subscriptions for a while, as [`end`](Self::end) does; topics that come meanwhile wait as well.
    pub(super) fn pause(&mut self) {
        self.is_paused = true;
        self.topics.values_mut().for_each(|(_, subscription)| *subscription = Subscription::Paused);
    }

    /// Returns what may be subscribed to again.
    pub(super) fn resume(&mut self) -> Vec<Topic> {
        self.is_paused = false;
        let paused = self.topics.iter_mut().filter(|(_, (_, own))| matches!(own, Subscription::Paused));
        let wanted = paused.map(|(topic, (_, subscription))| {
            *subscription = Subscription::Wanted;
            topic.clone()
        });
        wanted.collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// The next request.
    pub(super) async fn next(&mut self) -> Option<(Topic, Message)> {
        self.requests.next().await
    }

    /// The next request, if there is one.
    pub(super) fn next_now(&mut self) -> Option<(Topic, Message)> {
        self.requests.next().now_or_never().flatten()
    }
}

/// The requests to one topic.
struct Requests {
    topic: Topic,
    /// Ends when it is not served any more.
    ends: oneshot::Receiver<()>,
    ending: Ending,
    source: Source,
}

enum Source {
    Live(Subscriber),
    /// NATS is told to send no more.
    Ending(BoxFuture<'static, Option<Subscriber>>),
    /// What it has sent before is here.
    Ended(Subscriber),
    Over,
}

impl Ending {
    /// Waits until NATS has dealt with all that was sent to it before, and what it has sent by then is here.
    async fn passed(self) {
        let passed = async {
            let mut answers = self.nats.subscribe(self.answers.clone()).await.ok()?;
            self.nats.publish_with_reply(self.nobody, self.answers, Bytes::new()).await.ok()?;
            answers.next().await
        };
        // Where somebody listens to all subjects, nobody says that there is nobody.
        let _ = timeout(limits::UNSUBSCRIBING, passed).await;
    }
}

impl Stream for Requests {
    type Item = (Topic, Message);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let this = &mut *self;
            let message = match &mut this.source {
                Source::Live(subscriber) => {
                    // The sender never sends: it is dropped.
                    if Pin::new(&mut this.ends).poll(context).is_pending() {
                        ready!(subscriber.poll_next_unpin(context))
                    } else {
                        if let Source::Live(mut subscriber) =
                            std::mem::replace(&mut this.source, Source::Over)
                        {
                            let ending = this.ending.clone();
                            let end = async move {
                                subscriber.unsubscribe_after(NO_MORE).await.ok()?;
                                ending.passed().await;
                                Some(subscriber)
                            };
                            this.source = Source::Ending(end.boxed());
                        }
                        continue;
                    }
                }
                Source::Ending(end) => {
                    this.source = ready!(end.poll_unpin(context)).map_or(Source::Over, Source::Ended);
                    continue;
                }
                // Also where this task has had its turn.
                Source::Ended(subscriber) => unconstrained(subscriber.next()).now_or_never().flatten(),
                Source::Over => None,
            };
            if message.is_none() {
                this.source = Source::Over;
            }
            return Poll::Ready(message.map(|message| (this.topic.clone(), message)));
        }
    }
}
