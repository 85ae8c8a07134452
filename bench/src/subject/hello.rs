//! How a load generator tells a raw subject what its connection is for: three bytes from the
//! client (the part it plays, then its channel as a little-endian `u16`), one byte back once the
//! connection is registered. A publisher that starts when every subscriber has had its byte
//! reaches them all.

use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const REGISTERED: u8 = b'+';

/// The part that a connection plays on its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Sends to every subscriber of the channel.
    Publisher,
    /// Receives what the publisher of the channel sends.
    Subscriber,
    /// Exchanges bytes with the one other peer of the channel.
    Peer,
}

impl Part {
    fn code(self) -> u8 {
        match self {
            Self::Publisher => b'P',
            Self::Subscriber => b'S',
            Self::Peer => b'=',
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Publisher, Self::Subscriber, Self::Peer]
            .into_iter()
            .find(|part| part.code() == code)
    }
}

/// Connects to the subject at `socket` and registers there.
///
/// # Errors
/// When the subject cannot be reached or does not register the connection.
pub async fn connect(socket: &Path, part: Part, channel: u16) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("cannot connect to {}", socket.display()))?;
    let [low, high] = channel.to_le_bytes();
    stream.write_all(&[part.code(), low, high]).await?;
    if stream.read_u8().await? != REGISTERED {
        bail!("the subject did not register the connection");
    }
    Ok(stream)
}

/// Reads what a new connection is for.
///
/// # Errors
/// When the connection ends or says something else.
pub async fn receive(stream: &mut UnixStream) -> Result<(Part, u16)> {
    let mut hello = [0; 3];
    stream.read_exact(&mut hello).await?;
    let [code, low, high] = hello;
    let part = Part::from_code(code).context("a connection began with an unknown part")?;
    Ok((part, u16::from_le_bytes([low, high])))
}

/// Tells the client that its connection is registered.
///
/// # Errors
/// When the connection has ended.
pub async fn confirm(stream: &mut UnixStream) -> Result<()> {
    Ok(stream.write_all(&[REGISTERED]).await?)
}
