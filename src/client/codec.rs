//! Values to payloads and back, and topics to what stands on the wire.

use std::any::{Any, type_name};
use std::cell::Cell;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::inbox::Raw;
use super::sealing::Outgoing;
use super::shared::Shared;
use crate::engine::{EngineError, sealed_by};
use crate::error::{BriefResult, BusError, BusResult};
use crate::limits;
use crate::proto::{Content, ContentRef, HEADER_LEN, Payload, ProcessValue};
use crate::topic::{Shape, Topic, TopicPattern, validate_pattern, validate_topic};
use crate::transport::Form;

/// Levels of nesting at which decoding stops: deeper payloads would only serve to overflow the stack.
const DEPTH_LIMIT: usize = 128;

/// How values of a type become payloads.
pub(super) struct Encoder<T> {
    /// Writes the value into the buffer, or gives the bytes that it consists of already.
    write: fn(&T, &mut Vec<u8>) -> BriefResult<Option<Bytes>>,
    /// The value as it is handed over within the process.
    share: fn(&Self, &T, usize) -> Payload,
    /// Bytes that a value has beside its own.
    weight: fn(&T) -> usize,
    /// The payload where it is given as such, and may be anything.
    given: fn(&T) -> &[u8],
}

impl<T> Encoder<T> {
    /// What the application gave as bytes; nothing of a typed value.
    pub(super) fn given<'a>(&self, value: &'a T) -> &'a [u8] {
        (self.given)(value)
    }
}

impl<T> Clone for Encoder<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Encoder<T> {}

impl<T: Serialize + Clone + Send + Sync + 'static> Encoder<T> {
    /// The encoder of typed values.
    pub(super) fn typed(weight: fn(&T) -> usize) -> Self {
        Self { write: encode_typed, share: share_typed, weight, given: |_| &[] }
    }
}

impl Encoder<Bytes> {
    /// The encoder of payloads that are bytes already.
    pub(super) fn bytes() -> Self {
        Self {
            write: encode_bytes,
            share: |_, bytes, _| Payload::Bytes(bytes.clone()),
            weight: Bytes::len,
            given: |bytes| bytes,
        }
    }
}

/// Reads a value from a message as it arrived.
pub(super) type Decoder<T> = fn(&Raw<'_>) -> BriefResult<T>;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static SEALED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A payload on its way out.
#[derive(Debug)]
pub(super) enum Body<'a> {
    /// In a buffer that will be used again.
    Lent(&'a [u8]),
    /// In memory of its own, which may be shared.
    Owned(Bytes),
    /// As it is, for a link within the process.
    Shared(Payload),
}

impl Body<'_> {
    /// The bytes in memory of their own, to be sent later.
    pub(super) fn keep(&self) -> Bytes {
        match self {
            Self::Lent(payload) => Bytes::copy_from_slice(payload),
            Self::Owned(payload) => payload.clone(),
            Self::Shared(payload) => payload.as_bytes().clone(),
        }
    }

    /// Calls `send` with the content of a frame made of these parts. A large body with memory of its
    /// own is not copied.
    pub(super) fn with_content<R>(
        &self,
        fields: &[u8],
        topic: &[u8],
        send: impl FnOnce(&ContentRef<'_>) -> R,
    ) -> R {
        match self {
            Self::Lent(payload) => send(&ContentRef::lent(fields, topic, payload)),
            Self::Owned(payload) if payload.len() < limits::SHARED_PAYLOAD => {
                send(&ContentRef::lent(fields, topic, payload))
            }
            Self::Owned(payload) => {
                let (fields, topic) = (Bytes::copy_from_slice(fields), Bytes::copy_from_slice(topic));
                send(&Arc::new(Content::new(fields, topic, payload.clone())).borrowed())
            }
            Self::Shared(payload) => send(&ContentRef::with_payload(fields, topic, payload)),
        }
    }
}

/// Makes a payload of `value` and calls `send` with it: the value itself over a link within the process,
/// or its bytes in this thread's buffer. `beside` is what else the frame carries, in bytes. With `outgoing` it is sealed.
///
/// The buffer is taken out of its place meanwhile, so that a serialiser which itself publishes gets
/// another one.
#[inline]
pub(super) fn with_encoded<T, R>(
    shared: &Shared,
    encoder: &Encoder<T>,
    value: &T,
    beside: usize,
    outgoing: Option<&Outgoing<'_>>,
    send: impl FnOnce(&Body<'_>) -> R,
) -> BriefResult<R> {
    if let Some(outgoing) = outgoing
        && outgoing.seals(encoder.given(value))
    {
        return with_sealed(encoder.write, value, outgoing, send);
    }
    if shared.form() == Form::Values {
        let limit = shared.session().map_or(limits::FRAME_LIMIT_MIN, |session| session.frame_limit());
        let limit = limit.saturating_sub(HEADER_LEN + beside);
        return Ok(send(&Body::Shared((encoder.share)(encoder, value, limit))));
    }
    with_bytes(encoder.write, value, send)
}

/// As [`with_encoded`], with engines in between.
fn with_sealed<T, R>(
    encode: fn(&T, &mut Vec<u8>) -> BriefResult<Option<Bytes>>,
    value: &T,
    outgoing: &Outgoing<'_>,
    send: impl FnOnce(&Body<'_>) -> R,
) -> BriefResult<R> {
    with_bytes(encode, value, |body| match body {
        Body::Lent(payload) => {
            let mut sealed = SEALED.try_with(Cell::take).unwrap_or_default();
            sealed.clear();
            let sent = outgoing.seal(payload, &mut sealed).map(|()| send(&Body::Lent(&sealed)));
            if sealed.capacity() <= limits::POOLED_BUFFER_BYTES {
                // A thread that is ending has no place for it any more.
                let _ = SEALED.try_with(|place| place.set(sealed));
            }
            sent
        }
        Body::Owned(payload) => {
            let mut sealed = Vec::new();
            outgoing.seal(payload, &mut sealed)?;
            // Room was made for what does not get smaller. Windows and budgets count what there is, so no more is kept.
            if sealed.capacity() - sealed.len() > sealed.len() / 8 {
                sealed.shrink_to_fit();
            }
            Ok(send(&Body::Owned(sealed.into())))
        }
        Body::Shared(_) => unreachable!("it was encoded"),
    })?
}

#[inline]
fn with_bytes<T, R>(
    encode: fn(&T, &mut Vec<u8>) -> BriefResult<Option<Bytes>>,
    value: &T,
    send: impl FnOnce(&Body<'_>) -> R,
) -> BriefResult<R> {
    let mut scratch = SCRATCH.try_with(Cell::take).unwrap_or_default();
    scratch.clear();
    let result = encode(value, &mut scratch).map(|owned| match owned {
        None => send(&Body::Lent(&scratch)),
        Some(bytes) => send(&Body::Owned(bytes)),
    });
    if scratch.capacity() <= limits::POOLED_BUFFER_BYTES {
        // A thread that is ending has no place for it any more.
        let _ = SCRATCH.try_with(|place| place.set(scratch));
    }
    result
}

/// A value on its way through the process.
struct Typed<T> {
    value: T,
    weight: usize,
    /// Bytes that it may have when it is encoded.
    limit: usize,
    encoded: OnceLock<Bytes>,
}

impl<T: Serialize + Send + Sync + 'static> ProcessValue for Typed<T> {
    fn weight(&self) -> usize {
        self.weight
    }

    fn encoded(&self) -> &Bytes {
        self.encoded.get_or_init(|| {
            let mut buffer = Vec::new();
            let reason = match rmp_serde::encode::write_named(&mut buffer, &self.value) {
                Ok(()) if buffer.len() <= self.limit => return buffer.into(),
                Ok(()) => format!("it has {} bytes, {} are allowed", buffer.len(), self.limit),
                Err(error) => error.to_string(),
            };
            tracing::error!(what = type_name::<T>(), reason, "a value arrives empty outside of its process");
            Bytes::new()
        })
    }
}

fn share_typed<T: Serialize + Clone + Send + Sync + 'static>(
    encoder: &Encoder<T>,
    value: &T,
    limit: usize,
) -> Payload {
    let weight = size_of::<T>() + (encoder.weight)(value);
    Payload::Value(Arc::new(Typed { value: value.clone(), weight, limit, encoded: OnceLock::new() }))
}

/// The value, if it is one of this process and of that type.
#[inline]
fn of_process<T: Clone + 'static>(value: &Arc<dyn ProcessValue>) -> Option<T> {
    let value: &dyn Any = &**value;
    value.downcast_ref::<Typed<T>>().map(|typed| typed.value.clone())
}

#[inline]
fn encode_typed<T: Serialize>(value: &T, buffer: &mut Vec<u8>) -> BriefResult<Option<Bytes>> {
    match rmp_serde::encode::write_named(buffer, value) {
        Ok(()) => Ok(None),
        Err(error) => Err(BusError::Encode { what: type_name::<T>(), reason: error.to_string() }.into()),
    }
}

#[inline]
fn encode_bytes(value: &Bytes, buffer: &mut Vec<u8>) -> BriefResult<Option<Bytes>> {
    if value.len() < limits::SHARED_PAYLOAD {
        buffer.extend_from_slice(value);
        return Ok(None);
    }
    Ok(Some(value.clone()))
}

/// The [`Decoder`] of typed values.
#[inline]
pub(super) fn decode_typed<T: DeserializeOwned + Clone + 'static>(raw: &Raw<'_>) -> BriefResult<T> {
    if let Some(value) = raw.value().and_then(of_process) {
        return Ok(value);
    }
    decode(raw.payload(), || String::from_utf8_lossy(raw.topic).into_owned())
}

/// As [`decode_typed`], of an answer; `topic` names it in an error.
pub(super) fn decode_answer<T: DeserializeOwned + Clone + 'static>(
    payload: &Payload,
    topic: &str,
) -> BriefResult<T> {
    match payload {
        Payload::Value(value) => of_process(value),
        Payload::Bytes(_) => None,
    }
    .map_or_else(|| decode(payload.as_bytes(), || topic.to_owned()), Ok)
}

/// The [`Decoder`] of payloads as they are.
#[expect(clippy::unnecessary_wraps, reason = "it has the form of every decoder")]
pub(super) fn decode_bytes(raw: &Raw<'_>) -> BriefResult<Bytes> {
    Ok(raw.payload_bytes())
}

/// The [`Decoder`] of messages as shared content.
#[expect(clippy::unnecessary_wraps, reason = "it has the form of every decoder")]
pub(super) fn decode_content(raw: &Raw<'_>) -> BriefResult<Arc<Content>> {
    Ok(raw.content())
}

/// Reads a value from a payload; `topic` names it in an error.
#[inline]
fn decode<T: DeserializeOwned>(payload: &[u8], topic: impl FnOnce() -> String) -> BriefResult<T> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(payload);
    deserializer.set_max_depth(DEPTH_LIMIT);
    T::deserialize(&mut deserializer).map_err(|error| {
        if let Some(id) = sealed_by(payload) {
            let error = EngineError::UnknownEngine { id };
            return BusError::Engine { topic: topic(), done: "opened", error }.into();
        }
        let reason = error.to_string();
        BusError::Decode { what: type_name::<T>(), topic: topic(), size: payload.len(), reason }.into()
    })
}

/// The payload that a typed publish of this value has.
pub(crate) fn encode<T: Serialize>(value: &T) -> BusResult<Bytes> {
    Ok(with_bytes(encode_typed, value, |body| body.keep())?)
}

/// The value of a payload that came on `topic`, as a typed subscription reads it.
#[cfg(feature = "broker")]
pub(crate) fn decode_value<T: DeserializeOwned>(payload: &[u8], topic: &str) -> BusResult<T> {
    Ok(decode(payload, || topic.to_owned())?)
}

/// `topic` behind `prefix`, checked, as it stands on the wire.
pub(super) fn wire_pattern(prefix: &str, topic: &str) -> BusResult<(String, Shape)> {
    let whole = joined(prefix, topic)?;
    let shape = validate_pattern(&whole)?;
    // In a valid pattern a '+' is always a whole fragment.
    let whole = if shape.needs_canonical { whole.replace('+', "*") } else { whole };
    Ok((whole, shape))
}

/// As [`wire_pattern`], for a topic that must not have wildcards.
pub(super) fn wire_topic(prefix: &str, topic: &str) -> BusResult<String> {
    let whole = joined(prefix, topic)?;
    validate_topic(&whole)?;
    Ok(whole)
}

/// As [`wire_pattern`], for a topic that is published to.
pub(super) fn wire_publish(prefix: &str, topic: &str) -> BusResult<String> {
    let (whole, shape) = wire_pattern(prefix, topic)?;
    if shape.reserved {
        return Err(BusError::ReservedTopic { topic: whole });
    }
    Ok(whole)
}

fn joined(prefix: &str, topic: &str) -> BusResult<String> {
    validate_topic(prefix)?;
    if prefix.is_empty() || topic.is_empty() {
        return Ok([prefix, topic].concat());
    }
    Ok([prefix, "/", topic].concat())
}

/// Turns the topics of arriving messages into what the application sees, and remembers the last:
/// consecutive messages mostly have the same.
#[derive(Debug)]
pub(super) struct TopicReader {
    prefix: &'static str,
    raw: Vec<u8>,
    /// What `raw` is to the application.
    last: TopicPattern,
}

impl TopicReader {
    /// Strips `prefix` where a topic begins with it.
    pub(super) fn new(prefix: &'static str) -> Self {
        Self { prefix, raw: Vec::new(), last: Topic::default().into() }
    }

    /// The topic without the prefix. One that does not literally begin with it, because its publisher
    /// wrote a wildcard there, is given whole.
    #[inline]
    pub(super) fn read(&mut self, raw: &[u8]) -> BriefResult<&TopicPattern> {
        if self.raw != raw {
            self.read_new(raw)?;
        }
        Ok(&self.last)
    }

    #[inline(never)]
    fn read_new(&mut self, raw: &[u8]) -> BriefResult<()> {
        self.last = TopicPattern::from_utf8(stripped(self.prefix.as_bytes(), raw)).map_err(BusError::from)?;
        self.raw.clear();
        self.raw.extend_from_slice(raw);
        Ok(())
    }
}

fn stripped<'a>(prefix: &[u8], raw: &'a [u8]) -> &'a [u8] {
    if prefix.is_empty() {
        return raw;
    }
    match raw.strip_prefix(prefix) {
        Some([]) => &[],
        Some([b'/', rest @ ..]) => rest,
        _ => raw,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_goes_behind_its_prefix_and_comes_back_without() {
        for (prefix, topic, whole) in [
            ("hello", "alice", "hello/alice"),
            ("hello", "", "hello"),
            ("", "alice", "alice"),
            ("", "", ""),
            ("hello", "+/bob", "hello/*/bob"),
        ] {
            assert_eq!(wire_pattern(prefix, topic).unwrap().0, whole);
            let mut reader = TopicReader::new(prefix);
            assert_eq!(*reader.read(whole.as_bytes()).unwrap(), TopicPattern::new(topic).unwrap());
        }
    }

    #[test]
    fn a_topic_that_only_begins_with_the_letters_of_the_prefix_is_given_whole() {
        let mut reader = TopicReader::new("hello");
        assert_eq!(*reader.read(b"hellos/alice").unwrap(), "hellos/alice");
        assert_eq!(*reader.read(b"**").unwrap(), "**");
    }

    #[test]
    fn the_last_topic_is_not_mistaken_for_the_next() {
        let mut reader = TopicReader::new("hello");
        assert_eq!(*reader.read(b"hello/a").unwrap(), "a");
        assert_eq!(*reader.read(b"hello/a").unwrap(), "a");
        assert_eq!(*reader.read(b"hello/b").unwrap(), "b");
        assert!(reader.read(b"hello/\xff").is_err());
        assert_eq!(*reader.read(b"hello/b").unwrap(), "b");
    }

    #[test]
    fn a_payload_nested_too_deeply_is_an_error_and_not_a_stack_overflow() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(transparent)]
        struct Nested(#[expect(dead_code, reason = "only decoded")] Vec<Nested>);

        let payload = vec![0x91; 1_000_000];
        assert!(decode::<Nested>(&payload, String::new).is_err());
    }

    #[test]
    fn a_serialiser_may_itself_encode() {
        struct Outer;
        impl Serialize for Outer {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                with_bytes(encode_typed::<u32>, &7, |_| ()).unwrap();
                serializer.serialize_str("outer")
            }
        }
        let payload = with_bytes(encode_typed::<Outer>, &Outer, |body| match body {
            Body::Lent(payload) => payload.to_vec(),
            Body::Owned(_) | Body::Shared(_) => unreachable!("it is encoded"),
        });
        assert_eq!(decode::<String>(&payload.unwrap(), String::new).unwrap(), "outer");
    }
}
