//! In whose name something is done later.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Identity, Owner, Principal};

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

    /// Whom what is kept for him counts for: the same for all processes, connections and tokens of one principal. The bus's own process is
    /// not counted, as it may have all that there is.
    pub(crate) fn holder(&self) -> Option<String> {
        let owner = Owner::of(&self.principal);
        (!owner.is_own_process()).then(|| owner.to_string())
    }

    /// Whether his token has ended by `time`.
    pub(crate) fn has_ended(&self, time: SystemTime) -> bool {
        let end = |until| UNIX_EPOCH.checked_add(Duration::from_millis(until));
        self.until.and_then(end).is_some_and(|end| end <= time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_counts_for_one_holder_whatever_process_connection_or_token_it_came_by() {
        let holder = |principal: Principal| Author::unasked(&principal).holder();
        let process = |pid| Principal::Unix { uid: 7, gid: pid, pid: Some(8) };
        assert_eq!(holder(process(1)), holder(process(2)));
        let from = |address: &str| Principal::Network { address: address.parse().unwrap() };
        assert_eq!(holder(from("[2001:db8::1]:9")), holder(from("[2001:db8::2]:10")));
        assert_ne!(holder(from("192.0.2.1:9")), holder(from("192.0.2.2:9")));
        let token = |until| Author {
            until: Some(until),
            ..Author::unasked(&Principal::Token { issuer: "login".into(), subject: "alice".into() })
        };
        assert_eq!(token(1).holder(), token(2).holder());
        assert_ne!(token(1).holder(), holder(Principal::User { name: "alice".into() }));
        assert_eq!(holder(Principal::Local), None);
    }
}
