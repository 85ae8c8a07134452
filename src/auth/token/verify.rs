//! Checking tokens.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, Validation, dangerous, decode, decode_header};
use serde::Deserialize;

use super::super::settings::{check_name, invalid};
use super::super::{IssuerSettings, Principal, TokenError};
use super::keys::{VerifyingKey, algorithm_of};
use super::provider;
use crate::error::BusResult;
use crate::limits;

/// The issuers whose tokens count, and how their tokens are checked.
#[derive(Debug, Default)]
pub struct TokenVerifier {
    issuers: HashMap<String, Arc<Issuer>>,
}

struct Issuer {
    name: String,
    audience: String,
    key: VerifyingKey,
    decoding_key: DecodingKey,
    validation: Validation,
    roles: Vec<String>,
    default_roles: Vec<String>,
}

/// What a token says that is valid.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Verified {
    /// Whom it was issued to, a [`Principal::Token`].
    pub principal: Principal,
    /// The roles that it gives.
    pub roles: Vec<String>,
    /// When it ends, the difference of clocks included.
    pub expires: SystemTime,
    /// Whether it says itself which roles it gives.
    names_roles: bool,
    issuer: Arc<Issuer>,
}

/// The one claim that is read before the signature is checked: it says whose key to check it with.
#[derive(Deserialize)]
struct Claimed {
    iss: String,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    roles: Option<Vec<String>>,
}

impl TokenVerifier {
    /// Reads the keys of these issuers.
    ///
    /// # Errors
    /// [`InvalidSettings`](crate::BusError::InvalidSettings) that names the issuer and what is wrong with it.
    pub fn new(issuers: &[IssuerSettings]) -> BusResult<Self> {
        let mut known = HashMap::with_capacity(issuers.len());
        if !issuers.is_empty() {
            provider::install().map_err(|reason| invalid(format!("tokens cannot be checked: {reason}")))?;
        }
        for settings in issuers {
            let issuer = Issuer::new(settings)
                .map_err(|error| invalid(format!("issuer {:?}: {error}", settings.issuer)))?;
            if known.insert(settings.issuer.clone(), Arc::new(issuer)).is_some() {
                return Err(invalid(format!("issuer {:?} is there twice; keep one", settings.issuer)));
            }
        }
        Ok(Self { issuers: known })
    }

    /// Checks a token. It takes some tens of microseconds.
    ///
    /// # Errors
    /// [`TokenError`], for the log.
    pub fn verify(&self, token: &str) -> Result<Verified, TokenError> {
        self.verify_at(token, SystemTime::now())
    }

    /// Checks a token as of this time.
    pub(super) fn verify_at(&self, token: &str, now: SystemTime) -> Result<Verified, TokenError> {
        if token.len() > limits::TOKEN_BYTES {
            return Err(TokenError::TooLong { bytes: token.len() });
        }
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenError::Extension);
        }
        let claimed: Claimed = dangerous::insecure_decode_claims(token).map_err(|_| TokenError::Malformed)?;
        let issuer = self.issuers.get(&claimed.iss).ok_or(TokenError::UnknownIssuer)?;
        let claims = decode::<Claims>(token, &issuer.decoding_key, &issuer.validation)
            .map_err(|error| issuer.refusal(error.kind()))?
            .claims;
        issuer.accept(claims, now)
    }

    /// What an earlier token proves by these issuers, without looking at its signature and times again.
    ///
    /// `None` if its issuer has gone, has another key or audience, or may no longer give its roles.
    pub(in super::super) fn renew(&self, earlier: &Verified) -> Option<Verified> {
        let issuer = self.issuers.get(&earlier.issuer.name)?;
        let same = issuer.key.is_same(&earlier.issuer.key) && issuer.audience == earlier.issuer.audience;
        let roles = if earlier.names_roles { Some(earlier.roles.clone()) } else { None };
        let roles = if same { issuer.roles_of(roles) } else { None };
        Some(Verified { roles: roles?, issuer: Arc::clone(issuer), ..earlier.clone() })
    }
}

impl TokenVerifier {
    /// Whether this issuer may give these roles.
    pub(in super::super) fn may_give(&self, issuer: &str, roles: &[String]) -> bool {
        let issuer = self.issuers.get(issuer);
        issuer.is_some_and(|issuer| issuer.roles_of(Some(roles.to_vec())).is_some())
    }
}

impl Issuer {
    fn new(settings: &IssuerSettings) -> BusResult<Self> {
        check_name("the issuer", &settings.issuer)?;
        check_name("its audience", &settings.audience)?;
        let key = VerifyingKey::parse(settings.algorithm, settings.key_text()?.reveal())?;
        let mut validation = Validation::new(algorithm_of(settings.algorithm));
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[&settings.audience]);
        // The times are checked here: as of one moment, and by a clock that may be wrong without a panic.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Ok(Self {
            name: settings.issuer.clone(),
            audience: settings.audience.clone(),
            decoding_key: key.decoding_key(),
            key,
            validation,
            roles: settings.roles.clone(),
            default_roles: settings.default_roles.clone(),
        })
    }

    /// The roles of whoever has a token that names these, or none. `None` if it may not give one of them.
    fn roles_of(&self, named: Option<Vec<String>>) -> Option<Vec<String>> {
        let may_give = |role| self.roles.contains(role) || self.default_roles.contains(role);
        match named {
            None => Some(self.default_roles.clone()),
            Some(roles) => roles.iter().all(may_give).then_some(roles),
        }
    }

    /// What a token with these claims proves.
    fn accept(self: &Arc<Self>, claims: Claims, now: SystemTime) -> Result<Verified, TokenError> {
        let unusable = |claim| TokenError::Claim { issuer: self.name.clone(), claim };
        check_name("the subject", &claims.sub).map_err(|_| unusable("sub"))?;
        let ends = time_of(claims.exp).and_then(|end| end.checked_add(limits::TOKEN_LEEWAY));
        let expires = ends.ok_or_else(|| unusable("exp"))?;
        if expires <= now {
            return Err(TokenError::Expired { issuer: self.name.clone() });
        }
        if let Some(nbf) = claims.nbf {
            let begins = time_of(nbf).ok_or_else(|| unusable("nbf"))?;
            if begins.duration_since(now).is_ok_and(|left| left > limits::TOKEN_LEEWAY) {
                return Err(TokenError::NotYetValid { issuer: self.name.clone() });
            }
        }
        if claims.roles.as_ref().is_some_and(|roles| roles.len() > limits::ROLES_PER_PRINCIPAL) {
            return Err(unusable("roles"));
        }
        let names_roles = claims.roles.is_some();
        let roles =
            self.roles_of(claims.roles).ok_or_else(|| TokenError::Role { issuer: self.name.clone() })?;
        let principal = Principal::Token { issuer: self.name.clone(), subject: claims.sub };
        Ok(Verified { principal, roles, expires, names_roles, issuer: Arc::clone(self) })
    }

    fn refusal(&self, kind: &ErrorKind) -> TokenError {
        let issuer = self.name.clone();
        match kind {
            ErrorKind::InvalidSignature | ErrorKind::Base64(_) => TokenError::Signature { issuer },
            ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => TokenError::Algorithm { issuer },
            ErrorKind::InvalidAudience => TokenError::Audience { issuer },
            ErrorKind::InvalidIssuer => TokenError::Claim { issuer, claim: "iss" },
            ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
                let known = ["exp", "aud", "iss"].into_iter().find(|known| known == claim);
                TokenError::Claim { issuer, claim: known.unwrap_or("sub") }
            }
            ErrorKind::Json(_) | ErrorKind::Utf8(_) => {
                TokenError::Claim { issuer, claim: "sub, exp, nbf or roles" }
            }
            ErrorKind::Provider(reason) => TokenError::Unsupported { reason: reason.clone() },
            _ => TokenError::Malformed,
        }
    }
}

/// A time in seconds since 1970, with a fraction or without.
fn time_of(seconds: f64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

impl fmt::Debug for Issuer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Issuer").field("name", &self.name).finish_non_exhaustive()
    }
}
