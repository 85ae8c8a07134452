//! Headers of messages, as those of NATS.
//!
//! A header of whispeer is a header of NATS of the same name, so that whoever has nothing but NATS reads it. But NATS has no order
//! among names, and not every name and text is one of its headers: where that would change something, all headers are there once more
//! as they were, in `Whispeer-Headers`, and who knows that one reads no other.
//!
//! | header | what it is |
//! |---|---|
//! | `Whispeer-Headers` | the fields of all headers, as PROTOCOL.md says, in base64 |
//! | `Whispeer-Expires` | milliseconds for which the message is of use, when it was sent |
//! | `Whispeer-Topic` | what was published to, on the subject for wildcards |

use std::str::FromStr as _;
use std::time::Duration;

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use whispeer::client::Headers;
use whispeer::proto::fields::{Field, FieldsBuilder, iterate};

/// The beginning of those that are the link's own.
const OWN: &str = "whispeer-";
const EXACT: &str = "Whispeer-Headers";
const EXPIRES: &str = "Whispeer-Expires";
const TOPIC: &str = "Whispeer-Topic";

/// What goes with a message of these fields, if anything does, where it is published to what `topic` says in place of the subject.
pub(crate) fn write(fields: &[u8], topic: Option<&str>) -> Option<HeaderMap> {
    if fields.is_empty() && topic.is_none() {
        return None;
    }
    let mut map = HeaderMap::new();
    let mut exact = FieldsBuilder::new();
    let (mut count, mut is_exact) = (0, true);
    for field in iterate(fields) {
        match field {
            Field::Header { name, value } => {
                count += 1;
                match as_nats(name, value) {
                    Some((name, value)) => map.append(name, value),
                    None => is_exact = false,
                }
                // They fit where they came from.
                let _ = exact.header(name, value);
            }
            Field::Expires(left) => map.insert(EXPIRES, left.as_millis().to_string()),
            _ => {}
        }
    }
    if !is_exact || count > 1 {
        map.insert(EXACT, STANDARD.encode(exact.as_bytes()));
    }
    if let Some(topic) = topic {
        map.insert(TOPIC, topic);
    }
    (!map.is_empty()).then_some(map)
}

/// The same header at NATS, where that has one.
fn as_nats(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let is_own = name.get(..OWN.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWN));
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    let is_value = value.trim() == value && !value.contains(['\r', '\n']);
    if is_own || !is_name || !is_value {
        return None;
    }
    Some((HeaderName::from_str(name).ok()?, HeaderValue::from_str(value).ok()?))
}

/// What came with a message.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Read {
    pub(crate) headers: Headers,
    pub(crate) expires: Option<Duration>,
}

/// Reads what came with a message; what cannot be read is left out.
pub(crate) fn read(map: Option<&HeaderMap>) -> Read {
    let Some(map) = map else { return Read::default() };
    let text = |name: &str| map.get(name).map(HeaderValue::as_str);
    let expires = text(EXPIRES).and_then(|millis| millis.parse().ok()).map(Duration::from_millis);
    let exact = text(EXACT).and_then(|exact| STANDARD.decode(exact).ok());
    let headers = match exact {
        Some(exact) => {
            let pairs = iterate(&exact).filter_map(|field| match field {
                Field::Header { name, value } => Some((name, value)),
                _ => None,
            });
            Headers::from_iter(pairs)
        }
        None => {
            let mut pairs: Vec<(&str, &str)> = map
                .iter()
                .flat_map(|(name, values)| {
                    values.iter().map(move |value| (AsRef::<str>::as_ref(name), value.as_str()))
                })
                .filter(|(name, _)| {
                    !name.get(..OWN.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWN))
                })
                .collect();
            // NATS has no order among names, so that one is as good as another; this one is the same each time.
            pairs.sort_by_key(|(name, _)| *name);
            Headers::from_iter(pairs)
        }
    };
    Read { headers, expires }
}

/// What a message on the subject for wildcards was published to.
pub(crate) fn topic(map: Option<&HeaderMap>) -> Option<&str> {
    map?.get(TOPIC).map(HeaderValue::as_str)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(headers: &[(&str, &str)], expires: Option<u64>) -> Vec<u8> {
        let mut fields = FieldsBuilder::new();
        for (name, value) in headers {
            fields.header(name, value).unwrap();
        }
        if let Some(millis) = expires {
            fields.expires(Duration::from_millis(millis)).unwrap();
        }
        fields.finish()
    }

    #[test]
    fn a_message_without_headers_has_none_at_nats() {
        assert!(write(&[], None).is_none());
        assert_eq!(read(None), Read::default());
    }

    #[test]
    fn one_header_is_the_same_at_nats_and_nothing_more() {
        let map = write(&fields(&[("shop", "7")], Some(250)), None).unwrap();
        assert_eq!(map.get("shop").unwrap().as_str(), "7");
        assert_eq!(map.get("Whispeer-Expires").unwrap().as_str(), "250");
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn what_a_program_of_nats_sends_is_read() {
        let mut map = HeaderMap::new();
        map.append("b", "2");
        map.append("a", "1");
        map.append("b", "3");
        map.insert("Whispeer-Unknown", "of a later version");
        let read = read(Some(&map));
        assert_eq!(read.headers, Headers::from_iter([("a", "1"), ("b", "2"), ("b", "3")]));
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let mut map = HeaderMap::new();
        map.insert("Whispeer-Headers", "%%%");
        map.insert("Whispeer-Expires", "soon");
        map.insert("a", "1");
        assert_eq!(read(Some(&map)), Read { headers: Headers::from_iter([("a", "1")]), expires: None });
    }

    proptest! {
        #[test]
        fn headers_come_as_they_were(
            pairs in prop::collection::vec(("[ -~äß\n:]{0,20}", "[ -~äß\r\n]{0,20}"), 0..5),
            expires in prop::option::of(0..100_000_u64),
        ) {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let map = write(&fields(&pairs, expires), Some("a/*"));
            let read = read(map.as_ref());
            prop_assert_eq!(read.headers, Headers::from_iter(pairs));
            prop_assert_eq!(read.expires, expires.map(Duration::from_millis));
            prop_assert_eq!(topic(map.as_ref()), Some("a/*"));
        }
    }
}
