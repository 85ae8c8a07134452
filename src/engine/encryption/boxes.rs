//! Keys sealed to somebody's public key: HPKE (RFC 9180) in its base mode, with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256
//! and ChaCha20-Poly1305.

use std::convert::Infallible;

use hpke::aead::AeadTag;
use hpke::rand_core::{CryptoRng, TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem as _, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

use super::key::Key;
use crate::error::{BusError, BusResult};

type Kem = hpke::kem::X25519HkdfSha256;
type Kdf = hpke::kdf::HkdfSha256;
type Aead = hpke::aead::ChaCha20Poly1305;

/// Bytes of a public key, and of a secret one.
pub(super) const KEY: usize = 32;

/// Bytes of the encapsulated key, which stands before the ciphertext.
const ENCAPSULATED: usize = 32;

/// Bytes of the tag behind the ciphertext.
const TAG: usize = 16;

/// Bytes of a sealed key.
pub(super) const BOX: usize = ENCAPSULATED + Key::LEN + TAG;

/// What a box is for: the same when it is sealed and when it is opened.
#[derive(Clone, Copy)]
pub(super) struct Purpose<'a> {
    pub(super) info: &'a [u8],
    pub(super) associated: &'a [u8],
}

/// The public key of a secret one.
pub(super) fn public(secret: &[u8; KEY]) -> Option<[u8; KEY]> {
    let secret = <Kem as hpke::Kem>::PrivateKey::from_bytes(secret).ok()?;
    Some(Kem::sk_to_pk(&secret).to_bytes().into())
}

/// Whether something can be sealed to this key: those of small order lead everybody to the same secret.
pub(super) fn is_usable(public: &[u8; KEY]) -> bool {
    // A receiver computes the same product as a sender, and HPKE has him refuse zero. Any secret shows it.
    let secret = <Kem as hpke::Kem>::PrivateKey::from_bytes(&[1; KEY]);
    let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(public);
    let (Ok(secret), Ok(encapsulated)) = (secret, encapsulated) else { return false };
    hpke::setup_receiver::<Aead, Kdf, Kem>(&OpModeR::Base, &secret, &encapsulated, &[]).is_ok()
}

/// Seals a key: encapsulated key, ciphertext, tag.
pub(super) fn seal(recipient: &[u8; KEY], purpose: Purpose<'_>, key: &Key) -> BusResult<[u8; BOX]> {
    let mut random = Random { error: None };
    let mut text = Zeroizing::new(*key.reveal());
    let sealed = seal_in_place(recipient, purpose, &mut *text, &mut random);
    if let Some(error) = random.error {
        return Err(BusError::InvalidSettings(format!(
            "the system's random generator does not work: {error}"
        )));
    }
    let (encapsulated, tag) = sealed.ok_or_else(|| {
        BusError::InvalidSettings("nothing can be sealed to a public key of small order".to_owned())
    })?;
    let mut bytes = [0; BOX];
    let parts = encapsulated.iter().chain(text.iter()).chain(&tag);
    bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
    Ok(bytes)
}

/// The key in a box, if it was sealed for this purpose to the public half of this secret.
pub(super) fn open(secret: &[u8; KEY], purpose: Purpose<'_>, sealed: &[u8; BOX]) -> Option<Key> {
    let (encapsulated, rest) = sealed.split_first_chunk::<ENCAPSULATED>()?;
    let (text, tag) = rest.split_first_chunk::<{ Key::LEN }>()?;
    let mut text = Zeroizing::new(*text);
    open_in_place(secret, encapsulated, purpose, &mut *text, tag)?;
    Some(Key::from_bytes(*text))
}

fn seal_in_place(
    recipient: &[u8; KEY],
    purpose: Purpose<'_>,
    text: &mut [u8],
    random: &mut impl CryptoRng,
) -> Option<([u8; ENCAPSULATED], [u8; TAG])> {
    let recipient = <Kem as hpke::Kem>::PublicKey::from_bytes(recipient).ok()?;
    let (encapsulated, tag) = hpke::single_shot_seal_inout_detached_with_rng::<Aead, Kdf, Kem>(
        &OpModeS::Base,
        &recipient,
        purpose.info,
        text.into(),
        purpose.associated,
        random,
    )
    .ok()?;
    Some((encapsulated.to_bytes().into(), tag.to_bytes().into()))
}

fn open_in_place(
    secret: &[u8; KEY],
    encapsulated: &[u8],
    purpose: Purpose<'_>,
    text: &mut [u8],
    tag: &[u8],
) -> Option<()> {
    let secret = <Kem as hpke::Kem>::PrivateKey::from_bytes(secret).ok()?;
    let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(encapsulated).ok()?;
    let tag = AeadTag::<Aead>::from_bytes(tag).ok()?;
    hpke::single_shot_open_inout_detached::<Aead, Kdf, Kem>(
        &OpModeR::Base,
        &secret,
        &encapsulated,
        purpose.info,
        text.into(),
        purpose.associated,
        &tag,
    )
    .ok()
}

/// The system's random generator. Its error is told afterwards, since `hpke` has no way to hand it on; what was made of
/// bytes that are not random is thrown away then.
struct Random {
    error: Option<getrandom::Error>,
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        if let Err(error) = getrandom::fill(bytes) {
            self.error = Some(error);
        }
        Ok(())
    }
}

impl TryCryptoRng for Random {}

#[cfg(test)]
mod tests {
    use super::super::tests::vectors::{bytes, cases};
    use super::*;

    /// Says what a published case says.
    struct Published(Vec<u8>);

    impl TryRng for Published {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            unreachable!("a seed is drawn as bytes")
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            unreachable!("a seed is drawn as bytes")
        }

        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
            bytes.copy_from_slice(&self.0);
            Ok(())
        }
    }

    impl TryCryptoRng for Published {}

    #[test]
    fn what_rfc_9180_has_published_is_sealed_and_opened() {
        let cases = cases(include_str!("tests/vectors/hpke.json"));
        for case in &cases {
            let [info, seed, secret, recipient, encapsulated, text, associated, sealed] = &case.columns[..]
            else {
                panic!("eight columns")
            };
            let purpose = Purpose { info, associated };
            let recipient: [u8; KEY] = recipient.as_slice().try_into().unwrap();
            let secret: [u8; KEY] = secret.as_slice().try_into().unwrap();
            assert_eq!(public(&secret), Some(recipient));

            let mut made = text.clone();
            let mut random = Published(seed.clone());
            let (key, tag) = seal_in_place(&recipient, purpose, &mut made, &mut random).unwrap();
            assert_eq!((key.as_slice(), [&made[..], &tag].concat()), (&encapsulated[..], sealed.clone()));

            let (ciphertext, tag) = sealed.split_at(sealed.len() - TAG);
            let mut opened = ciphertext.to_vec();
            open_in_place(&secret, encapsulated, purpose, &mut opened, tag).unwrap();
            assert_eq!(opened, *text);
            for purpose in [Purpose { info: b"", ..purpose }, Purpose { associated: b"", ..purpose }] {
                let mut refused = ciphertext.to_vec();
                assert_eq!(open_in_place(&secret, encapsulated, purpose, &mut refused, tag), None);
            }
        }
        assert!(!cases.is_empty());
    }

    #[test]
    fn a_box_opens_for_its_recipient_and_purpose_alone_and_no_bit_of_it_can_be_changed() {
        let key = Key::generate().unwrap();
        let (secret, other) = ([5; KEY], [6; KEY]);
        let purpose = Purpose { info: b"info", associated: b"associated" };
        let sealed = seal(&public(&secret).unwrap(), purpose, &key).unwrap();
        assert_eq!(open(&secret, purpose, &sealed), Some(key.clone()));
        assert_eq!(open(&other, purpose, &sealed), None);
        assert_eq!(open(&secret, Purpose { info: b"else", ..purpose }, &sealed), None);
        assert_ne!(seal(&public(&secret).unwrap(), purpose, &key).unwrap(), sealed, "each is made afresh");
        for bit in 0..8 * BOX {
            let mut changed = sealed;
            changed[bit / 8] ^= 1 << (bit % 8);
            // X25519 ignores the highest bit of a key, but HPKE's key schedule does not.
            assert_eq!(open(&secret, purpose, &changed), None, "bit {bit}");
        }
    }

    #[test]
    fn keys_of_small_order_are_not_usable() {
        for small in [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ] {
            for mask in [0, 0x80] {
                let mut public: [u8; KEY] = bytes(small).try_into().unwrap();
                public[31] |= mask;
                assert!(!is_usable(&public), "{small}");
                assert!(
                    seal(&public, Purpose { info: b"", associated: b"" }, &Key::from_bytes([1; 32])).is_err()
                );
            }
        }
        assert!(is_usable(&public(&[5; KEY]).unwrap()));
    }
}
