//! Serving requests.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use tokio::sync::oneshot;
use tokio::task::coop;
use tokio::time::Instant;

use super::Client;
use super::codec::{Decoder, Encoder, TopicReader, decode_bytes, decode_typed, wire_topic, with_encoded};
use super::inbox::{Inbox, Raw, Reader, Taken};
use super::options::{Headers, ServeOptions};
use super::protocol::RequestProtocol;
use super::request_id::RequestId;
use super::sealing::{AskSeal, Opener, topic_of};
use super::shared::{Connection, Ending, Registration, Shared, wake};
use crate::engine::{MessageKind, Opened, is_sealed};
use crate::error::{BriefResult, BusError, BusResult, ErrorReply};
use crate::proto::{ContentRef, Flags, Header, Kind, Lane};
use crate::topic::TopicPattern;

/// The code of the error reply to a request that does not decode as what is served.
pub(super) const UNDECODABLE: &str = "undecodable";

/// A request with all that came with it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Request<R> {
    /// The topic that was asked, without the protocol's prefix.
    pub topic: TopicPattern,
    /// The right to answer.
    pub id: RequestId,
    /// The request itself.
    pub value: R,
    /// What the requester sent along.
    pub headers: Headers,
    /// The id of the bus that the request comes from, where it is not this one.
    pub origin: Option<u64>,
    /// The public key, of Ed25519, of whoever has signed the request, where that has been checked.
    pub signer: Option<[u8; 32]>,
}

impl<R> Request<R> {
    /// When the requester gives up.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.id.deadline()
    }
}

/// Requests to one topic, in order.
///
/// Made by [`Client::serve`] and its kin. It keeps the connection alive. Dropping it ends it at the
/// bus; requests that wait in it are then failed as [`BusError::Abandoned`]. It is a `Stream` too.
///
/// # Examples
/// ```
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let (_bus, connector) = listen_and_serve_memory()?;
/// let server = Client::new_memory(&connector)?;
/// let mut serving = server.serve_bytes("echo").await?;
/// let client = Client::new_memory(&connector)?;
/// let answer = async {
///     let (_topic, id, payload) = serving.recv().await.expect("a request was made");
///     server.respond_bytes(id, payload).await
/// };
/// let (response, answered) = tokio::join!(client.request_bytes("echo", "hello".into()), answer);
/// answered?;
/// assert_eq!(response?, "hello");
/// # Ok(())
/// # }
/// ```
pub struct Serving<R> {
    connection: Arc<Connection>,
    id: u32,
    topic: Arc<str>,
    reader: Reader<RequestId>,
    topics: TopicReader,
    opener: Option<Box<Opener>>,
    decode: Decoder<R>,
    undecodable: u64,
}

impl<R> Serving<R> {
    /// The next request, with the right to answer it; `None` once the serving has ended and
    /// everything is taken. [`close_reason`](Self::close_reason) then says why.
    ///
    /// Requests that were cancelled meanwhile are left out. One that does not decode is answered with
    /// an error reply of the code `undecodable` and counted.
    ///
    /// # Cancel safety
    /// No request is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<(TopicPattern, RequestId, R)> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// The next request with its headers and its deadline.
    ///
    /// # Cancel safety
    /// No request is lost when the future is dropped.
    pub async fn next_request(&mut self) -> Option<Request<R>> {
        poll_fn(|context| self.poll_request(context)).await
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<(TopicPattern, RequestId, R)>> {
        let taken = ready!(self.poll_item(context, |_, _| ()));
        Poll::Ready(taken.map(|(topic, id, value, ())| (topic, id, value)))
    }

    fn poll_request(&mut self, context: &mut Context<'_>) -> Poll<Option<Request<R>>> {
        let taken = ready!(self.poll_item(context, |fields, signer| (Headers::read(fields), signer)));
        Poll::Ready(taken.map(|(topic, id, value, ((headers, origin), signer))| Request {
            topic,
            id,
            value,
            headers,
            origin,
            signer,
        }))
    }

    fn poll_item<E>(
        &mut self,
        context: &mut Context<'_>,
        extra: impl Fn(&[u8], Option<[u8; 32]>) -> E,
    ) -> Poll<Option<(TopicPattern, RequestId, R, E)>> {
        let progress = ready!(coop::poll_proceed(context));
        loop {
            let ready = ready!(self.reader.poll_ready(context));
            progress.made_progress();
            if !ready {
                return Poll::Ready(None);
            }
            let item = match self.reader.take() {
                None => return Poll::Ready(None),
                Some(Taken::Gap { .. } | Taken::GoesOn) => continue,
                Some(Taken::Message { stamp: id, .. }) if id.is_cancelled() => None,
                Some(Taken::Message { stamp: id, raw }) => {
                    let taken = self.topics.read(raw.topic).and_then(|topic| {
                        let (value, opened) = match &mut self.opener {
                            None => ((self.decode)(&raw)?, Opened::default()),
                            Some(opener) => open(opener, &id, &raw, self.decode)?,
                        };
                        Ok((topic.clone(), value, opened))
                    });
                    match taken {
                        Ok((topic, value, opened)) => {
                            Some((topic, id, value, extra(raw.fields, opened.signer)))
                        }
                        Err(error) => {
                            self.undecodable += 1;
                            // What is said of a request that could not be opened, anybody may hear.
                            let said = match BusError::from(error) {
                                BusError::Engine { .. } => "the server cannot open the request".to_owned(),
                                error => error.to_string(),
                            };
                            let reply = ErrorReply::new(UNDECODABLE, said);
                            // A requester that is gone does not need to know.
                            let _ = id.fail(&BusError::Replied(reply));
                            None
                        }
                    }
                }
            };
            if let Some(granted) = self.reader.finish() {
                self.connection.shared.grant(Lane::Serving, self.id, granted);
            }
            if item.is_some() {
                return Poll::Ready(item);
            }
        }
    }

    /// The full topic, with the prefix of the protocol.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// How many requests did not decode.
    #[must_use]
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// Why it ended; `None` while it has not. Requests may still be there to be taken.
    #[must_use]
    pub fn close_reason(&self) -> Option<BusError> {
        let end = self.reader.inbox().ended()?;
        Some(
            end.error
                .unwrap_or_else(|| BusError::Closed { what: format!("the serving of \"{}\"", self.topic) }),
        )
    }

    /// Stops it at the bus: when this returns, no new request comes, and those that were handed over
    /// can still be received and answered; then [`recv`](Self::recv) gives `None`.
    ///
    /// # Errors
    /// Why the connection ended, if it did meanwhile.
    ///
    /// # Cancel safety
    /// The drain goes on when the future is dropped.
    pub async fn drain(&mut self) -> BusResult<()> {
        if self.connection.shared.unserve(self.id) {
            self.connection.shared.barrier().await?;
        }
        Ok(())
    }

    pub(super) fn begin_drain(&self) {
        self.connection.shared.unserve(self.id);
    }
}

/// Opens a request and reads its value. How it is to be answered is noted in between, so that what is wrong with the
/// value is told to the asker alone.
fn open<R>(
    opener: &mut Opener,
    id: &RequestId,
    raw: &Raw<'_>,
    decode: Decoder<R>,
) -> BriefResult<(R, Opened)> {
    let (sealing, was_sealed) = (Arc::clone(opener.sealing()), is_sealed(raw.payload()));
    opener.open(MessageKind::Request, topic_of(raw), (None, 0), raw, |raw, opened| {
        id.answer_as(AskSeal::new(&sealing, id.topic(), was_sealed, opened)?);
        decode(raw)
    })
}

impl<R> Stream for Serving<R> {
    type Item = (TopicPattern, RequestId, R);

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_recv(context)
    }
}

impl<R> Drop for Serving<R> {
    fn drop(&mut self) {
        self.connection.shared.unserve(self.id);
    }
}

impl<R> fmt::Debug for Serving<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Serving").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Client {
    /// Serves requests of type `R` to `topic`, which must not have wildcards, as its only server. Where buses are joined that decide together who
    /// that is, it is so among all of them, and the serving may end later as [`BusError::AlreadyServed`] or
    /// [`BusError::TakenOver`]: when a bus comes back that was cut off from the others.
    ///
    /// # Errors
    /// [`BusError::InvalidTopic`] before anything is sent; [`BusError::AlreadyServed`] where the topic
    /// has a server; [`BusError::LimitReached`] at the limit of servings; or why the connection ended.
    ///
    /// # Cancel safety
    /// Dropping the future undoes the serving.
    pub async fn serve<R: RequestProtocol>(&self, topic: &str) -> BusResult<Serving<R>> {
        self.serve_with(topic, ServeOptions::default()).await
    }

    /// Serves with a window, in a group, or in place of the server that is there.
    ///
    /// # Errors
    /// As [`serve`](Self::serve), and [`BusError::InvalidSettings`] for options that cannot be.
    ///
    /// # Cancel safety
    /// Dropping the future undoes the serving.
    pub async fn serve_with<R: RequestProtocol>(
        &self,
        topic: &str,
        options: ServeOptions,
    ) -> BusResult<Serving<R>> {
        self.serve_raw(R::prefix(), topic, &options, decode_typed::<R>).await
    }

    /// Serves a whole topic with requests as they are.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    ///
    /// # Cancel safety
    /// Dropping the future undoes the serving.
    pub async fn serve_bytes(&self, topic: &str) -> BusResult<Serving<Bytes>> {
        self.serve_bytes_with(topic, ServeOptions::default()).await
    }

    /// [`serve_bytes`](Self::serve_bytes) with options.
    ///
    /// # Errors
    /// As [`serve_with`](Self::serve_with).
    ///
    /// # Cancel safety
    /// Dropping the future undoes the serving.
    pub async fn serve_bytes_with(&self, topic: &str, options: ServeOptions) -> BusResult<Serving<Bytes>> {
        self.serve_raw("", topic, &options, decode_bytes).await
    }

    async fn serve_raw<R>(
        &self,
        prefix: &'static str,
        topic: &str,
        options: &ServeOptions,
        decode: Decoder<R>,
    ) -> BusResult<Serving<R>> {
        let topic: Arc<str> = wire_topic(prefix, topic)?.into();
        let fields = options.fields()?;
        let shared = &self.connection.shared;
        shared.opened().await?;
        shared.room().await?;
        let inbox = Inbox::new(options.window);
        let (id, accepted) = shared.serve(&inbox, &topic, &fields)?;
        // It exists before the bus has accepted it, so that dropping this future undoes it.
        let opener = self.connection.opener(&topic);
        let serving = Serving {
            connection: Arc::clone(&self.connection),
            id,
            topic,
            reader: Reader::new(inbox, options.window),
            topics: TopicReader::new(prefix),
            opener,
            decode,
            undecodable: 0,
        };
        accepted.await.unwrap_or_else(|_| Err(shared.reason()))?;
        Ok(serving)
    }

    /// Answers a request.
    ///
    /// When this returns, the answer is on its way; `flush` waits until it has left the bus's hands.
    ///
    /// # Errors
    /// [`BusError::Cancelled`] when the requester does not wait any more;
    /// [`BusError::InvalidSettings`] when the request came to another client; [`BusError::Encode`] and
    /// [`BusError::FrameTooLarge`], which the requester is told as well; or why the connection ended.
    ///
    /// # Cancel safety
    /// Dropped before it is done, the request fails as [`BusError::Abandoned`].
    pub async fn respond<R: RequestProtocol>(&self, id: RequestId, response: &R::Rsp) -> BusResult<()> {
        self.respond_raw(id, Encoder::typed(R::response_weight), response).await
    }

    /// [`respond`](Self::respond) with bytes as they are.
    ///
    /// # Errors
    /// As [`respond`](Self::respond).
    ///
    /// # Cancel safety
    /// As [`respond`](Self::respond).
    pub async fn respond_bytes(&self, id: RequestId, response: Bytes) -> BusResult<()> {
        self.respond_raw(id, Encoder::bytes(), &response).await
    }

    /// Answers a request with an error that the requester can match on, as [`BusError::Replied`].
    ///
    /// # Errors
    /// As [`respond`](Self::respond).
    ///
    /// # Cancel safety
    /// As [`respond`](Self::respond).
    pub async fn respond_error(&self, id: RequestId, error: ErrorReply) -> BusResult<()> {
        self.check_owner(&id)?;
        self.connection.shared.room().await?;
        id.fail(&BusError::Replied(error))
    }

    pub(super) async fn respond_raw<T>(
        &self,
        id: RequestId,
        encode: Encoder<T>,
        response: &T,
    ) -> BusResult<()> {
        self.check_owner(&id)?;
        self.connection.shared.room().await?;
        let mut id = Some(id);
        let shared = &self.connection.shared;
        let ask = id.as_ref().map(RequestId::ask);
        let outgoing = ask.as_ref().and_then(|ask| ask.outgoing(MessageKind::Reply, 0));
        let sent = with_encoded(shared, &encode, response, 0, outgoing.as_ref(), |body| {
            id.take().map_or(Ok(()), |id| id.answer(body))
        });
        match sent {
            Ok(result) => result,
            Err(error) => {
                // The requester learns why there is no answer.
                let error = BusError::from(error);
                let _ = id.take().map_or(Ok(()), |id| id.fail(&error));
                Err(error)
            }
        }
    }

    pub(super) fn check_owner(&self, id: &RequestId) -> BusResult<()> {
        if id.belongs_to(&self.connection.shared) {
            return Ok(());
        }
        Err(BusError::InvalidSettings(
            "the request came over another connection; answer with the client that serves it, or a clone"
                .into(),
        ))
    }
}

impl Shared {
    fn serve(
        &self,
        inbox: &Arc<Inbox<RequestId>>,
        topic: &Arc<str>,
        fields: &[u8],
    ) -> BusResult<(u32, oneshot::Receiver<BusResult<()>>)> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        state.check()?;
        let registration = Registration {
            inbox: Arc::clone(inbox),
            topic: Arc::clone(topic),
            flags: Flags::NONE,
            fields: fields.into(),
            accepted: Some(sender),
            ending: Ending::No,
            deliveries: None,
        };
        let id = state.servings.insert(registration);
        let content = ContentRef::lent(fields, topic.as_bytes(), &[]);
        state.lanes.control(&Header::new(Kind::Serve, id, 0), &content);
        let step = state.lanes.begin();
        drop(state);
        self.write(step);
        Ok((id, receiver))
    }

    /// Ends a serving at the bus, unless it has ended already.
    fn unserve(&self, id: u32) -> bool {
        let mut state = self.lock();
        let Some(registration) = state.servings.entries.get_mut(&id) else { return false };
        match std::mem::replace(&mut registration.ending, Ending::Asked) {
            // The bus has been asked already.
            Ending::Moving => return true,
            // Nothing comes of it any more.
            Ending::Moved => {
                let gone = state.servings.entries.remove(&id);
                drop(state);
                wake(gone.and_then(|gone| gone.inbox.end(None, None)));
                return true;
            }
            _ => {}
        }
        state.lanes.data(&Header::new(Kind::Unserve, id, 0), &ContentRef::empty());
        let step = state.lanes.begin();
        drop(state);
        self.write(step);
        true
    }

    /// Lets every serving end.
    pub(super) fn drain_servings(&self) {
        let ids: Vec<u32> = self.lock().servings.entries.keys().copied().collect();
        for id in ids {
            self.unserve(id);
        }
    }
}
