//! The head of a sealed payload.
//!
//! ```text
//! C1 57  version  tag  what the engine of that tag has written …
//! ```
//!
//! No MessagePack begins with `C1`, so that a payload of values is never taken for a sealed one.

use crate::error::EngineError;

/// What a sealed payload begins with.
const MAGIC: [u8; 2] = [0xC1, 0x57];

/// The version of the envelope.
const VERSION: u8 = 1;

/// Bytes of the head.
pub(super) const HEAD: usize = 4;

/// The tag of the payload itself.
pub(super) const PAYLOAD: u8 = 0;

/// Whether a payload is sealed, as far as its head tells: it is then of no use to who has no engines for it.
///
/// No value of a typed client begins like that. Bytes that an application makes up may, and are refused as a sealed payload is.
/// A [value of the process](crate::proto::Content::value) never is, so that it need not be encoded to find out.
///
/// # Examples
/// ```
/// use whispeer::engine::{is_sealed, sealed_by};
///
/// let sealed = [0xC1, 0x57, 1, 200, 0x2A];
/// assert!(is_sealed(&sealed) && !is_sealed(b"hello"));
/// assert_eq!(sealed_by(&sealed), Some(200));
/// // Of an envelope of another version nobody can tell by whom.
/// let later = [0xC1, 0x57, 9, 200];
/// assert!(is_sealed(&later) && sealed_by(&later).is_none());
/// ```
#[must_use]
pub fn is_sealed(payload: &[u8]) -> bool {
    payload.starts_with(&MAGIC)
}

/// The [id](super::Engine::id) of the engine that has sealed a payload last. `None` for one that is not sealed, and for an
/// envelope that is cut off or of another version; [`is_sealed`] tells these apart.
#[must_use]
pub fn sealed_by(payload: &[u8]) -> Option<u8> {
    split(payload).ok().flatten().map(|(tag, _)| tag)
}

/// The head of a payload that the engine of this tag has sealed last.
pub(super) fn head(tag: u8) -> [u8; HEAD] {
    let [first, second] = MAGIC;
    [first, second, VERSION, tag]
}

/// The tag and what follows it; `None` for a payload that is not sealed.
pub(super) fn split(payload: &[u8]) -> Result<Option<(u8, &[u8])>, EngineError> {
    if !is_sealed(payload) {
        return Ok(None);
    }
    match payload.get(MAGIC.len()..) {
        Some([VERSION, tag, sealed @ ..]) => Ok(Some((*tag, sealed))),
        Some([version, ..]) if *version != VERSION => Err(EngineError::UnknownVersion { version: *version }),
        _ => Err(EngineError::Malformed { what: "the envelope is cut off" }),
    }
}
