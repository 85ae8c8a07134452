//! What a socket may say, and what it is told.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use whispeer::BusError;
use whispeer::json::push_json_string;

use crate::limits;

/// The id of an answer to what has none that can be read.
const NO_ID: &str = "0";

/// What a socket asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command<'a> {
    Connect { token: Cow<'a, str> },
    Subscribe { channel: Cow<'a, str> },
    Unsubscribe { channel: Cow<'a, str> },
    Ping,
}

/// A command with its id: a number or a string, as it was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    pub(super) id: &'a str,
    pub(super) command: Result<Command<'a>, Fault>,
}

/// What went wrong, as the dialect says it. Its words stay as they are: programs may look at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    BadCommand,
    BadText,
    BadChannel,
    BadData,
    AlreadyConnected,
    NotAuthenticated,
    Expired,
    Forbidden,
    TooLarge,
    TooManySubscriptions,
    Overloaded,
    Failed,
}

impl Fault {
    pub(super) fn code(self) -> u16 {
        match self {
            Self::BadCommand | Self::BadText | Self::BadChannel | Self::BadData | Self::AlreadyConnected => {
                400
            }
            Self::NotAuthenticated | Self::Expired => 401,
            Self::Forbidden => 403,
            Self::TooLarge => 413,
            Self::TooManySubscriptions | Self::Overloaded => 429,
            Self::Failed => 500,
        }
    }

    pub(super) fn message(self) -> &'static str {
        match self {
            Self::BadCommand => "bad command",
            Self::BadText => "bad UTF-8",
            Self::BadChannel => "bad channel",
            Self::BadData => "bad data",
            Self::AlreadyConnected => "already connected",
            Self::NotAuthenticated => "not authenticated",
            Self::Expired => "token expired",
            Self::Forbidden => "forbidden",
            Self::TooLarge => "too large",
            Self::TooManySubscriptions => "too many subscriptions",
            Self::Overloaded => "overloaded",
            Self::Failed => "internal error",
        }
    }

    /// By which it is counted.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::BadCommand => "bad_command",
            Self::BadText => "bad_text",
            Self::BadChannel => "bad_channel",
            Self::BadData => "bad_data",
            Self::AlreadyConnected => "already_connected",
            Self::NotAuthenticated => "not_authenticated",
            Self::Expired => "expired",
            Self::Forbidden => "forbidden",
            Self::TooLarge => "too_large",
            Self::TooManySubscriptions => "too_many_subscriptions",
            Self::Overloaded => "overloaded",
            Self::Failed => "failed",
        }
    }
}

impl From<&BusError> for Fault {
    fn from(error: &BusError) -> Self {
        use BusError as E;
        match error {
            E::InvalidTopic(_) => Self::BadChannel,
            E::Denied { .. } | E::ReservedTopic { .. } | E::Refused { .. } => Self::Forbidden,
            E::FrameTooLarge { .. } | E::HeadersTooLarge { .. } => Self::TooLarge,
            E::LimitReached { .. } | E::Overloaded { .. } | E::Full | E::QueueFull { .. } => Self::Overloaded,
            _ => Self::Failed,
        }
    }
}

/// Reads what a socket said.
pub(super) fn read(text: &str) -> Asked<'_> {
    #[derive(Deserialize)]
    struct Whole<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
        #[serde(borrow)]
        method: Option<Cow<'a, RawValue>>,
        #[serde(borrow)]
        params: Option<&'a RawValue>,
    }

    let Ok(whole) = serde_json::from_str::<Whole<'_>>(text) else {
        return Asked { id: NO_ID, command: Err(Fault::BadCommand) };
    };
    let Some(id) = whole.id.map(RawValue::get).filter(|id| is_id(id)) else {
        return Asked { id: NO_ID, command: Err(Fault::BadCommand) };
    };
    let method = whole.method.as_ref().map_or("", |method| method.get());
    let params = whole.params.map_or("null", RawValue::get);
    Asked { id, command: command(method, params).ok_or(Fault::BadCommand) }
}

/// The command of this name, which is JSON text still, and with these parameters.
fn command<'a>(method: &str, params: &'a str) -> Option<Command<'a>> {
    #[derive(Deserialize)]
    struct Connect<'a> {
        #[serde(borrow)]
        token: Cow<'a, str>,
    }
    #[derive(Deserialize)]
    struct Channel<'a> {
        #[serde(borrow)]
        channel: Cow<'a, str>,
    }

    let channel = || serde_json::from_str::<Channel<'_>>(params).ok().map(|params| params.channel);
    Some(match &*serde_json::from_str::<Cow<'_, str>>(method).ok()? {
        "connect" => Command::Connect { token: serde_json::from_str::<Connect<'_>>(params).ok()?.token },
        "subscribe" => Command::Subscribe { channel: channel()? },
        "unsubscribe" => Command::Unsubscribe { channel: channel()? },
        "ping" => Command::Ping,
        _ => return None,
    })
}

/// Whether a JSON value can be an id: a number or a string, and not a long one, as it comes back.
fn is_id(value: &str) -> bool {
    value.len() <= limits::COMMAND_ID_BYTES
        && value.starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit())
}

/// The answer that it was done.
pub(super) fn done(id: &str, what: &str) -> Bytes {
    format!(r#"{{"id":{id},"result":{{"{what}":true}}}}"#).into()
}

/// The answer to what went wrong.
pub(super) fn failed(id: &str, fault: Fault) -> Bytes {
    format!(r#"{{"id":{id},"error":{}}}"#, error(fault)).into()
}

/// What went wrong without having been asked for.
pub(super) fn told(fault: Fault) -> Bytes {
    format!(r#"{{"error":{}}}"#, error(fault)).into()
}

/// That a subscription has ended without having been asked to.
pub(super) fn unsubscribed(channel: &str, fault: Fault) -> Bytes {
    let mut text = br#"{"method":"unsubscribed","params":{"channel":"#.to_vec();
    push_json_string(channel, &mut text);
    text.extend_from_slice(format!(r#","error":{}}}}}"#, error(fault)).as_bytes());
    text.into()
}

pub(super) fn error(fault: Fault) -> String {
    format!(r#"{{"code":{},"message":"{}"}}"#, fault.code(), fault.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command_of(text: &str) -> Result<Command<'_>, Fault> {
        let asked = read(text);
        assert_eq!(asked.id, "1", "{text}");
        asked.command
    }

    #[test]
    fn commands_are_read() {
        let channel = || Cow::Borrowed("chat:lobby");
        let connect = r#"{"id": 1, "method": "connect", "params": {"token": "a.b.c"}}"#;
        assert_eq!(command_of(connect), Ok(Command::Connect { token: "a.b.c".into() }));
        let subscribe = r#"{ "params": { "channel": "chat:lobby" }, "method": "subscribe", "id": 1 }"#;
        assert_eq!(command_of(subscribe), Ok(Command::Subscribe { channel: channel() }));
        let unsubscribe =
            r#"{"id":1,"method":"unsubscribe","params":{"channel":"chat:lobby","more":[]},"more":{}}"#;
        assert_eq!(command_of(unsubscribe), Ok(Command::Unsubscribe { channel: channel() }));
        for params in ["", r#","params":null"#, r#","params":{}"#, r#","params":[1]"#] {
            assert_eq!(command_of(&format!(r#"{{"id":1,"method":"ping"{params}}}"#)), Ok(Command::Ping));
        }
        assert_eq!(command_of(r#"{"id":1,"method":"p\u0069ng"}"#), Ok(Command::Ping));
    }

    #[test]
    fn ids_are_numbers_and_strings_and_come_back_as_they_were_written() {
        for id in ["0", "-7", "1.50", "18446744073709551616", "1e3", r#""a b""#, r#""ö\n""#, r#""""#] {
            let text = format!(r#"{{"id": {id} , "method":"ping"}}"#);
            assert_eq!(read(&text), Asked { id, command: Ok(Command::Ping) });
            let answer: serde_json::Value = serde_json::from_slice(&done(id, "pong")).unwrap();
            assert_eq!(answer["id"], serde_json::from_str::<serde_json::Value>(id).unwrap());
        }
    }

    #[test]
    fn what_has_no_readable_id_is_answered_with_the_id_0() {
        let long = format!(r#"{{"id":"{}","method":"ping"}}"#, "x".repeat(limits::COMMAND_ID_BYTES));
        let deep = format!(r#"{{"id":{}1{},"method":"ping"}}"#, "[".repeat(5_000), "]".repeat(5_000));
        for text in [
            "",
            "ping",
            "null",
            "[]",
            "[1]",
            "{}",
            r#"{"id":null,"method":"ping"}"#,
            r#"{"id":true,"method":"ping"}"#,
            r#"{"id":{},"method":"ping"}"#,
            r#"{"id":[1],"method":"ping"}"#,
            r#"{"id":1,"id":2,"method":"ping"}"#,
            r#"{"id":1,"method":"ping"}{"id":2,"method":"ping"}"#,
            r#"{"id":1,"method":"ping""#,
            r#"{"id":01,"method":"ping"}"#,
            "{\"id\":\"\n\",\"method\":\"ping\"}",
            &long,
            &deep,
        ] {
            assert_eq!(read(text), Asked { id: "0", command: Err(Fault::BadCommand) }, "{text}");
        }
    }

    #[test]
    fn other_faults_are_answered_with_their_id() {
        let deep = format!(
            r#"{{"id":1,"method":"subscribe","params":{}1{}}}"#,
            "[".repeat(5_000),
            "]".repeat(5_000)
        );
        for text in [
            r#"{"id":1}"#,
            r#"{"id":1,"method":null}"#,
            r#"{"id":1,"method":1}"#,
            r#"{"id":1,"method":["ping"]}"#,
            r#"{"id":1,"method":"PING"}"#,
            r#"{"id":1,"method":"publish","params":{"channel":"chat:lobby","data":1}}"#,
            r#"{"id":1,"method":"connect"}"#,
            r#"{"id":1,"method":"connect","params":{"token":null}}"#,
            r#"{"id":1,"method":"connect","params":"a.b.c"}"#,
            r#"{"id":1,"method":"subscribe"}"#,
            r#"{"id":1,"method":"subscribe","params":{}}"#,
            r#"{"id":1,"method":"subscribe","params":{"channel":7}}"#,
            r#"{"id":1,"method":"subscribe","params":{"channel":"a","channel":"b"}}"#,
            r#"{"id":1,"method":"unsubscribe","params":[]}"#,
            &deep,
        ] {
            assert_eq!(command_of(text), Err(Fault::BadCommand), "{text}");
        }
    }

    #[test]
    fn answers_have_the_form_of_the_document() {
        assert_eq!(&done("1", "connected")[..], br#"{"id":1,"result":{"connected":true}}"#);
        assert_eq!(
            &failed("2", Fault::Forbidden)[..],
            br#"{"id":2,"error":{"code":403,"message":"forbidden"}}"#
        );
        assert_eq!(&told(Fault::Expired)[..], br#"{"error":{"code":401,"message":"token expired"}}"#);
        assert_eq!(
            &unsubscribed("a\"b", Fault::Forbidden)[..],
            br#"{"method":"unsubscribed","params":{"channel":"a\"b","error":{"code":403,"message":"forbidden"}}}"#
        );
    }
}
