//! Several buses that act as one, joined over NATS.
//!
//! | file | what it holds |
//! |---|---|
//! | `settings` | where NATS is, and who the bus is there |
//! | `connection` | the connection to NATS, which comes back by itself |
//! | `state` | how it is: what `info`, metrics and the log tell |
//! | `cluster` | the link of a bus to the others |
//! | `outbound` | what is published here, on its way to NATS |
//! | `inbound` | what is published elsewhere, on its way to subscribers here |
//! | `subject` | topics and patterns as subjects of NATS, and back |
//! | `headers` | fields of frames as headers of NATS, and back |
//! | `envelope` | what goes with a message at NATS |
//! | `batch` | several messages as one of NATS |
//! | `stamp` | where a message comes from, and its number there |
//! | `numbering` | the numbers of what this bus sends |
//! | `seen` | the numbers of what came from others |
//! | `overview` | how all buses are, asked at one of them |
//! | `survey` | one question to all other buses |
//! | `members/` | which buses there are |
//! | `presence/` | who is subscribed to what at all of them, and who comes and goes |
//! | `requests/` | requests that are served at another bus |
//! | `scattered` | what is served at which bus, for requests to many |
//! | `tunnels/` | sessions at another bus, for members of a consumer that it has |
//! | `jetstream` | durable topics that JetStream keeps |
//! | `limits` | every bound |

mod batch;
mod cluster;
pub mod connection;
mod envelope;
pub mod error;
pub mod headers;
mod inbound;
pub mod jetstream;
pub mod limits;
pub mod members;
mod numbering;
mod outbound;
mod overview;
mod presence;
pub mod requests;
mod scattered;
mod seen;
pub mod settings;
mod stamp;
pub mod state;
pub mod subject;
mod survey;
mod tunnels;

pub use cluster::{NatsCluster, NatsCounter, NatsCounts};
pub use connection::Connection;
pub use error::NatsError;
pub use settings::NatsSettings;
pub use state::LinkState;
