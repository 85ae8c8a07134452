//! Asking everyone who serves a pattern, and gathering what they answer.
//!
//!     cargo run --example 07_scatter_gather
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use whispeer::client::ManyOptions;
use whispeer::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Offer {
    article: String,
}

impl RequestProtocol for Offer {
    type Rsp = u32;

    fn prefix() -> &'static str {
        "offer"
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let (_bus, connector) = listen_and_serve_memory()?;
    let mut shops = Vec::new();
    for (shop, price) in [("north", 30), ("south", 25)] {
        let client = Client::new_memory(&connector)?;
        let answer = move |_: Offer| async move { Ok(price) };
        shops.push(client.handle::<Offer, _, _>(shop, answer).await?);
    }
    let closed = Client::new_memory(&connector)?;
    let refuse = |_: Offer| async { Err(ErrorReply::new("closed", "come back tomorrow")) };
    shops.push(closed.handle::<Offer, _, _>("west", refuse).await?);

    let client = Client::new_memory(&connector)?;
    let request = Offer { article: "lamp".into() };
    let options = ManyOptions::default().timeout(Duration::from_secs(2));
    let mut best = None;
    for answer in client.request_many("*", &request, options).await? {
        match answer {
            Ok((shop, price)) => {
                println!("{shop} asks {price}");
                best = best.min(Some(price)).or(Some(price));
            }
            // One that fails does not spoil the answers of the others.
            Err(error) => println!("no offer: {error}"),
        }
    }
    assert_eq!(best, Some(25));
    Ok(())
}
