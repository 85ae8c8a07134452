//! Who somebody is to those who hand keys over: two keys, and one fingerprint.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::boxes;
use super::fingerprint::Fingerprint;
use super::secret_file::{self, Hexadecimal, push_digits};
use super::signature::{SignerKey, SigningIdentity};
use crate::error::{BusError, BusResult};
use crate::limits;

/// The secrets of one person, service or machine: an Ed25519 key, which signs, and an X25519 key, with which what is
/// sealed for it is opened. They are never printed, and are overwritten when they are dropped.
///
/// Others know it as its [`PublicIdentity`]. With it keys are handed over through a bus that does not learn them: see
/// [`Keyring::grant`](super::Keyring::grant) and [`Keyring::accept`](super::Keyring::accept).
///
/// # Examples
/// ```
/// use whispeer::engine::encryption::{Identity, PublicIdentity};
///
/// # fn main() -> whispeer::BusResult<()> {
/// let alice = Identity::generate()?;
/// let line = alice.public().to_string();
/// // Whoever gets this line, by whatever way, makes sure that it is hers:
/// let received: PublicIdentity = line.parse()?;
/// assert_eq!(received.fingerprint(), alice.public().fingerprint());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Identity {
    signing: SigningIdentity,
    opening: Box<Zeroizing<[u8; boxes::KEY]>>,
    public: PublicIdentity,
}

/// What stands in a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    sign: Hexadecimal<{ SigningIdentity::LEN }>,
    open: Hexadecimal<{ boxes::KEY }>,
    public: Option<Stored>,
}

impl Identity {
    /// An identity of two keys of the system's random generator.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] if that does not work.
    pub fn generate() -> BusResult<Self> {
        let mut secrets = Zeroizing::new([[0; 32]; 2]);
        for secret in secrets.iter_mut() {
            getrandom::fill(secret).map_err(|error| {
                BusError::InvalidSettings(format!("the system's random generator does not work: {error}"))
            })?;
        }
        let [signing, opening] = &*secrets;
        Self::from_bytes(signing, opening)
    }

    /// The identity of these secrets, which have to be random and have nothing to do with each other: a private key of
    /// Ed25519 (RFC 8032) and one of X25519 (RFC 7748).
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for keys that are of no use.
    pub fn from_bytes(signing: &[u8; SigningIdentity::LEN], opening: &[u8; 32]) -> BusResult<Self> {
        let signing = SigningIdentity::from_bytes(signing);
        let sealing = boxes::public(opening).ok_or_else(PublicIdentity::unusable)?;
        let public = PublicIdentity::new(signing.public(), sealing)?;
        Ok(Self { signing, opening: Box::new(Zeroizing::new(*opening)), public })
    }

    /// What others know it by.
    #[must_use]
    pub fn public(&self) -> &PublicIdentity {
        &self.public
    }

    /// The key that signs, with which [messages](super::Encryption::sign) can be signed as well.
    #[must_use]
    pub fn signing(&self) -> &SigningIdentity {
        &self.signing
    }

    /// The key that opens what is sealed for it.
    pub(super) fn opening(&self) -> &[u8; boxes::KEY] {
        &self.opening
    }

    /// Reads an identity from TOML, as [`to_toml`](Self::to_toml) writes it.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] with what is wrong, which repeats no secret.
    pub fn from_toml(text: &str) -> BusResult<Self> {
        if text.len() > limits::IDENTITY_BYTES {
            let what = format!("an identity has at most {} bytes", limits::IDENTITY_BYTES);
            return Err(BusError::InvalidSettings(what));
        }
        let document: Document = secret_file::parse(text)?;
        let identity = Self::from_bytes(&document.sign.0, &document.open.0)?;
        if document.public.is_some_and(|stated| stated.0 != identity.public) {
            let what = "its public half is said to be another one; its secrets or that have been changed";
            return Err(BusError::InvalidSettings(what.to_owned()));
        }
        Ok(identity)
    }

    /// Reads an identity from a file, which has to be as those of [keyrings](super::Keyring::read).
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] if it cannot be read, is no regular file, somebody else's, open to others or larger than
    /// [`limits::IDENTITY_BYTES`], and what is wrong in it.
    pub fn read(path: &Path) -> BusResult<Self> {
        let refused = |reason: String| {
            BusError::InvalidSettings(format!("cannot use the identity in {}: {reason}", path.display()))
        };
        let text = secret_file::read(path, limits::IDENTITY_BYTES).map_err(refused)?;
        Self::from_toml(&text).map_err(|error| refused(error.to_string()))
    }

    /// All of it as TOML, secrets included.
    #[must_use]
    pub fn to_toml(&self) -> Zeroizing<String> {
        // All at once, so that no copy is left behind by growing.
        let mut text = Zeroizing::new(String::with_capacity(limits::IDENTITY_BYTES));
        text.push_str("public = \"");
        text.push_str(&self.public.to_string());
        text.push_str("\"\nsign = \"");
        push_digits(self.signing.reveal(), &mut text);
        text.push_str("\"\nopen = \"");
        push_digits(self.opening(), &mut text);
        text.push_str("\"\n");
        text
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Identity({})", self.public.fingerprint())
    }
}

/// What others know an [`Identity`] by: the public halves of its two keys.
///
/// It is no secret. As text it is one line that can be pasted, with a sum by which a slip of the pen is found:
/// `whispeer-id-1:` and base64url. That nobody has put his own in its place shows only the
/// [fingerprint](Self::fingerprint), compared by a way that the other one cannot change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicIdentity {
    signer: SignerKey,
    sealing: [u8; boxes::KEY],
}

impl PublicIdentity {
    /// Bytes of both keys.
    pub const LEN: usize = SignerKey::LEN + boxes::KEY;

    const PREFIX: &'static str = "whispeer-id-1:";

    /// Bytes of the fingerprint that stand behind the keys, so that a slip of the pen goes unnoticed once in four thousand
    /// million times.
    const SUM: usize = 4;

    fn new(signer: SignerKey, sealing: [u8; boxes::KEY]) -> BusResult<Self> {
        if !boxes::is_usable(&sealing) {
            return Err(Self::unusable());
        }
        Ok(Self { signer, sealing })
    }

    fn unusable() -> BusError {
        BusError::InvalidSettings("these 32 bytes are no public key of X25519 to seal to".to_owned())
    }

    /// The identity of these bytes: a public key of Ed25519, then one of X25519.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for bytes that are no keys, a key that anybody can sign for, or one with which
    /// everybody has the same secret.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> BusResult<Self> {
        let (signer, sealing) = bytes.split_first_chunk().ok_or_else(Self::unusable)?;
        let sealing = sealing.first_chunk().ok_or_else(Self::unusable)?;
        Self::new(SignerKey::from_bytes(signer)?, *sealing)
    }

    /// The identity of a text, but for whether something can be sealed to it.
    fn read(text: &str) -> BusResult<Self> {
        let wrong = |what: &str| BusError::InvalidSettings(format!("that is no public identity: {what}"));
        let digits = text
            .trim()
            .strip_prefix(Self::PREFIX)
            .ok_or_else(|| wrong("it does not begin with \"whispeer-id-1:\"; take the whole line"))?;
        let mut whole = [0; Self::LEN + Self::SUM];
        match URL_SAFE_NO_PAD.decode_slice(digits, &mut whole) {
            Ok(length) if length == whole.len() => {}
            _ => return Err(wrong("it is cut off, or has something too much; take the whole line")),
        }
        let (bytes, sum) = whole.split_first_chunk().ok_or_else(Self::unusable)?;
        if !Fingerprint::of(bytes).as_bytes().starts_with(sum) {
            return Err(wrong("a letter of it was changed on the way; take it once more"));
        }
        let (signer, sealing) = bytes.split_first_chunk().ok_or_else(Self::unusable)?;
        let sealing = sealing.first_chunk().ok_or_else(Self::unusable)?;
        Ok(Self { signer: SignerKey::from_bytes(signer)?, sealing: *sealing })
    }

    /// The bytes of both keys.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (signer, sealing) = bytes.split_at_mut(SignerKey::LEN);
        signer.copy_from_slice(&self.signer.to_bytes());
        sealing.copy_from_slice(&self.sealing);
        bytes
    }

    /// The key that it signs with, to be [trusted](super::Encryption::trust) with messages.
    #[must_use]
    pub fn signer(&self) -> SignerKey {
        self.signer
    }

    /// The key to seal to.
    pub(super) fn sealing(&self) -> &[u8; boxes::KEY] {
        &self.sealing
    }

    /// What people compare.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.to_bytes())
    }
}

impl fmt::Display for PublicIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, fingerprint) = (self.to_bytes(), self.fingerprint());
        let mut whole = [0; Self::LEN + Self::SUM];
        let parts = bytes.iter().chain(fingerprint.as_bytes());
        whole.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
        write!(formatter, "{}{}", Self::PREFIX, URL_SAFE_NO_PAD.encode(whole))
    }
}

impl fmt::Debug for PublicIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublicIdentity({})", self.fingerprint())
    }
}

impl FromStr for PublicIdentity {
    type Err = BusError;

    /// Reads what [`Display`](fmt::Display) has written.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for anything else, and what [`from_bytes`](PublicIdentity::from_bytes) refuses.
    fn from_str(text: &str) -> BusResult<Self> {
        let identity = Self::read(text)?;
        Self::new(identity.signer, identity.sealing)
    }
}

/// An identity in a file of secrets, where it came after it had been checked. What is left out is a tenth of a millisecond
/// for each, and nothing can be sealed to a key that is not usable anyway.
pub(super) struct Stored(pub(super) PublicIdentity);

impl<'de> Deserialize<'de> for Stored {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        PublicIdentity::read(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(number: u8) -> Identity {
        Identity::from_bytes(&[number; 32], &[number + 100; 32]).unwrap()
    }

    #[test]
    fn an_identity_shows_its_fingerprint_and_nothing_else() {
        let identity = Identity::generate().unwrap();
        assert_eq!(format!("{identity:?}"), format!("Identity({})", identity.public().fingerprint()));
        assert_ne!(identity.public(), Identity::generate().unwrap().public());
        let shown = identity.public().fingerprint().to_string();
        assert_eq!((shown.split('-').count(), shown.len()), (10, 49));
    }

    #[test]
    fn a_public_identity_is_one_line_in_which_every_slip_is_found() {
        let public = *identity(1).public();
        let line = public.to_string();
        assert_eq!(line.parse::<PublicIdentity>().unwrap(), public);
        assert_eq!(format!(" {line}\n").parse::<PublicIdentity>().unwrap(), public);
        for at in 0..line.len() {
            for letter in ["A", "b", "7", "_", "é", ""] {
                let slip = format!("{}{letter}{}", &line[..at], &line[at + 1..]);
                assert!(slip == line || slip.parse::<PublicIdentity>().is_err(), "{slip}");
            }
            assert!(line[..at].parse::<PublicIdentity>().is_err());
        }
        assert!(format!("{line}A").parse::<PublicIdentity>().is_err());
    }

    #[test]
    fn weak_keys_are_refused() {
        let good = identity(1).public().to_bytes();
        assert!(PublicIdentity::from_bytes(&good).is_ok());
        let (mut signer, mut sealing) = (good, good);
        signer[..32].copy_from_slice(&[[1].as_slice(), &[0; 31]].concat());
        assert!(PublicIdentity::from_bytes(&signer).unwrap_err().to_string().contains("Ed25519"));
        sealing[32..].copy_from_slice(&[0; 32]);
        assert!(PublicIdentity::from_bytes(&sealing).unwrap_err().to_string().contains("X25519"));
    }

    #[test]
    fn an_identity_reads_again_as_it_was_written() {
        let identity = Identity::generate().unwrap();
        let text = identity.to_toml();
        let again = Identity::from_toml(&text).unwrap();
        assert_eq!((again.public(), &*again.to_toml()), (identity.public(), &*text));
        assert!(text.len() < limits::IDENTITY_BYTES);
        let other = self::identity(2).public().to_string();
        let changed = text.replace(&identity.public().to_string(), &other);
        assert!(Identity::from_toml(&changed).unwrap_err().to_string().contains("changed"));
        for wrong in
            ["", "sign = \"00\"", &format!("{}x = 1", *text), &"#".repeat(limits::IDENTITY_BYTES + 1)]
        {
            assert!(Identity::from_toml(wrong).is_err(), "{wrong}");
        }
        let secret = "0123456789abcdef".repeat(4);
        let refused = Identity::from_toml(&format!("open = \"{secret}0\"")).unwrap_err().to_string();
        assert!(refused.contains("line 1") && !refused.contains("0123456789abcdef"), "{refused}");
    }
}
