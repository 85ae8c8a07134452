//! The bus's own HTTP API.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed, as it should")]

mod administration;
mod browsers;
mod callers;
mod described;
mod events;
mod guide;
mod histories;
mod publishing;
mod requests;
mod resuming;
mod sealed_streams;
mod strangers;
mod support;
mod tickets;
