//! Who may log in, and the tokens that they get.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use whispeer::auth::{PasswordHash, Secret};
use whispeer::limits as bus;

use super::guesses::Guesses;
use crate::gateway::GatewayError;
use crate::limits;
use crate::settings::PopSub;
use crate::token::{TokenKey, time_of};

/// What tokens of this dialect are made out to, so that one of another dialect is none, whatever key it is signed with.
const AUDIENCE: &str = "whispeer-popsub";

/// The users of the dialect.
pub(super) struct Users {
    key: TokenKey,
    lifetime: Duration,
    users: BTreeMap<String, User>,
    checks: Arc<Semaphore>,
    /// Those that are checked and those that wait for it.
    places: Semaphore,
    guesses: Arc<Mutex<Guesses>>,
}

struct User {
    password: Arc<PasswordHash>,
    roles: Vec<String>,
}

/// What stands in a token.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    aud: String,
}

/// Who somebody is by his token.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) roles: Vec<String>,
    pub(super) expires: SystemTime,
}

/// Why somebody cannot log in: what he is told.
#[derive(Debug, Error, PartialEq)]
pub(super) enum LoginError {
    /// There is no such user, or it is not his password.
    #[error("invalid credentials")]
    Invalid,
    #[error("too many passwords were wrong, the next is looked at in {0} s")]
    TooManyWrong(u64),
    #[error("too many passwords are being checked; try again in a moment")]
    Overloaded,
}

impl LoginError {
    /// As it is counted.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Invalid => "credentials",
            Self::TooManyWrong(_) => "guesses",
            Self::Overloaded => "overloaded",
        }
    }
}

impl Users {
    pub(super) fn new(settings: &PopSub) -> Result<Self, GatewayError> {
        let key = TokenKey::new("the dialect of PopSub", &settings.key, Some(AUDIENCE))?;
        let mut users = BTreeMap::new();
        for user in &settings.users {
            let refused =
                |why: String| Err(GatewayError::Settings(format!("the PopSub user {:?} {why}", user.name)));
            if !(1..=limits::POPSUB_NAME_BYTES).contains(&user.name.len()) {
                let limit = limits::POPSUB_NAME_BYTES;
                return refused(format!("has a name of {} bytes; give one of 1 to {limit}", user.name.len()));
            }
            let password = match PasswordHash::parse(user.password.reveal()) {
                Ok(hash) => Arc::new(hash),
                Err(error) => return refused(format!("cannot log in: {error}")),
            };
            let roles = if user.roles.is_empty() { &settings.roles } else { &user.roles }.clone();
            if users.insert(user.name.clone(), User { password, roles }).is_some() {
                return refused("is there twice; remove one of them".into());
            }
        }
        if settings.token_lifetime.as_secs() == 0 {
            let text = "a lifetime of 0 s makes PopSub tokens that are never good; give one of 1 s or more";
            return Err(GatewayError::Settings(text.into()));
        }
        Ok(Self {
            key,
            lifetime: settings.token_lifetime,
            users,
            checks: Arc::new(Semaphore::new(bus::PASSWORD_CHECKS)),
            places: Semaphore::new(limits::POPSUB_LOGINS),
            guesses: Arc::new(Mutex::new(Guesses::new())),
        })
    }

    /// A token for whoever has this name and password.
    ///
    /// A name that there is not costs what a wrong password costs, in time and otherwise.
    ///
    /// # Cancel safety
    /// A check that has begun goes on when the future is dropped, keeps its place among those that run, and counts.
    pub(super) async fn login(
        &self,
        address: IpAddr,
        name: &str,
        password: Secret,
    ) -> Result<String, LoginError> {
        self.look_at(address, name)?;
        // Without users there is nothing to be guessed.
        let user = self.users.get(name);
        let any = user.or_else(|| self.users.values().next()).ok_or(LoginError::Invalid)?;
        let (hash, is_theirs) = (Arc::clone(&any.password), user.is_some());
        let _place = self.places.try_acquire().map_err(|_| LoginError::Overloaded)?;
        let turn = timeout(bus::PASSWORD_WAIT, Arc::clone(&self.checks).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(LoginError::Overloaded) };
        // Those that were checked meanwhile count as well, so that nobody gets more of them by trying many at once.
        self.look_at(address, name)?;
        let (guesses, tried) = (Arc::clone(&self.guesses), name.to_owned());
        let checked = tokio::task::spawn_blocking(move || {
            // One that is too long is nobody's.
            let is_right = hash.matches(&password).unwrap_or_default() && is_theirs;
            if !is_right {
                lock(&guesses).note_wrong(address, &tried);
            }
            drop(turn);
            is_right
        });
        match checked.await {
            Ok(true) => self.token_of(name).ok_or(LoginError::Invalid),
            Ok(false) => Err(LoginError::Invalid),
            Err(_) => Err(LoginError::Overloaded),
        }
    }

    /// Who has this token; `None` for one that is not good.
    pub(super) fn authenticate(&self, token: &str) -> Option<Known> {
        let claims: Claims = match self.key.verify(token) {
            Ok(claims) => claims,
            Err(fault) => {
                tracing::debug!(%fault, "a token of the dialect of PopSub is refused");
                return None;
            }
        };
        // Whoever is a user no longer has no rights, either.
        let roles = self.users.get(&claims.sub)?.roles.clone();
        Some(Known { name: claims.sub, roles, expires: time_of(claims.exp) })
    }

    fn token_of(&self, name: &str) -> Option<String> {
        let expires = SystemTime::now().checked_add(self.lifetime)?;
        let exp = expires.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let claims = Claims { sub: name.to_owned(), exp, aud: AUDIENCE.to_owned() };
        self.key.sign(&claims).inspect_err(|error| tracing::error!(%error, "a token cannot be signed")).ok()
    }

    fn look_at(&self, address: IpAddr, name: &str) -> Result<(), LoginError> {
        let left = lock(&self.guesses).left(address, name);
        if left.is_zero() {
            return Ok(());
        }
        let seconds = left.as_millis().div_ceil(1000);
        Err(LoginError::TooManyWrong(u64::try_from(seconds).unwrap_or(u64::MAX)))
    }
}

fn lock(guesses: &Mutex<Guesses>) -> std::sync::MutexGuard<'_, Guesses> {
    guesses.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Users {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Users").field("names", &self.users.keys()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::PopSubUser;

    const KEY: &str = "a key that is long enough for HS256";

    /// The hash of `password`, made at next to no cost.
    fn cheap() -> String {
        use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
        hasher.hash_password_with_salt(b"password", b"sixteen bytes...").unwrap().to_string()
    }

    fn home() -> IpAddr {
        [192, 0, 2, 1].into()
    }

    fn user(name: &str) -> PopSubUser {
        PopSubUser { name: name.into(), password: cheap().into(), roles: vec![] }
    }

    fn users(users: Vec<PopSubUser>) -> Users {
        Users::new(&PopSub::new(KEY, users)).unwrap()
    }

    #[tokio::test]
    async fn who_has_the_password_gets_a_token_and_is_known_by_it() {
        let mut settings =
            PopSub::new(KEY, vec![user("admin"), PopSubUser { roles: vec!["own".into()], ..user("bob") }]);
        settings.roles = vec!["all".into()];
        let users = Users::new(&settings).unwrap();
        for (name, roles) in [("admin", ["all"]), ("bob", ["own"])] {
            let token = users.login(home(), name, "password".into()).await.unwrap();
            let known = users.authenticate(&token).unwrap();
            assert_eq!((known.name.as_str(), &known.roles[..]), (name, &roles.map(String::from)[..]));
            let left = known.expires.duration_since(SystemTime::now()).unwrap();
            assert!(left > Duration::from_secs(12 * 3600 - 60) && left <= Duration::from_secs(12 * 3600));
        }
    }

    #[tokio::test]
    async fn a_wrong_password_and_a_name_that_there_is_not_are_told_and_counted_alike() {
        let users = users(vec![user("admin")]);
        let long = "x".repeat(2 * bus::PASSWORD_BYTES);
        // The last is right for the user whose hash stands in for that of the name that there is not.
        for (name, password) in
            [("admin", "wrong"), ("admin", long.as_str()), ("nobody", "wrong"), ("nobody", "password")]
        {
            assert_eq!(users.login(home(), name, password.into()).await, Err(LoginError::Invalid));
        }
        for name in ["admin", "nobody"] {
            assert_eq!(users.login(home(), name, "wrong".into()).await, Err(LoginError::Invalid));
        }
        assert_eq!(users.login(home(), "admin", "password".into()).await, Err(LoginError::TooManyWrong(1)));
        assert!(users.login([192, 0, 2, 2].into(), "admin", "password".into()).await.is_ok());
    }

    #[tokio::test]
    async fn without_users_nobody_logs_in() {
        let users = users(Vec::new());
        for (name, password) in [("admin", "password"), ("", "")] {
            assert_eq!(users.login(home(), name, password.into()).await, Err(LoginError::Invalid));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_passwords_are_checked_at_once_and_others_wait_for_a_bounded_time() {
        let users = users(vec![user("admin")]);
        let all = u32::try_from(bus::PASSWORD_CHECKS).unwrap();
        let turns = Arc::clone(&users.checks).acquire_many_owned(all).await.unwrap();
        let begun = tokio::time::Instant::now();
        assert_eq!(users.login(home(), "admin", "password".into()).await, Err(LoginError::Overloaded));
        assert_eq!(begun.elapsed(), bus::PASSWORD_WAIT);
        let places = users.places.acquire_many(u32::try_from(limits::POPSUB_LOGINS).unwrap()).await.unwrap();
        assert_eq!(users.login(home(), "admin", "password".into()).await, Err(LoginError::Overloaded));
        assert_eq!(begun.elapsed(), bus::PASSWORD_WAIT, "at once");
        drop((turns, places));
        assert!(users.login(home(), "admin", "password".into()).await.is_ok());
    }

    #[test]
    fn only_tokens_of_this_dialect_of_users_that_there_are_count() {
        let users = users(vec![user("admin")]);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let good = Claims { sub: "admin".into(), exp: now + 60, aud: AUDIENCE.into() };
        let token = users.key.sign(&good).unwrap();
        assert!(users.authenticate(&token).is_some());
        for claims in [
            Claims { sub: "nobody".into(), ..good.clone() },
            Claims { exp: now - 1, ..good.clone() },
            Claims { aud: "turbine".into(), ..good.clone() },
        ] {
            assert!(users.authenticate(&users.key.sign(&claims).unwrap()).is_none(), "{claims:?}");
        }
        let other = TokenKey::new("another", &"another key that is long enough too".into(), None).unwrap();
        let without_audience = serde_json::json!({"sub": "admin", "exp": now + 60, "channels": []});
        assert!(users.authenticate(&other.sign(&good).unwrap()).is_none());
        assert!(users.authenticate(&users.key.sign(&without_audience).unwrap()).is_none());
        // {"alg":"none","typ":"JWT"} with the same claims and no signature.
        let body = token.split('.').nth(1).unwrap();
        for wrong in
            ["", "..", "x", &format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}."), &"x".repeat(100_000)]
        {
            assert!(users.authenticate(wrong).is_none());
        }
    }

    #[test]
    fn settings_that_cannot_be_used_are_named() {
        let refused = |settings: &PopSub| Users::new(settings).unwrap_err().to_string();
        let with = |users| PopSub::new(KEY, users);
        assert!(refused(&PopSub::new("short", vec![])).contains("has 5 bytes"));
        assert!(refused(&with(vec![user("admin"), user("admin")])).contains("is there twice"));
        assert!(refused(&with(vec![user("")])).contains("0 bytes"));
        let plain = PopSubUser { password: "password".into(), ..user("admin") };
        let told = refused(&with(vec![plain]));
        assert!(told.contains("\"admin\"") && told.contains("whispeer passwd"), "{told}");
        let mut settings = with(vec![]);
        settings.token_lifetime = Duration::from_millis(999);
        assert!(refused(&settings).contains("lifetime"));
        assert!(!format!("{:?}", Users::new(&with(vec![user("admin")])).unwrap()).contains("argon2id"));
    }
}
