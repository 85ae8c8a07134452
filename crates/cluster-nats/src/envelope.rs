//! What goes with a message at NATS: its [headers](crate::headers), and what else there is to be said of it.
//!
//! | header | what it is |
//! |---|---|
//! | `Whispeer-Expires` | milliseconds for which the message is of use, when it was sent |
//! | `Whispeer-Topic` | what was published to, on the subject for wildcards |
//!
//! The other fields of a frame are for its link, and do not go on.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use whispeer::client::Headers;
use whispeer::proto::fields::{Field, FieldsBuilder, iterate};

use crate::headers::{self, Malformed};

const EXPIRES: &str = "Whispeer-Expires";
const TOPIC: &str = "Whispeer-Topic";

/// What goes with a message of these fields, if anything does, where it is published to what `topic` says in place of the subject.
pub(crate) fn write(fields: &[u8], topic: Option<&str>) -> Option<HeaderMap> {
    if fields.is_empty() && topic.is_none() {
        return None;
    }
    let mut map = HeaderMap::new();
    let mut section = FieldsBuilder::new();
    for field in iterate(fields) {
        match field {
            // They fit where they came from.
            Field::Header { name, value } => _ = section.header(name, value),
            Field::Expires(left) => map.insert(EXPIRES, left.as_millis().to_string()),
            _ => {}
        }
    }
    headers::write(section.as_bytes(), &mut map);
    if let Some(topic) = topic {
        map.insert(TOPIC, topic);
    }
    (!map.is_empty()).then_some(map)
}

/// What came with a message.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Read {
    pub(crate) headers: Headers,
    pub(crate) expires: Option<Duration>,
}

/// Reads what came with a message.
///
/// # Errors
/// [`Malformed`] headers.
pub(crate) fn read(map: Option<&HeaderMap>) -> Result<Read, Malformed> {
    let Some(map) = map else { return Ok(Read::default()) };
    let expires = match map.get(EXPIRES).map(HeaderValue::as_str) {
        Some(millis) => {
            let millis =
                millis.parse().map_err(|_| Malformed("Whispeer-Expires is no number of milliseconds"))?;
            Some(Duration::from_millis(millis))
        }
        None => None,
    };
    let section = headers::read(map)?;
    let pairs = iterate(&section).filter_map(|field| match field {
        Field::Header { name, value } => Some((name, value)),
        _ => None,
    });
    Ok(Read { headers: Headers::from_iter(pairs), expires })
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
        assert_eq!(read(None), Ok(Read::default()));
    }

    #[test]
    fn one_header_is_the_same_at_nats_and_nothing_more() {
        let map = write(&fields(&[("shop", "7")], Some(250)), None).unwrap();
        assert_eq!(map.get("shop").unwrap().as_str(), "7");
        assert_eq!(map.get("Whispeer-Expires").unwrap().as_str(), "250");
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (name, value) in [("Whispeer-Expires", "soon"), ("Whispeer-Fields", "%%%")] {
            let mut map = HeaderMap::new();
            map.insert(name, value);
            assert!(read(Some(&map)).is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_for_a_link_does_not_go_on() {
        let mut fields = FieldsBuilder::new();
        fields.block_limit(Duration::from_secs(1)).unwrap();
        fields.origin(7).unwrap();
        assert!(write(fields.as_bytes(), None).is_none());
    }

    proptest! {
        #[test]
        fn headers_come_as_they_were(
            pairs in prop::collection::vec(("[ -~äß\n:]{0,20}", "[ -~äß\r\n]{0,20}"), 0..5),
            expires in prop::option::of(0..100_000_u64),
        ) {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let map = write(&fields(&pairs, expires), Some("a/*"));
            let read = read(map.as_ref()).unwrap();
            prop_assert_eq!(read.headers, Headers::from_iter(pairs));
            prop_assert_eq!(read.expires, expires.map(Duration::from_millis));
            prop_assert_eq!(topic(map.as_ref()), Some("a/*"));
        }
    }
}
