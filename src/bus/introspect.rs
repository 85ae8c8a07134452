//! A session of the bus's own that answers questions about it.
//!
//! It is connected over a memory link as [`Principal::Bus`], serves the topics below, and is a client
//! like any other: the router knows nothing of it. Replies are MessagePack with named fields.
//!
//! | topic | reply |
//! |---|---|
//! | `$bus/stats` | [`BusStats`](super::BusStats) |
//! | `$bus/sessions` | [`Rows`](super::Rows) of [`SessionStats`](super::SessionStats) |
//! | `$bus/subscriptions` | `Rows` of [`SubscriptionStats`](super::SubscriptionStats) |
//! | `$bus/served` | `Rows` of [`ServedStats`](super::ServedStats) |
//! | `$bus/streams` | `Rows` of [`StreamStats`](super::StreamStats) |
//! | `$bus/consumers` | `Rows` of [`ConsumerStats`](super::ConsumerStats) |
//! | `$bus/streams/change` | [`StreamChanged`](super::StreamChanged), to a [`StreamChange`](super::StreamChange); it needs the administrator's right |
//! | `$bus/presence` | `Rows` of [`Member`](crate::auth::Member), subscribed to the topic or pattern that is the payload |
//! | `$bus/stop` | nil, to a [`StopRequest`]; it needs the administrator's right |

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::handle::ROWS;
use super::streams::{StreamChange, Streams};
use super::{Rows, Shared};
use crate::auth::Principal;
use crate::error::{BusError, BusResult, ErrorReply};
use crate::limits;
use crate::proto::fields::FieldsBuilder;
use crate::proto::{ContentRef, Flags, Header, Hello, Kind, Lane, Refusal};
use crate::topic::TopicPattern;
use crate::transport::{Accepted, Batch, Incoming, Link, LinkSender, Peer, Sent, memory_pair};

/// The topics served, and by which id.
pub(super) const TOPICS: [&str; 9] = [
    "$bus/stats",
    "$bus/sessions",
    "$bus/subscriptions",
    "$bus/served",
    STOP,
    "$bus/streams",
    "$bus/consumers",
    CHANGE,
    PRESENCE,
];

/// The servings whose answers stores are asked for.
const STREAMS: u32 = 5;
const CONSUMERS: u32 = 6;
const CHANGES: u32 = 7;

/// Where something is done to streams.
const CHANGE: &str = "$bus/streams/change";

/// What only administrators may ask for, whatever patterns allow.
const ADMINISTERED: [&str; 2] = [STOP, CHANGE];

/// Where it tells who is subscribed to a topic, which is the payload.
pub(super) const PRESENCE: &str = "$bus/presence";

/// Where that is told of all buses that are joined, by who joins them.
pub(super) const PRESENCE_OF_ALL: &str = "$bus/cluster/presence";

/// Where the bus is asked to stop.
pub(super) const STOP: &str = "$bus/stop";

/// Asks a bus to stop, as a request to `$bus/stop`. The bus answers nil and then drains, as
/// [`BusHandle::drain`](super::BusHandle::drain) does.
///
/// It needs a permission with `administer = true`; on a bus without a policy it is for the bus's own user and process.
/// On the wire it is a MessagePack map with `grace_ms`.
///
/// # Examples
/// ```
/// use whispeer::bus::StopRequest;
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let mut bus = Bus::builder().start()?;
/// let client = Client::new_memory(&bus.connector())?;
/// let request = StopRequest { grace_ms: 5_000 };
/// client.request_bytes("$bus/stop", request.to_bytes()).await?;
/// bus.join().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequest {
    /// Milliseconds that what is in flight may take to finish; a day at the most.
    pub grace_ms: u64,
}

impl StopRequest {
    /// The payload of the request.
    #[must_use]
    pub fn to_bytes(self) -> Bytes {
        // A map of one number has nothing that cannot be encoded.
        rmp_serde::to_vec_named(&self).unwrap_or_default().into()
    }
}

/// Bytes of a reply beside its rows, at the most: two short names, a map, an array and an integer.
const ROWS_OVERHEAD: usize = 64;

/// Whether only administrators may ask for some of these topics.
pub(super) fn is_administered(pattern: &TopicPattern) -> bool {
    ADMINISTERED.iter().any(|topic| TopicPattern::new(topic).is_ok_and(|topic| pattern.meets(&topic)))
}

/// Connects the session and starts the task that answers for it. The task ends with the bus.
pub(super) fn start(
    shared: &Arc<Shared>,
    attach: &mpsc::Sender<Accepted>,
    runtime: &Handle,
) -> JoinHandle<()> {
    let (bus_end, own_end) = memory_pair();
    let peer = Peer::new(Principal::Bus, "memory");
    let attached = attach.try_send(Accepted::Open { link: bus_end, peer });
    let answering = Answering { shared: Arc::downgrade(shared), link: own_end, asked: JoinSet::new() };
    runtime.spawn(async move {
        if attached.is_ok()
            && let Err(error) = answering.run().await
        {
            tracing::debug!(%error, "introspection ended");
        }
    })
}

struct Answering {
    shared: Weak<Shared>,
    link: Link,
    /// What stores are asked; the window of the serving bounds it.
    asked: JoinSet<Answer>,
}

/// An answer to a request that has been handed over.
struct Answer {
    request: Header,
    /// Bytes of the request's frame.
    size: u64,
    reply: BusResult<Vec<u8>>,
}

impl Answering {
    async fn run(mut self) -> io::Result<()> {
        let sender = Arc::clone(&self.link.sender);
        let form = sender.form();
        let mut incoming = Incoming::new(form, usize::MAX);
        let mut batch = Batch::new(form);
        let hello = Hello { name: "introspection".into(), ..Hello::default() };
        batch.push(&Header::new(Kind::Hello, 0, 0), &ContentRef::of_payload(&hello.encode()));
        send(&*sender, &mut batch).await?;
        loop {
            while let Some((header, content)) = incoming.next_frame().map_err(io::Error::other)? {
                match header.kind {
                    Kind::Welcome => serve_all(&mut batch)?,
                    Kind::Ask => self.take(&header, &content, &mut batch),
                    Kind::Ping => {
                        batch.push(&Header::new(Kind::Pong, 0, header.sequence), &ContentRef::empty());
                    }
                    Kind::Goodbye => return Ok(()),
                    _ => {}
                }
            }
            send(&*sender, &mut batch).await?;
            let receiver = &mut self.link.receiver;
            tokio::select! {
                read = poll_fn(|context| receiver.poll_receive(context, &mut incoming)) => {
                    if read? == 0 {
                        return Ok(());
                    }
                }
                Some(answered) = self.asked.join_next() => {
                    answer(&answered.map_err(io::Error::other)?, &mut batch);
                }
            }
        }
    }

    /// Answers a request, or begins to ask stores for the answer.
    fn take(&mut self, request: &Header, content: &ContentRef<'_>, batch: &mut Batch) {
        let (request, size) = (*request, content.frame_size() as u64);
        let of_stores = [STREAMS, CONSUMERS, CHANGES].contains(&request.id);
        match self.shared.upgrade().filter(|_| of_stores) {
            Some(shared) => {
                let (streams, limit) = (shared.streams.clone(), reply_limit(&shared));
                let change = rmp_serde::from_slice::<StreamChange>(content.payload());
                self.asked.spawn(async move {
                    let reply = match request.id {
                        STREAMS => encode_rows(streams.stats(ROWS).await, limit).map_err(internal),
                        CONSUMERS => encode_rows(streams.consumer_stats(ROWS).await, limit).map_err(internal),
                        _ => changed(&streams, change).await,
                    };
                    Answer { request, size, reply }
                });
            }
            None => answer(&Answer { request, size, reply: self.encode(request.id, content) }, batch),
        }
    }

    fn encode(&self, serving: u32, asked: &ContentRef<'_>) -> BusResult<Vec<u8>> {
        let Some(shared) = self.shared.upgrade() else {
            return Err(BusError::Draining { what: "the bus".into() });
        };
        let limit = reply_limit(&shared);
        let encoded = match serving {
            0 => rmp_serde::to_vec_named(&shared.stats()),
            1 => encode_rows(shared.session_stats(ROWS), limit),
            2 => encode_rows(shared.subscription_stats(ROWS), limit),
            4 => {
                // Nobody stops a bus by mistake, as with a request to all topics of it.
                let request: StopRequest = rmp_serde::from_slice(asked.payload()).map_err(|error| {
                    let what = format!("a request to stop needs the map {{\"grace_ms\": NUMBER}}: {error}");
                    BusError::InvalidSettings(what)
                })?;
                let grace = Duration::from_millis(request.grace_ms).min(limits::REQUEST_TIMEOUT_MAX);
                shared.stop_asked.send_replace(Some(grace));
                rmp_serde::to_vec_named(&())
            }
            number if TOPICS.get(number as usize) == Some(&PRESENCE) => {
                let pattern = TopicPattern::from_utf8(asked.payload())?;
                encode_rows(shared.members(&pattern, ROWS), limit)
            }
            _ => encode_rows(shared.served_stats(ROWS), limit),
        };
        let encoded = encoded.map_err(internal)?;
        if encoded.len() > limit {
            return Err(BusError::FrameTooLarge { size: encoded.len(), limit });
        }
        Ok(encoded)
    }
}

/// Does what an administrator has asked for.
async fn changed(
    streams: &Streams,
    change: Result<StreamChange, rmp_serde::decode::Error>,
) -> BusResult<Vec<u8>> {
    let change = change.map_err(|error| {
        let what = format!("a change of streams needs a map with `change` and what that is about: {error}");
        BusError::InvalidSettings(what)
    })?;
    rmp_serde::to_vec_named(&streams.make(change).await?).map_err(internal)
}

/// The error of an answer that the bus cannot write.
fn internal(error: rmp_serde::encode::Error) -> BusError {
    BusError::Replied(ErrorReply::new("internal", error.to_string()))
}

/// Bytes that a reply may have.
pub(super) fn reply_limit(shared: &Shared) -> usize {
    shared.settings.frame_limit - limits::FRAME_SLACK
}

/// Lets the next request come, and replies to this one.
fn answer(Answer { request, size, reply }: &Answer, batch: &mut Batch) {
    let credit = Header::new(Kind::Credit, 1, u64::from(request.id)).flagged(Flags(Lane::Serving as u8));
    batch.push(&credit, &ContentRef::of_payload(&size.to_le_bytes()));
    let header = Header::new(Kind::Reply, 0, request.sequence);
    match reply {
        Ok(payload) => batch.push(&header, &ContentRef::of_payload(payload)),
        Err(error) => {
            let refusal = Refusal::from(error).encode();
            batch.push(&header.flagged(Flags::ERROR), &ContentRef::of_payload(&refusal))
        }
    };
}

/// Encodes the rows in `limit` bytes; those that do not fit are left out and counted as such.
fn encode_rows<T: Serialize>(all: Rows<T>, limit: usize) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    let encoded = rmp_serde::to_vec_named(&all)?;
    if encoded.len() <= limit {
        return Ok(encoded);
    }
    let mut room = limit.saturating_sub(ROWS_OVERHEAD);
    let mut fitting = Rows { rows: Vec::new(), left_out: all.left_out };
    for row in all.rows {
        let size = rmp_serde::to_vec_named(&row)?.len();
        if size <= room {
            room -= size;
            fitting.rows.push(row);
        } else {
            fitting.left_out += 1;
        }
    }
    rmp_serde::to_vec_named(&fitting)
}

pub(super) async fn send(sender: &dyn LinkSender, batch: &mut Batch) -> io::Result<()> {
    while !batch.is_empty() {
        if sender.try_send(batch)? == Sent::Blocked {
            poll_fn(|context| sender.poll_ready(context)).await?;
        }
    }
    Ok(())
}

fn serve_all(batch: &mut Batch) -> io::Result<()> {
    let mut fields = FieldsBuilder::new();
    fields.window(limits::SERVING_WINDOW, limits::WINDOW_BYTES).map_err(io::Error::other)?;
    for (id, topic) in (0..).zip(TOPICS) {
        let content = ContentRef::lent(fields.as_bytes(), topic.as_bytes(), &[]);
        batch.push(&Header::new(Kind::Serve, id, 0), &content);
    }
    Ok(())
}
