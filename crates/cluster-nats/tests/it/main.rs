//! Buses that are joined over real servers of NATS: a module a subject.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed, as it should")]

mod faults;
mod joined;
mod messages;
mod nodes;
