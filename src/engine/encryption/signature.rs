//! Who has sent a message: signatures inside the encryption.
//!
//! A group key proves only that one of the group has sent it. What is signed, with Ed25519 (RFC 8032):
//!
//! ```text
//! "whispeer signature 1" 20 · SHA-512 of (the associated data · inner tag 1 · content) 64
//! ```
//!
//! The associated data tells its own length, so that no two messages give the same bytes. The hash is there because
//! Ed25519 reads what it signs twice, which would have to lie in one piece.

use std::fmt;

use ed25519_dalek::{Signature, Signer, VerifyingKey};
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use crate::engine::Content;
use crate::error::{BusError, BusResult, EngineError};

/// Bytes of a signature with the signer's key before it.
pub(super) const SIGNED: usize = SignerKey::LEN + Signature::BYTE_SIZE;

const DOMAIN: &[u8; 20] = b"whispeer signature 1";

/// A secret that signs messages, so that others can tell who has sent them. It is never printed, and is overwritten when
/// it is dropped.
///
/// # Examples
/// ```
/// use whispeer::engine::encryption::SigningIdentity;
///
/// # fn main() -> whispeer::BusResult<()> {
/// let alice = SigningIdentity::generate()?;
/// println!("others trust {}", alice.public());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SigningIdentity(Box<ed25519_dalek::SigningKey>);

impl SigningIdentity {
    /// Bytes of the secret.
    pub const LEN: usize = 32;

    /// A key of the system's random generator.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] if that does not work.
    pub fn generate() -> BusResult<Self> {
        let mut seed = Zeroizing::new([0; Self::LEN]);
        getrandom::fill(&mut *seed).map_err(|error| {
            BusError::InvalidSettings(format!("the system's random generator does not work: {error}"))
        })?;
        Ok(Self::from_bytes(&seed))
    }

    /// The key of these bytes, which have to be random: the private key of RFC 8032.
    #[must_use]
    pub fn from_bytes(seed: &[u8; Self::LEN]) -> Self {
        Self(Box::new(ed25519_dalek::SigningKey::from_bytes(seed)))
    }

    /// What others know it by.
    #[must_use]
    pub fn public(&self) -> SignerKey {
        SignerKey(self.0.verifying_key())
    }

    /// The secret itself.
    pub(super) fn reveal(&self) -> &[u8; Self::LEN] {
        self.0.as_bytes()
    }

    /// Signs a statement, which begins with what it is for.
    pub(super) fn sign_statement(&self, statement: &[u8]) -> [u8; Signature::BYTE_SIZE] {
        self.0.sign(statement).to_bytes()
    }

    /// The key and the signature, as they stand behind the content.
    pub(super) fn sign(&self, associated: &[u8], content: Content<'_>) -> [u8; SIGNED] {
        let mut signed = [0; SIGNED];
        let (signer, signature) = signed.split_at_mut(SignerKey::LEN);
        signer.copy_from_slice(self.0.verifying_key().as_bytes());
        signature.copy_from_slice(&self.sign_statement(&statement(associated, content)));
        signed
    }
}

impl fmt::Debug for SigningIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SigningIdentity({})", self.public())
    }
}

/// What a signer is known by: the public half of a [`SigningIdentity`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SignerKey(VerifyingKey);

impl SignerKey {
    /// Bytes of the key.
    pub const LEN: usize = 32;

    /// The key of these bytes: the public key of RFC 8032.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for bytes that are no key, or one that anybody can sign for.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> BusResult<Self> {
        let key = VerifyingKey::from_bytes(bytes).ok().filter(|key| !key.is_weak());
        key.map(Self).ok_or_else(|| {
            BusError::InvalidSettings("these 32 bytes are no public key of Ed25519".to_owned())
        })
    }

    /// The bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        self.0.to_bytes()
    }
}

impl fmt::Display for SignerKey {
    /// In hexadecimal.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_bytes().iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for SignerKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SignerKey({self})")
    }
}

/// Checks a signature, and returns whose it is.
pub(super) fn verify(
    signed: &[u8; SIGNED],
    associated: &[u8],
    content: Content<'_>,
) -> Result<SignerKey, EngineError> {
    let (signer, signature) = signed.split_first_chunk().ok_or(EngineError::Forged)?;
    verify_text(signer, signature, &statement(associated, content)).ok_or(EngineError::Forged)
}

/// The signer, if the signature is his.
pub(super) fn verify_text(signer: &[u8; SignerKey::LEN], signature: &[u8], text: &[u8]) -> Option<SignerKey> {
    let signature = Signature::from_slice(signature).ok()?;
    let key = VerifyingKey::from_bytes(signer).ok()?;
    // Strictly: nobody can choose a key for which one signature fits many messages.
    key.verify_strict(text, &signature).ok().map(|()| SignerKey(key))
}

fn statement(associated: &[u8], content: Content<'_>) -> [u8; DOMAIN.len() + 64] {
    let hash = Sha512::new()
        .chain_update(associated)
        .chain_update([content.tag])
        .chain_update(content.bytes)
        .finalize();
    let mut statement = [0; DOMAIN.len() + 64];
    let (domain, rest) = statement.split_at_mut(DOMAIN.len());
    domain.copy_from_slice(DOMAIN);
    rest.copy_from_slice(&hash);
    statement
}

#[cfg(test)]
mod tests {
    use super::super::tests::vectors::{Case, cases};
    use super::*;

    #[test]
    fn signatures_are_taken_and_refused_as_published() {
        let cases = cases(include_str!("tests/vectors/ed25519.json"));
        for case in &cases {
            let Case { id, columns, is_valid } = case;
            let [key, message, signature] = &columns[..] else { panic!("three columns") };
            let key = key.as_slice().try_into().unwrap();
            assert_eq!(verify_text(key, signature, message).is_some(), *is_valid, "case {id}");
        }
        assert!(cases.len() > 100);
    }

    #[test]
    fn a_key_that_anybody_can_sign_for_is_none() {
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert!(SignerKey::from_bytes(&neutral).is_err());
        let is_none = |first: u8| {
            let mut bytes = [0; 32];
            bytes[0] = first;
            SignerKey::from_bytes(&bytes).is_err()
        };
        assert!((2..32).any(is_none), "not all bytes are points");
    }

    #[test]
    fn a_signing_key_shows_its_public_half_alone() {
        let identity = SigningIdentity::from_bytes(&[3; 32]);
        assert_eq!(format!("{identity:?}"), format!("SigningIdentity({})", identity.public()));
        assert_eq!(SignerKey::from_bytes(&identity.public().to_bytes()).unwrap(), identity.public());
    }
}
