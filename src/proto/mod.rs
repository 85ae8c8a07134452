//! The protocol: frames, their byte layouts and the handshake. No I/O, no clock.
//!
//! docs/PROTOCOL.md draws every layout for readers in other languages; the vectors beside it are
//! checked by this crate's tests.
//!
//! - [`Header`]: the 24 bytes that every frame begins with, and [`Kind`], what a frame is.
//! - [`ContentRef`] and [`Content`]: what follows the header (fields, topic, payload), borrowed from
//!   a read buffer or shared by reference.
//! - [`fields`]: the optional parts of a frame, as tag, length and value.
//! - [`Hello`] and [`Welcome`]: the handshake.
//! - [`Refusal`]: the single mapping between [`BusError`](crate::BusError) and wire codes.

mod content;
mod credit;
pub(crate) mod dead_letter;
mod elsewhere;
mod encodings;
pub mod fields;
mod handshake;
mod header;
mod refusal;
mod value;
mod wire;

pub use content::{Content, ContentRef, Frame};
pub(crate) use credit::{Credit, Owed};
pub use elsewhere::{ServedElsewhere, topic_of_request};
pub use encodings::{Encoding, EncodingOwner};
pub use handshake::{Capabilities, Hello, Resume, ResumeToken, Shown, VERSION, Welcome};
pub(crate) use header::Layout;
pub use header::{Flags, HEADER_LEN, Header, Kind, LENGTH_PREFIX, Lane, MalformedFrame};
pub use refusal::{ErrorCode, Refusal};
pub use value::{Payload, ProcessValue};

#[cfg(test)]
mod tests;
