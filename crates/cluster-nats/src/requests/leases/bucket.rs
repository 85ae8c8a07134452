//! The bucket of JetStream that tells which bus serves what: reading and writing it.
//!
//! It is a key-value bucket as others know them, but that entries may be deleted: so nothing stays of a topic that is not served any more.

use std::fmt;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::context::{CreateStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{Context, ErrorCode, response::Response};
use bytes::Bytes;
use serde_json::json;
use tokio::time::timeout;

use super::LeaseSettings;
use crate::limits;

/// An open bucket.
pub(super) struct Bucket {
    context: Context,
    stream: Stream<()>,
    name: String,
    /// What subjects of entries begin with.
    prefix: String,
    /// How long an answer may take.
    patience: Duration,
}

/// Why there is no bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoBucket {
    /// The servers of NATS have no JetStream.
    NoJetStream,
    /// It cannot be had now, for this reason.
    Failed(String),
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) revision: u64,
    pub(super) value: Bytes,
}

/// What has become of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// It is written, with this revision.
    Done(u64),
    /// The entry has another revision.
    Conflict,
    /// It may be written or not.
    Unknown,
}

/// That there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoAnswer;

/// The name of the bucket of a prefix: letters, digits and `-` are as they are, other bytes `_` and two hexadecimal digits.
pub(super) fn name_of(prefix: &str) -> String {
    let mut name = String::new();
    for byte in prefix.bytes() {
        match byte {
            b'-' => name.push('-'),
            byte if byte.is_ascii_alphanumeric() => name.push(char::from(byte)),
            byte => name.push_str(&format!("_{byte:02X}")),
        }
    }
    name + "-leases"
}

impl Bucket {
    /// Opens the bucket, which is made where it is not there.
    pub(super) async fn open(
        context: Context,
        bucket: String,
        settings: &LeaseSettings,
    ) -> Result<Self, NoBucket> {
        let (name, prefix) = (format!("KV_{bucket}"), format!("$KV.{bucket}."));
        let config = Config {
            name: name.clone(),
            description: Some("which bus is the only one to serve a topic".to_owned()),
            subjects: vec![format!("{prefix}>")],
            max_messages_per_subject: 1,
            max_messages: limits::LEASE_ENTRIES,
            max_age: limits::LEASE_UNUSED,
            discard: DiscardPolicy::New,
            num_replicas: settings.replicas,
            allow_rollup: true,
            allow_direct: true,
            ..Config::default()
        };
        let made = timeout(settings.patience(), context.create_stream(config)).await;
        let config = match made.map_err(|_| NoBucket::Failed("there was no answer".to_owned()))? {
            Ok(stream) => stream.cached_info().config.clone(),
            Err(error) => match error.kind() {
                CreateStreamErrorKind::JetStreamUnavailable => return Err(NoBucket::NoJetStream),
                CreateStreamErrorKind::JetStream(told) => match told.error_code() {
                    ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
                        return Err(NoBucket::NoJetStream);
                    }
                    // It is there, and somebody has made it otherwise, such as with other replicas.
                    ErrorCode::STREAM_NAME_EXIST => existing(&context, &name, settings).await?,
                    _ => return Err(NoBucket::Failed(error.to_string())),
                },
                _ => return Err(NoBucket::Failed(error.to_string())),
            },
        };
        let is_fit = config.max_messages_per_subject == 1
            && !config.deny_delete
            && config.subjects == [format!("{prefix}>")];
        if !is_fit {
            let reason = format!("the stream {name} of JetStream is another one: delete it, it is made anew");
            return Err(NoBucket::Failed(reason));
        }
        let stream = context.get_stream_no_info(&name).await;
        let stream = stream.map_err(|error| NoBucket::Failed(error.to_string()))?;
        Ok(Self { context, stream, name, prefix, patience: settings.patience() })
    }

    /// Writes an entry if it has this revision, 0 for none.
    pub(super) async fn put(&self, key: &str, value: impl Into<Bytes>, expected: u64) -> Put {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        let subject = format!("{}{key}", self.prefix);
        let putting =
            async { self.context.publish_with_headers(subject, headers, value.into()).await?.await };
        match timeout(self.patience, putting).await {
            Ok(Ok(written)) => Put::Done(written.sequence),
            Ok(Err(error)) if error.kind() == PublishErrorKind::WrongLastSequence => Put::Conflict,
            Ok(Err(error)) => {
                tracing::debug!(key, %error, "an entry of a lease could not be written");
                Put::Unknown
            }
            Err(_) => Put::Unknown,
        }
    }

    /// Reads an entry, at the server that decides about writes.
    pub(super) async fn get(&self, key: &str) -> Result<Option<Entry>, NoAnswer> {
        let subject = format!("{}{key}", self.prefix);
        match timeout(self.patience, self.stream.get_last_raw_message_by_subject(&subject)).await {
            Ok(Ok(found)) => Ok(Some(Entry { revision: found.sequence, value: found.payload })),
            Ok(Err(error)) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Ok(Err(_)) | Err(_) => Err(NoAnswer),
        }
    }

    /// Takes out the entry with this revision, if there is still one.
    pub(super) async fn remove(&self, revision: u64) -> Result<(), NoAnswer> {
        let subject = format!("STREAM.MSG.DELETE.{}", self.name);
        let request = json!({ "seq": revision, "no_erase": true });
        let removing = self.context.request::<_, _, Response<serde_json::Value>>(subject, &request);
        match timeout(self.patience, removing).await {
            // Any answer: where it is not there any more, another one has come in its place.
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(NoAnswer),
        }
    }
}

async fn existing(context: &Context, name: &str, settings: &LeaseSettings) -> Result<Config, NoBucket> {
    match timeout(settings.patience(), context.get_stream(name)).await {
        Ok(Ok(stream)) => Ok(stream.cached_info().config.clone()),
        Ok(Err(error)) => Err(NoBucket::Failed(error.to_string())),
        Err(_) => Err(NoBucket::Failed("there was no answer".to_owned())),
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Bucket").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_prefix_has_a_bucket_of_its_own() {
        assert_eq!(name_of("whispeer"), "whispeer-leases");
        assert_eq!(name_of("shop.buses"), "shop_2Ebuses-leases");
        assert_ne!(name_of("a.b"), name_of("a_b"));
    }
}
