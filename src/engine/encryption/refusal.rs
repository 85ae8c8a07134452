//! Why a grant is not taken.

use thiserror::Error;

use super::fingerprint::Fingerprint;
use super::key::KeyId;
use crate::topic::TopicPattern;

/// Why [`Keyring::accept`](super::Keyring::accept) has not taken a grant. The keyring is as it was.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GrantError {
    /// It is no grant, or a damaged one.
    #[error("this is no grant that can be read: {what}; ask for it once more")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// It is of a later version.
    #[error("the grant is of version {version}, and this program knows version 1; use a later release")]
    UnknownVersion {
        /// The version that it has.
        version: u8,
    },
    /// It has more bytes than any grant. It was not looked at.
    #[error("a grant has at most {limit} bytes, and this has {size}; it is something else")]
    TooLarge {
        /// Bytes that it has.
        size: usize,
        /// [`GRANT_BYTES`](crate::limits::GRANT_BYTES).
        limit: usize,
    },
    /// It has more recipients than a grant may have.
    #[error("a grant has at most {limit} recipients, and this has {count}; its granter has to make several")]
    TooManyRecipients {
        /// Recipients that it says to have.
        count: usize,
        /// [`GRANT_RECIPIENTS`](crate::limits::GRANT_RECIPIENTS).
        limit: usize,
    },
    /// Whoever it is from has not been pinned for these topics.
    #[error(
        "the grant for {} is from {granter}, who is not pinned for these topics; pin that identity if its owner may \
         hand out their keys", topics(.pattern.as_ref())
    )]
    NotPinned {
        /// Who it says to be from.
        granter: Fingerprint,
        /// The topics that it is for; `None` for all that no pattern is for.
        pattern: Option<TopicPattern>,
    },
    /// It is not what its granter has signed.
    #[error(
        "the grant is not what {granter} has signed: somebody has changed it, or made it; ask for it once more, by \
         another way"
    )]
    Forged {
        /// Who it says to be from.
        granter: Fingerprint,
    },
    /// It is for others.
    #[error(
        "the grant for {} is not for {member}; its granter has not made this identity a member, or has removed it", topics(.pattern.as_ref())
    )]
    NotARecipient {
        /// Who has tried to take it.
        member: Fingerprint,
        /// The topics that it is for; `None` for all that no pattern is for.
        pattern: Option<TopicPattern>,
    },
    /// It is older than one that was taken before.
    #[error(
        "the grant for {} is number {generation}, and number {last} was taken before: somebody has sent an old one \
         again; take the newest", topics(.pattern.as_ref())
    )]
    RolledBack {
        /// Its generation.
        generation: u64,
        /// The last one that was taken.
        last: u64,
        /// The topics that it is for; `None` for all that no pattern is for.
        pattern: Option<TopicPattern>,
    },
    /// It is numbered so high above the last one that nobody has granted that often: there would soon be no numbers left.
    #[error(
        "the grant for {} is number {generation}, and the last was number {last}: at most {} more are taken at a time; \
         have its granter grant with a lower number", topics(.pattern.as_ref()), crate::limits::GRANT_LEAP
    )]
    TooFarAhead {
        /// Its generation.
        generation: u64,
        /// The last one that was taken; 0 if there was none.
        last: u64,
        /// The topics that it is for; `None` for all that no pattern is for.
        pattern: Option<TopicPattern>,
    },
    /// There was one of the same generation with another key, or that has other keys retired: two have handed out keys
    /// without knowing of each other.
    #[error(
        "the grant for {} is number {generation} with key {key}, and another number {generation} had key {taken}: two \
         granters have not known of each other; have one of them grant again, above that number",
        topics(.pattern.as_ref())
    )]
    Conflict {
        /// The generation of both.
        generation: u64,
        /// The key of this one.
        key: KeyId,
        /// The key of the one that was taken.
        taken: KeyId,
        /// The topics that they are for; `None` for all that no pattern is for.
        pattern: Option<TopicPattern>,
    },
    /// What is in it for this identity cannot be opened, although its granter has signed it.
    #[error(
        "what is in the grant for this identity cannot be opened with it; tell its granter, whose program is at fault"
    )]
    Unopened,
    /// What is in it for this identity is another key than it says.
    #[error(
        "the grant says to be of key {stated}, and holds {sealed}; tell its granter, whose program is at fault"
    )]
    WrongKey {
        /// The key that it says to be of.
        stated: KeyId,
        /// The key that is in it.
        sealed: KeyId,
    },
    /// Its key has been retired in this keyring.
    #[error(
        "the grant is of key {key}, which has been retired here; have its granter rotate and grant again"
    )]
    Retired {
        /// The key.
        key: KeyId,
    },
    /// The keyring cannot take its key: it is full, or has that key for other topics.
    #[error("the key of the grant cannot be taken: {reason}")]
    Unusable {
        /// What the keyring says.
        reason: String,
    },
}

/// Topics as an error names them.
pub(super) fn topics(pattern: Option<&TopicPattern>) -> String {
    pattern.map_or_else(|| "all topics that no pattern is for".to_owned(), |pattern| format!("\"{pattern}\""))
}
