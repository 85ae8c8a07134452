//! Who is subscribed to a topic, and who comes and goes.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Client;
use super::event::Event;
use super::options::SubscribeOptions;
use super::subscription::Subscription;
use crate::auth::{ClusterPresence, Member, PresenceEvent};
use crate::error::{BusError, BusResult};
use crate::proto::fields::Policy;
use crate::topic::TopicPattern;

/// Where the bus answers who is there.
const MEMBERS: &str = "$bus/presence";

/// Where a bus that is joined with others answers for all of them.
const OF_ALL: &str = "$bus/cluster/presence";

/// The answer: members, and how many there are beside.
#[derive(Deserialize)]
struct Members {
    rows: Vec<Member>,
}

/// Tells who subscribes and who leaves. Made by [`Client::watch_presence`]; dropping it ends that.
#[derive(Debug)]
pub struct PresenceWatch {
    events: Subscription<Bytes>,
}

impl PresenceWatch {
    /// The next event; `None` when the connection or the right to watch has ended, for which
    /// [`close_reason`](Self::close_reason) has the reason.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<PresenceEvent> {
        loop {
            return Some(match self.events.next_event().await? {
                Event::Message(message) => match rmp_serde::from_slice(&message.value) {
                    Ok(event) => event,
                    // An event of a later version.
                    Err(_) => continue,
                },
                Event::Gap { count, .. } => PresenceEvent::Missed(count),
                Event::Undecodable { .. } => PresenceEvent::Missed(1),
            });
        }
    }

    /// Why it has ended; `None` while it has not.
    #[must_use]
    pub fn close_reason(&self) -> Option<BusError> {
        self.events.close_reason()
    }
}

impl Client {
    /// Who is subscribed now to the topic, or to topics that the pattern meets, in the order in which their sessions
    /// began: at most [`limits::INTROSPECTION_ROWS`](crate::limits::INTROSPECTION_ROWS), and no more than fit a frame. A subscription to
    /// a pattern is there for all topics that it meets. A session whose connection is gone is there until it ends. It is of the bus
    /// of this client alone; [`presence_of_all`](Self::presence_of_all) is of those that it is joined with as well.
    ///
    /// It needs the right to subscribe to `$presence/` and the topic. On a bus without a policy, that has its own process
    /// and user.
    ///
    /// # Errors
    /// [`BusError::InvalidTopic`], [`BusError::Denied`], and those of a [request](Self::request).
    ///
    /// # Cancel safety
    /// Nothing is changed when the future is dropped.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let alice = Client::builder().name("alice").connect_memory(&connector)?;
    /// let _lobby = alice.subscribe_bytes("chat/lobby").await?;
    ///
    /// let client = Client::new_memory(&connector)?;
    /// let members = client.presence("chat/lobby").await?;
    /// assert_eq!(members[0].name, "alice");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn presence(&self, topic: &str) -> BusResult<Vec<Member>> {
        let members: Members = self.ask_who(MEMBERS, "Members", topic).await?;
        Ok(members.rows)
    }

    /// Who is subscribed now to the topic, or to topics that the pattern meets, at each of the buses that the one of this client is
    /// joined with, itself included. Those that have not answered within a second are
    /// [`silent`](ClusterPresence::silent); what does not fit a frame is [left out](ClusterPresence::left_out) and counted.
    ///
    /// It needs the same right as [`presence`](Self::presence), at the bus of this client alone: the others trust it.
    ///
    /// # Errors
    /// [`BusError::NoServer`] where the bus is not joined with others, [`BusError::InvalidTopic`], [`BusError::Denied`], and those of a
    /// [request](Self::request).
    ///
    /// # Cancel safety
    /// Nothing is changed when the future is dropped.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    ///
    /// # async fn example(client: Client) -> BusResult<()> {
    /// let lobby = client.presence_of_all("chat/lobby").await?;
    /// for member in lobby.members() {
    ///     println!("{} at {:x?}", member.name, member.bus);
    /// }
    /// if !lobby.silent.is_empty() || lobby.left_out() > 0 {
    ///     println!("and others");
    /// }
    /// # Ok(())
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// # let (_bus, connector) = listen_and_serve_memory()?;
    /// # let alone = example(Client::new_memory(&connector)?).await;
    /// # assert!(matches!(alone, Err(BusError::NoServer { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn presence_of_all(&self, topic: &str) -> BusResult<ClusterPresence> {
        self.ask_who(OF_ALL, "ClusterPresence", topic).await
    }

    async fn ask_who<T: DeserializeOwned>(
        &self,
        place: &'static str,
        what: &'static str,
        topic: &str,
    ) -> BusResult<T> {
        let topic = TopicPattern::new(topic)?;
        let answer = self.request_bytes(place, Bytes::copy_from_slice(topic.as_str().as_bytes())).await?;
        rmp_serde::from_slice(&answer).map_err(|error| BusError::Decode {
            what,
            size: answer.len(),
            reason: error.to_string(),
            topic: place.into(),
        })
    }

    /// Tells from now on who subscribes to topics of this pattern, and whose subscriptions end.
    ///
    /// Where the bus is joined with others it tells of their clients as well ([`Member::bus`]): of each bus from
    /// [`PresenceEvent::BusJoin`] on, which comes once for all who watch at this bus; who begins to watch later hears of all at once. Ask
    /// [`presence_of_all`](Self::presence_of_all) after this, and after each of these.
    ///
    /// It needs the right to subscribe to `$presence/` and the pattern; see [`presence`](Self::presence). Ask that after this to
    /// know who is there already. The bus tells it as well as it can: what comes too fast for it, or for this client, is
    /// [`PresenceEvent::Missed`]. While nobody watches, it does nothing for it.
    ///
    /// # Errors
    /// As [`subscribe_bytes`](Self::subscribe_bytes).
    ///
    /// # Cancel safety
    /// Dropping the future undoes it.
    ///
    /// # Examples
    /// ```
    /// use whispeer::client::PresenceEvent;
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let (_bus, connector) = listen_and_serve_memory()?;
    /// let client = Client::new_memory(&connector)?;
    /// let mut watch = client.watch_presence("chat/**").await?;
    /// let lobby = client.subscribe_bytes("chat/lobby").await?;
    /// assert!(matches!(watch.recv().await, Some(PresenceEvent::Join(member)) if member.pattern == "chat/lobby"));
    /// drop(lobby);
    /// assert!(matches!(watch.recv().await, Some(PresenceEvent::Leave(_))));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn watch_presence(&self, pattern: &str) -> BusResult<PresenceWatch> {
        let separator = if pattern.is_empty() { "" } else { "/" };
        let place = format!("$presence{separator}{pattern}");
        // Whoever does not keep up misses something, and holds nobody up.
        let options = SubscribeOptions::default().policy(Policy::DropOldest);
        Ok(PresenceWatch { events: self.subscribe_bytes_with(&place, options).await? })
    }
}
