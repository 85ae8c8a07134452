//! Messages of the bus as this dialect broadcasts them.
//!
//! The text is made once for all sockets of the process and lies beside the message. So two that lie in the same place are the
//! same message; nothing else tells this as well, as publishers choose ids as they like.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use whispeer::client::{Headers, Message};
use whispeer::engine::PayloadOpener;
use whispeer::json::push_json_string;
use whispeer::proto::{Content, Encoding};

use super::messages::Qos;
use crate::limits;
use crate::message::{encoded, is_mark, push_opened, starts_marked};
use crate::shared::Shared;

/// The header of the bus with the id of a message that was published in this dialect.
pub(super) const MESSAGE_ID: &str = "popsub-message-id";

/// The header of the bus that asks subscribers of this dialect to acknowledge: its value is then `1`.
pub(super) const QOS: &str = "popsub-qos";

/// How a text ends that has to be acknowledged.
const ACKNOWLEDGED_END: &[u8] = br#","qos":1}"#;
const TOPIC_FIELD: &[u8] = br#"{"topic":"#;
const PAYLOAD_FIELD: &[u8] = br#","payload":"#;
const TIMESTAMP_FIELD: &[u8] = br#","timestamp":"#;
const ID_FIELD: &[u8] = br#","message_id":"#;

/// Makes ids for messages that come without.
pub(super) struct Ids {
    /// Differs from one process to the next.
    first: u64,
    next: AtomicU64,
}

impl Ids {
    pub(super) fn new() -> Self {
        let mut first = [0; 8];
        // Without random numbers the ids of two processes may be the same.
        let _ = getrandom::fill(&mut first);
        Self { first: u64::from_be_bytes(first), next: AtomicU64::new(0) }
    }

    pub(super) fn next(&self) -> String {
        format!("{:016x}{:016x}", self.first, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// The text of a message, the same for all who ask for it.
pub(super) fn broadcast(shared: &Shared, ids: &Ids, message: &Message<Arc<Content>>) -> Bytes {
    let (content, opener) = (&message.value, shared.opener.as_ref());
    encoded(opener, content, Encoding::PopSub, || text_of(opener, content, &message.headers, ids))
}

fn text_of(opener: Option<&PayloadOpener>, content: &Content, headers: &Headers, ids: &Ids) -> Bytes {
    let topic = String::from_utf8_lossy(content.topic());
    let mut text = Vec::with_capacity(topic.len() + content.payload().len() * 5 / 4 + 128);
    text.extend_from_slice(TOPIC_FIELD);
    push_json_string(&topic, &mut text);
    text.extend_from_slice(PAYLOAD_FIELD);
    push_opened(opener, &topic, content.payload(), &mut text);
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    text.extend_from_slice(TIMESTAMP_FIELD);
    text.extend_from_slice(seconds.to_string().as_bytes());
    text.extend_from_slice(ID_FIELD);
    let given =
        headers.find(MESSAGE_ID).filter(|id| (1..=limits::POPSUB_MESSAGE_ID_BYTES).contains(&id.len()));
    match given {
        Some(id) => push_json_string(id, &mut text),
        None => push_json_string(&ids.next(), &mut text),
    }
    // Whoever does not say which message it is cannot be told that it has come.
    match given.and(headers.find(QOS)) {
        Some("1") => text.extend_from_slice(ACKNOWLEDGED_END),
        _ => text.extend_from_slice(br#","qos":0}"#),
    }
    text.into()
}

/// Whether the payload of a message whose text this is has the mark of one that is sealed.
///
/// It lies in the text, too: between the topic, the first string that is a value, and the last field of the name behind it.
pub(super) fn is_marked(text: &[u8]) -> bool {
    fn payload(text: &[u8]) -> Option<&[u8]> {
        let rest = text.strip_prefix(TOPIC_FIELD)?.strip_prefix(b"\"")?;
        let mut escaped = false;
        let end = rest.iter().position(|byte| {
            let ends = !escaped && *byte == b'"';
            escaped = !escaped && *byte == b'\\';
            ends
        })?;
        let rest = rest.get(end + 1..)?.strip_prefix(PAYLOAD_FIELD)?;
        // Most are none, and in those nothing more is looked for.
        starts_marked(rest).then_some(())?;
        let end = rest.windows(TIMESTAMP_FIELD.len()).rposition(|part| part == TIMESTAMP_FIELD)?;
        rest.get(..end)
    }
    payload(text).is_some_and(is_mark)
}

/// The id, as JSON, of a message whose text this is, if it has to be acknowledged.
///
/// It lies in the text. Within a string a quotation mark has a backslash before it, so that the last field of this name is the one.
pub(super) fn id_to_acknowledge(text: &Bytes) -> Option<Bytes> {
    let head = text.strip_suffix(ACKNOWLEDGED_END)?;
    let start = head.windows(ID_FIELD.len()).rposition(|part| part == ID_FIELD)? + ID_FIELD.len();
    Some(text.slice(start..head.len()))
}

/// An id as it stands in texts.
pub(super) fn id_as_json(id: &str) -> Vec<u8> {
    let mut text = Vec::with_capacity(id.len() + 2);
    push_json_string(id, &mut text);
    text
}

/// The headers of a message that is published in this dialect.
pub(super) fn headers_of(message_id: &str, qos: Qos) -> Headers {
    let headers = Headers::new().with(MESSAGE_ID, message_id);
    match qos {
        Qos::AtMostOnce => headers,
        Qos::AtLeastOnce => headers.with(QOS, "1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(headers: &Headers, payload: &str) -> Bytes {
        let payload = whispeer::json::from_json(payload.as_bytes()).unwrap();
        let content = Content::new(Bytes::new(), "chat".into(), payload);
        text_of(None, &content, headers, &Ids::new())
    }

    #[test]
    fn it_has_the_fields_of_the_dialect() {
        let text = text(&headers_of("7", Qos::AtLeastOnce), r#""Hello \"world\"!""#);
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(now - value["timestamp"].as_u64().unwrap() < 60);
        assert_eq!(
            (&value["topic"], &value["payload"], &value["message_id"], &value["qos"]),
            (&"chat".into(), &"Hello \"world\"!".into(), &"7".into(), &1.into())
        );
    }

    #[test]
    fn the_id_to_acknowledge_is_found_whatever_the_payload_and_the_id_say() {
        for id in ["7", "\"", "\\", "\",\"message_id\":\"", "ü\n", "\",\"qos\":1}"] {
            for payload in ["7", r#""\",\"message_id\":\"8\",\"qos\":1}""#, r#"{"message_id":"8","qos":1}"#] {
                let text = text(&headers_of(id, Qos::AtLeastOnce), payload);
                assert_eq!(id_to_acknowledge(&text).unwrap(), id_as_json(id));
            }
        }
    }

    #[test]
    fn nothing_else_has_to_be_acknowledged() {
        let qos_alone = Headers::new().with(QOS, "1");
        let long = headers_of(&"x".repeat(limits::POPSUB_MESSAGE_ID_BYTES + 1), Qos::AtLeastOnce);
        for headers in [headers_of("7", Qos::AtMostOnce), Headers::new(), qos_alone, long] {
            let text = text(&headers, r#"{"qos":1}"#);
            assert_eq!(id_to_acknowledge(&text), None, "{text:?}");
        }
    }

    #[test]
    fn whether_a_payload_is_sealed_is_seen_in_the_text_whatever_its_topic_and_id_say() {
        let sealed: &[u8] = &[0xC1, 0x57, 1, 200, 0x2A, 0xFF];
        let not_sealed = [
            r#""{\"$sealed\":\"wVcByCr/\"}""#,
            r#"{"$sealed":"AQI="}"#,
            r#"{"$sealed":"wVcByCr/","more":1}"#,
            r#"[{"$sealed":"wVcByCr/"}]"#,
        ];
        for topic in ["chat", "a\"", "\\", "\",\"payload\":{\"$sealed\":\"wVcByCr/\"},\"timestamp\":"] {
            for id in ["7", "\"},\"timestamp\":", "\\\""] {
                let headers = headers_of(id, Qos::AtLeastOnce);
                let text = |payload: Bytes| {
                    text_of(None, &Content::new(Bytes::new(), topic.into(), payload), &headers, &Ids::new())
                };
                assert!(is_marked(&text(sealed.into())), "{topic} {id}");
                for payload in not_sealed {
                    let text = text(whispeer::json::from_json(payload.as_bytes()).unwrap());
                    assert!(!is_marked(&text), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn ids_that_are_made_differ() {
        let ids = Ids::new();
        assert_ne!(ids.next(), ids.next());
        assert_ne!(ids.next(), Ids::new().next());
    }
}
