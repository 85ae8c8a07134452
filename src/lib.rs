//! whispeer
pub mod auth;
pub mod bus;
mod error;
pub mod limits;
pub mod proto;
pub mod topic;
pub mod transport;
pub use error::{BusError, BusResult, ErrorClass, ErrorReply};
pub use topic::{Topic, TopicPattern};
pub use transport::Address;
