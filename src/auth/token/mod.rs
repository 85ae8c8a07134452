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

use crate::error::{BusError, BusResult};

/// Makes sure that tokens can be signed and verified in this process by `jsonwebtoken`, which panics where nothing that can do so
/// has been installed. For those who use it themselves for tokens of their own; what is here does so by itself.
///
/// # Errors
/// [`BusError::InvalidSettings`] if the process has installed a provider that knows neither HS256 nor EdDSA.
///
/// # Examples
/// ```
/// use jsonwebtoken::{DecodingKey, Validation, decode};
///
/// whispeer::auth::prepare_tokens()?;
/// let key = DecodingKey::from_secret(b"of this process alone");
/// assert!(decode::<serde_json::Value>("no token", &key, &Validation::default()).is_err());
/// # Ok::<(), whispeer::BusError>(())
/// ```
pub fn prepare_tokens() -> BusResult<()> {
    provider::install().map_err(|why| BusError::InvalidSettings(why.into()))
}

#[cfg(test)]
mod tests;
