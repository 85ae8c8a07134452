//! What people compare to be sure of an identity.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::identity::PublicIdentity;
use super::secret_file::digits;

/// What people compare to be sure of a [`PublicIdentity`]: the first 160 bits of SHA-256 over `whispeer identity 1` and both
/// keys, shown as ten groups of four hexadecimal digits.
///
/// # Examples
/// ```
/// use whispeer::engine::encryption::Fingerprint;
///
/// let fingerprint: Fingerprint = "9c5d-21f0-a7b3-e846-0b1c-7f7d-1e3c-04bc-d0d6-b1e6".parse()?;
/// assert_eq!("9C5D 21F0 A7B3 E846 0B1C 7F7D 1E3C 04BC D0D6 B1E6".parse(), Ok(fingerprint));
/// # Ok::<(), whispeer::engine::encryption::NoFingerprint>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; Fingerprint::LEN]);

impl Fingerprint {
    /// Bytes of a fingerprint.
    pub const LEN: usize = 20;

    const DOMAIN: &'static [u8] = b"whispeer identity 1";

    /// The fingerprint of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        self.0
    }

    pub(super) fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Of an identity's bytes, whether or not they are good keys.
    pub(super) fn of(identity: &[u8; PublicIdentity::LEN]) -> Self {
        let hash = Sha256::new().chain_update(Self::DOMAIN).chain_update(identity).finalize();
        let mut bytes = [0; Self::LEN];
        bytes.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pairs, _) = self.0.as_chunks::<2>();
        pairs.iter().enumerate().try_for_each(|(index, [one, other])| {
            let between = if index == 0 { "" } else { "-" };
            write!(formatter, "{between}{one:02x}{other:02x}")
        })
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Fingerprint({self})")
    }
}

/// A text is no [`Fingerprint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint has 40 hexadecimal digits, in groups of four with - or space between them")]
pub struct NoFingerprint;

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    /// Reads what [`Display`](fmt::Display) has written; spaces or nothing may stand for the hyphens.
    ///
    /// # Errors
    /// [`NoFingerprint`] for anything else.
    fn from_str(text: &str) -> Result<Self, NoFingerprint> {
        let text = text.trim();
        // Nobody needs one with more than this between the digits.
        if text.len() > 3 * 2 * Self::LEN {
            return Err(NoFingerprint);
        }
        let plain: String = text.chars().filter(|letter| !matches!(letter, '-' | ' ')).collect();
        digits(&plain).map(|bytes| Self(*bytes)).ok_or(NoFingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::Identity;
    use super::*;

    #[test]
    fn fingerprints_follow_from_both_keys_and_are_read_as_people_write_them() {
        let halves = |signing: u8, opening: u8| {
            Identity::from_bytes(&[signing; 32], &[opening; 32]).unwrap().public().fingerprint()
        };
        let fingerprint = halves(1, 101);
        let text = fingerprint.to_string();
        for written in [text.clone(), text.replace('-', " "), text.replace('-', "").to_uppercase()] {
            assert_eq!(written.parse(), Ok(fingerprint));
        }
        for wrong in ["", "9c5d", &text[1..], &format!("{text}0"), &text.replace('-', ":")] {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(NoFingerprint), "{wrong}");
        }
        assert_eq!(Fingerprint::from_bytes(fingerprint.to_bytes()), fingerprint);
        assert_ne!(halves(1, 2), halves(1, 3));
        assert_ne!(halves(1, 2), halves(3, 2));
    }
}
