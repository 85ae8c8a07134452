//! Handing keys over: whose grants a keyring takes, and what it grants itself.

use std::sync::Arc;

use super::fingerprint::Fingerprint;
use super::grant::{Grant, Terms};
use super::handing::{GrantEntry, Granted, Pin};
use super::identity::{Identity, PublicIdentity};
use super::key::{Key, KeyId};
use super::key_file::check_size;
use super::keyring::{Keyring, put};
use super::refusal::{GrantError, topics};
use super::scope::State;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::topic::TopicPattern;

/// What a grant is for, beyond the defaults.
///
/// # Examples
/// ```
/// use whispeer::engine::encryption::GrantOptions;
///
/// let options = GrantOptions::new().topics("board/**").retire_older();
/// ```
#[derive(Debug, Clone, Default)]
pub struct GrantOptions {
    topics: Option<String>,
    retires: bool,
    above: u64,
}

impl GrantOptions {
    /// A grant of the key for all topics that no pattern is for; older keys go on opening what arrives.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A grant of the key for the topics of this pattern.
    #[must_use]
    pub fn topics(mut self, pattern: &str) -> Self {
        self.topics = Some(pattern.to_owned());
        self
    }

    /// Has all other keys of these topics retired, by the granter at once and by each member when he takes the grant. So
    /// nobody who has only those can send any more; and what was sent with them before and comes late does not open.
    #[must_use]
    pub fn retire_older(mut self) -> Self {
        self.retires = true;
        self
    }

    /// Numbers the grant higher than this. It is for a granter whose keyring does not know what was granted before,
    /// because it was lost or another one granted: members tell the number as [`GrantError::RolledBack`] and
    /// [`Keyring::grants`] do.
    #[must_use]
    pub fn above(mut self, generation: u64) -> Self {
        self.above = generation;
        self
    }

    fn pattern(&self) -> BusResult<Option<TopicPattern>> {
        Ok(self.topics.as_deref().map(TopicPattern::new).transpose()?)
    }
}

/// A grant that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accepted {
    /// The topics that it is for; `None` for all that no pattern is for.
    pub pattern: Option<TopicPattern>,
    /// The key that encrypts what is sent there from now on.
    pub key: KeyId,
    /// Its number among all for these topics.
    pub generation: u64,
    /// Who has granted it.
    pub granter: PublicIdentity,
    /// Whether the keyring encrypts with another key than before. Not so if the grant was taken before, or is of the same
    /// key as the last one, for others to get it.
    pub is_new: bool,
    /// Older keys that have been retired, as the grant asks.
    pub retired: Vec<KeyId>,
}

impl Keyring {
    /// Lets this identity hand out the keys of a pattern's topics and of all narrower patterns; with `None`, of all topics.
    ///
    /// Be sure that the identity is the right one: compare its [fingerprint](PublicIdentity::fingerprint) by a way that
    /// nobody in between can change. Several may be pinned for the same topics, and then each may.
    ///
    /// # Errors
    /// [`BusError::InvalidTopic`] for a pattern that is none, [`BusError::InvalidSettings`] for one of the bus's own topics, and
    /// [`BusError::LimitReached`] for more than [`limits::KEYRING_PINS`].
    pub fn pin(&self, pattern: Option<&str>, granter: &PublicIdentity) -> BusResult<()> {
        let pattern = pattern.map(TopicPattern::new).transpose()?;
        self.change(|state| {
            state.handing.pin(Pin { pattern, granter: *granter })?;
            check_size(state)
        })
    }

    /// Takes back what [`pin`](Self::pin) has let this identity do for exactly this pattern. Keys that it has handed out
    /// stay, and so does the number of the last grant, below which none is taken.
    ///
    /// # Errors
    /// [`BusError::InvalidTopic`] for a pattern that is none, and [`BusError::InvalidSettings`] if it is not pinned for it.
    pub fn unpin(&self, pattern: Option<&str>, granter: &Fingerprint) -> BusResult<()> {
        let pattern = pattern.map(TopicPattern::new).transpose()?;
        self.change(|state| state.handing.unpin(pattern.as_ref(), granter))
    }

    /// Lets go of a pattern that has no keys any more, and of what was granted for it. Its topics fall to wider patterns
    /// then, and to the keys for all topics.
    ///
    /// # Errors
    /// [`BusError::InvalidTopic`] for a pattern that is none, and [`BusError::InvalidSettings`] if the keyring does not have it,
    /// has keys for it, or somebody is pinned who could bring back an old grant for it.
    pub fn forget(&self, pattern: &str) -> BusResult<()> {
        let pattern = TopicPattern::new(pattern)?;
        let refused = |what: &str| Err(BusError::InvalidSettings(format!("\"{pattern}\" {what}")));
        self.change(|state| {
            let scope = state.scopes().iter().find(|scope| scope.pattern.as_ref() == Some(&pattern));
            let is_granted = state.handing.last(Some(&pattern)).is_some();
            if scope.is_none() && !is_granted {
                return refused("is not in the keyring");
            }
            if scope.is_some_and(|scope| !scope.keys.is_empty()) {
                return refused("has keys; retire them first");
            }
            if is_granted && state.handing.pins().iter().any(|pin| pin.covers(Some(&pattern))) {
                return refused("may be granted again by who is pinned for it; unpin that one first");
            }
            state.forget_pattern(&pattern);
            state.handing.forget(&pattern);
            Ok(())
        })
    }

    /// Those whose grants are taken.
    #[must_use]
    pub fn pins(&self) -> Vec<Pin> {
        self.state().handing.pins().to_vec()
    }

    /// The last grants that were taken or made, one for each pattern that there were any for.
    #[must_use]
    pub fn grants(&self) -> Vec<GrantEntry> {
        let state = self.state();
        let entry = |granted: &Granted| GrantEntry {
            pattern: granted.pattern.clone(),
            generation: granted.generation,
            key: granted.key,
            members: granted.members.clone(),
        };
        state.handing.granted().iter().map(entry).collect()
    }

    /// Takes a grant: its key encrypts what is sent to its topics from now on, and the one before goes on opening what
    /// arrives, unless the grant has it retired. It does not matter by whom or how the grant was brought here.
    ///
    /// Its granter has to be [pinned](Self::pin) for its topics, it has to name `member`, and it must not be older than the
    /// last one that was taken. A grant that was taken before is no error. Store the keyring afterwards, so that an old
    /// grant is told as such also after a restart.
    ///
    /// # Errors
    /// A [`GrantError`] for each reason not to take it. The keyring is as it was then.
    ///
    /// # Examples
    /// ```
    /// use whispeer::engine::encryption::{GrantError, GrantOptions, Identity, Key, Keyring};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (alice, bob) = (Identity::generate()?, Identity::generate()?);
    /// let granting = Keyring::new();
    /// let key = granting.rotate_for("board/**", Key::generate()?)?;
    /// let grant = granting.grant(&alice, &[*bob.public()], &GrantOptions::new().topics("board/**"))?;
    ///
    /// let keyring = Keyring::new();
    /// let refused = keyring.accept(&bob, &grant);
    /// assert!(matches!(refused, Err(GrantError::NotPinned { .. })));
    /// keyring.pin(Some("board/**"), alice.public())?;
    /// assert_eq!(keyring.accept(&bob, &grant)?.key, key);
    /// # Ok(())
    /// # }
    /// ```
    pub fn accept(&self, member: &Identity, grant: &[u8]) -> Result<Accepted, GrantError> {
        let grant = Grant::parse(grant)?;
        let terms = &grant.terms;
        // What costs most comes last, and before others are kept from changing the keyring.
        let granter = pinned(&self.state(), &grant)?;
        if !grant.is_signed() {
            return Err(GrantError::Forged { granter: granter.fingerprint() });
        }
        let fingerprint = member.public().fingerprint();
        let sealed = grant.sealed_for(fingerprint).ok_or_else(|| GrantError::NotARecipient {
            member: fingerprint,
            pattern: terms.pattern.clone(),
        })?;
        let accepted = |is_new, retired| Accepted {
            pattern: terms.pattern.clone(),
            key: terms.key,
            generation: terms.generation,
            granter,
            is_new,
            retired,
        };
        if !is_next(&self.state(), terms)? {
            return Ok(accepted(false, Vec::new()));
        }
        let key = Arc::new(grant.open(member, sealed)?);
        self.change(|state| {
            // Somebody may have changed it meanwhile.
            pinned(state, &grant)?;
            if !is_next(state, terms)? {
                return Ok(accepted(false, Vec::new()));
            }
            let before = state.sending(terms.pattern.as_ref()).map(|(id, _)| id);
            let unusable = |error: BusError| GrantError::Unusable { reason: error.to_string() };
            put(state, terms.pattern.as_ref(), (terms.key, key), true).map_err(unusable)?;
            let granted = Granted::after(state.handing.last(terms.pattern.as_ref()), terms);
            state.handing.put(granted).map_err(unusable)?;
            check_size(state).map_err(unusable)?;
            let retired = match terms.retires {
                true => state.retire_others(terms.pattern.as_ref(), terms.key),
                false => Vec::new(),
            };
            Ok(accepted(before != Some(terms.key), retired))
        })
    }

    /// Makes a grant of the key that encrypts what is sent to the topics of `options`, for these members and all whom it was
    /// granted to before; the keyring remembers them. After [`rotate`](Self::rotate) it is made anew, also without
    /// further members.
    ///
    /// Store the keyring before the grant leaves, so that no number is given twice. The grant holds nothing secret for
    /// anybody else; what it shows is in docs/PROTOCOL.md. It can be published, and stored where members find it.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] if there is no such key, or nobody to grant it to; [`BusError::InvalidTopic`] for a
    /// pattern that is none; [`BusError::LimitReached`] for more than [`limits::GRANT_RECIPIENTS`] members of these topics or
    /// [`limits::KEYRING_MEMBERS`] in all, or at the end of [numbers](limits::GRANT_GENERATION_MAX).
    pub fn grant(
        &self,
        granter: &Identity,
        members: &[PublicIdentity],
        options: &GrantOptions,
    ) -> BusResult<Vec<u8>> {
        let pattern = options.pattern()?;
        self.change(|state| {
            let mut all = members_of(state, pattern.as_ref());
            all.extend_from_slice(members);
            if all.is_empty() {
                let topics = topics(pattern.as_ref());
                let what = format!("nobody has been granted the key of {topics}; say to whom");
                return Err(BusError::InvalidSettings(what));
            }
            hand_out(state, granter, (pattern.as_ref(), all), options)
        })
    }

    /// Removes a member: draws a new key for the topics of `options`, and makes a grant of it for all other members. What is
    /// published from then on by whoever has taken that grant, the removed one cannot read.
    ///
    /// The others go on reading what is encrypted with the key before, which the removed one still has, until it is
    /// retired: [`GrantOptions::retire_older`] has that done at once. Keys of other patterns are not touched.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] if nobody of this fingerprint is a member, and as [`grant`](Self::grant) and
    /// [`rotate`](Self::rotate).
    pub fn revoke(
        &self,
        granter: &Identity,
        member: &Fingerprint,
        options: &GrantOptions,
    ) -> BusResult<Vec<u8>> {
        let pattern = options.pattern()?;
        let key = Key::generate()?;
        self.change(|state| {
            let mut left = members_of(state, pattern.as_ref());
            let before = left.len();
            left.retain(|other| other.fingerprint() != *member);
            if left.len() == before {
                let topics = topics(pattern.as_ref());
                let what =
                    format!("{member} has not been granted the key of {topics}, so it cannot be revoked");
                return Err(BusError::InvalidSettings(what));
            }
            put(state, pattern.as_ref(), (key.id(), Arc::new(key)), true)?;
            hand_out(state, granter, (pattern.as_ref(), left), options)
        })
    }
}

/// The granter, if he may hand out keys of these topics.
fn pinned(state: &State, grant: &Grant<'_>) -> Result<PublicIdentity, GrantError> {
    let pattern = grant.terms.pattern.as_ref();
    state.handing.granter(&grant.granter, pattern).ok_or_else(|| GrantError::NotPinned {
        granter: Fingerprint::of(&grant.granter),
        pattern: pattern.cloned(),
    })
}

/// Whether a grant comes after the last one, whose key has to be there still if it is that.
fn is_next(state: &State, terms: &Terms) -> Result<bool, GrantError> {
    let is_next = state.handing.is_next(terms)?;
    if state.is_retired(terms.key) || (!is_next && !state.has(terms.key)) {
        return Err(GrantError::Retired { key: terms.key });
    }
    Ok(is_next)
}

fn members_of(state: &State, pattern: Option<&TopicPattern>) -> Vec<PublicIdentity> {
    state.handing.last(pattern).map(|last| last.members.clone()).unwrap_or_default()
}

/// Makes the next grant of the key that encrypts, and puts it down.
fn hand_out(
    state: &mut State,
    granter: &Identity,
    (pattern, members): (Option<&TopicPattern>, Vec<PublicIdentity>),
    options: &GrantOptions,
) -> BusResult<Vec<u8>> {
    let Some((id, key)) = state.sending(pattern) else {
        let what =
            format!("the keyring has no key to send with for exactly {}; rotate first", topics(pattern));
        return Err(BusError::InvalidSettings(what));
    };
    let last = state.handing.last(pattern);
    let before = last.map_or(0, |last| last.generation);
    if options.above.saturating_sub(before) >= limits::GRANT_LEAP {
        let what = format!(
            "grants for {} are numbered at most {} above the last one, which is {before} here; nobody would take it",
            topics(pattern),
            limits::GRANT_LEAP
        );
        return Err(BusError::InvalidSettings(what));
    }
    let highest = before.max(options.above);
    let generation = match highest.checked_add(1) {
        Some(generation) if generation <= limits::GRANT_GENERATION_MAX => generation,
        _ => {
            let what = format!("the grants for {} have no further numbers", topics(pattern));
            return Err(BusError::LimitReached { what });
        }
    };
    let mut terms = Terms { pattern: pattern.cloned(), key: id, generation, retires: options.retires };
    let granted = Granted { members, ..Granted::after(last, &terms) };
    terms.retires = granted.retires;
    state.handing.put(granted)?;
    check_size(state)?;
    if terms.retires {
        state.retire_others(pattern, id);
    }
    let recipients = members_of(state, pattern);
    terms.grant(granter, &key, &recipients)
}
