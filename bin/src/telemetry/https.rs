//! The way to the collector: HTTP, and TLS with the provider that the bus has.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use super::variable;
use super::watched::Exports;
use crate::failure::Failure;

/// Bytes of an answer that are read. A collector says what it has not taken, and why, in a few.
const ANSWER_BYTES: u64 = 64 * 1024;

/// An answer that says no more than that all was taken is empty, or an empty message within a message.
const TAKEN_BYTES: usize = 2;

/// A client that blocks, as the thread that exports has nothing else to do.
pub(super) struct Https {
    agent: Agent,
    exports: Arc<Exports>,
}

impl Https {
    /// A client that gives up a request after this time.
    ///
    /// # Errors
    /// For certificates that cannot be read.
    pub(super) fn new(is_https: bool, timeout: Duration, exports: Arc<Exports>) -> anyhow::Result<Self> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // What is sent is for whom it was addressed to, as its headers are.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(timeout));
        if is_https {
            config = config.tls_config(
                TlsConfig::builder()
                    .provider(TlsProvider::Rustls)
                    .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
                    .root_certs(roots()?)
                    .build(),
            );
        }
        Ok(Self { agent: config.build().into(), exports })
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (parts, body) = request.into_parts();
        let (parts, mut answer) = self.agent.run(Request::from_parts(parts, &*body))?.into_parts();
        let answer = answer.with_config().limit(ANSWER_BYTES).read_to_vec()?;
        if !parts.status.is_success() {
            self.exports.note(format!("the collector has answered {}", parts.status));
        } else if answer.len() > TAKEN_BYTES {
            self.exports.partly_taken();
        }
        Ok(Response::from_parts(parts, answer.into()))
    }
}

#[async_trait::async_trait]
impl HttpClient for Https {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.send(request).map_err(|error| {
            self.exports.note(error.to_string());
            error.into()
        })
    }
}

impl fmt::Debug for Https {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Https").finish_non_exhaustive()
    }
}

/// Whose certificates a collector may have: those of the system, or of the file that a variable names.
fn roots() -> anyhow::Result<RootCerts> {
    let names = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
    let file = names.into_iter().find_map(|name| Some((name, variable(name)?)));
    let Some((name, path)) = file else {
        let found = rustls_native_certs::load_native_certs().certs;
        let found = found.iter().map(|certificate| Certificate::from_der(certificate).to_owned());
        return Ok(RootCerts::Specific(Arc::new(found.collect())));
    };
    let wrong = |reason: &dyn fmt::Display| {
        let failure = Failure::usage(format!("{name}: {path} cannot be used: {reason}"));
        failure.help("name a file with the certificate of the collector's CA, in PEM")
    };
    let text = fs::read(&path).map_err(|error| wrong(&error))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&text) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| wrong(&error))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(wrong(&"there is no certificate in it").into());
    }
    Ok(RootCerts::Specific(Arc::new(certificates)))
}
