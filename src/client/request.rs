//! Requests.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Client;
use super::codec::{
    Body, Encoder, decode_answer, decode_bytes, decode_typed, wire_pattern, wire_topic, with_encoded,
};
use super::inbox::Inbox;
use super::options::{ManyOptions, RequestOptions};
use super::protocol::RequestProtocol;
use super::sealing::Outgoing;
use super::shared::{Call, Many, Shared};
use super::stream::Answers;
use crate::engine::{EngineError, MessageKind, sealed_by};
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::{ContentRef, Credit, Flags, Header, Kind, Payload};
use crate::topic::Topic;

/// Bytes of a request's field section that are left to the bus, which adds the deadline.
const BUS_FIELDS: usize = 64;

/// A request that is not answered yet; dropping it cancels it at the bus and the server.
pub(super) struct Pending {
    shared: Arc<Shared>,
    id: u32,
}

impl Pending {
    pub(super) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.shared.cancel_request(self.id);
    }
}

/// When a request gives up, and how long that was from its beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) until: Instant,
    after: Duration,
}

impl Patience {
    pub(super) fn timed_out(&self, topic: &str) -> BusError {
        BusError::TimedOut { what: format!("the request to \"{topic}\""), after: self.after }
    }
}

impl Client {
    /// Asks the server of `topic` and waits for its answer.
    ///
    /// # Errors
    /// [`BusError::InvalidTopic`], [`BusError::Encode`] and [`BusError::FrameTooLarge`] before
    /// anything is sent; [`BusError::NoServer`], [`BusError::TimedOut`] (after 30 s unless the client
    /// was built otherwise), [`BusError::Abandoned`], [`BusError::ServerGone`],
    /// [`BusError::Overloaded`] as outcomes; [`BusError::Replied`] for an error that the server
    /// answered with; [`BusError::Decode`] for an answer of another type; or why the connection ended.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request; the server can see that.
    ///
    /// # Examples
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// use whispeer::prelude::*;
    ///
    /// # #[derive(Debug, Clone, Serialize, Deserialize)]
    /// # struct HelloRequest(String);
    /// # #[derive(Debug, Clone, Serialize, Deserialize)]
    /// # struct HelloResponse(String);
    /// # impl RequestProtocol for HelloRequest {
    /// #     type Rsp = HelloResponse;
    /// #     fn prefix() -> &'static str { "hello" }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let server = Client::new_memory(&connector)?;
    /// let _handling = server
    ///     .handle("", |request: HelloRequest| async move { Ok(HelloResponse(format!("Hello {}", request.0))) })
    ///     .await?;
    ///
    /// let client = Client::new_memory(&connector)?;
    /// let response = client.request("", &HelloRequest("Alice".into())).await?;
    /// assert_eq!(response.0, "Hello Alice");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn request<R: RequestProtocol>(&self, topic: &str, request: &R) -> BusResult<R::Rsp> {
        self.request_with(topic, request, RequestOptions::default()).await
    }

    /// Asks with a timeout of its own, or with headers.
    ///
    /// # Errors
    /// As [`request`](Self::request), and [`BusError::HeadersTooLarge`].
    ///
    /// # Cancel safety
    /// As [`request`](Self::request).
    pub async fn request_with<R: RequestProtocol>(
        &self,
        topic: &str,
        request: &R,
        options: RequestOptions,
    ) -> BusResult<R::Rsp> {
        let topic = wire_topic(R::prefix(), topic)?;
        let answer = self.request_raw(&topic, &options, Encoder::typed(R::weight), request).await?;
        Ok(decode_answer(&answer, &topic)?)
    }

    /// Asks the server of a whole topic with bytes as they are.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    ///
    /// # Cancel safety
    /// As [`request`](Self::request).
    pub async fn request_bytes(&self, topic: &str, payload: Bytes) -> BusResult<Bytes> {
        self.request_bytes_with(topic, payload, RequestOptions::default()).await
    }

    /// [`request_bytes`](Self::request_bytes) with options.
    ///
    /// # Errors
    /// As [`request_with`](Self::request_with).
    ///
    /// # Cancel safety
    /// As [`request`](Self::request).
    pub async fn request_bytes_with(
        &self,
        topic: &str,
        payload: Bytes,
        options: RequestOptions,
    ) -> BusResult<Bytes> {
        let topic = wire_topic("", topic)?;
        let answer = self.request_raw(&topic, &options, Encoder::bytes(), &payload).await?;
        Ok(answer.as_bytes().clone())
    }

    /// Asks one server of each topic that meets `pattern`, and gathers their answers until all have
    /// answered, the wanted number has, or the deadline passes. What came until then is returned, in
    /// the order of arrival, each with the topic that was served.
    ///
    /// Nobody serving such a topic is no error: the result is then empty. Where the bus is joined to others, their servers are
    /// asked as well, each topic once and at this bus first.
    ///
    /// # Errors
    /// As [`request`](Self::request) for what concerns the whole; what concerns one server stands in
    /// its place among the answers, and so does what concerns all of those at other buses, such as
    /// [`BusError::LimitReached`] where there are more topics than one request reaches.
    ///
    /// # Cancel safety
    /// Dropping the future cancels what is not answered; answers gathered so far are lost.
    ///
    /// # Examples
    /// ```
    /// use whispeer::client::ManyOptions;
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let client = Client::new_memory(&connector)?;
    /// let _one = client.handle_bytes("sensor/1", |_| async { Ok("21 degrees".into()) }).await?;
    /// let _two = client.handle_bytes("sensor/2", |_| async { Ok("19 degrees".into()) }).await?;
    /// let answers = client.request_many_bytes("sensor/*", "".into(), ManyOptions::default()).await?;
    /// assert_eq!(answers.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn request_many<R: RequestProtocol>(
        &self,
        pattern: &str,
        request: &R,
        options: ManyOptions,
    ) -> BusResult<Vec<BusResult<(Topic, R::Rsp)>>> {
        let (pattern, _) = wire_pattern(R::prefix(), pattern)?;
        let patience = self.patience(&options.request);
        let asked = self.answers(
            &pattern,
            &options.request,
            Flags::SCATTER,
            Encoder::typed(R::weight),
            request,
            patience,
        );
        asked.await?.gather(R::prefix(), options.count, decode_typed::<R::Rsp>).await
    }

    /// [`request_many`](Self::request_many) with bytes as they are and whole topics.
    ///
    /// # Errors
    /// As [`request_many`](Self::request_many).
    ///
    /// # Cancel safety
    /// As [`request_many`](Self::request_many).
    pub async fn request_many_bytes(
        &self,
        pattern: &str,
        payload: Bytes,
        options: ManyOptions,
    ) -> BusResult<Vec<BusResult<(Topic, Bytes)>>> {
        let (pattern, _) = wire_pattern("", pattern)?;
        let patience = self.patience(&options.request);
        let asked =
            self.answers(&pattern, &options.request, Flags::SCATTER, Encoder::bytes(), &payload, patience);
        asked.await?.gather("", options.count, decode_bytes).await
    }

    pub(super) fn patience(&self, options: &RequestOptions) -> Patience {
        let after =
            options.timeout.unwrap_or(self.connection.request_timeout).min(limits::REQUEST_TIMEOUT_MAX);
        Patience { until: Instant::now() + after, after }
    }

    async fn request_raw<T>(
        &self,
        topic: &str,
        options: &RequestOptions,
        encode: Encoder<T>,
        value: &T,
    ) -> BusResult<Payload> {
        let patience = self.patience(options);
        let fields = options.fields(None)?;
        let shared = &self.connection.shared;
        let seal = self.connection.seal_request(topic, encode.given(value))?;
        let mut mark = None;
        let answer = async {
            loop {
                let session = shared.session_number();
                let (sender, receiver) = oneshot::channel();
                let call = Call::Single(sender);
                let outgoing = seal.as_ref().map(|seal| seal.outgoing(MessageKind::Request, &fields));
                let with = (encode, outgoing.as_ref());
                let asked = self.ask(topic, &fields, Flags::NONE, with, value, patience, call);
                let answer = match asked.await {
                    Ok(_pending) => receiver.await.unwrap_or_else(|_| Err(shared.reason())),
                    Err(error) => Err(error),
                };
                mark = outgoing.as_ref().map(Outgoing::mark);
                match answer {
                    // Nobody was asked. The next bus is.
                    Err(BusError::Draining { .. }) if shared.leave_session(session) => {
                        shared.settled().await?
                    }
                    answer => return answer,
                }
            }
        };
        let answer = within(patience, topic, answer).await;
        let Some(seal) = seal.as_ref() else {
            return answer.and_then(|(flags, payload)| match flags.contains(Flags::ERROR) {
                true => Err(unopened(topic, &payload)),
                false => Ok(payload),
            });
        };
        let mark = mark.flatten();
        match answer {
            Ok((flags, payload)) if flags.contains(Flags::ERROR) => Err(seal.open_error(mark, &payload)),
            Ok((_, payload)) => seal.open_answer(mark, &payload),
            Err(error) => Err(seal.judge(error)),
        }
    }

    /// Makes a request of which several answers are expected.
    pub(super) async fn answers<T>(
        &self,
        topic: &str,
        options: &RequestOptions,
        flags: Flags,
        encode: Encoder<T>,
        value: &T,
        patience: Patience,
    ) -> BusResult<Answers> {
        // A stream has a window. The answers to a scattered request are one of each server asked, and
        // the bus bounds what it leaves unread; they take no credit and none is granted for them.
        let scattered = flags.contains(Flags::SCATTER);
        let stream = if scattered { None } else { Some(options.stream_window()?) };
        let fields = options.fields(stream)?;
        let window = stream.unwrap_or((u32::MAX, u64::MAX));
        // The window is checked where answers arrive, which knows the last one; see `Many`.
        let inbox = Inbox::new((u32::MAX, u64::MAX));
        let seal = self.connection.seal_request(topic, encode.given(value))?;
        let (outgoing, pending) = loop {
            let session = self.connection.shared.session_number();
            let call = Call::Many(Many { inbox: Arc::clone(&inbox), credit: Credit::new(window) });
            let outgoing = seal.as_ref().map(|seal| seal.outgoing(MessageKind::Request, &fields));
            let asked = self.ask(topic, &fields, flags, (encode, outgoing.as_ref()), value, patience, call);
            match within(patience, topic, asked).await {
                Err(BusError::Draining { .. }) if self.connection.shared.leave_session(session) => {
                    within(patience, topic, self.connection.shared.settled()).await?;
                }
                asked => break (outgoing, asked?),
            }
        };
        let mark = outgoing.and_then(|outgoing| outgoing.mark());
        let connection = Arc::clone(&self.connection);
        let mut answers = Answers::new(connection, pending, inbox, window, topic.to_owned(), patience);
        let opener = seal.as_ref().and_then(|_| self.connection.opener(topic));
        answers.open_with(seal, opener, mark);
        Ok(answers)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "these are the parts of a request, and there is one caller of each kind"
    )]
    async fn ask<T>(
        &self,
        topic: &str,
        fields: &[u8],
        flags: Flags,
        (encode, outgoing): (Encoder<T>, Option<&Outgoing<'_>>),
        value: &T,
        patience: Patience,
        call: Call,
    ) -> BusResult<Pending> {
        if fields.len() + BUS_FIELDS > limits::FIELDS_LIMIT {
            let size = fields.len() + BUS_FIELDS;
            return Err(BusError::HeadersTooLarge { size, limit: limits::FIELDS_LIMIT });
        }
        let shared = &self.connection.shared;
        shared.opened().await?;
        shared.room().await?;
        let beside = fields.len() + topic.len();
        with_encoded(shared, &encode, value, beside, outgoing, |body: &Body<'_>| {
            body.with_content(fields, topic.as_bytes(), |content| {
                shared.request(flags, content, patience, call)
            })
        })?
    }
}

/// An error that was sealed for somebody who has engines.
pub(super) fn unopened(topic: &str, payload: &Payload) -> BusError {
    let error = EngineError::UnknownEngine { id: sealed_by(payload.as_bytes()).unwrap_or_default() };
    BusError::Engine { topic: topic.to_owned(), done: "opened", error }
}

/// Waits for `answer` until the patience ends.
async fn within<T>(
    patience: Patience,
    topic: &str,
    answer: impl Future<Output = BusResult<T>>,
) -> BusResult<T> {
    match timeout_at(patience.until, answer).await {
        Ok(result) => result,
        Err(_) => Err(patience.timed_out(topic)),
    }
}

impl Shared {
    fn request(
        self: &Arc<Self>,
        flags: Flags,
        content: &ContentRef<'_>,
        patience: Patience,
        call: Call,
    ) -> BusResult<Pending> {
        let left = patience.until.saturating_duration_since(Instant::now());
        let left = u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
        let mut state = self.lock();
        state.check()?;
        if state.leaving {
            return Err(BusError::Draining { what: "the bus".into() });
        }
        if let Some(session) = self.session() {
            session.check_size(content.frame_size())?;
            session.check_requests(state.calls.entries.len())?;
        }
        let id = state.calls.insert(call);
        state.lanes.data(&Header::new(Kind::Request, id, left).flagged(flags), content);
        self.send_call(state);
        Ok(Pending { shared: Arc::clone(self), id })
    }

    /// Tells the bus that nobody waits, unless the last answer has come.
    fn cancel_request(&self, id: u32) {
        let mut state = self.lock();
        if state.calls.entries.remove(&id).is_none() {
            return;
        }
        // In the lane of the request, so that it does not overtake it.
        state.lanes.data(&Header::new(Kind::Cancel, id, 0), &ContentRef::empty());
        let step = state.lanes.begin();
        drop(state);
        self.write(step);
    }
}
