//! A plugin of one's own: it lets shops take orders while they are open, stamps what it lets pass, and counts.
//!
//!     cargo run --example 12_plugin
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use whispeer::plugin::{HookResult, Hooks, Plugin, Publishing, Refused, Session};
use whispeer::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    pieces: u32,
}

impl PublishProtocol for Order {
    fn prefix() -> &'static str {
        "orders"
    }
}

/// Knows which shops are open.
#[derive(Default)]
struct OpeningHours {
    open: Mutex<BTreeSet<String>>,
    taken: AtomicU64,
}

impl OpeningHours {
    fn open(&self, shop: &str) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(shop.to_owned());
    }
}

impl Plugin for OpeningHours {
    fn name(&self) -> &str {
        "opening-hours"
    }

    // The bus calls no others, and pays for no others.
    fn hooks(&self) -> Hooks {
        Hooks::CONNECT | Hooks::PUBLISH
    }

    async fn on_connect(&self, session: &Session) -> HookResult {
        println!("{} comes in over {}", session.name, session.transport);
        match session.name.as_str() {
            "" => Err(Refused::new("say who you are")),
            _ => Ok(()),
        }
    }

    fn on_publish(&self, message: &mut Publishing<'_>) -> HookResult {
        let topic = message.topic().clone();
        let mut fragments = topic.fragments();
        let (Some("orders"), Some(shop)) = (fragments.next(), fragments.next()) else { return Ok(()) };
        let is_open = self.open.lock().unwrap_or_else(PoisonError::into_inner).contains(shop);
        if !is_open {
            return Err(Refused::new(format!("the shop {shop} is closed")));
        }
        let number = self.taken.fetch_add(1, Ordering::Relaxed) + 1;
        message.set_header("number", number.to_string());
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    // Behind an `Arc` it stays in hand while the bus has it.
    let hours = Arc::new(OpeningHours::default());
    let bus = Bus::builder().plugin(Arc::clone(&hours)).start()?;
    let ann = Client::builder().name("ann").connect_memory(&bus.connector())?;
    let mut orders = ann.subscribe::<Order>("*").await?;

    let refused = ann.publish("corner", &Order { pieces: 3 }).await;
    println!("{}", refused.as_ref().err().map(ToString::to_string).unwrap_or_default());
    assert!(
        matches!(refused, Err(BusError::Refused { reason, .. }) if reason == "the shop corner is closed")
    );

    hours.open("corner");
    ann.publish("corner", &Order { pieces: 3 }).await?;
    if let Some(Event::Message(message)) = orders.next_event().await {
        println!("order {:?}: {} pieces", message.headers.find("number"), message.value.pieces);
        assert_eq!(message.headers.find("number"), Some("1"));
    }

    let stranger = Client::new_memory(&bus.connector())?;
    let turned_away = stranger.ping().await;
    assert!(matches!(turned_away, Err(BusError::Refused { reason, .. }) if reason == "say who you are"));

    for plugin in bus.stats().plugins {
        println!("{} refused {} times", plugin.name, plugin.refused);
    }
    bus.stop().await;
    Ok(())
}
