//! Engines: what becomes of payloads on their way between a client and the bus.
//!
//! A client is given [`Engines`] once. From then on all that it publishes, asks and answers is sealed by a chain of
//! them, and what arrives is opened by the same in reverse. The bus sees only the sealed payload.
//!
//! | file | what it holds |
//! |---|---|
//! | `chain` | engines in their order, and which topics they are for |
//! | `compression` | an engine that makes payloads smaller |
//! | `envelope` | the head of a sealed payload |
//! | `memory` | what a receiver keeps from one message to the next |
//! | `opener` | opening payloads outside of a client |
//!
//! The envelope and what each engine writes are drawn in docs/PROTOCOL.md.

mod chain;
#[cfg(feature = "compression")]
pub mod compression;
#[cfg(feature = "encryption")]
pub mod encryption;
mod envelope;
mod memory;
mod opener;

use std::fmt;
use std::sync::Arc;

pub use chain::{Chain, Engines};
pub(crate) use chain::{ChainIndex, Rules};
pub use envelope::{is_sealed, sealed_by};
pub use memory::Memory;
pub(crate) use memory::{Memories, Place};
pub use opener::PayloadOpener;

use crate::error::BusResult;
pub use crate::error::EngineError;
use crate::limits;

/// One step of a chain: it seals a payload, and opens what was sealed.
///
/// Both append to a buffer that may hold something already, which is not theirs.
///
/// # Examples
/// An engine of one's own:
/// ```
/// use whispeer::engine::{Content, Context, Engine, EngineError, Memory, Opened, Sealed, Stage};
///
/// /// Turns every bit around, which keeps nothing secret.
/// #[derive(Debug)]
/// struct Inverse;
///
/// impl Engine for Inverse {
///     fn id(&self) -> u8 {
///         200
///     }
///     fn name(&self) -> &str {
///         "inverse"
///     }
///     fn stage(&self) -> Stage {
///         Stage::TRANSFORM
///     }
///     fn seal(
///         &self,
///         _context: &Context<'_>,
///         content: Content<'_>,
///         output: &mut Vec<u8>,
///     ) -> Result<Sealed, EngineError> {
///         output.push(content.tag);
///         output.extend(content.bytes.iter().map(|byte| !byte));
///         Ok(Sealed::default())
///     }
///     fn open(
///         &self,
///         _context: &Context<'_>,
///         _memory: &mut Memory,
///         sealed: &[u8],
///         output: &mut Vec<u8>,
///     ) -> Result<Opened, EngineError> {
///         let Some((tag, bytes)) = sealed.split_first() else {
///             return Err(EngineError::Malformed { what: "it is empty" });
///         };
///         output.extend(bytes.iter().map(|byte| !byte));
///         Ok(Opened::tagged(*tag))
///     }
/// }
/// ```
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// What stands for it in an envelope; 128 to 255 are for engines of applications.
    fn id(&self) -> u8;

    /// What it is called in errors.
    fn name(&self) -> &str;

    /// Where it stands in a chain.
    fn stage(&self) -> Stage;

    /// Whether what comes without it is refused where it stands in the chain for a topic.
    fn is_required(&self) -> bool {
        false
    }

    /// Bytes that it adds at the most to so many, so that the buffer grows once.
    fn overhead(&self, length: usize) -> usize {
        let _ = length;
        64
    }

    /// What a client gets of it that is given it, once for all of its chains. By default, and for `None`, that is the
    /// engine itself, which all clients share; one that numbers what it seals makes another one.
    ///
    /// # Errors
    /// Why there cannot be one; the client then does not connect.
    fn for_client(&self) -> BusResult<Option<Arc<dyn Engine>>> {
        Ok(None)
    }

    /// Appends the sealed content to `output`.
    ///
    /// # Errors
    /// Why it cannot be sealed; what stands in `output` then counts for nothing.
    fn seal(
        &self,
        context: &Context<'_>,
        content: Content<'_>,
        output: &mut Vec<u8>,
    ) -> Result<Sealed, EngineError>;

    /// Appends to `output` the bytes of the content that [`seal`](Self::seal) was given, and returns its tag.
    ///
    /// `sealed` comes from anybody; whatever it is, this neither panics nor takes more than
    /// [`Context::limit`] bytes.
    ///
    /// # Errors
    /// Why it cannot be opened.
    fn open(
        &self,
        context: &Context<'_>,
        memory: &mut Memory,
        sealed: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Opened, EngineError>;
}

/// Where an engine stands in a chain: lower ones seal first, whatever the order in which they were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stage(u8);

impl Stage {
    /// For what changes the content itself.
    pub const TRANSFORM: Self = Self(32);
    /// Before encryption, after which there is nothing left to compress.
    pub const COMPRESS: Self = Self(64);
    /// Last, so that nothing of the others can be seen.
    pub const ENCRYPT: Self = Self(128);

    /// A stage between the named ones, or beyond them.
    #[must_use]
    pub const fn new(stage: u8) -> Self {
        Self(stage)
    }
}

/// What is to be sealed.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// What the bytes are to the next engine inwards: its id, or 0 for the payload itself. It has to come out again
    /// with them.
    pub tag: u8,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// What is known of a payload that was sealed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sealed {
    /// Which message of which sender it is, if an engine has numbered it.
    pub mark: Option<Mark>,
}

impl Sealed {
    /// Of a message with this number.
    #[must_use]
    pub fn marked(mark: Mark) -> Self {
        Self { mark: Some(mark) }
    }
}

/// What is known of a payload that was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Opened {
    /// The tag of the content.
    pub tag: u8,
    /// Which message of which sender it is, if that is proven.
    pub mark: Option<Mark>,
    /// Who has signed it, if that is proven.
    pub signer: Option<[u8; 32]>,
    /// The engines that have opened it.
    pub(crate) by: [u8; limits::ENGINES],
}

impl Opened {
    /// Content with this tag.
    #[must_use]
    pub fn tagged(tag: u8) -> Self {
        Self { tag, ..Self::default() }
    }

    /// The same, of a message with this number.
    #[must_use]
    pub fn marked(self, mark: Mark) -> Self {
        Self { mark: Some(mark), ..self }
    }

    /// The same, signed by the holder of this key.
    #[must_use]
    pub fn signed(self, signer: [u8; 32]) -> Self {
        Self { signer: Some(signer), ..self }
    }
}

/// Which message of which sender one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark {
    /// Drawn at random by the engine that sealed it, for itself alone.
    pub sender: [u8; 16],
    /// Its number among all that this engine sealed.
    pub sequence: u64,
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum MessageKind {
    /// It is published.
    Publish = 1,
    /// It asks for an answer.
    Request = 2,
    /// It is the answer, or the last of several.
    Reply = 3,
    /// It is one of several answers.
    StreamReply = 4,
    /// It is the error that the server answers with.
    ErrorReply = 5,
}

/// What an engine may know of a message beside its payload.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Context<'a> {
    /// The whole topic as it stands on the wire: that of a publish may have wildcards; that of a reply is the one that
    /// is served.
    pub topic: &'a str,
    /// What it is.
    pub kind: MessageKind,
    /// The field section of its frame, in which the headers are; nobody vouches for them.
    pub fields: &'a [u8],
    /// The request that it answers, if that was marked.
    pub request: Option<Mark>,
    /// Its place among the answers of a stream, from 0.
    pub index: u64,
    /// It comes from a store, and may come again.
    pub stored: bool,
    /// Bytes that it may have once it is opened.
    pub limit: usize,
}

impl<'a> Context<'a> {
    /// The context of a message to a topic.
    #[must_use]
    pub fn new(topic: &'a str, kind: MessageKind) -> Self {
        Self {
            topic,
            kind,
            fields: &[],
            request: None,
            index: 0,
            stored: false,
            limit: crate::limits::FRAME_LIMIT_MAX,
        }
    }
}
