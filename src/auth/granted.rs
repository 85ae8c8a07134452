//! What the bus's own process vouches for.

use std::time::SystemTime;

/// Roles of somebody whose identity the bus's own process has checked.
///
/// It comes with a link that the process attaches, and from nowhere else: nothing that a peer sends is ever read as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GrantedRoles {
    pub(super) roles: Vec<String>,
    /// When the identity ends by itself; `None` if it does not.
    pub(super) expires: Option<SystemTime>,
}

impl GrantedRoles {
    pub(crate) fn new(roles: Vec<String>, expires: Option<SystemTime>) -> Self {
        Self { roles, expires }
    }
}
