//! What NATS is given to do, one after the other, without waiting for it elsewhere.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use async_nats::{Client, Subscriber};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use whispeer::topic::Topic;

use super::outputs::Outputs;
use super::wire::Publish;
use crate::subject::Subjects;

/// The name of the queue that the servers of a topic form at NATS, whatever their group is called at their bus: so that of all buses one is asked.
pub const QUEUE: &str = "whispeer";

/// The end of the client of NATS, which takes nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the client of NATS has ended")]
pub struct NatsEnded;

/// Gives NATS subscriptions and messages to take. The client waits where its connection does.
pub(super) struct Outbox {
    nats: Client,
    subjects: Subjects,
    /// Topics to be subscribed to, as many as are served.
    topics: VecDeque<Topic>,
    doing: Option<Doing>,
}

struct Doing {
    /// The topic, where that is a subscription.
    topic: Option<Topic>,
    done: BoxFuture<'static, Result<Option<Subscriber>, NatsEnded>>,
}

impl Outbox {
    pub(super) fn new(nats: Client, subjects: Subjects) -> Self {
        Self { nats, subjects, topics: VecDeque::new(), doing: None }
    }

    pub(super) fn subscribe(&mut self, topics: impl IntoIterator<Item = Topic>) {
        self.topics.extend(topics);
    }

    /// Gives up subscriptions that have not been begun.
    pub(super) fn forget_subscriptions(&mut self) {
        self.topics.clear();
    }

    /// Whether there is nothing that it works on, and nothing to subscribe to.
    pub(super) fn is_idle(&self) -> bool {
        self.doing.is_none() && self.topics.is_empty()
    }

    /// There is no connection: messages of before are of no use any more.
    pub(super) fn forget_messages(&mut self) {
        if let Some(doing) = self.doing.take() {
            self.topics.extend(doing.topic);
        }
    }

    /// Does what there is to do; ready with a subscription that has been made, or when all is done.
    pub(super) fn poll_work(
        &mut self,
        context: &mut Context<'_>,
        out: &mut Outputs,
    ) -> Poll<Result<Option<(Topic, Subscriber)>, NatsEnded>> {
        loop {
            if self.doing.is_none() {
                self.doing = self.next(out);
            }
            let Some(doing) = &mut self.doing else { return Poll::Ready(Ok(None)) };
            let Poll::Ready(done) = doing.done.poll_unpin(context) else { return Poll::Pending };
            let topic = self.doing.take().and_then(|doing| doing.topic);
            if let Some((topic, subscriber)) = topic.zip(done?) {
                return Poll::Ready(Ok(Some((topic, subscriber))));
            }
        }
    }

    fn next(&mut self, out: &mut Outputs) -> Option<Doing> {
        let nats = self.nats.clone();
        if let Some(topic) = self.topics.pop_front() {
            let subject = self.subjects.of_requests(&topic);
            let done = async move {
                let subscriber =
                    nats.queue_subscribe(subject, QUEUE.to_owned()).await.map_err(|_| NatsEnded)?;
                Ok(Some(subscriber))
            };
            return Some(Doing { topic: Some(topic), done: done.boxed() });
        }
        let Publish { subject, reply, headers, payload } = out.next_message()?;
        let done = async move {
            let published = match reply {
                Some(reply) => nats.publish_with_reply_and_headers(subject, reply, headers, payload).await,
                None => nats.publish_with_headers(subject, headers, payload).await,
            };
            published.map(|()| None).map_err(|_| NatsEnded)
        };
        Some(Doing { topic: None, done: done.boxed() })
    }
}
