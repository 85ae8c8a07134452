//! What makes a Rust type a message or a request.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A type of message that can be published and subscribed to.
///
/// The prefix is put before every topic of this type on the wire, so that two protocols never meet by
/// accident. Values travel as MessagePack with named fields: fields with a `#[serde(default)]` may be
/// added later without breaking older peers.
///
/// # Examples
/// ```
/// use serde::{Deserialize, Serialize};
/// use whispeer::prelude::*;
///
/// #[derive(Debug, Clone, Serialize, Deserialize)]
/// struct Temperature {
///     celsius: f32,
/// }
///
/// impl PublishProtocol for Temperature {
///     fn prefix() -> &'static str {
///         "temperature"
///     }
/// }
/// ```
pub trait PublishProtocol: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// The topic that all topics of this type lie under; it has no wildcards and may be empty.
    fn prefix() -> &'static str;

    /// Bytes that this value holds beside its own size, such as those of its strings (default 0).
    ///
    /// Within a process values are handed over without being encoded; this is what they count for, with
    /// their size, in windows and budgets. It need not be exact.
    fn weight(&self) -> usize {
        0
    }
}

/// A type of request, and of the response to it.
///
/// # Examples
/// ```
/// use serde::{Deserialize, Serialize};
/// use whispeer::prelude::*;
///
/// #[derive(Debug, Clone, Serialize, Deserialize)]
/// struct Square(i64);
///
/// #[derive(Debug, Clone, Serialize, Deserialize)]
/// struct Squared(i64);
///
/// impl RequestProtocol for Square {
///     type Rsp = Squared;
///
///     fn prefix() -> &'static str {
///         "square"
///     }
/// }
/// ```
pub trait RequestProtocol: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// What the server answers with.
    type Rsp: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;

    /// The topic that all topics of this type lie under; it has no wildcards and may be empty.
    fn prefix() -> &'static str;

    /// Bytes that this request holds beside its own size; see [`PublishProtocol::weight`].
    fn weight(&self) -> usize {
        0
    }

    /// Bytes that a response holds beside its own size; see [`PublishProtocol::weight`].
    fn response_weight(response: &Self::Rsp) -> usize {
        let _ = response;
        0
    }
}
