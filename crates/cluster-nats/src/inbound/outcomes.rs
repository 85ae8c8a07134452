//! What becomes of messages of other buses that this bus was given.
//!
//! Nobody waits for a single one: they follow each other as fast as the bus takes them. Now and then it is asked what has become of all that was
//! sent before. What the bus has refused by then is a gap to those who would have had it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::task::noop_waker_ref;
use tokio::time::Instant;
use whispeer::client::{Acknowledgement, Client, PublishOptions, Publisher};
use whispeer::topic::{Topic, TopicPattern};
use whispeer::{BusError, BusResult};

use super::InboundCounts;
use crate::limits;

/// So many messages were lost of what was published to this.
pub(super) type Loss = (TopicPattern, u64);

/// Who publishes to one topic of another bus here.
#[derive(Debug)]
pub(super) struct Sender {
    topic: Topic,
    publisher: Publisher<Bytes>,
    /// Messages that it has sent and was not asked about. While there are any it is listed.
    sent: AtomicU64,
}

impl Sender {
    pub(super) fn new(topic: Topic, publisher: Publisher<Bytes>) -> Self {
        Self { topic, publisher, sent: AtomicU64::new(0) }
    }
}

/// What was sent and is not known to have been published.
pub(super) struct Outcomes {
    client: Client,
    counts: Arc<InboundCounts>,
    /// Those who have sent something since it was asked last.
    listed: Vec<Arc<Sender>>,
    sent: u64,
    /// When it is to be asked again.
    due: Option<Instant>,
    /// Those who are asked about, with how much they have sent, and what ends when the bus has looked at all of that.
    asked: Vec<(Arc<Sender>, u64)>,
    answer: Option<BoxFuture<'static, BusResult<()>>>,
    /// What a message is published to that is being sent by itself.
    sending: Option<TopicPattern>,
    /// Messages that the bus answers one by one, in the order in which they were sent.
    waiting: VecDeque<(TopicPattern, Acknowledgement)>,
    /// What was refused, or is missing, and is not told yet.
    untold: VecDeque<Loss>,
    has_warned: bool,
}

impl Outcomes {
    pub(super) fn new(client: Client, counts: Arc<InboundCounts>) -> Self {
        Self {
            client,
            counts,
            listed: Vec::new(),
            sent: 0,
            due: None,
            asked: Vec::new(),
            answer: None,
            sending: None,
            waiting: VecDeque::new(),
            untold: VecDeque::new(),
            has_warned: false,
        }
    }

    /// Sends messages of one topic to the bus as soon as that takes them.
    ///
    /// # Errors
    /// Why the link to the bus has ended.
    ///
    /// # Cancel safety
    /// When the future is dropped, or fails, all of them count as sent.
    pub(super) async fn send(&mut self, sender: &Arc<Sender>, payloads: &[Bytes]) -> BusResult<()> {
        let count = payloads.len() as u64;
        let before = sender.sent.load(Ordering::Relaxed);
        sender.sent.store(before + count, Ordering::Relaxed);
        if before == 0 {
            self.listed.push(Arc::clone(sender));
            self.due.get_or_insert_with(|| Instant::now() + limits::OUTCOMES_AFTER);
        }
        let sent = self.sent;
        self.sent += count;
        if sent < limits::OUTCOMES && self.sent >= limits::OUTCOMES {
            self.due = Some(Instant::now());
        }
        for payload in payloads {
            let Err(error) = sender.publisher.send(payload).await else { continue };
            if self.client.close_reason().is_some() {
                return Err(error);
            }
            // It is no matter of the bus's any more.
            sender.sent.fetch_sub(1, Ordering::Relaxed);
            self.refuse(sender.topic.clone().into(), 1, &error);
        }
        Ok(())
    }

    /// Sends a message by itself, and has it answered.
    ///
    /// # Errors
    /// Why the link to the bus has ended.
    ///
    /// # Cancel safety
    /// When the future is dropped it counts as sent.
    pub(super) async fn send_alone(
        &mut self,
        topic: TopicPattern,
        payload: Bytes,
        options: PublishOptions,
    ) -> BusResult<()> {
        let client = self.client.clone();
        let sending = self.sending.insert(topic);
        let sent = client.send_bytes_with(sending.as_str(), payload, options).await;
        let Some(topic) = self.sending.take() else { return Ok(()) };
        match sent {
            Ok(answer) => self.waiting.push_back((topic, answer)),
            Err(error) => {
                self.refuse(topic, 1, &error);
                if self.client.close_reason().is_some() {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Notes that messages were not published.
    pub(super) fn refuse(&mut self, topic: TopicPattern, count: u64, error: &BusError) {
        self.counts.refused.fetch_add(count, Ordering::Relaxed);
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                %error,
                "this bus does not take a message of another one, and its subscribers are told a gap. Later ones are counted only"
            );
        }
        self.note_loss((topic, count));
    }

    /// Notes what is to be told.
    pub(super) fn note_loss(&mut self, (topic, count): Loss) {
        match self.untold.back_mut() {
            Some((last, lost)) if *last == topic => *lost += count,
            _ => self.untold.push_back((topic, count)),
        }
    }

    /// What is to be told next. It stays here until it has been [told](Self::told).
    pub(super) fn untold(&self) -> Option<Loss> {
        self.untold.front().cloned()
    }

    /// The first of them has been told.
    pub(super) fn told(&mut self) {
        self.untold.pop_front();
    }

    /// Waits until it is known what has become of all that was sent, or the link to the bus has ended.
    ///
    /// # Cancel safety
    /// What is not known by then stays unknown.
    pub(super) async fn finish(&mut self) {
        // What was asked before does not tell of all.
        self.answered().await;
        self.ask();
        self.answered().await;
        self.take_answers(&mut Context::from_waker(noop_waker_ref()));
    }

    async fn answered(&mut self) {
        let Some(answer) = &mut self.answer else { return };
        let has_answered = answer.await.is_ok();
        self.answer = None;
        self.settle(has_answered);
    }

    /// What is not known to have been published, as nobody will tell it any more, and what was refused and is not told.
    pub(super) fn unsettled(&mut self) -> Vec<Loss> {
        let mut losses: Vec<_> = std::mem::take(&mut self.untold).into();
        let told = losses.len();
        let listed = std::mem::take(&mut self.listed).into_iter().map(|sender| {
            let sent = sender.sent.swap(0, Ordering::Relaxed);
            (sender, sent)
        });
        let sent = std::mem::take(&mut self.asked).into_iter().chain(listed);
        losses.extend(sent.map(|(sender, sent)| (sender.topic.clone().into(), sent)));
        losses.extend(std::mem::take(&mut self.waiting).into_iter().map(|(topic, _)| (topic, 1)));
        losses.extend(self.sending.take().map(|topic| (topic, 1)));
        let unknown: u64 = losses.iter().skip(told).map(|(_, count)| count).sum();
        self.counts.missing.fetch_add(unknown, Ordering::Relaxed);
        losses
    }

    /// When [`changed`](Self::changed) has something to do, if nothing else comes.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.answer.is_none())
    }

    /// Waits until something is [to be told](Self::untold), or the bus has answered and is to be asked again.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn changed(&mut self) {
        poll_fn(|context| self.poll_changed(context)).await;
    }

    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.take_answers(context);
        if self.answer.is_none() && self.due.is_some_and(|due| due <= Instant::now()) {
            self.ask();
        }
        if let Some(answer) = &mut self.answer
            && let Poll::Ready(answer) = answer.poll_unpin(context)
        {
            self.answer = None;
            self.settle(answer.is_ok());
            return Poll::Ready(());
        }
        match self.untold.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    /// Looks at the answers that have come. One that takes longer holds the later ones up, which only delays what they say, but no more of them than
    /// may be under way.
    fn take_answers(&mut self, context: &mut Context<'_>) {
        while let Some((_, answer)) = self.waiting.front_mut()
            && let Poll::Ready(outcome) = answer.poll_unpin(context)
        {
            self.take_answer(outcome);
        }
        if self.waiting.len() >= limits::OUTCOMES_WAITING {
            for _ in 0..self.waiting.len() {
                match self.waiting.front_mut().map(|(_, answer)| answer.poll_unpin(context)) {
                    Some(Poll::Ready(outcome)) => self.take_answer(outcome),
                    _ => self.waiting.rotate_left(1),
                }
            }
        }
    }

    /// Takes the answer of the first that waits.
    fn take_answer(&mut self, outcome: BusResult<usize>) {
        let Some((topic, _)) = self.waiting.pop_front() else { return };
        match outcome {
            Ok(_) => _ = self.counts.received.fetch_add(1, Ordering::Relaxed),
            Err(error) => self.refuse(topic, 1, &error),
        }
    }

    /// Asks what has become of all that was sent.
    fn ask(&mut self) {
        (self.due, self.sent) = (None, 0);
        let listed = self.listed.drain(..);
        self.asked.extend(listed.map(|sender| {
            let sent = sender.sent.swap(0, Ordering::Relaxed);
            (sender, sent)
        }));
        let client = self.client.clone();
        self.answer = Some(async move { client.flush().await }.boxed());
    }

    /// The bus has looked at all that was asked about.
    fn settle(&mut self, has_answered: bool) {
        if !has_answered {
            // The link has ended; what was sent by it stays unknown.
            return;
        }
        for (sender, sent) in std::mem::take(&mut self.asked) {
            let mut failed = 0;
            if let Some(failures) = sender.publisher.take_failures() {
                failed = failures.count;
                self.refuse(sender.topic.clone().into(), failed, &failures.first);
            }
            self.counts.received.fetch_add(sent.saturating_sub(failed), Ordering::Relaxed);
        }
        let strays = self.client.take_stray_failures();
        if strays > 0 {
            // Nobody knows any more what they were published to.
            let error = BusError::Overloaded { what: "messages of other buses".into() };
            self.refuse(TopicPattern::everything(), strays, &error);
        }
    }
}
