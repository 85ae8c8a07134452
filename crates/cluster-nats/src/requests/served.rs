//! What is served at this bus, as subscriptions at NATS.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_nats::{Message, Subscriber};
use foldhash::fast::RandomState;
use futures_util::future::BoxFuture;
use futures_util::stream::SelectAll;
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::oneshot;
use whispeer::bus::ServedNews;
use whispeer::topic::Topic;

use crate::limits;

/// The subscriptions, and those that are being made.
#[derive(Default)]
pub(super) struct ServedTopics {
    topics: HashMap<Topic, Subscription, RandomState>,
    requests: SelectAll<Requests>,
    /// That there is no room has been told.
    told_full: bool,
}

enum Subscription {
    /// It is to be made.
    Wanted,
    /// It is there, until this is dropped.
    There { _keep: oneshot::Sender<()> },
}

impl ServedTopics {
    /// Takes in what has changed at the bus. Returns what is to be subscribed to.
    pub(super) fn changed(&mut self, news: ServedNews) -> Vec<Topic> {
        if news.is_all {
            let all: std::collections::HashSet<&Topic> = news.topics.iter().map(|(topic, _)| topic).collect();
            self.topics.retain(|topic, _| all.contains(topic));
        }
        let mut wanted = Vec::new();
        for (topic, served) in news.topics {
            match served {
                None => _ = self.topics.remove(&topic),
                Some(_) if self.topics.contains_key(&topic) => {}
                Some(_) if self.topics.len() >= limits::SERVED_TOPICS => {
                    if !std::mem::replace(&mut self.told_full, true) {
                        let most = limits::SERVED_TOPICS;
                        tracing::warn!(
                            most,
                            "more topics are served here than other buses can ask; those beyond are left out"
                        );
                    }
                }
                Some(_) => {
                    self.topics.insert(topic.clone(), Subscription::Wanted);
                    wanted.push(topic);
                }
            }
        }
        wanted
    }

    /// A subscription has been made. What is not served any more is ended again.
    pub(super) fn subscribed(&mut self, topic: Topic, subscriber: Subscriber) {
        let (keep, ends) = oneshot::channel();
        if let Some(subscription @ Subscription::Wanted) = self.topics.get_mut(&topic) {
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
