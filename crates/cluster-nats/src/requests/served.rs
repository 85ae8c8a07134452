//! What is served at this bus, as subscriptions at NATS.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_nats::{Message, Subscriber};
use foldhash::fast::RandomState;
use futures_util::future::BoxFuture;
use futures_util::stream::SelectAll;
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::oneshot;
use whispeer::bus::{Served, ServedNews};
use whispeer::topic::Topic;

use crate::limits;

/// What is to be done for a topic that is served now, or not any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It has a single server.
    Alone(Topic),
    /// A group shares it.
    Shared(Topic),
    /// It has no single server any more.
    Gone(Topic),
}

/// The subscriptions, and those that are being made.
#[derive(Default)]
pub(super) struct ServedTopics {
    topics: HashMap<Topic, (Served, Subscription), RandomState>,
    requests: SelectAll<Requests>,
    /// That there is no room has been told.
    told_full: bool,
}

enum Subscription {
    /// It is to be made, or must not be yet.
    Wanted,
    /// It is there, until this is dropped.
    There { _keep: oneshot::Sender<()> },
}

impl ServedTopics {
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
                    changes.push(Change::Alone(topic));
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
                changes.push(match is_alone(&now) {
                    true => Change::Alone(topic.clone()),
                    false => Change::Shared(topic.clone()),
                });
                self.topics.insert(topic, (now, Subscription::Wanted));
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
        self.requests.push(Requests { topic, ends, source: Source::Live(subscriber) });
    }

    /// Ends all subscriptions. What has been sent here before still comes.
    pub(super) fn end(&mut self) {
        self.topics.clear();
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
    source: Source,
}

enum Source {
    Live(Subscriber),
    /// NATS is told to send no more.
    Ending(BoxFuture<'static, Option<Subscriber>>),
    /// What it has sent before still comes.
    Drained(Subscriber),
    Ended,
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
                            std::mem::replace(&mut this.source, Source::Ended)
                        {
                            let end = async move { subscriber.drain().await.is_ok().then_some(subscriber) };
                            this.source = Source::Ending(end.boxed());
                        }
                        continue;
                    }
                }
                Source::Ending(end) => {
                    this.source = ready!(end.poll_unpin(context)).map_or(Source::Ended, Source::Drained);
                    continue;
                }
                Source::Drained(subscriber) => ready!(subscriber.poll_next_unpin(context)),
                Source::Ended => None,
            };
            if message.is_none() {
                this.source = Source::Ended;
            }
            return Poll::Ready(message.map(|message| (this.topic.clone(), message)));
        }
    }
}
