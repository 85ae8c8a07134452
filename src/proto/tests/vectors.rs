//! The vectors of docs/protocol-vectors.json, checked both ways.

use std::time::Duration;

use serde_json::{Value, json};

use super::kinds;
use crate::proto::fields::{
    Attempt, DeliveryRules, Due, Field, FieldsBuilder, GapReason, MessageId, Policy, Position, Quality,
    ServeMode, Start, decode_gap, encode_gap, iterate, well_formed,
};
use crate::proto::{
    Capabilities, ErrorCode, Flags, HEADER_LEN, Header, Hello, Kind, Layout, MalformedFrame, Refusal, Resume,
    ResumeToken, Shown, Welcome,
};

const POLICIES: [Policy; 4] = [Policy::Block, Policy::DropOldest, Policy::DropNewest, Policy::Disconnect];

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../docs/protocol-vectors.json")).unwrap()
}

fn section(name: &str) -> Vec<Value> {
    let vectors = vectors()[name].as_array().unwrap().clone();
    assert!(!vectors.is_empty(), "no vectors in {name}");
    vectors
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is no text in {value}"))
}

/// A number, or a decimal string for those of 64 bits.
fn number<T: TryFrom<u64>>(value: &Value, key: &str) -> T {
    let number = match &value[key] {
        Value::String(text) => text.parse().unwrap(),
        other => other.as_u64().unwrap_or_else(|| panic!("{key} is no number in {value}")),
    };
    T::try_from(number).unwrap_or_else(|_| panic!("{key} is too large in {value}"))
}

fn bytes(value: &Value, key: &str) -> Vec<u8> {
    let digits = text(value, key).as_bytes();
    assert!(digits.len().is_multiple_of(2), "{key} of {value}");
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn millis(value: &Value, key: &str) -> Duration {
    Duration::from_millis(number(value, key))
}

/// `SlowConsumer` as `SLOW_CONSUMER`.
fn upper(name: &str) -> String {
    let mut upper = String::new();
    for (at, character) in name.char_indices() {
        if at > 0 && character.is_ascii_uppercase() {
            upper.push('_');
        }
        upper.push(character.to_ascii_uppercase());
    }
    upper
}

fn kind(name: &str) -> Kind {
    kinds()
        .into_iter()
        .find(|kind| upper(&format!("{kind:?}")) == name)
        .unwrap_or_else(|| panic!("kind {name}"))
}

fn push_field(builder: &mut FieldsBuilder, field: &Value) {
    match text(field, "type") {
        "header" => builder.header(text(field, "name"), text(field, "value")),
        "origin" => builder.origin(number(field, "bus")),
        "window" => builder.window(number(field, "messages"), number(field, "bytes")),
        "policy" => {
            let name = text(field, "policy");
            builder.policy(POLICIES.into_iter().find(|policy| policy.name() == name).unwrap())
        }
        "group" => builder.group(text(field, "name")),
        "block_limit" => builder.block_limit(millis(field, "milliseconds")),
        "deadline" => builder.deadline(Duration::from_micros(number(field, "microseconds"))),
        "topic" => builder.topic(text(field, "topic")),
        "mode" => builder.mode(if field["mode"] == "join" { ServeMode::Join } else { ServeMode::TakeOver }),
        "quality" => builder.quality(match text(field, "quality") {
            "at-most-once" => Quality::AtMostOnce,
            "at-least-once" => Quality::AtLeastOnce,
            _ => Quality::ExactlyOnce,
        }),
        "start" => {
            let number = number(field, "number");
            builder.start(match text(field, "start") {
                "new" => Start::New,
                "last" => Start::Last(number),
                "last-per-topic" => Start::LastPerTopic,
                "all" => Start::All,
                "from" => Start::From(number),
                _ => Start::Since(number),
            })
        }
        "position" => {
            let replayed = field["replayed"] == true;
            builder.position(Position::new(number(field, "sequence"), number(field, "time"), replayed))
        }
        "consumer" => builder.consumer(text(field, "consumer")),
        "delivery" => {
            let (max_deliver, max_pending) = (number(field, "max_deliver"), number(field, "max_pending"));
            builder.delivery(DeliveryRules { ack_wait: millis(field, "ack_wait"), max_deliver, max_pending })
        }
        "attempt" => {
            let redelivered = field["redelivered"] == true;
            builder.attempt(Attempt::new(number(field, "token"), number(field, "number"), redelivered))
        }
        "message_id" => {
            let publisher = bytes(field, "publisher_hex").try_into().unwrap();
            builder.message_id(MessageId::new(publisher, number(field, "number")))
        }
        "epoch" => builder.epoch(bytes(field, "epoch_hex").try_into().unwrap()),
        "limit" => builder.limit(number(field, "messages"), number(field, "bytes")),
        "expires" => builder.expires(millis(field, "milliseconds")),
        "deliver_at" => {
            let millis = number(field, "milliseconds");
            builder.deliver_at(match text(field, "from") {
                "now" => Due::In(Duration::from_millis(millis)),
                _ => Due::At(millis),
            })
        }
        "unknown" => {
            let value = bytes(field, "value_hex");
            let length = u16::try_from(value.len()).unwrap().to_le_bytes();
            builder.append(&[&[number(field, "tag")], &length[..], &value].concat())
        }
        other => panic!("field {other}"),
    }
    .unwrap();
}

fn encode_fields(fields: &Value) -> Vec<u8> {
    let mut builder = FieldsBuilder::new();
    for field in fields.as_array().unwrap() {
        push_field(&mut builder, field);
    }
    builder.finish()
}

/// The fields as the vectors describe them, but for the bytes of unknown ones.
fn describe_fields(section: &[u8]) -> Value {
    assert!(well_formed(section), "{section:?}");
    iterate(section)
        .map(|field| match field {
            Field::Header { name, value } => json!({"type": "header", "name": name, "value": value}),
            Field::Origin(bus) => json!({"type": "origin", "bus": bus.to_string()}),
            Field::Window { messages, bytes } => {
                json!({"type": "window", "messages": messages, "bytes": bytes.to_string()})
            }
            Field::Policy(policy) => json!({"type": "policy", "policy": policy.name()}),
            Field::Group(name) => json!({"type": "group", "name": name}),
            Field::BlockLimit(limit) => {
                json!({"type": "block_limit", "milliseconds": u64::try_from(limit.as_millis()).unwrap()})
            }
            Field::Deadline(left) => {
                json!({"type": "deadline", "microseconds": left.as_micros().to_string()})
            }
            Field::Topic(topic) => json!({"type": "topic", "topic": topic}),
            Field::Mode(ServeMode::Join) => json!({"type": "mode", "mode": "join"}),
            Field::Mode(ServeMode::TakeOver) => json!({"type": "mode", "mode": "take-over"}),
            Field::Quality(Quality::AtMostOnce) => json!({"type": "quality", "quality": "at-most-once"}),
            Field::Quality(Quality::ExactlyOnce) => json!({"type": "quality", "quality": "exactly-once"}),
            Field::Quality(Quality::AtLeastOnce) => json!({"type": "quality", "quality": "at-least-once"}),
            Field::Start(start) => {
                let (name, number) = match start {
                    Start::New => ("new", 0),
                    Start::Last(count) => ("last", count),
                    Start::LastPerTopic => ("last-per-topic", 0),
                    Start::All => ("all", 0),
                    Start::From(sequence) => ("from", sequence),
                    Start::Since(time) => ("since", time),
                };
                json!({"type": "start", "start": name, "number": number.to_string()})
            }
            Field::Position(Position { sequence, time, replayed, .. }) => {
                let (sequence, time) = (sequence.to_string(), time.to_string());
                json!({"type": "position", "sequence": sequence, "time": time, "replayed": replayed})
            }
            Field::Consumer(name) => json!({"type": "consumer", "consumer": name}),
            Field::Delivery(DeliveryRules { ack_wait, max_deliver, max_pending, .. }) => {
                let ack_wait = u64::try_from(ack_wait.as_millis()).unwrap();
                json!({
                    "type": "delivery", "ack_wait": ack_wait, "max_deliver": max_deliver, "max_pending": max_pending
                })
            }
            Field::Attempt(Attempt { token, number, redelivered, .. }) => {
                let token = token.to_string();
                json!({"type": "attempt", "token": token, "number": number, "redelivered": redelivered})
            }
            Field::MessageId(MessageId { publisher, number, .. }) => {
                let hex: String = publisher.iter().map(|byte| format!("{byte:02x}")).collect();
                json!({"type": "message_id", "publisher_hex": hex, "number": number.to_string()})
            }
            Field::Epoch(epoch) => {
                let hex: String = epoch.iter().map(|byte| format!("{byte:02x}")).collect();
                json!({"type": "epoch", "epoch_hex": hex})
            }
            Field::Limit { messages, bytes } => {
                json!({"type": "limit", "messages": messages, "bytes": bytes.to_string()})
            }
            Field::Expires(left) => {
                json!({"type": "expires", "milliseconds": u64::try_from(left.as_millis()).unwrap()})
            }
            Field::DeliverAt(due) => {
                let (from, millis) = match due {
                    Due::In(left) => ("now", u64::try_from(left.as_millis()).unwrap()),
                    Due::At(time) => ("1970", time),
                };
                json!({"type": "deliver_at", "from": from, "milliseconds": millis.to_string()})
            }
            Field::Unknown(tag) => json!({"type": "unknown", "tag": tag}),
        })
        .collect()
}

fn without_values(fields: &Value) -> Value {
    let mut fields = fields.clone();
    for field in fields.as_array_mut().unwrap() {
        field.as_object_mut().unwrap().remove("value_hex");
    }
    fields
}

/// Checks each vector of a section: `decode` gives what is described, and `encode` the bytes.
fn check<T: PartialEq + std::fmt::Debug>(
    name: &str,
    value: impl Fn(&Value) -> T,
    decode: impl Fn(&[u8]) -> T,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    for vector in section(name) {
        let (described, encoded) = (value(&vector["value"]), bytes(&vector, "bytes_hex"));
        assert_eq!(decode(&encoded), described, "{}", vector["name"]);
        if vector["decode_only"] != true {
            assert_eq!(hex(&encode(&described)), hex(&encoded), "{}", vector["name"]);
        }
    }
}

fn reason(malformed: &MalformedFrame) -> &'static str {
    match malformed {
        MalformedFrame::TooShort(_) => "too_short",
        MalformedFrame::TooLong { .. } => "too_long",
        MalformedFrame::Parts { .. } => "parts",
        MalformedFrame::Reserved(_) => "reserved",
        MalformedFrame::UnknownKind(_) => "unknown_kind",
        MalformedFrame::Content(what) if what.contains("begin") => "magic",
        MalformedFrame::Content(_) => "cut_off",
    }
}

#[test]
fn frames_read_and_write_as_in_the_vectors() {
    let limit = number(&vectors(), "frame_limit");
    for vector in section("frames") {
        let (name, frame, encoded) = (&vector["name"], &vector["frame"], bytes(&vector, "bytes_hex"));
        let layout = Layout::decode(&encoded, limit).unwrap().unwrap();
        assert_eq!(layout.total, encoded.len(), "{name}");
        let header = Header {
            kind: kind(text(frame, "kind")),
            flags: Flags(number(frame, "flags")),
            id: number(frame, "id"),
            sequence: number(frame, "sequence"),
        };
        assert_eq!(layout.header, header, "{name}");
        let (fields, rest) = encoded[HEADER_LEN..].split_at(layout.fields);
        let (topic, payload) = rest.split_at(layout.topic);
        assert_eq!(describe_fields(fields), without_values(&frame["fields"]), "{name}");
        assert_eq!(std::str::from_utf8(topic).unwrap(), text(frame, "topic"), "{name}");
        assert_eq!(payload, bytes(frame, "payload_hex"), "{name}");

        let fields = encode_fields(&frame["fields"]);
        let (topic, payload) = (text(frame, "topic").as_bytes(), bytes(frame, "payload_hex"));
        let mut written = header.encode(fields.len(), topic.len(), payload.len()).to_vec();
        written.extend([&fields, topic, &payload].concat());
        assert_eq!(hex(&written), hex(&encoded), "{name}");
    }
}

#[test]
fn the_vectors_have_every_kind_of_frame_and_every_code() {
    let frames = section("frames");
    for kind in kinds() {
        let name = upper(&format!("{kind:?}"));
        assert!(frames.iter().any(|vector| vector["frame"]["kind"] == name), "{name}");
    }
    let refusals = section("refusals");
    for code in ErrorCode::ALL {
        let name = upper(&format!("{code:?}"));
        assert!(refusals.iter().any(|vector| vector["value"]["code"] == name), "{name}");
    }
}

#[test]
fn handshakes_read_and_write_as_in_the_vectors() {
    let token = |value: &Value| ResumeToken::new(bytes(value, "token_hex").try_into().unwrap());
    let hello = |value: &Value| Hello {
        min_version: number(value, "min_version"),
        max_version: number(value, "max_version"),
        capabilities: Capabilities(number(value, "capabilities")),
        keep_alive: millis(value, "keep_alive_ms"),
        name: text(value, "name").to_owned(),
        resume: value["resume"].is_object().then(|| Resume {
            session: number(&value["resume"], "session"),
            token: token(&value["resume"]),
            received: number(&value["resume"], "received"),
        }),
        credentials: match &value["credentials"] {
            Value::Null => None,
            shown if shown["token"].is_string() => Some(Shown::Token(text(shown, "token").to_owned().into())),
            shown => Some(Shown::Password(
                text(shown, "user").to_owned(),
                text(shown, "password").to_owned().into(),
            )),
        },
    };
    check("hello", hello, |payload| Hello::decode(payload).unwrap(), Hello::encode);
    let welcome = |value: &Value| Welcome {
        version: number(value, "version"),
        capabilities: Capabilities(number(value, "capabilities")),
        bus: number(value, "bus"),
        session: number(value, "session"),
        resume_token: token(value),
        resumed: value["resumed"] == true,
        frame_limit: number(value, "frame_limit"),
        keep_alive: millis(value, "keep_alive_ms"),
        block_limit: millis(value, "block_limit_ms"),
        publish_window: (number(value, "publish_messages"), number(value, "publish_bytes")),
        max_subscriptions: number(value, "subscriptions"),
        max_requests: number(value, "requests"),
        received: number(value, "received"),
    };
    check("welcome", welcome, |payload| Welcome::decode(payload).unwrap(), Welcome::encode);
}

#[test]
fn refusals_read_and_write_as_in_the_vectors() {
    let refusal = |value: &Value| {
        let name = text(value, "code");
        let code = ErrorCode::ALL.into_iter().find(|code| upper(&format!("{code:?}")) == name).unwrap();
        Refusal::new(code, text(value, "text"))
    };
    check("refusals", refusal, |payload| Refusal::decode(payload).unwrap(), Refusal::encode);
}

#[test]
fn gaps_read_and_write_as_in_the_vectors() {
    let gap = |value: &Value| {
        let name = text(value, "reason");
        (number(value, "count"), GapReason::ALL.into_iter().find(|reason| reason.name() == name).unwrap())
    };
    check(
        "gaps",
        gap,
        |payload| decode_gap(payload).unwrap(),
        |(count, reason)| encode_gap(*count, *reason).to_vec(),
    );
}

#[test]
fn fields_read_and_write_as_in_the_vectors() {
    for vector in section("fields") {
        let encoded = bytes(&vector, "bytes_hex");
        assert_eq!(describe_fields(&encoded), without_values(&vector["value"]), "{}", vector["name"]);
        if vector["decode_only"] != true {
            assert_eq!(hex(&encode_fields(&vector["value"])), hex(&encoded), "{}", vector["name"]);
        }
    }
}

#[test]
fn what_the_vectors_call_malformed_is_refused_for_that_reason() {
    for vector in section("malformed_frames") {
        let refused = Layout::decode(&bytes(&vector, "bytes_hex"), number(&vector, "limit")).unwrap_err();
        assert_eq!(reason(&refused), vector["reason"], "{}", vector["name"]);
    }
    for vector in section("malformed_payloads") {
        let payload = bytes(&vector, "bytes_hex");
        let refused = match text(&vector, "section") {
            "hello" => Hello::decode(&payload).unwrap_err(),
            "welcome" => Welcome::decode(&payload).unwrap_err(),
            "refusals" => Refusal::decode(&payload).unwrap_err(),
            "gaps" => decode_gap(&payload).unwrap_err(),
            _ => {
                assert!(!well_formed(&payload), "{}", vector["name"]);
                continue;
            }
        };
        assert_eq!(reason(&refused), vector["reason"], "{}", vector["name"]);
    }
}

#[test]
fn what_the_vectors_call_incomplete_waits_for_more() {
    let limit = number(&vectors(), "frame_limit");
    for vector in section("incomplete_frames") {
        let arrived = bytes(&vector, "bytes_hex");
        let layout = Layout::decode(&arrived, limit).unwrap();
        assert!(layout.is_none_or(|layout| layout.total > arrived.len()), "{}", vector["name"]);
    }
}
