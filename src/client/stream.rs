//! Several answers to one request: taking them, and giving them.

use std::collections::HashSet;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use tokio::task::coop;
use tokio::time::{Sleep, sleep_until};

use super::Client;
use super::codec::{Decoder, Encoder, TopicReader, decode_bytes, decode_typed, wire_topic, with_encoded};
use super::dispatch::refusal;
use super::inbox::{Inbox, Raw, Reader, Taken};
use super::options::RequestOptions;
use super::protocol::RequestProtocol;
use super::request::{Patience, Pending, unopened};
use super::request_id::{Ask, RequestId};
use super::sealing::{Opener, Seal, topic_of};
use super::shared::Connection;
use crate::engine::{EngineError, Mark, MessageKind, Opened, is_sealed};
use crate::error::{BusError, BusResult, ErrorReply};
use crate::proto::Flags;
use crate::topic::Topic;

/// The answers to one request, as they come.
pub(super) struct Answers {
    connection: Arc<Connection>,
    /// Gone once nothing more is to come.
    pending: Option<Pending>,
    id: u32,
    reader: Reader<Flags>,
    topic: String,
    patience: Patience,
    deadline: Pin<Box<Sleep>>,
    opening: Opening,
}

/// How answers are opened.
#[derive(Default)]
struct Opening {
    seal: Option<Seal>,
    opener: Option<Box<Opener>>,
    /// The request's number.
    mark: Option<Mark>,
    /// Answers of a stream that have come.
    index: u64,
    heard: Heard,
}

/// Whose sealed answers have come.
#[derive(Default)]
struct Heard {
    /// Who has sealed the first answer of a stream; the others are of the same.
    sender: Option<[u8; 16]>,
    /// Topics that have answered, where several servers were asked.
    topics: HashSet<Box<str>>,
}

impl Heard {
    /// Whether an answer that was sealed for this request is one more of its server, and not that of another one or the
    /// same again.
    fn check(&mut self, scattered: bool, topic: &str, opened: &Opened) -> BusResult<()> {
        let Some(mark) = opened.mark else { return Ok(()) };
        let refused = |error| Err(BusError::Engine { topic: topic.to_owned(), done: "opened", error });
        if scattered {
            return match self.topics.insert(topic.into()) {
                true => Ok(()),
                false => refused(EngineError::Replayed { sequence: mark.sequence }),
            };
        }
        match *self.sender.get_or_insert(mark.sender) == mark.sender {
            true => Ok(()),
            false => refused(EngineError::Misrouted),
        }
    }
}

impl Opening {
    /// Reads an answer that may have to be opened first; `scattered` if several servers were asked.
    fn read<T>(&mut self, flags: Flags, scattered: bool, raw: &Raw<'_>, decode: Decoder<T>) -> BusResult<T> {
        let Some(opener) = &mut self.opener else {
            return match flags.contains(Flags::ERROR) {
                true if is_sealed(raw.payload()) => {
                    let topic = String::from_utf8_lossy(raw.topic);
                    Err(unopened(&topic, &raw.payload_bytes().into()))
                }
                true => Err(refusal(raw.payload()).into_error()),
                false => Ok(decode(raw)?),
            };
        };
        // Where several servers were asked, each answer says of which topic it is. Others are of the one that was asked,
        // whatever they say.
        let topic = match &self.seal {
            Some(seal) if !scattered => seal.topic(),
            _ => topic_of(raw),
        };
        let streamed = flags.contains(Flags::MORE) && !scattered;
        if flags.contains(Flags::ERROR) {
            if !is_sealed(raw.payload()) {
                let error = refusal(raw.payload()).into_error();
                return Err(self.seal.as_ref().map_or(error.clone(), |seal| seal.judge(error)));
            }
            let opened = opener.open(MessageKind::ErrorReply, topic, (self.mark, 0), raw, |raw, _| {
                Ok(refusal(raw.payload()).into_error())
            });
            let (error, opened) = opened?;
            self.heard.check(scattered, topic, &opened)?;
            return Err(error);
        }
        let (kind, place) = match streamed {
            true => (MessageKind::StreamReply, (self.mark, self.index)),
            false => (MessageKind::Reply, (self.mark, 0)),
        };
        self.index += u64::from(streamed);
        if scattered && let Some(seal) = &self.seal {
            // What was asked of all of them counts for each.
            seal.check_answer(is_sealed(raw.payload()))?;
        }
        let (value, opened) = opener.open(kind, topic, place, raw, |raw, _| decode(raw))?;
        self.heard.check(scattered, topic, &opened)?;
        Ok(value)
    }
}

impl Answers {
    pub(super) fn new(
        connection: Arc<Connection>,
        pending: Pending,
        inbox: Arc<Inbox<Flags>>,
        window: (u32, u64),
        topic: String,
        patience: Patience,
    ) -> Self {
        Self {
            connection,
            id: pending.id(),
            pending: Some(pending),
            reader: Reader::new(inbox, window),
            topic,
            patience,
            deadline: Box::pin(sleep_until(patience.until)),
            opening: Opening::default(),
        }
    }

    /// Answers are opened in this way, as those to a request that was marked so.
    pub(super) fn open_with(&mut self, seal: Option<Seal>, opener: Option<Box<Opener>>, mark: Option<Mark>) {
        self.opening = Opening { seal, opener, mark, ..Opening::default() };
    }

    /// Takes the next answer; an error is the last thing that comes.
    fn poll_next<T>(
        &mut self,
        context: &mut Context<'_>,
        read: impl FnOnce(&mut Opening, Flags, &Raw<'_>) -> T,
    ) -> Poll<Option<BusResult<T>>> {
        if self.pending.is_none() {
            return Poll::Ready(None);
        }
        let progress = ready!(coop::poll_proceed(context));
        match self.reader.poll_ready(context) {
            Poll::Ready(true) => {}
            Poll::Ready(false) => {
                self.pending = None;
                let end = self.reader.inbox().ended().unwrap_or_default();
                let judge = |error| match &self.opening.seal {
                    Some(seal) => seal.judge(error),
                    None => error,
                };
                return Poll::Ready(end.error.map(judge).map(Err));
            }
            Poll::Pending => {
                ready!(self.deadline.as_mut().poll(context));
                self.pending = None;
                return Poll::Ready(Some(Err(self.patience.timed_out(&self.topic))));
            }
        }
        progress.made_progress();
        let answer = match self.reader.take() {
            Some(Taken::Message { stamp, raw }) => read(&mut self.opening, stamp, &raw),
            Some(Taken::Gap { .. } | Taken::GoesOn) | None => return Poll::Ready(None),
        };
        if let Some(granted) = self.reader.finish() {
            self.connection.shared.grant_stream(self.id, granted);
        }
        Poll::Ready(Some(Ok(answer)))
    }

    /// Gathers answers of several servers.
    pub(super) async fn gather<T>(
        mut self,
        prefix: &'static str,
        count: Option<usize>,
        read: Decoder<T>,
    ) -> BusResult<Vec<BusResult<(Topic, T)>>> {
        let mut topics = TopicReader::new(prefix);
        let mut answers = Vec::new();
        while count.is_none_or(|count| answers.len() < count) {
            let next = poll_fn(|context| {
                self.poll_next(context, |opening, flags, raw| {
                    let value = opening.read(flags, true, raw, read)?;
                    Ok((Topic::try_from(topics.read(raw.topic)?.clone())?, value))
                })
            });
            match next.await {
                None => break,
                Some(Ok(answer)) => answers.push(answer),
                // What came in time is the result.
                Some(Err(BusError::TimedOut { .. })) => break,
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(answers)
    }
}

/// A stream of answers to one request.
///
/// Made by [`Client::request_stream`]. At most a window of answers is on its way; it is renewed as
/// they are taken, so that a slow reader slows the server down. Dropping it cancels the request. It is
/// a `Stream` too.
pub struct ReplyStream<T> {
    answers: Answers,
    decode: Decoder<T>,
}

impl<T> ReplyStream<T> {
    /// The next answer; `None` after the last one. An error is the last thing that comes, except for
    /// an answer that does not decode.
    ///
    /// # Cancel safety
    /// No answer is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<BusResult<T>> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<BusResult<T>>> {
        let decode = self.decode;
        self.answers
            .poll_next(context, |opening, flags, raw| opening.read(flags, false, raw, decode))
            .map(|next| next.map(|answer| answer?))
    }
}

impl<T> Stream for ReplyStream<T> {
    type Item = BusResult<T>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_recv(context)
    }
}

impl<T> fmt::Debug for ReplyStream<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ReplyStream").field("topic", &self.answers.topic).finish_non_exhaustive()
    }
}

/// Answers one request with a stream.
///
/// Made by [`Client::respond_stream`]. Dropped before [`finish`](Self::finish) or [`fail`](Self::fail)
/// it ends the stream as [`BusError::Abandoned`].
pub struct Responder<T> {
    connection: Arc<Connection>,
    ask: Arc<Ask>,
    encode: Encoder<T>,
    /// Answers that have been sent.
    sent: u64,
    /// Whether the end is still to be told.
    open: bool,
}

impl<T> Responder<T> {
    /// Sends one answer, as soon as the requester's window has room.
    ///
    /// # Errors
    /// [`BusError::Cancelled`] when the requester does not wait any more; [`BusError::Encode`] and
    /// [`BusError::FrameTooLarge`] for this answer; or why the connection ended.
    ///
    /// # Cancel safety
    /// Dropped before it is done, the answer is not sent.
    pub async fn send(&mut self, answer: &T) -> BusResult<()> {
        let shared = &self.connection.shared;
        shared.room().await?;
        self.ask.allowed().await?;
        let outgoing = self.ask.outgoing(MessageKind::StreamReply, self.sent);
        with_encoded(shared, &self.encode, answer, 0, outgoing.as_ref(), |body| {
            shared.reply(&self.ask, Flags::MORE, body)
        })??;
        self.sent += 1;
        Ok(())
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// [`BusError::Cancelled`] when nobody waits for it, or why the connection ended.
    pub fn finish(mut self) -> BusResult<()> {
        self.open = false;
        self.connection.shared.reply(&self.ask, Flags::END, &super::codec::Body::Lent(&[]))
    }

    /// Ends the stream with an error that the requester can match on.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn fail(mut self, error: ErrorReply) -> BusResult<()> {
        self.end_with(&BusError::Replied(error))
    }

    /// Whether the requester does not wait any more.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.ask.is_cancelled()
    }

    fn end_with(&mut self, error: &BusError) -> BusResult<()> {
        self.open = false;
        let payload = self.ask.error(error);
        self.connection.shared.reply(
            &self.ask,
            Flags::END.with(Flags::ERROR),
            &super::codec::Body::Lent(&payload),
        )
    }
}

impl<T> Drop for Responder<T> {
    fn drop(&mut self) {
        if self.open && !self.is_cancelled() {
            // Whoever cannot be reached does not wait either.
            let _ = self.end_with(&BusError::Abandoned { topic: self.ask.topic().to_owned() });
        }
    }
}

impl<T> fmt::Debug for Responder<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Responder").field("topic", &self.ask.topic()).finish_non_exhaustive()
    }
}

impl Client {
    /// Asks for a stream of answers. A server that gives a single one makes a stream of one.
    ///
    /// The timeout is that for the whole stream.
    ///
    /// # Errors
    /// As [`request`](Self::request) for what is known before the request is sent; what comes later is
    /// told by the stream.
    ///
    /// # Cancel safety
    /// Dropping the future or the stream cancels the request.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let client = Client::new_memory(&connector)?;
    /// let mut serving = client.serve_bytes("count").await?;
    /// let mut answers = client.request_stream_bytes("count", "to three".into()).await?;
    ///
    /// let (_topic, id, _payload) = serving.recv().await.expect("a request was made");
    /// let mut responder = client.respond_stream_bytes(id)?;
    /// for number in ["one", "two", "three"] {
    ///     responder.send(&number.into()).await?;
    /// }
    /// responder.finish()?;
    ///
    /// let mut count = 0;
    /// while let Some(answer) = answers.recv().await {
    ///     answer?;
    ///     count += 1;
    /// }
    /// assert_eq!(count, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn request_stream<R: RequestProtocol>(
        &self,
        topic: &str,
        request: &R,
    ) -> BusResult<ReplyStream<R::Rsp>> {
        self.request_stream_with(topic, request, RequestOptions::default()).await
    }

    /// Asks for a stream with a timeout, headers or a window of one's own.
    ///
    /// # Errors
    /// As [`request_stream`](Self::request_stream), and [`BusError::HeadersTooLarge`];
    /// [`BusError::InvalidSettings`] and [`BusError::LimitReached`] for a window of nothing or of too
    /// much.
    ///
    /// # Cancel safety
    /// As [`request_stream`](Self::request_stream).
    ///
    /// # Examples
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// use std::time::Duration;
    /// use whispeer::client::RequestOptions;
    /// use whispeer::prelude::*;
    ///
    /// # #[derive(Debug, Clone, Serialize, Deserialize)]
    /// # struct Tail;
    /// # impl RequestProtocol for Tail {
    /// #     type Rsp = String;
    /// #     fn prefix() -> &'static str { "tail" }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let client = Client::new_memory(&connector)?;
    /// let mut serving = client.serve::<Tail>("log").await?;
    ///
    /// // Lines are long: at most four of them at a time, for as long as an hour.
    /// let options = RequestOptions::default()
    ///     .window(4, 64 * 1024)
    ///     .timeout(Duration::from_secs(3_600))
    ///     .header("level", "warn");
    /// let mut lines = client.request_stream_with("log", &Tail, options).await?;
    ///
    /// let request = serving.next_request().await.expect("a request was made");
    /// assert_eq!(request.headers.find("level"), Some("warn"));
    /// let mut responder = client.respond_stream::<Tail>(request.id)?;
    /// responder.send(&"disk almost full".into()).await?;
    /// assert_eq!(lines.recv().await.expect("a line was sent")?, "disk almost full");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn request_stream_with<R: RequestProtocol>(
        &self,
        topic: &str,
        request: &R,
        options: RequestOptions,
    ) -> BusResult<ReplyStream<R::Rsp>> {
        let topic = wire_topic(R::prefix(), topic)?;
        let patience = self.patience(&options);
        let answers = self
            .answers(&topic, &options, Flags::STREAM, Encoder::typed(R::weight), request, patience)
            .await?;
        Ok(ReplyStream { answers, decode: decode_typed::<R::Rsp> })
    }

    /// [`request_stream`](Self::request_stream) with bytes as they are and a whole topic.
    ///
    /// # Errors
    /// As [`request_stream`](Self::request_stream).
    ///
    /// # Cancel safety
    /// As [`request_stream`](Self::request_stream).
    pub async fn request_stream_bytes(&self, topic: &str, payload: Bytes) -> BusResult<ReplyStream<Bytes>> {
        self.request_stream_bytes_with(topic, payload, RequestOptions::default()).await
    }

    /// [`request_stream_bytes`](Self::request_stream_bytes) with options.
    ///
    /// # Errors
    /// As [`request_stream_with`](Self::request_stream_with).
    ///
    /// # Cancel safety
    /// As [`request_stream`](Self::request_stream).
    pub async fn request_stream_bytes_with(
        &self,
        topic: &str,
        payload: Bytes,
        options: RequestOptions,
    ) -> BusResult<ReplyStream<Bytes>> {
        let topic = wire_topic("", topic)?;
        let patience = self.patience(&options);
        let answers =
            self.answers(&topic, &options, Flags::STREAM, Encoder::bytes(), &payload, patience).await?;
        Ok(ReplyStream { answers, decode: decode_bytes })
    }

    /// Begins to answer a request with a stream.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] when the request came to another client, or its requester wants a
    /// single answer, which it then is told.
    pub fn respond_stream<R: RequestProtocol>(&self, id: RequestId) -> BusResult<Responder<R::Rsp>> {
        self.responder(id, Encoder::typed(R::response_weight))
    }

    /// [`respond_stream`](Self::respond_stream) with bytes as they are.
    ///
    /// # Errors
    /// As [`respond_stream`](Self::respond_stream).
    pub fn respond_stream_bytes(&self, id: RequestId) -> BusResult<Responder<Bytes>> {
        self.responder(id, Encoder::bytes())
    }

    fn responder<T>(&self, id: RequestId, encode: Encoder<T>) -> BusResult<Responder<T>> {
        self.check_owner(&id)?;
        if !id.wants_stream() {
            let topic = id.topic();
            let error = BusError::InvalidSettings(format!(
                "\"{topic}\" answers with a stream; ask with `request_stream`"
            ));
            // The requester may be gone; the server is told in any case.
            let _ = id.fail(&error);
            return Err(error);
        }
        Ok(Responder {
            connection: Arc::clone(&self.connection),
            ask: id.into_ask(),
            encode,
            sent: 0,
            open: true,
        })
    }
}
