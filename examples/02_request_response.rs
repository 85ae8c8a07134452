//! Asking a server, and matching on the error that it may answer with.
//!
//!     cargo run --example 02_request_response
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use whispeer::client::RequestOptions;
use whispeer::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Divide {
    dividend: i64,
    divisor: i64,
}

impl RequestProtocol for Divide {
    type Rsp = i64;

    fn prefix() -> &'static str {
        "divide"
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let (_bus, connector) = listen_and_serve_memory()?;

    let server = Client::new_memory(&connector)?;
    let handling = server
        .handle("", |request: Divide| async move {
            request
                .dividend
                .checked_div(request.divisor)
                .ok_or_else(|| ErrorReply::new("not_divisible", "the divisor is zero"))
        })
        .await?;

    let client = Client::new_memory(&connector)?;
    let quotient = client.request("", &Divide { dividend: 42, divisor: 6 }).await?;
    println!("42 / 6 = {quotient}");

    let patience = RequestOptions::default().timeout(Duration::from_secs(2));
    match client.request_with("", &Divide { dividend: 1, divisor: 0 }, patience).await {
        Err(BusError::Replied(reply)) if reply.code() == "not_divisible" => println!("{}", reply.message()),
        other => return Err(format!("expected an error reply, got {other:?}").into()),
    }

    // Those under way are answered before the server goes.
    handling.drain().await;
    Ok(())
}
