//! Several buses that act as one, joined over NATS.
//!
//! | file | what it holds |
//! |---|---|
//! | `cluster` | the link of a bus to the others |
//! | `outbound` | what is published here, on its way to NATS |
//! | `inbound` | what is published elsewhere, on its way to subscribers here |
//! | `limits` | every bound |
//! | `subject` | topics and patterns as subjects of NATS, and back |
//! | `headers` | headers of messages as those of NATS, and back |
//! | `stamp` | where a message comes from, and its number there |
//! | `numbering` | the numbers of what this bus sends |
//! | `seen` | the numbers of what came from others |

mod cluster;
mod headers;
mod inbound;
pub mod limits;
mod numbering;
mod outbound;
mod seen;
mod stamp;
pub mod subject;

pub use cluster::{NatsCluster, NatsCounter, NatsCounts};
