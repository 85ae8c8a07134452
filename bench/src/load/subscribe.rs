//! Subscribers, which measure what comes.

use anyhow::Result;
use futures_util::future::try_join_all;

use super::client::PubSub;
use super::measured::Measured;
use super::receiver::{self, Expecting, Receiver, WarmUp};
use super::{Holding, Phases, Streams, topic};
use crate::address::Address;

/// Subscribes over a connection for each subscriber, and counts what arrives until each has seen
/// the end of its streams.
///
/// # Errors
/// When the bus cannot be reached, or a delivery is lost, doubled or out of order.
pub async fn subscribe<C: PubSub>(
    address: &Address,
    streams: Streams,
    expecting: Expecting,
    holding: &Holding,
    phases: Phases,
    ready: impl FnOnce(),
) -> Result<Measured> {
    let warm_up = WarmUp::new(phases.warm_up);
    let (_, subscriptions) = streams.place(0);
    let progress = holding.progress(subscriptions)?;
    let mut clients = Vec::new();
    let mut receiving = Vec::new();
    for connection in 0..streams.subscribers {
        let channel = streams.channel(connection);
        let (first, count) = streams.of(channel);
        let receiver = Receiver::new(expecting, first, count, warm_up.clone())?
            .telling(progress.as_ref(), streams.place(connection).0);
        let client = C::connect(address).await?;
        receiving.push(client.subscribe(vec![topic(channel)], receiver).await?);
        clients.push(client);
    }
    ready();
    let receivers = try_join_all(receiving).await?;
    receiver::measured(receivers)
}
