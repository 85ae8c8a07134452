//! The journal and the images at JetStream.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{CreateStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, DirectGetErrorKind, Info, RawMessageErrorKind, Stream};
use async_nats::jetstream::{Context, ContextBuilder, ErrorCode};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use serde_json::json;
use tokio::time::{Instant, timeout};
use whispeer::store::StoreError;

use super::address::Addresses;
use super::entries::Entries;
use super::options::JetStreamOptions;
use super::record::Image;
use crate::limits;

/// Where a store lies at NATS.
#[derive(Debug)]
pub(super) struct Journal {
    context: Context,
    pub(super) addresses: Addresses,
    options: JetStreamOptions,
    /// Until when entries are had from the leader alone, as one of the others has not answered.
    leader_until: Mutex<Option<Instant>>,
}

/// The journal as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// When it was made: nanoseconds since 1970 (UTC). One that was made anew is another.
    pub(super) made: i128,
    /// The last entry.
    pub(super) last: u64,
}

/// An entry, with its headers and, unless it was read without, its payload.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

impl Journal {
    pub(super) fn new(client: async_nats::Client, options: JetStreamOptions) -> Self {
        let builder = ContextBuilder::new().timeout(options.answer).ack_timeout(options.answer);
        let addresses = Addresses::new(options.subjects.clone());
        Self { context: builder.build(client), addresses, options, leader_until: Mutex::default() }
    }

    pub(super) fn client(&self) -> async_nats::Client {
        self.context.client()
    }

    /// How often NATS has been connected to.
    pub(super) fn connects(&self) -> u64 {
        self.client().statistics().connects.load(Ordering::Relaxed)
    }

    /// That NATS is not there, or not now.
    pub(super) fn away(&self, what: impl std::fmt::Display) -> StoreError {
        StoreError::Busy { what: format!("JetStream does not answer: {what}; see to NATS, and try again") }
    }

    /// Makes what is not there yet. What is stays as it is.
    pub(super) async fn open(&self) -> Result<Extent, StoreError> {
        let base = |name, subjects| Config {
            name,
            subjects,
            storage: self.options.storage.into(),
            num_replicas: self.options.replicas.count(),
            allow_direct: true,
            ..Config::default()
        };
        let images = base(self.addresses.images(), vec![self.addresses.of_images()]);
        let journal = base(self.addresses.journal(), self.addresses.of_journal());
        self.made(images).await?;
        let info = self.made(journal).await?;
        let mut subjects = info.config.subjects.clone();
        subjects.sort();
        let mut own = self.addresses.of_journal();
        own.sort();
        if subjects != own {
            return Err(StoreError::Corrupt {
                place: format!("the stream {} of JetStream", self.addresses.journal()),
                reason: format!("it has the subjects {subjects:?}, of another prefix; take another one"),
            });
        }
        Ok(extent(&info))
    }

    async fn made(&self, config: Config) -> Result<Info, StoreError> {
        let name = config.name.clone();
        // One that is there is not asked to be otherwise, as others may have made it so.
        match self.context.get_stream(&name).await {
            Ok(stream) => return Ok(stream.cached_info().clone()),
            Err(error) if is_no_stream(&error.kind()) => {}
            Err(error) => return Err(self.away(error)),
        }
        match self.context.create_stream(config).await {
            Ok(stream) => Ok(stream.cached_info().clone()),
            Err(error) => match error.kind() {
                CreateStreamErrorKind::JetStream(told)
                    if told.error_code() == ErrorCode::STREAM_NAME_EXIST =>
                {
                    Err(self.away("somebody else makes it"))
                }
                _ => Err(self.away(format!("the stream {name} cannot be made: {error}"))),
            },
        }
    }

    /// All entries from this one on, without payloads, and those that come.
    pub(super) async fn follow(&self, from: u64) -> Result<Entries, StoreError> {
        Entries::begin(&self.context, self.addresses.journal(), from).await
    }

    async fn stream(&self) -> Result<Stream<()>, StoreError> {
        let stream = self.context.get_stream_no_info(self.addresses.journal()).await;
        stream.map_err(|error| self.away(error))
    }

    /// The journal as its leader says that it is; `None` where there is none.
    pub(super) async fn extent(&self) -> Result<Option<Extent>, StoreError> {
        match self.context.get_stream(self.addresses.journal()).await {
            Ok(stream) => Ok(Some(extent(stream.cached_info()))),
            Err(error) if is_no_stream(&error.kind()) => Ok(None),
            Err(error) => Err(self.away(error)),
        }
    }

    /// One entry; `None` where a server says that there is none. That need not be so: one that is cut off, or has just been elected, knows less than
    /// the others.
    pub(super) async fn entry(&self, at: u64) -> Result<Option<Fetched>, StoreError> {
        let stream = self.stream().await?;
        if self.may_ask_any() {
            match timeout(limits::JETSTREAM_DIRECT, stream.direct_get(at)).await {
                Ok(Ok(found)) => {
                    return Ok(Some(Fetched { headers: found.headers, payload: found.payload }));
                }
                // Any of the servers has answered, and it may be behind.
                Ok(Err(error)) if matches!(error.kind(), DirectGetErrorKind::NotFound) => {}
                Ok(Err(_)) | Err(_) => self.ask_the_leader(true),
            }
        }
        match stream.get_raw_message(at).await {
            Ok(found) => Ok(Some(Fetched { headers: found.headers, payload: found.payload })),
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                _ => {
                    // It may be the one that is gone.
                    self.ask_the_leader(false);
                    Err(self.away(error))
                }
            },
        }
    }

    fn may_ask_any(&self) -> bool {
        let until = self.leader_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_none_or(|until| Instant::now() >= until)
    }

    fn ask_the_leader(&self, alone: bool) {
        let mut until = self.leader_until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = alone.then(|| Instant::now() + limits::JETSTREAM_INDIRECT);
    }

    /// Deletes entries: all before `needed`, and these.
    pub(super) async fn delete(&self, needed: u64, garbage: Vec<u64>) -> Result<(), StoreError> {
        let stream = self.stream().await?;
        stream.purge().sequence(needed).await.map_err(|error| self.away(error))?;
        let subject = format!("STREAM.MSG.DELETE.{}", self.addresses.journal());
        let deleting = stream::iter(garbage.into_iter().filter(|at| *at >= needed)).map(|at| {
            let (context, subject) = (&self.context, subject.clone());
            async move {
                // It need not be overwritten. What is gone already is told as an error, and is as good.
                let request = json!({ "seq": at, "no_erase": true });
                context.request::<_, _, Response<serde_json::Value>>(subject, &request).await
            }
        });
        let mut deleting = deleting.buffer_unordered(limits::JETSTREAM_FETCHES);
        while let Some(deleted) = deleting.next().await {
            deleted.map_err(|error| self.away(error))?;
        }
        Ok(())
    }

    /// Writes an image. It is none until the journal tells of it.
    pub(super) async fn write_image(&self, at: u64, writer: u64, bytes: Bytes) -> Result<Image, StoreError> {
        let image = Image {
            at,
            writer,
            parts: bytes.len().div_ceil(limits::JETSTREAM_CHUNK_BYTES),
            bytes: bytes.len(),
        };
        let parts = (0..image.parts).map(|part| {
            let from = part * limits::JETSTREAM_CHUNK_BYTES;
            let to = (from + limits::JETSTREAM_CHUNK_BYTES).min(bytes.len());
            (self.addresses.of_image(at, writer, part), bytes.slice(from..to))
        });
        let writing = stream::iter(parts).map(|(subject, part)| async move {
            let acknowledged = self.context.publish(subject, part).await?;
            acknowledged.await
        });
        let mut writing = writing.buffered(8);
        while let Some(written) = writing.next().await {
            written.map_err(|error| match error.kind() {
                PublishErrorKind::TimedOut => self.away(error),
                _ => self.away(format!("an image is not taken: {error}")),
            })?;
        }
        Ok(image)
    }

    /// The last image that the journal tells of.
    pub(super) async fn last_image(&self) -> Result<Option<HeaderMap>, StoreError> {
        let found = self.stream().await?.get_last_raw_message_by_subject(&self.addresses.of_imaged()).await;
        match found {
            Ok(found) => Ok(Some(found.headers)),
            Err(error) => match error.kind() {
                async_nats::jetstream::stream::LastRawMessageErrorKind::NoMessageFound => Ok(None),
                _ => Err(self.away(error)),
            },
        }
    }

    /// What is in an image; `None` where it is not whole, as a newer one has taken its place.
    pub(super) async fn read_image(&self, image: Image) -> Result<Option<Vec<u8>>, StoreError> {
        let stream = self.context.get_stream_no_info(self.addresses.images()).await;
        let stream = stream.map_err(|error| self.away(error))?;
        let parts = (0..image.parts).map(|part| self.addresses.of_image(image.at, image.writer, part));
        let reading = stream::iter(parts).map(|subject| {
            let stream = stream.clone();
            async move { stream.get_last_raw_message_by_subject(&subject).await }
        });
        let mut reading = reading.buffered(8);
        let mut bytes = Vec::with_capacity(image.bytes.min(limits::JETSTREAM_IMAGE_BYTES));
        while let Some(read) = reading.next().await {
            match read {
                Ok(part) => bytes.extend_from_slice(&part.payload),
                Err(error) => match error.kind() {
                    async_nats::jetstream::stream::LastRawMessageErrorKind::NoMessageFound => {
                        return Ok(None);
                    }
                    _ => return Err(self.away(error)),
                },
            }
        }
        Ok((bytes.len() == image.bytes).then_some(bytes))
    }

    /// Takes out all images before this one, but for the one before it, which somebody may be reading.
    pub(super) async fn delete_images(&self, before: u64) -> Result<(), StoreError> {
        let stream = self.context.get_stream(self.addresses.images()).await;
        let mut stream = stream.map_err(|error| self.away(error))?;
        let subjects = stream.info_with_subjects(self.addresses.of_images()).await;
        let subjects = subjects.map_err(|error| self.away(error))?;
        let old = subjects.collect::<Vec<_>>().await;
        for subject in old.into_iter().flatten().map(|(subject, _)| subject) {
            let at = self.addresses.image_of(&subject);
            if at.is_some_and(|at| at < before) {
                stream.purge().filter(subject).await.map_err(|error| self.away(error))?;
            }
        }
        let _ = stream.info().await;
        Ok(())
    }

    /// After how many entries an image is written at the earliest.
    pub(super) fn image_entries(&self) -> u64 {
        self.options.image_entries
    }

    /// How long servers may tell less than was read.
    pub(super) fn doubt(&self) -> Duration {
        self.options.doubt
    }

    /// How long a call waits.
    pub(super) fn answer(&self) -> Duration {
        self.options.answer
    }
}

fn is_no_stream(kind: &async_nats::jetstream::context::GetStreamErrorKind) -> bool {
    use async_nats::jetstream::context::GetStreamErrorKind::JetStream;
    matches!(kind, JetStream(told) if told.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn extent(info: &Info) -> Extent {
    Extent { made: info.created.unix_timestamp_nanos(), last: info.state.last_sequence }
}
