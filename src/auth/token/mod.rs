//! Tokens: JWTs that an issuer has signed, who says whom they stand for and until when.
//!
//! A token counts if its issuer is one that the bus knows, if it is signed by that issuer's key with that
//! issuer's algorithm, made out to the bus's audience, and neither too early nor too late. Nothing that the
//! token itself says chooses the key, beyond the name of the issuer, or the algorithm.
//!
//! These claims are read; all but `nbf` and `roles` must be there:
//!
//! | claim | what it says |
//! |---|---|
//! | `iss` | who issued it |
//! | `aud` | for whom: one name, or a list with the bus's among them |
//! | `sub` | whom it stands for |
//! | `exp` | when it ends, in seconds since 1970 |
//! | `nbf` | when it begins |
//! | `roles` | names of roles, all among those that its issuer may give; without it the issuer's default ones |

mod issue;
mod keys;
mod provider;
mod verify;

pub use issue::TokenIssuer;
pub use keys::SigningKey;
pub use verify::{TokenVerifier, Verified};

#[cfg(test)]
mod tests;
