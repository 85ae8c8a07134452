//! Who is at the other end of a session, and what they may do.

mod permissions;
mod principal;

pub use permissions::{Action, Denied, Permissions, Rule};
pub use principal::Principal;

#[cfg(test)]
mod tests;
