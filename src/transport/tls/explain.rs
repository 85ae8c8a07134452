//! What went wrong, in words for the person who has to mend it.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// Why there is no encrypted connection, or no longer.
pub(in crate::transport) fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(reason) => format!("the certificate is refused: {}", certificate(reason)),
        Error::NoCertificatesPresented => "the client shows no certificate".into(),
        Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                "the bus asks for a certificate; show one (`ClientTls::identity_files`, `--cert` and `--key`)"
                    .into()
            }
            AlertDescription::UnknownCA => {
                "the other side does not trust the CA of this side's certificate".into()
            }
            AlertDescription::BadCertificate => {
                "the other side does not accept this side's certificate".into()
            }
            AlertDescription::UnsupportedCertificate => {
                "the other side says that this side's certificate is not made for this use".into()
            }
            AlertDescription::CertificateExpired => {
                "the other side says that this side's certificate has expired, or does not hold yet".into()
            }
            AlertDescription::CertificateRevoked => {
                "the other side says that this side's certificate is revoked".into()
            }
            AlertDescription::NoApplicationProtocol => {
                "the other side speaks something else than whispeer over TLS".into()
            }
            AlertDescription::ProtocolVersion => "the other side does not speak this version of TLS".into(),
            alert => format!("the other side refused the connection ({alert:?})"),
        },
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the other side does not speak TLS".into()
        }
        Error::NoApplicationProtocol => "the other side speaks something else than whispeer over TLS".into(),
        error => error.to_string(),
    }
}

/// What is wrong with a certificate.
pub(super) fn certificate(reason: &CertificateError) -> String {
    match reason {
        CertificateError::UnknownIssuer => {
            "its CA is not trusted; name the CA that signed it (`ClientTls::ca_file`, `--ca`; on a bus \
             `ServerTls::client_ca_file`, `--tls-client-ca`)"
                .into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired; renew it (`whispeer certs renew`), or set the clock".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it does not hold yet; look at the clocks".into()
        }
        CertificateError::Revoked => "it is revoked".into(),
        CertificateError::UnknownRevocationStatus => {
            "its CA has no list of revocations here; add that list, or have none at all".into()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not made for this use: servers and clients need one of their own each".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("it is not for the name in the address ({reason})")
        }
        reason => reason.to_string(),
    }
}

/// As an error of the stream.
pub(super) fn as_io(error: &Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, explain(error))
}
