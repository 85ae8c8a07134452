//! The connection to NATS: opened without waiting, and back by itself whenever it is lost.
//!
//! One client of NATS does all the work; this is how it is set up, and what watches it. Its tasks are its own: they end when the
//! [`Connection`] and all clones of its client are gone. Where NATS is away at that moment, the one that tries to connect stops trying and stays as it
//! is, some kilobytes, until the runtime ends: the client offers no way to end it.

use std::future::pending;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerInfo};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::error::NatsError;
use crate::limits;
use crate::settings::NatsSettings;
use crate::state::{LinkCounts, LinkState, Observed, Server};

/// A connection to NATS. Clones are the same one; it ends with the last of them.
///
/// # Examples
/// ```no_run
/// use whispeer_cluster_nats::{Connection, LinkState, NatsSettings};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let connection = Connection::open(&NatsSettings::new("nats://localhost")?).await?;
/// let mut state = connection.state();
/// state.wait_for(LinkState::is_connected).await?;
/// connection.client().publish("whispeer.t.greetings", "hello".into()).await?;
/// connection.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Connection {
    link: Arc<Link>,
}

#[derive(Debug)]
struct Link {
    client: Client,
    observed: Arc<Observed>,
}

impl Connection {
    /// Opens a connection. It does not wait for NATS: that is there when [`state`](Self::state) says so, and until then whatever is sent waits.
    ///
    /// That NATS is away is logged once as a warning, with the reason as soon as that is known, and once when it is there. The client of NATS
    /// logs each of its attempts besides, as `async_nats`, which programs may want to leave out.
    ///
    /// # Errors
    /// [`NatsError`] for files that cannot be used, and for a bus that is somebody in more than one way. Nothing is started then.
    ///
    /// # Cancel safety
    /// Nothing is left when the future is dropped.
    pub async fn open(settings: &NatsSettings) -> Result<Self, NatsError> {
        Self::open_as(settings, false).await
    }

    /// As [`open`](Self::open), for a connection beside the bus's link, which tells in the log how NATS is: this one tells nothing. What
    /// goes over it holds up nothing of the link, and what disturbs it is none of that one's.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Cancel safety
    /// Nothing is left when the future is dropped.
    pub async fn open_beside(settings: &NatsSettings) -> Result<Self, NatsError> {
        Self::open_as(settings, true).await
    }

    async fn open_as(settings: &NatsSettings, is_quiet: bool) -> Result<Self, NatsError> {
        let (servers, options) = settings.options().await?;
        if let Some(host) = settings.told_in_the_clear().filter(|_| !is_quiet) {
            tracing::warn!(
                host,
                "the bus's password for NATS goes over the network as it is, unless that server asks for TLS; tls:// in its URL sees to it"
            );
        }
        let observed = Arc::new(Observed::new(settings.shown_servers(), is_quiet));
        let back = Arc::new(OnceLock::<Weak<Link>>::new());
        let options = watched(options, &observed, &back)
            .ping_interval(limits::LINK_PING)
            .connection_timeout(limits::LINK_CONNECT)
            .reconnect_delay_callback(pause)
            .subscription_capacity(limits::LINK_SUBSCRIPTION_MESSAGES)
            .client_capacity(limits::LINK_COMMANDS)
            .max_reconnects(None)
            .retry_on_initial_connect()
            // What the bus publishes it has given to its own already.
            .no_echo();
        // It fails for servers that cannot be parsed alone, and those have been.
        let client = options.connect(servers).await.map_err(|error| NatsError::Servers(error.to_string()))?;
        let link = Arc::new(Link { client, observed });
        let _ = back.set(Arc::downgrade(&link));
        Ok(Self { link })
    }

    /// The client of NATS.
    #[must_use]
    pub fn client(&self) -> Client {
        self.link.client.clone()
    }

    /// How the link is, and what becomes of it.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.link.observed.state.subscribe()
    }

    /// Counts all after which messages may be missing here: NATS was lost and is back, messages were dropped because they were not taken
    /// fast enough, or the server is about to end. What is sent by the client from then on reaches NATS behind all subscriptions that it had.
    #[must_use]
    pub fn disturbances(&self) -> watch::Receiver<u64> {
        self.link.observed.disturbances.subscribe()
    }

    /// Whether more servers are known than the one that it is connected to, if any.
    pub(crate) async fn has_other_servers(&self) -> bool {
        self.link.client.server_pool().await.is_ok_and(|servers| servers.len() > 1)
    }

    /// What has happened to the link so far.
    #[must_use]
    pub fn counts(&self) -> LinkCounts {
        let (observed, client) = (&self.link.observed, self.link.client.statistics());
        LinkCounts {
            connects: client.connects.load(Ordering::Relaxed),
            disconnects: observed.disconnects.load(Ordering::Relaxed),
            slow_consumer_events: observed.slow_consumer_events.load(Ordering::Relaxed),
            lame_ducks: observed.lame_ducks.load(Ordering::Relaxed),
            in_messages: client.in_messages.load(Ordering::Relaxed),
            in_bytes: client.in_bytes.load(Ordering::Relaxed),
            out_messages: client.out_messages.load(Ordering::Relaxed),
            out_bytes: client.out_bytes.load(Ordering::Relaxed),
        }
    }

    /// Closes the connection for all who have it: ends its subscriptions, sends what it was given, and ends, within
    /// [`LINK_CLOSE`](limits::LINK_CLOSE). Where NATS is away, what it was given is lost.
    ///
    /// # Cancel safety
    /// When dropped, it is not tried to connect any more, and the connection ends with its last clone.
    pub async fn close(&self) {
        let observed = &self.link.observed;
        observed.closed.send_replace(true);
        let mut state = observed.state.subscribe();
        let is_connected = state.borrow_and_update().is_connected();
        let ended = async {
            // Where NATS is away, this is done if an attempt that is under way succeeds.
            if self.link.client.drain().await.is_ok() && is_connected {
                let _ = state.wait_for(|state| !state.is_connected()).await;
            }
        };
        if timeout(limits::LINK_CLOSE, ended).await.is_err() && is_connected {
            tracing::warn!("NATS did not take in time what it was given last");
        }
        observed.state.send_replace(LinkState::Closed);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.observed.closed.send_replace(true);
    }
}

/// Has the link observed by what the client calls.
fn watched(
    options: ConnectOptions,
    observed: &Arc<Observed>,
    back: &Arc<OnceLock<Weak<Link>>>,
) -> ConnectOptions {
    let (attempts, events, back) = (Arc::clone(observed), Arc::clone(observed), Arc::clone(back));
    options
        // Called before each attempt, with what is known of those before. It leaves the choice of a server as it is.
        .reconnect_to_server_callback(move |servers, _| {
            attempts.attempted(servers.iter().map(|server| (&server.addr, server.last_error.as_deref())));
            let closed = attempts.is_closed();
            async move { if closed { pending().await } else { None } }
        })
        .event_callback(move |event| {
            let (observed, back) = (Arc::clone(&events), Arc::clone(&back));
            async move {
                match event {
                    Event::Connected => observed.connected(greeting(&observed, &back).await),
                    other => observed.happened(other),
                }
            }
        })
}

/// What the server says of itself that was just connected to. The client tells of the connection a moment before it shows this.
async fn greeting(observed: &Observed, back: &OnceLock<Weak<Link>>) -> Server {
    let mut seen = Server::default();
    for _ in 0..limits::LINK_GREETING_LOOKS {
        let Some(link) = back.get().and_then(Weak::upgrade) else {
            sleep(Duration::from_millis(1)).await;
            continue;
        };
        seen = link.client.server_info().into();
        drop(link);
        // Each connection has another number at its server.
        if observed.is_new(&seen) {
            break;
        }
        sleep(Duration::from_millis(1)).await;
    }
    seen
}

impl From<ServerInfo> for Server {
    fn from(info: ServerInfo) -> Self {
        Self {
            id: info.server_id,
            name: info.server_name,
            version: info.version,
            cluster: info.cluster,
            jetstream: info.jetstream,
            max_payload: info.max_payload,
            client: info.client_id,
        }
    }
}

/// How long to wait before an attempt, of which this is the number since NATS was there last, from 1 on.
fn pause(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(2)).unwrap_or(u32::MAX);
    let longest =
        limits::LINK_PAUSE_FIRST.saturating_mul(2_u32.saturating_pow(doublings)).min(limits::LINK_PAUSE_LAST);
    // The first attempt waits for chance alone: nothing has failed yet, but many buses may have lost the same server.
    let least = if attempt < 2 { Duration::ZERO } else { longest / 2 };
    // Without chance it is the longest.
    let chance = getrandom::u32().unwrap_or(u32::MAX);
    least + (longest - least).mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_differ_by_chance() {
        for (attempt, longest) in
            [(1, 50), (2, 50), (3, 100), (4, 200), (8, 3200), (9, 5000), (1000, 5000), (usize::MAX, 5000)]
        {
            let pauses: Vec<_> = (0..64).map(|_| pause(attempt).as_millis()).collect();
            assert!(pauses.iter().all(|pause| *pause <= longest), "attempt {attempt}: {pauses:?}");
            assert!(
                attempt == 1 || pauses.iter().all(|pause| *pause >= longest / 2),
                "attempt {attempt}: {pauses:?}"
            );
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "attempt {attempt}: {pauses:?}");
        }
    }
}
