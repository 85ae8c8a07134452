//! What a bus proves, and whom it lets in.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use super::pem::Pem;
use super::revocations::Revocations;
use super::{Spoken, provider, validity, versions};
use crate::error::BusResult;

/// How a bus uses TLS: its certificate and key, and whether clients have to show certificates of theirs.
///
/// Files are read when the bus starts, and again by [`BusHandle::reload`](crate::BusHandle::reload). A certificate that
/// has expired or does not hold yet is refused; of one that is about to end the log warns, from two weeks before once
/// a day.
///
/// # Examples
/// ```no_run
/// use whispeer::prelude::*;
/// use whispeer::transport::ServerTls;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let tls = ServerTls::files("certs/server.pem", "certs/server.key")
///     .client_ca_file("certs/ca.pem")
///     .revocations_file("certs/crl.pem");
/// let bus = Bus::builder().tls(tls).listen(&"tls://[::]:4242".parse()?).start()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct ServerTls {
    certificate: Pem,
    key: Pem,
    client_ca: Option<Pem>,
    client_auth: ClientAuth,
    revocations: Vec<Pem>,
    tls12: bool,
}

/// Whether clients have to show a certificate, where there is a CA to check them by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// Who shows none is not let in.
    #[default]
    Required,
    /// Who shows none comes in as somebody who has proven nothing. Who shows a bad one does not.
    Optional,
}

impl ServerTls {
    /// A bus with the certificate and the key in these files, in PEM. Certificates that lead from it to its CA
    /// follow it in the same file.
    pub fn files(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self::new(Pem::file(certificate), Pem::file(key))
    }

    /// A bus with this certificate and this key, in PEM.
    pub fn pem(certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self::new(Pem::text(certificate), Pem::text(key))
    }

    fn new(certificate: Pem, key: Pem) -> Self {
        Self {
            certificate,
            key,
            client_ca: None,
            client_auth: ClientAuth::default(),
            revocations: Vec::new(),
            tls12: false,
        }
    }

    /// Asks clients for certificates that the CA in this file has signed, and lets nobody in without, unless
    /// [`client_auth`](Self::client_auth) says otherwise. Without a CA nobody is asked.
    pub fn client_ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.client_ca = Some(Pem::file(path));
        self
    }

    /// As [`client_ca_file`](Self::client_ca_file), with the text in PEM.
    pub fn client_ca_pem(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.client_ca = Some(Pem::text(text));
        self
    }

    /// Whether clients have to show a certificate.
    pub fn client_auth(mut self, auth: ClientAuth) -> Self {
        self.client_auth = auth;
        self
    }

    /// Refuses clients whose certificates are in the lists of revocations in this file, in PEM. With any list, each
    /// CA of [`client_ca_file`](Self::client_ca_file) needs one, and there is none of another CA: where clients'
    /// certificates are of a CA below one that is trusted, both belong there. What breaks that, is damaged, or is
    /// the second list of its CA, is refused as a setting, at the start and when files are read again. A list that is
    /// past the time at which its issuer wanted to make a newer one still holds.
    pub fn revocations_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.revocations.push(Pem::file(path));
        self
    }

    /// As [`revocations_file`](Self::revocations_file), with the text in PEM.
    pub fn revocations_pem(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.revocations.push(Pem::text(text));
        self
    }

    /// Speaks TLS 1.2 too, with clients that know no better; otherwise 1.3 alone.
    pub fn tls12(mut self, allowed: bool) -> Self {
        self.tls12 = allowed;
        self
    }

    /// Whether nobody comes in without having proven who he is.
    pub(crate) fn requires_clients_to_prove(&self) -> bool {
        self.client_ca.is_some() && self.client_auth == ClientAuth::Required
    }

    /// What the bus shows, and when its certificate ends.
    fn load(
        &self,
        verifier: Option<Arc<dyn ClientCertVerifier>>,
        now: SystemTime,
    ) -> BusResult<(ServerConfig, SystemTime)> {
        let chain = self.certificate.chain()?;
        let until = validity::own_end(&self.certificate, &chain, now)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions(self.tls12))
            .map_err(|error| self.certificate.unusable("certificate", &error.to_string()))?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, self.key.key()?).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                self.certificate.unusable("certificate", &format!("its key is not the one in {}", self.key))
            }
            error => self.certificate.unusable("certificate", &error.to_string()),
        })?;
        config.alpn_protocols = Spoken::Frames.protocols();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok((config, until))
    }

    fn verifier(&self) -> BusResult<Option<Arc<dyn ClientCertVerifier>>> {
        let Some(ca) = &self.client_ca else { return Ok(None) };
        let revocations = Revocations::read(&self.revocations)?;
        let roots = Arc::new(ca.roots()?);
        revocations.check(ca, &roots)?;
        let builder =
            WebPkiClientVerifier::builder_with_provider(roots, provider()).with_crls(revocations.lists());
        let builder = match self.client_auth {
            ClientAuth::Required => builder,
            ClientAuth::Optional => builder.allow_unauthenticated(),
        };
        builder.build().map(Some).map_err(|error| revocations.refused(ca, &error))
    }
}

/// What a running bus uses for its next connection.
#[derive(Debug)]
pub(crate) struct LiveTls {
    source: ServerTls,
    configs: RwLock<Configs>,
    /// Counts how often the files have been read again.
    number: AtomicU64,
}

/// One certificate, for each of what is spoken.
#[derive(Debug)]
struct Configs {
    /// What looks at clients' certificates, where they are asked for any.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// When the bus's own certificate ends.
    until: SystemTime,
    frames: Arc<ServerConfig>,
    #[cfg(feature = "websocket")]
    http: Arc<ServerConfig>,
}

impl Configs {
    fn load(source: &ServerTls) -> BusResult<Self> {
        let verifier = source.verifier()?;
        let (frames, until) = source.load(verifier.clone(), SystemTime::now())?;
        #[cfg(feature = "websocket")]
        let http = {
            let mut http = frames.clone();
            http.alpn_protocols = Spoken::Http.protocols();
            Arc::new(http)
        };
        Ok(Self {
            verifier,
            until,
            frames: Arc::new(frames),
            #[cfg(feature = "websocket")]
            http,
        })
    }
}

impl LiveTls {
    /// Reads the files.
    ///
    /// # Errors
    /// What cannot be used, and why.
    pub(crate) fn load(source: ServerTls) -> BusResult<Self> {
        let configs = RwLock::new(Configs::load(&source)?);
        Ok(Self { source, configs, number: AtomicU64::new(0) })
    }

    /// Reads the files again, for connections from now on; what was shown before is no longer settled. Everything
    /// stays as it is when one of them cannot be used.
    ///
    /// # Errors
    /// What cannot be used, and why.
    pub(crate) fn reload(&self) -> BusResult<()> {
        let configs = Configs::load(&self.source)?;
        *self.configs.write().unwrap_or_else(PoisonError::into_inner) = configs;
        self.number.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// How often the files have been read again. Who asks for this first, and then for what was read, has that
    /// of this number or a later one.
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    pub(super) fn verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.configs.read().unwrap_or_else(PoisonError::into_inner).verifier.clone()
    }

    /// When the bus's own certificate ends.
    pub(crate) fn until(&self) -> SystemTime {
        self.configs.read().unwrap_or_else(PoisonError::into_inner).until
    }

    pub(crate) fn source(&self) -> &ServerTls {
        &self.source
    }

    pub(in crate::transport) fn config(&self, spoken: Spoken) -> Arc<ServerConfig> {
        let configs = self.configs.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(match spoken {
            Spoken::Frames => &configs.frames,
            #[cfg(feature = "websocket")]
            Spoken::Http => &configs.http,
        })
    }
}
