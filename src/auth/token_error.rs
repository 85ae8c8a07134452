//! Why a token is not accepted.

use thiserror::Error;

use crate::limits;

/// Why a token is not accepted, for the log of the bus. A peer is not told which it was.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It is longer than any token may be.
    #[error("the token has {bytes} bytes, more than the limit of {}", limits::TOKEN_BYTES)]
    TooLong {
        /// Its bytes.
        bytes: usize,
    },
    /// It does not have the form of a signed token.
    #[error("it is not a signed token that can be read")]
    Malformed,
    /// It asks for an extension that has to be understood (`crit`).
    #[error("the token needs an extension that is not supported")]
    Extension,
    /// Its issuer is not among those that the bus knows.
    #[error("the token's issuer is not known")]
    UnknownIssuer,
    /// It is signed in another way than its issuer's tokens are.
    #[error("the token of {issuer:?} is not signed by the algorithm of that issuer")]
    Algorithm {
        /// The issuer that it names.
        issuer: String,
    },
    /// The signature is not that of the issuer.
    #[error("the token has no valid signature of {issuer:?}")]
    Signature {
        /// The issuer that it names.
        issuer: String,
    },
    /// It has ended.
    #[error("the token of {issuer:?} has expired")]
    Expired {
        /// Its issuer.
        issuer: String,
    },
    /// It has not begun.
    #[error("the token of {issuer:?} is not valid yet; check the clocks")]
    NotYetValid {
        /// Its issuer.
        issuer: String,
    },
    /// It is made out to somebody else.
    #[error("the token of {issuer:?} is for another audience")]
    Audience {
        /// Its issuer.
        issuer: String,
    },
    /// A claim is missing, or not of the form that it must have.
    #[error("the token of {issuer:?} lacks a usable claim {claim:?}")]
    Claim {
        /// Its issuer.
        issuer: String,
        /// The claim.
        claim: &'static str,
    },
    /// It names a role that its issuer may not give.
    #[error("the token of {issuer:?} names a role that this issuer may not give")]
    Role {
        /// Its issuer.
        issuer: String,
    },
    /// Tokens cannot be checked in this process.
    #[error("tokens cannot be checked: {reason}")]
    Unsupported {
        /// Why not.
        reason: String,
    },
}
