//! What goes wrong with engines.

use thiserror::Error;

/// Why a payload was not sealed, or not opened: see [`BusError::Engine`](super::BusError::Engine).
///
/// Keys and signers are named by what is public about them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// No rule says which engines are for all that a published pattern can match.
    #[error(
        "no rule covers all that it can match: topics of \"{met}\" need what the rule for it does not have; publish to \
         fewer topics at a time, or add a rule that covers all of them"
    )]
    NoRule {
        /// The pattern of the rule that it meets and that asks for more.
        met: String,
    },
    /// It came without what is required for its topic, such as encryption.
    #[error("it came without {engine}, which is required here; its sender needs the same engines")]
    Missing {
        /// What is required, by its name.
        engine: String,
    },
    /// It was sealed by an engine that this client does not have.
    #[error("it was sealed by engine {id}{name}, which this client does not have", name = known(*.id))]
    UnknownEngine {
        /// The id in the envelope.
        id: u8,
    },
    /// Its envelope is of a later version.
    #[error("its envelope is of version {version}, and this client knows version 1")]
    UnknownVersion {
        /// The version in the envelope.
        version: u8,
    },
    /// What is in the envelope is not what the engine makes.
    #[error("it is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// It would be larger than is allowed once it is opened. No more than that was unpacked.
    #[error("it would have more than {limit} bytes when it is opened")]
    TooLarge {
        /// Bytes that are allowed.
        limit: usize,
    },
    /// It was compressed with a dictionary that this client does not have.
    #[error("it was compressed with dictionary {id}, which this client does not have")]
    UnknownDictionary {
        /// The id of the dictionary.
        id: u32,
    },
    /// There is no key to encrypt with for this topic.
    #[error("the keyring has no key to encrypt with for it; add one for its topic")]
    NoKey,
    /// It goes to a pattern of whose topics some have keys of their own, so that no key is for all of them.
    #[error(
        "no key is for all topics that it may be for: those of \"{narrower}\" have keys of their own; publish to fewer \
         topics at a time"
    )]
    SeveralKeys {
        /// The narrower pattern that has keys of its own.
        narrower: String,
    },
    /// It is encrypted with a key that this client does not have.
    #[error(
        "it is encrypted with key {key}, which is not in the keyring; ask its sender's group for that key"
    )]
    UnknownKey {
        /// The key's id.
        key: String,
    },
    /// It is encrypted with a key that is not in use any more.
    #[error("it is encrypted with key {key}, which has been retired")]
    RetiredKey {
        /// The key's id.
        key: String,
    },
    /// It is encrypted with a key that is for other topics.
    #[error("it is encrypted with key {key}, which is not for this topic")]
    KeyOutOfScope {
        /// The key's id.
        key: String,
    },
    /// It came where nothing of its topic is due: to a subscription or serving of other topics, or as an answer to another
    /// request. The bus has mixed it up, or means to.
    #[error(
        "it came to a subscription, serving or request of other topics: whoever carries it has mixed it up, or means to"
    )]
    Misrouted,
    /// It is not what was encrypted: it was changed, or moved here from another topic, request or place.
    #[error("it is not what was encrypted for this topic and place")]
    Forged,
    /// It has come before, or so long after others of its sender that nobody can tell.
    #[error("it has come before, or too long after others of its sender: number {sequence}")]
    Replayed {
        /// Its number among all of its sender.
        sequence: u64,
    },
    /// It was sealed too long ago, or its sender's clock and this one's are too far apart.
    #[error(
        "by the clocks it was sealed {seconds} s away from now, and no more than {allowed} s are allowed; if it is new, \
         set the clocks of both hosts"
    )]
    Stale {
        /// Seconds between then and now.
        seconds: u64,
        /// Seconds that are allowed.
        allowed: u64,
    },
    /// It does not say when it was sealed, and has to.
    #[error("it does not say when it was sealed, and has to; its sender needs `fresh_within`, too")]
    NotDated,
    /// The engine has encrypted as much as it may; a new one is needed.
    #[error("this engine has encrypted as many messages as it may; make a new one")]
    Exhausted,
    /// It is not signed, and has to be.
    #[error("it is not signed, and has to be")]
    NotSigned,
    /// It is signed by somebody who is not trusted here.
    #[error("it is signed by {signer}, who is not trusted for this topic")]
    UntrustedSigner {
        /// The signer's fingerprint.
        signer: String,
    },
    /// An engine of the application's own says so, or one of the system's means failed.
    #[error("{reason}")]
    Failed {
        /// What happened.
        reason: String,
    },
}

/// The name of an engine that may be lacking.
fn known(id: u8) -> &'static str {
    match id {
        1 => " (compression)",
        2 => " (encryption)",
        _ => "",
    }
}
