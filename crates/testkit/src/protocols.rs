//! The message and request types that the tests use.

use serde::{Deserialize, Serialize};
use whispeer::prelude::*;

/// A message that is a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Number(pub u64);

impl PublishProtocol for Number {
    fn prefix() -> &'static str {
        "number"
    }
}

/// A message on the same topics as [`Number`] which does not decode as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotANumber(pub String);

impl PublishProtocol for NotANumber {
    fn prefix() -> &'static str {
        Number::prefix()
    }
}

/// A request whose answer is its double.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Double(pub u64);

impl RequestProtocol for Double {
    type Rsp = u64;

    fn prefix() -> &'static str {
        "double"
    }
}

/// A request to the same topics as [`Double`] which does not decode as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotADouble(pub String);

impl RequestProtocol for NotADouble {
    type Rsp = u64;

    fn prefix() -> &'static str {
        Double::prefix()
    }
}
