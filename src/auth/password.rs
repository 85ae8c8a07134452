//! Passwords, hashed with Argon2id.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use tokio::time::Instant;

use super::guesses::Guesses;
use super::settings::invalid;
use super::source::Source;
use super::turns::{NoTurn, Part, Turns};
use super::{Principal, Secret};
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

/// Checks passwords on threads of their own, a few at once, and slows down who guesses.
///
/// A check costs memory and time by design. So that strangers who try passwords cannot take all of either,
/// at most so many run at once; others wait for a bounded time and then fail. One source, which is an address, a /64
/// of IPv6, a user of this host or whoever has a certificate, has half of the turns at the most.
///
/// After a few wrong passwords from one source, or for one name, the next is looked at only after some time;
/// `docs/AUTHENTICATION.md` says how long. Clones share all of this.
#[derive(Debug, Clone)]
pub struct Passwords {
    turns: Arc<Turns>,
    guesses: Arc<Mutex<Guesses>>,
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
        let at_once = at_once.max(1);
        let turns = Part { all: at_once, of_one: at_once.div_ceil(2) };
        let places = Part { all: limits::PASSWORD_PLACES, of_one: limits::PASSWORD_PLACES_OF_A_SOURCE };
        Self { turns: Turns::new(turns, places), guesses: Arc::default(), wait }
    }

    /// Whether `hash` is the hash of `password`, which `peer` shows as that of the user `name`; where `is_theirs` is
    /// false, the hash is another's, and the answer means nothing.
    ///
    /// # Errors
    /// [`BusError::Overloaded`] when no check ended in time to make room for this one, there is no memory
    /// for it, or too many were wrong lately; [`BusError::InvalidSettings`] for a password that is too long for
    /// any user.
    ///
    /// # Cancel safety
    /// A check that has begun goes on when the future is dropped, keeps its turn until it ends, and counts: whoever
    /// hangs up does not make room for more of them.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub(super) async fn check(
        &self,
        peer: &Principal,
        name: &str,
        hash: Arc<PasswordHash>,
        is_theirs: bool,
        password: Secret,
    ) -> BusResult<bool> {
        check_length(&password)?;
        let source = Source::of(peer);
        self.look_at(&source, name)?;
        let turn = self.turns.take(&source, self.wait).await.map_err(|why| BusError::Overloaded {
            what: match why {
                NoTurn::Full => "too many passwords wait to be checked".into(),
                NoTurn::TimedOut => "too many passwords are being checked".into(),
            },
        })?;
        // Those that were checked meanwhile count as well, so that nobody gets more of them by trying many at once.
        self.look_at(&source, name)?;
        let (guesses, name) = (Arc::clone(&self.guesses), name.to_owned());
        let checked = tokio::task::spawn_blocking(move || {
            let matches = hash.matches(&password)?;
            lock(&guesses).note(&source, &name, matches && is_theirs, Instant::now());
            drop(turn);
            Ok(matches)
        });
        checked.await.unwrap_or_else(|_| {
            Err(BusError::Overloaded { what: "the check of a password was not finished".into() })
        })
    }

    /// # Errors
    /// [`BusError::Overloaded`] that says how long to wait, where too many were wrong lately.
    fn look_at(&self, source: &Source, name: &str) -> BusResult<()> {
        let left = lock(&self.guesses).left(source, name, Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let seconds = left.as_millis().div_ceil(1000);
        let what = format!("too many passwords were wrong, the next is looked at in {seconds} s");
        Err(BusError::Overloaded { what })
    }

    /// How many more could begin at once.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.turns.free()
    }
}

fn lock(guesses: &Mutex<Guesses>) -> MutexGuard<'_, Guesses> {
    guesses.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn at(last: u8) -> Principal {
        Principal::Network { address: ([192, 0, 2, last], 4242).into() }
    }

    impl Passwords {
        /// A check of what alice is said to have shown.
        async fn of_alice(
            &self,
            peer: &Principal,
            hash: &Arc<PasswordHash>,
            password: &str,
        ) -> BusResult<bool> {
            self.check(peer, "alice", Arc::clone(hash), true, Secret::new(password)).await
        }
    }

    fn overloaded(refused: BusResult<bool>) -> String {
        match refused {
            Err(BusError::Overloaded { what }) => what,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_check_runs_beside_the_tasks_and_tells_right_from_wrong() {
        let passwords = Passwords::default();
        let hash = Arc::new(PasswordHash::parse(&cheap("right")).unwrap());
        assert!(passwords.of_alice(&at(1), &hash, "right").await.unwrap());
        assert!(!passwords.of_alice(&at(1), &hash, "wrong").await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_finds_all_turns_taken_waits_and_then_is_told_of_the_overload() {
        let passwords = Passwords::new(1, Duration::from_secs(2));
        let hash = Arc::new(PasswordHash::parse(&cheap("right")).unwrap());
        let taken = passwords.turns.take(&Source::of(&at(1)), Duration::ZERO).await.unwrap();
        let start = Instant::now();
        overloaded(passwords.of_alice(&at(2), &hash, "right").await);
        assert_eq!(start.elapsed(), Duration::from_secs(2));
        drop(taken);
        assert!(passwords.of_alice(&at(2), &hash, "right").await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_nobody_waits_for_keeps_its_turn_until_it_ends_and_counts() {
        let passwords = Passwords::new(1, Duration::from_secs(60));
        let slow = hash_password(&Secret::new("long enough")).unwrap();
        let slow = Arc::new(PasswordHash::parse(&slow).unwrap());
        let cheap = Arc::new(PasswordHash::parse(&cheap("next one")).unwrap());
        for _ in 0..=limits::GUESSES_OF_A_SOURCE {
            let peer = at(1);
            let mut check = std::pin::pin!(passwords.of_alice(&peer, &slow, "wrong"));
            let begun = std::future::poll_fn(|context| {
                let _ = check.as_mut().poll(context);
                std::task::Poll::Ready(passwords.free())
            });
            assert_eq!(begun.await, 0);
            // Another one's turn comes when that has ended.
            assert!(passwords.of_alice(&at(2), &cheap, "next one").await.unwrap());
        }
        assert_eq!(passwords.free(), 1);
        let told = overloaded(passwords.of_alice(&at(1), &cheap, "next one").await);
        assert!(told.contains("looked at in 1 s"), "{told}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_guesses_is_told_to_wait_whatever_he_shows_then() {
        let passwords = Passwords::default();
        let hash = Arc::new(PasswordHash::parse(&cheap("right")).unwrap());
        for _ in 0..=limits::GUESSES_OF_A_SOURCE {
            assert!(!passwords.of_alice(&at(1), &hash, "wrong").await.unwrap());
        }
        let told = overloaded(passwords.of_alice(&at(1), &hash, "right").await);
        assert!(told.contains("looked at in 1 s"), "{told}");
        assert!(passwords.of_alice(&at(2), &hash, "right").await.unwrap());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(passwords.of_alice(&at(1), &hash, "right").await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_there_is_not_is_treated_as_one_that_there_is() {
        let hash = Arc::new(PasswordHash::parse(&cheap("right")).unwrap());
        let mut told = Vec::new();
        for is_theirs in [true, false] {
            let passwords = Passwords::default();
            let mut said = Vec::new();
            for tried in 0..30u8 {
                // From elsewhere each time, so that the name counts. Another's password is none of this name.
                let shown = Secret::new(if is_theirs { "wrong" } else { "right" });
                let outcome = passwords.check(&at(tried), "alice", Arc::clone(&hash), is_theirs, shown).await;
                said.push(outcome.map(|matches| matches && is_theirs).map_err(|error| error.to_string()));
                tokio::time::advance(Duration::from_millis(1500)).await;
            }
            told.push(said);
        }
        assert_eq!(told[0], told[1]);
        assert!(told[0].iter().any(Result::is_err));
    }

    #[tokio::test(start_paused = true)]
    async fn many_tries_at_once_are_no_more_than_few_one_after_the_other() {
        let passwords = Passwords::default();
        let hash = Arc::new(PasswordHash::parse(&cheap("right")).unwrap());
        let mut tries = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (passwords, hash) = (passwords.clone(), Arc::clone(&hash));
            tries.spawn(async move { passwords.of_alice(&at(1), &hash, "wrong").await });
        }
        let tried = tries.join_all().await;
        let looked_at = tried.iter().filter(|outcome| outcome.is_ok()).count();
        let most = limits::GUESSES_OF_A_SOURCE as usize + 1 + limits::PASSWORD_CHECKS.div_ceil(2);
        assert!(looked_at <= most, "{looked_at}");
    }
}
