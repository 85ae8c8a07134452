//! Grants: a key of some topics, sealed to each of its members and signed by whoever hands it out.
//!
//! ```text
//! "whispeer grant" 14 · version 1 · flags 1 · granter 64 · key id 8 · generation 8 · length 2 · pattern ·
//! count 2 · fingerprints 20 each · boxes 80 each · signature 64
//! ```
//!
//! Numbers are little-endian. The header, which is all before the boxes, is bound into each box, so that none opens in
//! another grant; and all before the signature is signed.

use sha2::{Digest, Sha256, Sha512};

use super::boxes::{self, BOX, Purpose};
use super::fingerprint::Fingerprint;
use super::identity::{Identity, PublicIdentity};
use super::key::{Key, KeyId};
use super::refusal::GrantError;
use super::signature::verify_text;
use crate::error::BusResult;
use crate::limits;
use crate::topic::TopicPattern;

const MAGIC: &[u8; 14] = b"whispeer grant";
const VERSION: u8 = 1;

/// In the flags: it is for the topics of the pattern, and not for all that no pattern is for.
const HAS_PATTERN: u8 = 1;

/// In the flags: all other keys of these topics are to be retired.
const RETIRES: u8 = 2;

/// Bytes of the signature.
const SIGNATURE: usize = 64;

/// Bytes of what stands in each grant.
const FIXED: usize = MAGIC.len() + 2 + PublicIdentity::LEN + KeyId::LEN + 8 + 2 + 2 + SIGNATURE;

const _: () = {
    let most = FIXED + limits::MAX_TOPIC_BYTES + limits::GRANT_RECIPIENTS * (Fingerprint::LEN + BOX);
    assert!(most <= limits::GRANT_BYTES, "every grant that can be made is taken");
};

/// What the signature is for. None of a message begins with it.
const SIGNED: &[u8; 16] = b"whispeer grant 1";

/// What a box is for.
const BOXED: &[u8; 20] = b"whispeer grant box 1";

/// Bytes of a hash of a header, with what it is for before it.
const INFO: usize = BOXED.len() + 32;

/// What a grant says, beside to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    /// `None` for all topics that no pattern is for.
    pub(super) pattern: Option<TopicPattern>,
    pub(super) key: KeyId,
    pub(super) generation: u64,
    /// Whether all other keys of these topics are to be retired.
    pub(super) retires: bool,
}

/// A grant that is well formed. Nothing it says is known to be true.
#[derive(Debug)]
pub(super) struct Grant<'a> {
    pub(super) granter: [u8; PublicIdentity::LEN],
    pub(super) terms: Terms,
    /// In rising order.
    recipients: &'a [[u8; Fingerprint::LEN]],
    /// In the same order.
    boxes: &'a [[u8; BOX]],
    header: &'a [u8],
    signed: &'a [u8],
    signature: &'a [u8; SIGNATURE],
}

impl<'a> Grant<'a> {
    /// Takes a grant apart.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, GrantError> {
        if bytes.len() > limits::GRANT_BYTES {
            return Err(GrantError::TooLarge { size: bytes.len(), limit: limits::GRANT_BYTES });
        }
        let mut reader = Reader { rest: bytes };
        if reader.take::<{ MAGIC.len() }>()? != MAGIC {
            return Err(GrantError::Malformed { what: "it does not begin as grants do" });
        }
        let [version] = *reader.take()?;
        if version != VERSION {
            return Err(GrantError::UnknownVersion { version });
        }
        let [flags] = *reader.take()?;
        let granter = *reader.take()?;
        let key = KeyId::from_bytes(*reader.take()?);
        let generation = u64::from_le_bytes(*reader.take()?);
        if generation == 0 || generation > limits::GRANT_GENERATION_MAX {
            return Err(GrantError::Malformed { what: "its generation is none that there can be" });
        }
        let length = u16::from_le_bytes(*reader.take()?);
        let pattern = pattern(flags, reader.slice(usize::from(length))?)?;
        let count = usize::from(u16::from_le_bytes(*reader.take()?));
        if count > limits::GRANT_RECIPIENTS {
            return Err(GrantError::TooManyRecipients { count, limit: limits::GRANT_RECIPIENTS });
        }
        let recipients = reader.chunks(count)?;
        if !recipients.is_sorted_by(|one, next| one < next) {
            return Err(GrantError::Malformed { what: "its recipients are not in order" });
        }
        let header = bytes.get(..bytes.len() - reader.rest.len()).unwrap_or_default();
        let boxes = reader.chunks(count)?;
        let signed = bytes.get(..bytes.len() - reader.rest.len()).unwrap_or_default();
        let signature = reader.take()?;
        if !reader.rest.is_empty() {
            return Err(GrantError::Malformed { what: "something stands behind it" });
        }
        let terms = Terms { pattern, key, generation, retires: flags & RETIRES != 0 };
        Ok(Self { granter, terms, recipients, boxes, header, signed, signature })
    }

    /// Whether its granter has signed it, as it is.
    pub(super) fn is_signed(&self) -> bool {
        let Some((signer, _)) = self.granter.split_first_chunk() else { return false };
        verify_text(signer, self.signature, &statement(self.signed)).is_some()
    }

    /// The box of this identity.
    pub(super) fn sealed_for(&self, member: Fingerprint) -> Option<&'a [u8; BOX]> {
        let index = self.recipients.binary_search(&member.to_bytes()).ok()?;
        self.boxes.get(index)
    }

    /// The key in a box, if it is the one that the grant speaks of.
    pub(super) fn open(&self, member: &Identity, sealed: &[u8; BOX]) -> Result<Key, GrantError> {
        let fingerprint = member.public().fingerprint().to_bytes();
        let purpose = Purpose { info: &info(self.header), associated: &fingerprint };
        let key = boxes::open(member.opening(), purpose, sealed).ok_or(GrantError::Unopened)?;
        match key.id() == self.terms.key {
            true => Ok(key),
            false => Err(GrantError::WrongKey { stated: self.terms.key, sealed: key.id() }),
        }
    }
}

impl Terms {
    /// Makes a grant of this key, to recipients in the order of their fingerprints.
    pub(super) fn grant(
        &self,
        granter: &Identity,
        key: &Key,
        recipients: &[PublicIdentity],
    ) -> BusResult<Vec<u8>> {
        let pattern = self.pattern.as_ref().map_or("", TopicPattern::as_str);
        let has_pattern = if self.pattern.is_some() { HAS_PATTERN } else { 0 };
        let retires = if self.retires { RETIRES } else { 0 };
        let each = Fingerprint::LEN + BOX;
        let mut grant = Vec::with_capacity(FIXED + pattern.len() + each * recipients.len());
        grant.extend_from_slice(MAGIC);
        grant.extend_from_slice(&[VERSION, has_pattern | retires]);
        grant.extend_from_slice(&granter.public().to_bytes());
        grant.extend_from_slice(&self.key.to_bytes());
        grant.extend_from_slice(&self.generation.to_le_bytes());
        push_text(&mut grant, pattern.as_bytes());
        grant.extend_from_slice(&u16::try_from(recipients.len()).unwrap_or(u16::MAX).to_le_bytes());
        let fingerprints: Vec<_> = recipients.iter().map(|member| member.fingerprint().to_bytes()).collect();
        fingerprints.iter().for_each(|fingerprint| grant.extend_from_slice(fingerprint));
        let info = info(&grant);
        for (member, fingerprint) in recipients.iter().zip(&fingerprints) {
            let purpose = Purpose { info: &info, associated: fingerprint };
            grant.extend_from_slice(&boxes::seal(member.sealing(), purpose, key)?);
        }
        let signature = granter.signing().sign_statement(&statement(&grant));
        grant.extend_from_slice(&signature);
        Ok(grant)
    }
}

/// The pattern of a grant, if it is one and stands there as everybody writes it.
fn pattern(flags: u8, bytes: &[u8]) -> Result<Option<TopicPattern>, GrantError> {
    if flags & !(HAS_PATTERN | RETIRES) != 0 {
        return Err(GrantError::Malformed { what: "it has flags that are not known" });
    }
    if flags & HAS_PATTERN == 0 {
        return match bytes.is_empty() {
            true => Ok(None),
            false => Err(GrantError::Malformed { what: "it has a pattern, and says that it has none" }),
        };
    }
    let wrong = GrantError::Malformed { what: "its pattern is none" };
    match TopicPattern::from_utf8(bytes) {
        Ok(pattern) if pattern.as_str().as_bytes() == bytes && !pattern.is_reserved() => Ok(Some(pattern)),
        _ => Err(wrong),
    }
}

fn push_text(grant: &mut Vec<u8>, text: &[u8]) {
    // A pattern has fewer bytes by far.
    grant.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
    grant.extend_from_slice(text);
}

/// What each box is bound to, beside its recipient.
fn info(header: &[u8]) -> [u8; INFO] {
    let mut info = [0; INFO];
    let (domain, hash) = info.split_at_mut(BOXED.len());
    domain.copy_from_slice(BOXED);
    hash.copy_from_slice(&Sha256::digest(header));
    info
}

/// What is signed.
fn statement(signed: &[u8]) -> [u8; SIGNED.len() + 64] {
    let mut statement = [0; SIGNED.len() + 64];
    let (domain, hash) = statement.split_at_mut(SIGNED.len());
    domain.copy_from_slice(SIGNED);
    hash.copy_from_slice(&Sha512::digest(signed));
    statement
}

/// Takes bytes off, one field after the other.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    const CUT_OFF: GrantError = GrantError::Malformed { what: "it is cut off" };

    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], GrantError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Self::CUT_OFF)?;
        self.rest = rest;
        Ok(taken)
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8], GrantError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Self::CUT_OFF)?;
        self.rest = rest;
        Ok(taken)
    }

    fn chunks<const N: usize>(&mut self, count: usize) -> Result<&'a [[u8; N]], GrantError> {
        let bytes = self.slice(count.checked_mul(N).ok_or(Self::CUT_OFF)?)?;
        Ok(bytes.as_chunks().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(number: u8) -> Identity {
        Identity::from_bytes(&[number; 32], &[number + 100; 32]).unwrap()
    }

    #[test]
    fn a_box_opens_in_its_own_grant_and_place_alone_whoever_signs() {
        let (granter, members) = (identity(1), [identity(2), identity(3)]);
        let key = Key::from_bytes([7; 32]);
        let mut recipients = members.each_ref().map(|member| *member.public());
        recipients.sort_by_key(PublicIdentity::fingerprint);
        let terms = Terms { pattern: None, key: key.id(), generation: 1, retires: false };
        let made = |terms: &Terms| terms.grant(&granter, &key, &recipients).unwrap();
        let (one, other) = (made(&terms), made(&Terms { generation: 2, ..terms.clone() }));
        let boxes = one.len() - SIGNATURE - 2 * BOX;
        // Signed anew, as a granter could.
        let signed = |mut grant: Vec<u8>| {
            grant.truncate(grant.len() - SIGNATURE);
            let signature = granter.signing().sign_statement(&statement(&grant));
            grant.extend_from_slice(&signature);
            grant
        };
        let mut swapped = one.clone();
        swapped[boxes..boxes + 2 * BOX].rotate_left(BOX);
        let mut moved = one.clone();
        moved[boxes..boxes + 2 * BOX].copy_from_slice(&other[boxes..boxes + 2 * BOX]);
        for member in &members {
            for (grant, opens) in
                [(one.clone(), true), (signed(swapped.clone()), false), (signed(moved.clone()), false)]
            {
                let grant = Grant::parse(&grant).unwrap();
                assert!(grant.is_signed());
                let sealed = grant.sealed_for(member.public().fingerprint()).unwrap();
                let opened = grant.open(member, sealed);
                assert_eq!(opened.is_ok(), opens);
                assert!(opens || opened == Err(GrantError::Unopened));
            }
        }
        assert!(!Grant::parse(&swapped).unwrap().is_signed());
        assert!(Grant::parse(&one).unwrap().sealed_for(granter.public().fingerprint()).is_none());
    }
}
