//! Whom a client trusts, and what it proves.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};

use super::pem::Pem;
use super::{Spoken, provider, versions};
use crate::error::{BusError, BusResult};

/// How a client uses TLS: which CAs it trusts to say who a bus is, and the certificate that it shows.
///
/// A bus is always checked, by its name in the address. Files are read when a connection is made.
///
/// # Examples
/// ```no_run
/// use whispeer::prelude::*;
/// use whispeer::transport::ClientTls;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let tls = ClientTls::new()
///     .ca_file("certs/ca.pem")
///     .identity_files("certs/alice.pem", "certs/alice.key");
/// let client = Client::builder().tls(tls).connect("tls://bus.example.com:4242").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct ClientTls {
    cas: Vec<Pem>,
    identity: Option<(Pem, Pem)>,
    tls12: bool,
}

impl ClientTls {
    /// Trusts the CAs that the system trusts, and shows no certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the CAs in this file, in PEM, and no longer those of the system.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.cas.push(Pem::file(path));
        self
    }

    /// As [`ca_file`](Self::ca_file), with the text in PEM.
    pub fn ca_pem(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.cas.push(Pem::text(text));
        self
    }

    /// Shows the certificate in one file, with the key in the other, to buses that ask; in PEM. They are read for each
    /// connection, so that a client whose certificate is renewed in time, or soon after, goes on.
    pub fn identity_files(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((Pem::file(certificate), Pem::file(key)));
        self
    }

    /// As [`identity_files`](Self::identity_files), with the texts in PEM.
    pub fn identity_pem(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((Pem::text(certificate), Pem::text(key)));
        self
    }

    /// Speaks TLS 1.2 too, with buses that know no better; otherwise 1.3 alone.
    pub fn tls12(mut self, allowed: bool) -> Self {
        self.tls12 = allowed;
        self
    }

    /// Whether what it shows may be another one the next time.
    pub(crate) fn reads_identity(&self) -> bool {
        self.identity.as_ref().is_some_and(|(certificate, _)| certificate.is_file())
    }

    /// Reads the files; blocks while it does.
    pub(in crate::transport) fn load(&self, spoken: Spoken) -> BusResult<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions(self.tls12))
            .map_err(|error| BusError::InvalidSettings(error.to_string()))?
            .with_root_certificates(self.roots()?);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(certificate.chain()?, key.key()?)
                .map_err(|error| match error {
                    rustls::Error::InconsistentKeys(_) => {
                        certificate.unusable("certificate", &format!("its key is not the one in {key}"))
                    }
                    error => certificate.unusable("certificate", &error.to_string()),
                })?,
        };
        config.alpn_protocols = spoken.protocols();
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    fn roots(&self) -> BusResult<Arc<RootCertStore>> {
        let mut roots = RootCertStore::empty();
        for ca in &self.cas {
            roots.extend(ca.roots()?.roots);
        }
        if self.cas.is_empty() {
            let found = rustls_native_certs::load_native_certs();
            // The system's list may have some that nobody can use any more.
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(BusError::InvalidSettings(
                    "this system has no list of CAs; name the CA of the bus (`ClientTls::ca_file`, `--ca`)"
                        .into(),
                ));
            }
        }
        Ok(Arc::new(roots))
    }
}
