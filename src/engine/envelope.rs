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

/// Whether this would be taken for a sealed payload.
pub(crate) fn looks_sealed(payload: &[u8]) -> bool {
    payload.starts_with(&MAGIC)
}

/// The id of the engine that has sealed it last, if it is sealed.
pub(crate) fn sealed_by(payload: &[u8]) -> Option<u8> {
    split(payload).ok().flatten().map(|(tag, _)| tag)
}

/// The head of a payload that the engine of this tag has sealed last.
pub(super) fn head(tag: u8) -> [u8; HEAD] {
    let [first, second] = MAGIC;
    [first, second, VERSION, tag]
}

/// The tag and what follows it; `None` for a payload that is not sealed.
pub(super) fn split(payload: &[u8]) -> Result<Option<(u8, &[u8])>, EngineError> {
    if !looks_sealed(payload) {
        return Ok(None);
    }
    match payload.get(MAGIC.len()..) {
        Some([VERSION, tag, sealed @ ..]) => Ok(Some((*tag, sealed))),
        Some([version, ..]) if *version != VERSION => Err(EngineError::UnknownVersion { version: *version }),
        _ => Err(EngineError::Malformed { what: "the envelope is cut off" }),
    }
}
