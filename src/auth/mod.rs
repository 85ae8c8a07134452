//! Who is at the other end of a session, and what they may do.
//!
//! A transport names a [`Principal`] as far as it can prove one. A client may show [`Credentials`] beside: a
//! token or a password. A [`Policy`] makes an [`Identity`] of both, with its [`Permissions`], and the bus
//! checks these before each publish, subscription, serving and request.
//!
//! What a policy is made from, [`AuthSettings`], can stand in a configuration file; `docs/AUTHENTICATION.md` in the
//! repository shows one. Passwords are hashed with
//! Argon2id by [`hash_password`]; tokens are JWTs that a [`TokenIssuer`] makes, or another issuer whose key the
//! bus knows.
//!
//! Tokens and passwords need the feature `auth`. Without it a policy that names issuers or users is refused
//! when it is loaded; all else works the same.

mod address_block;
mod author;
mod file;
mod granted;
#[cfg(feature = "auth")]
mod guesses;
mod member;
mod owner;
#[cfg(feature = "auth")]
mod password;
#[cfg(not(feature = "auth"))]
#[path = "password_absent.rs"]
mod password;
mod permissions;
mod policy;
mod principal;
mod refusals;
mod secret;
mod settings;
#[cfg(feature = "auth")]
mod source;
#[cfg(feature = "auth")]
mod token;
#[cfg(not(feature = "auth"))]
#[path = "token_absent.rs"]
mod token;
mod token_error;
#[cfg(feature = "auth")]
mod turns;

pub(crate) use address_block::AddressBlock;
pub(crate) use author::Author;
pub(crate) use granted::GrantedRoles;
pub use member::{BusPresence, ClusterPresence, Member, PresenceEvent};
pub(crate) use owner::Owner;
pub use password::{PasswordHash, Passwords, hash_password};
pub use permissions::{Action, Denied, Permissions, Rule};
pub use policy::{Identity, Policy};
pub use principal::Principal;
pub use secret::{Credentials, Secret};
pub use settings::{
    AuthSettings, CertificateSettings, IssuerSettings, TokenAlgorithm, UnixSettings, UserSettings,
};
#[cfg(feature = "auth")]
pub use token::prepare_tokens;
pub use token::{SigningKey, TokenIssuer, TokenVerifier, Verified};
pub use token_error::TokenError;

#[cfg(test)]
mod tests;
