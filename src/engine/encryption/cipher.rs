//! The three ciphers, from either of two libraries.

use std::fmt;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut, KeyInit};
use chacha20::R20;
use chacha20poly1305::ChaCha20Poly1305;
use hkdf::Hkdf;
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::key::{Key, KeyId};
use crate::error::EngineError;

/// Bytes of a tag, for all ciphers.
pub(super) const TAG: usize = 16;

/// What message keys are derived for.
const MESSAGE_KEY: &[u8] = b"whispeer message key 1";

/// What encrypts messages. Each engine opens all of them, and this says which one it seals with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
#[non_exhaustive]
pub enum Algorithm {
    /// XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha). Fast on every processor, and common libraries have it.
    #[default]
    XChaCha20Poly1305 = 1,
    /// ChaCha20-Poly1305 (RFC 8439), for those who have to name an RFC.
    ChaCha20Poly1305 = 2,
    /// AES-256-GCM (NIST SP 800-38D). The fastest where the processor has instructions for it.
    Aes256Gcm = 3,
}

impl Algorithm {
    /// The algorithm of this number in a head.
    pub(super) fn numbered(number: u8) -> Option<Self> {
        [Self::XChaCha20Poly1305, Self::ChaCha20Poly1305, Self::Aes256Gcm]
            .into_iter()
            .find(|algorithm| *algorithm as u8 == number)
    }
}

/// Whose code does it. What it makes is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Implementation {
    /// ring's, in assembly. It does not overwrite its keys when they are dropped.
    Ring,
    /// RustCrypto's, in Rust. It overwrites its keys when they are dropped, and takes up to several times as long.
    RustCrypto,
}

impl Implementation {
    /// The faster one, as measured.
    pub(super) fn fastest(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::XChaCha20Poly1305 | Algorithm::ChaCha20Poly1305 | Algorithm::Aes256Gcm => Self::Ring,
        }
    }
}

/// A cipher with the key of one sender.
pub(super) enum Cipher {
    Ring(Box<LessSafeKey>),
    ChaCha(ChaCha20Poly1305),
    Aes(Box<Aes256Gcm>),
}

impl Cipher {
    /// The cipher for what a sender encrypts with a key.
    pub(super) fn of_sender(
        algorithm: Algorithm,
        implementation: Implementation,
        (id, key): (KeyId, &Key),
        sender: &[u8; 16],
    ) -> Self {
        let mut secret = Zeroizing::new([0; Key::LEN]);
        let info: [&[u8]; 3] = [MESSAGE_KEY, &[algorithm as u8], &id.to_bytes()];
        derive(key.reveal(), sender, &info, &mut *secret);
        Self::new(algorithm, implementation, &secret, &[0; 16])
    }

    /// The cipher with this very key, and what the nonces of XChaCha20-Poly1305 begin with.
    fn new(
        algorithm: Algorithm,
        implementation: Implementation,
        key: &[u8; Key::LEN],
        nonces: &[u8; 16],
    ) -> Self {
        let key = match algorithm {
            // What the first sixteen bytes of a nonce make of the key is the key of an ordinary ChaCha20-Poly1305 for the
            // rest of it. As they are the same for all messages of a sender, this is done once.
            Algorithm::XChaCha20Poly1305 => chacha20::hchacha::<R20>(key.into(), nonces.into()).into(),
            Algorithm::ChaCha20Poly1305 | Algorithm::Aes256Gcm => *key,
        };
        Self::with_short_nonce(algorithm, implementation, &Zeroizing::new(key))
    }

    fn with_short_nonce(algorithm: Algorithm, implementation: Implementation, key: &[u8; Key::LEN]) -> Self {
        let is_aes = algorithm == Algorithm::Aes256Gcm;
        match implementation {
            Implementation::Ring => {
                let algorithm = if is_aes { &AES_256_GCM } else { &CHACHA20_POLY1305 };
                let key = UnboundKey::new(algorithm, key)
                    .unwrap_or_else(|_| unreachable!("both ciphers have keys of 32 bytes"));
                Self::Ring(Box::new(LessSafeKey::new(key)))
            }
            Implementation::RustCrypto if is_aes => Self::Aes(Box::new(Aes256Gcm::new(key.into()))),
            Implementation::RustCrypto => Self::ChaCha(ChaCha20Poly1305::new(key.into())),
        }
    }

    /// Encrypts in place. The nonce is the sequence in its last eight bytes, and nothing before that.
    pub(super) fn seal(
        &self,
        sequence: u64,
        associated: &[u8],
        bytes: &mut [u8],
    ) -> Result<[u8; TAG], EngineError> {
        self.seal_with(nonce(sequence), associated, bytes)
    }

    fn seal_with(
        &self,
        nonce: [u8; 12],
        associated: &[u8],
        bytes: &mut [u8],
    ) -> Result<[u8; TAG], EngineError> {
        // Only the length can be at fault, of more than any frame has.
        let failed = || EngineError::Failed { reason: "it is too long to be encrypted".to_owned() };
        match self {
            Self::Ring(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                let sealed = key.seal_in_place_separate_tag(nonce, Aad::from(associated), bytes);
                let mut tag = [0; TAG];
                tag.copy_from_slice(sealed.map_err(|_| failed())?.as_ref());
                Ok(tag)
            }
            Self::ChaCha(cipher) => {
                let sealed = cipher.encrypt_inout_detached(&nonce.into(), associated, bytes.into());
                sealed.map(Into::into).map_err(|_| failed())
            }
            Self::Aes(cipher) => {
                let sealed = cipher.encrypt_inout_detached(&nonce.into(), associated, bytes.into());
                sealed.map(Into::into).map_err(|_| failed())
            }
        }
    }

    /// Decrypts in place; what is then in `bytes` counts for nothing if it was forged.
    pub(super) fn open(
        &self,
        sequence: u64,
        associated: &[u8],
        bytes: &mut [u8],
        tag: [u8; TAG],
    ) -> Result<(), EngineError> {
        self.open_with(nonce(sequence), associated, bytes, tag)
    }

    fn open_with(
        &self,
        nonce: [u8; 12],
        associated: &[u8],
        bytes: &mut [u8],
        tag: [u8; TAG],
    ) -> Result<(), EngineError> {
        let opened = match self {
            Self::Ring(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                let opened =
                    key.open_in_place_separate_tag(nonce, Aad::from(associated), tag.into(), bytes, 0..);
                opened.map(|_| ()).map_err(|_| ())
            }
            Self::ChaCha(cipher) => cipher
                .decrypt_inout_detached(&nonce.into(), associated, bytes.into(), &tag.into())
                .map_err(|_| ()),
            Self::Aes(cipher) => cipher
                .decrypt_inout_detached(&nonce.into(), associated, bytes.into(), &tag.into())
                .map_err(|_| ()),
        };
        opened.map_err(|()| EngineError::Forged)
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Cipher(..)")
    }
}

/// HKDF with SHA-256 (RFC 5869).
fn derive(key: &[u8], salt: &[u8], info: &[&[u8]], derived: &mut [u8]) {
    Hkdf::<Sha256>::new(Some(salt), key)
        .expand_multi_info(info, derived)
        .unwrap_or_else(|_| unreachable!("no key is as long as 255 hashes"));
}

fn nonce(sequence: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    let (_, last) = nonce.split_at_mut(4);
    last.copy_from_slice(&sequence.to_le_bytes());
    nonce
}

#[cfg(test)]
#[path = "tests/cipher.rs"]
mod tests;
