//! What plugins are told of sessions, of what these ask for, and of the bus itself.

use crate::auth::Principal;
use crate::proto::fields::{Field, Start, iterate};
use crate::topic::TopicPattern;

/// The bus that a plugin works for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Startup {
    /// The bus's id, drawn at random when it started.
    pub bus: u64,
    /// Where it listens.
    pub addresses: Vec<String>,
}

impl Startup {
    /// A bus of that id, at these addresses.
    #[must_use]
    pub fn new(bus: u64, addresses: Vec<String>) -> Self {
        Self { bus, addresses }
    }
}

/// A session: somebody who is connected, from the end of the handshake on.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Session {
    /// Its id at the bus.
    pub id: u64,
    /// What the client calls itself; nothing proves it.
    pub name: String,
    /// Who it acts for, as the policy has found out.
    pub principal: Principal,
    /// The transport over which it connected first: `memory`, `unix`, `tcp` …
    pub transport: &'static str,
}

impl Session {
    /// A session, such as a test of a plugin needs one.
    #[must_use]
    pub fn new(id: u64, name: impl Into<String>, principal: Principal, transport: &'static str) -> Self {
        Self { id, name: name.into(), principal, transport }
    }
}

/// A subscription that somebody asks for and is allowed to have.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Subscribing {
    /// Whose it will be.
    pub session: Session,
    /// Its pattern, behind the prefix of its protocol.
    pub pattern: TopicPattern,
    /// The queue group that it joins.
    pub group: Option<String>,
    /// Where it begins in the stream that it reads; `None` where it reads none.
    pub start: Option<Start>,
    /// What the client says along, for plugins.
    pub headers: Vec<(String, String)>,
}

impl Subscribing {
    /// A subscription to this pattern, without group, start and headers.
    #[must_use]
    pub fn new(session: Session, pattern: TopicPattern) -> Self {
        Self { session, pattern, group: None, start: None, headers: Vec::new() }
    }

    /// The headers of a field section.
    pub(crate) fn headers_of(section: &[u8]) -> Vec<(String, String)> {
        let headers = iterate(section).filter_map(|field| match field {
            Field::Header { name, value } => Some((name.to_owned(), value.to_owned())),
            _ => None,
        });
        headers.collect()
    }

    /// The value of the first header of that name; upper and lower case differ.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// A message of a stream that a durable consumer has acknowledged.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Acknowledged {
    /// Who has acknowledged it.
    pub session: Session,
    /// The stream that the message lies in.
    pub stream: String,
    /// The consumer whose position it is.
    pub consumer: String,
    /// The sequence of the message in its stream.
    pub sequence: u64,
}

impl Acknowledged {
    /// The message of this sequence, acknowledged by a session for a consumer of a stream.
    #[must_use]
    pub fn new(
        session: Session,
        stream: impl Into<String>,
        consumer: impl Into<String>,
        sequence: u64,
    ) -> Self {
        Self { session, stream: stream.into(), consumer: consumer.into(), sequence }
    }
}
