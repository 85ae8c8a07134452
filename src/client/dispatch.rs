//! What each frame from the bus does.

use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::driver::{Driver, Exit};
use super::inbox::{Beside, Inbox};
use super::reconnect::ClientEvent;
use super::request_id::{Ask, RequestId};
use super::shared::{Call, Ending, Registration};
use crate::engine::is_sealed;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::{Options, decode_gap, next_of};
use crate::proto::{
    Capabilities, ContentRef, Flags, Header, Kind, Lane, MalformedFrame, Payload, Refusal, VERSION, Welcome,
    topic_of_request,
};
use crate::transport::{Arrived, Incoming};

/// What a session of the bus's own serves to be asked what nobody serves there.
const UPLINK: &str = "$bus/uplink";

/// Messages that are put into an inbox under one lock at most.
const RUN: usize = 256;

impl Driver {
    /// Acts on one frame, or on a run of messages for one subscription.
    #[inline]
    pub(super) fn dispatch(
        &mut self,
        first: &Arrived,
        incoming: &mut Incoming,
        run: &mut Vec<Arrived>,
    ) -> Result<(), Exit> {
        if first.header.kind == Kind::Deliver {
            return Ok(self.delivered(first, incoming, run)?);
        }
        self.dispatch_rare(&first.header, &incoming.content(first))
    }

    fn dispatch_rare(&mut self, header: &Header, content: &ContentRef<'_>) -> Result<(), Exit> {
        match header.kind {
            Kind::Welcome => self.welcomed(content.payload())?,
            Kind::Goodbye => return Err(Exit::Peer(refusal(content.payload()).into_error())),
            _ if self.shared.session().is_none() => {
                return Err(violation("a frame before WELCOME").into());
            }
            Kind::Ping => self.answer_ping(header.sequence)?,
            Kind::Pong => {
                let mut state = self.shared.lock();
                if let Some((sender, published)) = state.pings.remove(&header.sequence) {
                    state.publishing.settle(published);
                    drop(state);
                    // Whoever asked may have gone away.
                    let _ = sender.send(());
                }
            }
            Kind::Credit => self.credited(header, content.payload())?,
            Kind::Accepted => self.accepted(header, content.payload())?,
            Kind::Failed => self.failed(header, refusal(content.payload()).into_error())?,
            Kind::Draining => {
                tracing::info!("the bus is draining: it takes nothing new");
                self.shared.tell(ClientEvent::Draining);
                self.shared.leave();
            }
            Kind::Confirm => match self.shared.sender().resumable() {
                Some(link) => link.confirm(header.sequence)?,
                None => return Err(violation("CONFIRM on a link that ends with its connection").into()),
            },
            Kind::Gap => {
                let (count, reason) = decode_gap(content.payload()).map_err(BusError::from)?;
                let waker = self.inbox(header.id)?.gap(header.sequence, count, reason)?;
                self.wakers.extend(waker);
            }
            Kind::Ended => self.ended(header, content)?,
            Kind::Ask => self.asked(header, content)?,
            Kind::Answer => self.answered(header, content)?,
            Kind::Cancel => {
                if let Some(ask) = { self.shared.lock().asks.remove(&header.sequence) } {
                    ask.cancel();
                }
            }
            kind => return Err(violation(&format!("the bus sent {kind:?}, which only clients send")).into()),
        }
        Ok(())
    }

    fn welcomed(&mut self, payload: &[u8]) -> BusResult<()> {
        if self.shared.session().is_some() {
            return Err(violation("a second WELCOME"));
        }
        let welcome = Welcome::decode(payload)?;
        if welcome.version != VERSION {
            return Err(BusError::UnsupportedVersion {
                what: format!("the bus chose {}, this client speaks {VERSION}", welcome.version),
            });
        }
        if !welcome.capabilities.contains(Capabilities::RESUME)
            && let Some(link) = self.shared.sender().resumable()
            && self.coming_back.is_some()
        {
            link.keep_nothing();
        }
        if let Some(coming_back) = &mut self.coming_back {
            coming_back.note(&welcome);
        }
        self.keep_alive.agreed = welcome.keep_alive;
        self.shared.open(&welcome);
        self.shared.send_will();
        Ok(())
    }

    fn answer_ping(&self, sequence: u64) -> BusResult<()> {
        let mut state = self.shared.lock();
        state.lanes.control(&Header::new(Kind::Pong, 0, sequence), &ContentRef::empty());
        let waiting = state.lanes.control_waiting();
        if waiting > limits::CONTROL_LANE_BYTES {
            return Err(BusError::ControlOverrun { bytes: waiting });
        }
        Ok(())
    }

    fn inbox(&mut self, id: u32) -> BusResult<&Arc<Inbox<()>>> {
        use std::collections::hash_map::Entry;
        match self.inboxes.entry(id) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let state = self.shared.lock();
                let registration = state.subscriptions.entries.get(&id);
                let inbox = registration.map(|registration| Arc::clone(&registration.inbox));
                drop(state);
                let inbox =
                    inbox.ok_or_else(|| violation("a message for a subscription that is not there"))?;
                Ok(entry.insert(inbox))
            }
        }
    }

    #[inline]
    fn delivered(
        &mut self,
        first: &Arrived,
        incoming: &mut Incoming,
        run: &mut Vec<Arrived>,
    ) -> BusResult<()> {
        run.clear();
        run.push(*first);
        let id = first.header.id;
        incoming.take_run(run, RUN, |next| next.header.kind == Kind::Deliver && next.header.id == id);
        let messages = run.iter().map(|next| (next.header.sequence, incoming.content(next)));
        let mut beside = Beside::default();
        let waker = self.inbox(id)?.deliver_run(messages, &mut beside)?;
        self.wakers.extend(waker);
        if beside.granted.0 > 0 {
            self.tell_beside(id, &beside);
        }
        Ok(())
    }

    /// Tells the bus of messages that the application had before.
    fn tell_beside(&self, id: u32, beside: &Beside) {
        let mut state = self.shared.lock();
        for frame in &beside.frames {
            let (header, payload) = frame.parts(id);
            state.lanes.control(&header, &ContentRef::of_payload(payload));
        }
        let (messages, bytes) = beside.granted;
        let credit = Header::new(Kind::Credit, messages, u64::from(id));
        let credit = credit.flagged(Flags(Lane::Subscription as u8));
        state.lanes.control(&credit, &ContentRef::of_payload(&bytes.to_le_bytes()));
    }

    fn credited(&self, header: &Header, payload: &[u8]) -> BusResult<()> {
        let bytes = payload.first_chunk().copied().map(u64::from_le_bytes);
        let bytes = bytes.ok_or(MalformedFrame::Content("a CREDIT without a number of bytes"))?;
        match Lane::from_u8(header.flags.0) {
            Some(Lane::Publish) => self.shared.grant_publish(header.id, bytes),
            Some(Lane::Stream) => {
                let ask = self.shared.lock().asks.get(&header.sequence).cloned();
                // One that has been answered meanwhile needs no credit.
                if let Some(ask) = ask {
                    ask.grant(header.id, bytes);
                }
            }
            _ => return Err(violation("CREDIT for a window that only clients grant")),
        }
        Ok(())
    }

    fn accepted(&self, header: &Header, payload: &[u8]) -> BusResult<()> {
        let mut state = self.shared.lock();
        let waiting = match header.answers() {
            Some(Kind::Publish) => {
                drop(state);
                self.shared.published(header.sequence, Ok(header.id as usize));
                return Ok(());
            }
            Some(Kind::Subscribe) => {
                let registration = state.subscriptions.entries.get_mut(&header.id);
                let frames = match (&registration, payload.first_chunk()) {
                    (Some(registration), Some(epoch)) => registration.accepted_at(*epoch, header.sequence),
                    _ => Vec::new(),
                };
                let waiting = registration.map(take_accepted);
                for frame in frames {
                    let (header, payload) = frame.parts(header.id);
                    state.lanes.control(&header, &ContentRef::of_payload(payload));
                }
                waiting
            }
            Some(Kind::Ack) => {
                drop(state);
                self.acknowledged(header, &Ok(()));
                return Ok(());
            }
            Some(Kind::Will) => {
                drop(state);
                self.shared.will_changed(header.id, Ok(()));
                return Ok(());
            }
            Some(Kind::Serve) => state.servings.entries.get_mut(&header.id).map(take_accepted),
            _ => return Err(violation("ACCEPTED for something that is not asked for")),
        };
        drop(state);
        if let Some(sender) = waiting.flatten() {
            // The future that waited may have been dropped.
            let _ = sender.send(Ok(()));
        }
        Ok(())
    }

    fn failed(&mut self, header: &Header, error: BusError) -> BusResult<()> {
        let mut state = self.shared.lock();
        let (waiting, waker) = match header.answers() {
            Some(Kind::Publish) => {
                drop(state);
                self.shared.published(header.sequence, Err(error));
                return Ok(());
            }
            Some(Kind::Ack) => {
                drop(state);
                self.acknowledged(header, &Err(error));
                return Ok(());
            }
            Some(Kind::Will) => {
                drop(state);
                self.shared.will_changed(header.id, Err(error));
                return Ok(());
            }
            Some(Kind::Subscribe) => {
                drop(state);
                if self.keeps_for_later(header.id, &error) {
                    return Ok(());
                }
                let gone = self.shared.lock().subscriptions.entries.remove(&header.id);
                refused(gone, &error)
            }
            Some(Kind::Serve) => {
                let gone = state.servings.entries.remove(&header.id);
                drop(state);
                refused(gone, &error)
            }
            _ => return Err(violation("FAILED for something that cannot fail so")),
        };
        self.wakers.extend(waker);
        if let Some(sender) = waiting {
            let _ = sender.send(Err(error));
        }
        Ok(())
    }

    /// The bus has answered an acknowledgement, which may be one of a subscription that has ended.
    fn acknowledged(&self, header: &Header, result: &BusResult<()>) {
        let state = self.shared.lock();
        let registration = state.subscriptions.entries.get(&header.id);
        let deliveries = registration.and_then(|own| own.deliveries.clone());
        drop(state);
        for frame in deliveries.map(|own| own.answered(header.sequence, result)).unwrap_or_default() {
            let (header, payload) = frame.parts(header.id);
            self.shared.lock().lanes.control(&header, &ContentRef::of_payload(payload));
        }
    }

    fn ended(&mut self, header: &Header, content: &ContentRef<'_>) -> BusResult<()> {
        let payload = content.payload();
        let error = (!payload.is_empty()).then(|| refusal(payload).into_error());
        let (accepted, waker) = match header.answers() {
            Some(Kind::Subscribe) => {
                self.inboxes.remove(&header.id);
                let mut state = self.shared.lock();
                if let Some(drained) = state.subscriptions.entries.get_mut(&header.id)
                    && error.is_none()
                    && drained.stays_when_drained()
                {
                    let waker = drained.inbox.end(None, Some(header.sequence));
                    drop(state);
                    self.wakers.extend(waker);
                    return Ok(());
                }
                let gone = state.subscriptions.entries.remove(&header.id);
                drop(state);
                let Some(mut gone) = gone else { return Ok(()) };
                let ended = || BusError::Closed { what: "the subscription".into() };
                gone.end_deliveries(&error.clone().unwrap_or_else(ended));
                gone.inbox.with_following(|following| following.ended(next_of(content.fields)));
                (take_accepted(&mut gone), gone.inbox.end(error.clone(), Some(header.sequence)))
            }
            Some(Kind::Serve) => {
                let mut state = self.shared.lock();
                if let Some(serving) = state.servings.entries.get_mut(&header.id)
                    && serving.ending == Ending::Moving
                    && error.is_none()
                {
                    serving.ending = Ending::Moved;
                    return Ok(());
                }
                let gone = state.servings.entries.remove(&header.id);
                drop(state);
                let Some(mut gone) = gone else { return Ok(()) };
                (take_accepted(&mut gone), gone.inbox.end(error.clone(), None))
            }
            _ => return Err(violation("ENDED for something that has no end")),
        };
        self.wakers.extend(waker);
        if let Some(sender) = accepted {
            let _ = sender
                .send(Err(error.unwrap_or(BusError::Closed { what: "the subscription or serving".into() })));
        }
        Ok(())
    }

    fn asked(&mut self, header: &Header, content: &ContentRef<'_>) -> BusResult<()> {
        let options = Options::read(content.fields).map_err(Refusal::into_error)?;
        let stream = header.flags.contains(Flags::STREAM);
        let window = options.window.unwrap_or((limits::STREAM_WINDOW, limits::WINDOW_BYTES));
        let mut state = self.shared.lock();
        let Some(serving) = state.servings.entries.get(&header.id) else {
            // The serving ended while the bus was handing this over.
            let refusal = Refusal::from(&BusError::Abandoned {
                topic: String::from_utf8_lossy(content.topic).into_owned(),
            });
            let reply = Header::new(Kind::Reply, 0, header.sequence).flagged(Flags::ERROR);
            state.lanes.data(&reply, &ContentRef::of_payload(&refusal.encode()));
            return Ok(());
        };
        let inbox = Arc::clone(&serving.inbox);
        // An uplink is asked about the topics of others; everybody else about his own, also where a pattern was asked.
        let topic = match *serving.topic == *UPLINK {
            true => topic_of_request(content)
                .map_or_else(|| Arc::clone(&serving.topic), |topic| topic.as_str().into()),
            false => Arc::clone(&serving.topic),
        };
        let ask = Ask::new(header.sequence, topic, options.deadline, stream.then_some(window));
        let earlier = state.asks.insert(header.sequence, Arc::clone(&ask));
        state.burst.expect();
        drop(state);
        if earlier.is_some() {
            return Err(violation("a request with a token that is in use"));
        }
        let id = RequestId::new(Arc::clone(&self.shared), ask);
        let waker = inbox.deliver(None, id, content)?;
        self.wakers.extend(waker);
        Ok(())
    }

    fn answered(&mut self, header: &Header, content: &ContentRef<'_>) -> BusResult<()> {
        let mut state = self.shared.lock();
        let last = !header.flags.contains(Flags::MORE);
        let inbox = match state.calls.entries.get_mut(&header.id) {
            // The request was cancelled while its answer was on the way.
            None => return Ok(()),
            Some(Call::Many(many)) => {
                if !last {
                    if !many.credit.is_left() {
                        let what = "the bus sent past the window of a stream".into();
                        return Err(BusError::CreditExceeded { what });
                    }
                    many.credit.spend(content.frame_size());
                }
                Arc::clone(&many.inbox)
            }
            Some(Call::Single(_)) => {
                let call = state.calls.entries.remove(&header.id);
                state.burst.expect();
                drop(state);
                if let Some(Call::Single(sender)) = call {
                    // The request may be dropped at this moment.
                    let _ = sender.send(single_answer(header.flags, content));
                }
                return Ok(());
            }
        };
        if last {
            state.calls.entries.remove(&header.id);
        }
        drop(state);
        // One that is sealed is the requester's to open.
        let sealed = header.flags.contains(Flags::ERROR) && is_sealed(content.payload());
        let error = header.flags.contains(Flags::ERROR) && !sealed;
        if !last || sealed || (!error && !header.flags.contains(Flags::END)) {
            let waker = inbox.deliver(None, header.flags, content)?;
            self.wakers.extend(waker);
        }
        if last {
            let reason = error.then(|| refusal(content.payload()).into_error());
            self.wakers.extend(inbox.end(reason, None));
        }
        Ok(())
    }
}

fn single_answer(flags: Flags, content: &ContentRef<'_>) -> BusResult<(Flags, Payload)> {
    if flags.contains(Flags::ERROR) && !is_sealed(content.payload()) {
        return Err(refusal(content.payload()).into_error());
    }
    if flags.contains(Flags::END) {
        return Err(violation("the end of a stream as the answer to a plain request"));
    }
    let payload = content.shared_payload();
    Ok((flags, payload.unwrap_or_else(|| Bytes::copy_from_slice(content.payload()).into())))
}

/// Who waits for what the bus has refused; where nobody does, since it was accepted by an earlier session, it
/// ends, and that for this reason unless it was to.
fn refused<S>(
    gone: Option<Registration<S>>,
    error: &BusError,
) -> (Option<oneshot::Sender<BusResult<()>>>, Option<Waker>) {
    let Some(mut gone) = gone else { return (None, None) };
    gone.end_deliveries(error);
    match take_accepted(&mut gone) {
        Some(waiting) => (Some(waiting), None),
        None => (None, gone.inbox.end(gone.ending.goes_on().then(|| error.clone()), None)),
    }
}

fn take_accepted<S>(registration: &mut Registration<S>) -> Option<oneshot::Sender<BusResult<()>>> {
    registration.accepted.take()
}

/// The refusal in a payload; one that cannot be read still is one.
pub(super) fn refusal(payload: &[u8]) -> Refusal {
    Refusal::decode(payload).unwrap_or_else(|malformed| Refusal::from(&BusError::from(malformed)))
}

fn violation(what: &str) -> BusError {
    BusError::Protocol { what: what.to_owned() }
}
