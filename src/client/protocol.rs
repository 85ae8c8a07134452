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
}
