//! Coming back to the bus after the connection broke.
//!
//! The driver does it, in its own task. Where both sides can, the session goes on as if nothing had
//! happened: see `transport::resume`. Otherwise the client gets a new session; what it subscribes to and
//! serves is asked for again, what had not been sent is sent there, and how everything else went that had not
//! been answered is told to be unknown.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::dispatch::refusal;
use super::shared::lost;
use crate::auth::Credentials;
use crate::error::{BusError, BusResult, ErrorClass};
use crate::limits;
use crate::proto::{ContentRef, Header, Hello, Kind, Resume, ResumeToken, Shown, VERSION, Welcome};
use crate::transport::{Address, Batch, ConnectOptions, Incoming, Link, LinkSender, Sent, connect_with};

/// How a client comes back to the bus after its connection broke.
///
/// The first attempt is made at once, give or take a tenth of [`first_delay`](Self::first_delay); each one that
/// fails doubles the time to the next, of which a random half is waited.
///
/// # Examples
/// ```no_run
/// use std::time::Duration;
/// use whispeer::client::Reconnect;
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let mut reconnect = Reconnect::default();
/// reconnect.give_up_after = None;
/// reconnect.max_delay = Duration::from_secs(30);
/// let client = Client::builder().reconnect(reconnect).connect("tls://bus.example.com:4242").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reconnect {
    /// The time after which the second attempt is made. Default 100 ms.
    pub first_delay: Duration,
    /// The longest time between two attempts. Default 5 s.
    pub max_delay: Duration,
    /// How long the client tries before it ends with why the last attempt failed; `None` for as long as it
    /// lives. Default 2 minutes. So long it also asks again at a bus that is back for what it read there, where that has not
    /// got its store yet.
    pub give_up_after: Option<Duration>,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            first_delay: limits::RECONNECT_DELAY,
            max_delay: limits::RECONNECT_DELAY_MAX,
            give_up_after: Some(limits::RECONNECT_PATIENCE),
        }
    }
}

impl Reconnect {
    /// How long to wait after so many attempts have failed.
    fn delay(&self, failed: u32) -> Duration {
        if failed == 0 {
            return self.first_delay.mul_f64(random_part() / 10.0);
        }
        let whole = self.first_delay.saturating_mul(1 << (failed - 1).min(16)).min(self.max_delay);
        whole.mul_f64(0.5 + random_part() / 2.0)
    }
}

/// A number from 0 to 1, so that clients of one bus do not come back all at the same moment.
fn random_part() -> f64 {
    // Without it the delays are the same for all, which still works.
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}

/// What happened to the connection of a client; see [`Client::events`](super::Client::events).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ClientEvent {
    /// The bus has welcomed the client for the first time.
    Connected,
    /// The connection broke, or the bus ended it; the client tries to come back.
    Disconnected {
        /// What is known of the cause.
        reason: BusError,
    },
    /// The client is connected again.
    Reconnected {
        /// Whether the session goes on, and nothing is lost. Otherwise it is a new one: subscriptions tell a gap, and
        /// what had been sent and not been answered ended as [`BusError::OutcomeUnknown`].
        resumed: bool,
    },
    /// The bus takes nothing new and is about to end: go elsewhere, if there is another.
    Draining,
}

/// Receives [`ClientEvent`]s, from the time on at which it was made.
pub struct ClientEvents(broadcast::Receiver<ClientEvent>);

impl ClientEvents {
    pub(super) fn new(receiver: broadcast::Receiver<ClientEvent>) -> Self {
        Self(receiver)
    }

    /// The next event; `None` when the client has ended. Who leaves more than 64 of them untaken misses the oldest.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<ClientEvent> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl fmt::Debug for ClientEvents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientEvents").finish_non_exhaustive()
    }
}

/// A function that gives the credentials to show now.
#[derive(Clone)]
pub(super) struct CredentialSource(Arc<dyn Fn() -> Asked + Send + Sync>);

type Asked = Pin<Box<dyn Future<Output = BusResult<Credentials>> + Send>>;

impl CredentialSource {
    pub(super) fn new<F, A>(source: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = BusResult<Credentials>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(source())))
    }

    pub(super) async fn ask(&self) -> BusResult<Credentials> {
        (self.0)().await
    }
}

impl fmt::Debug for CredentialSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CredentialSource(..)")
    }
}

/// Where the client's buses are.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// One at least.
    addresses: Vec<Address>,
    /// Which of them is the one to try, or connected to.
    at: usize,
}

impl Places {
    /// Of these addresses the client is at one.
    pub(super) fn new(addresses: Vec<Address>, at: usize) -> Self {
        Self { addresses, at }
    }

    pub(super) fn current(&self) -> Option<&Address> {
        self.addresses.get(self.at)
    }

    /// Whether a client would come back unless it is told otherwise.
    pub(super) fn suggest_coming_back(&self) -> bool {
        self.addresses.len() > 1 || self.current().is_some_and(Address::is_remote)
    }

    fn move_on(&mut self) {
        self.at = (self.at + 1) % self.addresses.len().max(1);
    }

    /// How often all of them have been tried where there were so many attempts, if each of them equally often.
    fn rounds(&self, attempts: u32) -> Option<u32> {
        let count = u32::try_from(self.addresses.len().max(1)).unwrap_or(u32::MAX);
        attempts.is_multiple_of(count).then_some(attempts / count)
    }
}

/// What is needed to come back, and how far that is.
pub(super) struct Return {
    policy: Reconnect,
    places: Places,
    options: ConnectOptions,
    hello: Hello,
    /// What gives the credentials for each attempt; without it they are those of `hello`.
    credentials: Option<CredentialSource>,
    /// How long one attempt may take.
    timeout: Duration,
    /// The session to go on with, and at which of the addresses.
    session: Option<(usize, u64, ResumeToken)>,
    state: Progress,
    /// When the connection broke, and how many attempts have failed since.
    since: Instant,
    failed: u32,
    /// How many addresses in a row have said what another attempt would not change.
    final_answers: usize,
}

enum Progress {
    /// There is a connection.
    Connected,
    Waiting(Pin<Box<Sleep>>),
    Trying(Pin<Box<dyn Future<Output = BusResult<Fresh>> + Send>>),
}

/// A connection over which the bus has answered.
pub(super) struct Fresh {
    pub(super) link: Link,
    /// What was read beyond the answer.
    pub(super) rest: Vec<u8>,
    pub(super) welcome: Welcome,
}

impl Return {
    pub(super) fn new(
        policy: Reconnect,
        places: Places,
        options: ConnectOptions,
        hello: Hello,
        credentials: Option<CredentialSource>,
        timeout: Duration,
    ) -> Self {
        let (state, since) = (Progress::Connected, Instant::now());
        Self {
            policy,
            places,
            options,
            hello,
            credentials,
            timeout,
            session: None,
            state,
            since,
            failed: 0,
            final_answers: 0,
        }
    }

    /// Whether a session that the bus ends for this reason is followed by another: the reason is the bus's own end,
    /// or what the client has shown, and it can show something else.
    pub(super) fn follows(&self, reason: &BusError) -> bool {
        let shows_otherwise = self.credentials.is_some() || self.options.may_prove_otherwise();
        may_come_back(reason) || (shows_otherwise && matches!(reason, BusError::Denied { .. }))
    }

    /// The session to go on with after the next loss, or else to take the place of: the bus may not have noticed by then
    /// that it is gone.
    pub(super) fn note(&mut self, welcome: &Welcome) {
        self.session = Some((self.places.at, welcome.session, welcome.resume_token.clone()));
    }

    /// The session is over: the next one is new.
    pub(super) fn forget(&mut self) {
        self.session = None;
    }

    /// The session is over for this reason. If it is the bus's own end, another is tried first, if there is one.
    pub(super) fn leave(&mut self, reason: &BusError) {
        self.forget();
        if matches!(reason, BusError::Closed { .. } | BusError::Draining { .. }) {
            self.places.move_on();
        }
    }

    /// Whether there is another bus to go to.
    pub(super) fn has_others(&self) -> bool {
        self.places.addresses.len() > 1
    }

    /// Whether attempts are being made.
    pub(super) fn is_under_way(&self) -> bool {
        !matches!(self.state, Progress::Connected)
    }

    /// Begins to try.
    pub(super) fn begin(&mut self) {
        self.since = Instant::now();
        (self.failed, self.final_answers) = (0, 0);
        self.state = Progress::Waiting(Box::pin(sleep(self.policy.delay(0))));
    }

    /// The client is connected.
    pub(super) fn done(&mut self) {
        self.state = Progress::Connected;
    }

    /// The answer of the bus to the next attempt, of a client that has received so many bytes of its link.
    ///
    /// # Errors
    /// Why the client gives up.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, received: u64) -> Poll<BusResult<Fresh>> {
        loop {
            match &mut self.state {
                Progress::Connected => return Poll::Pending,
                Progress::Waiting(sleep) => {
                    if sleep.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    let Some(address) = self.places.current().cloned() else { return Poll::Pending };
                    // The secret of a session is for the bus that it is of.
                    let session = self.session.clone().filter(|(at, ..)| *at == self.places.at);
                    let resume = session.map(|(_, session, token)| Resume { session, token, received });
                    let hello = Hello { resume, ..self.hello.clone() };
                    let credentials = self.credentials.clone();
                    let (limit, what) = (self.timeout, format!("connecting to {address} again"));
                    let attempt = attempt(address, self.options.clone(), hello, credentials);
                    self.state = Progress::Trying(Box::pin(async move {
                        let timed_out = |_| Err(BusError::TimedOut { what, after: limit });
                        timeout(limit, attempt).await.unwrap_or_else(timed_out)
                    }));
                }
                Progress::Trying(attempt) => match attempt.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(fresh)) => {
                        // In case it turns out to be of no use.
                        self.wait();
                        return Poll::Ready(Ok(fresh));
                    }
                    Poll::Ready(Err(error)) => {
                        tracing::debug!(%error, attempts = self.failed + 1, "not connected again yet");
                        let spent = self.is_spent(self.since);
                        // What one bus says for good another may not.
                        self.final_answers = if is_final(&error) { self.final_answers + 1 } else { 0 };
                        if spent || self.final_answers >= self.places.addresses.len() {
                            return Poll::Ready(Err(error));
                        }
                        self.places.move_on();
                        self.wait();
                    }
                },
            }
        }
    }

    /// How long to wait for what has been tried so often in vain at a bus that is there.
    pub(super) fn delay(&self, failed: u32) -> Duration {
        self.policy.delay(failed)
    }

    /// Whether what was begun then has been tried for as long as the client tries.
    pub(super) fn is_spent(&self, since: Instant) -> bool {
        self.policy.give_up_after.is_some_and(|after| since.elapsed() >= after)
    }

    /// Waits for the next attempt, longer after each round through all addresses.
    fn wait(&mut self) {
        self.failed = self.failed.saturating_add(1);
        let rounds = self.places.rounds(self.failed).unwrap_or(0);
        self.state = Progress::Waiting(Box::pin(sleep(self.policy.delay(rounds))));
    }
}

/// Whether another attempt would end the same way. Files of a certificate that is being renewed, and the policy of a
/// bus, may be as they should a moment later.
fn is_final(error: &BusError) -> bool {
    match error {
        BusError::Denied { .. } | BusError::InvalidSettings(_) => false,
        BusError::UnsupportedVersion { .. } => true,
        other => other.class() == ErrorClass::Misuse,
    }
}

/// Whether a bus that ends the connection for this reason can be come back to: the reason is its own end.
fn may_come_back(reason: &BusError) -> bool {
    matches!(
        reason,
        BusError::Closed { .. }
            | BusError::Draining { .. }
            | BusError::Disconnected { .. }
            | BusError::KeepAlive { .. }
    )
}

/// Connects and introduces the client.
async fn attempt(
    address: Address,
    options: ConnectOptions,
    mut hello: Hello,
    credentials: Option<CredentialSource>,
) -> BusResult<Fresh> {
    if let Some(source) = credentials {
        hello.credentials = Some(Shown::from(&source.ask().await?));
    }
    let link = connect_with(&address, &options).await?;
    if let Some(link) = link.sender.resumable() {
        // It lends its connection to the client's link, and must not confirm anything by itself.
        link.last();
    }
    introduce(link, &hello).await
}

/// Says hello over a new connection, and waits for the answer.
async fn introduce(mut link: Link, hello: &Hello) -> BusResult<Fresh> {
    let broken = |error: io::Error| lost(&error);
    let mut batch = Batch::new(link.sender.form());
    batch.push(&Header::new(Kind::Hello, 0, 0), &ContentRef::of_payload(&hello.encode()));
    while link.sender.try_send(&mut batch).map_err(broken)? == Sent::Blocked {
        let room = |context: &mut Context<'_>| {
            let room = link.sender.poll_ready(context).map_err(broken);
            gone(&*link.sender).map_or(room, |error| Poll::Ready(Err(error)))
        };
        poll_fn(room).await?;
    }
    let mut incoming = Incoming::new(link.sender.form(), limits::HANDSHAKE_FRAME_LIMIT);
    loop {
        if let Some((header, content)) = incoming.next_frame()? {
            let welcome = match header.kind {
                Kind::Welcome => Welcome::decode(content.payload())?,
                Kind::Goodbye => return Err(refusal(content.payload()).into_error()),
                kind => return Err(BusError::Protocol { what: format!("{kind:?} in answer to HELLO") }),
            };
            if welcome.version != VERSION {
                let what = format!("the bus chose {}, this client speaks {VERSION}", welcome.version);
                return Err(BusError::UnsupportedVersion { what });
            }
            let rest = incoming.take_rest();
            return Ok(Fresh { link, rest, welcome });
        }
        let read = poll_fn(|context| {
            let read = link.receiver.poll_receive(context, &mut incoming);
            match gone(&*link.sender) {
                Some(error) if read.is_pending() => Poll::Ready(Err(error)),
                _ => read.map_err(broken),
            }
        });
        if read.await? == 0 {
            return Err(BusError::Disconnected { reason: "closed during the handshake".into() });
        }
    }
}

/// Why there is no connection any more. A link that may outlive it only stands still.
fn gone(sender: &dyn LinkSender) -> Option<BusError> {
    let reason = sender.resumable()?.lost()?;
    Some(BusError::Disconnected { reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_vary_by_half() {
        let policy = Reconnect::default();
        let (first, longest) = (policy.first_delay, policy.max_delay);
        for _ in 0..100 {
            assert!(policy.delay(0) <= first / 10);
            for failed in 1..40 {
                let whole = first.saturating_mul(1 << (failed - 1).min(16)).min(longest);
                let delay = policy.delay(failed);
                assert!(whole / 2 <= delay && delay <= whole, "{failed}: {delay:?}");
            }
        }
        assert_eq!(Reconnect { first_delay: Duration::ZERO, ..policy }.delay(5), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_client_goes_to_the_next_bus_when_its_own_ends_and_not_when_its_session_does() {
        let addresses = ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"].map(|address| address.parse().unwrap());
        let places = Places::new(addresses.to_vec(), 0);
        let options = ConnectOptions::default();
        let mut back = Return::new(
            Reconnect::default(),
            places,
            options,
            Hello::default(),
            None,
            Duration::from_secs(1),
        );
        assert!(back.has_others());
        for (reason, at) in [
            (BusError::Denied { what: "the token has expired".into() }, 0),
            (BusError::Disconnected { reason: "reset".into() }, 0),
            (BusError::Draining { what: "the bus".into() }, 1),
            (BusError::Closed { what: "the bus".into() }, 0),
        ] {
            back.leave(&reason);
            assert_eq!(back.places.at, at, "{reason:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_breaks_before_anything_is_sent_is_noticed_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let options = ConnectOptions { lasting: true, ..ConnectOptions::default() };
        let link = connect_with(&Address::Unix(path), &options).await.unwrap();
        link.sender.resumable().unwrap().last();
        drop(listener);
        let started = Instant::now();
        let introduced = timeout(Duration::from_secs(5), introduce(link, &Hello::default())).await;
        let error = introduced.expect("not only when the time is over").map(drop).unwrap_err();
        assert!(matches!(error, BusError::Disconnected { .. }), "{error:?}");
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[test]
    fn what_ends_the_same_way_is_not_tried_again() {
        assert!(!is_final(&BusError::InvalidSettings("a certificate without its key".into())));
        assert!(!is_final(&BusError::Denied { what: "x".into() }));
        assert!(is_final(&BusError::FrameTooLarge { size: 2, limit: 1 }));
        assert!(is_final(&BusError::UnsupportedVersion { what: "x".into() }));
        assert!(!is_final(&BusError::Disconnected { reason: "x".into() }));
        assert!(!may_come_back(&BusError::Protocol { what: "x".into() }));
        assert!(!may_come_back(&BusError::ControlOverrun { bytes: 1 }));
    }
}
