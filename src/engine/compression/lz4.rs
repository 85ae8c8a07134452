//! A block of lz4, behind the length of its content.
//!
//! A block does not say how large its content is, so the length stands before it. It is a claim like any other: for a
//! large one, the block is first walked through, which shows what it really holds without producing it.

use std::cell::Cell;

use lz4_flex::block::{self, CompressTable};

use super::{is_trusted, within};
use crate::error::EngineError;

/// Bytes of the length.
const LENGTH: usize = 4;

/// Bytes of a match at least.
const SHORTEST_MATCH: usize = 4;

/// Bytes from which on positions do not fit into the small table.
const LARGE: usize = u16::MAX as usize;

/// What a length in a token says when more of it follows.
const CONTINUED: usize = 15;

thread_local! {
    static SMALL: Cell<Option<CompressTable>> = const { Cell::new(None) };
    static LARGER: Cell<Option<CompressTable>> = const { Cell::new(None) };
}

/// Bytes of a compressed content at the most.
pub(super) fn bound(length: usize) -> usize {
    LENGTH + block::get_maximum_output_size(length)
}

/// Appends the content, compressed. Says false if it cannot be, and then what stands in `output` counts for nothing.
pub(super) fn compress(bytes: &[u8], output: &mut Vec<u8>) -> bool {
    let Some(length) = u32::try_from(bytes.len()).ok().filter(|length| *length <= i32::MAX as u32) else {
        return false;
    };
    output.extend_from_slice(&length.to_le_bytes());
    let start = output.len();
    output.resize(start + block::get_maximum_output_size(bytes.len()), 0);
    let written = with_table(bytes.len(), |table| {
        block::compress_into_with_table(bytes, output.get_mut(start..)?, table).ok()
    });
    output.truncate(start + written.unwrap_or(0));
    written.is_some()
}

/// Calls `work` with a table of this thread.
fn with_table<R>(length: usize, work: impl FnOnce(&mut CompressTable) -> R) -> R {
    let (place, new): (_, fn() -> CompressTable) =
        if length < LARGE { (&SMALL, CompressTable::small) } else { (&LARGER, CompressTable::large) };
    // A thread that is ending has no place for one any more.
    let mut table = place.try_with(Cell::take).ok().flatten().unwrap_or_else(new);
    let result = work(&mut table);
    let _ = place.try_with(|place| place.set(Some(table)));
    result
}

/// Appends the content of what [`compress`] has made.
pub(super) fn decompress(data: &[u8], limit: usize, output: &mut Vec<u8>) -> Result<(), EngineError> {
    let Some((length, block)) = data.split_first_chunk::<LENGTH>() else {
        return Err(EngineError::Malformed { what: "the length before its block of lz4 is cut off" });
    };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    within(length, limit)?;
    if !is_trusted(length, data.len()) && content_length(block) != Some(length) {
        return Err(DAMAGED);
    }
    let start = output.len();
    output.resize(start + length, 0);
    let written = output.get_mut(start..).map(|content| block::decompress_into(block, content));
    match written {
        Some(Ok(written)) if written == length => Ok(()),
        _ => Err(DAMAGED),
    }
}

const DAMAGED: EngineError = EngineError::Malformed { what: "its block of lz4 is not what its length says" };

/// Bytes that a block holds, without producing them; `None` if it is damaged.
fn content_length(block: &[u8]) -> Option<usize> {
    let mut rest = block;
    let mut length = 0_usize;
    loop {
        let token = usize::from(*rest.split_off_first()?);
        let literals = continued(token >> 4, &mut rest)?;
        rest.split_off(..literals)?;
        length = length.checked_add(literals)?;
        if rest.is_empty() {
            return Some(length);
        }
        let offset = rest.split_off(..2)?;
        let offset = usize::from(u16::from_le_bytes(offset.try_into().ok()?));
        if offset == 0 || offset > length {
            return None;
        }
        let matched = continued(token & 15, &mut rest)?.checked_add(SHORTEST_MATCH)?;
        length = length.checked_add(matched)?;
    }
}

/// A length of which a token holds the beginning.
fn continued(begun: usize, rest: &mut &[u8]) -> Option<usize> {
    let mut length = begun;
    if begun == CONTINUED {
        loop {
            let more = *rest.split_off_first()?;
            length = length.checked_add(usize::from(more))?;
            if more != u8::MAX {
                break;
            }
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_length_of_a_block_is_what_it_decompresses_to(
            words in prop::collection::vec(0_u8..4, 0..4_000),
            repeated in 1_usize..40,
        ) {
            let bytes = words.repeat(repeated);
            prop_assert_eq!(content_length(&block::compress(&bytes)), Some(bytes.len()));
        }

        #[test]
        fn a_block_that_decompresses_has_a_length(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut content = vec![0; 64 * 1024];
            if let Ok(length) = block::decompress_into(&bytes, &mut content) {
                prop_assert_eq!(content_length(&bytes), Some(length));
            }
        }
    }
}
