//! The fields of a frame as headers of NATS, and back.
//!
//! A header of whispeer's is one of NATS, of the same name and value, as long as it can be: a name of visible ASCII without `:` that begins
//! neither with `Whispeer-` nor with `Nats-`, and a value of visible ASCII with spaces within. So whoever has nothing but NATS reads and
//! writes them, and `traceparent` is what it is everywhere.
//!
//! What came in an order comes out in it. NATS keeps no order among headers of different names, so where there are several,
//! `Whispeer-Names` has the names as they followed each other, with `,` between them. A section with anything else in it, such as
//! a name with a space or a field of a later version, is in `Whispeer-Fields` as a whole, in Base64, and what there is beside
//! it is for those who have nothing but NATS.

use std::collections::HashMap;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use whispeer::limits::FIELDS_LIMIT;
use whispeer::proto::fields::{FieldsBuilder, well_formed};

/// What the names of this protocol's own headers begin with.
pub const OWN: &str = "whispeer-";

/// And those of NATS.
const OF_NATS: &str = "nats-";

const FIELDS: &str = "Whispeer-Fields";
const NAMES: &str = "Whispeer-Names";

/// The tag of a header among fields.
const HEADER: u8 = 1;

/// Headers that are no fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the headers of a message from NATS cannot be read: {0}")]
pub struct Malformed(pub &'static str);

/// One field: its tag, its value, and all its bytes.
pub(crate) struct RawField<'a> {
    pub(crate) tag: u8,
    value: &'a [u8],
    pub(crate) whole: &'a [u8],
}

/// Divides a section into its fields, up to where that cannot be done any more.
pub(crate) fn divide(mut section: &[u8]) -> impl Iterator<Item = RawField<'_>> {
    std::iter::from_fn(move || {
        let (&[tag, low, high], _) = section.split_first_chunk::<3>()?;
        let (whole, rest) = section.split_at_checked(3 + usize::from(u16::from_le_bytes([low, high])))?;
        section = rest;
        Some(RawField { tag, value: &whole[3..], whole })
    })
}

impl<'a> RawField<'a> {
    /// Name and value, where NATS can have them as they are.
    fn plain(&self) -> Option<(&'a str, &'a str)> {
        if self.tag != HEADER {
            return None;
        }
        let (length, rest) = self.value.split_first()?;
        let (name, value) = rest.split_at_checked(usize::from(*length))?;
        let (name, value) = (str::from_utf8(name).ok()?, str::from_utf8(value).ok()?);
        (is_plain_name(name) && is_plain_value(value)).then_some((name, value))
    }
}

fn is_plain_name(name: &str) -> bool {
    let is_of = |owner: &str| name.get(..owner.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(owner));
    let all = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':' && byte != b',');
    !name.is_empty() && all && !is_of(OWN) && !is_of(OF_NATS)
}

fn is_plain_value(value: &str) -> bool {
    let visible = value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    !value.is_empty() && visible && value.trim() == value
}

/// Adds the fields of a section to headers.
pub fn write(section: &[u8], headers: &mut HeaderMap) {
    let (mut names, mut plain): (Vec<&str>, usize) = (Vec::new(), 0);
    for field in divide(section) {
        let Some((name, value)) = field.plain() else { continue };
        let (Ok(name_there), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) else {
            continue;
        };
        headers.append(name_there, value);
        names.push(name);
        plain += field.whole.len();
    }
    if plain < section.len() {
        headers.insert(FIELDS, STANDARD.encode(section));
    } else if names.iter().any(|name| *name != names[0]) {
        headers.insert(NAMES, names.join(","));
    }
}

/// Reads a section from headers.
///
/// # Errors
/// [`Malformed`], where they are of nobody who keeps to this protocol, or more than a frame has.
pub fn read(headers: &HeaderMap) -> Result<Vec<u8>, Malformed> {
    if let Some(fields) = headers.get(FIELDS) {
        let fields =
            STANDARD.decode(fields.as_str()).map_err(|_| Malformed("Whispeer-Fields is no Base64"))?;
        if fields.len() > FIELDS_LIMIT || !well_formed(&fields) {
            return Err(Malformed("Whispeer-Fields are no fields"));
        }
        return Ok(fields);
    }
    let mut there: HashMap<&str, std::slice::Iter<'_, HeaderValue>> = headers
        .iter()
        .map(|(name, values)| (AsRef::<str>::as_ref(name), values.iter()))
        .filter(|(name, _)| is_plain_name(name))
        .collect();
    let mut fields = FieldsBuilder::new();
    let mut add = |name: &str, value: &HeaderValue| {
        fields.header(name, value.as_str()).map_err(|_| Malformed("they are more than a frame has"))
    };
    for name in headers.get(NAMES).map(HeaderValue::as_str).unwrap_or_default().split(',') {
        if let Some(value) = there.get_mut(name).and_then(Iterator::next) {
            add(name, value)?;
        }
    }
    let mut left: Vec<_> = there.into_iter().collect();
    left.sort_unstable_by_key(|(name, _)| *name);
    for (name, values) in left {
        for value in values {
            add(name, value)?;
        }
    }
    Ok(fields.finish())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn section(headers: &[(&str, &str)]) -> Vec<u8> {
        let mut fields = FieldsBuilder::new();
        for (name, value) in headers {
            fields.header(name, value).unwrap();
        }
        fields.finish()
    }

    fn names(headers: &HeaderMap) -> Vec<String> {
        let mut names: Vec<String> = headers.iter().map(|(name, _)| name.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn headers_that_nats_can_have_are_its_headers() {
        let fields = section(&[("traceparent", "00-ab-cd-01"), ("user", "alice b"), ("user", "carol")]);
        let mut headers = HeaderMap::new();
        write(&fields, &mut headers);
        assert_eq!(names(&headers), ["Whispeer-Names", "traceparent", "user"]);
        assert_eq!(headers.get("traceparent").unwrap().as_str(), "00-ab-cd-01");
        assert_eq!(read(&headers).unwrap(), fields);
    }

    #[test]
    fn one_header_needs_nothing_beside_it() {
        let mut headers = HeaderMap::new();
        write(&section(&[("user", "alice")]), &mut headers);
        assert_eq!(names(&headers), ["user"]);
        assert!(read(&HeaderMap::new()).unwrap().is_empty());
    }

    #[test]
    fn what_nats_cannot_have_comes_through_and_the_rest_can_still_be_read() {
        let strange = [
            ("user", "alice"),
            ("with space", "x"),
            ("nats-expected", "y"),
            ("line", "a\r\nb"),
            ("umlaut", "ä"),
        ];
        let fields = section(&strange);
        let mut headers = HeaderMap::new();
        write(&fields, &mut headers);
        assert_eq!(names(&headers), ["Whispeer-Fields", "user"]);
        assert_eq!(read(&headers).unwrap(), fields);
    }

    #[test]
    fn what_is_nats_own_is_no_header_of_users() {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", "1");
        headers.insert("Whispeer-Origin", "2");
        headers.insert("user", "alice");
        assert_eq!(read(&headers).unwrap(), section(&[("user", "alice")]));
    }

    #[test]
    fn headers_that_are_no_fields_are_refused() {
        for wrong in ["%", "AQ==", &STANDARD.encode(vec![0; FIELDS_LIMIT + 3])] {
            let mut headers = HeaderMap::new();
            headers.insert(FIELDS, wrong);
            assert!(read(&headers).is_err(), "{wrong:.10}");
        }
    }

    proptest! {
        #[test]
        fn any_headers_come_back_in_their_order(headers in prop::collection::vec(("[a-c:, \u{e4}\n]{0,2}", "[x \n\u{e4}]{0,3}"), 0..8)) {
            let pairs: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
            let fields = section(&pairs);
            let mut written = HeaderMap::new();
            write(&fields, &mut written);
            prop_assert_eq!(read(&written).unwrap(), fields);
        }

        #[test]
        fn any_bytes_neither_panic_nor_change(tags in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..9)), 0..6)) {
            let mut fields = Vec::new();
            for (tag, value) in &tags {
                fields.push(*tag);
                fields.extend_from_slice(&u16::try_from(value.len()).unwrap().to_le_bytes());
                fields.extend_from_slice(value);
            }
            let mut written = HeaderMap::new();
            write(&fields, &mut written);
            prop_assert_eq!(read(&written).unwrap(), fields);
        }
    }
}
