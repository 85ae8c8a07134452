//! In whose name something is done later.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Identity, Principal};

/// Who has asked for something that is done later, when he may be gone: what a policy needs to tell whether he still may.
///
/// It is kept in stores, so that it holds what can be written down: of a token the roles that it gave and its end, of all
/// others who they are. What it rests on, such as a password, is not looked at again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Author {
    pub(super) principal: Principal,
    /// What his token gave him; empty for all others.
    #[serde(default)]
    pub(super) roles: Vec<String>,
    /// When his token ends, in milliseconds since 1970 (UTC).
    #[serde(default)]
    until: Option<u64>,
}

impl Author {
    /// Somebody whom a policy has let in.
    pub(crate) fn of(identity: &Identity) -> Self {
        let milliseconds = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        };
        Self {
            principal: identity.principal.clone(),
            roles: identity.token_roles().to_vec(),
            until: identity.expires.map(milliseconds),
        }
    }

    /// Somebody who was not asked who he is.
    pub(crate) fn unasked(principal: &Principal) -> Self {
        Self { principal: principal.clone(), roles: Vec::new(), until: None }
    }

    pub(crate) fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Whether his token has ended by `time`.
    pub(crate) fn has_ended(&self, time: SystemTime) -> bool {
        let end = |until| UNIX_EPOCH.checked_add(Duration::from_millis(until));
        self.until.and_then(end).is_some_and(|end| end <= time)
    }
}
