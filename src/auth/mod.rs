//! Who is at the other end of a session, and what they may do.
//!
//! Tokens and passwords need the feature `auth`.

#[cfg(feature = "auth")]
mod password;
#[cfg(not(feature = "auth"))]
#[path = "password_absent.rs"]
mod password;
mod permissions;
mod principal;
mod secret;
mod settings;
#[cfg(feature = "auth")]
mod token;
#[cfg(not(feature = "auth"))]
#[path = "token_absent.rs"]
mod token;
mod token_error;

pub use password::{PasswordHash, Passwords, hash_password};
pub use permissions::{Action, Denied, Permissions, Rule};
pub use principal::Principal;
pub use secret::{Credentials, Secret};
pub use settings::{IssuerSettings, TokenAlgorithm};
pub use token::{SigningKey, TokenIssuer, TokenVerifier, Verified};
pub use token_error::TokenError;

#[cfg(test)]
mod tests;
