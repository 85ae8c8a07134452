//! Two parties, and a bus between them that sees nothing of what they say.
//!
//!     cargo run --example 09_end_to_end_encryption --features compression,encryption
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;

use serde::{Deserialize, Serialize};
use whispeer::engine::Engines;
use whispeer::engine::compression::Compression;
use whispeer::engine::encryption::{Encryption, Key, Keyring};
use whispeer::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Plan(String);

impl PublishProtocol for Plan {
    fn prefix() -> &'static str {
        "plans"
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let (_bus, connector) = listen_and_serve_memory()?;

    // Both have the same key, by a way that is not the bus. `whispeer keys new` makes files of them.
    let key = Key::generate()?;
    let engines = |key: &Key| -> BusResult<Engines> {
        let encryption = Encryption::new(&Keyring::with(key.clone())?)?;
        Ok(Engines::new().with(Compression::new()).with(encryption))
    };
    let alice = Client::builder().engines(engines(&key)?).connect_memory(&connector)?;
    let bob = Client::builder().engines(engines(&key)?).connect_memory(&connector)?;
    // Somebody who sees all that the bus sees.
    let eve = Client::new_memory(&connector)?;

    let mut plans = bob.subscribe::<Plan>("*").await?;
    let mut overheard = eve.subscribe_bytes("plans/*").await?;
    alice.publish("tonight", &Plan("we meet at the old mill at nine, ".repeat(40))).await?;

    let (topic, plan) = plans.recv().await.ok_or("bob got nothing")?;
    println!("bob reads of {topic}: {} …", plan.0.get(..31).unwrap_or_default());
    let (topic, sealed) = overheard.recv().await.ok_or("eve got nothing")?;
    println!("eve sees {} bytes on {topic}, instead of {}", sealed.len(), plan.0.len());
    assert!(!sealed.windows(4).any(|four| four == b"mill"));

    // What eve sends herself, or sends again, is refused, and told.
    eve.publish_bytes("plans/tonight", sealed).await?;
    match plans.next_event().await {
        Some(whispeer::client::Event::Undecodable { error, .. }) => println!("bob is told: {error}"),
        other => return Err(format!("{other:?} instead of a refusal").into()),
    }
    Ok(())
}
