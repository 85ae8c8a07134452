//! Many messages without waiting for each: a publisher, and a flush at the end.
//!
//!     cargo run --release --example 08_pipelined_publisher
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use whispeer::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sample(u64);

impl PublishProtocol for Sample {
    fn prefix() -> &'static str {
        "sample"
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    const SAMPLES: u64 = 100_000;
    let (_bus, connector) = listen_and_serve_memory()?;
    let reader = Client::new_memory(&connector)?;
    let mut samples = reader.subscribe::<Sample>("sensor/1").await?;
    let reading = tokio::spawn(async move {
        let mut expected = 0;
        while expected < SAMPLES {
            match samples.recv().await {
                // They come in order, none is missing and none comes twice.
                Some((_topic, Sample(number))) if number == expected => expected += 1,
                _ => break,
            }
        }
        (expected, samples.gaps())
    });

    let writer = Client::new_memory(&connector)?;
    let publisher = writer.publisher::<Sample>("sensor/1")?;
    let start = Instant::now();
    for number in 0..SAMPLES {
        // Waits only while the window for publishes is used up.
        publisher.send(&Sample(number)).await?;
    }
    // Failures of single messages would be told here.
    publisher.flush().await?;
    println!("{SAMPLES} messages in {:?}", start.elapsed());
    assert_eq!(reading.await?, (SAMPLES, 0));
    Ok(())
}
