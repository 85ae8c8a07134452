//! A socket's task.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until, timeout};
use whispeer::topic::Topic;
use whispeer::{BusError, Client};

use super::broadcast::{broadcast, id_to_acknowledge, is_marked};
use super::deadline::Deadline;
use super::joining::{Joining, fed};
use super::messages::{AUTHENTICATED, Invalid, Request, error};
use super::operations::{self, Operation, Outcome, Publish, Subscribed};
use super::unacked::{Due, Unacked};
use super::users::Known;
use super::{NAME, PopSub};
use crate::limits;
use crate::shared::Shared;
use crate::socket::{Closing, Incoming, Socket};
use crate::subscriptions::{Arrived, Subscriptions};

/// What is taken at once before it is written.
const BURST: usize = 64;

/// Why a socket ends; `None` where it is gone already.
type Ending = Option<Closing>;

pub(super) struct Session {
    shared: Arc<Shared>,
    socket: Socket,
    address: IpAddr,
    member: Option<Member>,
    deadline: Deadline,
    /// What it has asked for that is under way. Nothing more is read meanwhile.
    operation: Option<Operation>,
    subscriptions: Subscriptions,
    joinings: Vec<Joining>,
    unacked: Unacked,
    /// What came and waits until something is acknowledged. Nothing more is taken meanwhile, so that the windows of the
    /// subscriptions drop what is too much.
    waiting: VecDeque<(Arc<str>, Bytes)>,
}

/// Somebody who has said who he is.
struct Member {
    name: Arc<str>,
    client: Client,
    closed: Pin<Box<dyn Future<Output = BusError> + Send>>,
}

/// What comes next.
enum Next {
    Happened(Happened),
    /// It may not go on any longer.
    Over(Closing),
    /// The bus has ended its session.
    Closed(BusError),
    Draining,
}

/// What happened.
enum Happened {
    Said(Result<Incoming, Ending>),
    Done(Outcome),
    Arrived(Arrived),
    /// Something came from a ring, for this one of those that are joining.
    Fed(usize, Option<Bytes>),
    Timer,
}

/// What it is told before it is closed, and the reason by which that is counted.
type Last = (&'static str, &'static str);

impl Session {
    pub(super) fn new(shared: Arc<Shared>, socket: Socket, address: IpAddr) -> Self {
        let settings = shared.settings.popsub.as_ref();
        let (wait, retries) =
            settings.map(|settings| (settings.ack_timeout, settings.retries)).unwrap_or_default();
        Self {
            socket,
            address,
            member: None,
            deadline: Deadline::of_login(),
            operation: None,
            subscriptions: Subscriptions::default(),
            joinings: Vec::new(),
            unacked: Unacked::new(wait, retries),
            waiting: VecDeque::new(),
            shared,
        }
    }

    /// Serves it to its end.
    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let Some(popsub) = &shared.popsub else { return };
        let mut draining = pin!(shared.draining());
        let mut over = pin!(self.deadline.over());
        let (ending, last) = loop {
            let happened = match self.next(draining.as_mut(), over.as_mut()).await {
                Next::Happened(happened) => happened,
                Next::Over(Closing::NotLoggedIn) if self.operation.is_some() => {
                    // It is about to be let in, or not; that does not take long.
                    self.deadline.prolong_login();
                    over.set(self.deadline.over());
                    continue;
                }
                Next::Over(closing) => break (Some(closing), Some(last_of(closing))),
                Next::Closed(error) => break closing_of(&error),
                Next::Draining => break (Some(Closing::GoingAway), None),
            };
            // One that does not read holds up neither its own end nor the gateway's.
            tokio::select! {
                biased;
                done = self.step(popsub, happened) => if let Err(ending) = done {
                    break (ending, None);
                },
                () = draining.as_mut() => break (Some(Closing::GoingAway), None),
                closing = over.as_mut() => break (Some(closing), Some(last_of(closing))),
            }
        };
        // What it does not take by then it would have to take from another connection.
        let _ = timeout(limits::LAST_TIME, self.part(last)).await;
        shared.metrics.dropped(NAME, "closed", self.left());
        if let Some(closing) = ending {
            self.socket.close(closing).await;
        }
    }

    /// How many messages there are that it has not been sent.
    fn left(&self) -> u64 {
        let held: usize = self.joinings.iter().map(Joining::held).sum();
        let left = held + self.waiting.len() + self.socket.waiting();
        self.subscriptions.all_pending().saturating_add(left as u64)
    }

    /// Says what it is told last, and lets end what is under way: what was handed to the bus is known as published then.
    async fn part(&mut self, last: Option<Last>) {
        let operation = self.operation.take();
        let done = async {
            if let Some(operation) = operation {
                operation.await;
            }
        };
        let told = async {
            if let Some((reason, what)) = last {
                self.refuse(reason, what).await?;
            }
            self.socket.flush().await.map_err(|()| None)
        };
        let (_, _): ((), Result<(), Ending>) = tokio::join!(done, told);
    }

    async fn next(
        &mut self,
        draining: Pin<&mut impl Future<Output = ()>>,
        over: Pin<&mut impl Future<Output = Closing>>,
    ) -> Next {
        let timer = self.next_timer();
        let Self { socket, member, operation, subscriptions, joinings, waiting, .. } = self;
        let timer = async {
            match timer {
                Some(timer) => sleep_until(timer).await,
                None => pending().await,
            }
        };
        let is_busy = operation.is_some();
        let takes = waiting.is_empty();
        let closed = async {
            match member {
                Some(member) => member.closed.as_mut().await,
                None => pending().await,
            }
        };
        let done = async {
            match operation {
                Some(operation) => operation.as_mut().await,
                None => pending().await,
            }
        };
        tokio::select! {
            said = socket.recv(), if !is_busy => Next::Happened(Happened::Said(said)),
            outcome = done => Next::Happened(Happened::Done(outcome)),
            arrived = subscriptions.next(), if takes => Next::Happened(Happened::Arrived(arrived)),
            (index, text) = fed(joinings), if takes => Next::Happened(Happened::Fed(index, text)),
            () = timer => Next::Happened(Happened::Timer),
            error = closed => Next::Closed(error),
            closing = over => Next::Over(closing),
            // What is under way ends first; all of it is bounded in time.
            () = draining, if !is_busy => Next::Draining,
        }
    }

    fn next_timer(&mut self) -> Option<Instant> {
        let joinings = self.joinings.iter().map(Joining::until);
        joinings.chain(self.unacked.next_due()).min()
    }

    /// Does what is to be done, and with it all that is there by now.
    async fn step(&mut self, popsub: &PopSub, happened: Happened) -> Result<(), Ending> {
        match happened {
            Happened::Said(said) => self.said(popsub, said?).await?,
            Happened::Done(outcome) => {
                self.operation = None;
                self.done(outcome).await?;
            }
            Happened::Arrived(arrived) => self.arrived(popsub, arrived).await?,
            Happened::Fed(index, text) => self.fed(index, text).await?,
            Happened::Timer => self.timer().await?,
        }
        for _ in 0..BURST {
            if !self.waiting.is_empty() {
                break;
            }
            if let Some((index, text)) = fed(&mut self.joinings).now_or_never() {
                self.fed(index, text).await?;
            } else if let Some(arrived) = self.subscriptions.next().now_or_never() {
                self.arrived(popsub, arrived).await?;
            } else {
                break;
            }
        }
        self.socket.flush().await.map_err(|()| None)
    }

    async fn said(&mut self, popsub: &PopSub, said: Incoming) -> Result<(), Ending> {
        let parsed = match &said {
            Incoming::Text(text) => Request::parse(text),
            Incoming::Binary(_) => Err(Invalid::NotText),
        };
        let request = match parsed {
            Ok(request) => request,
            Err(why) => return self.refuse("invalid", &format!("invalid message: {why}")).await,
        };
        let request = match request {
            Request::Login { username, password } => {
                let shared = Arc::clone(&self.shared);
                self.operation = Some(operations::login(shared, self.address, username, password));
                return Ok(());
            }
            Request::Auth { token } => return self.authenticate(popsub.users.authenticate(&token)).await,
            other => other,
        };
        let Some(member) = &self.member else {
            self.refuse("unauthenticated", "must authenticate first").await?;
            return Err(Some(Closing::Policy("must authenticate first")));
        };
        let (shared, client) = (Arc::clone(&self.shared), member.client.clone());
        match request {
            Request::Login { .. } | Request::Auth { .. } => {}
            Request::Subscribe { topic } => match Topic::new(&topic) {
                Ok(topic) if self.subscriptions.contains(topic.as_str()) => {}
                Ok(_) if self.subscriptions.len() >= self.max_subscriptions() => {
                    let most = self.max_subscriptions();
                    let why = format!(
                        "too many subscriptions: a connection may have {most}; end one of them first"
                    );
                    return self.refuse("subscriptions", &why).await;
                }
                Ok(topic) => self.operation = Some(operations::subscribe(shared, client, topic)),
                Err(why) => return self.refuse("topic", &why.to_string()).await,
            },
            Request::Unsubscribe { topic } => {
                self.subscriptions.remove(&topic);
                self.forget(&topic);
                self.send_waiting().await?;
            }
            Request::Publish { topic, payload, message_id, qos } => match Topic::new(&topic) {
                Ok(_) => {
                    let (topic, message_id) = (topic.into_owned(), message_id.map(Into::into));
                    let publish = Publish { topic, payload, message_id, qos };
                    let name = Arc::clone(&member.name);
                    self.operation = Some(operations::publish(shared, client, name, publish));
                }
                Err(why) => return self.refuse("topic", &why.to_string()).await,
            },
            Request::Ack { message_id } => {
                self.unacked.acknowledge(&message_id);
                self.send_waiting().await?;
            }
        }
        Ok(())
    }

    /// Lets somebody in, or go on with another token of his.
    async fn authenticate(&mut self, known: Option<Known>) -> Result<(), Ending> {
        match (known, &mut self.member) {
            (Some(known), None) => {
                self.operation = Some(operations::enter(Arc::clone(&self.shared), known));
                Ok(())
            }
            (Some(known), Some(member)) if *member.name == *known.name => {
                self.deadline.set(known.expires);
                self.feed(Bytes::from_static(AUTHENTICATED)).await
            }
            _ => {
                self.refuse("token", "authentication failed").await?;
                Err(Some(Closing::Policy("authentication failed")))
            }
        }
    }

    async fn done(&mut self, outcome: Outcome) -> Result<(), Ending> {
        match outcome {
            Outcome::Done => Ok(()),
            Outcome::Answer(text) => self.feed(text).await,
            Outcome::LetIn(Known { name, expires, .. }, client) => {
                let other = client.clone();
                let closed = Box::pin(async move { other.closed().await });
                self.member = Some(Member { name: name.into(), client, closed });
                self.deadline.set(expires);
                self.socket.trust();
                self.feed(Bytes::from_static(AUTHENTICATED)).await
            }
            Outcome::NotLetIn(text) => {
                self.feed(text).await?;
                Err(Some(Closing::Policy("authentication failed")))
            }
            Outcome::Subscribed(subscribed) => {
                let Subscribed { topic, subscription, joining } = *subscribed;
                self.subscriptions.insert(&topic, subscription);
                self.joinings.extend(joining);
                Ok(())
            }
        }
    }

    async fn arrived(&mut self, popsub: &PopSub, arrived: Arrived) -> Result<(), Ending> {
        match arrived {
            Arrived::Message(topic, message) => {
                let text = broadcast(&self.shared, &popsub.ids, &message);
                let index = self.joinings.iter().position(|joining| joining.subscription == topic);
                let Some((index, joining)) =
                    index.and_then(|index| Some((index, self.joinings.get_mut(index)?)))
                else {
                    return self.deliver(topic, text).await;
                };
                let text = joining.arrived(text);
                if joining.is_full() {
                    self.follow_bus(index).await?;
                }
                match text {
                    Some(text) => self.deliver(topic, text).await,
                    None => Ok(()),
                }
            }
            Arrived::Gap(count, reason) => {
                self.shared.metrics.dropped(NAME, reason, count);
                Ok(())
            }
            Arrived::Ended(topic, reason) => {
                self.forget(&topic);
                // Where the session has ended, that is told as a whole.
                let is_let_in =
                    self.member.as_ref().is_some_and(|member| member.client.close_reason().is_none());
                match reason.filter(|_| is_let_in) {
                    Some(reason) => {
                        let why = format!("the subscription of {topic:?} has ended: {reason}");
                        self.refuse("ended", &why).await
                    }
                    None => Ok(()),
                }
            }
        }
    }

    async fn fed(&mut self, index: usize, text: Option<Bytes>) -> Result<(), Ending> {
        match text {
            Some(text) => {
                self.deliver_of(index, text).await?;
                match self.joinings.get(index) {
                    Some(joining) if joining.is_full() => self.follow_bus(index).await,
                    _ => Ok(()),
                }
            }
            None => self.follow_bus(index).await,
        }
    }

    /// Sends what came from a ring, or was held meanwhile.
    async fn deliver_of(&mut self, index: usize, text: Bytes) -> Result<(), Ending> {
        let Some(joining) = self.joinings.get(index) else { return Ok(()) };
        self.deliver(Arc::clone(&joining.subscription), text).await
    }

    async fn follow_bus(&mut self, index: usize) -> Result<(), Ending> {
        // What has come from the ring may be what the bus does not deliver.
        while let Some(Some(text)) = self
            .joinings
            .get_mut(index)
            .and_then(|joining| poll_fn(|context| joining.poll_feed(context)).now_or_never())
        {
            self.deliver_of(index, text).await?;
        }
        let Some(joining) = self.joinings.get_mut(index) else { return Ok(()) };
        if let Some(count) = joining.awaited() {
            tracing::debug!(
                topic = &*joining.subscription,
                count,
                "nothing is replayed, as what keeps it is far behind the bus"
            );
            self.shared.metrics.dropped(NAME, "replay", count);
        }
        for text in joining.follow_bus() {
            self.deliver_of(index, text).await?;
        }
        Ok(())
    }

    /// Sends a message, or lets it wait behind others until there is room for one more that has to be acknowledged.
    async fn deliver(&mut self, topic: Arc<str>, text: Bytes) -> Result<(), Ending> {
        self.waiting.push_back((topic, text));
        self.send_waiting().await
    }

    async fn send_waiting(&mut self) -> Result<(), Ending> {
        while let Some((topic, text)) = self.waiting.front() {
            if let Some(id) = id_to_acknowledge(text) {
                if self.unacked.is_full() {
                    break;
                }
                self.unacked.insert(id, topic, text.clone());
            }
            if let Some((_, text)) = self.waiting.pop_front() {
                self.push(text).await?;
            }
        }
        Ok(())
    }

    async fn timer(&mut self) -> Result<(), Ending> {
        let now = Instant::now();
        while let Some(due) = self.unacked.poll_due() {
            match due {
                Due::Again(texts) => {
                    for text in texts {
                        self.push(text).await?;
                    }
                }
                Due::GivenUp(count) => self.shared.metrics.dropped(NAME, "unacknowledged", count),
            }
        }
        self.send_waiting().await?;
        for index in (0..self.joinings.len()).rev() {
            self.look_at_joining(index, now).await?;
        }
        Ok(())
    }

    async fn look_at_joining(&mut self, index: usize, now: Instant) -> Result<(), Ending> {
        let Some(joining) = self.joinings.get_mut(index).filter(|joining| joining.until() <= now) else {
            return Ok(());
        };
        if joining.is_fed() {
            return match joining.has_caught_up(&self.shared.bus) {
                true => self.follow_bus(index).await,
                false => Ok(()),
            };
        }
        if joining.is_done(self.subscriptions.pending(&joining.subscription)) {
            self.joinings.swap_remove(index);
            return Ok(());
        }
        joining.remember();
        Ok(())
    }

    /// A subscription is no longer there.
    fn forget(&mut self, topic: &str) {
        self.joinings.retain(|joining| &*joining.subscription != topic);
        self.waiting.retain(|(waiting, _)| &**waiting != topic);
        self.unacked.end(topic);
    }

    /// Sends a message.
    async fn push(&mut self, text: Bytes) -> Result<(), Ending> {
        if is_marked(&text) {
            self.shared.metrics.sealed(NAME);
        }
        self.feed(text).await
    }

    async fn refuse(&mut self, reason: &'static str, what: &str) -> Result<(), Ending> {
        self.shared.metrics.refused(NAME, reason);
        self.feed(error(what)).await
    }

    async fn feed(&mut self, text: Bytes) -> Result<(), Ending> {
        self.socket.feed(text).await.map_err(|()| None)
    }

    fn max_subscriptions(&self) -> usize {
        self.shared.settings.popsub.as_ref().map_or(0, |settings| settings.max_subscriptions)
    }
}

/// What is told to who may not go on.
fn last_of(over: Closing) -> Last {
    match over {
        Closing::NotLoggedIn => ("login_time", "not authenticated in time"),
        _ => ("expired", "the token has expired; log in again"),
    }
}

/// How it ends when the bus has ended its session.
fn closing_of(error: &BusError) -> (Ending, Option<Last>) {
    tracing::debug!(%error, "the bus has ended a session of the dialect of PopSub");
    let (told, closing) = match error {
        BusError::Denied { .. } => ("authentication is no longer good", Closing::Expired),
        BusError::Draining { .. } | BusError::Closed { .. } => return (Some(Closing::GoingAway), None),
        _ => ("the connection to the bus is lost", Closing::Failed),
    };
    (Some(closing), Some(("closed", told)))
}
