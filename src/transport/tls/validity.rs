//! When certificates hold.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;

use super::pem::Pem;
use crate::error::BusResult;

/// The first moment at which a certificate does not hold any more. The last second that it names is still its own.
pub(super) fn end(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    moment(parsed.validity().not_after.timestamp().checked_add(1)?)
}

/// When the bus's own certificate ends, which holds at this time. Those that lead from it to its CA are not looked at:
/// some of them may be there for old clients, who take no offence.
///
/// # Errors
/// [`BusError::InvalidSettings`](crate::BusError::InvalidSettings) where it has ended, or not begun: each client would
/// refuse it.
pub(super) fn own_end(source: &Pem, chain: &[CertificateDer<'_>], now: SystemTime) -> BusResult<SystemTime> {
    let unusable = |reason: &str| source.unusable("certificate", reason);
    let own = chain.first().and_then(|own| x509_parser::parse_x509_certificate(own).ok());
    let Some((_, own)) = own else { return Err(unusable("it is damaged")) };
    let validity = own.validity();
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    let (begin, last) = (validity.not_before, validity.not_after);
    if seconds < begin.timestamp() {
        return Err(unusable(&format!("it does not hold before {begin}; look at the clock of this host")));
    }
    if seconds > last.timestamp() {
        return Err(unusable(&format!("it has expired ({last}); renew it (`whispeer certs renew`)")));
    }
    moment(last.timestamp().saturating_add(1)).ok_or_else(|| unusable("its end is no time"))
}

/// The time so many seconds after 1970; none that is before, or that the system's clock cannot tell.
fn moment(seconds: i64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}
