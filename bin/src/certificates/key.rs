//! Private keys, which nothing but their own file ever shows.

use std::fmt;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::{Zeroize, Zeroizing};

/// What stands before the 32 bytes of an Ed25519 key in its PKCS #8 form, version 1 (RFC 8410, section 7).
///
/// The second version of that form, which holds the public key too, is not read by OpenSSL 3.0.
const ED25519_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Bytes of an Ed25519 key.
const ED25519_LENGTH: usize = 32;

/// Characters in a line of a PEM file (RFC 7468, section 2).
const LINE: usize = 64;

/// The kinds of keys that are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// Understood by everything that speaks TLS.
    EcdsaP256,
    /// Smaller and simpler; browsers do not take it.
    Ed25519,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::EcdsaP256 => "ECDSA P-256",
            Self::Ed25519 => "Ed25519",
        })
    }
}

/// A key that signs. Its encoded form is wiped when it is dropped; the library that signs with it keeps its own
/// for as long.
pub(crate) struct PrivateKey(KeyPair);

impl PrivateKey {
    /// Draws a key from the system's generator.
    pub(crate) fn generate(algorithm: Algorithm) -> anyhow::Result<Self> {
        let pair = match algorithm {
            Algorithm::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            Algorithm::Ed25519 => {
                let mut encoded = Zeroizing::new([0; ED25519_PREFIX.len() + ED25519_LENGTH]);
                let (prefix, secret) = encoded.split_at_mut(ED25519_PREFIX.len());
                prefix.copy_from_slice(&ED25519_PREFIX);
                getrandom::fill(secret).context("the system gives no random bytes")?;
                KeyPair::from_pkcs8_der_and_sign_algo(&encoded.as_slice().into(), &PKCS_ED25519)
            }
        };
        Ok(Self(pair.context("cannot make a key")?))
    }

    /// Reads a key from the text of its file. The error says nothing of what stands there.
    pub(crate) fn from_pem(text: &[u8]) -> anyhow::Result<Self> {
        let mut encoded = PrivatePkcs8KeyDer::from_pem_slice(text)
            .map_err(|_| anyhow::anyhow!("it holds no private key in PKCS #8 form (BEGIN PRIVATE KEY)"))?;
        let pair = KeyPair::try_from(&encoded);
        encoded.zeroize();
        Ok(Self(pair.map_err(|_| anyhow::anyhow!("its private key is damaged or of an unknown kind"))?))
    }

    /// The text of the key's file.
    pub(crate) fn pem(&self) -> Zeroizing<String> {
        let encoded = Zeroizing::new(STANDARD.encode(self.0.serialized_der()));
        // Room for all of it, so that no copy is left behind by growing.
        let room = encoded.len() + encoded.len() / LINE + 64;
        let mut text = Zeroizing::new(String::with_capacity(room));
        text.push_str("-----BEGIN PRIVATE KEY-----\n");
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(LINE));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str("-----END PRIVATE KEY-----\n");
        text
    }

    /// The public half, as it stands in a certificate.
    pub(crate) fn public(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.0
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PrivateKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_from_its_file() {
        for algorithm in [Algorithm::EcdsaP256, Algorithm::Ed25519] {
            let key = PrivateKey::generate(algorithm).unwrap();
            let text = key.pem();
            assert!(text.lines().all(|line| line.len() <= LINE), "{algorithm}");
            assert_eq!(PrivateKey::from_pem(text.as_bytes()).unwrap().public(), key.public());
        }
    }

    #[test]
    fn neither_debug_output_nor_errors_show_the_key() {
        let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey(..)");
        let text = key.pem();
        let secret = text.lines().nth(1).unwrap();
        let damaged = text.replacen(secret, &secret[4..], 1);
        let error = format!("{:?}", PrivateKey::from_pem(damaged.as_bytes()).unwrap_err());
        assert!(!error.contains(&secret[4..20]), "{error}");
    }

    #[test]
    fn two_keys_are_never_the_same() {
        let [one, other] = [(); 2].map(|()| PrivateKey::generate(Algorithm::Ed25519).unwrap().public());
        assert_ne!(one, other);
    }
}
