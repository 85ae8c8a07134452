//! Workers that share what there is to do: each message goes to one of them.
//!
//!     cargo run --example 05_queue_group
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use whispeer::client::SubscribeOptions;
use whispeer::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Job(u32);

impl PublishProtocol for Job {
    fn prefix() -> &'static str {
        "job"
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Done {
    worker: usize,
}

impl PublishProtocol for Done {
    fn prefix() -> &'static str {
        "done"
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    const JOBS: u32 = 30;
    let (_bus, connector) = listen_and_serve_memory()?;
    let boss = Client::new_memory(&connector)?;
    let mut results = boss.subscribe::<Done>("resize").await?;

    // The workers end with this set.
    let mut workers = JoinSet::new();
    for number in 0..3 {
        let worker = Client::new_memory(&connector)?;
        // With a window of two jobs, a busy worker leaves the rest to the others.
        let options = SubscribeOptions::default().group("workers").window(2, 64 * 1024);
        let mut jobs = worker.subscribe_with::<Job>("resize", options).await?;
        workers.spawn(async move {
            while let Some((topic, Job(_))) = jobs.recv().await {
                worker.publish(topic.as_str(), &Done { worker: number }).await?;
            }
            BusResult::Ok(())
        });
    }

    for number in 1..=JOBS {
        // However many workers there are, the group is one match.
        assert_eq!(boss.publish("resize", &Job(number)).await?, 1);
    }

    let mut done = [0; 3];
    while done.iter().sum::<u32>() < JOBS {
        let Some((_topic, Done { worker })) = results.recv().await else { break };
        done[worker] += 1;
    }
    println!("the workers did {done:?} jobs");
    assert_eq!(done.iter().sum::<u32>(), JOBS);
    Ok(())
}
