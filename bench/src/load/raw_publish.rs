//! Publishers and subscribers of the raw subjects.
//!
//! How a publisher and a subscriber handle single messages decides at 16 B what a relay can reach,
//! so it is stated with every figure, as [`Handling`].

use std::cell::RefCell;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use futures_util::{SinkExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::UnixStream;
use tokio_util::codec::LengthDelimitedCodec;
use tokio_util::codec::length_delimited::Builder;

use super::deliveries::Deliveries;
use super::message::{self, Sequence, Step};
use super::{Measured, Phases};
use crate::frames::{FrameReader, HEADER_BYTES, READ_BYTES, append_frame};
use crate::subject::hello::{self, Part};

/// Messages sent between two looks at the clock, where each is sent by itself.
const MESSAGES_A_LOOK: u64 = 64;

/// What publishers and subscribers do with single messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// The least that a client does that sends and receives messages: each is given to an
    /// asynchronous send, which writes 64 KiB at a time, and each is received as an owned value
    /// from reads of 64 KiB.
    ByMessage,
    /// As [`ByMessage`](Self::ByMessage), with the length-delimited codec of Tokio's own library
    /// and its default buffers instead of code written for this measurement.
    ByCodec,
    /// As [`ByMessage`](Self::ByMessage), but each message is written at once: a publisher with
    /// nothing more to send.
    ByWrite,
    /// Prepared batches of 64 KiB are written, and messages are looked at where they were read. No
    /// application sees a message.
    InBulk,
}

/// Publishes at full speed on each of `channels` over a connection of its own, then says how many
/// messages there were.
///
/// # Errors
/// When the subject cannot be reached or a stream fails.
pub async fn publish(
    socket: &Path,
    channels: u16,
    payload_bytes: usize,
    handling: Handling,
    phases: Phases,
) -> Result<()> {
    let until = Instant::now() + phases.warm_up + phases.measure;
    let streams = (0..channels).map(|channel| async move {
        let mut stream = hello::connect(socket, Part::Publisher, channel).await?;
        let count = match handling {
            Handling::InBulk => send_batches(&mut stream, payload_bytes, until).await,
            Handling::ByMessage => send_each(&mut stream, payload_bytes, false, until).await,
            Handling::ByCodec => send_through_codec(&mut stream, payload_bytes, until).await,
            Handling::ByWrite => send_each(&mut stream, payload_bytes, true, until).await,
        }
        .context("the subject hung up on a publisher")?;
        let mut end = Vec::new();
        append_frame(&mut end, payload_bytes, |payload| {
            message::write_end(payload, count)
        });
        anyhow::Ok(stream.write_all(&end).await?)
    });
    try_join_all(streams).await?;
    Ok(())
}

async fn send_batches(
    stream: &mut UnixStream,
    payload_bytes: usize,
    until: Instant,
) -> Result<u64> {
    let frame_bytes = HEADER_BYTES + payload_bytes;
    let frames_a_batch = (READ_BYTES / frame_bytes).max(1);
    let mut batch = Vec::with_capacity(frames_a_batch * frame_bytes);
    for _ in 0..frames_a_batch {
        append_frame(&mut batch, payload_bytes, |_| {});
    }
    let mut sequence = 0;
    while Instant::now() < until {
        for frame in batch.chunks_exact_mut(frame_bytes) {
            let payload = frame.get_mut(HEADER_BYTES..).unwrap_or_default();
            message::write_message(payload, sequence);
            sequence += 1;
        }
        stream.write_all(&batch).await?;
    }
    Ok(sequence)
}

async fn send_each(
    stream: &mut UnixStream,
    payload_bytes: usize,
    flush_each: bool,
    until: Instant,
) -> Result<u64> {
    let length = u32::try_from(payload_bytes)?;
    let mut payload = vec![0; payload_bytes];
    let mut output = BufWriter::with_capacity(READ_BYTES, stream);
    let mut sequence: u64 = 0;
    while !sequence.is_multiple_of(MESSAGES_A_LOOK) || Instant::now() < until {
        message::write_message(&mut payload, sequence);
        output.write_u32_le(length).await?;
        output.write_all(&payload).await?;
        if flush_each {
            output.flush().await?;
        }
        sequence += 1;
    }
    output.flush().await?;
    Ok(sequence)
}

async fn send_through_codec(
    stream: &mut UnixStream,
    payload_bytes: usize,
    until: Instant,
) -> Result<u64> {
    let template = vec![0; payload_bytes];
    let mut output = codec().new_write(stream);
    let mut sequence: u64 = 0;
    while !sequence.is_multiple_of(MESSAGES_A_LOOK) || Instant::now() < until {
        let mut payload = BytesMut::from(template.as_slice());
        message::write_message(&mut payload, sequence);
        output.feed(payload.freeze()).await?;
        sequence += 1;
    }
    SinkExt::<Bytes>::flush(&mut output).await?;
    Ok(sequence)
}

/// The codec's settings that make it speak the frames of the raw subjects.
fn codec() -> Builder {
    let mut settings = LengthDelimitedCodec::builder();
    settings.little_endian();
    settings
}

/// Subscribes over `connections` connections, dealt out over `channels`, and counts what arrives
/// until each has seen its end.
///
/// # Errors
/// When the subject cannot be reached, or a delivery is lost, doubled or out of order.
pub async fn subscribe(
    socket: &Path,
    connections: u16,
    channels: u16,
    handling: Handling,
    phases: Phases,
    ready: impl FnOnce(),
) -> Result<Measured> {
    let deliveries = RefCell::new(Deliveries::new(phases.warm_up));
    let mut streams = Vec::new();
    for connection in 0..connections {
        let channel = connection % channels.max(1);
        streams.push(hello::connect(socket, Part::Subscriber, channel).await?);
    }
    ready();
    let receiving = streams.into_iter().map(async |stream| match handling {
        Handling::InBulk => receive_batches(stream, &deliveries).await,
        Handling::ByCodec => receive_through_codec(stream, &deliveries).await,
        Handling::ByMessage | Handling::ByWrite => receive_each(stream, &deliveries).await,
    });
    try_join_all(receiving)
        .await
        .context("a subscriber was cut off")?;
    deliveries.into_inner().measured()
}

async fn receive_batches(mut stream: UnixStream, deliveries: &RefCell<Deliveries>) -> Result<()> {
    let mut input = FrameReader::new();
    let mut sequence = Sequence::default();
    loop {
        if input.fill(&mut stream).await? == 0 {
            bail!("the subject hung up");
        }
        let mut count = 0;
        while let Some(payload) = input.next_payload()? {
            if sequence.accept(payload)? == Step::End {
                let mut deliveries = deliveries.borrow_mut();
                deliveries.add(count);
                deliveries.end_stream();
                return Ok(());
            }
            count += 1;
        }
        deliveries.borrow_mut().add(count);
    }
}

async fn receive_each(stream: UnixStream, deliveries: &RefCell<Deliveries>) -> Result<()> {
    let mut input = BufReader::with_capacity(READ_BYTES, stream);
    let mut sequence = Sequence::default();
    loop {
        let message = receive_one(&mut input).await?;
        if sequence.accept(&message)? == Step::End {
            deliveries.borrow_mut().end_stream();
            return Ok(());
        }
        deliveries.borrow_mut().add(1);
    }
}

async fn receive_through_codec(stream: UnixStream, deliveries: &RefCell<Deliveries>) -> Result<()> {
    let mut input = codec().new_read(stream);
    let mut sequence = Sequence::default();
    while let Some(message) = input.try_next().await? {
        if sequence.accept(&message)? == Step::End {
            deliveries.borrow_mut().end_stream();
            return Ok(());
        }
        deliveries.borrow_mut().add(1);
    }
    bail!("the subject hung up")
}

async fn receive_one(input: &mut BufReader<UnixStream>) -> Result<Vec<u8>> {
    let length = input.read_u32_le().await? as usize;
    let mut payload = vec![0; length];
    input.read_exact(&mut payload).await?;
    Ok(payload)
}
