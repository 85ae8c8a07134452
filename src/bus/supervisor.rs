//! Accepts links, does the handshake, and owns the tasks of all sessions.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, timeout};

use super::Shared;
use super::session::Session;
use super::task::{Served, SessionTask};
use super::workers::{Seat, Workers};
use crate::auth::Principal;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::{Capabilities, ContentRef, Header, Hello, Kind, Refusal, ResumeToken, VERSION, Welcome};
use crate::transport::{Accepted, Batch, Form, Incoming, Link, LinkSender, Listener};

/// How long to wait after a failed accept, as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The shortest keep-alive interval a client may ask for; the bus's own may be shorter.
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_millis(100);

/// What the supervisor is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accept links.
    Running,
    /// Accept none, let sessions go on.
    Draining,
    /// End everything.
    Stopped,
}

/// Runs the bus until it is stopped.
pub(super) struct Supervisor {
    pub(super) shared: Arc<Shared>,
    pub(super) listeners: Vec<Box<dyn Listener>>,
    pub(super) attached: mpsc::Receiver<Accepted>,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) workers: Workers,
}

impl Supervisor {
    pub(super) async fn run(mut self) {
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            () = self.serve(&mut tasks) => {}
            () = shared.sweeper.run(&shared) => {}
        }
        // Listeners first, so that an address is free as soon as the bus says that it has stopped.
        self.listeners.clear();
        self.shared.stop_sessions();
        let ended = async { while tasks.join_next().await.is_some() {} };
        if timeout(2 * limits::STOP_GRACE, ended).await.is_err() {
            tracing::warn!("sessions that did not end in time are dropped");
        }
        tasks.shutdown().await;
        self.workers.stop().await;
    }

    /// Accepts until the bus is stopped.
    async fn serve(&mut self, tasks: &mut JoinSet<()>) {
        let mut pause: Option<std::pin::Pin<Box<Sleep>>> = None;
        loop {
            let mut phase = self.phase.clone();
            let current = *phase.borrow_and_update();
            match current {
                Phase::Stopped => return,
                Phase::Draining => self.listeners.clear(),
                Phase::Running => {}
            }
            tokio::select! {
                changed = phase.changed() => if changed.is_err() { return },
                Some(accepted) = self.attached.recv() => self.admit(accepted, None, tasks),
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "the task of a session ended abnormally");
                    }
                }
                (accepted, seat) = poll_fn(|context| {
                    poll_accept(&mut self.listeners, &self.workers, &mut pause, context)
                }) => {
                    self.admit(accepted, seat, tasks);
                }
            }
        }
    }

    /// Serves a link, on its seat if it has one. Links within the process have nothing to gain there.
    fn admit(&self, accepted: Accepted, seat: Option<Seat>, tasks: &mut JoinSet<()>) {
        let within = accepted.link.sender.form() == Form::Values;
        let serving = serve_link(Arc::clone(&self.shared), accepted, self.phase.clone());
        match seat.filter(|_| !within) {
            None => tasks.spawn(serving),
            Some(seat) => {
                let runtime = seat.runtime().clone();
                let seated = async move {
                    serving.await;
                    drop(seat);
                };
                tasks.spawn_on(seated, &runtime)
            }
        };
    }
}

/// The next link of any listener, and where it is to be served. After a failure all of them rest for a moment.
fn poll_accept(
    listeners: &mut [Box<dyn Listener>],
    workers: &Workers,
    pause: &mut Option<std::pin::Pin<Box<Sleep>>>,
    context: &mut Context<'_>,
) -> Poll<(Accepted, Option<Seat>)> {
    let seat = workers.seat();
    // What the system has to say of a link is told to the runtime that it was accepted in.
    let _entered = seat.as_ref().map(|seat| seat.runtime().enter());
    loop {
        if let Some(sleep) = pause {
            if std::future::Future::poll(sleep.as_mut(), context).is_pending() {
                return Poll::Pending;
            }
            *pause = None;
        }
        for listener in listeners.iter_mut() {
            match listener.poll_accept(context) {
                Poll::Ready(Ok(accepted)) => return Poll::Ready((accepted, seat)),
                Poll::Ready(Err(error)) => {
                    tracing::warn!(address = %listener.local_addr(), %error, "cannot accept a connection");
                    *pause = Some(Box::pin(tokio::time::sleep_until(Instant::now() + ACCEPT_PAUSE)));
                }
                Poll::Pending => {}
            }
        }
        if pause.is_none() {
            return Poll::Pending;
        }
    }
}

/// Counts a link for as long as it lives.
struct OpenLink(Arc<Shared>);

impl OpenLink {
    /// Counts one more, within the limit. The bus's own session always finds a place.
    fn open(shared: &Arc<Shared>, principal: &Principal) -> BusResult<Self> {
        let before = shared.links.fetch_add(1, Ordering::Relaxed);
        let open = Self(Arc::clone(shared));
        let limit = shared.settings.max_sessions;
        if before > limit && *principal != Principal::Bus {
            return Err(BusError::LimitReached { what: format!("the bus has {limit} connections") });
        }
        Ok(open)
    }
}

impl Drop for OpenLink {
    fn drop(&mut self) {
        self.0.links.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one link from the handshake to its end.
async fn serve_link(shared: Arc<Shared>, accepted: Accepted, phase: watch::Receiver<Phase>) {
    // What the handshake takes is given back before the session begins.
    if let Some((_open, served)) = Box::pin(open_session(shared, accepted, phase)).await {
        served.finished().await;
    }
}

/// Makes a session of a link, unless the handshake fails.
async fn open_session(
    shared: Arc<Shared>,
    accepted: Accepted,
    mut phase: watch::Receiver<Phase>,
) -> Option<(OpenLink, Served)> {
    let Accepted { link: Link { sender, mut receiver }, peer } = accepted;
    let mut incoming = Incoming::new(sender.form(), limits::HANDSHAKE_FRAME_LIMIT);
    let welcomed = async {
        let open = OpenLink::open(&shared, &peer.principal)?;
        let limit = shared.settings.handshake_timeout;
        let read = timeout(limit, read_hello(&mut *receiver, &mut incoming));
        let hello = tokio::select! {
            read = read => read.map_err(|_| BusError::TimedOut { what: "the handshake".into(), after: limit })??,
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
        let token = random::<{ ResumeToken::LEN }>()?;
        Ok((open, hello, ResumeToken::new(token)))
    };
    let (open, hello, resume_token) = match welcomed.await {
        Ok(welcomed) => welcomed,
        Err(reason) => {
            shared.cut_off.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(peer = %peer.principal, %reason, "no session");
            refuse(&*sender, &reason);
            return None;
        }
    };
    incoming.settle();
    incoming.set_limit(shared.settings.frame_limit);
    let id = shared.next_session.fetch_add(1, Ordering::Relaxed);
    let keep_alive = hello.keep_alive.max(SHORTEST_KEEP_ALIVE).min(shared.settings.keep_alive);
    let (budget, request_bytes) = (Arc::clone(&shared.budget), shared.settings.request_bytes);
    let session = Arc::new(Session::new(id, peer, hello.name, sender, budget, request_bytes));
    let welcome = welcome(&shared, id, resume_token, keep_alive, hello.capabilities);
    session.send_control(&Header::new(Kind::Welcome, 0, 0), &welcome.encode());
    shared.sessions().insert(id, Arc::clone(&session));
    if *phase.borrow() == Phase::Stopped {
        // Those that are there have been told already.
        session.cut_off(BusError::Closed { what: "the bus".into() });
    }
    let task = SessionTask::new(Arc::clone(&shared), session, receiver, incoming, keep_alive);
    Some((open, task.start()))
}

fn welcome(
    shared: &Shared,
    session: u64,
    resume_token: ResumeToken,
    keep_alive: Duration,
    capabilities: Capabilities,
) -> Welcome {
    let settings = &shared.settings;
    let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Welcome {
        version: VERSION,
        capabilities: Capabilities::SUPPORTED.common(capabilities),
        bus: shared.id,
        session,
        resume_token,
        resumed: false,
        frame_limit: count(settings.frame_limit),
        keep_alive,
        block_limit: settings.block_limit,
        publish_window: settings.publish_window,
        max_subscriptions: count(settings.max_subscriptions),
        max_requests: count(settings.max_requests),
    }
}

async fn read_hello(
    receiver: &mut dyn crate::transport::LinkReceiver,
    incoming: &mut Incoming,
) -> BusResult<Hello> {
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

/// Says why there will be no session, as far as the link takes it at once, and closes.
fn refuse(sender: &dyn LinkSender, reason: &BusError) {
    let payload = Refusal::from(reason).encode();
    let mut batch = Batch::new(sender.form());
    batch.push(&Header::new(Kind::Goodbye, 0, 0), &ContentRef::of_payload(&payload));
    // Whether it arrives or not, the link is closed next.
    let _ = sender.try_send(&mut batch);
    sender.close();
}

/// Bytes of the system's random generator.
pub(super) fn random<const N: usize>() -> BusResult<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        BusError::InvalidSettings(format!("the system's random generator does not work: {error}"))
    })?;
    Ok(bytes)
}
