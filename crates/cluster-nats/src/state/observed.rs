//! What is known of a link, from what its client tells.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_nats::{Event, ServerAddr, ServerError};
use tokio::sync::watch;
use tokio::time::Instant;

use super::trouble::{Kind, Trouble};
use super::{LinkState, Server};
use crate::limits;

/// Kept by all who have to do with one link.
#[derive(Debug)]
pub(crate) struct Observed {
    /// As the servers are told of in the log.
    servers: String,
    /// Another one tells the log of the same servers.
    is_quiet: bool,
    pub(crate) state: watch::Sender<LinkState>,
    pub(crate) disturbances: watch::Sender<u64>,
    /// The link was closed here: nothing is tried any more.
    pub(crate) closed: watch::Sender<bool>,
    pub(crate) disconnects: AtomicU64,
    pub(crate) slow_consumer_events: AtomicU64,
    pub(crate) lame_ducks: AtomicU64,
    /// The last connection: the server's id, and the connection's number there.
    last: Mutex<(String, u64)>,
    said: Mutex<Said>,
}

/// What the log has been told already.
#[derive(Debug, Default)]
struct Said {
    /// Kinds of trouble since NATS was there last.
    troubles: Vec<Kind>,
    /// What the server complained of since the link is connected.
    complaints: HashSet<String>,
    /// It was told that messages were dropped here, since the link is connected.
    slow: bool,
}

impl Observed {
    pub(crate) fn new(servers: String, is_quiet: bool) -> Self {
        Self {
            servers,
            is_quiet,
            state: watch::Sender::new(LinkState::Connecting { since: Instant::now(), error: None }),
            disturbances: watch::Sender::new(0),
            closed: watch::Sender::new(false),
            disconnects: AtomicU64::new(0),
            slow_consumer_events: AtomicU64::new(0),
            lame_ducks: AtomicU64::new(0),
            last: Mutex::default(),
            said: Mutex::default(),
        }
    }

    /// Takes in what happened, but for connects: these come with what the server says of itself.
    pub(crate) fn happened(&self, event: Event) {
        match event {
            Event::Disconnected => self.lost(),
            Event::SlowConsumer(_) => {
                self.slow_consumer_events.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut self.said().slow, true) && !self.is_quiet {
                    tracing::warn!(
                        "messages from NATS are dropped here, as they are not taken fast enough; gaps are reported"
                    );
                }
                self.disturb();
            }
            Event::LameDuckMode => {
                self.lame_ducks.fetch_add(1, Ordering::Relaxed);
                self.disturb();
            }
            Event::ServerError(error) => self.complained(&error),
            Event::Closed => _ = self.state.send_replace(LinkState::Closed),
            // Why an attempt failed is told by the list of servers, with more words.
            Event::ClientError(_) | Event::Connected | Event::Draining => {}
        }
    }

    /// NATS is there.
    pub(crate) fn connected(&self, server: Server) {
        let again = matches!(*self.state.borrow(), LinkState::Connected { .. } | LinkState::Away { .. });
        if self.is_closed() {
            return;
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (server.id.clone(), server.client);
        *self.said() = Said::default();
        if !self.is_quiet {
            tracing::info!(
                server = server.name,
                version = server.version,
                "NATS is there: the bus is joined to others"
            );
        }
        self.state.send_replace(LinkState::Connected { server, since: Instant::now() });
        if again {
            self.disturb();
        }
    }

    /// All servers were tried in vain, of which this is known.
    pub(crate) fn attempted<'a>(&self, servers: impl Iterator<Item = (&'a ServerAddr, Option<&'a str>)>) {
        // Those that were reached since have none.
        if let Some(trouble) = Trouble::of_servers(servers) {
            self.troubled(trouble);
        }
    }

    /// Whether this is another connection than the last one.
    pub(crate) fn is_new(&self, server: &Server) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        !server.id.is_empty() && (last.0.as_str(), last.1) != (server.id.as_str(), server.client)
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    fn lost(&self) {
        self.disconnects.fetch_add(1, Ordering::Relaxed);
        if self.is_closed() {
            return;
        }
        self.state.send_replace(LinkState::Away { since: Instant::now(), error: None });
        self.said().troubles.push(Kind::Unreachable);
        if !self.is_quiet {
            tracing::warn!(
                servers = self.servers,
                "NATS is away: the bus serves its own, and joins when NATS is back"
            );
        }
    }

    /// Says so if nothing like it was said since NATS was there last.
    fn troubled(&self, trouble: Trouble) {
        let mut said = self.said();
        // A host has several addresses, and nobody may listen at the last one that was tried.
        if self.is_closed() || said.troubles.iter().any(|worse| *worse > trouble.kind) {
            return;
        }
        let mut is_news = false;
        self.state.send_if_modified(|state| match state {
            LinkState::Connecting { error, .. } | LinkState::Away { error, .. } => {
                is_news = error.as_ref() != Some(&trouble.text);
                if is_news {
                    *error = Some(trouble.text.clone());
                }
                is_news
            }
            LinkState::Connected { .. } | LinkState::Closed => false,
        });
        if is_news && !self.is_quiet && !said.troubles.contains(&trouble.kind) {
            said.troubles.push(trouble.kind);
            drop(said);
            let (servers, error) = (&self.servers, trouble.text);
            tracing::warn!(
                servers,
                error,
                "NATS cannot be joined: the bus serves its own, and joins when it can"
            );
        }
    }

    /// The server says what it does not allow, or why it ends the connection.
    fn complained(&self, error: &ServerError) {
        let complaint = Trouble::new(&error.to_string());
        let mut said = self.said();
        if said.complaints.len() < limits::LINK_COMPLAINTS && said.complaints.insert(complaint.text.clone()) {
            drop(said);
            tracing::warn!(error = complaint.text, "NATS complains of what the bus does");
        }
    }

    fn disturb(&self) {
        self.disturbances.send_modify(|count| *count += 1);
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server { id: "N1".into(), ..Server::default() }
    }

    #[tokio::test]
    async fn all_after_which_messages_may_be_missing_is_a_disturbance_and_the_first_connect_is_none() {
        let link = Observed::new("nats://localhost:4222".into(), false);
        let disturbances = link.disturbances.subscribe();
        link.connected(server());
        assert_eq!(*disturbances.borrow(), 0);
        link.happened(Event::SlowConsumer(7));
        link.happened(Event::LameDuckMode);
        assert_eq!(*disturbances.borrow(), 2);
        link.happened(Event::Disconnected);
        assert_eq!(*disturbances.borrow(), 2, "nothing can be asked for before NATS is back");
        link.connected(server());
        assert_eq!(*disturbances.borrow(), 3);
        // The client may lose the event of a loss among many others.
        link.connected(server());
        assert_eq!(*disturbances.borrow(), 4);
    }

    #[tokio::test]
    async fn a_link_tells_why_nats_is_not_reached_until_it_is() {
        let link = Observed::new("nats://localhost:4222".into(), false);
        link.troubled(Trouble::new("Connection refused"));
        assert_eq!(link.state.borrow().error(), Some("Connection refused"));
        link.connected(server());
        link.troubled(Trouble::new("late"));
        assert_eq!(link.state.borrow().server(), Some(&server()));
        link.happened(Event::Disconnected);
        assert_eq!(link.state.borrow().name(), "away");
        link.troubled(Trouble::new("authorization violation"));
        assert!(link.state.borrow().error().unwrap().starts_with("authorization violation"));
        assert_eq!(link.said().troubles, [Kind::Unreachable, Kind::Refused]);
        link.happened(Event::Closed);
        assert_eq!(*link.state.borrow(), LinkState::Closed);
    }

    #[tokio::test]
    async fn complaints_of_a_server_are_kept_in_a_bounded_number() {
        let link = Observed::new("nats://localhost:4222".into(), false);
        for number in 0..1000 {
            link.happened(Event::ServerError(ServerError::Other(format!("no subject {number}"))));
        }
        assert_eq!(link.said().complaints.len(), limits::LINK_COMPLAINTS);
    }
}
