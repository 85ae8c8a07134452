//! Tokens of the dialects: JWTs that are signed with a secret of the dialect's own (HS256).
//!
//! Nothing that a token says chooses how it is checked: one algorithm, one key, one audience.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use whispeer::auth::Secret;

use crate::gateway::GatewayError;
use crate::limits;

/// Bytes that a secret has at least: as many as the hash it is used with (RFC 7518, 3.2).
const KEY_BYTES: usize = 32;

/// The key of a dialect's tokens.
pub(crate) struct TokenKey {
    decoding: DecodingKey,
    encoding: EncodingKey,
    validation: Validation,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenKey(..)")
    }
}

/// Why a token is not good. Its bearer is told no more than that it is not.
#[derive(Debug, Error)]
pub(crate) enum TokenFault {
    #[error("it has {0} bytes")]
    TooLong(usize),
    #[error("it has expired")]
    Expired,
    #[error("{0}")]
    Refused(String),
}

impl TokenKey {
    /// # Errors
    /// If the secret is too short to be one, or tokens cannot be checked in this process.
    pub(crate) fn new(whose: &str, secret: &Secret, audience: Option<&str>) -> Result<Self, GatewayError> {
        let bytes = secret.reveal().as_bytes();
        if bytes.len() < KEY_BYTES {
            return Err(GatewayError::Settings(format!(
                "the secret of {whose} has {} bytes, and tokens that are signed with fewer than {KEY_BYTES} can be forged; \
                 draw one with `openssl rand -base64 32`",
                bytes.len()
            )));
        }
        whispeer::auth::prepare_tokens()?;
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "sub"]);
        match audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                validation.set_required_spec_claims(&["exp", "sub", "aud"]);
            }
            None => validation.validate_aud = false,
        }
        Ok(Self {
            decoding: DecodingKey::from_secret(bytes),
            encoding: EncodingKey::from_secret(bytes),
            validation,
        })
    }

    /// What a token says, if it is good.
    pub(crate) fn verify<C: DeserializeOwned + Clone>(&self, token: &str) -> Result<C, TokenFault> {
        if token.len() > limits::TOKEN_BYTES {
            return Err(TokenFault::TooLong(token.len()));
        }
        decode(token, &self.decoding, &self.validation).map(|data| data.claims).map_err(|error| {
            match error.kind() {
                ErrorKind::ExpiredSignature => TokenFault::Expired,
                _ => TokenFault::Refused(error.to_string()),
            }
        })
    }

    /// Signs what a token is to say.
    pub(crate) fn sign<C: Serialize>(&self, claims: &C) -> Result<String, TokenFault> {
        encode(&Header::new(Algorithm::HS256), claims, &self.encoding)
            .map_err(|error| TokenFault::Refused(error.to_string()))
    }
}

/// The time that stands in a token. One that no clock gets to is the latest that there is.
pub(crate) fn time_of(seconds: u64) -> SystemTime {
    // Some 30,000 years.
    const LATEST: u64 = 1_000_000_000_000;
    UNIX_EPOCH + Duration::from_secs(seconds.min(LATEST))
}
