//! A raw ping-pong over one Unix socket: the requester's peer is the subject itself, so that a
//! round trip has one hop each way. No bus in a process of its own can be as fast.

use std::path::Path;

use anyhow::Result;
use tokio::net::UnixListener;

use super::hello;
use crate::load::raw_request::echo;

/// Answers the connections at `socket`, one after the other, until the process is ended.
///
/// # Errors
/// When the socket cannot be bound or a connection fails.
pub async fn serve(socket: &Path, ready: impl FnOnce()) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    ready();
    loop {
        let (mut stream, _) = listener.accept().await?;
        hello::receive(&mut stream).await?;
        hello::confirm(&mut stream).await?;
        echo(&mut stream).await?;
    }
}
