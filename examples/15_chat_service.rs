//! A service that takes part in the chat of `examples/chat/index.html`: it counts what is said, and tells who asks "how many?".
//! Here somebody asks within the program; with the address of a bus it serves that one:
//!
//!     whispeer serve my_bus http://localhost:8080 --dev --gateway-pages examples/chat
//!     cargo run --example 15_chat_service my_bus
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;

use serde::{Deserialize, Serialize};
use whispeer::prelude::*;

/// What is said, as pages send it in JSON: `{"from": "ann", "text": "hello"}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    from: String,
    text: String,
}

impl PublishProtocol for Line {
    fn prefix() -> &'static str {
        "chat"
    }
}

/// Counts lines, and answers.
async fn serve(client: &Client, most: usize) -> BusResult<()> {
    let mut lines = client.subscribe::<Line>("").await?;
    println!("the service listens");
    let mut count = 0;
    while count < most {
        let Some((_topic, line)) = lines.recv().await else { break };
        if line.from == "service" {
            continue;
        }
        count += 1;
        println!("{}: {}", line.from, line.text);
        if line.text.trim() == "how many?" {
            let text = format!("{count} lines so far");
            client.publish("", &Line { from: "service".into(), text }).await?;
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        Some(address) => Ok(serve(&Client::connect(&address).await?, usize::MAX).await?),
        None => run().await,
    }
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let (_bus, connector) = listen_and_serve_memory()?;
    let service = Client::new_memory(&connector)?;
    let ann = Client::new_memory(&connector)?;
    let mut lines = ann.subscribe::<Line>("").await?;
    let asking = async {
        // The service may not listen yet: who publishes is told how many get it.
        let say = async |text: &str| {
            let line = Line { from: "ann".into(), text: text.into() };
            while ann.publish("", &line).await? < 2 {
                tokio::task::yield_now().await;
            }
            BusResult::Ok(())
        };
        say("how many?").await?;
        while let Some((_topic, line)) = lines.recv().await {
            if line.from == "service" {
                return Ok(line.text);
            }
        }
        Err(Box::<dyn Error>::from("the bus has stopped"))
    };
    let (served, answer) = tokio::join!(serve(&service, 1), asking);
    served?;
    assert_eq!(answer?, "1 lines so far");
    Ok(())
}
