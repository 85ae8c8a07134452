//! From a connection to a session: the handshake of its transport, and then the bus's own.

use std::fmt;
use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::Shared;
use super::places::Place;
use super::plugged::Plugged;
use super::rights::Rights;
use super::session::{Returned, Session};
use super::supervisor::{Phase, random};
use super::task::{Served, SessionTask};
use super::workers::Seat;
use crate::auth::{AddressBlock, Credentials, Principal};
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::plugin;
use crate::proto::{
    Capabilities, ContentRef, Header, Hello, Kind, Refusal, Resume, ResumeToken, VERSION, Welcome,
};
use crate::transport::{Accepted, Batch, Incoming, Link, LinkReceiver, LinkSender, Opening, Peer, Sent};

const RESUME: Capabilities = Capabilities::RESUME;

/// The shortest keep-alive interval a client may ask for; the bus's own may be shorter.
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_millis(100);

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
        if let Some((place, served)) = opened {
            let left = served.finished().await;
            // Others may have its place while stores finish what it has left.
            drop(place);
            if let Some(left) = left {
                Box::pin(left.outlast()).await;
            }
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
    let origin = Origin::of(&accepted);
    let mut stranger = None;
    let met = tokio::select! {
        met = meet(&shared, &origin, accepted, until, &mut stranger) => met,
        () = has_stopped(&mut phase) => Err(BusError::Closed { what: "the bus".into() }),
    };
    let Some(Stranger { link, mut peer, mut incoming }) = stranger else {
        if let Err(reason) = met {
            shared.cut_off.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(peer = %origin, %reason, "no connection");
        }
        return None;
    };
    let Link { sender, receiver } = link;
    let identified = async {
        let (place, hello) = met?;
        let (rights, number) = identify(&shared, &hello, &peer, until).await?;
        Ok((place, hello, rights, number))
    };
    let (mut place, mut hello, rights, number) = match identified.await {
        Ok(identified) => identified,
        Err(reason) => {
            turn_away(&shared, &*sender, &peer, &reason).await;
            return None;
        }
    };
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
    // Who comes back has his place already, and finishes what he has begun.
    let admitted = match shared.is_draining() {
        true => Err(BusError::Draining { what: "the bus".into() }),
        false => place.begin_session(&peer.principal, origin.block()).and_then(|()| random()),
    };
    let admitted = match admitted {
        Ok(token) => let_in(&shared, &hello, &peer, &mut phase).await.map(|seen| (token, seen)),
        Err(reason) => Err(reason),
    };
    let (resume_token, (id, plugged)) = match admitted {
        Ok((token, seen)) => (ResumeToken::new(token), seen),
        Err(reason) => {
            // Others may have his place while he is told why.
            place.end_session();
            turn_away(&shared, &*sender, &peer, &reason).await;
            return None;
        }
    };
    match sender.resumable() {
        Some(link) if !shared.live().resume_limit.is_zero() && hello.capabilities.contains(RESUME) => {
            link.keep()
        }
        _ => hello.capabilities = hello.capabilities.without(RESUME),
    }
    incoming.settle();
    incoming.set_limit(shared.settings.frame_limit);
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
    if plugged.is_some() && shared.is_draining() {
        // It has begun to, while plugins were asked.
        session.tell_draining();
    }
    let mut task = SessionTask::new(Arc::clone(&shared), session, receiver, incoming, keep_alive, rights);
    task.plugged = plugged;
    Some((place, task.start()))
}

/// Gives a session its id, and asks plugins whether it may begin.
async fn let_in(
    shared: &Shared,
    hello: &Hello,
    peer: &Peer,
    phase: &mut watch::Receiver<Phase>,
) -> BusResult<(u64, Option<Box<Plugged>>)> {
    let id = shared.next_session.fetch_add(1, Ordering::Relaxed);
    let Some(plugins) = &shared.plugins else { return Ok((id, None)) };
    if peer.principal == Principal::Bus {
        return Ok((id, Plugged::of_bus(plugins)));
    }
    let session = Arc::new(plugin::Session::new(id, &*hello.name, peer.principal.clone(), peer.transport));
    tokio::select! {
        // Each has its own time, and finishes what it has begun.
        connected = plugins.connect(&session) => connected?,
        () = has_stopped(phase) => return Err(BusError::Closed { what: "the bus".into() }),
    }
    Ok((id, Some(Plugged::new(Arc::clone(plugins), session))))
}

/// Returns when the bus has stopped.
async fn has_stopped(phase: &mut watch::Receiver<Phase>) {
    // A supervisor that is gone takes this task with it.
    if phase.wait_for(|phase| *phase == Phase::Stopped).await.is_err() {
        pending::<()>().await;
    }
}

/// Where a connection comes from.
struct Origin {
    /// In words, for the log.
    remote: String,
    /// Whose address it is, where it is over a network; whether somebody can be reached there.
    address: Option<(AddressBlock, bool)>,
    /// It is the bus's own.
    is_own: bool,
    /// It is within this process, which does not keep itself waiting.
    is_local: bool,
}

impl Origin {
    fn of(accepted: &Accepted) -> Self {
        match accepted {
            Accepted::Open { peer, .. } => {
                let address = match peer.principal {
                    Principal::Network { address } => Some((AddressBlock::of(address.ip()), true)),
                    _ => None,
                };
                let is_own = peer.principal == Principal::Bus;
                let is_local = is_own || peer.principal == Principal::Local;
                Self { remote: peer.principal.to_string(), address, is_own, is_local }
            }
            Accepted::Opening(Opening { remote, validated, .. }) => {
                let address = remote.parse().ok();
                let address = address.map(|remote: SocketAddr| (AddressBlock::of(remote.ip()), *validated));
                Self { remote: remote.clone(), address, is_own: false, is_local: false }
            }
        }
    }

    /// Whose connections are counted together, once there is a connection. The loopback is everybody on this host.
    fn block(&self) -> Option<AddressBlock> {
        self.address.map(|(block, _)| block).filter(|block| !block.is_loopback())
    }

    /// The same, for one that has not said anything yet: anybody can make up where a datagram comes from.
    fn validated_block(&self) -> Option<AddressBlock> {
        self.block().filter(|_| self.address.is_some_and(|(_, validated)| validated))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.remote)
    }
}

/// Somebody to whom there is a link, and what has arrived over it.
struct Stranger {
    link: Link,
    peer: Peer,
    incoming: Incoming,
}

impl Stranger {
    fn new(link: Link, peer: Peer) -> Self {
        let incoming = Incoming::new(link.sender.form(), limits::HANDSHAKE_FRAME_LIMIT);
        Self { link, peer, incoming }
    }
}

/// Does the handshake of the transport, if it has one, and waits for `HELLO`. Leaves the link in `stranger` as soon
/// as there is one, so that who is at its other end can be told why there will be no session.
async fn meet(
    shared: &Arc<Shared>,
    origin: &Origin,
    accepted: Accepted,
    until: Instant,
    stranger: &mut Option<Stranger>,
) -> BusResult<(Place, Hello)> {
    let handshake = match accepted {
        Accepted::Open { link, peer } => {
            *stranger = Some(Stranger::new(link, peer));
            None
        }
        Accepted::Opening(opening) => Some(opening.handshake),
    };
    let place = Place::open(shared, origin.validated_block(), origin.is_own)?;
    let arrives = async {
        if let Some(handshake) = handshake {
            let (link, peer) = handshake.await?;
            *stranger = Some(Stranger::new(link, peer));
        }
        match stranger {
            Some(Stranger { link, incoming, .. }) => read_hello(&mut *link.receiver, incoming).await,
            None => Err(BusError::Closed { what: "the connection".into() }),
        }
    };
    let arrived = async {
        match origin.is_local {
            true => arrives.await,
            false => shared.handshakes.run(origin.validated_block(), arrives).await,
        }
    };
    let hello = timeout_at(until, arrived).await.unwrap_or_else(|_| Err(too_slow(shared)))?;
    Ok((place, hello))
}

/// Finds out what somebody may do, and by which policy.
async fn identify(
    shared: &Shared,
    hello: &Hello,
    peer: &Peer,
    until: Instant,
) -> BusResult<(Option<Box<Rights>>, u64)> {
    if hello.min_version > VERSION || hello.max_version < VERSION {
        let what = format!(
            "the client speaks versions {} to {}, the bus {VERSION}",
            hello.min_version, hello.max_version
        );
        return Err(BusError::UnsupportedVersion { what });
    }
    let (policy, number) = shared.policies.current();
    if peer.principal == Principal::Bus {
        return Ok((None, number));
    }
    if let Some(granted) = &peer.granted
        && (policy.is_open() || hello.credentials.is_none())
    {
        return Ok((Some(Rights::of(policy.grant(&peer.principal, granted)?)), number));
    }
    if policy.is_open() {
        return Ok((None, number));
    }
    let credentials = hello.credentials.as_ref().map(Credentials::from);
    let identified = policy.authenticate(&peer.principal, credentials.as_ref());
    let identity = timeout_at(until, identified).await.map_err(|_| too_slow(shared))??;
    Ok((Some(Rights::of(identity)), number))
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
    let goes_on = session.sender().resumable().is_some_and(|link| link.can_go_on(resume.received));
    let Some(fresh) = sender.resumable().filter(|_| goes_on) else {
        session.make_way();
        return Some(rights);
    };
    // One that broke at this moment is tried again.
    let attachment = fresh.detach(incoming.take_rest())?;
    tracing::debug!(session = session.id, peer = %peer.principal, "a client comes back");
    // Where the session ends at this moment, the connection ends with it, and the client tries again.
    let (rights, policy) = rights;
    let peer = peer.clone();
    session.come_back(Returned { attachment, received: resume.received, rights, policy, peer });
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

async fn turn_away(shared: &Shared, sender: &dyn LinkSender, peer: &Peer, reason: &BusError) {
    shared.cut_off.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(peer = %peer.principal, %reason, "no session");
    let told = timeout(limits::REFUSAL_LINGER, refuse(sender, reason)).await;
    // Whether it has arrived or not, there is nothing more to say.
    drop(told);
    sender.close();
}

/// Says why there will be no session.
async fn refuse(sender: &dyn LinkSender, reason: &BusError) -> io::Result<()> {
    let payload = Refusal::from(reason).encode();
    let mut batch = Batch::new(sender.form());
    batch.push_last(&Header::new(Kind::Goodbye, 0, 0), &ContentRef::of_payload(&payload));
    while sender.try_send(&mut batch)? == Sent::Blocked {
        poll_fn(|context| sender.poll_ready(context)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::memory_pair;

    fn connected_from(address: &str) -> Origin {
        let principal = Principal::Network { address: address.parse().unwrap() };
        let (link, _other) = memory_pair();
        Origin::of(&Accepted::Open { link, peer: Peer::new(principal, "tcp") })
    }

    fn opening_from(address: &str, validated: bool) -> Origin {
        let handshake = Box::pin(pending());
        Origin::of(&Accepted::Opening(Opening { remote: address.into(), validated, handshake }))
    }

    #[test]
    fn whoever_may_choose_his_address_counts_as_one_with_and_without_a_handshake() {
        let one = AddressBlock::of("2001:db8::1".parse().unwrap());
        for address in ["[2001:db8::1]:1", "[2001:db8::2:0:0:1]:2"] {
            assert_eq!(connected_from(address).block(), Some(one));
            assert_eq!(opening_from(address, true).validated_block(), Some(one));
            assert_eq!(opening_from(address, false).validated_block(), None);
        }
        assert_ne!(connected_from("[2001:db8:0:1::1]:1").block(), Some(one));
        assert_eq!(connected_from("[::ffff:192.0.2.1]:1").block(), connected_from("192.0.2.1:2").block());
        assert_eq!(connected_from("[::1]:1").block(), None);
        assert_eq!(connected_from("[::ffff:127.0.0.1]:1").block(), None);
    }
}
