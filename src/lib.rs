//! A message bus: typed publish/subscribe and request/response, with one API whatever lies between
//! the parties.
//!
//! A bus runs within a process or on a host; [`Client`]s connect to it over memory, a Unix socket, TCP, TLS or
//! WebSocket.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use whispeer::prelude::*;
//!
//! #[derive(Clone, Debug, Deserialize, Serialize)]
//! struct HelloProtocol(String);
//!
//! impl PublishProtocol for HelloProtocol {
//!     fn prefix() -> &'static str {
//!         "hello"
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> BusResult<()> {
//! let (stopper, connector) = listen_and_serve_memory()?;
//! let client = Client::new_memory(&connector)?;
//!
//! let mut subscription = client.subscribe::<HelloProtocol>("alice").await?;
//! let matches = client.publish("alice", &HelloProtocol("Hello".into())).await?;
//! assert_eq!(matches, 1);
//!
//! let (topic, message) = subscription.recv().await.unwrap();
//! assert_eq!((topic.as_str(), message.0.as_str()), ("alice", "Hello"));
//! stopper.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What holds
//! - **No silent loss.** A subscriber gets each message or an explicit gap that says how many and why:
//!   [`Subscription::next_event`](client::Subscription::next_event).
//! - **Bounded always.** Every queue and table has a limit in [`limits`], with its reason. At a limit
//!   there is back-pressure or a typed [`BusError`], never growth.
//! - **One contract, every transport.** The same conformance suite passes on all of them.
//!
//! # Where to look
//! | for | see |
//! |---|---|
//! | publishing, subscribing, requests, serving | [`client`] |
//! | running a bus | [`bus`] |
//! | all of it in a few calls, with callbacks | `broker`, with the feature of that name |
//! | compressing and encrypting payloads | [`engine`] |
//! | who may do what | [`auth`] |
//! | streams that keep messages: what they are made of, and stores of your own | [`store`], [`bus::Streams`] |
//! | reading streams, acknowledging, history | [`Client::consume`](Client::consume), [`client::SubscribeOptions`], [`Client::history`](Client::history) |
//! | code of your own in the bus | [`plugin`] |
//! | topics and patterns | [`topic`] |
//! | which operation a message belongs to (W3C Trace Context) | [`trace`] |
//! | links and addresses | [`transport`] |
//! | the wire format | [`proto`], and `docs/PROTOCOL.md` in the repository |
//!
//! # Features
//! On by default: `unix`, the Unix-socket transport; `tcp`; `tls`, over TCP; `websocket`, over TCP and, with
//! `tls`, over TLS. Without any the bus serves its own process.
//!
//! `auth`: checking and making tokens and passwords, and reading who may do what from TOML. Without it permissions
//! follow from what a transport proves.
//!
//! `broker`: a bus with callbacks in a few calls, compressed and encrypted.
//!
//! `sqlite`: streams in a file. Without it they are in memory, and end with the process.
//!
//! `quic`: the transport of that name.
//!
//! `metrics`: what a bus does, for a registry of `prometheus-client`: `bus::metrics`, and a plugin that counts by topics. `rate-limit`: a plugin that
//! limits how often somebody publishes.
//!
//! `json`: payloads as JSON, and JSON as payloads.
//!
//! `compression`, `encryption`: engines that make payloads smaller, and that keep them from the bus.

pub mod auth;
#[cfg(feature = "broker")]
pub mod broker;
pub mod bus;
pub mod client;
pub mod engine;
mod error;
pub mod histogram;
#[cfg(feature = "json")]
pub mod json;
pub mod limits;
pub mod plugin;
pub mod prelude;
pub mod proto;
pub mod store;
pub mod topic;
pub mod trace;
pub mod transport;

#[cfg(feature = "broker")]
pub use broker::{Broker, BrokerOptions};
pub use bus::{Bus, BusHandle};
pub use client::Client;
pub use error::{BusError, BusResult, EngineError, ErrorClass, ErrorReply};
pub use topic::{Topic, TopicPattern};
pub use transport::Address;

/// The README's code is compiled and run as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// And that of the page on plugins.
#[cfg(doctest)]
#[doc = include_str!("../docs/PLUGINS.md")]
struct PluginsPage;
