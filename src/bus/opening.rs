//! From a connection to a session: the handshake of its transport, and then the bus's own.

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::Shared;
use super::places::Place;
use super::rights::Rights;
use super::session::{Returned, Session};
use super::supervisor::{Phase, random};
use super::task::{Served, SessionTask};
use super::workers::Seat;
use crate::auth::{Credentials, Principal};
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::{
    Capabilities, ContentRef, Header, Hello, Kind, Refusal, Resume, ResumeToken, VERSION, Welcome,
};
use crate::transport::{Accepted, Batch, Incoming, Link, LinkReceiver, LinkSender, Opened, Opening, Peer};

const RESUME: Capabilities = Capabilities::RESUME;

/// The shortest keep-alive interval a client may ask for; the bus's own may be shorter.
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_millis(100);

/// The handshakes of transports that are under way. They cost memory and computing before anybody has said
/// who they are, so their number is bounded; one that takes long gives way to others that wait.
#[derive(Debug)]
pub(super) struct Handshakes {
    places: Semaphore,
    waiting: AtomicUsize,
    /// Somebody waits for a place.
    wanted: Notify,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self {
            places: Semaphore::new(limits::HANDSHAKES),
            waiting: AtomicUsize::new(0),
            wanted: Notify::new(),
        }
    }
}

/// Counts one who waits for as long as it does.
struct WaitsForPlace<'a>(&'a AtomicUsize);

impl Drop for WaitsForPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Handshakes {
    /// Waits for a place and does the handshake there.
    async fn run(&self, opening: Opening) -> Opened {
        let _place = match self.places.try_acquire() {
            Ok(place) => Ok(place),
            Err(_) => {
                self.waiting.fetch_add(1, Ordering::Relaxed);
                let _waits = WaitsForPlace(&self.waiting);
                self.wanted.notify_one();
                self.places.acquire().await
            }
        };
        tokio::select! {
            opened = opening.handshake => opened,
            () = self.has_to_give_way() => Err(BusError::Overloaded {
                what: format!("{} connections in the handshake of their transport", limits::HANDSHAKES),
            }),
        }
    }

    /// Returns when others wait and this one has had its time.
    async fn has_to_give_way(&self) {
        sleep(limits::HANDSHAKE_PATIENCE).await;
        loop {
            let wanted = self.wanted.notified();
            if self.waiting.load(Ordering::Relaxed) > 0 {
                return;
            }
            wanted.await;
        }
    }
}

/// Serves one link from the handshake to its end. Not an `async fn`: its future would hold the arguments for as
/// long as the connection lives, beside what they were moved into.
pub(super) fn serve_link(
    shared: Arc<Shared>,
    accepted: Accepted,
    phase: watch::Receiver<Phase>,
    seat: Option<Seat>,
) -> impl Future<Output = ()> + Send + 'static {
    // What the handshake takes is given back before the session begins.
    let opening = Box::pin(open_session(shared, accepted, phase));
    async move {
        let opened = opening.await;
        if let Some((_open, served)) = opened {
            served.finished().await;
        }
        drop(seat);
    }
}

/// Makes a session of a connection, unless one of the handshakes fails.
async fn open_session(
    shared: Arc<Shared>,
    accepted: Accepted,
    mut phase: watch::Receiver<Phase>,
) -> Option<(Place, Served)> {
    let until = Instant::now() + shared.live().handshake_timeout;
    let stopped = async {
        // A supervisor that is gone takes this task with it.
        if phase.wait_for(|phase| *phase == Phase::Stopped).await.is_err() {
            pending::<()>().await;
        }
    };
    let opened = tokio::select! {
        opened = open_link(&shared, accepted, until) => opened?,
        () = stopped => return None,
    };
    let (open, Link { sender, mut receiver }, peer) = opened;
    let mut incoming = Incoming::new(sender.form(), limits::HANDSHAKE_FRAME_LIMIT);
    let welcomed = async {
        let open = open?;
        let hello = tokio::select! {
            hello = timeout_at(until, read_hello(&mut *receiver, &mut incoming)) => {
                hello.map_err(|_| too_slow(&shared))??
            }
            _ = phase.wait_for(|phase| *phase == Phase::Stopped) => {
                return Err(BusError::Closed { what: "the bus".into() });
            }
        };
        if hello.min_version > VERSION || hello.max_version < VERSION {
            let what = format!(
                "the client speaks versions {} to {}, the bus {VERSION}",
                hello.min_version, hello.max_version
            );
            return Err(BusError::UnsupportedVersion { what });
        }
        if shared.is_draining() {
            return Err(BusError::Draining { what: "the bus".into() });
        }
        let (policy, number) = shared.policies.current();
        let rights = if policy.is_open() || peer.principal == Principal::Bus {
            None
        } else {
            let credentials = hello.credentials.as_ref().map(Credentials::from);
            let identified = policy.authenticate(&peer.principal, credentials.as_ref());
            let identity = timeout_at(until, identified).await.map_err(|_| too_slow(&shared))??;
            Some(Rights::of(identity))
        };
        let token = random::<{ ResumeToken::LEN }>()?;
        Ok((open, hello, rights, number, ResumeToken::new(token)))
    };
    let (mut open, mut hello, rights, number, resume_token) = match welcomed.await {
        Ok(welcomed) => welcomed,
        Err(reason) => {
            turn_away(&shared, &*sender, &peer, &reason);
            return None;
        }
    };
    let mut peer = peer;
    if let Some(rights) = &rights {
        peer.principal = rights.identity().principal.clone();
    }
    let mut rights = (rights, number);
    if let Some(resume) = &hello.resume {
        match come_back(&shared, resume, &peer, &*sender, &mut incoming, rights) {
            None => return None,
            Some(back) => rights = back,
        }
    }
    // Who comes back has his place already.
    if let Err(reason) = open.belongs_to(&peer.principal) {
        turn_away(&shared, &*sender, &peer, &reason);
        return None;
    }
    match sender.resumable() {
        Some(link) if !shared.live().resume_limit.is_zero() && hello.capabilities.contains(RESUME) => {
            link.keep()
        }
        _ => hello.capabilities = hello.capabilities.without(RESUME),
    }
    incoming.settle();
    incoming.set_limit(shared.settings.frame_limit);
    let id = shared.next_session.fetch_add(1, Ordering::Relaxed);
    let keep_alive = hello.keep_alive.max(SHORTEST_KEEP_ALIVE).min(shared.live().keep_alive);
    let (budget, request_bytes) = (Arc::clone(&shared.budget), shared.settings.request_bytes);
    let session = Arc::new(Session::new(id, peer, hello.name, resume_token, sender, budget, request_bytes));
    let welcome = welcome(&shared, &session, keep_alive, hello.capabilities);
    session.send_control(&Header::new(Kind::Welcome, 0, 0), &welcome.encode());
    shared.sessions().insert(id, Arc::clone(&session));
    if *phase.borrow() == Phase::Stopped {
        // Those that are there have been told already.
        session.cut_off(BusError::Closed { what: "the bus".into() });
    }
    let task = SessionTask::new(Arc::clone(&shared), session, receiver, incoming, keep_alive, rights);
    Some((open, task.start()))
}

/// Does the handshake of the transport, if it has one. `None` when it failed, which nobody can be told.
async fn open_link(
    shared: &Arc<Shared>,
    accepted: Accepted,
    until: Instant,
) -> Option<(BusResult<Place>, Link, Peer)> {
    let opening = match accepted {
        Accepted::Open { link, peer } => {
            let address = match peer.principal {
                Principal::Network { address } => Some(address),
                _ => None,
            };
            return Some((Place::open(shared, peer.principal == Principal::Bus, address), link, peer));
        }
        Accepted::Opening(opening) => opening,
    };
    let remote = opening.remote.clone();
    let opened = async {
        let open = Place::open(shared, false, remote.parse().ok())?;
        let (link, peer) = timeout_at(until, shared.handshakes.run(opening))
            .await
            .unwrap_or_else(|_| Err(too_slow(shared)))?;
        Ok((Ok(open), link, peer))
    };
    match opened.await {
        Ok(opened) => Some(opened),
        Err(reason) => {
            let reason: BusError = reason;
            shared.cut_off.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(peer = remote, %reason, "no connection");
            None
        }
    }
}

fn too_slow(shared: &Shared) -> BusError {
    BusError::TimedOut { what: "the handshake".into(), after: shared.live().handshake_timeout }
}

/// Hands the connection and the rights over to the session that its client asks to come back to, if that can go on;
/// otherwise they are given back, and the client gets a new one.
fn come_back(
    shared: &Shared,
    resume: &Resume,
    peer: &Peer,
    sender: &dyn LinkSender,
    incoming: &mut Incoming,
    rights: (Option<Box<Rights>>, u64),
) -> Option<(Option<Box<Rights>>, u64)> {
    let Some(session) = shared.sessions().get(&resume.session).cloned() else { return Some(rights) };
    if session.resume_token != resume.token || !session.peer.principal.may_go_on_as(&peer.principal) {
        return Some(rights);
    }
    let Some(link) = session.sender().resumable() else { return Some(rights) };
    if !link.can_go_on(resume.received) {
        return Some(rights);
    }
    let attachment = sender.resumable().and_then(|fresh| fresh.detach(incoming.take_rest()));
    let Some(attachment) = attachment else { return Some(rights) };
    tracing::debug!(session = session.id, peer = %peer.principal, "a client comes back");
    // Where the session ends at this moment, the connection ends with it, and the client tries again.
    let (rights, policy) = rights;
    session.come_back(Returned { attachment, received: resume.received, rights, policy });
    None
}

/// What the bus says to the client of a session.
pub(super) fn welcome(
    shared: &Shared,
    session: &Session,
    keep_alive: Duration,
    capabilities: Capabilities,
) -> Welcome {
    let settings = &shared.settings;
    let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Welcome {
        version: VERSION,
        capabilities: Capabilities::SUPPORTED.common(capabilities),
        bus: shared.id,
        session: session.id,
        resume_token: session.resume_token.clone(),
        resumed: false,
        frame_limit: count(settings.frame_limit),
        keep_alive,
        block_limit: settings.block_limit,
        publish_window: settings.publish_window,
        max_subscriptions: count(settings.max_subscriptions),
        max_requests: count(settings.max_requests),
        received: 0,
    }
}

async fn read_hello(receiver: &mut dyn LinkReceiver, incoming: &mut Incoming) -> BusResult<Hello> {
    loop {
        if let Some((header, content)) = incoming.next_frame()? {
            if header.kind != Kind::Hello {
                let what = format!("the first frame is {:?} and not HELLO", header.kind);
                return Err(BusError::Protocol { what });
            }
            return Ok(Hello::decode(content.payload())?);
        }
        let received = poll_fn(|context| receiver.poll_receive(context, incoming)).await;
        match received {
            Ok(0) => return Err(BusError::Disconnected { reason: "closed during the handshake".into() }),
            Ok(_) => {}
            Err(error) => return Err(BusError::Disconnected { reason: error.to_string() }),
        }
    }
}

fn turn_away(shared: &Shared, sender: &dyn LinkSender, peer: &Peer, reason: &BusError) {
    shared.cut_off.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(peer = %peer.principal, %reason, "no session");
    refuse(sender, reason);
}

/// Says why there will be no session, as far as the link takes it at once, and closes.
fn refuse(sender: &dyn LinkSender, reason: &BusError) {
    let payload = Refusal::from(reason).encode();
    let mut batch = Batch::new(sender.form());
    batch.push(&Header::new(Kind::Goodbye, 0, 0), &ContentRef::of_payload(&payload));
    // Whether it arrives or not, the link is closed next.
    let _ = sender.try_send(&mut batch);
    sender.close();
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;
    use crate::transport::memory_pair;

    fn silent() -> Opening {
        Opening { remote: "somebody".into(), handshake: Box::pin(pending()) }
    }

    fn quick() -> Opening {
        let peer = Peer { principal: Principal::Local, transport: "memory" };
        Opening { remote: "a good client".into(), handshake: Box::pin(async { Ok((memory_pair().0, peer)) }) }
    }

    /// So many who connect and then say nothing.
    async fn silent_ones(handshakes: &Arc<Handshakes>, count: usize) -> JoinSet<Opened> {
        let mut silent_ones = JoinSet::new();
        for _ in 0..count {
            let handshakes = Arc::clone(handshakes);
            silent_ones.spawn(async move { handshakes.run(silent()).await });
        }
        while handshakes.places.available_permits() > limits::HANDSHAKES - count {
            tokio::task::yield_now().await;
        }
        silent_ones
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_are_silent_stay_while_nobody_else_wants_their_place() {
        let handshakes = Arc::new(Handshakes::default());
        let mut silent_ones = silent_ones(&handshakes, limits::HANDSHAKES - 1).await;
        sleep(2 * limits::HANDSHAKE_PATIENCE).await;
        let before = Instant::now();
        assert!(handshakes.run(quick()).await.is_ok());
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert!(silent_ones.try_join_next().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_client_gets_the_place_of_one_who_is_silent() {
        let handshakes = Arc::new(Handshakes::default());
        let mut silent_ones = silent_ones(&handshakes, limits::HANDSHAKES).await;
        let before = Instant::now();
        assert!(handshakes.run(quick()).await.is_ok());
        assert!(before.elapsed() <= limits::HANDSHAKE_PATIENCE, "{:?}", before.elapsed());
        let sent_away = silent_ones.join_next().await.unwrap().unwrap();
        assert!(matches!(sent_away, Err(BusError::Overloaded { .. })), "{sent_away:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_has_been_silent_for_long_goes_at_once_when_he_is_in_the_way() {
        let handshakes = Arc::new(Handshakes::default());
        let _silent_ones = silent_ones(&handshakes, limits::HANDSHAKES).await;
        sleep(3 * limits::HANDSHAKE_PATIENCE).await;
        let before = Instant::now();
        assert!(handshakes.run(quick()).await.is_ok());
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
