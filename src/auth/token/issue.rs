//! Making tokens.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::Header;
use serde::Serialize;

use super::super::Secret;
use super::super::settings::{check_name, invalid};
use super::keys::{SigningKey, algorithm_of};
use super::provider;
use crate::error::BusResult;
use crate::limits;

/// Makes tokens for one audience in the name of one issuer.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use whispeer::auth::{IssuerSettings, SigningKey, TokenAlgorithm, TokenIssuer, TokenVerifier};
///
/// let key = SigningKey::generate(TokenAlgorithm::EdDSA)?;
/// let issuers = [IssuerSettings {
///     issuer: "login".into(),
///     audience: "whispeer".into(),
///     algorithm: key.algorithm(),
///     key: key.public_text().map(Into::into),
///     key_file: None,
///     roles: vec!["reader".into()],
///     default_roles: vec![],
/// }];
/// let token = TokenIssuer::new(key, "login", "whispeer")?
///     .issue("alice", &["reader".into()], Duration::from_secs(60))?;
///
/// let verified = TokenVerifier::new(&issuers)?.verify(token.reveal())?;
/// assert_eq!(verified.principal.to_string(), r#"token "alice" of "login""#);
/// assert_eq!(verified.roles, ["reader"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TokenIssuer {
    key: SigningKey,
    issuer: String,
    audience: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    roles: &'a [String],
}

impl TokenIssuer {
    /// An issuer that signs with this key.
    ///
    /// # Errors
    /// [`InvalidSettings`](crate::BusError::InvalidSettings) for a name that cannot be used, or if this process
    /// cannot sign tokens.
    pub fn new(key: SigningKey, issuer: &str, audience: &str) -> BusResult<Self> {
        check_name("the issuer", issuer)?;
        check_name("the audience", audience)?;
        provider::install().map_err(|reason| invalid(format!("tokens cannot be made: {reason}")))?;
        Ok(Self { key, issuer: issuer.to_owned(), audience: audience.to_owned() })
    }

    /// Makes a token for `subject` that is valid from now on, as long as `lifetime`, in whole seconds.
    ///
    /// Without roles it says nothing of them, and the subject has those that the bus gives by default.
    ///
    /// # Errors
    /// [`InvalidSettings`](crate::BusError::InvalidSettings) for a name or a lifetime that cannot be used, or when
    /// the token would be longer than a bus takes.
    pub fn issue(&self, subject: &str, roles: &[String], lifetime: Duration) -> BusResult<Secret> {
        check_name("the subject", subject)?;
        for role in roles {
            check_name("a role", role)?;
        }
        let (count, limit) = (roles.len(), limits::ROLES_PER_PRINCIPAL);
        if count > limit {
            return Err(invalid(format!("a token can name {limit} roles, not {count}")));
        }
        let iat = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let exp = match lifetime.as_secs() {
            0 => return Err(invalid("a token has to be valid for a second at least".into())),
            seconds => iat.checked_add(seconds),
        };
        let exp = exp.ok_or_else(|| invalid("a token cannot be valid for so long".into()))?;
        let claims = Claims { iss: &self.issuer, aud: &self.audience, sub: subject, iat, exp, roles };
        let header = Header::new(algorithm_of(self.key.algorithm()));
        let token = jsonwebtoken::encode(&header, &claims, &self.key.encoding_key())
            .map_err(|error| invalid(format!("the token cannot be signed: {error}")))?;
        if token.len() > limits::TOKEN_BYTES {
            return Err(invalid(format!(
                "the token would have {} bytes, more than the limit of {}; use shorter names or fewer roles",
                token.len(),
                limits::TOKEN_BYTES
            )));
        }
        Ok(Secret::new(token))
    }
}

impl fmt::Debug for TokenIssuer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TokenIssuer")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}
