//! A workshop in one process: callbacks for orders and for bills, compressed and encrypted, without a runtime of its own.
//!
//!     cargo run --example 11_broker --features broker
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use whispeer::broker::Broker;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    customer: String,
    pieces: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Bill {
    customer: String,
    cents: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    run()
}

pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    // `build_default_with_ws("http://localhost:8080")` lets others in.
    let broker = Broker::build_default().build()?;

    // A handler that may block its thread, and publishes itself.
    let bills = broker.weak();
    broker.subscribe("orders/*", move |order: Order| {
        println!("{} orders {} pieces", order.customer, order.pieces);
        bills.publish("bills", Bill { customer: order.customer, cents: order.pieces * 250 });
    });

    // One that is awaited.
    let total = Arc::new(AtomicU64::new(0));
    let sum = Arc::clone(&total);
    broker.subscribe_async("bills", move |bill: Bill| {
        let sum = Arc::clone(&sum);
        async move {
            tokio::task::yield_now().await;
            println!("{} owes {} cents", bill.customer, bill.cents);
            sum.fetch_add(bill.cents, Ordering::Relaxed);
        }
    });

    // It is queued at once. Whoever wants to know how it went waits for it.
    for (customer, pieces) in [("ann", 3), ("bob", 5)] {
        broker.publish("orders/today", Order { customer: customer.into(), pieces });
    }
    let matches = broker.publish("orders/today", Order { customer: "eve".into(), pieces: 1 }).wait()?;
    assert_eq!(matches, 1);

    // What was published is handled before the broker is gone, and so is what handlers published then.
    let weak = broker.weak();
    drop(broker);
    assert_eq!(total.load(Ordering::Relaxed), (3 + 5 + 1) * 250);
    let stats = weak.stats();
    println!(
        "{} messages were published, {} were handled, {} missed",
        stats.published, stats.handled, stats.missed
    );
    Ok(())
}
