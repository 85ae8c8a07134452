//! Requests that are served at another bus.
//!
//! The session of this link is the bus's uplink: it is asked what nobody serves here. A request goes to the subject of its topic,
//! where the buses that have a server for it form a queue at NATS, so that one gets it. Replies come back on a subject of the
//! requester's bus. All of that is frames on either side: fields, payloads, sealed errors and the credit of streams go through as they
//! are, and nothing is kept but what is needed to end what can no longer be answered.
//!
//! ```text
//! requester -> bus A -> ASK  -> asks.rs   -> {prefix}.r.<topic>          -> serves.rs -> REQUEST -> bus B -> server
//! requester <- bus A <- REPLY <- asks.rs  <- {prefix}.reply.<A>.<number> <- serves.rs <- ANSWER  <- bus B <- server
//!                       CREDIT, CANCEL    -> {prefix}.cancel.<B>         -> serves.rs
//! ```
//!
//! Every request ends: with its answer, at its deadline, or as soon as its server's bus, its requester's bus or the connection to NATS is
//! known to be gone, which heartbeats tell within three intervals. Each is served once at the most: only what a bus has given to nobody is
//! asked again.
//!
//! | file | what it holds |
//! |---|---|
//! | `wire` | what buses tell each other, as messages of NATS |
//! | `asks`, `serves` | what this bus asks, and what it is asked: tables without a clock or a socket |
//! | `run`, `link` | what carries them, and the session at the bus |
//! | `leases/` | which topics with a single server are this bus's, among all buses |
//! | `served` | what is served here, as subscriptions at NATS |
//! | `outputs`, `outbox` | what is to be sent, and how NATS is given it |

mod asks;
mod leases;
mod link;
mod outbox;
mod outputs;
mod run;
mod served;
mod serves;
mod wire;

pub use leases::LeaseSettings;
pub use outbox::{NatsEnded, QUEUE};
pub use run::{Requests, RunError, run};
