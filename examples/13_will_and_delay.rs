//! A worker tells what it is doing, and the bus tells when it is gone: messages for later, messages that are of use for a
//! while only, last wills, and who is there.
//!
//!     cargo run --example 13_will_and_delay
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use whispeer::client::{Event, PresenceEvent, PublishOptions};
use whispeer::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Status {
    Working { job: u32 },
    Gone,
}

impl PublishProtocol for Status {
    fn prefix() -> &'static str {
        "workers"
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

/// The whole program; the tests run it, too.
pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("my_bus");
    let bus = listen_and_serve_unix(&path)?;
    let office = Client::new_unix(&path).await?;
    let mut statuses = office.subscribe::<Status>("*").await?;

    // The worker lives on a runtime of its own, so that it can be killed below.
    let workshop = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let address = path.to_str().ok_or("a path in UTF-8")?.to_owned();
    let worker = workshop.spawn(async move {
        // If it is gone without having said goodbye, the bus says so in its place.
        let will = PublishOptions::default();
        Client::builder().name("worker 7").will("7", &Status::Gone, will).connect(&address).await
    });
    let worker = worker.await??;

    // Of no use to anybody after a second.
    let brief = PublishOptions::default().ttl(Duration::from_secs(1));
    worker.publish_with("7", &Status::Working { job: 1 }, brief).await?;
    // The bus keeps this one for a moment; the worker need not.
    let soon = PublishOptions::default().deliver_in(Duration::from_millis(50));
    worker.publish_with("7", &Status::Working { job: 2 }, soon).await?;
    for _ in 0..2 {
        match statuses.next_event().await {
            Some(Event::Message(message)) => {
                println!("{}: {:?}, of use for {:?}", message.topic, message.value, message.expires_in);
            }
            other => println!("{other:?}"),
        }
    }

    // Who listens to what the office says?
    let mut watch = office.watch_presence("announcements").await?;
    let announcements = worker.subscribe_bytes("announcements").await?;
    if let Some(PresenceEvent::Join(member)) = watch.recv().await {
        println!("{} listens to {}", member.name, member.pattern);
    }
    println!("{} listens in all", office.presence("announcements").await?.len());

    // Nothing of the worker runs on from here.
    workshop.shutdown_background();
    if let Some((topic, status)) = statuses.recv().await {
        println!("{topic}: {status:?}");
    }
    if let Some(PresenceEvent::Leave(member)) = watch.recv().await {
        println!("{} listens no longer", member.name);
    }
    drop((worker, announcements));
    bus.stop().await;
    Ok(())
}
