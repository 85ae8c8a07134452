//! Workers that share what there is to do: each message goes to one of them.
//!
//!     cargo run --example 05_queue_group
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;

use serde::{Deserialize, Serialize};
use whispeer::client::SubscribeOptions;
use whispeer::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Job(u32);

impl PublishProtocol for Job {
    fn prefix() -> &'static str {
        "job"
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    const JOBS: u32 = 30;
    let (_bus, connector) = listen_and_serve_memory()?;

    let mut workers = Vec::new();
    for _ in 0..3 {
        let worker = Client::new_memory(&connector)?;
        // With a window of two jobs, a busy worker leaves the rest to the others.
        let options = SubscribeOptions::default().group("workers").window(2, 64 * 1024);
        let mut jobs = worker.subscribe_with::<Job>("resize", options).await?;
        workers.push(tokio::spawn(async move {
            let mut done = 0;
            while let Some((_topic, Job(number))) = jobs.recv().await {
                if number == 0 {
                    break;
                }
                done += 1;
                tokio::task::yield_now().await;
            }
            done
        }));
    }

    let boss = Client::new_memory(&connector)?;
    for number in 1..=JOBS {
        // However many workers there are, the group is one match.
        assert_eq!(boss.publish("resize", &Job(number)).await?, 1);
    }
    for _ in &workers {
        boss.publish("resize", &Job(0)).await?;
    }

    let mut sum = 0;
    for worker in workers {
        let done = worker.await?;
        println!("a worker did {done} jobs");
        sum += done;
    }
    assert_eq!(sum, JOBS);
    Ok(())
}
