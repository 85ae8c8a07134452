//! The entries of the journal as they come, in order and without a hole, or not at all.
//!
//! A consumer of JetStream pushes them and numbers what it sends. One of which a message is lost, or that is silent, is of no use any more:
//! whoever reads begins anew behind the last entry that he has.

use async_nats::jetstream::Context;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, push};
use async_nats::{HeaderMap, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};
use whispeer::store::StoreError;

use crate::limits;

/// Entries from one on, without payloads.
pub(super) struct Entries {
    context: Context,
    subscriber: Subscriber,
    /// The number that the consumer has given to the last one.
    last: u64,
    /// When the consumer was heard of.
    heard: Instant,
}

/// The last message that a consumer has sent, as it says while it has none to send.
const LAST: &str = "Nats-Last-Consumer";

/// Where a consumer waits for an answer before it goes on.
const STALLED: &str = "Nats-Consumer-Stalled";

impl Entries {
    /// Those of this stream from this one on.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where NATS does not make the consumer.
    pub(super) async fn begin(context: &Context, stream: String, from: u64) -> Result<Self, StoreError> {
        let client = context.client();
        let inbox = client.new_inbox();
        // Before the consumer is there, so that nothing of it is missed.
        let subscriber = client.subscribe(inbox.clone()).await.map_err(away)?;
        let config = push::Config {
            deliver_subject: inbox,
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            replay_policy: ReplayPolicy::Instant,
            ack_policy: AckPolicy::None,
            max_deliver: 1,
            headers_only: true,
            flow_control: true,
            idle_heartbeat: limits::JETSTREAM_HEARTBEAT,
            inactive_threshold: limits::JETSTREAM_SILENCE * 2,
            num_replicas: 1,
            memory_storage: true,
            ..push::Config::default()
        };
        context.create_consumer_on_stream(config, stream).await.map_err(away)?;
        Ok(Self { context: context.clone(), subscriber, last: 0, heard: Instant::now() })
    }

    /// The next one.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where nothing more is to be had of it.
    ///
    /// # Cancel safety
    /// No entry is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Result<Message, StoreError> {
        loop {
            let next = timeout_at(self.heard + limits::JETSTREAM_SILENCE, self.subscriber.next()).await;
            let message = match next {
                Ok(Some(message)) => message,
                Ok(None) => return Err(away("the connection has ended")),
                Err(_) => {
                    return Err(away(format!("nothing was heard for {:?}", limits::JETSTREAM_SILENCE)));
                }
            };
            self.heard = Instant::now();
            match message.status {
                None => {}
                Some(StatusCode::IDLE_HEARTBEAT) => {
                    let headers = message.headers.as_ref();
                    let stalled = headers.and_then(|headers| headers.get(STALLED));
                    let stalled = stalled.map(|subject| subject.as_str().into());
                    if let Some(subject) = message.reply.or(stalled) {
                        // What says so is sent again while the consumer waits.
                        self.context.client().publish(subject, Bytes::new()).await.map_err(away)?;
                    }
                    if headers.and_then(last).is_some_and(|last| last != self.last) {
                        return Err(away("some of it was lost on its way"));
                    }
                    continue;
                }
                Some(status) => return Err(away(format!("the consumer says {status}"))),
            }
            let message = Message { message, context: self.context.clone() };
            let number = message.info().map_err(away)?.consumer_sequence;
            if number != self.last + 1 {
                return Err(away("some of it was lost on its way"));
            }
            self.last = number;
            return Ok(message);
        }
    }
}

fn last(headers: &HeaderMap) -> Option<u64> {
    headers.get(LAST)?.as_str().parse().ok()
}

fn away(what: impl std::fmt::Display) -> StoreError {
    StoreError::Busy { what: format!("the journal in JetStream cannot be followed: {what}") }
}
