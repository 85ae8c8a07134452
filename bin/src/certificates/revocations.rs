//! Which certificates are revoked, as `crl.pem` has it.

use anyhow::anyhow;
use rcgen::{RevocationReason, RevokedCertParams, SerialNumber};
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;

use super::details::{Details, Serial};

/// All reasons by their numbers (RFC 5280, section 5.3.1).
const REASONS: [RevocationReason; 10] = [
    RevocationReason::Unspecified,
    RevocationReason::KeyCompromise,
    RevocationReason::CaCompromise,
    RevocationReason::AffiliationChanged,
    RevocationReason::Superseded,
    RevocationReason::CessationOfOperation,
    RevocationReason::CertificateHold,
    RevocationReason::RemoveFromCrl,
    RevocationReason::PrivilegeWithdrawn,
    RevocationReason::AaCompromise,
];

/// The CA's list of what it has revoked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Revocations {
    /// Of the list that was read last; each new one has a higher number.
    pub(crate) number: u64,
    entries: Vec<Revoked>,
}

/// One certificate that is revoked.
#[derive(Debug, Clone)]
struct Revoked {
    serial: Serial,
    at: OffsetDateTime,
    reason: Option<RevocationReason>,
}

impl Revocations {
    /// Reads the list of a CA.
    ///
    /// # Errors
    /// If it is damaged, or of another CA: going on with it would lose or add revocations.
    pub(crate) fn from_pem(text: &[u8], authority: &Details) -> anyhow::Result<Self> {
        let encoded = CertificateRevocationListDer::from_pem_slice(text)
            .map_err(|_| anyhow!("it holds no list of revocations (BEGIN X509 CRL)"))?;
        let (_, list) = x509_parser::parse_x509_crl(&encoded).map_err(|_| anyhow!("its list is damaged"))?;
        let (_, signer) = x509_parser::parse_x509_certificate(&authority.encoded)
            .map_err(|_| anyhow!("the CA's certificate is damaged"))?;
        list.verify_signature(signer.public_key()).map_err(|_| anyhow!("its list is not of this CA"))?;
        let entries = list.iter_revoked_certificates().map(|revoked| Revoked {
            serial: Serial::new(revoked.raw_serial()),
            at: revoked.revocation_date.to_datetime(),
            reason: revoked.reason_code().and_then(|(_, code)| reason(code.0)),
        });
        let number = list.crl_number().and_then(|number| u64::try_from(number).ok());
        Ok(Self { number: number.unwrap_or_default(), entries: entries.collect() })
    }

    pub(crate) fn contains(&self, serial: &Serial) -> bool {
        self.entries.iter().any(|entry| entry.serial == *serial)
    }

    /// Adds a certificate, unless it is there already; says whether it was added.
    pub(crate) fn add(
        &mut self,
        serial: Serial,
        reason: Option<RevocationReason>,
        at: OffsetDateTime,
    ) -> bool {
        if self.contains(&serial) {
            return false;
        }
        self.entries.push(Revoked { serial, at, reason });
        true
    }

    /// The list as it is signed.
    pub(crate) fn parameters(&self) -> Vec<RevokedCertParams> {
        let entries = self.entries.iter().map(|entry| RevokedCertParams {
            serial_number: SerialNumber::from_slice(entry.serial.as_bytes()),
            revocation_time: entry.at,
            reason_code: entry.reason,
            invalidity_date: None,
        });
        entries.collect()
    }
}

fn reason(code: u8) -> Option<RevocationReason> {
    REASONS.into_iter().find(|reason| *reason as u8 == code)
}
