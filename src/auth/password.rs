//! Passwords, hashed with Argon2id.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use tokio::sync::Semaphore;

use super::Secret;
use super::settings::invalid;
use crate::error::{BusError, BusResult};
use crate::limits;

/// Bytes of a salt: what the PHC string format recommends.
const SALT_BYTES: usize = 16;

/// Bytes of the shortest hash that is accepted: 128 bits, so that no two passwords share one.
const HASH_BYTES_MIN: usize = 16;

/// Hashes a new password with Argon2id and a fresh salt, and gives the PHC string to be stored.
///
/// It takes some tens of milliseconds and 19 MiB: [`PASSWORD_MEMORY_KIB`](limits::PASSWORD_MEMORY_KIB) and
/// what follows it there say why. Do not call it on a thread that runs asynchronous tasks.
///
/// # Errors
/// [`BusError::InvalidSettings`] for a password that is too short or too long, and
/// [`BusError::Overloaded`] if there is no memory for it.
///
/// # Examples
/// ```
/// use whispeer::auth::{PasswordHash, Secret, hash_password};
///
/// let stored = hash_password(&Secret::new("correct horse battery staple"))?;
/// assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
/// assert!(PasswordHash::parse(&stored)?.matches(&Secret::new("correct horse battery staple"))?);
/// # Ok::<(), whispeer::BusError>(())
/// ```
pub fn hash_password(password: &Secret) -> BusResult<String> {
    let (characters, least) = (password.reveal().chars().count(), limits::PASSWORD_CHARACTERS_MIN);
    if characters < least {
        return Err(invalid(format!(
            "the password has {characters} characters; it needs {least} at least, more are better"
        )));
    }
    check_length(password)?;
    let params =
        Params::new(limits::PASSWORD_MEMORY_KIB, limits::PASSWORD_PASSES, limits::PASSWORD_LANES, None)
            .map_err(|error| failed(&error))?;
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|error| failed(&error))?;
    let hash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_with_salt(password.reveal().as_bytes(), &salt)
        .map_err(|error| failed(&error))?;
    Ok(hash.to_string())
}

/// The hash of a password, checked to be one that can be verified at a sane cost.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(phc::PasswordHash);

impl PasswordHash {
    /// Reads a PHC string.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] if it is not an Argon2id hash, or one that would take more memory or time
    /// than [`PASSWORD_MEMORY_KIB_MAX`](limits::PASSWORD_MEMORY_KIB_MAX) and its kin allow.
    pub fn parse(text: &str) -> BusResult<Self> {
        let refused = |why: &str| {
            Err(invalid(format!(
                "the password's hash cannot be used: {why}; make one with `whispeer passwd`"
            )))
        };
        let Ok(hash) = phc::PasswordHash::new(text) else {
            return refused("it is not a PHC string such as \"$argon2id$v=19$m=19456,t=2,p=1$...\"");
        };
        if Algorithm::try_from(hash.algorithm.as_str()) != Ok(Algorithm::Argon2id) {
            return refused("it is not made by Argon2id");
        }
        if hash.version != Some(Version::V0x13.into()) {
            return refused("it is not made by version 19 of Argon2");
        }
        let Ok(params) = Params::try_from(&hash) else {
            return refused("its parameters are not those of Argon2id");
        };
        if params.m_cost() > limits::PASSWORD_MEMORY_KIB_MAX
            || params.t_cost() > limits::PASSWORD_PASSES_MAX
            || params.p_cost() > limits::PASSWORD_LANES_MAX
        {
            return refused(&format!(
                "each check of it would cost too much (at most m={}, t={}, p={})",
                limits::PASSWORD_MEMORY_KIB_MAX,
                limits::PASSWORD_PASSES_MAX,
                limits::PASSWORD_LANES_MAX
            ));
        }
        match (&hash.salt, &hash.hash) {
            (Some(_), Some(output)) if output.len() >= HASH_BYTES_MIN => Ok(Self(hash)),
            _ => refused("it has no salt or is too short"),
        }
    }

    /// Whether it is the hash of this password. It takes as long as making it; see [`hash_password`].
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for a password that is too long for any user, and
    /// [`BusError::Overloaded`] if there is no memory for the check.
    pub fn matches(&self, password: &Secret) -> BusResult<bool> {
        check_length(password)?;
        match Argon2::default().verify_password(password.reveal().as_bytes(), &self.0) {
            Ok(()) => Ok(true),
            Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
            Err(error) => Err(failed(&error)),
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PasswordHash(..)")
    }
}

/// Checks passwords on threads of their own, a few at once.
///
/// A check costs memory and time by design. So that strangers who try passwords cannot take all of either,
/// at most so many run at once; others wait for a bounded time and then fail.
#[derive(Debug, Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    wait: Duration,
}

impl Default for Passwords {
    /// [`PASSWORD_CHECKS`](limits::PASSWORD_CHECKS) at once, waiting for
    /// [`PASSWORD_WAIT`](limits::PASSWORD_WAIT).
    fn default() -> Self {
        Self::new(limits::PASSWORD_CHECKS, limits::PASSWORD_WAIT)
    }
}

impl Passwords {
    /// Lets so many checks run at once (one at least), and others wait as long.
    #[must_use]
    pub fn new(at_once: usize, wait: Duration) -> Self {
        Self { turns: Arc::new(Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS))), wait }
    }

    /// Whether `hash` is the hash of `password`.
    ///
    /// # Errors
    /// [`BusError::Overloaded`] when no check ended in time to make room for this one, or there is no memory
    /// for it; [`BusError::InvalidSettings`] for a password that is too long for any user.
    ///
    /// # Cancel safety
    /// A check that has begun goes on when the future is dropped, and keeps its turn until it ends: whoever
    /// hangs up does not make room for more of them.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn check(&self, hash: Arc<PasswordHash>, password: Secret) -> BusResult<bool> {
        check_length(&password)?;
        let turn = tokio::time::timeout(self.wait, Arc::clone(&self.turns).acquire_owned());
        let Ok(Ok(turn)) = turn.await else {
            return Err(BusError::Overloaded { what: "too many passwords are being checked".into() });
        };
        let checked = tokio::task::spawn_blocking(move || {
            let matches = hash.matches(&password);
            drop(turn);
            matches
        });
        checked.await.unwrap_or_else(|_| {
            Err(BusError::Overloaded { what: "the check of a password was not finished".into() })
        })
    }

    /// How many more could begin at once.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.turns.available_permits()
    }
}

fn check_length(password: &Secret) -> BusResult<()> {
    let (bytes, limit) = (password.reveal().len(), limits::PASSWORD_BYTES);
    if bytes > limit {
        return Err(invalid(format!("the password has {bytes} bytes, more than the limit of {limit}")));
    }
    Ok(())
}

fn failed(error: &dyn fmt::Display) -> BusError {
    BusError::Overloaded { what: format!("the password could not be hashed: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash that takes next to nothing, of `password`.
    fn cheap(password: &str) -> String {
        let params = Params::new(8, 1, 1, None).unwrap();
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        hasher.hash_password_with_salt(password.as_bytes(), b"sixteen bytes...").unwrap().to_string()
    }

    #[test]
    fn a_hashed_password_matches_itself_and_no_other() {
        let password = Secret::new("correct horse");
        let (one, two) = (hash_password(&password).unwrap(), hash_password(&password).unwrap());
        assert_ne!(one, two, "each has a salt of its own");
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        let hash = PasswordHash::parse(&one).unwrap();
        assert!(hash.matches(&password).unwrap());
        assert!(!hash.matches(&Secret::new("correct horsf")).unwrap());
        assert_eq!(format!("{hash:?}"), "PasswordHash(..)");
    }

    #[test]
    fn a_password_that_is_too_short_or_too_long_is_refused_before_it_costs_anything() {
        for password in ["", "seven77", &"a".repeat(limits::PASSWORD_BYTES + 1)] {
            let refused = hash_password(&Secret::new(password));
            assert!(matches!(refused, Err(BusError::InvalidSettings(_))), "{refused:?}");
        }
        let hash = PasswordHash::parse(&cheap("long enough")).unwrap();
        let long = Secret::new("a".repeat(limits::PASSWORD_BYTES + 1));
        assert!(matches!(hash.matches(&long), Err(BusError::InvalidSettings(_))));
    }

    #[test]
    fn a_hash_that_is_not_argon2id_or_would_cost_too_much_is_refused_when_it_is_loaded() {
        let good = cheap("password");
        assert!(PasswordHash::parse(&good).is_ok());
        for (from, to, why) in [
            ("$argon2id$", "$argon2i$", "Argon2id"),
            ("$argon2id$", "$scrypt$", "Argon2id"),
            ("v=19", "v=16", "version 19"),
            ("$v=19$", "$", "version 19"),
            ("m=8,", "m=4294967295,", "too much"),
            ("m=8,", "m=131073,", "too much"),
            ("t=1,", "t=4000000000,", "too much"),
            ("m=8,t=1,p=1", "m=1024,t=1,p=17", "too much"),
            ("m=8,", "m=7,", "parameters"),
            ("m=8,", "m=99999999999999999999,", "parameters"),
        ] {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good);
            let error = PasswordHash::parse(&text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains("sixteen"), "{error}");
        }
        let (without_hash, _) = good.rsplit_once('$').unwrap();
        let short = format!("{without_hash}$AAAAAAAAAAAAAAAA");
        for text in ["", "password", "$", without_hash, &short] {
            assert!(PasswordHash::parse(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_check_runs_beside_the_tasks_and_tells_right_from_wrong() {
        let passwords = Passwords::default();
        let hash = Arc::new(PasswordHash::parse(&cheap("right")).unwrap());
        assert!(passwords.check(Arc::clone(&hash), Secret::new("right")).await.unwrap());
        assert!(!passwords.check(hash, Secret::new("wrong")).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_finds_all_turns_taken_waits_and_then_is_told_of_the_overload() {
        let passwords = Passwords::new(1, Duration::from_secs(2));
        let hash = Arc::new(PasswordHash::parse(&cheap("right")).unwrap());
        let taken = Arc::clone(&passwords.turns).acquire_owned().await.unwrap();
        let start = tokio::time::Instant::now();
        let refused = passwords.check(Arc::clone(&hash), Secret::new("right")).await;
        assert!(matches!(refused, Err(BusError::Overloaded { .. })), "{refused:?}");
        assert_eq!(start.elapsed(), Duration::from_secs(2));
        drop(taken);
        assert!(passwords.check(hash, Secret::new("right")).await.unwrap());
    }

    #[tokio::test]
    async fn a_check_that_nobody_waits_for_keeps_its_turn_until_it_ends() {
        let passwords = Passwords::new(1, Duration::from_secs(60));
        let slow = hash_password(&Secret::new("long enough")).unwrap();
        let slow = Arc::new(PasswordHash::parse(&slow).unwrap());
        {
            let mut check = std::pin::pin!(passwords.check(slow, Secret::new("long enough")));
            let begun = std::future::poll_fn(|context| {
                let _ = check.as_mut().poll(context);
                std::task::Poll::Ready(passwords.free())
            });
            assert_eq!(begun.await, 0);
        }
        let next = Arc::new(PasswordHash::parse(&cheap("next one")).unwrap());
        assert!(passwords.check(next, Secret::new("next one")).await.unwrap());
        assert_eq!(passwords.free(), 1);
    }
}
