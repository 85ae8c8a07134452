//! What went wrong, in words for the person who has to mend it.

use std::io;

use quinn::{ConnectionError, TransportErrorCode};
use rustls::{AlertDescription, CertificateError, Error};

use super::super::tls;

/// Where the alerts of TLS begin among the codes of errors (RFC 9001, section 4.8).
const ALERTS: u64 = 0x100;

/// Why there is no connection, or no longer.
pub(super) fn explain(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TransportError(error) => match alert(error.code) {
            Some(alert) => own(alert, &error.reason),
            None => error.to_string(),
        },
        ConnectionError::ConnectionClosed(close) => match alert(close.error_code) {
            Some(alert) => tls::explain(&Error::AlertReceived(alert)),
            None if close.error_code == TransportErrorCode::CONNECTION_REFUSED => {
                "the other side takes no connections at the moment".into()
            }
            None => close.to_string(),
        },
        ConnectionError::ApplicationClosed(_) => "the other side closed the connection".into(),
        ConnectionError::Reset => "the other side knows nothing of this connection any more".into(),
        ConnectionError::VersionMismatch => {
            "the other side speaks no version of QUIC that is known here".into()
        }
        error => error.to_string(),
    }
}

/// As an error of the stream.
pub(super) fn as_io(error: &ConnectionError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, explain(error))
}

fn alert(code: TransportErrorCode) -> Option<AlertDescription> {
    let code = u64::from(code).checked_sub(ALERTS)?;
    u8::try_from(code).ok().map(AlertDescription::from)
}

/// What this side found, of which only the alert and rustls' own text are left.
fn own(alert: AlertDescription, text: &str) -> String {
    let refused = match alert {
        AlertDescription::UnknownCA if text.contains("UnknownRevocationStatus") => {
            CertificateError::UnknownRevocationStatus
        }
        AlertDescription::UnknownCA => CertificateError::UnknownIssuer,
        AlertDescription::CertificateExpired if text.contains("not valid yet") => {
            CertificateError::NotValidYet
        }
        AlertDescription::CertificateExpired => CertificateError::Expired,
        AlertDescription::CertificateRevoked => CertificateError::Revoked,
        AlertDescription::UnsupportedCertificate => CertificateError::InvalidPurpose,
        AlertDescription::BadCertificate if text.contains("not valid for") => {
            return format!("the certificate is refused: it is not for the name in the address ({text})");
        }
        AlertDescription::CertificateRequired => return tls::explain(&Error::NoCertificatesPresented),
        AlertDescription::NoApplicationProtocol => return tls::explain(&Error::NoApplicationProtocol),
        _ => return text.to_owned(),
    };
    tls::explain(&Error::InvalidCertificate(refused))
}
