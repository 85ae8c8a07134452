//! Telling a service manager what the bus does: the protocol of `sd_notify`.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;

/// How much longer than its grace a bus may take to end.
const END: Duration = Duration::from_secs(10);

/// The bus accepts.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being reread; [`ready`] comes next.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => missed(&error),
    }
}

/// The bus takes nothing new and ends within `grace`.
pub(crate) fn stopping(grace: Duration) {
    let allowed = grace.saturating_add(END).as_micros();
    let allowed = NotifyState::ExtendTimeoutUsec(u32::try_from(allowed).unwrap_or(u32::MAX));
    tell(&[NotifyState::Stopping, NotifyState::Status("draining"), allowed]);
}

/// The bus is alive.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// Does nothing where nobody asked to be told.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        missed(&error);
    }
}

fn missed(error: &io::Error) {
    tracing::warn!(%error, "the service manager, which asked to be told by NOTIFY_SOCKET, could not be");
}
