//! In whose name something is done later.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Identity, Owner, Principal};

/// Who has asked for something that is done later, when he may be gone: what a policy needs to tell whether he still may.
///
/// It is kept in stores, so that it holds what can be written down: of a token, and of whom the bus's own process
/// has vouched for, the roles that it gave and its end, of all others who they are. What it rests on, such as a password, is not looked at again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Author {
    pub(super) principal: Principal,
    /// What his token, or the bus's own process, gave him; empty for all others.
    #[serde(default)]
    pub(super) roles: Vec<String>,
    /// The bus's own process gave him his roles. Not written where it is not so: a release that does not know it reads all that
    /// it wrote itself, and takes who was given roles for the subject of a token of an issuer that it does not know.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) granted: bool,
    /// When that ends, in milliseconds since 1970 (UTC).
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
            roles: identity.own_roles().to_vec(),
            granted: identity.is_granted(),
            until: identity.expires.map(milliseconds),
        }
    }

    /// Somebody who was not asked who he is.
    pub(crate) fn unasked(principal: &Principal) -> Self {
        Self { principal: principal.clone(), roles: Vec::new(), granted: false, until: None }
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

    /// Whether his token, or what he was granted, has ended by `time`.
    pub(crate) fn has_ended(&self, time: SystemTime) -> bool {
        let end = |until| UNIX_EPOCH.checked_add(Duration::from_millis(until));
        self.until.and_then(end).is_some_and(|end| end <= time)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the serialiser asks so")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_release_kept_of_somebody_is_read_and_nothing_else_is_kept_of_him_now() {
        #[derive(Serialize, Deserialize)]
        struct Earlier {
            principal: Principal,
            #[serde(default)]
            roles: Vec<String>,
            #[serde(default)]
            until: Option<u64>,
        }
        let principal = Principal::Token { issuer: "login".into(), subject: "alice".into() };
        let earlier = Earlier { principal: principal.clone(), roles: vec!["reader".into()], until: Some(7) };
        let kept = rmp_serde::to_vec_named(&earlier).unwrap();
        let author: Author = rmp_serde::from_slice(&kept).unwrap();
        assert_eq!((&author.principal, author.granted, author.until), (&principal, false, Some(7)));
        assert_eq!(rmp_serde::to_vec_named(&author).unwrap(), kept);

        let granted = Author { granted: true, ..author };
        let kept = rmp_serde::to_vec_named(&granted).unwrap();
        assert_eq!(rmp_serde::from_slice::<Author>(&kept).unwrap(), granted);
        assert_eq!(rmp_serde::from_slice::<Earlier>(&kept).unwrap().roles, ["reader"]);
    }

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
