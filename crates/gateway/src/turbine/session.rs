//! A socket from its opening to its end.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use serde::Deserialize;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use whispeer::auth::Principal;
use whispeer::client::{Message, Policy, SubscribeOptions};
use whispeer::engine::PayloadOpener;
use whispeer::json::push_json_string;
use whispeer::proto::{Content, Encoding};
use whispeer::transport::Peer;
use whispeer::{BusError, BusResult, Client};

use super::channels::{Listed, channel_of};
use super::commands::{Asked, Command, Fault, done, failed, read, told, unsubscribed};
use super::{Context, NAME};
use crate::limits;
use crate::message::{encoded, ends_sealed, is_content_sealed, push_opened};
use crate::socket::{Closing, Incoming, Socket};
use crate::subscriptions::{Arrived, Subscriptions};
use crate::token::time_of;

/// What comes after a socket's end: the code to close it with, if the other side has not.
type End = Option<Closing>;

/// What a token says.
#[derive(Clone, Deserialize)]
struct Claims {
    sub: String,
    /// Seconds since 1970. Some issuers write fractions.
    exp: f64,
    channels: Vec<String>,
}

/// Who has connected.
struct Login {
    client: Client,
    listed: Listed,
    expires: Instant,
}

/// Speaks with a socket until it ends.
pub(super) async fn run(socket: Socket, context: Context) {
    let mut talk = Talk { socket, context: &context };
    let end = match talk.login().await {
        Ok(login) => Box::pin(talk.serve(login)).await,
        Err(end) => end,
    };
    if let Some(closing) = end {
        talk.socket.close(closing).await;
    }
}

/// A socket, and what all share.
struct Talk<'a> {
    socket: Socket,
    context: &'a Context,
}

impl Talk<'_> {
    /// Waits until it has connected.
    async fn login(&mut self) -> Result<Login, End> {
        let mut late = pin!(sleep(limits::LOGIN_TIME));
        let mut draining = pin!(self.context.shared.draining());
        loop {
            let incoming = tokio::select! {
                biased;
                () = &mut draining => return Err(Some(Closing::GoingAway)),
                () = &mut late => return Err(Some(Closing::NotLoggedIn)),
                incoming = self.socket.recv() => incoming?,
            };
            let Some(text) = self.text(&incoming).await? else { continue };
            let Asked { id, command } = read(text);
            let outcome = match command {
                Ok(Command::Connect { token }) => match Box::pin(connect(self.context, &token)).await {
                    Ok(login) => {
                        self.socket.trust();
                        self.send(done(id, "connected")).await?;
                        return Ok(login);
                    }
                    Err(fault) => Err(fault),
                },
                Ok(Command::Ping) => Ok("pong"),
                Ok(_) => Err(Fault::NotAuthenticated),
                Err(fault) => Err(fault),
            };
            let answer = self.answer(id, outcome);
            self.send(answer).await?;
        }
    }

    /// Does what it asks for and gives it what it is subscribed to, until either side ends it.
    async fn serve(&mut self, Login { client, listed, expires }: Login) -> End {
        let context = self.context;
        let mut session = Session { client: &client, listed, all: Subscriptions::default() };
        let mut expiry = pin!(sleep_until(expires));
        let mut draining = pin!(context.shared.draining());
        let mut ended = pin!(client.closed());
        let end = loop {
            let turn = tokio::select! {
                biased;
                () = &mut draining => break Some(Closing::GoingAway),
                () = &mut expiry => break Some(Closing::Expired),
                error = &mut ended => break Some(self.closing(&error, expires)),
                // First what it asks for, so that it can unsubscribe from what never ceases.
                incoming = self.socket.recv() => match incoming {
                    Ok(incoming) => Turn::Asked(incoming),
                    Err(end) => break end,
                },
                arrived = session.all.next() => Turn::Arrived(arrived),
            };
            // One that does not read holds up neither its own end nor the gateway's.
            let done = tokio::select! {
                biased;
                done = self.act(&mut session, turn) => done,
                () = &mut draining => Err(Some(Closing::GoingAway)),
                () = &mut expiry => Err(Some(Closing::Expired)),
            };
            if let Err(end) = done {
                break end;
            }
        };
        // What is lost when it does not take this in time is counted, or an error that its end tells as well.
        let _ = timeout(limits::LAST_TIME, self.part(&mut session, end, expires)).await;
        self.count_left(&mut session);
        end
    }

    async fn act(&mut self, session: &mut Session<'_>, turn: Turn) -> Result<(), End> {
        match turn {
            Turn::Asked(incoming) => self.asked(session, &incoming).await?,
            Turn::Arrived(arrived) => {
                self.push_all(session, Some(arrived), limits::TURBINE_TURN_MESSAGES).await?;
            }
        }
        self.socket.flush().await.map_err(|()| None)
    }

    /// What is said last.
    async fn part(&mut self, session: &mut Session<'_>, end: End, expires: Instant) -> Result<(), End> {
        match end {
            Some(Closing::GoingAway) => self.push_all(session, None, session.waiting(self.context)).await?,
            Some(Closing::Expired) => {
                let is_over = Instant::now() + SLACK >= expires;
                let fault = if is_over { Fault::Expired } else { Fault::NotAuthenticated };
                self.feed(told(fault)).await?;
            }
            _ => {}
        }
        self.socket.flush().await.map_err(|()| None)
    }

    /// Why the bus has ended its session.
    fn closing(&self, error: &BusError, expires: Instant) -> Closing {
        let shared = &self.context.shared;
        if shared.is_draining() || shared.bus.is_draining() {
            return Closing::GoingAway;
        }
        tracing::debug!(dialect = NAME, %error, "the bus has ended a session");
        let is_denied = matches!(error, BusError::Denied { .. });
        if is_denied || Instant::now() + SLACK >= expires { Closing::Expired } else { Closing::Failed }
    }

    async fn asked(&mut self, session: &mut Session<'_>, incoming: &Incoming) -> Result<(), End> {
        // An answer comes behind what had come before it was asked for.
        self.push_all(session, None, session.waiting(self.context)).await?;
        let Some(text) = self.text(incoming).await? else { return Ok(()) };
        let Asked { id, command } = read(text);
        let outcome = match command {
            Ok(Command::Connect { .. }) => Err(Fault::AlreadyConnected),
            Ok(Command::Subscribe { channel }) => {
                Box::pin(session.subscribe(self.context, &channel)).await.map(|()| "subscribed")
            }
            Ok(Command::Unsubscribe { channel }) => {
                session.unsubscribe(self.context, &channel).map(|()| "unsubscribed")
            }
            Ok(Command::Ping) => Ok("pong"),
            Err(fault) => Err(fault),
        };
        let answer = self.answer(id, outcome);
        self.feed(answer).await
    }

    /// The text that came in. What is binary and UTF-8 counts as one; the other side is told if it is not.
    async fn text<'i>(&mut self, incoming: &'i Incoming) -> Result<Option<&'i str>, End> {
        match incoming {
            Incoming::Text(text) => Ok(Some(text)),
            Incoming::Binary(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Some(text)),
                Err(_) => {
                    let answer = self.answer("0", Err(Fault::BadText));
                    self.send(answer).await?;
                    Ok(None)
                }
            },
        }
    }

    fn answer(&self, id: &str, outcome: Result<&str, Fault>) -> Bytes {
        match outcome {
            Ok(what) => done(id, what),
            Err(fault) => {
                self.context.shared.metrics.refused(NAME, fault.reason());
                failed(id, fault)
            }
        }
    }

    /// Pushes what has arrived and what is there beside it, so many at the most.
    async fn push_all(
        &mut self,
        session: &mut Session<'_>,
        first: Option<Arrived>,
        most: usize,
    ) -> Result<(), End> {
        let mut next = first;
        for _ in 0..most {
            // Where this is given up, nothing has been taken that is lost with it. For the first there is room: each turn ends
            // with all written.
            if next.is_none() {
                self.socket.ready().await.map_err(|()| None)?;
            }
            let Some(arrived) = next.take().or_else(|| session.take()) else { break };
            match arrived {
                Arrived::Message(channel, message) => {
                    let (text, is_sealed) =
                        publication(self.context.shared.opener.as_ref(), &channel, &message);
                    if is_sealed {
                        self.context.shared.metrics.sealed(NAME);
                    }
                    self.feed(text).await?;
                }
                Arrived::Gap(count, reason) => self.context.shared.metrics.dropped(NAME, reason, count),
                Arrived::Ended(channel, reason) => {
                    let fault = reason.as_ref().map_or(Fault::Failed, Fault::from);
                    // Where all end, the socket is closed.
                    if !self.context.shared.bus.is_draining() && session.client.close_reason().is_none() {
                        self.feed(unsubscribed(&channel, fault)).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Counts what a session that has ended was not told of.
    fn count_left(&self, session: &mut Session<'_>) {
        let metrics = &self.context.shared.metrics;
        metrics.dropped(NAME, "closed", self.socket.waiting() as u64);
        for _ in 0..session.waiting(self.context) {
            let Some(arrived) = session.take() else { break };
            match arrived {
                Arrived::Message(..) => metrics.dropped(NAME, "closed", 1),
                Arrived::Gap(count, reason) => metrics.dropped(NAME, reason, count),
                Arrived::Ended(..) => {}
            }
        }
    }

    async fn feed(&mut self, text: Bytes) -> Result<(), End> {
        self.socket.feed(text).await.map_err(|()| None)
    }

    async fn send(&mut self, text: Bytes) -> Result<(), End> {
        self.socket.send(text).await.map_err(|()| None)
    }
}

/// Lets somebody in whose token is good, if the bus does.
async fn connect(context: &Context, token: &str) -> Result<Login, Fault> {
    let turbine = &context.turbine;
    let claims: Claims = turbine.key.verify(token).map_err(|fault| {
        tracing::debug!(dialect = NAME, %fault, "a token was refused");
        Fault::NotAuthenticated
    })?;
    if claims.sub.is_empty() {
        tracing::debug!(dialect = NAME, "a token was refused: its subject is empty");
        return Err(Fault::NotAuthenticated);
    }
    // What is no time has expired.
    let end = time_of(claims.exp.max(0.0) as u64);
    let principal = Principal::Token { issuer: NAME.into(), subject: claims.sub };
    let peer = Peer::new(principal, NAME).granted_until(turbine.settings.roles.clone(), end);
    let joined = async {
        let client = context.shared.join(context.shared.link(peer).await?, NAME)?;
        // The bus has let it in when it answers.
        client.ping().await?;
        Ok(client)
    };
    Ok(Login {
        client: in_time(joined).await?,
        listed: Listed::new(&claims.channels, turbine.settings.patterns),
        expires: instant_of(end),
    })
}

/// What comes next.
enum Turn {
    Asked(Incoming),
    Arrived(Arrived),
}

/// A session of the bus, and what it is subscribed to.
struct Session<'a> {
    client: &'a Client,
    listed: Listed,
    all: Subscriptions,
}

impl Session<'_> {
    /// How many messages may wait for it, each with a gap before it.
    fn waiting(&self, context: &Context) -> usize {
        usize::try_from(context.turbine.settings.buffer)
            .unwrap_or(usize::MAX)
            .saturating_mul(2 * self.all.len())
    }

    /// What is there already. Whoever takes it bounds how much, and not Tokio's budget for a turn.
    fn take(&mut self) -> Option<Arrived> {
        unconstrained(self.all.next()).now_or_never()
    }

    /// Subscribes; to what it is subscribed to already, it stays so.
    async fn subscribe(&mut self, context: &Context, channel: &str) -> Result<(), Fault> {
        let settings = &context.turbine.settings;
        let channel = channel_of(channel, settings.patterns)?;
        if self.all.contains(channel.as_str()) {
            return Ok(());
        }
        if !self.listed.allows(&channel) {
            return Err(Fault::Forbidden);
        }
        if self.all.len() >= settings.max_subscriptions {
            return Err(Fault::TooManySubscriptions);
        }
        let options = SubscribeOptions::default()
            .policy(Policy::DropNewest)
            .window(settings.buffer, limits::TURBINE_BUFFER_BYTES);
        let subscription = in_time(self.client.subscribe_content_with(channel.as_str(), options)).await?;
        self.all.insert(channel.as_str(), subscription);
        Ok(())
    }

    /// Ends a subscription, if there is one.
    fn unsubscribe(&mut self, context: &Context, channel: &str) -> Result<(), Fault> {
        let channel = channel_of(channel, context.turbine.settings.patterns)?;
        self.all.remove(channel.as_str());
        Ok(())
    }
}

/// What the bus answers, in as long as it may take.
async fn in_time<T>(asked: impl Future<Output = BusResult<T>>) -> Result<T, Fault> {
    match timeout(limits::BUS_TIME, asked).await {
        Ok(answered) => answered.map_err(|error| {
            tracing::debug!(dialect = NAME, %error, "the bus has refused something");
            Fault::from(&error)
        }),
        Err(_) => Err(Fault::Failed),
    }
}

/// The push of a message, and whether its payload is sealed in it.
///
/// It is made once for all sockets that are told the topic as it was published. That may have wildcards, which a client that
/// is subscribed to a literal channel knows nothing of: it is told its own channel, in a text of its own.
fn publication(
    opener: Option<&PayloadOpener>,
    channel: &str,
    message: &Message<Arc<Content>>,
) -> (Bytes, bool) {
    let (topic, content) = (&message.topic, &message.value);
    let encode = |channel| encode(opener, channel, topic.as_str(), content);
    let is_told = topic.is_concrete() || channel.split('/').any(|fragment| matches!(fragment, "*" | "**"));
    let text = match is_told {
        true => encoded(opener, content, Encoding::Turbine, || encode(topic.as_str())),
        false => encode(channel),
    };
    let is_sealed = is_content_sealed(content)
        && text.strip_suffix(END).is_some_and(|text| ends_sealed(text, content.payload()));
    (text, is_sealed)
}

/// What follows the payload.
const END: &[u8] = b"}}";

fn encode(opener: Option<&PayloadOpener>, channel: &str, topic: &str, content: &Content) -> Bytes {
    let payload = content.payload();
    let mut text = Vec::with_capacity(64 + channel.len() + 2 * payload.len());
    text.extend_from_slice(br#"{"method":"publication","params":{"channel":"#);
    push_json_string(channel, &mut text);
    text.extend_from_slice(br#","data":"#);
    push_opened(opener, topic, payload, &mut text);
    text.extend_from_slice(END);
    // It stays with the message for as long as anybody has that.
    text.shrink_to_fit();
    text.into()
}

/// By how much two clocks may tell the same moment apart.
const SLACK: Duration = Duration::from_secs(1);

/// When the clock of the system will show this. What is years ahead is as good as for ever.
fn instant_of(time: SystemTime) -> Instant {
    const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
    let left = time.duration_since(SystemTime::now()).unwrap_or_default();
    Instant::now() + left.min(LONGEST)
}
