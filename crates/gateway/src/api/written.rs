//! A message as JSON, without a tree of its values.

use whispeer::client::{Headers, Position};
use whispeer::engine::PayloadOpener;
use whispeer::json::push_json_string;
use whispeer::topic::TopicPattern;

use crate::message::push_opened;

/// Begins the object of a message with where it lies in its stream, which differs from reader to reader.
pub(super) fn push_head(position: Option<Position>, text: &mut Vec<u8>) {
    text.push(b'{');
    if let Some(Position { sequence, time, .. }) = position {
        text.extend_from_slice(format!("\"sequence\":{sequence},\"time\":{time},").as_bytes());
    }
}

/// What ends it, behind the payload.
pub(super) const END: &[u8] = b"}";

/// Ends it with what is the same for all. Returns whether its payload is sealed.
pub(super) fn push_rest(
    opener: Option<&PayloadOpener>,
    topic: &TopicPattern,
    headers: &Headers,
    payload: &[u8],
    text: &mut Vec<u8>,
) -> bool {
    text.extend_from_slice(b"\"topic\":");
    push_json_string(topic.as_str(), text);
    text.extend_from_slice(b",\"headers\":[");
    for (index, (name, value)) in headers.iter().enumerate() {
        text.extend_from_slice(if index > 0 { b",[" } else { b"[" });
        push_json_string(name, text);
        text.push(b',');
        push_json_string(value, text);
        text.push(b']');
    }
    text.extend_from_slice(b"],\"payload\":");
    let sealed = push_opened(opener, topic.as_str(), payload, text);
    text.extend_from_slice(END);
    sealed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_of_json_whatever_it_holds() {
        let topic = TopicPattern::new("a/*").unwrap();
        let headers = Headers::new().with("a", "1\n\"2\"").with("a", "3");
        let mut text = Vec::new();
        push_head(Some(Position::new(7, 8, true)), &mut text);
        assert!(!push_rest(None, &topic, &headers, &[0xa2, b'\n', b'\r'], &mut text));
        let expected = r#"{"sequence":7,"time":8,"topic":"a/*","headers":[["a","1\n\"2\""],["a","3"]],"payload":"\n\r"}"#;
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}
