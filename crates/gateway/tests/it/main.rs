//! The gateway over HTTP and WebSocket, as its callers see it.

mod health;
mod http;
mod metrics;
mod native;
mod pages;
mod player;
mod popsub;
mod turbine;
