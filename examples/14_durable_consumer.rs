//! Orders that must not be lost: kept by the bus, acknowledged by whoever deals with them, and put aside where nobody can.
//!
//!     cargo run --example 14_durable_consumer
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use whispeer::bus::Streams;
use whispeer::client::{Event, PublishOptions, Quality, Start, SubscribeOptions};
use whispeer::prelude::*;
use whispeer::store::{MemoryStore, Name, StreamSettings};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    item: String,
    count: i32,
}

impl PublishProtocol for Order {
    fn prefix() -> &'static str {
        "orders"
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    run().await
}

pub(crate) async fn run() -> Result<(), Box<dyn std::error::Error>> {
    // A real bus has a file: `SqliteStore`, or `[streams.orders]` in whispeer.toml.
    let settings = StreamSettings::new(Name::new("orders")?, vec![TopicPattern::new("orders/**")?]);
    let streams = Streams::open(Arc::new(MemoryStore::new()), [settings]).await?;
    let bus = Bus::builder().streams(streams).start()?;

    // When `publish_with` returns the order is kept, and once, even if the connection broke meanwhile.
    let shop = Client::new_memory(&bus.connector())?;
    let once = PublishOptions::default().quality(Quality::ExactlyOnce);
    for (item, count) in [("apples", 2), ("pears", -1), ("plums", 7)] {
        let order = Order { item: item.into(), count };
        shop.publish_with("shop/7", &order, once.clone()).await?;
    }

    // The consumer "billing" goes on where it was, whoever comes for it.
    let billing = Client::new_memory(&bus.connector())?;
    let options = SubscribeOptions::default()
        .durable("billing")
        .quality(Quality::ExactlyOnce)
        .start(Start::All)
        .max_deliver(2);
    let mut orders = billing.consume::<Order>("**", options).await?;
    let (mut billed, mut refused) = (0, 0);
    while billed + refused < 4 {
        let Some(order) = orders.recv().await else { break };
        if order.value.count > 0 {
            println!("billed {} {}", order.value.count, order.value.item);
            // It comes again unless this returns.
            order.ack().await?;
            billed += 1;
        } else {
            println!("cannot bill {} {}", order.value.count, order.value.item);
            order.nack(Duration::from_millis(10));
            refused += 1;
        }
    }

    // What has failed too often is put aside with why. `whispeer dlq` lists it, and puts it back.
    let all = SubscribeOptions::default().start(Start::All);
    let mut dead = billing.subscribe_bytes_with("$dead/orders/**", all).await?;
    if let Some(Event::Message(dead)) = dead.next_event().await {
        println!("put aside after {} attempts", dead.headers.find("dead-attempts").unwrap_or_default());
    }
    bus.stop().await;
    Ok(())
}
