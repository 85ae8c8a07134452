//! One request, many answers, at the pace of whoever reads them.
//!
//!     cargo run --example 04_streaming_replies
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;

use serde::{Deserialize, Serialize};
use whispeer::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct CountTo(u64);

impl RequestProtocol for CountTo {
    type Rsp = u64;

    fn prefix() -> &'static str {
        "count"
    }
}

async fn serve(server: Client) -> BusResult<()> {
    let mut serving = server.serve::<CountTo>("").await?;
    while let Some((_topic, id, CountTo(last))) = serving.recv().await {
        let mut responder = server.respond_stream::<CountTo>(id)?;
        for number in 1..=last {
            // It waits while the reader is behind, and fails once nobody reads any more.
            if responder.send(&number).await.is_err() {
                break;
            }
        }
        if !responder.is_cancelled() {
            responder.finish()?;
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let (bus, connector) = listen_and_serve_memory()?;
    let server = tokio::spawn(serve(Client::new_memory(&connector)?));

    let client = Client::new_memory(&connector)?;
    // The server subscribes in its own time.
    let mut numbers = loop {
        let mut numbers = client.request_stream("", &CountTo(1_000)).await?;
        match numbers.recv().await {
            Some(Err(BusError::NoServer { .. })) => tokio::task::yield_now().await,
            Some(first) => {
                assert_eq!(first?, 1);
                break numbers;
            }
            None => return Err("a stream without a first number".into()),
        }
    };
    let mut sum = 1;
    while let Some(number) = numbers.recv().await {
        sum += number?;
    }
    println!("1 + 2 + ... + 1000 = {sum}");
    assert_eq!(sum, 500_500);

    bus.stop().await;
    server.await??;
    Ok(())
}
