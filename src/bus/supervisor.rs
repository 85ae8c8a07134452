//! Accepts connections, and owns the tasks of all sessions.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, timeout};

use super::companion::{self, Companions};
use super::opening::serve_link;
use super::workers::{Seat, Workers};
use super::{BusView, Shared};
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::plugin::Startup;
use crate::transport::{Accepted, Address, Form, Listener};

/// How long to wait after a failed accept, as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often to say that accepting fails, while it does.
const ACCEPT_COMPLAINT: Duration = Duration::from_secs(10);

/// What the supervisor is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accept links. While the bus drains, too: clients whose connection breaks come back to their sessions, and all
    /// others are told.
    Running,
    /// End everything.
    Stopped,
}

/// Runs the bus until it is stopped.
pub(super) struct Supervisor {
    pub(super) shared: Arc<Shared>,
    pub(super) listeners: Vec<Box<dyn Listener>>,
    /// For sessions of the bus's own.
    pub(super) attach: mpsc::Sender<Accepted>,
    pub(super) attached: mpsc::Receiver<Accepted>,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) workers: Workers,
    pub(super) companions: Companions,
}

impl Supervisor {
    pub(super) async fn run(mut self) {
        let mut tasks = JoinSet::new();
        let (shared, attach) = (Arc::clone(&self.shared), self.attach.clone());
        self.start_plugins().await;
        let view = BusView::new(&shared, attach.clone(), self.phase.clone());
        let mut companions = std::mem::take(&mut self.companions).begin(&view, &shared.companions);
        let mut own = JoinSet::new();
        shared.streams.begin_opening(&mut own);
        shared.streams.begin_sweeps(&mut own);
        shared.streams.begin_following(&mut own);
        shared.begin_deputy(&attach, &mut own);
        if let Some(plugins) = shared.plugins.clone() {
            // In a task of its own, so that nobody who connects waits for one that computes for long.
            own.spawn(async move { plugins.run().await });
        }
        tokio::select! {
            () = self.serve(&mut tasks) => {}
            () = shared.sweeper.run(&shared) => {}
            () = see_to(&mut own) => {}
            () = companion::attend(&mut companions) => {}
            () = shared.drain_when_asked() => {}
            () = shared.inspection.run(&shared) => {}
            () = shared.policies.tell_refusals() => {}
            () = shared.remind_of_certificate_end() => {}
        }
        own.shutdown().await;
        // Listeners first, so that an address is free as soon as the bus says that it has stopped.
        self.listeners.clear();
        self.shared.stop_sessions();
        let ended = async { while tasks.join_next().await.is_some() {} };
        let (ended, ()) = tokio::join!(timeout(2 * limits::STOP_GRACE, ended), companion::finish(companions));
        if ended.is_err() {
            tracing::warn!("sessions that did not end in time are dropped");
        }
        tasks.shutdown().await;
        self.shared.streams.finished().await;
        self.workers.stop().await;
        if let Some(plugins) = &shared.plugins {
            plugins.shutdown().await;
        }
    }

    /// Starts the plugins before anybody is let in; ends early when the bus is stopped.
    async fn start_plugins(&mut self) {
        let Some(plugins) = &self.shared.plugins else { return };
        let startup = Startup::new(self.shared.id, self.shared.addresses.clone());
        tokio::select! {
            () = plugins.init(&startup) => {}
            _ = self.phase.wait_for(|phase| *phase == Phase::Stopped) => {}
        }
    }

    /// Accepts until the bus is stopped.
    async fn serve(&mut self, tasks: &mut JoinSet<()>) {
        let mut pause = Pause::default();
        loop {
            let mut phase = self.phase.clone();
            let current = *phase.borrow_and_update();
            if current == Phase::Stopped {
                return;
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
        let within = matches!(&accepted, Accepted::Open { link, .. } if link.sender.form() == Form::Values);
        let seat = seat.filter(|_| !within);
        let runtime = seat.as_ref().map(|seat| seat.runtime().clone());
        let serving = serve_link(Arc::clone(&self.shared), accepted, self.phase.clone(), seat);
        match runtime {
            None => tasks.spawn(serving),
            Some(runtime) => tasks.spawn_on(serving, &runtime),
        };
    }
}

/// Waits for tasks that do not end; a panic in one is one here.
async fn see_to(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
    std::future::pending().await
}

/// The rest after a failed accept.
#[derive(Default)]
struct Pause {
    sleep: Option<std::pin::Pin<Box<Sleep>>>,
    /// When it was last said that accepting fails.
    said: Option<Instant>,
}

impl Pause {
    fn begin(&mut self, address: &Address, error: &io::Error) {
        let now = Instant::now();
        if self.said.is_none_or(|said| now.duration_since(said) >= ACCEPT_COMPLAINT) {
            tracing::warn!(%address, %error, "cannot accept a connection; trying again");
            self.said = Some(now);
        }
        self.sleep = Some(Box::pin(tokio::time::sleep_until(now + ACCEPT_PAUSE)));
    }
}

/// The next link of any listener, and where it is to be served. After a failure all of them rest for a moment.
fn poll_accept(
    listeners: &mut [Box<dyn Listener>],
    workers: &Workers,
    pause: &mut Pause,
    context: &mut Context<'_>,
) -> Poll<(Accepted, Option<Seat>)> {
    let seat = workers.seat();
    // What the system has to say of a link is told to the runtime that it was accepted in.
    let _entered = seat.as_ref().map(|seat| seat.runtime().enter());
    loop {
        if let Some(sleep) = &mut pause.sleep {
            if std::future::Future::poll(sleep.as_mut(), context).is_pending() {
                return Poll::Pending;
            }
            pause.sleep = None;
        }
        for listener in listeners.iter_mut() {
            match listener.poll_accept(context) {
                Poll::Ready(Ok(accepted)) => return Poll::Ready((accepted, seat)),
                Poll::Ready(Err(error)) => pause.begin(listener.local_addr(), &error),
                Poll::Pending => {}
            }
        }
        if pause.sleep.is_none() {
            return Poll::Pending;
        }
    }
}

/// Bytes of the system's random generator.
pub(super) fn random<const N: usize>() -> BusResult<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        BusError::InvalidSettings(format!("the system's random generator does not work: {error}"))
    })?;
    Ok(bytes)
}
