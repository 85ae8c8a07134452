//! Who is subscribed to a topic.

use serde::{Deserialize, Serialize};

use super::Principal;

/// A subscription of somebody, as presence shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Member {
    /// The session that has the subscription.
    pub session: u64,
    /// Who it acts for.
    pub principal: Principal,
    /// What its client calls itself.
    pub name: String,
    /// What is subscribed to.
    pub pattern: String,
    /// Since when: milliseconds since 1970 (UTC).
    pub since: u64,
}

impl Member {
    /// A member.
    pub(crate) fn new(
        (session, principal, name): (u64, &Principal, &str),
        pattern: &str,
        since: u64,
    ) -> Self {
        Self {
            session,
            principal: principal.clone(),
            name: name.to_owned(),
            pattern: pattern.to_owned(),
            since,
        }
    }
}

/// What happens to the members of topics, as the bus tells it under `$presence/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PresenceEvent {
    /// Somebody has subscribed.
    Join(Member),
    /// A subscription has ended.
    Leave(Member),
    /// So many joins and leaves came faster than they could be told. Ask who is there.
    Missed(u64),
}
