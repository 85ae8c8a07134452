//! Payloads in the bodies of requests and answers.
//!
//! JSON stands for the MessagePack that typed clients read and write. Bytes of any other kind pass as they are, so that a
//! caller who has MessagePack, or a payload that he has sealed himself, sends it without a detour.

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use whispeer::engine::is_sealed;
use whispeer::json::from_json;

use super::failure::Failure;
use crate::limits;
use crate::message::push_payload;
use crate::received::{self, BodyFault, Claim};
use crate::shared::Shared;

pub(super) const JSON: &str = "application/json";
pub(super) const MESSAGE_PACK: &str = "application/msgpack";
pub(super) const OCTETS: &str = "application/octet-stream";

/// How a payload stands in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    /// As it is, by this name.
    Bytes(&'static str),
}

impl Form {
    /// What a body is, as its headers say.
    pub(super) fn of_body(headers: &HeaderMap) -> Result<Self, Failure> {
        let refused = |what: String| {
            Failure::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "media-type",
                format!("{what}; send {JSON}, or a payload as it is as {MESSAGE_PACK} or {OCTETS}"),
            )
        };
        if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(refused("a body that is compressed is not taken".into()));
        }
        let Some(given) = headers.get(header::CONTENT_TYPE) else {
            return Err(refused("the body has no `Content-Type`".into()));
        };
        let given = String::from_utf8_lossy(given.as_bytes());
        Self::named(&given).ok_or_else(|| {
            let given: String = given.chars().take(100).collect();
            refused(format!("a body of {given:?} is not taken"))
        })
    }

    /// What an answer is to be, as the request says. Of what it lists the first that there is counts, else JSON.
    pub(super) fn of_answer(headers: &HeaderMap) -> Self {
        let listed = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
        let mut kinds = listed.flat_map(|accept| accept.split(','));
        kinds.find_map(Self::named).unwrap_or(Self::Json)
    }

    /// The form of this media type, parameters aside.
    fn named(kind: &str) -> Option<Self> {
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            JSON => Some(Self::Json),
            MESSAGE_PACK | "application/vnd.msgpack" | "application/x-msgpack" => {
                Some(Self::Bytes(MESSAGE_PACK))
            }
            OCTETS => Some(Self::Bytes(OCTETS)),
            _ => None,
        }
    }

    /// The media type.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Bytes(name) => name,
        }
    }

    /// The payload that a body stands for.
    pub(super) fn read(self, body: Bytes) -> Result<Bytes, Failure> {
        match self {
            Self::Json => payload_of(&body),
            Self::Bytes(_) => Ok(body),
        }
    }

    /// A payload as a body, and whether it is sealed.
    pub(super) fn write(self, payload: Bytes) -> (Bytes, bool) {
        match self {
            Self::Json => {
                let mut text = Vec::with_capacity(payload.len() + payload.len() / 2);
                let sealed = push_payload(&payload, &mut text);
                (text.into(), sealed)
            }
            Self::Bytes(_) => {
                let sealed = is_sealed(&payload);
                (payload, sealed)
            }
        }
    }
}

/// The body of a request, if it comes in time and is no longer than it may be, with its claim to the room that it takes.
pub(super) async fn read(body: Body, shared: &Shared) -> Result<(Bytes, Claim), Failure> {
    let limit = shared.settings.body_limit;
    received::body(body, limit, &shared.budget).await.map_err(|fault| match fault {
        BodyFault::TooSlow => Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "body-time",
            format!("the body took longer than {:?}; send it faster", limits::BODY_TIME),
        ),
        BodyFault::TooLarge => Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            format!("a body has {limit} bytes at the most; send less at once, or raise `body_limit`"),
        ),
        BodyFault::Busy => Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "bodies",
            "too much is being sent by others at this moment; try again later, or raise `bodies_limit`",
        ),
        BodyFault::Broken(error) => Failure::bad_request("body", format!("the body cannot be read: {error}")),
    })
}

/// The payload that a JSON text stands for: MessagePack, or what somebody has sealed, as it was.
pub(super) fn payload_of(json: &[u8]) -> Result<Bytes, Failure> {
    if let Some(sealed) = sealed(json) {
        return Ok(sealed);
    }
    from_json(json).map_err(|error| Failure::bad_request("json", error.to_string()))
}

/// What `{"$sealed":"BASE64"}` stands for, if it is an envelope. Anything else is a payload like any other.
fn sealed(json: &[u8]) -> Option<Bytes> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sealed {
        #[serde(rename = "$sealed")]
        sealed: String,
    }
    // So that others are not read twice.
    let inside = json.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start();
    inside.strip_prefix(b"\"$sealed\"")?;
    let marked: Sealed = serde_json::from_slice(json).ok()?;
    STANDARD.decode(marked.sealed).ok().filter(|payload| is_sealed(payload)).map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_the_messagepack_of_typed_clients_and_what_was_sealed_is_as_it_was() {
        assert_eq!(&payload_of(b"[1,true]").unwrap()[..], [0x92, 1, 0xc3]);
        let envelope = [0xC1, 0x57, 1, 200, 0x2A];
        let mut text = Vec::new();
        assert!(push_payload(&envelope, &mut text));
        assert_eq!(text, br#"{"$sealed":"wVcByCo="}"#);
        assert_eq!(&payload_of(&text).unwrap()[..], envelope);
        for other in [&br#"{"$sealed":"AAAA"}"#[..], br#"{"$sealed":7}"#, br#"{"$sealed":"wVcByCo=","a":1}"#]
        {
            assert_eq!(payload_of(other).unwrap(), from_json(other).unwrap());
        }
        assert!(payload_of(b"").is_err() && payload_of(b"{").is_err());
    }

    #[test]
    fn media_types_are_told_apart_by_their_names_alone() {
        let mut headers = HeaderMap::new();
        assert!(Form::of_body(&headers).is_err());
        for (kind, form) in [
            ("application/json; charset=utf-8", Some(Form::Json)),
            ("Application/JSON", Some(Form::Json)),
            ("application/x-msgpack", Some(Form::Bytes(MESSAGE_PACK))),
            ("application/octet-stream", Some(Form::Bytes(OCTETS))),
            ("text/plain", None),
            ("", None),
        ] {
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            assert_eq!(Form::of_body(&headers).ok(), form, "{kind}");
        }
        headers.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
        headers.insert(header::CONTENT_TYPE, JSON.parse().unwrap());
        assert!(Form::of_body(&headers).is_err());
    }

    #[test]
    fn an_answer_is_json_unless_something_else_is_asked_for_first() {
        let accepted = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            Form::of_answer(&headers)
        };
        assert_eq!(Form::of_answer(&HeaderMap::new()), Form::Json);
        assert_eq!(accepted("text/html, */*"), Form::Json);
        assert_eq!(accepted("application/msgpack, application/json"), Form::Bytes(MESSAGE_PACK));
        assert_eq!(accepted("application/json, application/msgpack"), Form::Json);
    }
}
