//! Keys, and what they are called.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::secret_file::digits;
use crate::error::{BusError, BusResult};

/// A secret of 256 bits that a group shares. It is never printed, and is overwritten when it is dropped.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; Key::LEN]>);

impl Key {
    /// Bytes of a key.
    pub const LEN: usize = 32;

    /// A key of the system's random generator.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] if that does not work.
    pub fn generate() -> BusResult<Self> {
        let mut bytes = Zeroizing::new([0; Self::LEN]);
        getrandom::fill(&mut *bytes).map_err(|error| {
            BusError::InvalidSettings(format!("the system's random generator does not work: {error}"))
        })?;
        Ok(Self(bytes))
    }

    /// The key of these bytes, which have to be random.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// What the key is called. It follows from the key and tells nothing of it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let hash = Sha256::new().chain_update(KeyId::DOMAIN).chain_update(*self.0).finalize();
        let mut id = [0; KeyId::LEN];
        id.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        KeyId(id)
    }

    /// The secret itself.
    pub(crate) fn reveal(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Key({})", self.id())
    }
}

/// What a key is called: the first bytes of SHA-256 over `whispeer key id` and the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; KeyId::LEN]);

impl KeyId {
    /// Bytes of an id.
    pub const LEN: usize = 8;

    const DOMAIN: &'static [u8] = b"whispeer key id";

    /// The id of these bytes, as they stand in an envelope.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes, as they stand in an envelope.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        self.0
    }
}

impl fmt::Display for KeyId {
    /// In hexadecimal.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl FromStr for KeyId {
    type Err = BusError;

    /// Reads what [`Display`](fmt::Display) has written.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for anything else.
    fn from_str(text: &str) -> Result<Self, BusError> {
        let id = digits(text).map(|id| Self(*id));
        id.ok_or_else(|| BusError::InvalidSettings(format!("\"{text}\" is no id of a key")))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "KeyId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_shows_its_id_and_nothing_else() {
        let key = Key::from_bytes([7; 32]);
        assert_eq!(format!("{key:?}"), format!("Key({})", key.id()));
        assert_eq!(key.id().to_string().len(), 2 * KeyId::LEN);
        assert_ne!(key.id(), Key::from_bytes([8; 32]).id());
        assert_eq!(KeyId::from_bytes(key.id().to_bytes()), key.id());
        assert_eq!(key.id().to_string().parse::<KeyId>().unwrap(), key.id());
        for wrong in ["", "00", "0123456789abcdeg", "0123456789abcdef0", "+123456789abcdef", "€€€€€1"]
        {
            assert!(wrong.parse::<KeyId>().is_err(), "{wrong}");
        }
    }
}
