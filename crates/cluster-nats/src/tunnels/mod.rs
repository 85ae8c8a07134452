//! Tunnels between buses: by them the members of a shared consumer at one bus have sessions at the bus that has it.
//!
//! ```text
//! members -> bus A -> LinkWish -> {prefix}.consume          Open    -> who has the consumer: bus B
//!                                 {prefix}.tunnel.{A}.{n}   Accept  <- bus B, which attaches a session
//!            the protocol      -> {prefix}.tunnel.{B}.{m}   Data    -> the session
//!                              <- {prefix}.tunnel.{A}.{n}   Data    <-
//! ```
//!
//! A tunnel is a link of frames in bytes, in messages that both ends number. What is missing ends it, and so do silence and the end of a connection to NATS, on
//! either side: nothing is sent twice. A session that ends so gives back what its members had not acknowledged, as that of any client does whose
//! link is lost, and they look for the consumer anew. A window bounds what is under way, so that a bus that takes nothing is sent nothing.
//!
//! Buses behind one prefix trust each other: who may take part has been checked at the bus of the member.
//!
//! | file | what it holds |
//! |---|---|
//! | `wire` | what the ends tell each other |
//! | `ends` | numbers and window of one end: no clock, no socket |
//! | `pipe` | an end as a link |

mod ends;
mod pipe;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;

use async_nats::{Client as Nats, Message, Subscriber};
use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::StreamExt as _;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use whispeer::auth::Principal;
use whispeer::bus::{BusView, LinkWish};
use whispeer::transport::Peer;
use whispeer::{BusError, BusResult};

use self::ends::{Broken, Ends};
use self::pipe::Pipe;
use self::wire::{End, HEAD, Kind, Note, Wanted};
use crate::limits;
use crate::members::{Connection, MemberEvent, Members, written};
use crate::subject::Subjects;

/// Where all buses are asked who has a consumer.
const CONSUME: &str = "consume";

/// The token before those of the ends of a bus.
const TUNNEL: &str = "tunnel";

/// What a bus needs to have tunnels to others.
#[derive(Debug, Clone)]
pub(crate) struct Tunnels {
    pub(crate) bus: BusView,
    pub(crate) nats: Nats,
    pub(crate) subjects: Subjects,
    pub(crate) members: Members,
    pub(crate) connection: Connection,
}

/// The ends that there are, and their tasks.
struct Running {
    tunnels: Tunnels,
    /// By their numbers.
    open: HashMap<u64, Arc<Pipe>, RandomState>,
    last: u64,
    tasks: JoinSet<u64>,
}

impl Tunnels {
    /// Brings links to the members of this bus, and takes in those of others, until the bus stops.
    ///
    /// # Errors
    /// Why it has ended.
    ///
    /// # Cancel safety
    /// All tunnels end when the future is dropped. Other buses notice it by their silence.
    pub(crate) async fn run(self) -> BusResult<()> {
        let mut wishes = self.bus.link_wishes()?;
        let mut asked = self.listen(self.subjects.own(CONSUME)).await?;
        let mut said = self.listen(format!("{}.*", self.ends_of(self.members.own()))).await?;
        let mut events = self.members.events();
        let mut connection = self.connection.clone();
        let mut running = Running { tunnels: self, open: HashMap::default(), last: 0, tasks: JoinSet::new() };
        loop {
            tokio::select! {
                wish = wishes.next() => match wish {
                    Some(wish) => running.ask(wish),
                    None => return Ok(()),
                },
                message = asked.next() => running.asked(message.ok_or_else(ended)?),
                message = said.next() => running.said(message.ok_or_else(ended)?).await,
                event = events.recv() => running.follow(event),
                changed = connection.changed() => {
                    // All that was under way may be lost.
                    running.end_all(|_| Some(Broken::Moved));
                    changed.map_err(|_| ended())?;
                    connection.borrow_and_update();
                }
                Some(over) = running.tasks.join_next(), if !running.tasks.is_empty() => {
                    running.forget(over.ok());
                }
            }
        }
    }

    async fn listen(&self, subject: String) -> BusResult<Subscriber> {
        self.nats.subscribe(subject).await.map_err(|_| ended())
    }

    /// Where the ends of a bus are told something, behind a token for each.
    fn ends_of(&self, bus: u64) -> String {
        format!("{}.{}", self.subjects.own(TUNNEL), written(bus))
    }

    fn subject_of(&self, end: End) -> String {
        format!("{}.{}", self.ends_of(end.bus), end.number)
    }

    /// Bytes that go in one message.
    fn chunk(&self) -> usize {
        self.nats.server_info().max_payload.saturating_sub(HEAD).clamp(1, limits::TUNNEL_CHUNK)
    }
}

impl Running {
    /// A new end of this bus; `None` while there is no connection, or where there are as many as there may be.
    fn end(&mut self) -> Option<End> {
        let epoch = (*self.tunnels.connection.borrow())?;
        if self.open.len() >= limits::TUNNELS {
            tracing::warn!(
                most = limits::TUNNELS,
                "no more tunnels to other buses: members of a consumer wait"
            );
            return None;
        }
        self.last += 1;
        Some(End { bus: self.tunnels.members.own(), epoch, number: self.last })
    }

    /// Looks for the bus that has a consumer.
    fn ask(&mut self, wish: LinkWish) {
        if wish.is_given_up() || self.tunnels.members.is_alone() {
            return;
        }
        let Some(own) = self.end() else { return };
        let pipe = Pipe::new(Ends::new(own, None));
        self.open.insert(own.number, Arc::clone(&pipe));
        let tunnels = self.tunnels.clone();
        self.tasks.spawn(async move {
            if open(&tunnels, own, &pipe, wish).await {
                speak(&tunnels, &pipe).await;
            }
            own.number
        });
    }

    /// Another bus looks for one that has a consumer.
    fn asked(&mut self, message: Message) {
        let Some(Note { kind: Kind::Open, from, data, .. }) = Note::decode(message.payload) else { return };
        let Some(Wanted { epoch, stream, consumer }) = Wanted::decode(&data) else { return };
        let tunnels = &self.tunnels;
        let has_it = || tunnels.bus.has_consumer(&stream, epoch, &consumer).unwrap_or_default();
        if from.bus == tunnels.members.own() || tunnels.bus.is_draining() {
            return;
        }
        // Whoever is no bus that is there by now is let in when he is one, as he asks again: nobody would say that he is gone.
        if tunnels.members.epoch(from.bus).is_none() || !has_it() {
            return;
        }
        let bus = tunnels.bus.clone();
        let Some(own) = self.end() else { return };
        let pipe = Pipe::new(Ends::new(own, Some(from)));
        let peer = Peer::new(Principal::Bus, "nats").sharing();
        if let Err(error) = bus.attach(pipe.link(), peer) {
            // It is asked again.
            tracing::debug!(%error, "another bus is not let in");
            return;
        }
        self.open.insert(own.number, Arc::clone(&pipe));
        let tunnels = self.tunnels.clone();
        self.tasks.spawn(async move {
            speak(&tunnels, &pipe).await;
            own.number
        });
    }

    /// The other end of a tunnel has said something.
    async fn said(&mut self, message: Message) {
        let number = message.subject.rsplit('.').next().and_then(|number| number.parse().ok());
        let (Some(number), Some(note)) = (number, Note::decode(message.payload)) else { return };
        if let Some(pipe) = self.open.get(&number) {
            let taken = pipe.lock().take(note);
            match taken {
                Ok(()) => pipe.wake(),
                Err(why) => pipe.breaks(why),
            }
        } else if note.kind != Kind::Close {
            // It has been given up here: the other one need not wait until this one has been silent for long enough.
            let from = End { bus: self.tunnels.members.own(), epoch: 0, number };
            self.tunnels.close(from, note.from).await;
        }
    }

    fn follow(&mut self, event: Result<MemberEvent, RecvError>) {
        match event {
            Ok(MemberEvent::Left { id } | MemberEvent::Gone { id, .. }) => {
                self.end_all(|peer| (peer.bus == id).then_some(Broken::PeerGone));
            }
            Ok(MemberEvent::Reconnected { id, epoch, .. }) => {
                self.end_all(|peer| (peer.bus == id && peer.epoch != epoch).then_some(Broken::PeerMoved));
            }
            Ok(_) => {}
            // Those that are gone are silent.
            Err(RecvError::Lagged(_) | RecvError::Closed) => {}
        }
    }

    /// Ends those for which there is a reason by their other ends; where these are not known yet, for any.
    fn end_all(&self, why: impl Fn(End) -> Option<Broken>) {
        for pipe in self.open.values() {
            let (own, peer) = {
                let ends = pipe.lock();
                (ends.own, ends.peer)
            };
            if let Some(why) = why(peer.unwrap_or(own)) {
                pipe.breaks(why);
            }
        }
    }

    /// A tunnel's task has ended; `None` if it panicked, which is looked for.
    fn forget(&mut self, number: Option<u64>) {
        match number {
            Some(number) => _ = self.open.remove(&number),
            None => self.open.retain(|_, pipe| {
                let is_held = Arc::strong_count(pipe) > 1;
                if is_held {
                    return true;
                }
                pipe.breaks(Broken::Silent);
                false
            }),
        }
    }
}

impl Drop for Running {
    /// Nobody carries anything any more: who has a link is told at once.
    fn drop(&mut self) {
        self.end_all(|_| Some(Broken::Moved));
    }
}

impl Tunnels {
    /// Says to an end that there is no other one.
    async fn close(&self, from: End, to: End) {
        // Its epoch is not known to be another one.
        let from = End { epoch: (*self.connection.borrow()).unwrap_or(from.epoch), ..from };
        let note = Note { kind: Kind::Close, from, sent: 0, taken: 0, data: Bytes::new() };
        let said = self.nats.publish(self.subject_of(to), note.encode());
        // Where it does not arrive this one is silent for too long.
        let _ = timeout_at(Instant::now() + limits::TUNNEL_OPENS, said).await;
    }
}

/// Asks all buses, and grants the wish when one has accepted. Whether one has.
async fn open(tunnels: &Tunnels, own: End, pipe: &Arc<Pipe>, wish: LinkWish) -> bool {
    let until = Instant::now() + limits::TUNNEL_OPENS;
    let (stream, consumer) = (wish.stream().to_owned(), wish.consumer().to_owned());
    let data = Wanted { epoch: wish.epoch(), stream, consumer }.encode();
    let note = Note { kind: Kind::Open, from: own, sent: 0, taken: 0, data };
    let accepted = async {
        if tunnels.nats.publish(tunnels.subjects.own(CONSUME), note.encode()).await.is_err() {
            return false;
        }
        loop {
            {
                let ends = pipe.lock();
                if ends.peer.is_some() || ends.is_over() {
                    return !ends.is_over();
                }
            }
            pipe.changed.notified().await;
        }
    };
    let is_open = timeout_at(until, accepted).await.unwrap_or(false);
    if is_open {
        wish.grant(pipe.link());
    }
    is_open
}

/// Sends what an end has to say, until it is over.
async fn speak(tunnels: &Tunnels, pipe: &Pipe) {
    let (mut beat, mut heard) = (Instant::now(), Instant::now());
    let mut times_heard = 0;
    loop {
        let now = Instant::now();
        let is_due = now >= beat;
        let (note, peer, is_over) = {
            let mut ends = pipe.lock();
            let note = ends.next_note(tunnels.chunk(), is_due);
            if std::mem::replace(&mut times_heard, ends.heard) != ends.heard {
                heard = now;
            }
            (note, ends.peer, ends.is_over())
        };
        if let (Some(note), Some(peer)) = (note, peer) {
            beat = now + limits::TUNNEL_BEAT;
            let sent = tunnels.nats.publish(tunnels.subject_of(peer), note.encode()).await;
            if sent.is_err() {
                return pipe.breaks(Broken::Moved);
            }
            // There is room for more of what it carries.
            let writer = pipe.lock().writer.take();
            writer.into_iter().for_each(std::task::Waker::wake);
            continue;
        }
        if is_over {
            return pipe.wake();
        }
        if now >= heard + limits::TUNNEL_SILENT {
            return pipe.breaks(Broken::Silent);
        }
        tokio::select! {
            () = pipe.changed.notified() => {}
            () = sleep_until(beat.min(heard + limits::TUNNEL_SILENT)) => {}
        }
    }
}

fn ended() -> BusError {
    BusError::Closed { what: "the link to NATS".into() }
}
