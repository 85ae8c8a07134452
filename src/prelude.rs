//! What most programs need: `use whispeer::prelude::*;`.

pub use crate::bus::{Bus, BusHandle, listen_and_serve_memory, listen_and_serve_tcp, listen_and_serve_unix};
pub use crate::client::{Client, Event, PublishProtocol, RequestId, RequestProtocol};
pub use crate::error::{BusError, BusResult, ErrorReply};
pub use crate::topic::{Topic, TopicPattern};
