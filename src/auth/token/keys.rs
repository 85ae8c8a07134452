//! Keys of issuers, as they are kept in files.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use zeroize::Zeroizing;

use super::super::settings::{invalid, read_key};
use super::super::{Secret, TokenAlgorithm};
use crate::error::BusResult;
use crate::limits;

/// What stands before the 32 bytes of an Ed25519 private key in PKCS #8 (RFC 8410, section 7).
const PRIVATE_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// What stands before the 32 bytes of an Ed25519 public key (RFC 8410, section 4).
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Bytes of either half of an Ed25519 key.
const ED25519_BYTES: usize = 32;

/// Bytes of a new secret for HS256: twice what it needs at least, one block of its hash.
const NEW_SECRET_BYTES: usize = 64;

const PEM_BEGINS: &str = "-----BEGIN ";

/// The key with which an issuer signs its tokens. Never printed; zeroed when it is dropped.
///
/// # Examples
/// ```
/// use whispeer::auth::{SigningKey, TokenAlgorithm};
///
/// let key = SigningKey::generate(TokenAlgorithm::EdDSA)?;
/// assert!(key.public_text().is_some_and(|pem| pem.starts_with("-----BEGIN PUBLIC KEY-----")));
/// let again = SigningKey::parse(key.to_text().reveal())?;
/// assert_eq!(again.public_text(), key.public_text());
/// # Ok::<(), whispeer::BusError>(())
/// ```
#[derive(Clone)]
pub struct SigningKey {
    algorithm: TokenAlgorithm,
    /// PKCS #8, or the secret.
    bytes: Zeroizing<Vec<u8>>,
    /// The public half, where there is one.
    public: Option<[u8; ED25519_BYTES]>,
}

impl SigningKey {
    /// A new key, from the system's random generator.
    ///
    /// # Errors
    /// [`InvalidSettings`](crate::BusError::InvalidSettings) if the system gives no random numbers.
    pub fn generate(algorithm: TokenAlgorithm) -> BusResult<Self> {
        let (prefix, length) = match algorithm {
            TokenAlgorithm::EdDSA => (&PRIVATE_PREFIX[..], ED25519_BYTES),
            TokenAlgorithm::HS256 => (&[][..], NEW_SECRET_BYTES),
        };
        let mut bytes = Zeroizing::new(vec![0; prefix.len() + length]);
        let (beginning, random) = bytes.split_at_mut(prefix.len());
        beginning.copy_from_slice(prefix);
        getrandom::fill(random)
            .map_err(|error| invalid(format!("the system gives no random numbers for a key: {error}")))?;
        Self::of(algorithm, bytes)
    }

    /// Reads a key: an Ed25519 private key in PEM (PKCS #8, as OpenSSL writes it), or a secret for HS256 in
    /// base64.
    ///
    /// # Errors
    /// [`InvalidSettings`](crate::BusError::InvalidSettings) that says what it is not.
    pub fn parse(text: &str) -> BusResult<Self> {
        if !text.trim_start().starts_with(PEM_BEGINS) {
            return Self::of(TokenAlgorithm::HS256, secret(text)?);
        }
        let Ok(der) = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()) else {
            return Err(invalid(
                "the key is not a private key in PEM (BEGIN PRIVATE KEY); make one with `whispeer token \
                 --new-key FILE`"
                    .into(),
            ));
        };
        Self::of(TokenAlgorithm::EdDSA, Zeroizing::new(der.secret_pkcs8_der().to_vec()))
    }

    /// Reads a key from a file.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and if the file cannot be read or is too large to be a key.
    pub fn read(path: &Path) -> BusResult<Self> {
        let named = |error| invalid(format!("{}: {error}", path.display()));
        Self::parse(read_key(path)?.text.reveal()).map_err(named)
    }

    fn of(algorithm: TokenAlgorithm, bytes: Zeroizing<Vec<u8>>) -> BusResult<Self> {
        let public = match algorithm {
            TokenAlgorithm::HS256 => None,
            TokenAlgorithm::EdDSA => {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&bytes).ok();
                let public = pair.and_then(|pair| pair.public_key().as_ref().try_into().ok());
                let wrong =
                    "the private key is not one for Ed25519; make one with `whispeer token --new-key FILE`";
                Some(public.ok_or_else(|| invalid(wrong.into()))?)
            }
        };
        Ok(Self { algorithm, bytes, public })
    }

    /// How it signs.
    #[must_use]
    pub fn algorithm(&self) -> TokenAlgorithm {
        self.algorithm
    }

    /// The key as it is kept in a file, for [`parse`](Self::parse).
    #[must_use]
    pub fn to_text(&self) -> Secret {
        Secret::new(match self.algorithm {
            TokenAlgorithm::EdDSA => pem("PRIVATE KEY", &self.bytes),
            TokenAlgorithm::HS256 => {
                let mut text = String::with_capacity(2 * self.bytes.len());
                STANDARD.encode_string(&*self.bytes, &mut text);
                text.push('\n');
                text
            }
        })
    }

    /// What the bus needs to check its tokens: the public key in PEM. `None` for HS256, where the bus needs the
    /// secret itself.
    #[must_use]
    pub fn public_text(&self) -> Option<String> {
        self.public.map(|public| pem("PUBLIC KEY", &[&PUBLIC_PREFIX[..], &public].concat()))
    }

    pub(super) fn encoding_key(&self) -> EncodingKey {
        match self.algorithm {
            TokenAlgorithm::EdDSA => EncodingKey::from_ed_der(&self.bytes),
            TokenAlgorithm::HS256 => EncodingKey::from_secret(&self.bytes),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SigningKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// The key with which the tokens of an issuer are checked.
pub(super) struct VerifyingKey {
    pub(super) algorithm: TokenAlgorithm,
    bytes: Zeroizing<Vec<u8>>,
}

impl VerifyingKey {
    /// Reads a key for this algorithm.
    pub(super) fn parse(algorithm: TokenAlgorithm, text: &str) -> BusResult<Self> {
        let bytes = match algorithm {
            TokenAlgorithm::EdDSA => public_key(text)?,
            // A public key that is taken for a secret would let everybody who knows it sign.
            TokenAlgorithm::HS256 if text.trim_start().starts_with(PEM_BEGINS) => {
                return Err(invalid(
                    "the key for HS256 is a key in PEM; give a secret in base64, or set the algorithm to EdDSA"
                        .into(),
                ));
            }
            TokenAlgorithm::HS256 => secret(text)?,
        };
        Ok(Self { algorithm, bytes })
    }

    pub(super) fn decoding_key(&self) -> DecodingKey {
        match self.algorithm {
            TokenAlgorithm::EdDSA => DecodingKey::from_ed_der(&self.bytes),
            TokenAlgorithm::HS256 => DecodingKey::from_secret(&self.bytes),
        }
    }

    /// Whether both check the same tokens.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.algorithm == other.algorithm && self.bytes == other.bytes
    }
}

pub(super) fn algorithm_of(algorithm: TokenAlgorithm) -> Algorithm {
    match algorithm {
        TokenAlgorithm::EdDSA => Algorithm::EdDSA,
        TokenAlgorithm::HS256 => Algorithm::HS256,
    }
}

fn public_key(text: &str) -> BusResult<Zeroizing<Vec<u8>>> {
    let wrong =
        |why| invalid(format!("the key for EdDSA is not {why}; `whispeer token --public-key` prints it"));
    let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes())
        .map_err(|_| wrong("a public key in PEM (BEGIN PUBLIC KEY)"))?;
    match der.as_ref().strip_prefix(&PUBLIC_PREFIX) {
        Some(key) if key.len() == ED25519_BYTES => Ok(Zeroizing::new(key.to_vec())),
        _ => Err(wrong("an Ed25519 key")),
    }
}

/// Reads a secret in base64 of either alphabet, padded or not, in any number of lines.
fn secret(text: &str) -> BusResult<Zeroizing<Vec<u8>>> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const OF_URLS: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);
    const COMMON: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
    let mut digits = Zeroizing::new(Vec::with_capacity(text.len()));
    digits.extend(text.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let bytes =
        COMMON.decode(&digits).or_else(|_| OF_URLS.decode(&digits)).map(Zeroizing::new).map_err(|_| {
            invalid(
                "the secret for HS256 is not base64; make one with `whispeer token --new-key FILE`".into(),
            )
        })?;
    let (count, least, most) = (bytes.len(), limits::TOKEN_SECRET_BYTES_MIN, limits::TOKEN_SECRET_BYTES_MAX);
    if count < least || count > most {
        return Err(invalid(format!(
            "the secret for HS256 has {count} bytes; it needs {least} to {most}, from a random generator"
        )));
    }
    Ok(bytes)
}

/// Writes a key in PEM, in a text that is not copied while it grows.
fn pem(label: &str, der: &[u8]) -> String {
    let mut text = String::with_capacity(2 * (der.len() + PEM_BEGINS.len() + label.len()) + 64);
    text.extend([PEM_BEGINS, label, "-----\n"]);
    let encoded = Zeroizing::new(STANDARD.encode(der));
    for line in encoded.as_bytes().chunks(64) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    text.extend(["-----END ", label, "-----\n"]);
    text
}
