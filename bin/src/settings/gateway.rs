//! What can be chosen about HTTP, and about the dialects of Turbine and PopSub.

use std::path::PathBuf;
use std::time::Duration;

/// Whom the gateway lets in, and how much.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GatewayChoice {
    pub(crate) dev: bool,
    pub(crate) origins: Vec<String>,
    pub(crate) hosts: Vec<String>,
    pub(crate) pages: Option<PathBuf>,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_address: usize,
    pub(crate) body_limit: usize,
    pub(crate) bodies_limit: usize,
    pub(crate) rate: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) metrics_token: Option<PathBuf>,
    pub(crate) keyring: Option<PathBuf>,
    pub(crate) keyring_topics: Vec<String>,
}

impl Default for GatewayChoice {
    fn default() -> Self {
        Self {
            dev: false,
            origins: Vec::new(),
            hosts: Vec::new(),
            pages: None,
            max_connections: 20_000,
            max_connections_per_address: 1_024,
            body_limit: 1024 * 1024,
            bodies_limit: 64 * 1024 * 1024,
            rate: 10_000,
            request_timeout: Duration::from_secs(60),
            metrics_token: None,
            keyring: None,
            keyring_topics: vec!["**".into()],
        }
    }
}

/// The dialect of Turbine. It is spoken if there is a key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TurbineChoice {
    pub(crate) key: Option<PathBuf>,
    pub(crate) audience: Vec<String>,
    pub(crate) api_keys: Option<PathBuf>,
    pub(crate) roles: Vec<String>,
    pub(crate) publish_roles: Vec<String>,
    pub(crate) patterns: bool,
    pub(crate) max_subscriptions: usize,
    pub(crate) buffer: usize,
}

impl Default for TurbineChoice {
    fn default() -> Self {
        Self {
            key: None,
            audience: Vec::new(),
            api_keys: None,
            roles: Vec::new(),
            publish_roles: Vec::new(),
            patterns: false,
            max_subscriptions: 64,
            buffer: 256,
        }
    }
}

/// The dialect of PopSub. It is spoken if there is a key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PopSubChoice {
    pub(crate) key: Option<PathBuf>,
    pub(crate) users: Option<PathBuf>,
    pub(crate) roles: Vec<String>,
    pub(crate) at_root: bool,
    pub(crate) token_lifetime: Duration,
    pub(crate) replay: usize,
    pub(crate) replay_of: Vec<String>,
    pub(crate) replay_bytes: usize,
    pub(crate) ack_timeout: Duration,
    pub(crate) retries: usize,
    pub(crate) max_subscriptions: usize,
    pub(crate) buffer: usize,
}

impl Default for PopSubChoice {
    fn default() -> Self {
        Self {
            key: None,
            users: None,
            roles: Vec::new(),
            at_root: false,
            token_lifetime: Duration::from_secs(12 * 60 * 60),
            replay: 10,
            replay_of: Vec::new(),
            replay_bytes: 64 * 1024 * 1024,
            ack_timeout: Duration::from_secs(5),
            retries: 5,
            max_subscriptions: 64,
            buffer: 256,
        }
    }
}

#[cfg(all(test, feature = "gateway"))]
mod tests {
    use whispeer_gateway::Settings;
    use whispeer_gateway::settings::{PopSub, Turbine};

    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_gateway() {
        let choice = GatewayChoice::default();
        let settings = Settings::new("127.0.0.1:1".parse().unwrap());
        assert_eq!(
            (choice.max_connections, choice.max_connections_per_address),
            (settings.max_connections, settings.max_connections_per_address)
        );
        assert_eq!((choice.body_limit, choice.bodies_limit), (settings.body_limit, settings.bodies_limit));
        assert_eq!((choice.rate, choice.request_timeout), (settings.rate as usize, settings.request_timeout));

        let choice = TurbineChoice::default();
        let settings = Turbine::new("", "");
        assert_eq!(
            (choice.patterns, choice.max_subscriptions, choice.buffer),
            (settings.patterns, settings.max_subscriptions, settings.buffer as usize)
        );

        let choice = PopSubChoice::default();
        let settings = PopSub::new("", Vec::new());
        assert_eq!(
            (choice.at_root, choice.replay, choice.replay_bytes, choice.max_subscriptions, choice.buffer),
            (
                settings.at_root,
                settings.replay,
                settings.replay_bytes,
                settings.max_subscriptions,
                settings.buffer as usize
            )
        );
        assert_eq!(
            (choice.token_lifetime, choice.ack_timeout, choice.retries),
            (settings.token_lifetime, settings.ack_timeout, settings.retries as usize)
        );
    }
}
