//! A subscription that reads its stream at its own pace.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::Stream;
use super::held::{self, Held};
use super::patience::patiently;
use super::publishing::{milliseconds, say_left};
use crate::bus::session::{Session, State};
use crate::bus::subscription::Slot;
use crate::error::BusError;
use crate::plugin::{Delivery, Hooks, Plugins, Receiver};
use crate::proto::fields::{Epoch, FieldsBuilder, GapReason, Position, Start};
use crate::proto::{ContentRef, Credit};
use crate::store::{self, Message, Operation, Page, Reading, StoreError};
use crate::topic::TopicPattern;

/// Where and how far a subscription reads its stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) start: Start,
    /// The epoch of the stream.
    pub(crate) own_epoch: Epoch,
    /// The epoch of the stream that it begins in; `None` for whichever there is.
    pub(crate) epoch: Option<Epoch>,
    /// Messages and bytes that it reads of what is there; `None` where it goes on with what comes.
    pub(crate) limit: Option<(u32, u64)>,
    /// What lies before this was there when it began.
    pub(crate) live_from: u64,
}

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
        place: Place,
        plugins: Option<Arc<Plugins>>,
    ) -> Self {
        let may_go_on = Arc::new(Notify::new());
        let reader = Reader {
            session: Arc::clone(session),
            slot,
            id,
            end: stream.end.subscribe(),
            stream: Arc::clone(stream),
            pattern,
            may_go_on: Arc::clone(&may_go_on),
            live_from: place.live_from,
            left: place.limit,
            plugins: plugins.filter(|plugins| plugins.want(Hooks::DELIVER)),
        };
        let task = runtime.spawn(reader.run(place)).abort_handle();
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
    /// What it may still read, if that has a limit.
    left: Option<(u32, u64)>,
    /// Those that want to see what it reads.
    plugins: Option<Arc<Plugins>>,
}

/// Why a cursor reads no further: all that was asked for is read, to before this sequence; or the store has failed; or
/// the subscription is gone.
enum Stop {
    Done(u64),
    Failed(StoreError),
    Gone,
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl Reader {
    async fn run(mut self, place: Place) {
        let Err(stop) = self.read_on(place).await;
        let mut state = self.session.lock();
        match stop {
            Stop::Done(next) => state.end_reading(self.id, next),
            Stop::Failed(error) => {
                let reason = BusError::NotStored { reason: format!("the stream cannot be read: {error}") };
                state.end_with(self.id, &reason);
            }
            Stop::Gone => return,
        }
        drop(state);
        self.session.flush();
    }

    /// Delivers until there is a reason to stop.
    async fn read_on(&mut self, place: Place) -> Result<Infallible, Stop> {
        let mut next = self.begin(place).await?;
        // The page behind the one that is being delivered.
        let mut ahead: Option<Asked> = None;
        loop {
            if self.ends_before(next) {
                return Err(Stop::Done(next));
            }
            let credit = match self.credit()? {
                Some(credit) => credit,
                None => {
                    // Nothing is kept for somebody who takes nothing.
                    ahead = None;
                    self.wait_for_room().await?
                }
            };
            let asked = ahead.take().unwrap_or_else(|| self.read(next, credit));
            let Asked { page, reading, mut held } = asked;
            let again = || self.stream.store.read(self.stream.name.clone(), reading.clone());
            let page = patiently(&self.stream, Some(page), again).await?;
            held.take(&page);
            if page.first > next {
                // Retention was faster. How many of them were for this subscription nobody knows any more.
                let until = if self.left.is_some() { page.first.min(self.live_from) } else { page.first };
                self.tell_gap(until - next, GapReason::Retention)?;
            }
            let is_last = !page.has_more();
            next = page.next;
            if !is_last && self.left.is_none() {
                // The store is asked by that, and reads while this one goes out.
                let credit = self.credit()?.map(|credit| behind(&page, credit));
                ahead = credit.filter(|credit| credit.is_left()).map(|credit| self.read(next, credit));
            }
            if let Some(sequence) = self.deliver(&page)? {
                next = sequence;
                ahead = None;
                continue;
            }
            drop((page, held));
            if is_last && self.left.is_none() {
                // A stream ends before its store does.
                self.end.wait_for(|end| *end > next).await.map_err(|_| Stop::Gone)?;
            }
        }
    }

    /// What is to be read from here on: what there is credit for, and half of the window at the most, so that the store reads the
    /// second half while the first one goes out.
    fn reading(&self, next: u64, credit: Left) -> Reading {
        let mut reading = Reading::from(next, milliseconds()).of(self.pattern.clone());
        let (messages, bytes) = credit.window;
        reading.messages = reading.messages.min((messages as usize).div_ceil(2));
        reading.bytes = reading.bytes.min(bytes.div_ceil(2));
        if let Some((messages, _)) = self.left {
            reading.messages = reading.messages.min(messages as usize);
        }
        held::within(&mut reading, credit.credit);
        reading
    }

    /// Asks for the page that begins here.
    fn read(&self, next: u64, credit: Left) -> Asked {
        let mut reading = self.reading(next, credit);
        let held = Held::reserve(&self.session, &mut reading);
        let page = self.stream.store.read(self.stream.name.clone(), reading.clone());
        Asked { page, reading, held }
    }

    /// The sequence to go on from, after what comes out of order: the last message of each topic.
    async fn begin(&mut self, place: Place) -> Result<u64, Stop> {
        let stream = self.stream.name.clone();
        let end = self.live_from;
        let is_other = place.epoch.is_some_and(|epoch| epoch != place.own_epoch);
        if is_other {
            self.tell_gap(0, GapReason::Recreated)?;
        }
        let start = match place.start {
            _ if is_other => store::Start::All,
            Start::New => return Ok(end),
            Start::LastPerTopic => {
                let mut from = 0;
                loop {
                    let credit = self.wait_for_room().await?;
                    let mut reading = self.reading(from, credit);
                    let mut held = Held::reserve(&self.session, &mut reading);
                    let read = || self.stream.store.last_per_topic(stream.clone(), reading.clone());
                    let mut page = patiently(&self.stream, None, read).await?;
                    page.messages.retain(|message| message.sequence < end);
                    held.take(&page);
                    let is_last = !page.has_more() || page.next >= end;
                    from = page.next;
                    match self.deliver(&page)? {
                        Some(sequence) => from = sequence,
                        None if is_last => return Ok(end),
                        None => {}
                    }
                }
            }
            Start::All => store::Start::All,
            Start::From(sequence) => store::Start::From(sequence),
            Start::Since(time) => store::Start::Since(time),
            Start::Last(count) => store::Start::Last(count, Some(self.pattern.clone())),
        };
        let find = || self.stream.store.find(stream.clone(), start.clone());
        let found = patiently(&self.stream, None, find).await?;
        if let Start::From(sequence) = place.start
            && place.epoch.is_some()
            && !is_other
            && sequence > found
        {
            // It ends before what was read of it: it has been put back to an earlier state.
            self.tell_gap(0, GapReason::Recreated)?;
        }
        Ok(found)
    }

    /// Delivers a page as far as credit, room and the limit go. Returns the first message that it has not delivered.
    fn deliver(&mut self, page: &Page) -> Result<Option<u64>, Stop> {
        // Plugins are not called under a lock, so they are asked before.
        let passing = self.passing(page);
        let mut messages = page.messages.iter().enumerate();
        let mut waiting = messages.next();
        {
            let mut state = self.session.lock();
            let State { subscriptions, lanes, totals, .. } = &mut *state;
            let subscription = subscriptions.at(self.slot).ok_or(Stop::Gone)?;
            while subscription.credit.is_left()
                && lanes.has_room()
                && let Some((index, message)) =
                    waiting.filter(|(_, message)| !self.ends_before(message.sequence))
            {
                // It may have waited since it was read; a store leaves it out likewise.
                let Some(fields) = self.fields(message) else {
                    waiting = messages.next();
                    continue;
                };
                let topic = message.topic.as_str().as_bytes();
                let content = ContentRef::lent(&fields, topic, &message.payload);
                subscription.matched += 1;
                totals.matched += 1;
                if passing.get(index).is_none_or(|passes| *passes) {
                    subscription.deliver(&content, lanes, totals);
                } else {
                    subscription.count_dropped(1, GapReason::Withheld, totals);
                    subscription.tell_gap(1, GapReason::Withheld, lanes);
                }
                waiting = messages.next();
                if let Some((messages, bytes)) = &mut self.left {
                    *messages = messages.saturating_sub(1);
                    *bytes = bytes.saturating_sub(content.frame_size() as u64);
                }
            }
        }
        self.session.flush();
        match waiting {
            Some((_, first)) if self.ends_before(first.sequence) => Err(Stop::Done(first.sequence)),
            waiting => Ok(waiting.map(|(_, first)| first.sequence)),
        }
    }

    /// Whether the limit leaves nothing from this sequence on.
    fn ends_before(&self, sequence: u64) -> bool {
        self.left.is_some_and(|(messages, bytes)| sequence >= self.live_from || messages == 0 || bytes == 0)
    }

    /// Which messages of a page plugins let the subscription have; empty where none wants to see them.
    fn passing(&self, page: &Page) -> Vec<bool> {
        let Some(plugins) = &self.plugins else { return Vec::new() };
        let passes = |message: &Message| {
            // What is of no use any more is not handed over whatever they say.
            let Some(fields) = self.fields(message) else { return true };
            let topic = message.topic.as_str().as_bytes();
            let content = ContentRef::lent(&fields, topic, &message.payload);
            let principal = &self.session.peer.principal;
            let receiver = Receiver::subscription(self.session.id, principal, &self.pattern);
            plugins.deliver(&Delivery::new(receiver, &content))
        };
        page.messages.iter().map(passes).collect()
    }

    /// The fields of a stored message, where it lies, and how long it is of use; `None` if it is of none.
    fn fields(&self, message: &Message) -> Option<Vec<u8>> {
        let mut fields = FieldsBuilder::new();
        let position = Position::new(message.sequence, message.time, message.sequence < self.live_from);
        // There was room for this before it was published.
        let _ = fields.append(&message.fields);
        let is_of_use = say_left(message, &mut fields);
        let _ = fields.position(position);
        is_of_use.then(|| fields.finish())
    }

    fn tell_gap(&self, count: u64, reason: GapReason) -> Result<(), Stop> {
        let mut state = self.session.lock();
        let State { subscriptions, lanes, totals, .. } = &mut *state;
        let subscription = subscriptions.at(self.slot).ok_or(Stop::Gone)?;
        subscription.matched += count;
        totals.matched += count;
        subscription.count_dropped(count, reason, totals);
        subscription.tell_gap(count, reason, lanes);
        drop(state);
        self.session.flush();
        Ok(())
    }

    /// Waits until the subscription may get a message.
    async fn wait_for_room(&self) -> Result<Left, Stop> {
        loop {
            if let Some(left) = self.credit()? {
                return Ok(left);
            }
            self.may_go_on.notified().await;
        }
    }

    /// What the subscription has credit for, if it may get a message now.
    fn credit(&self) -> Result<Option<Left>, Stop> {
        let mut state = self.session.lock();
        let has_room = state.has_room_for_readers();
        let subscription = state.subscriptions.at(self.slot).ok_or(Stop::Gone)?;
        let left = Left { credit: subscription.credit, window: subscription.window };
        Ok(Some(left).filter(|left| has_room && left.is_left()))
    }
}

/// What a subscription has credit for, of its window.
#[derive(Debug, Clone, Copy)]
struct Left {
    credit: Credit,
    window: (u32, u64),
}

impl Left {
    fn is_left(self) -> bool {
        self.credit.is_left()
    }
}

/// What is left behind a page that is about to be delivered.
fn behind(page: &Page, mut left: Left) -> Left {
    let bytes = page.messages.iter().map(held::size).sum();
    left.credit.spend_several(page.messages.len(), bytes);
    left
}

/// A page that the store was asked for.
struct Asked {
    page: Operation<Page>,
    reading: Reading,
    held: Held,
}
