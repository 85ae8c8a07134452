//! Clients and bus in one process, on one thread.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use whispeer::Client;
use whispeer::prelude::{PublishProtocol, RequestProtocol};

use super::{TOPIC, Work, runtime, start_bus};
use crate::counted::counted_part;

/// Operations that are counted, after as many to warm up with.
const OPERATIONS: u64 = 2_048;

/// Messages published before they are received.
const TOGETHER: u64 = 64;

/// Sixteen bytes as a value; it travels as MessagePack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sixteen(u64, u64);

/// A value whose encoding is the longest.
const VALUE: Sixteen = Sixteen(u64::MAX, u64::MAX);

/// Bytes of that: one that says how many fields there are, and nine for each.
const VALUE_BYTES: u64 = 19;

impl PublishProtocol for Sixteen {
    fn prefix() -> &'static str {
        "sixteen"
    }
}

impl RequestProtocol for Sixteen {
    type Rsp = Sixteen;

    fn prefix() -> &'static str {
        "sixteen"
    }
}

/// Publishes some, receives them, and again.
pub fn publish() -> Result<Work> {
    let runtime = runtime()?;
    let bus = start_bus(&runtime)?;
    let (publisher, mut subscription) = runtime.block_on(async {
        let subscriber = Client::new_memory(&bus.connector())?;
        let subscription = subscriber.subscribe::<Sixteen>(TOPIC).await?;
        let client = Client::new_memory(&bus.connector())?;
        client.ping().await?;
        anyhow::Ok((client.publisher::<Sixteen>(TOPIC)?, subscription))
    })?;
    let mut exchange = || {
        runtime.block_on(async {
            for _ in 0..OPERATIONS / TOGETHER {
                for _ in 0..TOGETHER {
                    publisher.send(&VALUE).await?;
                }
                for _ in 0..TOGETHER {
                    let received = subscription.recv().await;
                    let (_, value) = received.context("the subscription ended")?;
                    ensure!(value == VALUE, "another value came out");
                }
            }
            Ok(())
        })
    };
    exchange()?;
    let mut result = Ok(());
    counted_part(&mut || result = exchange());
    result?;
    Ok(Work {
        operations: OPERATIONS,
        messages: OPERATIONS,
        bytes: OPERATIONS * VALUE_BYTES,
    })
}

/// Requests, one after the other.
pub fn request() -> Result<Work> {
    let runtime = runtime()?;
    let bus = start_bus(&runtime)?;
    let client = runtime.block_on(async {
        let server = Client::new_memory(&bus.connector())?;
        let mut serving = server.serve::<Sixteen>(TOPIC).await?;
        runtime.spawn(async move {
            while let Some((_, id, value)) = serving.recv().await {
                if server.respond::<Sixteen>(id, &value).await.is_err() {
                    // The requester sees that the bus has gone.
                    return;
                }
            }
        });
        let client = Client::new_memory(&bus.connector())?;
        client.ping().await?;
        anyhow::Ok(client)
    })?;
    let exchange = || {
        runtime.block_on(async {
            for _ in 0..OPERATIONS {
                let value: Sixteen = client.request(TOPIC, &VALUE).await?;
                ensure!(value == VALUE, "another value came back");
            }
            Ok(())
        })
    };
    exchange()?;
    let mut result = Ok(());
    counted_part(&mut || result = exchange());
    result?;
    Ok(Work {
        operations: OPERATIONS,
        messages: 2 * OPERATIONS,
        bytes: 2 * OPERATIONS * VALUE_BYTES,
    })
}
