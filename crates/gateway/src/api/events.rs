//! A stream of events, as it goes on.
//!
//! What is the same for all readers of a message is written once (`Encoding::Event`); each has his own line of where it lies
//! in the stream before that. A reader who is too slow for what is published misses some of it, and is told how much; one who
//! reads a stream of the bus is behind and misses nothing but what the stream drops.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};
use utoipa::ToSchema;
use whispeer::client::{Epoch, GapReason, Message, Subscription};
use whispeer::json::push_json_string;
use whispeer::proto::{Content, Encoding};
use whispeer::{BusError, Client};

use super::place::Place;
use super::written::{END, push_head, push_rest};
use super::{DIALECT, Failure};
use crate::limits;
use crate::message::{encoded, ends_sealed, is_content_sealed};
use crate::metrics::{OpenSocket, SocketCounts};
use crate::shared::{Shared, SocketPlace};
use crate::subscriptions::{Arrived, Subscriptions};

/// What streams of events are called where they are counted.
const SPOKEN: &str = "events";

/// One event: its fields, of which `data` is JSON as text.
#[derive(Serialize, ToSchema)]
pub(super) struct SentEvent {
    /// What has happened.
    event: EventName,
    /// JSON of one line: of a message `topic`, `payload`, `headers`, and of a stream's also `sequence` and `time`.
    data: String,
    /// Where the reader is in the streams of the patterns: `EPOCH-SEQUENCE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<String>,
    /// Milliseconds after which a browser comes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retry: Option<u64>,
}

/// What events are called.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum EventName {
    /// It has begun.
    Ready,
    /// A message.
    Message,
    /// Messages that were not delivered.
    Gap,
    /// It ends.
    End,
}

impl EventName {
    /// Begins an event.
    fn push(self, text: &mut Vec<u8>) {
        text.extend_from_slice(match self {
            Self::Ready => b"event: ready\n",
            Self::Message => b"event: message\n",
            Self::Gap => b"event: gap\n",
            Self::End => b"event: end\n",
        });
    }
}

/// How far a reader is in the stream of a pattern.
#[derive(Debug, Clone, Copy)]
pub(super) struct Followed {
    /// `None` where no stream keeps the pattern.
    pub(super) epoch: Option<Epoch>,
    /// The last sequence that he has seen.
    pub(super) seen: Option<u64>,
}

/// What a reader gets.
pub(super) struct Events {
    shared: Arc<Shared>,
    client: Arc<Client>,
    subscriptions: Subscriptions,
    followed: Vec<(Arc<str>, Followed)>,
    /// Messages that are still to come.
    left: u64,
    /// When it ends.
    until: Option<Instant>,
    /// When it gives a sign of life.
    next_sign: Instant,
    /// What is written next.
    text: Vec<u8>,
    has_ended: bool,
    counts: SocketCounts,
    _open: OpenSocket,
    _place: SocketPlace,
}

impl Events {
    pub(super) fn new(shared: Arc<Shared>, client: Arc<Client>, limit: u64, until: Option<Instant>) -> Self {
        let counts = shared.metrics.socket(SPOKEN);
        Self {
            client,
            subscriptions: Subscriptions::default(),
            followed: Vec::new(),
            left: limit,
            until,
            next_sign: Instant::now() + limits::API_EVENTS_INTERVAL,
            text: Vec::new(),
            has_ended: false,
            _open: counts.open(),
            counts,
            _place: shared.socket_place(),
            shared,
        }
    }

    /// Adds a subscription; `is_lost` tells that the stream is gone of which something was seen.
    pub(super) fn follow(
        &mut self,
        pattern: &str,
        subscription: Subscription<Arc<Content>>,
        followed: Followed,
        is_lost: bool,
    ) {
        self.subscriptions.insert(pattern, subscription);
        self.followed.push((pattern.into(), followed));
        if is_lost {
            self.write_gap(0, GapReason::Recreated.name());
        }
    }

    /// Says that it has begun, and from where a reader goes on who reads no further.
    pub(super) fn begin(&mut self) {
        let gaps = std::mem::take(&mut self.text);
        let retry = limits::API_EVENTS_RETRY.as_millis();
        self.text.extend_from_slice(format!("retry: {retry}\n").as_bytes());
        EventName::Ready.push(&mut self.text);
        self.write_id();
        self.text.extend_from_slice(b"data: {\"patterns\":[");
        for (index, (pattern, _)) in self.followed.iter().enumerate() {
            if index > 0 {
                self.text.push(b',');
            }
            push_json_string(pattern, &mut self.text);
        }
        self.text.extend_from_slice(b"]}\n\n");
        self.text.extend_from_slice(&gaps);
    }

    /// What is written next, and the rest; `None` at the end.
    ///
    /// # Cancel safety
    /// It takes all of it, so that with the future the stream ends.
    pub(super) async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.text.is_empty() {
            if self.has_ended {
                return None;
            }
            self.wait().await;
        }
        self.next_sign = Instant::now() + limits::API_EVENTS_INTERVAL;
        let text = std::mem::take(&mut self.text);
        Some((Ok(text.into()), self))
    }

    /// Waits until there is something to write.
    async fn wait(&mut self) {
        let until = self.until;
        let over = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
        };
        tokio::select! {
            arrived = self.subscriptions.next() => {
                self.write(arrived);
                self.take_ready();
            }
            () = self.shared.draining() => {
                self.take_ready();
                self.end("draining", "the gateway is draining; go elsewhere, or try again later");
            }
            () = over => {
                self.take_ready();
                self.end("duration", "it has lasted for as long as was asked for");
            }
            () = sleep_until(self.next_sign) => self.text.extend_from_slice(b": still here\n\n"),
        }
    }

    /// Writes what is there already, up to a bound.
    fn take_ready(&mut self) {
        while !self.has_ended
            && self.text.len() < limits::API_EVENTS_BYTES
            && let Some(arrived) = self.subscriptions.next().now_or_never()
        {
            self.write(arrived);
        }
    }

    fn write(&mut self, arrived: Arrived) {
        match arrived {
            Arrived::Message(pattern, message) => self.write_message(&pattern, &message),
            Arrived::Gap(count, reason) => self.write_gap(count, reason),
            Arrived::Ended(_, reason) => {
                let reason = reason.or_else(|| self.client.close_reason());
                let reason = reason.unwrap_or(BusError::Closed { what: "the subscription".into() });
                let failure = Failure::from(&reason);
                let code = failure.problem().code_name().unwrap_or("failed");
                self.end(code, &reason.to_string());
            }
        }
    }

    fn write_message(&mut self, pattern: &str, message: &Message<Arc<Content>>) {
        EventName::Message.push(&mut self.text);
        if let Some(position) = message.position {
            let followed = self.followed.iter_mut().find(|(followed, _)| **followed == *pattern);
            if let Some((_, followed)) = followed {
                followed.seen = Some(position.sequence);
            }
            self.write_id();
        }
        self.text.extend_from_slice(b"data: ");
        push_head(message.position, &mut self.text);
        let content = &message.value;
        let opener = self.shared.opener.as_ref();
        let rest = encoded(opener, content, Encoding::Event, || {
            let mut text = Vec::with_capacity(128 + 2 * content.payload().len());
            push_rest(opener, &message.topic, &message.headers, content.payload(), &mut text);
            text.extend_from_slice(b"\n\n");
            text.into()
        });
        self.text.extend_from_slice(&rest);
        let text = rest.strip_suffix(b"\n\n").and_then(|text| text.strip_suffix(END));
        if is_content_sealed(content) && text.is_some_and(|text| ends_sealed(text, content.payload())) {
            self.shared.metrics.sealed(DIALECT);
        }
        self.counts.sent.inc();
        self.left -= 1;
        if self.left == 0 {
            self.end("limit", "as many messages have come as were asked for");
        }
    }

    /// Writes how far the reader is in the streams of all patterns, if any of them has one.
    fn write_id(&mut self) {
        if self.followed.iter().all(|(_, followed)| followed.epoch.is_none() || followed.seen.is_none()) {
            return;
        }
        self.text.extend_from_slice(b"id: ");
        for (index, (_, Followed { epoch, seen })) in self.followed.iter().enumerate() {
            if index > 0 {
                self.text.push(b',');
            }
            match epoch.zip(*seen) {
                Some((epoch, sequence)) => Place { epoch, sequence }.push(&mut self.text),
                None => self.text.push(b'-'),
            }
        }
        self.text.push(b'\n');
    }

    fn write_gap(&mut self, count: u64, reason: &'static str) {
        self.shared.metrics.dropped(DIALECT, reason, count);
        EventName::Gap.push(&mut self.text);
        let data = format!("data: {{\"count\":{count},\"reason\":\"{reason}\"}}\n\n");
        self.text.extend_from_slice(data.as_bytes());
    }

    fn end(&mut self, code: &str, detail: &str) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        EventName::End.push(&mut self.text);
        self.text.extend_from_slice(b"data: {\"code\":");
        push_json_string(code, &mut self.text);
        self.text.extend_from_slice(b",\"detail\":");
        push_json_string(detail, &mut self.text);
        self.text.extend_from_slice(b"}\n\n");
    }
}
