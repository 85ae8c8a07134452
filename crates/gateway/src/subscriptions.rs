//! The subscriptions of a session of a dialect.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use whispeer::BusError;
use whispeer::client::{Event, Message, Subscription};
use whispeer::proto::Content;

/// What a session is subscribed to, by the names that its client has for it, and what comes of all of it in turn.
///
/// How many there may be is checked by the dialect, which tells its client so.
#[derive(Default)]
pub(crate) struct Subscriptions {
    all: Vec<Subscribed>,
    /// Where it is looked first, so that a busy one does not keep others waiting.
    next: usize,
}

struct Subscribed {
    name: Arc<str>,
    subscription: Subscription<Arc<Content>>,
}

/// What came of one of them.
#[derive(Debug)]
pub(crate) enum Arrived {
    Message(Arc<str>, Message<Arc<Content>>),
    /// So many were dropped, for this reason.
    Gap(u64, &'static str),
    /// It has ended and is no longer there.
    Ended(Arc<str>, Option<BusError>),
}

impl Subscriptions {
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.all.iter().any(|one| &*one.name == name)
    }

    pub(crate) fn insert(&mut self, name: &str, subscription: Subscription<Arc<Content>>) {
        self.all.push(Subscribed { name: name.into(), subscription });
    }

    /// Ends one; what had come of it and was not taken is thrown away. Returns whether there was one.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let Some(index) = self.all.iter().position(|one| &*one.name == name) else { return false };
        self.all.remove(index);
        true
    }

    /// How many messages have come of one and wait to be taken.
    pub(crate) fn pending(&self, name: &str) -> u64 {
        let one = self.all.iter().find(|one| &*one.name == name);
        one.map_or(0, |one| one.subscription.counts().pending)
    }

    /// How many have come of all of them.
    pub(crate) fn all_pending(&self) -> u64 {
        self.all.iter().map(|one| one.subscription.counts().pending).sum()
    }

    /// What comes next of any of them; it waits for ever where there are none.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Arrived {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Arrived> {
        let count = self.all.len();
        for step in 0..count {
            let index = (self.next + step) % count;
            let Some(one) = self.all.get_mut(index) else { continue };
            let Poll::Ready(event) = pin!(one.subscription.next_event()).poll(context) else { continue };
            self.next = index + 1;
            return Poll::Ready(match event {
                Some(Event::Message(message)) => Arrived::Message(Arc::clone(&one.name), message),
                Some(Event::Gap { count, reason }) => Arrived::Gap(count, reason.name()),
                // Content is as it comes; and an event that is not known yet is one that was missed.
                Some(_) => Arrived::Gap(1, "undecodable"),
                None => {
                    let ended = self.all.remove(index);
                    Arrived::Ended(ended.name, ended.subscription.close_reason())
                }
            });
        }
        Poll::Pending
    }
}
