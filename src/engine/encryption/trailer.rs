//! What stands behind the content, encrypted with it.
//!
//! ```text
//! content … · [zeros … · their number 4] · [signer 32 · signature 64] · inner tag 1 · flags 1
//! ```
//!
//! It stands behind, so that opening never moves the content.

use super::signature::{SIGNED, SigningIdentity};
use crate::engine::Content;
use crate::error::EngineError;

/// Flag: there is padding.
const IS_PADDED: u8 = 1;
/// Flag: there is a signature.
const IS_SIGNED: u8 = 2;

/// Bytes of the tag and the flags.
const LAST: usize = 2;
/// Bytes of the number of zeros.
const COUNT: usize = 4;

/// Bytes of the longest trailer, without padding.
pub(super) const LONGEST: usize = COUNT + SIGNED + LAST;

/// How the length of what is encrypted is hidden. The receiver needs no setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Padding {
    /// It is not: the length of the payload can be seen.
    #[default]
    None,
    /// Padmé, of "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs" (2019): at most 12 %
    /// more, and less for large ones. What is seen is one of a few dozen lengths for each power of two.
    Padme,
    /// The next power of two, and above 1 MiB the next whole MiB: up to twice as long, and the least that can be seen. So
    /// much less than the frame limit fits into a frame.
    PowersOfTwo,
}

impl Padding {
    /// Bytes that nothing padded is shorter than: below, the length would say too much of a small message.
    const LEAST: usize = 64;

    /// Where powers of two end: what is larger would not fit into a frame twice as large.
    const LARGEST_STEP: usize = 1024 * 1024;

    /// The length that so many bytes get.
    fn padded(self, length: usize) -> usize {
        let least = length.max(Self::LEAST);
        match self {
            Self::None => length,
            Self::PowersOfTwo if least > Self::LARGEST_STEP => {
                least.checked_next_multiple_of(Self::LARGEST_STEP).unwrap_or(least)
            }
            Self::PowersOfTwo => least.next_power_of_two(),
            Self::Padme => {
                // The more bits a length has, the more of its last ones are zero.
                let exponent = least.ilog2();
                let kept = exponent.checked_ilog2().unwrap_or(0) + 1;
                let mask = (1_usize << exponent.saturating_sub(kept)) - 1;
                least.checked_add(mask).map_or(least, |length| length & !mask)
            }
        }
    }

    /// Zeros behind so many bytes, if there is to be padding.
    pub(super) fn zeros(self, content: usize, is_signed: bool) -> Option<usize> {
        let signed = if is_signed { SIGNED } else { 0 };
        let length = content.checked_add(COUNT + signed + LAST)?;
        match self {
            Self::None => None,
            Self::PowersOfTwo | Self::Padme => Some(self.padded(length) - length),
        }
    }
}

/// Appends the content and what belongs behind it.
pub(super) fn append(
    output: &mut Vec<u8>,
    content: Content<'_>,
    associated: &[u8],
    padding: Padding,
    signing: Option<&SigningIdentity>,
) -> Result<(), EngineError> {
    output.extend_from_slice(content.bytes);
    let mut flags = 0;
    if let Some(zeros) = padding.zeros(content.bytes.len(), signing.is_some()) {
        let too_long = |_| EngineError::Failed { reason: "it is too long to be padded".to_owned() };
        let count = u32::try_from(zeros).map_err(too_long)?;
        output.resize(output.len() + zeros, 0);
        output.extend_from_slice(&count.to_le_bytes());
        flags |= IS_PADDED;
    }
    if let Some(key) = signing {
        output.extend_from_slice(&key.sign(associated, content));
        flags |= IS_SIGNED;
    }
    output.extend_from_slice(&[content.tag, flags]);
    Ok(())
}

/// What stands behind the content.
pub(super) struct Trailer<'a> {
    pub(super) content: Content<'a>,
    pub(super) signed: Option<&'a [u8; SIGNED]>,
}

impl<'a> Trailer<'a> {
    /// Takes what was decrypted apart.
    pub(super) fn split(decrypted: &'a [u8]) -> Result<Self, EngineError> {
        let malformed = |what| Err(EngineError::Malformed { what });
        let Some((mut rest, [tag, flags])) = decrypted.split_last_chunk() else {
            return malformed("what was encrypted is empty");
        };
        if flags & !(IS_PADDED | IS_SIGNED) != 0 {
            return malformed("what was encrypted has flags that are not known");
        }
        let mut signed = None;
        if flags & IS_SIGNED != 0 {
            let Some((before, last)) = rest.split_last_chunk() else {
                return malformed("its signature is cut off");
            };
            (rest, signed) = (before, Some(last));
        }
        if flags & IS_PADDED != 0 {
            let Some((before, count)) = rest.split_last_chunk() else {
                return malformed("its padding is cut off");
            };
            let zeros = usize::try_from(u32::from_le_bytes(*count)).unwrap_or(usize::MAX);
            let Some(content) = before.len().checked_sub(zeros).and_then(|length| before.get(..length))
            else {
                return malformed("its padding is longer than all of it");
            };
            rest = content;
        }
        Ok(Self { content: Content { tag: *tag, bytes: rest }, signed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padded_lengths_are_few_and_not_much_longer() {
        let lengths = |padding: Padding| {
            let padded: std::collections::BTreeSet<_> =
                (0..1 << 20).map(|length| padding.padded(length)).collect();
            padded.len()
        };
        assert_eq!(lengths(Padding::PowersOfTwo), 15);
        assert!(lengths(Padding::Padme) < 300, "{}", lengths(Padding::Padme));
        for length in (65..1 << 20).step_by(31) {
            let padded = Padding::Padme.padded(length);
            assert!(padded >= length && (padded - length) * 100 <= length * 12, "{length} becomes {padded}");
        }
        assert_eq!(Padding::PowersOfTwo.padded((9 << 20) + 1), 10 << 20);
        assert_eq!(Padding::PowersOfTwo.padded(usize::MAX), usize::MAX);
        assert_eq!(Padding::Padme.padded(1), 64);
        assert_eq!(Padding::Padme.padded(usize::MAX), usize::MAX);
    }
}
