//! What joins buses over NATS.

use std::fmt;
use std::path::PathBuf;

/// Where NATS is, and who the bus is there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NatsChoice {
    pub(crate) url: Option<Servers>,
    pub(crate) prefix: String,
    pub(crate) credentials: Option<PathBuf>,
    pub(crate) nkey: Option<PathBuf>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    /// On how many servers streams are kept that JetStream keeps.
    pub(crate) replicas: usize,
    /// Copies of the bucket of leases; 0 for no leases.
    pub(crate) lease_replicas: usize,
    /// Messages that follow each other go as one.
    pub(crate) batch: bool,
}

impl Default for NatsChoice {
    fn default() -> Self {
        Self {
            url: None,
            prefix: "whispeer".to_owned(),
            credentials: None,
            nkey: None,
            ca: None,
            cert: None,
            key: None,
            replicas: 1,
            lease_replicas: 1,
            batch: false,
        }
    }
}

/// URLs of servers, which may have passwords.
#[derive(Clone, PartialEq)]
pub(crate) struct Servers(String);

impl Servers {
    pub(crate) fn new(urls: &str) -> Self {
        Self(urls.to_owned())
    }

    /// With their passwords.
    #[cfg(feature = "nats")]
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Without what may be secret: all before the last `@` but the first scheme.
    pub(crate) fn shown(&self) -> String {
        let Some((before, host)) = self.0.rsplit_once('@') else { return self.0.clone() };
        let scheme = before.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
        format!("{scheme}***@{host}")
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (urls, shown) in [
            ("nats://localhost", "nats://localhost"),
            ("nats://bus:s3cret@localhost:4222", "nats://***@localhost:4222"),
            ("nats://bus:s3,c@ret@n1", "nats://***@n1"),
            ("nats://bus:s3cret@n1,nats://bus:s3cret@n2", "nats://***@n2"),
        ] {
            assert_eq!(Servers::new(urls).shown(), shown);
            assert_eq!(format!("{:?}", Servers::new(urls)), shown);
        }
    }

    #[cfg(feature = "nats")]
    #[test]
    fn the_prefix_is_that_of_the_crate() {
        assert_eq!(NatsChoice::default().prefix, whispeer_cluster_nats::settings::PREFIX);
    }
}
