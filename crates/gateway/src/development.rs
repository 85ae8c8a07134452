//! Secrets for trying things out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use whispeer::BusError;
use whispeer::auth::{Secret, hash_password};

use crate::gateway::GatewayError;
use crate::settings::{PopSub, PopSubUser, Turbine};
use crate::token::TokenKey;

/// Bytes of randomness in a secret.
const SECRET_BYTES: usize = 32;

/// How long the token is good.
const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// The name by which it logs in.
const NAME: &str = "dev";

/// All dialects with secrets that are drawn when it is made, for trying things out on one's own machine.
///
/// # Examples
/// ```
/// let drawn = whispeer_gateway::Development::draw()?;
/// assert_eq!(drawn.token.reveal().split('.').count(), 3);
/// assert_eq!(drawn.popsub.users[0].name, "dev");
/// # Ok::<(), whispeer_gateway::GatewayError>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Development {
    /// The dialect of Turbine with its secrets.
    pub turbine: Turbine,
    /// A token for it that is good for all channels and 12 h.
    pub token: Secret,
    /// What publishes by `POST /api/publish`.
    pub api_key: Secret,
    /// The dialect of PopSub with one user, `dev`.
    pub popsub: PopSub,
    /// That user's password.
    pub password: Secret,
}

/// What the token says.
#[derive(Serialize)]
struct Claims {
    sub: &'static str,
    exp: u64,
    channels: [&'static str; 0],
}

impl Development {
    /// Draws them.
    ///
    /// # Errors
    /// If the system gives no random numbers.
    pub fn draw() -> Result<Self, GatewayError> {
        let (key, api_key, password) = (secret()?, secret()?, secret()?);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let claims = Claims { sub: NAME, exp: (now + LIFETIME).as_secs(), channels: [] };
        let token = TokenKey::new("the dialect of Turbine", &key, None)?.sign(&claims);
        let token = token.map_err(|error| GatewayError::Settings(error.to_string()))?;
        let user = PopSubUser {
            name: NAME.to_owned(),
            password: hash_password(&password)?.into(),
            roles: Vec::new(),
        };
        Ok(Self {
            turbine: Turbine::new(key, api_key.clone()),
            token: token.into(),
            api_key,
            popsub: PopSub::new(secret()?, vec![user]),
            password,
        })
    }
}

fn secret() -> Result<Secret, GatewayError> {
    let mut bytes = zeroize::Zeroizing::new([0; SECRET_BYTES]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| {
        GatewayError::Bus(BusError::InvalidSettings(format!("the system gives no random numbers: {error}")))
    })?;
    Ok(URL_SAFE_NO_PAD.encode(bytes.as_slice()).into())
}
