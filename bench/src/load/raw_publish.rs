//! Publishers and subscribers of the raw subjects.
//!
//! How a publisher and a subscriber handle single messages decides at 16 B what a relay can reach,
//! so it is stated with every figure, as [`Handling`].

use std::marker::PhantomData;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, SinkExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::UnixStream;
use tokio_util::codec::length_delimited::Builder;
use tokio_util::codec::{FramedWrite, LengthDelimitedCodec};

use super::client::{PubSub, Publisher, Receiving};
use super::receiver::{Receiver, Step};
use crate::address::Address;
use crate::frames::{FrameReader, HEADER_BYTES, READ_BYTES, append_frame};
use crate::subject::hello::{self, Part};

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

/// A [`Handling`] as a type, so that it costs nothing to know it.
pub trait Style {
    /// Which.
    const HANDLING: Handling;
}

macro_rules! styles {
    ($($name:ident),*) => {$(
        #[doc = concat!("[`Handling::", stringify!($name), "`].")]
        #[derive(Debug)]
        pub struct $name;

        impl Style for $name {
            const HANDLING: Handling = Handling::$name;
        }
    )*};
}

styles!(ByMessage, ByCodec, ByWrite, InBulk);

/// A client of the raw subjects. Each publisher and subscription is a connection of its own.
#[derive(Debug)]
pub struct Raw<S> {
    socket: PathBuf,
    style: PhantomData<S>,
}

impl<S: Style> PubSub for Raw<S> {
    type Publisher = RawPublisher<S>;
    type Held = UnixStream;

    async fn connect(address: &Address) -> Result<Self> {
        Ok(Self {
            socket: address.path()?.to_path_buf(),
            style: PhantomData,
        })
    }

    async fn publisher(&self, topic: &str, payload_bytes: usize) -> Result<RawPublisher<S>> {
        let stream = hello::connect(&self.socket, Part::Publisher, channel(topic)?).await?;
        RawPublisher::new(stream, payload_bytes)
    }

    async fn subscribe(&self, patterns: Vec<String>, mut receiver: Receiver) -> Result<Receiving> {
        let [topic] = patterns.as_slice() else {
            bail!("a raw subscriber has one channel")
        };
        let stream = hello::connect(&self.socket, Part::Subscriber, channel(topic)?).await?;
        Ok(async move {
            match S::HANDLING {
                Handling::InBulk => receive_batches(stream, &mut receiver).await,
                Handling::ByCodec => receive_through_codec(stream, &mut receiver).await,
                Handling::ByMessage | Handling::ByWrite => {
                    receive_each(stream, &mut receiver).await
                }
            }
            .context("a subscriber was cut off")?;
            Ok(receiver)
        }
        .boxed_local())
    }

    async fn hold(&self, pattern: &str) -> Result<UnixStream> {
        hello::connect(&self.socket, Part::Subscriber, channel(pattern)?).await
    }

    async fn release(&self, held: UnixStream) -> Result<()> {
        drop(held);
        Ok(())
    }
}

/// The channel that a topic ends with.
fn channel(topic: &str) -> Result<u16> {
    let (_, number) = topic
        .rsplit_once('/')
        .context("a raw topic ends with the number of its channel")?;
    Ok(number.parse()?)
}

/// The sending end of a raw channel.
#[derive(Debug)]
pub struct RawPublisher<S> {
    output: Output,
    payload: Vec<u8>,
    style: PhantomData<S>,
}

#[derive(Debug)]
enum Output {
    Buffered(BufWriter<UnixStream>),
    Codec(FramedWrite<UnixStream, LengthDelimitedCodec>),
    Bulk {
        stream: UnixStream,
        /// Frames with their headers.
        batch: Vec<u8>,
        filled: usize,
    },
}

impl<S: Style> RawPublisher<S> {
    fn new(stream: UnixStream, payload_bytes: usize) -> Result<Self> {
        let output = match S::HANDLING {
            Handling::ByMessage | Handling::ByWrite => {
                Output::Buffered(BufWriter::with_capacity(READ_BYTES, stream))
            }
            Handling::ByCodec => Output::Codec(codec().new_write(stream)),
            Handling::InBulk => {
                let frames = (READ_BYTES / (HEADER_BYTES + payload_bytes)).max(1);
                let mut batch = Vec::new();
                for _ in 0..frames {
                    append_frame(&mut batch, payload_bytes, |_| {});
                }
                Output::Bulk {
                    stream,
                    batch,
                    filled: 0,
                }
            }
        };
        Ok(Self {
            output,
            payload: vec![0; payload_bytes],
            style: PhantomData,
        })
    }
}

impl<S: Style> Publisher for RawPublisher<S> {
    async fn send(&mut self, write: impl FnOnce(&mut [u8])) -> Result<()> {
        match &mut self.output {
            Output::Buffered(output) => {
                write(&mut self.payload);
                output.write_u32_le(self.payload.len() as u32).await?;
                output.write_all(&self.payload).await?;
                if S::HANDLING == Handling::ByWrite {
                    output.flush().await?;
                }
            }
            Output::Codec(output) => {
                let mut payload = BytesMut::from(self.payload.as_slice());
                write(&mut payload);
                output.feed(payload.freeze()).await?;
            }
            Output::Bulk {
                stream,
                batch,
                filled,
            } => {
                let payload = *filled + HEADER_BYTES..*filled + HEADER_BYTES + self.payload.len();
                *filled = payload.end;
                write(batch.get_mut(payload).unwrap_or_default());
                if *filled == batch.len() {
                    stream.write_all(batch).await?;
                    *filled = 0;
                }
            }
        }
        Ok(())
    }

    async fn push(&mut self) -> Result<()> {
        match &mut self.output {
            Output::Buffered(output) => output.flush().await?,
            Output::Codec(output) => SinkExt::<Bytes>::flush(output).await?,
            Output::Bulk {
                stream,
                batch,
                filled,
            } => {
                let unsent = batch.get(..*filled).unwrap_or_default();
                stream.write_all(unsent).await?;
                *filled = 0;
            }
        }
        Ok(())
    }
}

/// The codec's settings that make it speak the frames of the raw subjects.
fn codec() -> Builder {
    let mut settings = LengthDelimitedCodec::builder();
    settings.little_endian();
    settings
}

async fn receive_batches(mut stream: UnixStream, receiver: &mut Receiver) -> Result<()> {
    let mut input = FrameReader::new();
    loop {
        if input.fill(&mut stream).await? == 0 {
            bail!("the subject hung up");
        }
        while let Some(payload) = input.next_payload()? {
            if receiver.accept(payload)? == Step::End {
                return Ok(());
            }
        }
    }
}

async fn receive_each(stream: UnixStream, receiver: &mut Receiver) -> Result<()> {
    let mut input = BufReader::with_capacity(READ_BYTES, stream);
    loop {
        let message = receive_one(&mut input).await?;
        if receiver.accept(&message)? == Step::End {
            return Ok(());
        }
    }
}

async fn receive_through_codec(stream: UnixStream, receiver: &mut Receiver) -> Result<()> {
    let mut input = codec().new_read(stream);
    while let Some(message) = input.try_next().await? {
        if receiver.accept(&message)? == Step::End {
            return Ok(());
        }
    }
    bail!("the subject hung up")
}

async fn receive_one(input: &mut BufReader<UnixStream>) -> Result<Vec<u8>> {
    let length = input.read_u32_le().await? as usize;
    let mut payload = vec![0; length];
    input.read_exact(&mut payload).await?;
    Ok(payload)
}
