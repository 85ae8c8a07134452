//! What a session asks for that takes its time, beside which it goes on getting messages.

use std::borrow::Cow;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use whispeer::auth::{Principal, Secret};
use whispeer::client::{Policy, PublishOptions, SubscribeOptions, Subscription};
use whispeer::proto::Content;
use whispeer::proto::fields::Quality;
use whispeer::topic::Topic;
use whispeer::transport::Peer;
use whispeer::{BusError, Client};

use super::broadcast::headers_of;
use super::joining::Joining;
use super::messages::{Qos, error, login_response, publish_error};
use super::rings::Rings;
use super::users::Known;
use super::{ISSUER, NAME};
use crate::limits;
use crate::shared::Shared;

/// One that is under way. There is one at a time, in the order in which they were asked for.
pub(super) type Operation = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What became of it.
pub(super) enum Outcome {
    /// It is done, and nothing is said of it.
    Done,
    /// Something is answered, and that is all.
    Answer(Bytes),
    /// The bus has let him in.
    LetIn(Known, Client),
    /// The bus has not.
    NotLetIn(Bytes),
    Subscribed(Box<Subscribed>),
}

pub(super) struct Subscribed {
    pub(super) topic: Arc<str>,
    pub(super) subscription: Subscription<Arc<Content>>,
    /// Where its topic has a ring.
    pub(super) joining: Option<Joining>,
}

/// Something that is published.
pub(super) struct Publish {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) message_id: Option<String>,
    pub(super) qos: Qos,
}

pub(super) fn login(
    shared: Arc<Shared>,
    address: IpAddr,
    username: Cow<'_, str>,
    password: Cow<'_, str>,
) -> Operation {
    let (username, password) = (username.into_owned(), Secret::new(password));
    Box::pin(async move {
        let Some(popsub) = &shared.popsub else { return Outcome::Done };
        Outcome::Answer(match popsub.users.login(address, &username, password).await {
            Ok(token) => login_response(&token),
            Err(refused) => {
                shared.metrics.refused(NAME, refused.reason());
                tracing::info!(%address, %refused, "a login to the dialect of PopSub is refused");
                error(&refused.to_string())
            }
        })
    })
}

/// Has the bus let him in.
pub(super) fn enter(shared: Arc<Shared>, known: Known) -> Operation {
    Box::pin(async move {
        let principal = Principal::Token { issuer: ISSUER.into(), subject: known.name.clone() };
        let entered = async {
            let link = shared.link(Peer::new(principal, NAME).granted(&known.roles)).await?;
            let client = shared.join_to_publish(link, "popsub")?;
            // The bus has let it in when it answers.
            client.ping().await.map(|_| client)
        };
        match entered.await {
            Ok(client) => Outcome::LetIn(known, client),
            Err(refused) => {
                shared.metrics.refused(NAME, reason_of(&refused));
                tracing::warn!(name = known.name, error = %refused, "the bus does not let a user of PopSub in");
                Outcome::NotLetIn(match refused {
                    BusError::Denied { .. } => error("authentication failed"),
                    other => error(&other.to_string()),
                })
            }
        }
    })
}

/// Subscribes, and then has the topic's last messages come first. Nothing of them is handed out before the bus has allowed it.
pub(super) fn subscribe(shared: Arc<Shared>, client: Client, topic: Topic) -> Operation {
    Box::pin(async move {
        let Some(settings) = &shared.settings.popsub else { return Outcome::Done };
        let opened = Rings::open(&shared, topic.as_str()).await;
        // It begins before the subscription does, so that there is no hole between both.
        let feed = opened.as_ref().map(|opened| opened.follow());
        let options = SubscribeOptions::default()
            .policy(Policy::DropNewest)
            .window(settings.buffer, limits::POPSUB_WINDOW_BYTES);
        let subscription = match client.subscribe_content_with(topic.as_str(), options).await {
            Ok(subscription) => subscription,
            Err(refused) => {
                shared.metrics.refused(NAME, reason_of(&refused));
                return Outcome::Answer(error(&refused.to_string()));
            }
        };
        let topic: Arc<str> = topic.as_str().into();
        let joining = opened.zip(feed).map(|(opened, feed)| {
            opened.stays();
            Joining::new(Arc::clone(&topic), &opened.ring, feed)
        });
        Outcome::Subscribed(Box::new(Subscribed { topic, subscription, joining }))
    })
}

/// Publishes. What has to be acknowledged is kept before it counts as published, where the bus keeps the topic; on other topics
/// it is sent to each subscriber until he has acknowledged it, as is all that is published so.
pub(super) fn publish(shared: Arc<Shared>, client: Client, user: Arc<str>, publish: Publish) -> Operation {
    Box::pin(async move {
        let Some(popsub) = &shared.popsub else { return Outcome::Done };
        let Publish { topic, payload, message_id, qos } = publish;
        let noted = message_id.as_deref().map(|id| popsub.recent.note(&user, &topic, id, &payload));
        if noted == Some(None) {
            shared.metrics.dropped(NAME, "duplicate", 1);
            return Outcome::Done;
        }
        // So that the topic's ring has the first message, too.
        let opened = Rings::open(&shared, &topic).await;
        let id = message_id.clone().unwrap_or_else(|| popsub.ids.next());
        let options = PublishOptions::default().headers(headers_of(&id, qos));
        let kept = match qos {
            Qos::AtLeastOnce => {
                let kept = options.clone().quality(Quality::AtLeastOnce);
                match client.publish_bytes_with(&topic, payload.clone(), kept).await {
                    Err(BusError::NotDurable { .. }) => None,
                    other => Some(other),
                }
            }
            Qos::AtMostOnce => None,
        };
        let published = match kept {
            Some(published) => published,
            None => client.publish_bytes_with(&topic, payload, options).await,
        };
        match published {
            Ok(_) => {
                opened.inspect(|opened| opened.stays());
                Outcome::Done
            }
            Err(refused) => {
                if let Some(noted) = noted.flatten() {
                    popsub.recent.undo(&user, noted);
                }
                shared.metrics.refused(NAME, reason_of(&refused));
                Outcome::Answer(publish_error(&refused.to_string(), message_id.as_deref()))
            }
        }
    })
}

/// As it is counted.
fn reason_of(error: &BusError) -> &'static str {
    match error {
        BusError::Denied { .. } | BusError::ReservedTopic { .. } => "denied",
        BusError::FrameTooLarge { .. } | BusError::HeadersTooLarge { .. } => "too_large",
        BusError::LimitReached { .. } => "limit",
        BusError::Overloaded { .. } | BusError::Full | BusError::QueueFull { .. } => "overloaded",
        _ => "failed",
    }
}
