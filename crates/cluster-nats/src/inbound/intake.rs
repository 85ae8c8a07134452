//! What subscriptions at NATS bring, read from them at once.
//!
//! NATS's client bounds what waits of each subscription by messages alone, and there may be many subscriptions of large messages. So it is taken from
//! there also while the bus holds something up, into one queue for all of them that is bounded in messages and bytes. What finds no room there is lost,
//! and its number tells so.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_nats::{Message, Subscriber};
use futures_util::stream::{AbortHandle, Abortable, BoxStream, SelectAll};
use futures_util::task::noop_waker_ref;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::task::unconstrained;
use whispeer::topic::{EntryId, TopicPattern};

use super::Source;
use crate::limits;

/// Messages of one subscription, in the order in which they came.
type Run = (Arc<Source>, Vec<Message>);

/// What is next to be looked at.
#[derive(Debug)]
pub(super) enum Item {
    Messages(Arc<Source>, Vec<Message>),
    /// Nothing more comes of these subscriptions.
    Ended(Vec<(TopicPattern, EntryId)>),
}

/// What subscriptions have brought.
pub(super) struct Intake {
    sources: SelectAll<BoxStream<'static, Run>>,
    queue: VecDeque<Item>,
    bounds: Bounds,
    messages: usize,
    bytes: usize,
    /// Messages that found no room since that was asked last.
    dropped: u64,
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Intake {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { sources: SelectAll::new(), queue: VecDeque::new(), bounds, messages: 0, bytes: 0, dropped: 0 }
    }

    /// Reads this subscription as well, until it is aborted.
    pub(super) fn add(&mut self, source: Arc<Source>, subscriber: Subscriber) -> AbortHandle {
        let (handle, registration) = AbortHandle::new_pair();
        let runs = subscriber.ready_chunks(limits::INBOUND_RUN).map(move |run| (Arc::clone(&source), run));
        self.sources.push(Abortable::new(runs, registration).boxed());
        handle
    }

    /// Waits for what is next.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Item {
        poll_fn(|context| {
            self.poll_read(context);
            self.take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// What is next of what has come by now.
    pub(super) fn take_now(&mut self) -> Option<Item> {
        self.read_now();
        self.take()
    }

    /// Reads on while something else is done that may have to wait.
    ///
    /// # Cancel safety
    /// That of the work.
    pub(super) async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            let done = work.as_mut().poll(context);
            if done.is_pending() {
                self.poll_read(context);
            }
            done
        })
        .await
    }

    /// Reads all that has come, and shows behind it that nothing more comes of these subscriptions, which are aborted by now or soon.
    pub(super) fn end(&mut self, ended: Vec<(TopicPattern, EntryId)>) {
        self.read_now();
        self.queue.push_back(Item::Ended(ended));
    }

    /// Reads all that has come. What is aborted ends with that.
    pub(super) fn read_now(&mut self) {
        let mut context = Context::from_waker(noop_waker_ref());
        // What comes meanwhile is read as well, but not for ever.
        for _ in 0..limits::INBOUND_RUN {
            if !self.poll_read(&mut context) {
                return;
            }
        }
    }

    /// Messages that found no room since this was asked last.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Reads what has come; returns whether there may be more already.
    fn poll_read(&mut self, context: &mut Context<'_>) -> bool {
        for _ in 0..limits::INBOUND_RUNS {
            // Whatever the task has done in its turn: nothing may be taken for missing that is there.
            match unconstrained(self.sources.next()).poll_unpin(context) {
                Poll::Ready(Some((source, messages))) => self.push(source, messages),
                // Without subscriptions there is nothing to read.
                Poll::Ready(None) | Poll::Pending => return false,
            }
        }
        context.waker().wake_by_ref();
        true
    }

    fn push(&mut self, source: Arc<Source>, mut messages: Vec<Message>) {
        let mut fitting = 0;
        for message in &messages {
            let size = size_of_message(message);
            let has_room = self.messages < self.bounds.messages && self.bytes + size <= self.bounds.bytes;
            // However large it is: one has room where there is nothing else.
            if !has_room && self.messages > 0 {
                break;
            }
            (self.messages, self.bytes, fitting) = (self.messages + 1, self.bytes + size, fitting + 1);
        }
        self.dropped += (messages.len() - fitting) as u64;
        messages.truncate(fitting);
        if !messages.is_empty() {
            self.queue.push_back(Item::Messages(source, messages));
        }
    }

    fn take(&mut self) -> Option<Item> {
        let item = self.queue.pop_front()?;
        if let Item::Messages(_, messages) = &item {
            self.messages -= messages.len();
            self.bytes -= messages.iter().map(size_of_message).sum::<usize>();
        }
        Some(item)
    }
}

fn size_of_message(message: &Message) -> usize {
    message.length + size_of::<Message>()
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::Taken;
    use super::*;

    fn message(bytes: usize) -> Message {
        Message {
            subject: "w.t.a".into(),
            reply: None,
            payload: vec![0; bytes].into(),
            headers: None,
            status: None,
            description: None,
            length: bytes,
        }
    }

    fn intake(messages: usize, bytes: usize) -> (Intake, Arc<Source>) {
        let source = Source { number: 1, kind: Taken::Messages, since: Instant::now() };
        (Intake::new(Bounds { messages, bytes }), Arc::new(source))
    }

    fn taken(intake: &mut Intake) -> usize {
        match intake.take_now() {
            Some(Item::Messages(_, messages)) => messages.len(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_finds_no_room_is_counted_and_there_is_room_again_for_what_was_taken() {
        let (mut intake, source) = intake(4, 1 << 20);
        intake.push(Arc::clone(&source), vec![message(8), message(8)]);
        intake.push(Arc::clone(&source), vec![message(8), message(8), message(8)]);
        assert_eq!((intake.take_dropped(), intake.take_dropped()), (1, 0));
        assert_eq!((taken(&mut intake), taken(&mut intake)), (2, 2));
        intake.push(source, (0..5).map(|_| message(8)).collect());
        assert_eq!((taken(&mut intake), intake.take_dropped()), (4, 1));
        assert!(intake.take_now().is_none());
        assert_eq!((intake.messages, intake.bytes), (0, 0));
    }

    #[test]
    fn bytes_are_bounded_and_one_message_always_has_room() {
        let (mut intake, source) = intake(1_000, 10_000);
        intake.push(Arc::clone(&source), vec![message(4_000), message(4_000), message(4_000)]);
        assert_eq!((taken(&mut intake), intake.take_dropped()), (2, 1));
        intake.push(Arc::clone(&source), vec![message(20_000), message(1)]);
        assert_eq!((taken(&mut intake), intake.take_dropped()), (1, 1));
    }

    #[test]
    fn what_was_read_before_an_end_is_taken_before_it() {
        let (mut intake, source) = intake(10, 10_000);
        intake.push(Arc::clone(&source), vec![message(1)]);
        intake.end(Vec::new());
        intake.push(source, vec![message(1)]);
        assert_eq!(taken(&mut intake), 1);
        assert!(matches!(intake.take_now(), Some(Item::Ended(_))));
        assert_eq!(taken(&mut intake), 1);
    }
}
