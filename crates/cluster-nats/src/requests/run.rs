//! The future that carries requests, as long as the link lasts.

mod moving;

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};

use async_nats::{Client, Message, Subscriber};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep_until};
use whispeer::BusError;
use whispeer::bus::{BusView, ServedNews};
use whispeer::proto::{ContentRef, Flags, Header, Kind, Lane, Refusal, topic_of_request};
use whispeer::topic::Topic;

use self::moving::Moving;
use super::asks::Asks;
use super::leases::{LeaseNews, LeaseSettings, Leases};
use super::link::BusLink;
use super::outbox::{NatsEnded, Outbox};
use super::outputs::Outputs;
use super::served::{Change, ServedTopics};
use super::serves::Serves;
use super::wire::{self, Origin};
use crate::limits;
use crate::members::{Connection, MemberEvent, Members};
use crate::subject::Subjects;

/// What a link needs to carry requests.
#[derive(Debug, Clone)]
pub struct Requests {
    /// The bus.
    pub bus: BusView,
    /// The client of NATS.
    pub nats: Client,
    /// The subjects of the cluster.
    pub subjects: Subjects,
    /// The other buses, and the id of this one; [`members::run`](crate::members::run) keeps them.
    pub members: Members,
    /// Whether there is a connection to NATS.
    pub connection: Connection,
    /// How a topic is kept to a single server among all buses; `None` where each bus may have one.
    pub leases: Option<LeaseSettings>,
    /// Counts how often the server of NATS has said that it is about to end, where there are others.
    pub moves: watch::Receiver<u64>,
}

/// Why requests are not carried any more.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The bus has cut this session off, or it has an uplink already.
    #[error("requests cannot be carried to other buses: {0}")]
    Bus(#[from] BusError),
    /// The client of NATS has ended.
    #[error("requests cannot be carried to other buses: {0}")]
    Nats(#[from] NatsEnded),
}

/// Carries requests between this bus and the others until the bus has stopped.
///
/// When the bus drains, NATS and other buses are told at once to ask elsewhere, and may serve what it was the only one to serve; what others have asked
/// before is answered, or they are told that nobody has it. It ends when that is done and the bus has finished with its clients.
///
/// Before the server of NATS ends, the connection goes to another one: what is under way is finished, and what is asked waits.
///
/// # Errors
/// [`RunError`]. It may be called again.
///
/// # Cancel safety
/// Dropped, it ends all at once: requests of this bus to others end as `SERVER_GONE`, requests of others are cancelled here, and
/// their buses learn that with the end of this one's heartbeats.
pub async fn run(requests: Requests) -> Result<(), RunError> {
    let own = requests.members.own();
    let origin = Origin { bus: own, epoch: 0 };
    let replies = requests.nats.subscribe(format!("{}.*", requests.subjects.of_replies(own)));
    let replies = replies.await.map_err(|_| NatsEnded)?;
    let controls = requests.nats.subscribe(requests.subjects.of_cancels(own)).await.map_err(|_| NatsEnded)?;
    let pauses = requests.nats.subscribe(requests.subjects.own(PAUSE)).await.map_err(|_| NatsEnded)?;
    let link = match BusLink::join(&requests.bus).await {
        Err(BusError::Closed { .. } | BusError::Draining { .. }) => return Ok(()),
        joined => joined?,
    };
    let claims = match requests.leases {
        Some(_) => Some(requests.bus.serve_claims()?),
        None => None,
    };
    let leases = requests.leases.clone().zip(claims).map(|(settings, claims)| {
        let (nats, members) = (requests.nats.clone(), requests.members.clone());
        Leases::new(members, nats, &requests.subjects, settings, claims)
    });
    let most = link.welcome.max_requests as usize;
    let mut running = Running {
        asks: Asks::new(origin, requests.subjects.clone(), requests.members.clone()),
        serves: Serves::new(origin, requests.members.clone(), most),
        out: Outputs::new(link.form(), link.frame_limit(), &requests.subjects, own),
        outbox: Outbox::new(requests.nats.clone(), requests.subjects.clone()),
        served: ServedTopics::new(requests.nats.clone(), &requests.subjects, own),
        leases,
        moving: Moving::No,
        pausing: None,
        has_paused: false,
        events: requests.members.events(),
        connected: None,
        link,
        replies,
        controls,
        pauses,
        requests,
    };
    running.connected();
    let ran = running.run().await;
    if let Some(leases) = running.leases {
        leases.finish().await;
    }
    ran
}

struct Running {
    requests: Requests,
    link: BusLink,
    replies: Subscriber,
    controls: Subscriber,
    /// Other buses are about to end subscriptions, or have.
    pauses: Subscriber,
    events: broadcast::Receiver<MemberEvent>,
    served: ServedTopics,
    leases: Option<Leases>,
    asks: Asks,
    serves: Serves,
    out: Outputs,
    outbox: Outbox,
    connected: Option<u64>,
    moving: Moving,
    /// The others are asked to send nothing, before all subscriptions end.
    pausing: Option<BoxFuture<'static, ()>>,
    /// They are to be told that these have ended.
    has_paused: bool,
}

/// Whether it goes on.
enum Next {
    Go,
    Ended,
}

/// The token of the subject where buses are asked to send no requests for a moment.
const PAUSE: &str = "pause";

impl Running {
    async fn run(&mut self) -> Result<(), RunError> {
        let mut watch = self.requests.bus.watch_served()?;
        let mut draining = pin!(self.requests.bus.draining());
        let mut drained = pin!(self.requests.bus.drained());
        let (mut drains, mut is_drained) = (false, false);
        loop {
            self.talk_to_itself();
            self.tell_end_of_pause();
            self.go_on_moving();
            if is_drained && self.has_nothing_left() {
                return Ok(());
            }
            let timers = [
                self.serves.next_to_accept(),
                self.asks.doubted_until(),
                self.asks.next_to_ask().filter(|_| self.connected.is_some()),
                self.moving.until(),
            ];
            let timer = timers.into_iter().flatten().min();
            let Self {
                link,
                replies,
                controls,
                pauses,
                events,
                served,
                leases,
                serves,
                out,
                outbox,
                requests,
                connected,
                moving,
                pausing,
                ..
            } = self;
            tokio::select! {
                work = poll_fn(|context| poll_work(context, link, out, outbox, connected.is_some())) => match work? {
                    Work::Received => {
                        if let Next::Ended = self.frames()? {
                            return Ok(());
                        }
                    }
                    Work::Subscribed(topic, subscriber) => served.subscribed(topic, subscriber),
                    Work::Ended => return Ok(()),
                },
                reply = replies.next() => self.replies(reply.ok_or(NatsEnded)?),
                control = controls.next() => self.controls(&control.ok_or(NatsEnded)?),
                pause = pauses.next() => self.paused(&pause.ok_or(NatsEnded)?),
                asked = served.next(), if !served.is_empty() && out.frames.size() < limits::OUTBOX_BYTES => {
                    let Some((topic, message)) = asked else { continue };
                    let now = Instant::now();
                    let mut asked = Some((topic, message));
                    for _ in 0..limits::TURN {
                        let Some((topic, message)) = asked.or_else(|| served.next_now()) else { break };
                        match may_serve(served, leases.as_ref(), &topic, now) {
                            true => serves.asked(&topic, message, now, out),
                            false => serves.turned_away(&topic, &message, out),
                        }
                        asked = None;
                    }
                }
                news = watch.next() => match news {
                    Some(news) if !drains => self.served_anew(news),
                    Some(_) => {}
                    None => return Ok(()),
                },
                news = next_news(leases) => self.leased(news),
                event = events.recv() => self.member(event),
                changed = requests.connection.changed() => {
                    if changed.is_err() {
                        return Err(NatsEnded.into());
                    }
                    self.connected();
                }
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => self.timers(),
                Ok(()) = requests.moves.changed() => {
                    if !drains {
                        self.begin_to_move();
                    }
                }
                () = moving.done() => match self.moving {
                    Moving::Telling(..) => self.finish_first(),
                    _ => self.moving = Moving::Away(Instant::now() + limits::LINK_MOVE_GAP),
                },
                () = &mut draining, if !drains => {
                    drains = true;
                    self.begin_to_end();
                }
                () = moving::done(pausing) => self.end_serving(),
                () = &mut drained, if !is_drained => is_drained = true,
            }
        }
    }

    /// Whether all that others had asked, or this bus has asked them, is done and handed over.
    fn has_nothing_left(&self) -> bool {
        let is_said = self.out.messages.is_empty() && self.outbox.is_idle() && self.served.is_empty();
        (is_said || self.connected.is_none())
            && self.pausing.is_none()
            && self.serves.is_empty()
            && self.asks.is_empty()
            && self.out.frames.is_empty()
    }

    /// Takes what this bus says to itself as if NATS had brought it.
    fn talk_to_itself(&mut self) {
        let now = Instant::now();
        while let Some((topic, message)) = self.out.to_itself.pop_front() {
            let message = message.arrived();
            match topic {
                Some(topic) => self.asked(&topic, message, now),
                None if message.headers.as_ref().is_some_and(wire::is_control) => self.controls(&message),
                None => self.asks.answered(message, now, &mut self.out),
            }
        }
    }

    /// Somebody asks what is served here, or was.
    fn asked(&mut self, topic: &Topic, message: Message, now: Instant) {
        match may_serve(&self.served, self.leases.as_ref(), topic, now) {
            true => self.serves.asked(topic, message, now, &mut self.out),
            false => self.serves.turned_away(topic, &message, &mut self.out),
        }
    }

    /// Acts on what has come from the bus.
    fn frames(&mut self) -> Result<Next, BusError> {
        let now = Instant::now();
        let Self { link, asks, serves, out, connected, .. } = self;
        while let Some((header, content)) = link.next_frame()? {
            match header.kind {
                Kind::Ask if connected.is_none() && !asks.is_held() => {
                    refuse_unconnected(&header, &content, out)
                }
                Kind::Ask => asks.asked(&header, &content, now, out),
                Kind::Answer => serves.answered(&header, &content, out),
                Kind::Cancel => asks.cancelled(header.sequence, out),
                Kind::Credit if header.flags == Flags(Lane::Stream as u8) => {
                    let bytes = content.payload().first_chunk().copied().map_or(0, u64::from_le_bytes);
                    asks.credited(header.sequence, header.id, bytes, out);
                }
                Kind::Ping => {
                    out.frames.push(&Header::new(Kind::Pong, 0, header.sequence), &ContentRef::empty());
                }
                Kind::Goodbye => {
                    let reason = Refusal::decode(content.payload())?.into_error();
                    return match reason {
                        BusError::Closed { .. } | BusError::Draining { .. } => Ok(Next::Ended),
                        other => Err(other),
                    };
                }
                Kind::Ended => return Err(Refusal::decode(content.payload())?.into_error()),
                _ => {}
            }
        }
        Ok(Next::Go)
    }

    fn replies(&mut self, first: Message) {
        let now = Instant::now();
        self.asks.answered(first, now, &mut self.out);
        for _ in 1..limits::TURN {
            let Some(Some(next)) = self.replies.next().now_or_never() else { return };
            self.asks.answered(next, now, &mut self.out);
        }
    }

    fn controls(&mut self, message: &Message) {
        if let Some(control) = wire::read_control(message) {
            self.serves.told(control, &mut self.out);
        } else if let Some(topic) = wire::read_release(message)
            && self.leases.as_ref().is_some_and(|leases| leases.holds(&topic, Instant::now()))
        {
            // Its entry is deleted when the bus tells that it is not served any more.
            let error = BusError::TakenOver { topic: topic.to_string() };
            self.end_served(&topic, &error);
        }
    }

    /// What is served at this bus has changed.
    fn served_anew(&mut self, news: ServedNews) {
        for change in self.served.changed(news) {
            match change {
                Change::Served(topic) => self.subscribe(topic),
                Change::Gone(topic) => self.leases.iter_mut().for_each(|leases| leases.gone(&topic)),
            }
        }
    }

    /// Lets others ask for a topic that is served here, as soon as this bus may serve it for them.
    fn subscribe(&mut self, topic: Topic) {
        let Self { served, leases, outbox, .. } = self;
        let is_alone = served.alone(&topic).is_some();
        let may = !is_alone || leases.as_mut().is_none_or(|leases| leases.serve(&topic));
        if may && served.is_unsubscribed(&topic) {
            outbox.subscribe([topic]);
        }
    }

    /// Acts on what has become of topics with a single server.
    fn leased(&mut self, news: LeaseNews) {
        match news {
            LeaseNews::Held(topic) if self.served.is_unsubscribed(&topic) => self.outbox.subscribe([topic]),
            LeaseNews::Held(_) => {}
            LeaseNews::Alone => self.outbox.subscribe(self.served.unsubscribed_alone()),
            LeaseNews::Yield { bus, topic } => {
                let subject = self.requests.subjects.of_cancels(bus);
                self.out.tell(wire::release(subject, self.requests.members.own(), &topic));
            }
            LeaseNews::Refused { topic, was_held } => {
                let name = topic.to_string();
                let error = match was_held {
                    true => BusError::TakenOver { topic: name },
                    false => BusError::AlreadyServed { topic: name },
                };
                self.end_served(&topic, &error);
            }
        }
    }

    /// Ends the single server of a topic at this bus, unless another one has come by now: then there are news of it.
    fn end_served(&self, topic: &Topic, error: &BusError) {
        if let Some(served) = self.served.alone(topic) {
            // A bus that has stopped has ended it itself.
            let _ = self.requests.bus.end_served(topic, served, error);
        }
    }

    fn timers(&mut self) {
        let now = Instant::now();
        self.serves.accept(now, &mut self.out);
        if self.asks.doubted_until().is_some_and(|until| until <= now) {
            self.asks.end_doubts(&mut self.out);
        }
        if self.connected.is_some() && !self.asks.is_held() {
            let Self { asks, served, leases, out, .. } = self;
            let is_here = |topic: &Topic| served.has(topic) && may_serve(served, leases.as_ref(), topic, now);
            asks.ask_waiting(now, is_here, out);
        }
    }

    fn member(&mut self, event: Result<MemberEvent, RecvError>) {
        // What a bus has answered before it left is here, also where this task has had its turn.
        while let Some(Some(reply)) = unconstrained(self.replies.next()).now_or_never() {
            self.asks.answered(reply, Instant::now(), &mut self.out);
        }
        let Self { asks, serves, out, requests, .. } = self;
        let (id, epoch, heard) = match event {
            Ok(MemberEvent::Reconnected { id, epoch, heard }) => (id, epoch, Some(heard)),
            Ok(MemberEvent::Gone { id, heard }) => (id, u64::MAX, Some(heard)),
            Ok(MemberEvent::Left { id }) => (id, u64::MAX, None),
            Ok(_) | Err(RecvError::Closed) => return,
            Err(RecvError::Lagged(_)) => {
                asks.only(|id| requests.members.epoch(id), out);
                return serves.only(|id| requests.members.epoch(id), out);
            }
        };
        asks.gone(id, epoch, heard, Instant::now(), out);
        serves.gone(id, epoch, out);
    }

    /// The connection to NATS has come, or gone.
    fn connected(&mut self) {
        let now = *self.requests.connection.borrow_and_update();
        if now != self.connected {
            self.outbox.forget_messages();
            self.out.forget_messages();
            self.asks.connected(now.unwrap_or(0), &mut self.out);
            self.serves.connected(now.unwrap_or(0), &mut self.out);
            self.out.forget_messages();
            tracing::debug!(
                asks = self.asks.len(),
                serves = self.serves.len(),
                connection = now,
                "the connection to NATS"
            );
        }
        if now != self.connected
            && let Some(leases) = &mut self.leases
        {
            leases.connected(now.is_some());
        }
        let is_other = now.is_some() && now != self.connected;
        let is_lost = now != self.connected && now.is_none();
        self.connected = now;
        self.out.max_payload = self.requests.nats.max_payload();
        match self.moving {
            Moving::No => {}
            _ if is_other => self.end_moving(),
            // The server did not wait.
            Moving::Telling(..) | Moving::Finishing(_) if is_lost => {
                self.asks.hold();
                self.moving = Moving::Away(Instant::now() + limits::LINK_MOVE_GAP);
            }
            _ => {}
        }
    }
}

/// Whether this bus may serve a topic for others. Of what is not served here any more the bus says so itself.
fn may_serve(served: &ServedTopics, leases: Option<&Leases>, topic: &Topic, now: Instant) -> bool {
    served.alone(topic).is_none() || leases.is_none_or(|leases| leases.holds(topic, now))
}

/// What becomes of topics with a single server, where they are leased.
async fn next_news(leases: &mut Option<Leases>) -> LeaseNews {
    match leases {
        Some(leases) => leases.next().await,
        None => std::future::pending().await,
    }
}

/// What has become of what is to be sent and received.
enum Work {
    /// The bus has sent something.
    Received,
    /// A subscription has been made.
    Subscribed(Topic, Subscriber),
    /// The bus has ended the session.
    Ended,
}

/// Sends what there is for the bus and for NATS, and looks for what the bus has sent, unless too much waits for NATS.
fn poll_work(
    context: &mut Context<'_>,
    link: &mut BusLink,
    out: &mut Outputs,
    outbox: &mut Outbox,
    is_connected: bool,
) -> Poll<Result<Work, RunError>> {
    if let Poll::Ready(Err(error)) = link.poll_send(context, &mut out.frames) {
        return Poll::Ready(Err(error.into()));
    }
    if is_connected && let Poll::Ready(done) = outbox.poll_work(context, out) {
        match done {
            Err(ended) => return Poll::Ready(Err(ended.into())),
            Ok(Some((topic, subscriber))) => return Poll::Ready(Ok(Work::Subscribed(topic, subscriber))),
            Ok(None) => {}
        }
    }
    if out.is_full() {
        return Poll::Pending;
    }
    link.poll_receive(context).map(|received| match received {
        Ok(true) => Ok(Work::Received),
        Ok(false) => Ok(Work::Ended),
        Err(error) => Err(error.into()),
    })
}

/// There is nobody else while there is no connection.
fn refuse_unconnected(header: &Header, content: &ContentRef<'_>, out: &mut Outputs) {
    out.grant(Lane::Serving, u64::from(header.id), 1, content.frame_size() as u64);
    let named = topic_of_request(content).map(|topic| topic.to_string());
    let topic = named.unwrap_or_else(|| String::from_utf8_lossy(content.topic).into_owned());
    out.refuse(header.sequence, Flags::NONE, &BusError::NoServer { topic });
}
