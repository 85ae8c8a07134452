//! What a certificate says, read from its file.

use std::fmt;
use std::net::IpAddr;

use anyhow::{Context, anyhow};
use ring::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ED25519};
use x509_parser::x509::SubjectPublicKeyInfo;

use super::hexadecimal;
use super::key::Algorithm;
use super::names::{Kind, Name};

/// Bytes of a serial number at the most (RFC 5280, section 4.1.2.2).
const SERIAL_LIMIT: usize = 20;

/// The number that a CA gives to a certificate, and by which it revokes it: big-endian, without leading
/// zeros.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Serial(Vec<u8>);

impl Serial {
    /// The number that these bytes are.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(bytes.get(zeros..).unwrap_or_default().to_vec())
    }

    /// Draws a number that nobody can foresee and that no other certificate has.
    pub(crate) fn random() -> anyhow::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).context("the system gives no random bytes")?;
        // Positive, and of the same length whatever was drawn.
        bytes[0] = bytes[0] & 0x7f | 0x40;
        Ok(Self::new(&bytes))
    }

    /// Reads hexadecimal digits, perhaps with colons or white space between them, as OpenSSL prints them.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || "write the serial number in hexadecimal digits, as `whispeer certs show` does".to_owned();
        let mut digits: String =
            text.chars().filter(|character| *character != ':' && !character.is_whitespace()).collect();
        if !digits.len().is_multiple_of(2) {
            digits.insert(0, '0');
        }
        let bytes: Option<Vec<u8>> = (0..digits.len())
            .step_by(2)
            .map(|at| {
                let pair = digits.get(at..at + 2)?;
                // A sign would be read as part of a number.
                if pair.starts_with('+') { None } else { u8::from_str_radix(pair, 16).ok() }
            })
            .collect();
        let serial = Self::new(&bytes.ok_or_else(wrong)?);
        if serial.0.is_empty() || serial.0.len() > SERIAL_LIMIT { Err(wrong()) } else { Ok(serial) }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hexadecimal(&self.0))
    }
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub(crate) struct Details {
    pub(crate) encoded: CertificateDer<'static>,
    pub(crate) kind: Kind,
    /// The subject's common name, if it has exactly one.
    pub(crate) common_name: Option<String>,
    pub(crate) names: Vec<Name>,
    pub(crate) serial: Serial,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    /// `None` for a kind of key that is never made here.
    pub(crate) algorithm: Option<Algorithm>,
    /// The public key as it stands in the certificate.
    pub(crate) public_key: Vec<u8>,
    /// By which those that it signs refer to its key.
    pub(crate) key_identifier: Option<Vec<u8>>,
}

impl Details {
    /// Reads the first certificate of a PEM file: those that follow are of who signed it.
    pub(crate) fn from_pem(text: &[u8]) -> anyhow::Result<Self> {
        let encoded = CertificateDer::from_pem_slice(text)
            .map_err(|_| anyhow!("it holds no certificate (BEGIN CERTIFICATE)"))?;
        Self::read(&encoded)
    }

    /// Reads a certificate.
    pub(crate) fn read(encoded: &CertificateDer<'static>) -> anyhow::Result<Self> {
        let damaged = || anyhow!("its certificate is damaged");
        let (_, parsed) = x509_parser::parse_x509_certificate(encoded).map_err(|_| damaged())?;
        let names = parsed.subject_alternative_name().map_err(|_| damaged())?;
        let names = names.map(|names| names.value.general_names.iter().map(name).collect());
        let mut common_names = parsed.subject().iter_common_name().map(|name| name.as_str());
        let common_name = match (common_names.next(), common_names.next()) {
            (Some(Ok(name)), None) => Some(name.to_owned()),
            _ => None,
        };
        let key_identifier =
            parsed.iter_extensions().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
                _ => None,
            });
        Ok(Self {
            kind: kind(&parsed).map_err(|_| damaged())?,
            common_name,
            names: names.unwrap_or_default(),
            serial: Serial::new(parsed.raw_serial()),
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
            algorithm: algorithm(parsed.public_key()),
            public_key: parsed.public_key().raw.to_vec(),
            key_identifier,
            encoded: encoded.clone(),
        })
    }

    /// Whether the CA has signed this certificate.
    pub(crate) fn is_signed_by(&self, authority: &Self) -> bool {
        let Ok((_, own)) = x509_parser::parse_x509_certificate(&self.encoded) else { return false };
        let Ok((_, theirs)) = x509_parser::parse_x509_certificate(&authority.encoded) else { return false };
        own.issuer().as_raw() == theirs.subject().as_raw()
            && own.verify_signature(Some(theirs.public_key())).is_ok()
    }

    /// The SHA-256 sum of the certificate, by which people compare two of them.
    pub(crate) fn fingerprint(&self) -> String {
        hexadecimal(digest(&SHA256, &self.encoded).as_ref())
    }
}

fn name(name: &GeneralName<'_>) -> Name {
    match name {
        GeneralName::DNSName(name) => Name::Dns((*name).to_owned()),
        GeneralName::URI(uri) => Name::Uri((*uri).to_owned()),
        GeneralName::IPAddress(octets) => address(octets).map_or(Name::Other, Name::Address),
        _ => Name::Other,
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}

fn kind(certificate: &X509Certificate<'_>) -> Result<Kind, x509_parser::error::X509Error> {
    if certificate.is_ca() {
        return Ok(Kind::Authority);
    }
    let usage =
        certificate.extended_key_usage()?.map(|usage| (usage.value.server_auth, usage.value.client_auth));
    Ok(match usage {
        Some((true, false)) => Kind::Server,
        Some((false, true)) => Kind::Client,
        _ => Kind::Other,
    })
}

fn algorithm(key: &SubjectPublicKeyInfo<'_>) -> Option<Algorithm> {
    if key.algorithm.algorithm == OID_SIG_ED25519 {
        return Some(Algorithm::Ed25519);
    }
    let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
    (key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == OID_EC_P256)
        .then_some(Algorithm::EcdsaP256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_drawn_positive_and_of_one_length() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..200 {
            let serial = Serial::random().unwrap();
            assert_eq!(serial.as_bytes().len(), 16);
            assert!(serial.as_bytes()[0] < 0x80);
            assert!(seen.insert(serial));
        }
    }

    #[test]
    fn serial_numbers_are_read_as_they_are_printed_here_and_elsewhere() {
        let serial = Serial::new(&[0, 0x1a, 0x2b]);
        assert_eq!(serial.to_string(), "1a2b");
        for text in ["1a2b", "1A:2B", "00 1a 2b", "01a2b"] {
            assert_eq!(Serial::parse(text), Ok(serial.clone()), "{text}");
        }
        for text in ["", "0", "xy", "+1+2", "ää", &"11".repeat(21)] {
            assert!(Serial::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_told_as_such() {
        for text in [&b""[..], b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(Details::from_pem(text).is_err());
        }
    }
}
