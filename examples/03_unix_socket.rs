//! A bus for several processes on one host. Here they are all in one program.
//!
//!     cargo run --example 03_unix_socket
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;

use serde::{Deserialize, Serialize};
use whispeer::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line(String);

impl PublishProtocol for Line {
    fn prefix() -> &'static str {
        "log"
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("my_bus");

    // Only this user may connect: the socket's mode is 0600.
    let bus = listen_and_serve_unix(&path)?;

    let reader = Client::new_unix(&path).await?;
    let mut lines = reader.subscribe::<Line>("**").await?;

    let writer = Client::new_unix(&path).await?;
    writer.publish("backup", &Line("42 files saved".into())).await?;
    writer.close().await?;

    let (topic, Line(line)) = lines.recv().await.ok_or("the bus has stopped")?;
    println!("{topic}: {line}");

    bus.stop().await;
    assert!(!path.exists(), "the socket goes with the bus");
    Ok(())
}
