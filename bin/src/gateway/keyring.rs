//! What opens and seals payloads for those who come by HTTP.

use std::path::Path;
use std::sync::Arc;

use whispeer::engine::encryption::{Encryption, Keyring};
use whispeer::engine::{Chain, Engine, Engines};

use crate::failure::Failure;

/// Encrypts on topics of these patterns, and leaves what is on others as it is.
///
/// # Errors
/// For a keyring that cannot be read.
pub(super) fn engines(path: &Path, patterns: &[String]) -> anyhow::Result<Engines> {
    let keyring = Keyring::read(path).map_err(|error| {
        Failure::usage(format!("gateway.keyring: {error}")).help("`whispeer keys new FILE` makes a keyring")
    })?;
    let encryption: Arc<dyn Engine> =
        Arc::new(Encryption::new(&keyring).map_err(|error| Failure::usage(error.to_string()))?);
    let engines = Engines::new();
    // What somebody has compressed before he encrypted it is read, as by clients.
    #[cfg(feature = "compression")]
    let engines = engines.reading(whispeer::engine::compression::Compression::none());
    let chain = Chain::new().with_shared(encryption);
    Ok(patterns.iter().fold(engines, |engines, pattern| engines.topic(pattern, chain.clone())))
}
