//! What buses tell each other about requests, as messages of NATS. docs/PROTOCOL.md has it for others.

use std::time::Duration;

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use whispeer::BusError;
use whispeer::ErrorReply;
use whispeer::limits::{STREAM_WINDOW, WINDOW_BYTES};
use whispeer::proto::{Flags, Refusal};
use whispeer::topic::{Topic, TopicPattern};

use crate::headers::{self, Malformed};
use crate::limits;
use crate::members::{read_id, written};

/// The bus that a message is of, and its connection: its id and a number, with a space between them.
const ORIGIN: &str = "Whispeer-Origin";
/// Microseconds that are left for the answer.
const DEADLINE: &str = "Whispeer-Deadline";
/// That several replies are taken, and in which window: messages and bytes.
const STREAM: &str = "Whispeer-Stream";
/// What a reply is.
const REPLY: &str = "Whispeer-Reply";
/// The pattern that was asked, where that is not the topic.
const TOPIC: &str = "Whispeer-Topic";
/// Replies of the stream before this one.
const NUMBER: &str = "Whispeer-Number";
/// The bus that a request is of that another one is told about.
const OF: &str = "Whispeer-Of";
/// That nobody waits for it any more: its number there.
const CANCEL: &str = "Whispeer-Cancel";
/// That replies were taken: its number there, and how many.
const CREDIT: &str = "Whispeer-Credit";

/// That another bus wants to serve a topic in place of this one; the payload is the topic.
const RELEASE: &str = "Whispeer-Release";

/// The headers by which services of NATS say that they have failed.
const SERVICE_ERROR: &str = "Nats-Service-Error";
const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";

/// The tags of fields that buses write anew: the origin, the window, the deadline and the topic that is meant by a pattern.
const REWRITTEN: [u8; 4] = [2, 3, 7, 8];

/// A bus, and which of its connections to NATS it has. What it had with an earlier one is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) bus: u64,
    pub(super) epoch: u64,
}

impl Origin {
    fn written(self) -> String {
        format!("{} {}", written(self.bus), self.epoch)
    }

    fn read(headers: &HeaderMap) -> Result<Option<Self>, Malformed> {
        let Some(origin) = headers.get(ORIGIN) else { return Ok(None) };
        let parts = origin.as_str().split_once(' ');
        let read =
            parts.and_then(|(bus, epoch)| Some(Self { bus: read_id(bus)?, epoch: epoch.parse().ok()? }));
        read.map(Some).ok_or(Malformed("Whispeer-Origin is no bus"))
    }
}

/// A message for NATS.
#[derive(Debug, Clone)]
pub(super) struct Publish {
    pub(super) subject: String,
    pub(super) reply: Option<String>,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

impl Publish {
    /// The message that it is where it arrives.
    pub(super) fn arrived(self) -> Message {
        let length = self.size();
        Message {
            subject: self.subject.into(),
            reply: self.reply.map(Into::into),
            payload: self.payload,
            headers: Some(self.headers),
            status: None,
            description: None,
            length,
        }
    }

    /// Bytes that it takes, as NATS counts them.
    pub(super) fn size(&self) -> usize {
        let headers = self.headers.iter().flat_map(|(name, values)| {
            let name = AsRef::<str>::as_ref(name).len();
            values.iter().map(move |value| name + value.as_str().len() + limits::HEADER_OVERHEAD)
        });
        headers.sum::<usize>() + limits::HEADER_OVERHEAD + self.payload.len()
    }
}

/// A request of another bus, or of somebody who has nothing but NATS.
#[derive(Debug)]
pub(super) struct Request {
    /// The bus, and its number of the request; `None` for others.
    pub(super) from: Option<(Origin, u64)>,
    /// `None` where nothing is said of it.
    pub(super) left: Option<Duration>,
    pub(super) window: Option<(u32, u64)>,
    /// The pattern that was asked, where that is not the topic.
    pub(super) pattern: Option<TopicPattern>,
    pub(super) fields: Vec<u8>,
}

/// What came as an answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// The bus that it is of; `None` for a service that has nothing but NATS.
    pub(super) from: Option<Origin>,
    pub(super) said: Said,
}

#[derive(Debug)]
pub(super) enum Said {
    /// The bus has it and works on it.
    Accepted,
    /// A reply, behind so many others.
    Reply { flags: Flags, number: u64, fields: Vec<u8>, payload: Bytes },
    /// The bus has not given it to any server, and does not: why.
    NotTaken(BusError),
    /// Nobody is subscribed.
    NoResponders,
}

/// What a bus is told of a request that it works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    /// Nobody waits for it any more.
    Cancel { from: u64, number: u64 },
    /// So many more replies may come.
    Credit { from: u64, number: u64, messages: u32 },
}

/// What is asked of a server at another bus.
pub(super) struct Asked {
    /// The window, where several replies are taken.
    pub(super) window: Option<(u32, u64)>,
    /// The pattern that was asked, where that is not the topic.
    pub(super) pattern: Option<TopicPattern>,
    /// Those of the `ASK`.
    pub(super) fields: Bytes,
    pub(super) payload: Bytes,
}

/// A request for the servers at other buses.
pub(super) fn request(
    subject: String,
    reply: String,
    origin: Origin,
    left: Duration,
    asked: &Asked,
) -> Publish {
    let mut headers = HeaderMap::new();
    headers.insert(ORIGIN, origin.written());
    headers.insert(DEADLINE, left.as_micros().to_string());
    if let Some((messages, bytes)) = asked.window {
        headers.insert(STREAM, format!("{messages},{bytes}"));
    }
    if let Some(pattern) = &asked.pattern {
        headers.insert(TOPIC, pattern.as_str());
    }
    headers::write(&without_rewritten(&asked.fields), &mut headers);
    Publish { subject, reply: Some(reply), headers, payload: asked.payload.clone() }
}

/// Reads a request to this topic. A message without [`ORIGIN`] is one of somebody who has nothing but NATS.
pub(super) fn read_request(topic: &Topic, message: &Message) -> Result<Request, Malformed> {
    let none = HeaderMap::new();
    let there = message.headers.as_ref().unwrap_or(&none);
    let fields = without_rewritten(&headers::read(there)?);
    let left = match there.get(DEADLINE) {
        Some(left) => {
            let microseconds =
                left.as_str().parse().map_err(|_| Malformed("Whispeer-Deadline is no number"))?;
            Some(Duration::from_micros(microseconds))
        }
        None => None,
    };
    let pattern = match there.get(TOPIC) {
        Some(text) => {
            let pattern = TopicPattern::new(text.as_str());
            let pattern = pattern.map_err(|_| Malformed("Whispeer-Topic is no pattern"))?;
            Some(pattern).filter(|pattern| pattern.meets(&topic.clone().into()))
        }
        None => None,
    };
    let Some(origin) = Origin::read(there)? else {
        return Ok(Request { from: None, left, window: None, pattern, fields });
    };
    let number = message.reply.as_ref().and_then(|reply| number_of(reply));
    let number = number.ok_or(Malformed("its reply subject does not end with a number"))?;
    let window = there.get(STREAM).map(|window| read_window(window.as_str())).transpose()?;
    Ok(Request { from: Some((origin, number)), left, window, pattern, fields })
}

fn read_window(text: &str) -> Result<(u32, u64), Malformed> {
    let numbers = text
        .split_once(',')
        .and_then(|(messages, bytes)| Some((messages.parse().ok()?, bytes.parse().ok()?)));
    let window = numbers.ok_or(Malformed("Whispeer-Stream is no window"))?;
    Ok(if window == (0, 0) { (STREAM_WINDOW, WINDOW_BYTES) } else { window })
}

/// The number of a request, which is the last token of the subject of its replies.
pub(super) fn number_of(subject: &str) -> Option<u64> {
    subject.rsplit('.').next()?.parse().ok()
}

/// That a bus has a request and works on it.
pub(super) fn accepted(subject: String, by: Origin) -> Publish {
    let mut headers = HeaderMap::new();
    headers.insert(ORIGIN, by.written());
    headers.insert(REPLY, "accepted");
    Publish { subject, reply: None, headers, payload: Bytes::new() }
}

/// That a bus has given a request to none of its servers, so that another bus may be asked.
pub(super) fn not_taken(subject: String, by: Origin, error: &BusError) -> Publish {
    let mut headers = HeaderMap::new();
    headers.insert(ORIGIN, by.written());
    headers.insert(REPLY, "not-taken");
    Publish { subject, reply: None, headers, payload: Refusal::from(error).encode().into() }
}

/// A reply to a bus.
pub(super) fn reply(
    subject: String,
    by: Origin,
    flags: Flags,
    number: u64,
    fields: &[u8],
    payload: Bytes,
) -> Publish {
    let mut headers = HeaderMap::new();
    headers.insert(ORIGIN, by.written());
    let (end, error) = (flags.contains(Flags::END), flags.contains(Flags::ERROR));
    let what = match (flags.contains(Flags::MORE), end, error) {
        (true, _, _) => "part",
        (false, true, true) => "end-error",
        (false, true, false) => "end",
        (false, false, true) => "error",
        (false, false, false) => "last",
    };
    headers.insert(REPLY, what);
    headers.insert(NUMBER, number.to_string());
    headers::write(fields, &mut headers);
    Publish { subject, reply: None, headers, payload }
}

/// A reply to somebody who has nothing but NATS: its payload, or what services of NATS say when they fail.
pub(super) fn plain_reply(subject: String, flags: Flags, fields: &[u8], payload: Bytes) -> Publish {
    let mut headers = HeaderMap::new();
    if !flags.contains(Flags::ERROR) {
        headers::write(fields, &mut headers);
        return Publish { subject, reply: None, headers, payload };
    }
    let (code, text) = match Refusal::decode(&payload).map(Refusal::into_error) {
        Ok(BusError::Replied(reply)) => (reply.code().to_owned(), reply.message().to_owned()),
        Ok(error) => ((Refusal::from(&error).code as u16).to_string(), error.to_string()),
        // It was sealed for a requester who has engines.
        Err(_) => ("500".to_owned(), "an error that cannot be read".to_owned()),
    };
    headers.insert(SERVICE_ERROR_CODE, one_line(&code));
    headers.insert(SERVICE_ERROR, one_line(&text));
    Publish { subject, reply: None, headers, payload: Bytes::new() }
}

fn one_line(text: &str) -> String {
    text.replace(|letter: char| letter.is_control(), " ")
}

/// Reads what came on the subject of a request's replies.
pub(super) fn read_answer(message: Message) -> Result<Answer, Malformed> {
    if message.status.is_some_and(|status| status == async_nats::StatusCode::NO_RESPONDERS) {
        return Ok(Answer { from: None, said: Said::NoResponders });
    }
    let there = message.headers.unwrap_or_default();
    let fields = headers::read(&there)?;
    let payload = message.payload;
    let Some(what) = there.get(REPLY) else {
        let said = match there.get(SERVICE_ERROR_CODE) {
            Some(code) => {
                let text = there.get(SERVICE_ERROR).map(|text| text.as_str().to_owned()).unwrap_or_default();
                let error = BusError::Replied(ErrorReply::new(code.as_str(), text));
                let payload = Refusal::from(&error).encode().into();
                Said::Reply { flags: Flags::ERROR, number: 0, fields, payload }
            }
            None => Said::Reply { flags: Flags::NONE, number: 0, fields, payload },
        };
        return Ok(Answer { from: None, said });
    };
    let from = Some(Origin::read(&there)?.ok_or(Malformed("there is no Whispeer-Origin"))?);
    let flags = match what.as_str() {
        "accepted" => return Ok(Answer { from, said: Said::Accepted }),
        "not-taken" => {
            let error = Refusal::decode(&payload).map_err(|_| Malformed("not-taken says no reason"))?;
            return Ok(Answer { from, said: Said::NotTaken(error.into_error()) });
        }
        "part" => Flags::MORE,
        "last" => Flags::NONE,
        "end" => Flags::END,
        "error" => Flags::ERROR,
        "end-error" => Flags::END.with(Flags::ERROR),
        _ => return Err(Malformed("Whispeer-Reply is nothing known")),
    };
    let number = there.get(NUMBER).and_then(|number| number.as_str().parse().ok());
    let number = number.ok_or(Malformed("Whispeer-Number is no number"))?;
    Ok(Answer { from, said: Said::Reply { flags, number, fields, payload } })
}

/// Tells a bus something of a request.
pub(super) fn control(subject: String, control: Control) -> Publish {
    let mut headers = HeaderMap::new();
    let from = match control {
        Control::Cancel { from, number } => {
            headers.insert(CANCEL, number.to_string());
            from
        }
        Control::Credit { from, number, messages } => {
            headers.insert(CREDIT, format!("{number},{messages}"));
            from
        }
    };
    headers.insert(OF, written(from));
    Publish { subject, reply: None, headers, payload: Bytes::new() }
}

/// Asks a bus to release a topic that it is the only one to serve.
pub(super) fn release(subject: String, by: u64, topic: &Topic) -> Publish {
    let mut headers = HeaderMap::new();
    headers.insert(RELEASE, written(by));
    Publish { subject, reply: None, headers, payload: Bytes::copy_from_slice(topic.as_str().as_bytes()) }
}

/// Reads which topic a bus is asked to release.
pub(super) fn read_release(message: &Message) -> Option<Topic> {
    read_id(message.headers.as_ref()?.get(RELEASE)?.as_str())?;
    Topic::from_utf8(&message.payload).ok()
}

/// Whether these are the headers of what a bus is told of a request.
pub(super) fn is_control(headers: &HeaderMap) -> bool {
    headers.get(OF).is_some()
}

/// Reads what a bus is told of a request.
pub(super) fn read_control(message: &Message) -> Option<Control> {
    let there = message.headers.as_ref()?;
    let from = read_id(there.get(OF)?.as_str())?;
    if let Some(number) = there.get(CANCEL) {
        return Some(Control::Cancel { from, number: number.as_str().parse().ok()? });
    }
    let (number, messages) = there.get(CREDIT)?.as_str().split_once(',')?;
    Some(Control::Credit { from, number: number.parse().ok()?, messages: messages.parse().ok()? })
}

/// A section without what the next bus writes itself.
fn without_rewritten(fields: &[u8]) -> Vec<u8> {
    let kept = headers::divide(fields).filter(|field| !REWRITTEN.contains(&field.tag));
    kept.flat_map(|field| field.whole).copied().collect()
}
