//! What a subscriber that falls behind is told.
//!
//!     cargo run --example 06_gaps_and_policies
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;

use whispeer::client::{Policy, SubscribeOptions};
use whispeer::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let (_bus, connector) = listen_and_serve_memory()?;
    let publisher = Client::new_memory(&connector)?;
    let subscriber = Client::new_memory(&connector)?;

    // A display wants what is recent; three messages are enough for it.
    let options = SubscribeOptions::default().policy(Policy::DropOldest).window(3, 64 * 1024);
    let mut prices = subscriber.subscribe_bytes_with("price", options).await?;
    for price in 100..120 {
        publisher.publish_bytes("price", price.to_string()).await?;
    }

    let mut messages = 0;
    let mut dropped = 0;
    while messages + dropped < 20 {
        match prices.next_event().await.ok_or("the bus has stopped")? {
            Event::Message(message) => {
                println!("price {}", String::from_utf8_lossy(&message.value));
                messages += 1;
            }
            Event::Gap { count, reason } => {
                println!("{count} prices skipped ({})", reason.name());
                dropped += count;
            }
            other => return Err(format!("unexpected: {other:?}").into()),
        }
    }
    // No loss is silent: each message was either taken or counted.
    let counts = prices.counts();
    assert_eq!((counts.taken, counts.dropped()), (messages, dropped));
    Ok(())
}
