//! What the handles of one connection and its driver share.
//!
//! All of it lies under one lock, which is held for the time of a few moves and never across an
//! `await`; wakers are called after it is released. Whoever puts a frame into the lanes sees to it
//! that it is sent: directly, from its own task, unless the link is full; then the driver waits for
//! room.

use std::hash::Hash;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use foldhash::{HashMap, HashMapExt, HashSet};
use tokio::sync::{Notify, broadcast, oneshot};
use tokio::task::JoinHandle;

use super::burst::{Burst, Next};
use super::deliveries::{Deliveries, Frame as AckFrame};
use super::inbox::Inbox;
use super::reconnect::{ClientEvent, ClientEvents};
use super::request_id::{Ask, RequestId};
use super::sealing::{Opener, Seal, Sealing};
use super::will::{self, Testament};
use super::window::{Limits, PublishWindow};
use crate::engine::is_sealed;
use crate::error::{BriefResult, BusError, BusResult};
use crate::limits;
use crate::proto::fields::{Epoch, Field, Start, iterate};
use crate::proto::{ContentRef, Credit, Flags, Header, Kind, Lane, Payload, Welcome};
use crate::transport::{Form, Lanes, LinkSender, Sent, Step};

/// Bytes in the lanes above which new requests and replies wait for the link.
///
/// The bus reads all the time, so this fills only when the link itself is slower than its users. It
/// is as much as a default window, and one frame more may always be added.
const LANES_FULL: usize = 1024 * 1024;

/// What keeps a connection alive. When the last one is dropped, the driver sends what is queued and
/// closes the link.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) request_timeout: Duration,
    /// What becomes of payloads, if anything does.
    pub(super) sealing: Option<Arc<Sealing>>,
    /// The same for what is published later, made when it is first needed.
    pub(super) sealing_later: OnceLock<Option<Arc<Sealing>>>,
    /// The task that owns the link; `close` waits for it.
    pub(super) driver: Mutex<Option<JoinHandle<()>>>,
}

impl Connection {
    /// How what is sent to a topic is sealed, if this client has engines.
    pub(super) fn seal(&self, topic: &str) -> BusResult<Option<Seal>> {
        self.sealing.as_ref().map(|sealing| sealing.seal(topic)).transpose()
    }

    /// How what is asked is sealed: not at all, nor its answer opened, if it is given as something sealed that is passed on.
    pub(super) fn seal_request(&self, topic: &str, given: &[u8]) -> BusResult<Option<Seal>> {
        match &self.sealing {
            Some(sealing) if sealing.passes_sealed() && is_sealed(given) => Ok(None),
            _ => self.seal(topic),
        }
    }

    /// How a message with these fields is sealed. Those that are published later have a sender of their own: so receivers that
    /// have seen many later messages of this client by then do not take them for ones that come again.
    pub(super) fn seal_with(&self, topic: &str, fields: &[u8]) -> BusResult<Option<Seal>> {
        if self.sealing.is_none() || !is_delayed(fields) {
            return self.seal(topic);
        }
        let sealing = match self.sealing_later.get() {
            Some(sealing) => sealing,
            None => {
                let (engines, passes_sealed) = self.shared.lock().testament.engines();
                let made = Sealing::new(engines.checked()?, &self.shared, passes_sealed);
                self.sealing_later.get_or_init(|| made)
            }
        };
        sealing.as_ref().map(|sealing| sealing.seal(topic)).transpose()
    }

    /// What opens the messages of one subscription, serving or request, of topics that `due` meets, if this client has
    /// engines.
    pub(super) fn opener(&self, due: &str) -> Option<Box<Opener>> {
        self.sealing.as_ref().map(|sealing| Opener::new(sealing, due))
    }

    /// [`opener`](Self::opener) of a subscription, unless that hands out what arrives as it is.
    pub(super) fn subscription_opener(&self, due: &str) -> Option<Box<Opener>> {
        let sealing = self.sealing.as_ref().filter(|sealing| !sealing.passes_sealed())?;
        Some(Opener::new(sealing, due))
    }

    /// Waits until the driver has ended, unless somebody else does so.
    pub(super) async fn join(&self) {
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(driver) = driver {
            // A driver that was stopped with its runtime has ended as well.
            let _ = driver.await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.begin_close();
    }
}

/// What the bus told in the last handshake.
#[derive(Debug, Default)]
pub(super) struct Session {
    id: AtomicU64,
    bus: AtomicU64,
    frame_limit: AtomicUsize,
    max_subscriptions: AtomicUsize,
    max_requests: AtomicUsize,
}

/// The state of a connection, shared by its handles and its driver.
pub(super) struct Shared {
    state: Mutex<State>,
    session: OnceLock<Session>,
    sender: Arc<dyn LinkSender>,
    /// Wakes the driver: there is something that only it can do.
    pub(super) driver: AtomicWaker,
    /// The handshake is done, or the connection has ended.
    changed: Notify,
    /// The lanes have room again, or there is a new session.
    pub(super) drained: Notify,
    room_wanted: AtomicBool,
    /// How often a session has followed another one.
    pub(super) sessions: AtomicU64,
    events: broadcast::Sender<ClientEvent>,
}

pub(super) struct State {
    pub(super) lanes: Lanes,
    /// What the calls are likely to be that are made next.
    pub(super) burst: Burst,
    pub(super) ended: Option<BusError>,
    /// The last handle is gone, or `close` was called.
    pub(super) closing: bool,
    /// There are other buses to go to.
    pub(super) has_others: bool,
    /// The driver goes to another bus once nothing is in flight: what is asked from now on is for that one.
    pub(super) leaving: bool,
    /// The link takes nothing more. What it still holds for us is read before the end.
    pub(super) write_error: Option<BusError>,
    pub(super) publishing: PublishWindow,
    pub(super) subscriptions: Table<u32, Registration<()>>,
    pub(super) servings: Table<u32, Registration<RequestId>>,
    pub(super) calls: Table<u32, Call>,
    pub(super) testament: Testament,
    pub(super) will_changes: Table<u32, will::Change>,
    /// Requests that were handed over and are not answered yet.
    pub(super) asks: HashMap<u64, Arc<Ask>>,
    /// Those who wait for a `PONG`, and the last publish before the `PING`.
    pub(super) pings: HashMap<u64, (oneshot::Sender<()>, u64)>,
    last_ping: u64,
}

/// What goes on under ids that this side chooses: counted up from 1, and not used again while they
/// live.
pub(super) struct Table<K, V> {
    pub(super) entries: HashMap<K, V>,
    last: u32,
}

/// A subscription or serving at the bus.
pub(super) struct Registration<S> {
    pub(super) inbox: Arc<Inbox<S>>,
    /// The full topic.
    pub(super) topic: Arc<str>,
    /// How it was asked for, to be asked for again at a new session.
    pub(super) flags: Flags,
    pub(super) fields: Box<[u8]>,
    /// Who waits for the bus to accept it.
    pub(super) accepted: Option<oneshot::Sender<BusResult<()>>>,
    /// Whether the bus has been asked to end it.
    pub(super) ending: Ending,
    /// What it has been handed, where it acknowledges.
    pub(super) deliveries: Option<Arc<Deliveries>>,
}

/// How far the end of a subscription or serving is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nobody wants it to end.
    No,
    /// Nor here; but the bus has refused it for now, and is to be asked again.
    Refused,
    /// The bus has been asked to hand over nothing new.
    Draining,
    /// The bus hands over nothing any more, and takes acknowledgements of what it has handed over.
    Drained,
    /// The bus has been asked to end it.
    Asked,
    /// The bus, which drains, has been asked to end it, and another one will be asked for it.
    Moving,
    /// It has, and nothing more of it comes from there.
    Moved,
}

impl Ending {
    /// Whether it is wanted at the next session.
    pub(super) fn goes_on(self) -> bool {
        matches!(self, Self::No | Self::Refused | Self::Moving | Self::Moved)
    }
}

impl<S> Registration<S> {
    /// Tells those who wait for acknowledgements to be kept that nobody will say so any more.
    pub(super) fn end_deliveries(&self, error: &BusError) {
        if let Some(deliveries) = &self.deliveries {
            deliveries.end(error);
        }
    }
}

impl Registration<()> {
    /// The bus has accepted it, in a stream of this epoch that ends before this sequence. Returns what it is to be told.
    pub(super) fn accepted_at(&self, epoch: Epoch, end: u64) -> Vec<AckFrame> {
        let before = self.inbox.with_following(|following| {
            let before = following.epoch();
            following.accepted(epoch, end);
            before
        });
        let Some(deliveries) = &self.deliveries else { return Vec::new() };
        if before.flatten().is_some_and(|before| before != epoch) {
            // The bus tells that, and begins with the oldest message.
            deliveries.forget_all();
        } else if self.start().is_none_or(|start| start == Start::New) {
            deliveries.begin_at(end);
        }
        deliveries.accepted()
    }

    /// The bus says that it has ended. Whether it stays for its acknowledgements.
    pub(super) fn stays_when_drained(&mut self) -> bool {
        let deliveries = self.deliveries.as_ref().filter(|_| self.ending == Ending::Draining);
        let Some(deliveries) = deliveries else { return false };
        deliveries.drained();
        self.ending = Ending::Drained;
        true
    }

    fn start(&self) -> Option<Start> {
        iterate(&self.fields).find_map(|field| match field {
            Field::Start(start) => Some(start),
            _ => None,
        })
    }

    /// Asks for what is left, where it reads a stream. A durable consumer knows by itself, and is told of which stream.
    fn go_on_in_stream(&mut self) {
        let start = self.start();
        if let Some(deliveries) = &self.deliveries {
            let from = deliveries.restart();
            let asked = self.inbox.with_following(|following| match from {
                Some(from) => {
                    following.go_on_from(from);
                    None
                }
                // There is room for it, as below.
                None => following.epoch_fields(&self.fields, start).ok(),
            });
            if from.is_none() {
                if let Some(Some(fields)) = asked {
                    self.fields = fields.into();
                }
                return;
            }
        }
        let asked = self.inbox.with_following(|following| {
            if following.is_complete() {
                following.complete();
                return None;
            }
            // There is room for it, as it was there before.
            Some(following.fields(&self.fields, start).ok().flatten())
        });
        match asked {
            Some(None) => self.ending = Ending::Asked,
            Some(Some(Some(fields))) => self.fields = fields.into(),
            Some(Some(None)) | None => {}
        }
    }
}

/// A request without its last answer.
pub(super) enum Call {
    /// One answer is due.
    /// With the flag `ERROR`, the payload is an error that has to be opened.
    Single(oneshot::Sender<BusResult<(Flags, Payload)>>),
    /// A stream of answers, or those of many servers.
    Many(Many),
}

/// Where several answers go, and how many may come.
pub(super) struct Many {
    pub(super) inbox: Arc<Inbox<Flags>>,
    /// What the bus may still send with `MORE`. It is kept here and not in the inbox, since the last answer
    /// takes none of it.
    pub(super) credit: Credit,
}

impl<K: Eq + Hash, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), last: 0 }
    }
}

impl<V> Table<u32, V> {
    pub(super) fn insert(&mut self, value: V) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && !self.entries.contains_key(&self.last) {
                self.entries.insert(self.last, value);
                return self.last;
            }
        }
    }
}

impl Shared {
    pub(super) fn new(sender: Arc<dyn LinkSender>) -> Arc<Self> {
        let state = State {
            lanes: Lanes::new(sender.form()),
            burst: Burst::default(),
            ended: None,
            closing: false,
            has_others: false,
            leaving: false,
            write_error: None,
            publishing: PublishWindow::default(),
            subscriptions: Table::default(),
            servings: Table::default(),
            calls: Table::default(),
            testament: Testament::default(),
            will_changes: Table::default(),
            asks: HashMap::new(),
            pings: HashMap::new(),
            last_ping: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            session: OnceLock::new(),
            sender,
            driver: AtomicWaker::new(),
            changed: Notify::new(),
            drained: Notify::new(),
            room_wanted: AtomicBool::new(false),
            sessions: AtomicU64::new(0),
            events: broadcast::channel(limits::CLIENT_EVENTS).0,
        })
    }

    /// Tells whoever wants to know what becomes of the connection.
    pub(super) fn tell(&self, event: ClientEvent) {
        // Nobody need want to.
        let _ = self.events.send(event);
    }

    pub(super) fn events(&self) -> ClientEvents {
        ClientEvents::new(self.events.subscribe())
    }

    pub(super) fn form(&self) -> Form {
        self.sender.form()
    }

    pub(super) fn sender(&self) -> &dyn LinkSender {
        &*self.sender
    }

    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the bus told in the handshake, once it is done.
    #[inline]
    pub(super) fn session(&self) -> Option<&Session> {
        self.session.get()
    }

    /// Why the connection ended, or that it did not.
    pub(super) fn ended(&self) -> Option<BusError> {
        self.lock().ended.clone()
    }

    /// Why a call will not be answered any more.
    pub(super) fn reason(&self) -> BusError {
        self.ended().unwrap_or_else(|| unknown("what was sent before has arrived"))
    }

    /// Waits for the end of the handshake.
    pub(super) async fn opened(&self) -> BusResult<&Session> {
        loop {
            if let Some(session) = self.session.get() {
                return Ok(session);
            }
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(error) = self.ended() {
                return Err(error);
            }
            if self.session.get().is_none() {
                changed.await;
            }
        }
    }

    /// Waits for the end of the connection.
    pub(super) async fn closed(&self) -> BusError {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(error) = self.ended() {
                return error;
            }
            changed.await;
        }
    }

    /// Waits until the lanes have room for a frame that no window bounds.
    pub(super) async fn room(&self) -> BusResult<()> {
        loop {
            if self.has_room()? {
                return Ok(());
            }
            let mut drained = pin!(self.drained.notified());
            drained.as_mut().enable();
            self.room_wanted.store(true, Ordering::SeqCst);
            if !self.has_room()? {
                drained.await;
            }
        }
    }

    fn has_room(&self) -> BusResult<bool> {
        let state = self.lock();
        match &state.ended {
            Some(error) => Err(error.clone()),
            None => Ok(state.lanes.waiting() < LANES_FULL),
        }
    }

    /// The handshake is done.
    pub(super) fn open(&self, welcome: &Welcome) {
        let session = Session::default();
        session.renew(welcome);
        if self.session.set(session).is_ok() {
            self.changed.notify_waiters();
            let (messages, bytes) = welcome.publish_window;
            self.grant_publish(messages, bytes);
            self.tell(ClientEvent::Connected);
        }
    }

    /// The bus has given a new session in place of one that could not go on: asks for everything again that
    /// lives on, queues what has not been sent, and tells that the rest may or may not have happened.
    /// Nobody may be writing.
    pub(super) fn restart(&self, welcome: &Welcome) {
        if let Some(session) = self.session() {
            session.renew(welcome);
        }
        let mut wakers = Vec::new();
        let mut ended = Vec::new();
        let mut guard = self.lock();
        let state = &mut *guard;
        let unsent = state.lanes.take_frames();
        for registration in state.subscriptions.entries.values_mut() {
            registration.go_on_in_stream();
        }
        state.subscriptions.entries.retain(|id, registration| {
            renew(&mut state.lanes, Kind::Subscribe, *id, registration, &mut wakers)
        });
        state
            .servings
            .entries
            .retain(|id, registration| renew(&mut state.lanes, Kind::Serve, *id, registration, &mut wakers));
        let mut requests = HashSet::default();
        let mut publishes = Vec::new();
        let limits = Limits { window: welcome.publish_window, frame: welcome.frame_limit as usize };
        for frame in unsent {
            match frame.header.kind {
                Kind::Publish => publishes.push(frame),
                Kind::Request if state.calls.entries.contains_key(&frame.header.id) => {
                    if let Some(error) = limits.refuse(&frame) {
                        ended.extend(state.calls.entries.remove(&frame.header.id).map(|call| (call, error)));
                        continue;
                    }
                    state.lanes.data(&frame.header, &frame.content.borrowed());
                    requests.insert(frame.header.id);
                }
                _ => {}
            }
        }
        let given_up = state.publishing.restart(limits, publishes);
        state.release_held_back();
        let calls: Vec<u32> =
            state.calls.entries.keys().copied().filter(|id| !requests.contains(id)).collect();
        for id in calls {
            let call = state.calls.entries.remove(&id);
            ended.extend(call.map(|call| (call, unknown("the request was acted upon"))));
        }
        self.sessions.fetch_add(1, Ordering::Relaxed);
        state.leaving = false;
        let will_changes = std::mem::take(&mut state.will_changes.entries);
        let asks = std::mem::take(&mut state.asks);
        let pings = std::mem::take(&mut state.pings);
        wakers.extend(state.publishing.next_waker());
        state.lanes.unblock();
        drop(guard);
        drop(pings);
        for (sender, error) in given_up {
            let _ = sender.send(Err(error));
        }
        for change in will_changes.into_values() {
            change.give_up(unknown("the will was changed"));
        }
        for (call, error) in ended {
            match call {
                Call::Single(sender) => {
                    let _ = sender.send(Err(error));
                }
                Call::Many(many) => wakers.extend(many.inbox.end(Some(error), None)),
            }
        }
        for ask in asks.into_values() {
            ask.cancel();
        }
        for waker in wakers {
            waker.wake();
        }
        self.drained.notify_waiters();
    }

    /// Sends what is in the lanes; whether the link is full and has to be waited for.
    pub(super) fn flush(&self) -> bool {
        let mut state = self.lock();
        if state.lanes.is_blocked() {
            return true;
        }
        let step = state.lanes.begin();
        drop(state);
        self.send(step)
    }

    /// Sends the frame that a call has queued, with others of its burst. What still waits when this returns
    /// is sent by a later call, or by the driver.
    pub(super) fn send_call(&self, mut state: MutexGuard<'_, State>) {
        let waiting = state.lanes.waiting();
        match state.burst.call(self.form(), waiting) {
            Next::Write => {
                let step = state.lanes.begin();
                drop(state);
                self.write(step);
            }
            Next::Wait { tell } => {
                drop(state);
                if tell {
                    self.driver.wake();
                }
            }
        }
    }

    /// Does what [`Lanes::begin`] asked for. If the link is full, the driver waits for room.
    pub(super) fn write(&self, step: Step) {
        if self.send(step) {
            self.driver.wake();
        }
    }

    fn send(&self, mut step: Step) -> bool {
        loop {
            let mut batch = match step {
                Step::Idle => return false,
                Step::Blocked => return true,
                Step::Write(batch) => batch,
            };
            let sent: io::Result<Sent> = self.sender.try_send(&mut batch);
            let mut state = self.lock();
            step = state.lanes.finish(batch, &sent);
            let failed = sent.is_err();
            if let Err(error) = sent {
                state.write_error = Some(lost(&error));
            }
            let room = state.lanes.waiting() < LANES_FULL;
            drop(state);
            if failed {
                self.driver.wake();
            }
            if (room || failed) && self.room_wanted.load(Ordering::Relaxed) {
                self.room_wanted.store(false, Ordering::SeqCst);
                self.drained.notify_waiters();
            }
        }
    }

    /// Gives the bus more of a window.
    pub(super) fn grant(&self, lane: Lane, window: u32, (messages, bytes): (u32, u64)) {
        let header = Header::new(Kind::Credit, messages, u64::from(window)).flagged(Flags(lane as u8));
        self.control(&header, &bytes.to_le_bytes());
    }

    /// Gives the bus more of a stream's window, unless the last answer has come.
    pub(super) fn grant_stream(&self, call: u32, (messages, bytes): (u32, u64)) {
        let mut state = self.lock();
        let Some(Call::Many(many)) = state.calls.entries.get_mut(&call) else { return };
        many.credit.grant(messages, bytes);
        drop(state);
        self.grant(Lane::Stream, call, (messages, bytes));
    }

    /// Sends a control frame.
    pub(super) fn control(&self, header: &Header, payload: &[u8]) {
        let mut state = self.lock();
        state.lanes.control(header, &ContentRef::of_payload(payload));
        let step = state.lanes.begin();
        drop(state);
        self.write(step);
    }

    /// Sends a `PING` behind everything that is queued, and gives what its `PONG` completes.
    pub(super) fn ping(&self) -> BusResult<oneshot::Receiver<()>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        state.check()?;
        let sequence = state.next_ping();
        let published = state.publishing.last_sequence();
        state.pings.insert(sequence, (sender, published));
        state.send_behind_publishes(Header::new(Kind::Ping, 0, sequence));
        let step = state.lanes.begin();
        drop(state);
        self.write(step);
        Ok(receiver)
    }

    /// Waits until the bus has routed everything that was sent before.
    pub(super) async fn barrier(&self) -> BusResult<()> {
        self.opened().await?;
        self.ping()?.await.map_err(|_| self.reason())
    }

    /// Asks the driver to send what is queued and to close the link.
    pub(super) fn begin_close(&self) {
        self.lock().closing = true;
        self.driver.wake();
    }

    /// Ends the connection for everyone who waits on it. Only the first reason counts.
    pub(super) fn end(&self, error: BusError) {
        let mut state = self.lock();
        if state.ended.is_some() {
            return;
        }
        state.ended = Some(error.clone());
        state.lanes.close();
        let subscriptions = std::mem::take(&mut state.subscriptions.entries);
        let servings = std::mem::take(&mut state.servings.entries);
        let calls = std::mem::take(&mut state.calls.entries);
        state.leaving = false;
        let asks = std::mem::take(&mut state.asks);
        let pings = std::mem::take(&mut state.pings);
        let publishing = std::mem::take(&mut state.publishing);
        let will_changes = std::mem::take(&mut state.will_changes.entries);
        drop(state);
        // Those who wait for an answer see that its sender is gone and ask for the reason.
        drop(pings);
        drop(will_changes);
        publishing.wake_all();
        for registration in subscriptions.into_values() {
            registration.end_deliveries(&error);
            wake(registration.inbox.end(Some(error.clone()), None));
        }
        for registration in servings.into_values() {
            wake(registration.inbox.end(Some(error.clone()), None));
        }
        for call in calls.into_values() {
            if let Call::Many(many) = call {
                wake(many.inbox.end(Some(error.clone()), None));
            }
        }
        for ask in asks.into_values() {
            ask.cancel();
        }
        self.changed.notify_waiters();
        self.drained.notify_waiters();
    }
}

impl State {
    /// The connection still takes calls.
    ///
    /// # Errors
    /// Why it does not.
    #[inline]
    pub(super) fn check(&self) -> BriefResult<()> {
        if self.ended.is_some() || self.closing {
            let closed = || BusError::Closed { what: "the client".into() };
            return Err(self.ended.clone().unwrap_or_else(closed).into());
        }
        Ok(())
    }

    /// The link still takes frames, be it for the last time.
    #[inline]
    pub(super) fn check_link(&self) -> BusResult<()> {
        self.ended.clone().map_or(Ok(()), Err)
    }

    pub(super) fn next_ping(&mut self) -> u64 {
        self.last_ping += 1;
        self.last_ping
    }
}

/// Asks for a subscription or serving again, unless it was about to end; whether it goes on.
fn renew<S>(
    lanes: &mut Lanes,
    kind: Kind,
    id: u32,
    registration: &mut Registration<S>,
    wakers: &mut Vec<std::task::Waker>,
) -> bool {
    if !registration.ending.goes_on() {
        wakers.extend(registration.inbox.end(None, None));
        // What was handed over and is not acknowledged comes to whoever asks for it next.
        registration.end_deliveries(&unknown("the acknowledgement was kept"));
        return false;
    }
    registration.ending = Ending::No;
    wakers.extend(registration.inbox.restart());
    let header = Header::new(kind, id, 0).flagged(registration.flags);
    lanes.control(&header, &ContentRef::lent(&registration.fields, registration.topic.as_bytes(), &[]));
    true
}

/// The error of what may or may not have happened.
pub(super) fn unknown(what: &str) -> BusError {
    BusError::OutcomeUnknown { what: what.to_owned() }
}

impl Session {
    fn renew(&self, welcome: &Welcome) {
        self.id.store(welcome.session, Ordering::Relaxed);
        self.bus.store(welcome.bus, Ordering::Relaxed);
        self.frame_limit.store(welcome.frame_limit as usize, Ordering::Relaxed);
        self.max_subscriptions.store(welcome.max_subscriptions as usize, Ordering::Relaxed);
        self.max_requests.store(welcome.max_requests as usize, Ordering::Relaxed);
    }

    pub(super) fn id(&self) -> u64 {
        self.id.load(Ordering::Relaxed)
    }

    pub(super) fn bus(&self) -> u64 {
        self.bus.load(Ordering::Relaxed)
    }

    /// Bytes of the largest frame.
    #[inline]
    pub(super) fn frame_limit(&self) -> usize {
        self.frame_limit.load(Ordering::Relaxed)
    }

    /// Whether a frame of this size may be sent.
    #[inline]
    pub(super) fn check_size(&self, size: usize) -> BriefResult<()> {
        let limit = self.frame_limit();
        if size > limit {
            return Err(BusError::FrameTooLarge { size, limit }.into());
        }
        Ok(())
    }

    /// Whether one more subscription may be made.
    pub(super) fn check_subscriptions(&self, live: usize) -> BusResult<()> {
        check_limit(live, self.max_subscriptions.load(Ordering::Relaxed), "subscriptions per session")
    }

    /// Whether one more request may be made.
    pub(super) fn check_requests(&self, live: usize) -> BusResult<()> {
        check_limit(live, self.max_requests.load(Ordering::Relaxed), "unanswered requests per session")
    }
}

fn check_limit(live: usize, limit: usize, what: &str) -> BusResult<()> {
    if live >= limit {
        return Err(BusError::LimitReached { what: format!("{limit} {what}") });
    }
    Ok(())
}

/// The error of a link that broke.
pub(super) fn lost(error: &io::Error) -> BusError {
    BusError::Disconnected { reason: error.to_string() }
}

/// Whether a publish with these fields is published later.
fn is_delayed(fields: &[u8]) -> bool {
    iterate(fields).any(|field| matches!(field, Field::DeliverAt(_)))
}

/// Wakes whoever waited.
#[inline]
pub(super) fn wake(waker: Option<std::task::Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
