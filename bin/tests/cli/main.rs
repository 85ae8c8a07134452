//! The built binary, used as people and scripts use it: processes, pipes, signals and exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail where it stands")]

mod activation;
mod arguments;
mod bus;
mod certs;
#[cfg(feature = "nats")]
mod cluster;
mod config;
#[cfg(feature = "sqlite")]
mod consumers;
#[cfg(feature = "sqlite")]
mod crashes;
#[cfg(feature = "auth")]
mod credentials;
mod descriptors;
#[cfg(feature = "compression")]
mod dict;
#[cfg(feature = "gateway")]
mod gateway;
mod hostile;
#[cfg(all(feature = "nats", feature = "sqlite"))]
mod jetstream;
#[cfg(feature = "encryption")]
mod keys;
#[cfg(all(feature = "gateway", feature = "nats"))]
mod nats;
mod packaging;
mod policy;
mod pubsub;
mod quic;
mod registry;
mod reload;
mod requests;
#[cfg(all(feature = "nats", feature = "sqlite"))]
mod rolling;
#[cfg(all(feature = "compression", feature = "encryption"))]
mod sealed;
#[cfg(all(feature = "compression", feature = "encryption"))]
mod secrecy;
mod service;
#[cfg(feature = "gateway")]
mod slow_callers;
#[cfg(feature = "sqlite")]
mod streams;
mod support;
#[cfg(feature = "gateway")]
mod telemetry;
mod tls;
mod websocket;
