//! Connections of the raw subjects over which nothing goes: what a process takes for an open socket
//! on Tokio, and so the least that a connection to a bus can take.

use std::path::Path;

use anyhow::Result;

use super::hello::{self, Part};

/// Holds `connections` connections, each on a channel of its own, until the process is ended.
/// `first` numbers the first one.
///
/// # Errors
/// When the subject cannot be reached.
pub async fn hold(socket: &Path, first: u16, connections: u16, ready: impl FnOnce()) -> Result<()> {
    let mut streams = Vec::new();
    for connection in 0..connections {
        let channel = first.wrapping_add(connection);
        streams.push(hello::connect(socket, Part::Subscriber, channel).await?);
    }
    ready();
    std::future::pending::<()>().await;
    drop(streams);
    Ok(())
}
