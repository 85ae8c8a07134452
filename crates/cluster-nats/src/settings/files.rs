//! What is read from files when a link is opened.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::error::NatsError;
use crate::limits;

/// The error of a file that cannot be used.
pub(super) fn unusable(what: &'static str, path: &Path, reason: &dyn fmt::Display) -> NatsError {
    NatsError::File { what, path: path.into(), reason: reason.to_string() }
}

/// A small file of text.
pub(super) fn text(what: &'static str, path: &Path) -> Result<Zeroizing<String>, NatsError> {
    let file = File::open(path).map_err(|error| unusable(what, path, &error))?;
    let mut text = Zeroizing::new(String::new());
    let read = file.take(limits::LINK_FILE_BYTES + 1).read_to_string(&mut text);
    let size = read.map_err(|error| unusable(what, path, &error))? as u64;
    if size > limits::LINK_FILE_BYTES {
        return Err(unusable(what, path, &format!("it has more than {} bytes", limits::LINK_FILE_BYTES)));
    }
    Ok(text)
}

/// The seed of a user's key.
pub(super) fn seed(path: &Path) -> Result<Zeroizing<String>, NatsError> {
    const WHAT: &str = "NKey";
    let text = text(WHAT, path)?;
    let lines = text.lines().map(str::trim);
    let mut seeds = lines.filter(|line| line.starts_with("SU"));
    let (Some(seed), None) = (seeds.next(), seeds.next()) else {
        return Err(unusable(
            WHAT,
            path,
            &"it has no single line that begins with SU, as the seed of a user's key does",
        ));
    };
    match nkeys::KeyPair::from_seed(seed) {
        Ok(_) => Ok(seed.to_owned().into()),
        Err(error) => Err(unusable(WHAT, path, &format!("its seed cannot be read: {error}"))),
    }
}

/// How TLS is spoken, with the provider that the project uses, whatever else the process has chosen.
pub(super) fn tls(
    ca: Option<&Path>,
    identity: Option<(&Path, &Path)>,
    required: bool,
) -> Result<ClientConfig, NatsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| NatsError::Tls(error.to_string()))?
        .with_root_certificates(roots(ca, required)?);
    let Some((certificate, key_path)) = identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates("certificate", certificate)?;
    let key = text("key", key_path)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
    let key = key.map_err(|error| unusable("key", key_path, &format!("it has no key in PEM: {error}")))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| {
        unusable(
            "key",
            key_path,
            &format!("it does not fit the certificate in {}: {error}", certificate.display()),
        )
    })
}

fn roots(ca: Option<&Path>, required: bool) -> Result<RootCertStore, NatsError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        for certificate in certificates("CA", path)? {
            roots.add(certificate).map_err(|error| unusable("CA", path, &error))?;
        }
        return Ok(roots);
    }
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    // Without any, a server that asks for TLS is refused when it does. That is told now where it is certain.
    if roots.is_empty() && required {
        let why = system.errors.first().map_or("there are none".to_owned(), ToString::to_string);
        return Err(NatsError::Tls(format!(
            "no certificates of the system can be read ({why}); name a file with the CA"
        )));
    }
    Ok(roots)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, NatsError> {
    let text = text(what, path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let certificates = read.map_err(|error| unusable(what, path, &format!("it is no PEM: {error}")))?;
    match certificates.is_empty() {
        true => Err(unusable(what, path, &"it has no certificate in PEM")),
        false => Ok(certificates),
    }
}
