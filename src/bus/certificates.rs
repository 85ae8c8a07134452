//! Certificates of clients, which are looked at again while the sessions live that they have opened.
//!
//! A listener has found them good when somebody came in. They are looked at again when they end, by the session's
//! own task; and when the bus has read its files again, by a thread that runs no tasks. Who comes in meanwhile
//! finds that his was found good by what is no longer in force, and looks at it himself.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Notify;
use tokio::task::spawn_blocking;

use super::Shared;
use super::clock::SystemDeadline;
use super::session::Session;
use super::task::SessionTask;
use crate::error::BusError;
use crate::limits;
use crate::transport::ShownCertificate;

/// Whether the certificates of sessions have to be looked at.
#[derive(Debug, Default)]
pub(super) struct Inspection(Notify);

impl Inspection {
    /// Other files decide from now on.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "there are no certificates"))]
    pub(super) fn begin(&self) {
        self.0.notify_one();
    }

    /// Looks at the certificates of all sessions each time when others decide, for as long as it is polled.
    ///
    /// # Cancel safety
    /// May be dropped at any time; some of the sessions have been looked at then.
    pub(super) async fn run(&self, shared: &Shared) {
        loop {
            self.0.notified().await;
            let clients: Vec<_> =
                shared.clients().into_iter().filter(|session| session.certificate().is_some()).collect();
            let (looked_at, mut ended) = (clients.len(), 0);
            for some in clients.chunks(limits::CERTIFICATES_INSPECTED) {
                let some = some.to_vec();
                let inspected = spawn_blocking(move || {
                    some.iter().filter(|session| !session.inspect(SystemTime::now())).count()
                });
                // It does not panic; where it has not run, the runtime ends.
                ended += inspected.await.unwrap_or_default();
            }
            if ended > 0 {
                tracing::info!(looked_at, ended, "clients' certificates are no longer good");
            }
        }
    }
}

impl Session {
    /// What the client has shown last.
    fn certificate(&self) -> Option<Arc<ShownCertificate>> {
        self.lock().peer.certificate.clone()
    }

    /// Ends the session if what the client has shown is not good by the files that decide now; whether it is.
    fn inspect(&self, now: SystemTime) -> bool {
        let Some(shown) = self.certificate().filter(|shown| !shown.is_settled()) else { return true };
        let Err(why) = shown.check(now) else { return true };
        let mut state = self.lock();
        // It may have come back meanwhile, and have shown another one.
        let still = state.peer.certificate.as_ref().is_some_and(|current| Arc::ptr_eq(current, &shown));
        if still {
            state.cut(refused(&why));
        }
        drop(state);
        self.task.wake();
        !still
    }
}

impl SessionTask {
    /// Takes what the client has shown for what counts from now on.
    pub(super) fn follow_certificate(&mut self) {
        let shown = self.session.certificate();
        self.certificate_end = shown.and_then(|shown| next_look(&shown, SystemTime::now()));
        // The files may have been read again while it was on its way to the list of sessions.
        self.session.inspect(SystemTime::now());
    }

    /// Looks at the certificate when it, or one that was shown with it, has ended; or just in case.
    ///
    /// # Errors
    /// Why the session ends: nobody would be let in with it any more.
    pub(super) fn outlive_certificate(&mut self) -> Result<(), BusError> {
        let end = self.certificate_end.take();
        let Some((shown, end)) = self.session.certificate().zip(end) else { return Ok(()) };
        let now = end.reached(SystemTime::now());
        shown.check(now).map_err(|why| refused(&why))?;
        self.certificate_end = next_look(&shown, now);
        Ok(())
    }
}

/// When a certificate has to be looked at again.
fn next_look(shown: &ShownCertificate, now: SystemTime) -> Option<SystemDeadline> {
    Some(SystemDeadline::new(shown.next_end(now)?, now))
}

/// Why a session ends with its certificate.
fn refused(why: &str) -> BusError {
    BusError::Denied {
        what: format!(
            "the certificate that the client has shown is no longer good: {why}; connect with another one"
        ),
    }
}

#[cfg(feature = "tls")]
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;
    use whispeer_testkit::certificates::{CertificateFiles, Certificates, Identity};

    use super::*;
    use crate::auth::Principal;
    use crate::bus::{Bus, BusHandle};
    use crate::client::Client;
    use crate::transport::{LiveTls, Peer, ServerTls, memory_pair};

    fn live(made: &Certificates) -> (Arc<LiveTls>, CertificateFiles) {
        let files = made.files();
        let tls = ServerTls::files(&files.server.certificate, &files.server.key)
            .client_ca_file(&files.authority)
            .revocations_file(&files.revocations);
        (Arc::new(LiveTls::load(tls).unwrap()), files)
    }

    /// A client that has shown this when the files had been read so often.
    fn client(bus: &BusHandle, identity: &Identity, live: &Arc<LiveTls>, number: u64) -> Client {
        let shown = ShownCertificate::new(Some(&[identity.certificate().clone()]), live, number);
        let peer = Peer { certificate: shown.map(Arc::new), ..Peer::new(Principal::Local, "tls") };
        let (bus_end, client_end) = memory_pair();
        bus.attach(bus_end, peer).unwrap();
        Client::builder().connect_link(client_end).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_at_the_end_of_its_certificate_and_not_before() {
        let made = Certificates::new();
        let (live, _files) = live(&made);
        let bus = Bus::builder().start().unwrap();
        let client = client(&bus, &made.client, &live, 0);
        client.ping().await.unwrap();
        let start = Instant::now();
        let reason = client.closed().await;
        assert!(matches!(&reason, BusError::Denied { what } if what.contains("it has expired")), "{reason}");
        // It was made to hold for a day.
        let after = start.elapsed();
        let day = Duration::from_secs(24 * 60 * 60);
        assert!(after > day - Duration::from_secs(60) && after <= day + Duration::from_secs(1), "{after:?}");
    }

    #[tokio::test]
    async fn who_comes_in_while_the_files_are_read_again_is_judged_by_the_new_ones() {
        let made = Certificates::new();
        let (live, files) = live(&made);
        let bus = Bus::builder().start().unwrap();
        std::fs::write(&files.revocations, made.authority.revoke(&[&made.client]).pem()).unwrap();
        live.reload().unwrap();
        let reason = client(&bus, &made.client, &live, 0).closed().await;
        assert!(matches!(&reason, BusError::Denied { what } if what.contains("revoked")), "{reason}");
        // Nothing is found out that was known in the handshake.
        client(&bus, &made.client, &live, live.number()).ping().await.unwrap();
        client(&bus, &made.revoked_client, &live, 0).ping().await.unwrap();
    }
}
