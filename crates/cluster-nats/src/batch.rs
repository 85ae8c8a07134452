//! Messages of one topic that follow each other, as one message of NATS.
//!
//! What a message costs at NATS and its clients is spent once for all of them. The payload is each message's length, four bytes (little-endian), and its payload,
//! one after the other; the [stamp](crate::stamp) says how many there are. Programs that know nothing but NATS cannot read it, so that it is
//! [a setting](crate::NatsSettings::batches).

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::limits;

/// Bytes of a message beside its payload.
const LENGTH: usize = size_of::<u32>();

/// Messages that are to be sent as one.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    topic: Bytes,
    messages: Vec<Bytes>,
    size: usize,
}

impl Batch {
    /// Whether a message of this size may be in one at all, where NATS takes so much.
    pub(crate) fn takes(payload: usize, max_payload: usize) -> bool {
        payload <= limits::BATCHED_MESSAGE && payload + LENGTH <= max_payload
    }

    /// Whether another message of this topic and size has room.
    pub(crate) fn has_room(&self, topic: &[u8], payload: usize, max_payload: usize) -> bool {
        self.messages.is_empty()
            || self.topic == topic
                && self.messages.len() < limits::BATCH_MESSAGES
                && self.size + payload + LENGTH <= limits::BATCH_BYTES.min(max_payload)
    }

    /// Puts in one that [has room](Self::has_room).
    pub(crate) fn push(&mut self, topic: &[u8], payload: Bytes) {
        if self.messages.is_empty() {
            self.topic = Bytes::copy_from_slice(topic);
        }
        self.size += payload.len() + LENGTH;
        self.messages.push(payload);
    }

    /// The payload of all of them, after which it is empty. One alone is as it is.
    pub(crate) fn take(&mut self) -> Bytes {
        let size = std::mem::take(&mut self.size);
        if self.messages.len() <= 1 {
            return self.messages.pop().unwrap_or_default();
        }
        let mut packed = BytesMut::with_capacity(size);
        for payload in self.messages.drain(..) {
            // None is larger than one may be.
            packed.put_u32_le(u32::try_from(payload.len()).unwrap_or(u32::MAX));
            packed.put_slice(&payload);
        }
        packed.freeze()
    }
}

/// The messages of a batch of so many; `None` where it is none.
pub(crate) fn read(mut packed: Bytes, count: u64) -> Option<Vec<Bytes>> {
    let count = usize::try_from(count).ok().filter(|count| *count <= packed.len() / LENGTH)?;
    let mut messages = Vec::with_capacity(count);
    for _ in 0..count {
        let length = packed.try_get_u32_le().ok()?;
        let length = usize::try_from(length).ok().filter(|length| *length <= packed.len())?;
        messages.push(packed.split_to(length));
    }
    packed.is_empty().then_some(messages)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_put_in_comes_out(payloads: Vec<Vec<u8>>) {
            let mut batch = Batch::default();
            for payload in &payloads {
                batch.push(b"a", payload.clone().into());
            }
            let (packed, count) = (batch.take(), payloads.len() as u64);
            match &payloads[..] {
                [] => prop_assert!(packed.is_empty()),
                [only] => prop_assert_eq!(&packed, only),
                all => {
                    prop_assert_eq!(read(packed.clone(), count).unwrap(), all);
                    prop_assert_eq!(read(packed.clone(), count + 1), None);
                    prop_assert_eq!(read(packed, count - 1), None);
                }
            }
            prop_assert_eq!(batch.take(), Bytes::new());
        }

        #[test]
        fn whatever_comes_is_read_or_not(packed: Vec<u8>, count: u64) {
            if let Some(messages) = read(packed.into(), count) {
                prop_assert_eq!(messages.len() as u64, count);
            }
        }
    }

    #[test]
    fn it_is_of_one_topic_and_bounded_in_messages_and_bytes() {
        let mut batch = Batch::default();
        assert!(batch.has_room(b"a", 10_000, 1 << 20));
        batch.push(b"a", vec![0; 1_000].into());
        assert!(batch.has_room(b"a", 10, 1 << 20) && !batch.has_room(b"b", 10, 1 << 20));
        assert!(!batch.has_room(b"a", limits::BATCH_BYTES - 1_000, 1 << 20));
        assert!(!batch.has_room(b"a", 100, 1_024), "NATS takes no more");
        for _ in 1..limits::BATCH_MESSAGES {
            batch.push(b"a", Bytes::new());
        }
        assert!(!batch.has_room(b"a", 0, 1 << 20));
        assert!(!Batch::takes(limits::BATCHED_MESSAGE + 1, 1 << 20) && !Batch::takes(100, 100));
    }
}
