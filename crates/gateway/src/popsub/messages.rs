//! What clients say, and what they are answered.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use thiserror::Error;
use whispeer::json::{JsonError, push_json_string};

use crate::limits;
use crate::message::payload_of;

/// What a client says.
#[derive(Debug, PartialEq)]
pub(super) enum Request<'a> {
    Login { username: Cow<'a, str>, password: Cow<'a, str> },
    Auth { token: Cow<'a, str> },
    Subscribe { topic: Cow<'a, str> },
    Unsubscribe { topic: Cow<'a, str> },
    Publish { topic: Cow<'a, str>, payload: Bytes, message_id: Option<Cow<'a, str>>, qos: Qos },
    Ack { message_id: Cow<'a, str> },
}

/// How sure delivery is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Qos {
    AtMostOnce,
    /// It is sent again until it is acknowledged.
    AtLeastOnce,
}

/// Why a message is none of this dialect.
#[derive(Debug, Error)]
pub(super) enum Invalid {
    #[error("it is not text")]
    NotText,
    #[error("not JSON: {0}")]
    Json(serde_json::Error),
    #[error("there is no field \"type\"")]
    NoType,
    #[error("there is no type {0:?}; it is one of login, auth, subscribe, unsubscribe, publish and ack")]
    UnknownType(String),
    #[error("\"{kind}\" needs the field \"{field}\"")]
    Missing { kind: &'static str, field: &'static str },
    #[error("the payload cannot be published: {0}")]
    Payload(#[from] JsonError),
    #[error("a \"message_id\" has 1 to {limit} bytes, not {0}", limit = limits::POPSUB_MESSAGE_ID_BYTES)]
    MessageId(usize),
    #[error("\"qos\" is 0 or 1, not {0}")]
    Qos(u64),
}

/// All fields that any of them has. What else there is is not looked at, as ever.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    username: Option<Cow<'a, str>>,
    #[serde(borrow)]
    password: Option<Cow<'a, str>>,
    #[serde(borrow)]
    token: Option<Cow<'a, str>>,
    #[serde(borrow)]
    topic: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    message_id: Option<Cow<'a, str>>,
    qos: Option<u64>,
}

/// A field that is there, also if it is `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Request<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, Invalid> {
        let fields: Fields<'a> = serde_json::from_str(text).map_err(Invalid::Json)?;
        let kind = fields.kind.ok_or(Invalid::NoType)?;
        Ok(match &*kind {
            "login" => Self::Login {
                username: fields.username.ok_or(missing("login", "username"))?,
                password: fields.password.ok_or(missing("login", "password"))?,
            },
            "auth" => Self::Auth { token: fields.token.ok_or(missing("auth", "token"))? },
            "subscribe" => Self::Subscribe { topic: fields.topic.ok_or(missing("subscribe", "topic"))? },
            "unsubscribe" => {
                Self::Unsubscribe { topic: fields.topic.ok_or(missing("unsubscribe", "topic"))? }
            }
            "publish" => {
                let topic = fields.topic.ok_or(missing("publish", "topic"))?;
                let payload = payload_of(fields.payload.ok_or(missing("publish", "payload"))?.get())?;
                let message_id = fields.message_id.map(checked_id).transpose()?;
                let qos = match fields.qos {
                    None | Some(0) => Qos::AtMostOnce,
                    Some(1) => Qos::AtLeastOnce,
                    Some(other) => return Err(Invalid::Qos(other)),
                };
                Self::Publish { topic, payload, message_id, qos }
            }
            "ack" => {
                Self::Ack { message_id: checked_id(fields.message_id.ok_or(missing("ack", "message_id"))?)? }
            }
            other => {
                return Err(Invalid::UnknownType(other.chars().take(limits::POPSUB_EXCERPT_CHARS).collect()));
            }
        })
    }
}

fn missing(kind: &'static str, field: &'static str) -> Invalid {
    Invalid::Missing { kind, field }
}

fn checked_id(id: Cow<'_, str>) -> Result<Cow<'_, str>, Invalid> {
    if (1..=limits::POPSUB_MESSAGE_ID_BYTES).contains(&id.len()) {
        Ok(id)
    } else {
        Err(Invalid::MessageId(id.len()))
    }
}

/// What an `auth` that is good is answered.
pub(super) const AUTHENTICATED: &[u8] = br#"{"status":"authenticated"}"#;

/// What a `login` that is good is answered.
pub(super) fn login_response(token: &str) -> Bytes {
    let mut text = br#"{"type":"login_response","token":"#.to_vec();
    push_json_string(token, &mut text);
    text.push(b'}');
    text.into()
}

/// What anything else is answered that cannot be done.
pub(super) fn error(what: &str) -> Bytes {
    let mut text = br#"{"error":"#.to_vec();
    push_json_string(what, &mut text);
    text.push(b'}');
    text.into()
}

/// What a publish is answered that cannot be done, with the id that it came with.
pub(super) fn publish_error(what: &str, message_id: Option<&str>) -> Bytes {
    let Some(message_id) = message_id else { return error(what) };
    let mut text = br#"{"error":"#.to_vec();
    push_json_string(what, &mut text);
    text.extend_from_slice(br#","message_id":"#);
    push_json_string(message_id, &mut text);
    text.push(b'}');
    text.into()
}

#[cfg(test)]
mod tests {
    use whispeer::json::from_json;

    use super::*;

    fn invalid(text: &str) -> String {
        Request::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn each_message_has_its_fields_and_others_do_no_harm() {
        let parse = |text| Request::parse(text).unwrap();
        assert_eq!(
            parse(r#"{ "type": "login", "username": "admin", "password": "pass\u0077ord" }"#),
            Request::Login { username: "admin".into(), password: "password".into() }
        );
        assert_eq!(parse(r#"{"token":"t","type":"auth"}"#), Request::Auth { token: "t".into() });
        assert_eq!(
            parse(r#"{"type":"subscribe","topic":"chat","since":3}"#),
            Request::Subscribe { topic: "chat".into() }
        );
        assert_eq!(
            parse(r#"{"type":"publish","topic":"chat","payload":{"a":[1,null]},"message_id":"7","qos":1}"#),
            Request::Publish {
                topic: "chat".into(),
                payload: from_json(br#"{"a":[1,null]}"#).unwrap(),
                message_id: Some("7".into()),
                qos: Qos::AtLeastOnce
            }
        );
    }

    #[test]
    fn a_payload_of_null_is_one_and_none_is_a_fault() {
        let parsed = Request::parse(r#"{"type":"publish","topic":"chat","payload":null}"#).unwrap();
        assert!(matches!(parsed, Request::Publish { payload, .. } if payload[..] == [0xc0]));
        assert_eq!(invalid(r#"{"type":"publish","topic":"chat"}"#), r#""publish" needs the field "payload""#);
    }

    #[test]
    fn what_is_wrong_is_told() {
        assert!(invalid("{").starts_with("not JSON: EOF"));
        assert!(invalid("[1]").starts_with("not JSON: "));
        assert!(invalid(r#"{"type":"auth","token":7}"#).contains("expected a string"));
        assert_eq!(invalid("{}"), "there is no field \"type\"");
        let long = invalid(&format!(r#"{{"type":"{}"}}"#, "x".repeat(100_000)));
        assert!(long.len() < 300, "{long}");
        assert_eq!(invalid(r#"{"type":"ack"}"#), r#""ack" needs the field "message_id""#);
        assert_eq!(
            invalid(r#"{"type":"ack","message_id":""}"#),
            "a \"message_id\" has 1 to 128 bytes, not 0"
        );
        let publish =
            |rest: &str| invalid(&format!(r#"{{"type":"publish","topic":"t","payload":1,{rest}}}"#));
        assert_eq!(publish(r#""qos":2,"message_id":"1""#), "\"qos\" is 0 or 1, not 2");
        assert!(publish(&format!(r#""message_id":"{}""#, "x".repeat(129))).contains("not 129"));
    }

    #[test]
    fn errors_are_json_whatever_they_say() {
        assert_eq!(error("a \"b\"\n"), r#"{"error":"a \"b\"\n"}"#);
        assert_eq!(publish_error("no", Some("\"")), r#"{"error":"no","message_id":"\""}"#);
        assert_eq!(publish_error("no", None), r#"{"error":"no"}"#);
    }
}
