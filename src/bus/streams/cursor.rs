//! A subscription that reads its stream at its own pace.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::Stream;
use super::publishing::milliseconds;
use crate::bus::session::{Session, State};
use crate::bus::subscription::Slot;
use crate::error::BusError;
use crate::proto::ContentRef;
use crate::proto::fields::{FieldsBuilder, GapReason, Position, Start};
use crate::store::{self, Message, Page, Reading, StoreError};
use crate::topic::TopicPattern;

/// The task of a subscription that reads a stream. It ends with the subscription that has it.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// Told when there is credit, or room on the link.
    may_go_on: Arc<Notify>,
    task: AbortHandle,
}

impl Cursor {
    /// Begins to read a stream for the subscription in this slot.
    pub(crate) fn start(
        runtime: &Handle,
        (session, slot, id): (&Arc<Session>, Slot, u32),
        stream: &Arc<Stream>,
        pattern: TopicPattern,
        start: Start,
    ) -> Self {
        let may_go_on = Arc::new(Notify::new());
        let end = stream.end.subscribe();
        // Now, and not when the task begins: whoever has subscribed gets what is published after that.
        let live_from = *end.borrow();
        let reader = Reader {
            session: Arc::clone(session),
            slot,
            id,
            end,
            stream: Arc::clone(stream),
            pattern,
            may_go_on: Arc::clone(&may_go_on),
            live_from,
        };
        let task = runtime.spawn(reader.run(start)).abort_handle();
        Self { may_go_on, task }
    }

    /// There is credit or room again.
    pub(crate) fn go_on(&self) {
        self.may_go_on.notify_one();
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Reader {
    session: Arc<Session>,
    slot: Slot,
    id: u32,
    stream: Arc<Stream>,
    pattern: TopicPattern,
    end: watch::Receiver<u64>,
    may_go_on: Arc<Notify>,
    /// What lies before this was there when the subscription began.
    live_from: u64,
}

impl Reader {
    async fn run(mut self, start: Start) {
        if let Err(Some(error)) = self.read_on(start).await {
            let reason = BusError::NotStored { reason: format!("the stream cannot be read: {error}") };
            let mut state = self.session.lock();
            state.end_with(self.id, &reason);
            drop(state);
            self.session.flush();
        }
    }

    /// Delivers until the subscription is gone, which is no error, or the store fails.
    async fn read_on(&mut self, start: Start) -> Result<(), Option<StoreError>> {
        let mut next = self.begin(start).await?;
        loop {
            self.wait_for_room().await?;
            let reading = Reading::from(next, milliseconds()).of(self.pattern.clone());
            let page = self.stream.store.read(self.stream.name.clone(), reading).await?;
            if page.first > next {
                // Retention was faster. How many of them were for this subscription nobody knows any more.
                self.tell_gap(page.first - next)?;
            }
            let is_last = !page.has_more();
            next = page.next;
            self.deliver(page).await?;
            if is_last {
                // A stream ends before its store does.
                self.end.wait_for(|end| *end > next).await.map_err(|_| None)?;
            }
        }
    }

    /// The sequence to go on from, after what comes out of order: the last message of each topic.
    async fn begin(&mut self, start: Start) -> Result<u64, Option<StoreError>> {
        let stream = self.stream.name.clone();
        let end = self.live_from;
        let start = match start {
            Start::New => return Ok(end),
            Start::LastPerTopic => {
                let mut from = 0;
                loop {
                    let reading = Reading::from(from, milliseconds()).of(self.pattern.clone());
                    let mut page = self.stream.store.last_per_topic(stream.clone(), reading).await?;
                    let is_last = !page.has_more() || page.next >= end;
                    from = page.next;
                    page.messages.retain(|message| message.sequence < end);
                    self.deliver(page).await?;
                    if is_last {
                        return Ok(end);
                    }
                }
            }
            Start::All => store::Start::All,
            Start::From(sequence) => store::Start::From(sequence),
            Start::Since(time) => store::Start::Since(time),
            Start::Last(count) => store::Start::Last(count, Some(self.pattern.clone())),
        };
        Ok(self.stream.store.find(stream, start).await?)
    }

    /// Delivers a page as credit and room go.
    async fn deliver(&mut self, page: Page) -> Result<(), Option<StoreError>> {
        let mut messages = page.messages.iter();
        let mut waiting = messages.next();
        while waiting.is_some() {
            self.wait_for_room().await?;
            {
                let mut state = self.session.lock();
                let State { subscriptions, lanes, totals, .. } = &mut *state;
                let subscription = subscriptions.at(self.slot).ok_or(None)?;
                while subscription.credit.is_left()
                    && lanes.has_room()
                    && let Some(message) = waiting
                {
                    // It may have waited for credit since it was read; a store leaves it out likewise.
                    let Some(fields) = self.fields(message) else {
                        waiting = messages.next();
                        continue;
                    };
                    let topic = message.topic.as_str().as_bytes();
                    subscription.matched += 1;
                    totals.matched += 1;
                    subscription.deliver(&ContentRef::lent(&fields, topic, &message.payload), lanes, totals);
                    waiting = messages.next();
                }
            }
            self.session.flush();
        }
        Ok(())
    }

    /// The fields of a stored message, where it lies, and how long it is of use; `None` if it is of none.
    fn fields(&self, message: &Message) -> Option<Vec<u8>> {
        let left = match message.expires {
            Some(expires) => Some(expires.checked_sub(milliseconds()).filter(|left| *left > 0)?),
            None => None,
        };
        let mut fields = FieldsBuilder::new();
        let position = Position::new(message.sequence, message.time, message.sequence < self.live_from);
        // There was room for this before it was published.
        let _ = fields.append(&message.fields);
        if let Some(left) = left {
            let _ = fields.expires(Duration::from_millis(left));
        }
        let _ = fields.position(position);
        Some(fields.finish())
    }

    fn tell_gap(&self, count: u64) -> Result<(), Option<StoreError>> {
        let mut state = self.session.lock();
        let State { subscriptions, lanes, totals, .. } = &mut *state;
        let subscription = subscriptions.at(self.slot).ok_or(None)?;
        subscription.matched += count;
        totals.matched += count;
        subscription.count_dropped(count, GapReason::Retention, totals);
        subscription.tell_gap(count, GapReason::Retention, lanes);
        drop(state);
        self.session.flush();
        Ok(())
    }

    /// Waits until the subscription may get a message.
    async fn wait_for_room(&self) -> Result<(), Option<StoreError>> {
        loop {
            {
                let mut state = self.session.lock();
                let has_room = state.has_room();
                let subscription = state.subscriptions.at(self.slot).ok_or(None)?;
                if subscription.credit.is_left() && has_room {
                    return Ok(());
                }
                if !has_room {
                    state.crowded = true;
                }
            }
            self.may_go_on.notified().await;
        }
    }
}
