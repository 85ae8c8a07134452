//! Buses that are joined over real servers of NATS: a module a subject.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed, as it should")]

mod faults;
mod identities;
mod joined;
mod links;
mod messages;
mod nodes;
mod settings;
mod written;
