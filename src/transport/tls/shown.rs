//! The certificate that a client has shown, kept so that it can be looked at again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, Error};

use super::validity::end;
use super::{LiveTls, explain, identity};
use crate::auth::Principal;
use crate::error::BusResult;
use crate::transport::Peer;

/// What a client has shown in the handshake, and what decides whether it is still good.
///
/// It has the certificates as they came, at most the 64 KiB of a handshake's message.
#[derive(Debug)]
pub(crate) struct ShownCertificate {
    /// The client's own first.
    chain: Vec<CertificateDer<'static>>,
    /// When each of them ends.
    ends: Vec<SystemTime>,
    live: Arc<LiveTls>,
    /// By which of the files that have been read it was last found good.
    good_by: AtomicU64,
}

impl ShownCertificate {
    /// What was shown in a handshake that was begun when `number` was that of the files; `None` if nothing was.
    pub(crate) fn new(
        chain: Option<&[CertificateDer<'_>]>,
        live: &Arc<LiveTls>,
        number: u64,
    ) -> Option<Self> {
        let chain: Vec<_> =
            chain.unwrap_or_default().iter().map(|shown| shown.clone().into_owned()).collect();
        let ends = chain.iter().filter_map(end).collect();
        let live = Arc::clone(live);
        (!chain.is_empty()).then(|| Self { chain, ends, live, good_by: AtomicU64::new(number) })
    }

    /// Whether it was found good by the files as they were last read.
    pub(crate) fn is_settled(&self) -> bool {
        self.good_by.load(Ordering::Relaxed) == self.live.number()
    }

    /// When the next of its certificates ends; not all of them need to be good.
    pub(crate) fn next_end(&self, now: SystemTime) -> Option<SystemTime> {
        self.ends.iter().copied().filter(|end| *end > now).min()
    }

    /// Whether whoever shows it would be let in at this time. It takes about a hundred microseconds.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self, now: SystemTime) -> Result<(), String> {
        let number = self.live.number();
        let (Some(verifier), Some((own, others))) = (self.live.verifier(), self.chain.split_first()) else {
            return Ok(());
        };
        let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        match verifier.verify_client_cert(own, others, UnixTime::since_unix_epoch(since)) {
            Ok(_) => {
                self.good_by.store(number, Ordering::Relaxed);
                Ok(())
            }
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                Err("its CA is not trusted any more".into())
            }
            Err(Error::InvalidCertificate(reason)) => Err(explain::certificate(&reason)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Who is at the other end of an accepted connection: whom the certificate names, if one was shown.
///
/// # Errors
/// [`BusError::Denied`](crate::BusError::Denied) for a certificate that gives no name.
pub(in crate::transport) fn peer(
    shown: Option<ShownCertificate>,
    address: SocketAddr,
    transport: &'static str,
) -> BusResult<Peer> {
    let principal = match shown.as_ref().and_then(|shown| shown.chain.first()) {
        Some(certificate) => Principal::Certificate { name: identity::name(certificate)? },
        None => Principal::Network { address },
    };
    Ok(Peer { certificate: shown.map(Arc::new), ..Peer::new(principal, transport) })
}

#[cfg(test)]
mod tests {
    use whispeer_testkit::certificates::{Authority, Certificates, Identity, Validity};

    use super::*;
    use crate::transport::ServerTls;

    fn live(made: &Certificates, list: &str) -> Arc<LiveTls> {
        let tls = ServerTls::pem(made.server.pem(), made.server.key_pem())
            .client_ca_pem(made.authority.pem())
            .revocations_pem(list);
        Arc::new(LiveTls::load(tls).unwrap())
    }

    fn shown(chain: &[&Identity], live: &Arc<LiveTls>) -> ShownCertificate {
        let chain: Vec<_> = chain.iter().map(|identity| identity.certificate().clone()).collect();
        ShownCertificate::new(Some(&chain), live, live.number()).unwrap()
    }

    #[test]
    fn what_was_shown_is_good_until_it_ends_is_revoked_or_its_ca_is_another() {
        let made = Certificates::new();
        let now = SystemTime::now();
        let good = live(&made, made.revocations.pem());
        let alice = shown(&[&made.client], &good);
        let end = alice.next_end(now).unwrap();
        assert!(end > now && alice.next_end(end).is_none());
        assert!(alice.check(now).is_ok() && alice.check(end - Duration::from_secs(1)).is_ok());
        assert!(alice.check(end).unwrap_err().contains("expired"));

        let list = made.authority.revoke(&[&made.client]);
        let revoking = shown(&[&made.client], &live(&made, list.pem()));
        assert_eq!(revoking.check(now).unwrap_err(), "it is revoked");
        let strange = shown(&[&made.strange_client], &good).check(now).unwrap_err();
        assert!(strange.contains("not trusted any more"), "{strange}");
    }

    #[test]
    fn what_was_shown_beside_it_and_is_not_needed_may_end_before() {
        let made = Certificates::new();
        let beside = Authority::new("beside").client_within("beside", Validity::Expired);
        let live = live(&made, made.revocations.pem());
        let alice = shown(&[&made.client, &beside], &live);
        assert!(alice.check(SystemTime::now()).is_ok());
        assert_eq!(
            alice.next_end(SystemTime::now()),
            shown(&[&made.client], &live).next_end(SystemTime::now())
        );
    }

    #[test]
    fn it_is_to_be_looked_at_again_when_the_files_have_been_read_again() {
        let made = Certificates::new();
        let live = live(&made, made.revocations.pem());
        let alice = shown(&[&made.client], &live);
        assert!(alice.is_settled());
        live.reload().unwrap();
        assert!(!alice.is_settled());
        alice.check(SystemTime::now()).unwrap();
        assert!(alice.is_settled());
    }

    #[test]
    fn who_shows_none_has_none() {
        let made = Certificates::new();
        let live = live(&made, made.revocations.pem());
        assert!(ShownCertificate::new(None, &live, 0).is_none());
        assert!(ShownCertificate::new(Some(&[]), &live, 0).is_none());
    }
}
