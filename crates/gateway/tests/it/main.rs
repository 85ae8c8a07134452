//! The gateway over HTTP and WebSocket, as its callers see it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what helpers of a test expect is part of the test"
)]

mod api;
mod health;
mod http;
mod metrics;
mod native;
mod pages;
mod player;
mod popsub;
mod sealed;
mod tracer;
mod turbine;
