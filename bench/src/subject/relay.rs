//! Relays: what the kernel and one copy in user space cost, and so the floor for any bus.
//!
//! The chunk relay copies whatever a read gives. The frame relay finds the frames in it and
//! forwards each to the destinations. Both read 64 KiB at a time, write once for each destination
//! and read, and allocate nothing for a chunk or frame.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::hello::{self, Part};
use crate::frames::{FrameReader, READ_BYTES};

/// What is forwarded as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Whatever one read gives.
    Chunk,
    /// Each length-prefixed frame.
    Frame,
}

/// Where a pump writes. Several pumps may share it; each writes whole frames while it has it.
type Destination<W> = Arc<Mutex<W>>;

/// Who is connected to a channel.
#[derive(Debug, Default)]
struct Channel {
    subscribers: Vec<Destination<UnixStream>>,
    peer: Option<UnixStream>,
}

/// Serves at `socket` until the process is ended.
///
/// # Errors
/// When the socket cannot be bound, or a connection fails or breaks the framing.
pub async fn serve(socket: &Path, unit: Unit, ready: impl FnOnce()) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    let mut channels = HashMap::<u16, Channel>::new();
    let mut pumps = JoinSet::new();
    ready();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                register(stream, unit, &mut channels, &mut pumps).await?;
            }
            Some(ended) = pumps.join_next() => ended??,
        }
    }
}

async fn register(
    mut stream: UnixStream,
    unit: Unit,
    channels: &mut HashMap<u16, Channel>,
    pumps: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let (part, number) = hello::receive(&mut stream).await?;
    hello::confirm(&mut stream).await?;
    let channel = channels.entry(number).or_default();
    match part {
        Part::Subscriber => channel.subscribers.push(shared(stream)),
        Part::Publisher => {
            let destinations = channel.subscribers.clone();
            ensure!(
                !destinations.is_empty(),
                "channel {number} has no subscriber to publish to"
            );
            pumps.spawn(pump(unit, stream, destinations));
        }
        Part::Peer => match channel.peer.take() {
            None => channel.peer = Some(stream),
            Some(other) => {
                let (read, write) = stream.into_split();
                let (other_read, other_write) = other.into_split();
                pumps.spawn(pump(unit, read, vec![shared(other_write)]));
                pumps.spawn(pump(unit, other_read, vec![shared(write)]));
            }
        },
    }
    Ok(())
}

fn shared<W>(writer: W) -> Destination<W> {
    Arc::new(Mutex::new(writer))
}

async fn pump<R, W>(unit: Unit, source: R, destinations: Vec<Destination<W>>) -> Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    match unit {
        Unit::Chunk => pump_chunks(source, destinations).await,
        Unit::Frame => pump_frames(source, destinations).await,
    }
}

async fn pump_chunks<R, W>(mut source: R, destinations: Vec<Destination<W>>) -> Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let count = source.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        for destination in &destinations {
            let mut destination = destination.lock().await;
            destination
                .write_all(chunk.get(..count).unwrap_or_default())
                .await?;
        }
    }
}

async fn pump_frames<R, W>(mut source: R, destinations: Vec<Destination<W>>) -> Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut input = FrameReader::new();
    let mut outputs: Vec<(Destination<W>, Vec<u8>)> = destinations
        .into_iter()
        .map(|destination| (destination, Vec::with_capacity(2 * READ_BYTES)))
        .collect();
    while input.fill(&mut source).await? > 0 {
        while let Some(frame) = input.next_frame()? {
            for (_, output) in &mut outputs {
                output.extend_from_slice(frame);
            }
        }
        for (destination, output) in &mut outputs {
            if !output.is_empty() {
                destination.lock().await.write_all(output).await?;
                output.clear();
            }
        }
    }
    Ok(())
}
