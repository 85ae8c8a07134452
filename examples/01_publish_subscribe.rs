//! Typed messages within one process.
//!
//!     cargo run --example 01_publish_subscribe
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;

use serde::{Deserialize, Serialize};
use whispeer::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Temperature {
    celsius: f64,
}

impl PublishProtocol for Temperature {
    fn prefix() -> &'static str {
        "temperature"
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let (bus, connector) = listen_and_serve_memory()?;

    let display = Client::new_memory(&connector)?;
    let mut rooms = display.subscribe::<Temperature>("house/*").await?;

    let sensor = Client::new_memory(&connector)?;
    let matches = sensor.publish("house/kitchen", &Temperature { celsius: 21.5 }).await?;
    println!("{matches} subscription matches");
    // Outside of the house nobody listens.
    assert_eq!(sensor.publish("garden", &Temperature { celsius: 9.0 }).await?, 0);

    let (topic, reading) = rooms.recv().await.ok_or("the bus has stopped")?;
    println!("{topic}: {} degrees", reading.celsius);
    bus.stop().await;
    Ok(())
}
