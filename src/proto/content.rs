//! What a frame carries after its header.

use std::cell::OnceCell;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::encodings::{Encoding, EncodingOwner, Encodings};
use super::header::{HEADER_LEN, Header};
use super::value::{Payload, ProcessValue};

/// The shared content of a frame: one per message, whatever the number of its destinations.
///
/// Beside the payload as it was published it has one slot per [`Encoding`], filled once by whoever
/// needs that form first. The bus never looks at the payload or the slots, and does not count the slots: they are
/// filled at any time, also after it has counted the content. Whoever keeps what is in one counts that.
#[derive(Debug)]
pub struct Content {
    parts: Parts,
    encodings: OnceLock<Box<Encodings>>,
}

#[derive(Debug)]
enum Parts {
    /// Fields, topic and payload one after the other, as they lie in a frame.
    Joined { all: Bytes, fields: u16, topic: u16 },
    /// Parts that come from different places.
    Separate { fields: Bytes, topic: Bytes, payload: Payload },
}

impl Content {
    /// Content of these parts.
    #[must_use]
    pub fn new(fields: Bytes, topic: Bytes, payload: impl Into<Payload>) -> Self {
        let payload = payload.into();
        Self { parts: Parts::Separate { fields, topic, payload }, encodings: OnceLock::new() }
    }

    /// Content whose parts lie one after the other; `fields` and `topic` are their lengths.
    fn joined(all: Bytes, fields: usize, topic: usize) -> Self {
        debug_assert!(fields + topic <= all.len());
        // A frame has 16 bits for either length, and these parts came out of one.
        let parts = Parts::Joined { all, fields: fields as u16, topic: topic as u16 };
        Self { parts, encodings: OnceLock::new() }
    }

    /// The field section; see [`fields`](super::fields).
    #[inline]
    #[must_use]
    pub fn fields(&self) -> &[u8] {
        match &self.parts {
            Parts::Joined { all, fields, .. } => all.get(..usize::from(*fields)).unwrap_or_default(),
            Parts::Separate { fields, .. } => fields,
        }
    }

    /// The topic or pattern, in UTF-8 that the receiver has yet to check.
    #[inline]
    #[must_use]
    pub fn topic(&self) -> &[u8] {
        match &self.parts {
            Parts::Joined { all, fields, topic } => {
                let start = usize::from(*fields);
                all.get(start..start + usize::from(*topic)).unwrap_or_default()
            }
            Parts::Separate { topic, .. } => topic,
        }
    }

    /// The payload as bytes; a value is encoded at the first call.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.parts {
            Parts::Joined { all, .. } => all.get(self.payload_start()..).unwrap_or_default(),
            Parts::Separate { payload, .. } => payload.as_bytes(),
        }
    }

    /// The payload by reference, as bytes.
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        match &self.parts {
            Parts::Joined { all, .. } => all.slice(self.payload_start().min(all.len())..),
            Parts::Separate { payload, .. } => payload.as_bytes().clone(),
        }
    }

    /// The payload by reference, as it is.
    #[must_use]
    pub fn shared_payload(&self) -> Payload {
        match &self.parts {
            Parts::Joined { .. } => Payload::Bytes(self.payload_bytes()),
            Parts::Separate { payload, .. } => payload.clone(),
        }
    }

    /// The payload, if it is a value of this process.
    #[inline]
    #[must_use]
    pub fn value(&self) -> Option<&Arc<dyn ProcessValue>> {
        match &self.parts {
            Parts::Separate { payload: Payload::Value(value), .. } => Some(value),
            _ => None,
        }
    }

    fn payload_start(&self) -> usize {
        match &self.parts {
            Parts::Joined { fields, topic, .. } => usize::from(*fields) + usize::from(*topic),
            Parts::Separate { .. } => 0,
        }
    }

    /// Bytes of the three parts, as they count against the byte budget: the same for as long as the content lives, so
    /// that what is counted when it is taken is what is given back when it is let go.
    #[must_use]
    pub fn size(&self) -> usize {
        self.frame_size() - HEADER_LEN
    }

    /// Bytes of a frame with this content, its header included; a value counts as it says.
    #[inline]
    #[must_use]
    pub(crate) fn frame_size(&self) -> usize {
        HEADER_LEN
            + match &self.parts {
                Parts::Joined { all, .. } => all.len(),
                Parts::Separate { fields, topic, payload } => fields.len() + topic.len() + payload.weight(),
            }
    }

    /// The content in `encoding`, made by `encode` if nobody has made it before.
    ///
    /// # Examples
    /// ```
    /// use bytes::Bytes;
    /// use whispeer::proto::{Content, Encoding};
    ///
    /// let content = Content::new("".into(), "greetings".into(), Bytes::from("hello"));
    /// let json = content.encoded(Encoding::Json, || "\"hello\"".into());
    /// let again = content.encoded(Encoding::Json, || unreachable!("it is made once"));
    /// assert_eq!(json, again);
    /// ```
    pub fn encoded(&self, encoding: Encoding, encode: impl FnOnce() -> Bytes) -> Bytes {
        self.encodings.get_or_init(Box::default).shared().get(encoding, encode)
    }

    /// [`encoded`](Self::encoded) for those of `owner` alone: for a form that not all may see who see the message, as one that
    /// was made of an [opened](crate::engine::PayloadOpener) payload.
    ///
    /// # Examples
    /// ```
    /// use bytes::Bytes;
    /// use whispeer::engine::{Engines, PayloadOpener};
    /// use whispeer::proto::{Content, Encoding};
    ///
    /// # fn main() -> whispeer::BusResult<()> {
    /// let [one, other] = [PayloadOpener::new(Engines::new())?, PayloadOpener::new(Engines::new())?];
    /// let content = Content::new("".into(), "greetings".into(), Bytes::from("hello"));
    /// let json = content.encoded_for(one.owner(), Encoding::Json, || "\"hello\"".into());
    /// assert_eq!(content.encoded_for(one.owner(), Encoding::Json, || unreachable!("it is made once")), json);
    /// assert_eq!(content.encoded_for(other.owner(), Encoding::Json, || "0".into()), "0");
    /// assert_eq!(content.encoded(Encoding::Json, || "1".into()), "1");
    /// # Ok(())
    /// # }
    /// ```
    pub fn encoded_for(
        &self,
        owner: EncodingOwner,
        encoding: Encoding,
        encode: impl FnOnce() -> Bytes,
    ) -> Bytes {
        self.encodings.get_or_init(Box::default).of(owner).get(encoding, encode)
    }

    /// A view of this content.
    #[must_use]
    pub fn borrowed(self: &Arc<Self>) -> ContentRef<'_> {
        let value = self.value();
        ContentRef {
            fields: self.fields(),
            topic: self.topic(),
            payload: if value.is_some() { &[] } else { self.payload() },
            value: value.map(|value| &**value),
            source: Source::Shared(self),
            made: OnceCell::new(),
        }
    }
}

/// A frame as a value, as memory links hand it over.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The header.
    pub header: Header,
    /// What follows it.
    pub content: Arc<Content>,
}

/// The content of a frame, borrowed from wherever it lies.
pub struct ContentRef<'a> {
    /// The field section; see [`fields`](super::fields).
    pub fields: &'a [u8],
    /// The topic or pattern, in UTF-8 that the receiver has yet to check.
    pub topic: &'a [u8],
    /// The payload, unless it is a value.
    payload: &'a [u8],
    value: Option<&'a dyn ProcessValue>,
    source: Source<'a>,
    made: OnceCell<Arc<Content>>,
}

#[derive(Clone, Copy)]
enum Source<'a> {
    /// Buffers that will be used again.
    Lent,
    /// Fields, topic and payload one after the other in a buffer that will be used again.
    Framed(&'a [u8]),
    /// The buffer of this frame alone: fields, topic and payload, in this order.
    Owned(&'a Bytes),
    /// A frame that was handed over as a value.
    Shared(&'a Arc<Content>),
    /// Fields and topic in buffers that will be used again, the payload in one of its own.
    Payload(&'a Payload),
}

impl fmt::Debug for ContentRef<'_> {
    /// Never what the payload says: it may be secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ContentRef")
            .field("topic", &String::from_utf8_lossy(self.topic))
            .field("weight", &self.weight())
            .finish_non_exhaustive()
    }
}

impl<'a> ContentRef<'a> {
    /// Content whose parts lie in buffers of the caller.
    #[must_use]
    pub fn lent(fields: &'a [u8], topic: &'a [u8], payload: &'a [u8]) -> Self {
        Self { fields, topic, payload, value: None, source: Source::Lent, made: OnceCell::new() }
    }

    /// Content as it lies in a frame that is in a buffer that will be used again; `body` is all that
    /// follows the header, and `fields` and `topic` are the lengths of these parts.
    #[inline]
    pub(crate) fn framed(body: &'a [u8], fields: usize, topic: usize) -> Self {
        let (fields, rest) = body.split_at_checked(fields).unwrap_or((body, &[]));
        let (topic, payload) = rest.split_at_checked(topic).unwrap_or((rest, &[]));
        Self { fields, topic, payload, value: None, source: Source::Framed(body), made: OnceCell::new() }
    }

    /// Appends fields, topic and payload to `buffer`.
    #[inline]
    pub(crate) fn append_to(&self, buffer: &mut Vec<u8>) {
        if let Source::Framed(body) = self.source {
            buffer.extend_from_slice(body);
            return;
        }
        buffer.extend_from_slice(self.fields);
        buffer.extend_from_slice(self.topic);
        buffer.extend_from_slice(self.payload());
    }

    /// Content whose payload is shared by reference, with other fields and topic than it came with.
    #[must_use]
    pub fn with_payload(fields: &'a [u8], topic: &'a [u8], payload: &'a Payload) -> Self {
        let (bytes, value): (&[u8], Option<&dyn ProcessValue>) = match payload {
            Payload::Bytes(bytes) => (bytes, None),
            Payload::Value(value) => (&[], Some(&**value)),
        };
        Self { fields, topic, payload: bytes, value, source: Source::Payload(payload), made: OnceCell::new() }
    }

    /// Content of a payload alone.
    #[must_use]
    pub fn of_payload(payload: &'a [u8]) -> Self {
        Self::lent(&[], &[], payload)
    }

    /// No content.
    #[must_use]
    pub fn empty() -> Self {
        Self::of_payload(&[])
    }

    /// The parts of a frame of its own buffer; `tail` is all that follows the header, and the
    /// lengths have been checked against it.
    pub(crate) fn owned(tail: &'a Bytes, fields: usize, topic: usize) -> Self {
        let (fields, rest) = tail.split_at_checked(fields).unwrap_or((tail, &[]));
        let (topic, payload) = rest.split_at_checked(topic).unwrap_or((rest, &[]));
        Self { fields, topic, payload, value: None, source: Source::Owned(tail), made: OnceCell::new() }
    }

    /// The payload as bytes; a value is encoded at the first call.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        match self.value {
            None => self.payload,
            Some(value) => value.encoded(),
        }
    }

    /// Whether the payload is a value of this process.
    #[inline]
    #[must_use]
    pub fn is_value(&self) -> bool {
        self.value.is_some()
    }

    /// Bytes that the payload counts for in windows and budgets.
    #[inline]
    #[must_use]
    pub fn weight(&self) -> usize {
        self.value.map_or(self.payload.len(), ProcessValue::weight)
    }

    /// What a frame with this content counts for, its header included: its bytes, or what a value says.
    #[inline]
    #[must_use]
    pub fn frame_size(&self) -> usize {
        HEADER_LEN + self.fields.len() + self.topic.len() + self.weight()
    }

    /// Bytes of a frame with this content on a byte link.
    #[inline]
    #[must_use]
    pub fn encoded_size(&self) -> usize {
        HEADER_LEN + self.fields.len() + self.topic.len() + self.payload().len()
    }

    /// Whether the content lies in a buffer that will be used again, so that keeping it takes a copy.
    #[inline]
    #[must_use]
    pub(crate) fn is_lent(&self) -> bool {
        matches!(self.source, Source::Lent | Source::Framed(_)) && self.made.get().is_none()
    }

    /// The payload by reference, where that needs no copy.
    #[must_use]
    pub fn shared_payload(&self) -> Option<Payload> {
        match self.source {
            Source::Lent | Source::Framed(_) => self.made.get().map(|content| content.shared_payload()),
            Source::Owned(tail) => Some(Payload::Bytes(tail.slice_ref(self.payload))),
            Source::Shared(content) => Some(content.shared_payload()),
            Source::Payload(payload) => Some(payload.clone()),
        }
    }

    /// The content as a shared value: the one it was borrowed from, or one that is made at the first
    /// call and given to all later ones.
    #[must_use]
    pub fn shared(&self) -> Arc<Content> {
        if let Source::Shared(content) = self.source {
            return Arc::clone(content);
        }
        Arc::clone(self.made.get_or_init(|| Arc::new(self.to_content())))
    }

    fn to_content(&self) -> Content {
        match self.source {
            Source::Owned(tail) => Content::joined(tail.clone(), self.fields.len(), self.topic.len()),
            Source::Payload(payload) => Content::new(
                Bytes::copy_from_slice(self.fields),
                Bytes::copy_from_slice(self.topic),
                payload.clone(),
            ),
            // One allocation of exactly that size: what is kept must not hold a large buffer.
            _ => {
                let mut all = Vec::with_capacity(self.frame_size() - HEADER_LEN);
                self.append_to(&mut all);
                Content::joined(all.into(), self.fields.len(), self.topic.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_content_counts_for_stays_the_same_when_it_is_encoded() {
        let content = Content::new("fields".into(), "topic".into(), Bytes::from("payload"));
        let (size, frame_size) = (content.size(), content.frame_size());
        assert_eq!(size, "fieldstopicpayload".len());
        for encoding in
            [Encoding::Json, Encoding::Native, Encoding::Turbine, Encoding::PopSub, Encoding::Event]
        {
            content.encoded(encoding, || vec![0; 1000].into());
        }
        assert_eq!((content.size(), content.frame_size()), (size, frame_size));
    }

    #[test]
    fn each_encoding_has_a_slot_of_its_own_that_is_filled_once() {
        let content = Content::new("".into(), "topic".into(), Bytes::from("payload"));
        let all = [Encoding::Json, Encoding::Native, Encoding::Turbine, Encoding::PopSub, Encoding::Event];
        assert_eq!(all.len(), Encoding::COUNT);
        for (number, encoding) in (0..).zip(all) {
            assert_eq!(*content.encoded(encoding, || vec![number].into()), [number]);
        }
        for (number, encoding) in (0..).zip(all) {
            assert_eq!(*content.encoded(encoding, || unreachable!("it is there")), [number]);
        }
    }
}
