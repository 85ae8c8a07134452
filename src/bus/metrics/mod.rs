//! What Prometheus is told of a bus, with the feature `metrics`.
//!
//! A [`BusCollector`] in a registry of `prometheus-client` asks the bus when it is scraped; nothing is counted for it where messages
//! pass. [`expose`] gives what an HTTP server answers. The families are in `docs/OPERATING.md`.
//!
//! # Examples
//! ```
//! use prometheus_client::registry::Registry;
//! use whispeer::bus::metrics::{BusCollector, expose};
//! use whispeer::prelude::*;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bus = Bus::builder().start()?;
//! let client = Client::new_memory(&bus.connector())?;
//! client.ping().await?;
//!
//! let mut registry = Registry::default();
//! registry.register_collector(Box::new(BusCollector::new(&bus)));
//! let answer = expose(&registry, None)?;
//! assert_eq!(answer.content_type, "text/plain; version=0.0.4; charset=utf-8");
//! assert!(answer.body.contains("whispeer_bus_sessions{transport=\"memory\"} 1\n"));
//! # bus.stop().await;
//! # Ok(())
//! # }
//! ```

mod collector;
mod exposition;
mod families;

pub use collector::BusCollector;
pub use exposition::{Exposition, OPENMETRICS, TEXT, expose};
