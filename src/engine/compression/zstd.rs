//! A frame of zstd, and the states that a thread keeps.
//!
//! Only one frame is read, which has to be all that there is, and to say how large its content is. So it is known
//! before anything is set aside whether it is allowed.

use std::cell::Cell;
use std::io::Cursor;
use std::thread::LocalKey;

use zstd_safe::{CCtx, CDict, DCtx, DParameter, ErrorCode, InBuffer, OutBuffer};

use super::dictionary::Dictionary;
use super::{is_trusted, within};
use crate::error::EngineError;
use crate::limits;

/// What a frame begins with.
const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

thread_local! {
    static COMPRESSING: Cell<Option<CCtx<'static>>> = const { Cell::new(None) };
    static DECOMPRESSING: Cell<Option<DCtx<'static>>> = const { Cell::new(None) };
}

/// Bytes of a compressed content at the most.
pub(super) fn bound(length: usize) -> usize {
    zstd_safe::compress_bound(length)
}

/// Appends the content as one frame. It has no checksum: links and encryption have theirs.
pub(super) fn compress(
    bytes: &[u8],
    level: i32,
    dictionary: Option<&CDict<'static>>,
    output: &mut Vec<u8>,
) -> Result<(), EngineError> {
    // With less room it would take a slower way.
    output.reserve(bound(bytes.len()));
    let mut target = behind(output);
    with_state(&COMPRESSING, CCtx::try_create, CCtx::sizeof, |state| match dictionary {
        Some(dictionary) => state.compress_using_cdict(&mut target, bytes, dictionary),
        None => state.compress(&mut target, bytes, level),
    })?
    .map_err(|code| EngineError::Failed { reason: zstd_safe::get_error_name(code).to_owned() })?;
    Ok(())
}

/// Appends the content of a frame.
pub(super) fn decompress(
    frame: &[u8],
    limit: usize,
    dictionaries: &[Dictionary],
    output: &mut Vec<u8>,
) -> Result<(), EngineError> {
    let head = Head::read(frame)?;
    within(head.content, limit)?;
    if head.window > limits::COMPRESSION_WINDOW as u64 {
        return Err(EngineError::Malformed { what: "its window of zstd is larger than 8 MiB" });
    }
    if zstd_safe::find_frame_compressed_size(frame).map_err(damaged)? != frame.len() {
        return Err(EngineError::Malformed { what: "something follows its frame of zstd" });
    }
    let dictionary = match head.dictionary {
        0 => None,
        id => {
            let found = dictionaries.iter().find(|dictionary| dictionary.id() == id);
            Some(found.ok_or(EngineError::UnknownDictionary { id })?)
        }
    };
    let start = output.len();
    if is_trusted(head.content, frame.len()) {
        at_once(frame, head.content, dictionary, output)?;
    } else {
        by_and_by(frame, head.content, dictionary, output)?;
    }
    if output.len() - start == head.content {
        Ok(())
    } else {
        Err(EngineError::Malformed { what: "its frame of zstd holds another number of bytes than it says" })
    }
}

fn at_once(
    frame: &[u8],
    content: usize,
    dictionary: Option<&Dictionary>,
    output: &mut Vec<u8>,
) -> Result<(), EngineError> {
    output.reserve(content);
    let mut target = behind(output);
    with_state(&DECOMPRESSING, DCtx::try_create, DCtx::sizeof, |state| match dictionary {
        Some(dictionary) => state.decompress_using_ddict(&mut target, frame, dictionary.reading()),
        None => state.decompress(&mut target, frame),
    })?
    .map_err(damaged)?;
    Ok(())
}

/// Never sets more aside than has come out already, and the window. The state is not kept: with its window it is too
/// large for that.
fn by_and_by(
    frame: &[u8],
    content: usize,
    dictionary: Option<&Dictionary>,
    output: &mut Vec<u8>,
) -> Result<(), EngineError> {
    let mut state = DCtx::try_create().ok_or_else(no_memory)?;
    state.set_parameter(DParameter::WindowLogMax(limits::COMPRESSION_WINDOW.ilog2())).map_err(damaged)?;
    if let Some(dictionary) = dictionary {
        state.ref_ddict(dictionary.reading()).map_err(damaged)?;
    }
    let mut input = InBuffer::around(frame);
    let start = output.len();
    loop {
        let (read, before) = (input.pos(), output.len());
        let produced = before - start;
        let step = produced.max(limits::COMPRESSION_TRUSTED).min(content.saturating_sub(produced));
        output.reserve_exact(step);
        let mut target = OutBuffer::around_pos(output, before);
        let left = state.decompress_stream(&mut target, &mut input).map_err(damaged)?;
        let is_stuck = input.pos() == read && output.len() == before;
        if left == 0 || is_stuck || output.len() - start > content {
            return Ok(());
        }
    }
}

/// The buffer, to be written to behind what is in it.
fn behind(output: &mut Vec<u8>) -> Cursor<&mut Vec<u8>> {
    let length = output.len() as u64;
    let mut cursor = Cursor::new(output);
    cursor.set_position(length);
    cursor
}

/// Calls `work` with a state of this thread, which is kept unless it has become large.
fn with_state<S: 'static, R>(
    place: &'static LocalKey<Cell<Option<S>>>,
    new: fn() -> Option<S>,
    size: fn(&S) -> usize,
    work: impl FnOnce(&mut S) -> R,
) -> Result<R, EngineError> {
    let kept = place.try_with(Cell::take).ok().flatten();
    let mut state = kept.or_else(new).ok_or_else(no_memory)?;
    let result = work(&mut state);
    if size(&state) <= limits::COMPRESSION_STATE {
        // A thread that is ending has no place for it any more.
        let _ = place.try_with(|place| place.set(Some(state)));
    }
    Ok(result)
}

fn damaged(code: ErrorCode) -> EngineError {
    EngineError::Malformed { what: zstd_safe::get_error_name(code) }
}

pub(super) fn no_memory() -> EngineError {
    EngineError::Failed { reason: "there is no memory for zstd".to_owned() }
}

/// What the head of a frame says.
///
/// ```text
/// 28 B5 2F FD  descriptor  [window]  dictionary, 0 to 4 bytes  size of the content, 1 to 8 bytes
/// ```
#[derive(Debug, PartialEq, Eq)]
struct Head {
    content: usize,
    window: u64,
    dictionary: u32,
}

impl Head {
    fn read(frame: &[u8]) -> Result<Self, EngineError> {
        let Some(rest) = frame.strip_prefix(&MAGIC) else {
            return Err(EngineError::Malformed { what: "its frame of zstd does not begin as one" });
        };
        let cut_off = EngineError::Malformed { what: "the head of its frame of zstd is cut off" };
        Self::fields(rest).ok_or(cut_off)?
    }

    /// `None` if there are too few bytes.
    fn fields(mut rest: &[u8]) -> Option<Result<Self, EngineError>> {
        let descriptor = *rest.split_off_first()?;
        let is_single = descriptor & 0x20 != 0;
        let window = if is_single { 0 } else { window(*rest.split_off_first()?) };
        let dictionary = number(&mut rest, [0, 1, 2, 4][usize::from(descriptor & 3)])?;
        let bytes = match (descriptor >> 6, is_single) {
            (0, false) => {
                let what = "its frame of zstd does not say how large its content is";
                return Some(Err(EngineError::Malformed { what }));
            }
            (0, true) => 1,
            (1, _) => 2,
            (2, _) => 4,
            _ => 8,
        };
        let content = number(&mut rest, bytes)?;
        // The two bytes of sizes from 256 on leave out what one byte can say.
        let content = if bytes == 2 { content + 256 } else { content };
        Some(Ok(Self {
            content: usize::try_from(content).unwrap_or(usize::MAX),
            window: if is_single { content } else { window },
            dictionary: u32::try_from(dictionary).unwrap_or_default(),
        }))
    }
}

/// The size of a window: a power of two from 1 KiB on, and eighths of it.
fn window(byte: u8) -> u64 {
    let base = 1_u64 << (10 + (byte >> 3));
    base + base / 8 * u64::from(byte & 7)
}

/// A number of so many bytes, at most eight, little endian.
fn number(rest: &mut &[u8], bytes: usize) -> Option<u64> {
    let mut all = [0; 8];
    all.get_mut(..bytes)?.copy_from_slice(rest.split_off(..bytes)?);
    Some(u64::from_le_bytes(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the state that this thread keeps after content was compressed.
    fn kept(level: i32, length: usize) -> Option<usize> {
        let bytes: Vec<u8> = (0_u32..).flat_map(|number| (number / 3).to_le_bytes()).take(length).collect();
        compress(&bytes, level, None, &mut Vec::new()).unwrap();
        let state = COMPRESSING.take();
        let size = state.as_ref().map(CCtx::sizeof);
        COMPRESSING.set(state);
        size
    }

    #[test]
    fn a_thread_keeps_a_state_for_the_next_message_but_no_large_one() {
        let first = kept(3, 4 * 1024 * 1024).unwrap();
        assert!(first < limits::COMPRESSION_STATE / 2, "{first}");
        assert_eq!(kept(3, 1024), Some(first), "it is the same one");
        assert_eq!(kept(19, 1024 * 1024), None);
        assert!(kept(12, 64 * 1024).is_some());
    }

    #[test]
    fn the_head_of_a_frame_is_read_as_it_was_written() {
        for length in [0, 1, 255, 256, 257, 65_791, 65_792, 70_000, 3_000_000] {
            let mut frame = Vec::new();
            compress(&vec![1; length], 3, None, &mut frame).unwrap();
            let head = Head::read(&frame).unwrap();
            assert_eq!((head.content, head.dictionary), (length, 0));
            assert!(head.window >= length as u64 || head.window == 2 * 1024 * 1024, "{head:?}");
            for cut in 0..6 {
                assert!(Head::read(&frame[..cut]).is_err());
            }
        }
    }
}
