//! Buses that are joined over real servers of NATS: a module a subject.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed, as it should")]

mod batched;
mod cut_off;
mod drained;
mod exclusive;
mod faults;
mod ground;
mod identities;
mod jetstream;
mod joined;
mod kept;
mod links;
mod members;
mod messages;
mod nodes;
mod paused;
mod plain_requests;
mod presence;
mod python;
mod requests;
mod requests_gone;
mod scattered;
mod sealed;
mod settings;
mod streamed_requests;
mod written;
