//! Payloads as JSON, and JSON as payloads.
//!
//! Programs exchange MessagePack; people, scripts and browsers read and write JSON. What JSON has no form for is marked:
//!
//! | payload | JSON | and back |
//! |---|---|---|
//! | binary | `{"$binary": "BASE64"}` | binary |
//! | an extension type | `{"$extension": NUMBER, "data": "BASE64"}` | that extension |
//! | a string that is not UTF-8 | `{"$binary": "BASE64"}` | binary |
//! | not a number, or infinite | `null` | nil |
//! | anything that is not exactly one MessagePack value | `{"$binary": "BASE64"}` of the whole payload | binary |
//! | a key of a map that is no string | a string of its JSON | a string |
//!
//! Base64 is that of [RFC 4648](https://www.rfc-editor.org/rfc/rfc4648#section-4), with padding. An object that has these keys and no others
//! is taken for such a mark, if what stands behind them fits; any other object is a map. Numbers without a fraction become
//! integers if 64 bits hold them, and all others the nearest floating-point number of 64 bits. Where a key is there twice, the map has it twice.
//!
//! Neither way makes a tree of the values, so that what is made to expand takes no more memory than a few times its own size: on the way to JSON
//! 6 B for one at the most, and on the way back 8 B for each array and object while it is read. Either stops at 127 levels of nesting.
//!
//! # Examples
//! ```
//! use serde::{Deserialize, Serialize};
//! use whispeer::json::{from_json, to_json};
//!
//! #[derive(Debug, PartialEq, Deserialize, Serialize)]
//! struct Order {
//!     pears: u32,
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let payload = rmp_serde::to_vec_named(&Order { pears: 2 })?;
//! assert_eq!(to_json(&payload), r#"{"pears":2}"#);
//!
//! let payload = from_json(br#"{"pears": 3}"#)?;
//! assert_eq!(rmp_serde::from_slice::<Order>(&payload)?, Order { pears: 3 });
//! # Ok(())
//! # }
//! ```

mod payload;
#[cfg(test)]
mod tests;
mod text;

pub use payload::{JsonError, from_json};
pub use text::{push_json, push_json_string, to_json};

/// Levels of nesting at which a payload is no longer read as MessagePack; deeper ones would only serve to overflow the stack. The
/// same as serde_json's, so that what is written can be read again.
const DEPTH_LIMIT: usize = 127;
