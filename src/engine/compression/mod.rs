//! Compression of payloads, by zstd or lz4.
//!
//! What [`Compression`] writes begins with two bytes: how the content is compressed, and the tag of the content.
//!
//! ```text
//! 00  tag  the content as it is
//! 01  tag  one frame of zstd (RFC 8878) that says how large its content is
//! 02  tag  length of the content, 4 bytes, little endian  one block of lz4
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `zstd` | one frame, and the states that a thread keeps |
//! | `lz4` | one block, and how large its content really is |
//! | `dictionary` | what small messages have in common |

mod dictionary;
mod lz4;
#[cfg(test)]
mod tests;
mod zstd;

use std::fmt;
use std::sync::{Arc, OnceLock};

use zstd_safe::CDict;

pub use dictionary::Dictionary;

use super::{Content, Context, Engine, EngineError, Memory, Opened, Sealed, Stage};
use crate::limits;

/// The content follows as it is.
const STORED: u8 = 0;

/// A frame of zstd follows.
const ZSTD: u8 = 1;

/// The length of the content and a block of lz4 follow.
const LZ4: u8 = 2;

/// Bytes before what is compressed.
const HEAD: usize = 2;

/// Bytes of the smallest content that is compressed, unless [`Compression::threshold`] says otherwise. Records of 256
/// bytes shrink by a third; those of 128 by a tenth, which is not worth the four microseconds of both sides.
const THRESHOLD: usize = 256;

/// The same with a dictionary, which has in it what small messages share: records of 64 bytes shrink by a third, those of
/// 32 not at all.
const THRESHOLD_WITH_DICTIONARY: usize = 48;

/// The level of zstd, unless [`Compression::level`] says otherwise. On records from 1 to 64 KiB, level 1 takes hardly less
/// time, -1 half of it and leaves them a third larger, and 6 takes one and a half to four times as long for a hundredth
/// of their size. `bench/examples/compression.rs` measures it.
const LEVEL: i32 = 3;

/// Compresses payloads.
///
/// All settings say only how it writes. Each reads what any other has written, with zstd, with lz4 or not compressed,
/// if it has the dictionary that was used.
///
/// What would grow is stored as it is, two bytes longer. So is what is smaller than the [`threshold`](Self::threshold).
///
/// Somebody who can choose a part of a message and see its size can guess what else is in it, even if it is encrypted
/// afterwards. Do not compress what holds both a secret and text of strangers; rules for topics can tell them apart.
///
/// # Examples
/// ```
/// use whispeer::engine::compression::Compression;
/// use whispeer::engine::{Chain, Engines};
///
/// let engines = Engines::new()
///     .with(Compression::new())
///     .topic("logs/**", Chain::new().with(Compression::new().level(9)))
///     .topic("metrics/**", Chain::new().with(Compression::lz4().threshold(1024)));
/// ```
#[derive(Clone)]
pub struct Compression {
    writes: u8,
    level: i32,
    threshold: Option<usize>,
    /// The last one is written with.
    dictionaries: Vec<Dictionary>,
    /// That one, made ready for this level when it is first used.
    digested: OnceLock<Arc<CDict<'static>>>,
}

impl Compression {
    /// By zstd at level 3.
    #[must_use]
    pub fn new() -> Self {
        Self::writing(ZSTD)
    }

    /// By lz4, which is several times as fast as zstd and leaves payloads larger.
    #[must_use]
    pub fn lz4() -> Self {
        Self::writing(LZ4)
    }

    /// Not at all: it only reads what others have compressed.
    #[must_use]
    pub fn none() -> Self {
        Self::writing(STORED)
    }

    fn writing(writes: u8) -> Self {
        Self { writes, level: LEVEL, threshold: None, dictionaries: Vec::new(), digested: OnceLock::new() }
    }

    /// Sets the level of zstd: from [`limits::COMPRESSION_LEVEL_MIN`], the fastest, to
    /// [`limits::COMPRESSION_LEVEL_MAX`], the smallest. What is beyond them counts as the nearest, and 0 as 3.
    #[must_use]
    pub fn level(mut self, level: i32) -> Self {
        let level = if level == 0 { LEVEL } else { level };
        self.level = level.clamp(limits::COMPRESSION_LEVEL_MIN, limits::COMPRESSION_LEVEL_MAX);
        self.digested = OnceLock::new();
        self
    }

    /// Sets from how many bytes on contents are compressed. The default is 256, below which it seldom gains much, and 48
    /// with a dictionary.
    #[must_use]
    pub fn threshold(mut self, bytes: usize) -> Self {
        self.threshold = Some(bytes);
        self
    }

    /// Adds a dictionary. All that are added are read with, and zstd writes with the last one. Whoever is to read that
    /// has to have it as well.
    #[must_use]
    pub fn dictionary(mut self, dictionary: Dictionary) -> Self {
        self.dictionaries.retain(|other| other.id() != dictionary.id());
        self.dictionaries.push(dictionary);
        self.digested = OnceLock::new();
        self
    }

    fn compresses(&self, length: usize) -> bool {
        let usual = match self.dictionaries.last() {
            Some(_) if self.writes == ZSTD => THRESHOLD_WITH_DICTIONARY,
            _ => THRESHOLD,
        };
        self.writes != STORED && length >= self.threshold.unwrap_or(usual)
    }

    /// The dictionary to write with, made ready once.
    fn digest(&self) -> Result<Option<&CDict<'static>>, EngineError> {
        let Some(dictionary) = self.dictionaries.last() else {
            return Ok(None);
        };
        if let Some(digest) = self.digested.get() {
            return Ok(Some(digest));
        }
        let digest = dictionary.digest(self.level)?;
        Ok(Some(self.digested.get_or_init(|| digest)))
    }
}

impl Default for Compression {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Compression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Compression");
        shown.field("writes", &["stored", "zstd", "lz4"].get(usize::from(self.writes)));
        shown.field("level", &self.level).field("threshold", &self.threshold);
        shown.field("dictionaries", &self.dictionaries).finish_non_exhaustive()
    }
}

impl Engine for Compression {
    fn id(&self) -> u8 {
        1
    }

    fn name(&self) -> &str {
        "compression"
    }

    fn stage(&self) -> Stage {
        Stage::COMPRESS
    }

    fn overhead(&self, length: usize) -> usize {
        HEAD + match self.writes {
            ZSTD if self.compresses(length) => zstd::bound(length).saturating_sub(length),
            LZ4 if self.compresses(length) => lz4::bound(length).saturating_sub(length),
            _ => 0,
        }
    }

    fn seal(
        &self,
        _context: &Context<'_>,
        content: Content<'_>,
        output: &mut Vec<u8>,
    ) -> Result<Sealed, EngineError> {
        let Content { tag, bytes } = content;
        let start = output.len();
        if self.compresses(bytes.len()) {
            output.extend_from_slice(&[self.writes, tag]);
            let is_done = match self.writes {
                ZSTD => zstd::compress(bytes, self.level, self.digest()?, output).map(|()| true)?,
                _ => lz4::compress(bytes, output),
            };
            if is_done && output.len() < start + HEAD + bytes.len() {
                return Ok(Sealed::default());
            }
            output.truncate(start);
        }
        output.reserve(HEAD + bytes.len());
        output.extend_from_slice(&[STORED, tag]);
        output.extend_from_slice(bytes);
        Ok(Sealed::default())
    }

    fn open(
        &self,
        context: &Context<'_>,
        _memory: &mut Memory,
        sealed: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Opened, EngineError> {
        let [algorithm, tag, data @ ..] = sealed else {
            return Err(EngineError::Malformed { what: "its compression is cut off" });
        };
        match *algorithm {
            STORED => {
                within(data.len(), context.limit)?;
                output.extend_from_slice(data);
            }
            ZSTD => zstd::decompress(data, context.limit, &self.dictionaries, output)?,
            LZ4 => lz4::decompress(data, context.limit, output)?,
            _ => {
                let what = "it is compressed in a way that this version does not know";
                return Err(EngineError::Malformed { what });
            }
        }
        Ok(Opened::tagged(*tag))
    }
}

/// Refuses contents of more bytes than are allowed.
fn within(length: usize, limit: usize) -> Result<(), EngineError> {
    if length > limit { Err(EngineError::TooLarge { limit }) } else { Ok(()) }
}

/// Whether so many bytes may be set aside for what has only been claimed.
fn is_trusted(claimed: usize, arrived: usize) -> bool {
    claimed <= limits::COMPRESSION_TRUSTED.max(arrived.saturating_mul(limits::COMPRESSION_TRUSTED_RATIO))
}
