//! Lists of revocations, looked at before they count.
//!
//! rustls looks at a list only when a client is there whose CA it is of, and refuses the client when something is
//! wrong with it: a list that got damaged on its way would keep everybody out, and end all sessions. So whatever
//! could only be wrong is refused when the files are read.

use std::fmt;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateRevocationListDer, TrustAnchor};
use x509_parser::asn1_rs::{Any, BitString, FromDer, Sequence, ToDer};
use x509_parser::extensions::ParsedExtension;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::X509Name;

use super::pem::Pem;
use super::provider;
use crate::error::{BusError, BusResult};

/// The lists that a bus goes by, each with where it comes from.
#[derive(Debug, Default)]
pub(super) struct Revocations<'a> {
    lists: Vec<(&'a Pem, CertificateRevocationListDer<'static>)>,
}

impl<'a> Revocations<'a> {
    /// Reads the lists.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for what cannot be read, or holds none.
    pub(super) fn read(sources: &'a [Pem]) -> BusResult<Self> {
        let mut lists = Vec::new();
        for source in sources {
            lists.extend(source.revocations()?.into_iter().map(|list| (source, list)));
        }
        Ok(Self { lists })
    }

    /// Checks that each list is of one of these CAs and signed by it, and that there is one for each of them if there
    /// is any: without, all clients of that CA would be refused.
    ///
    /// A list that is past the time at which its issuer wanted to make a newer one still holds, here as in handshakes:
    /// who it revokes stays revoked, and who it does not would otherwise be kept out by a list that came late.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] that says which list or CA it is, and what to do.
    pub(super) fn check(&self, ca: &Pem, roots: &RootCertStore) -> BusResult<()> {
        if self.lists.is_empty() {
            return Ok(());
        }
        let mut authorities: Vec<_> =
            roots.roots.iter().map(|anchor| Authority { anchor, has_list: false }).collect();
        let mut scopes = Vec::new();
        for (source, list) in &self.lists {
            let unusable = |reason: &str| source.unusable("list of revocations", reason);
            let Some(list) = List::parse(list) else { return Err(unusable("it is damaged")) };
            let issuer = &list.issuer;
            // The same CA may be there with two certificates.
            let of_issuer = authorities.iter_mut().filter(|authority| authority.is_named(list.subject));
            let (mut is_known, mut is_signed) = (false, false);
            for authority in of_issuer {
                is_known = true;
                if list.is_signed_by(authority.anchor) {
                    is_signed = true;
                    authority.has_list |= list.is_for_clients;
                }
            }
            if !is_known {
                return Err(unusable(&format!(
                    "its issuer \"{issuer}\" is none of the CAs in {ca}; give the lists of those, or add the \
                     certificate of this CA there"
                )));
            }
            if !is_signed {
                return Err(unusable(&format!(
                    "it is damaged, or not signed by \"{issuer}\" with the key of its certificate in {ca}; get the \
                     list, or that certificate, again"
                )));
            }
            // Only the first that fits would be looked at.
            let scope = (list.subject, list.scope);
            if scopes.contains(&scope) {
                return Err(unusable(&format!("there are two lists of \"{issuer}\"; give the newest alone")));
            }
            scopes.push(scope);
        }
        match authorities.iter().find(|authority| !authority.has_list) {
            None => Ok(()),
            Some(without) => Err(BusError::InvalidSettings(format!(
                "the CA \"{without}\" in {ca} has no list of revocations here while others have, so that all of its clients \
                 would be refused; add its list, or give none at all"
            ))),
        }
    }

    /// As rustls takes them.
    pub(super) fn lists(&self) -> impl Iterator<Item = CertificateRevocationListDer<'static>> {
        self.lists.iter().map(|(_, list)| list.clone())
    }

    /// The error for what rustls does not take.
    pub(super) fn refused(&self, ca: &Pem, error: &dyn fmt::Display) -> BusError {
        match self.lists.first() {
            Some((source, _)) => source.unusable("list of revocations", &error.to_string()),
            None => ca.unusable("CA's certificate", &error.to_string()),
        }
    }
}

/// A CA that clients are checked by.
struct Authority<'a> {
    anchor: &'a TrustAnchor<'static>,
    /// There is a list of it that its clients may be in.
    has_list: bool,
}

impl Authority<'_> {
    /// Whether this is its name, by the bytes that encode it; so compares rustls.
    fn is_named(&self, name: &[u8]) -> bool {
        self.anchor.subject.as_ref() == name
    }
}

impl fmt::Display for Authority<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoded = Sequence::new(self.anchor.subject.as_ref().into()).to_der_vec().unwrap_or_default();
        match X509Name::from_der(&encoded) {
            Ok((_, name)) => name.fmt(formatter),
            Err(_) => formatter.write_str("(a name that cannot be read)"),
        }
    }
}

/// A list of revocations, taken apart.
struct List<'a> {
    /// Its issuer, for people.
    issuer: String,
    /// Its issuer, as it is encoded.
    subject: &'a [u8],
    /// Which of the certificates of its issuer it is about, as it is encoded; all if there is nothing.
    scope: Option<Vec<u8>>,
    /// Certificates of clients may be in it.
    is_for_clients: bool,
    /// What is signed.
    signed: &'a [u8],
    algorithm: &'a [u8],
    signature: BitString<'a>,
}

impl<'a> List<'a> {
    fn parse(list: &'a [u8]) -> Option<Self> {
        let (_, parsed) = CertificateRevocationList::from_der(list).ok()?;
        let (_, whole) = Any::from_der(list).ok()?;
        let (rest, _) = Any::from_der(whole.data).ok()?;
        let signed = whole.data.get(..whole.data.len().checked_sub(rest.len())?)?;
        let (rest, algorithm) = Any::from_der(rest).ok()?;
        let (_, signature) = BitString::from_der(rest).ok()?;
        let (_, subject) = Any::from_der(parsed.tbs_cert_list.issuer.as_raw()).ok()?;
        let points = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::IssuingDistributionPoint(point) => {
                Some((extension.value.to_vec(), !point.only_contains_ca_certs))
            }
            _ => None,
        });
        let is_for_clients = points.as_ref().is_none_or(|(_, is_for_clients)| *is_for_clients);
        Some(Self {
            issuer: parsed.issuer().to_string(),
            subject: subject.data,
            scope: points.map(|(scope, _)| scope),
            is_for_clients,
            signed,
            algorithm: algorithm.data,
            signature,
        })
    }

    /// Whether rustls would find that this CA has signed it.
    fn is_signed_by(&self, anchor: &TrustAnchor<'_>) -> bool {
        let Ok((rest, algorithm)) = Any::from_der(anchor.subject_public_key_info.as_ref()) else {
            return false;
        };
        let Ok((_, key)) = BitString::from_der(rest) else { return false };
        provider().signature_verification_algorithms.all.iter().any(|candidate| {
            candidate.signature_alg_id().as_ref() == self.algorithm
                && candidate.public_key_alg_id().as_ref() == algorithm.data
                && candidate.verify_signature(&key.data, self.signed, &self.signature.data).is_ok()
        })
    }
}
