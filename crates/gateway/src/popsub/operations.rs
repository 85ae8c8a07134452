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
use super::recent::Repeated;
use super::rings::Rings;
use super::users::Known;
use super::{ISSUER, NAME};
use crate::limits;
use crate::shared::Shared;

/// What is told to who publishes what he is publishing over another connection, if that takes too long.
const UNDER_WAY: &str =
    "the same message is still being published over another connection; publish it again in a moment";

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
            Joining::new(Arc::clone(&topic), Arc::clone(&opened.ring), feed)
        });
        Outcome::Subscribed(Box::new(Subscribed { topic, subscription, joining }))
    })
}

/// Publishes. What has to be acknowledged is kept before it counts as published, where the bus keeps the topic; on other topics
/// it is sent to each subscriber until he has acknowledged it, as is all that is published so.
///
/// # Cancel safety
/// What was not handed to the bus before the future is dropped is not published. What was, but had no answer yet, may be. Either
/// way it is published when it is said again: it reaches subscribers once more rather than never.
pub(super) fn publish(shared: Arc<Shared>, client: Client, user: Arc<str>, publish: Publish) -> Operation {
    Box::pin(async move {
        let Some(popsub) = &shared.popsub else { return Outcome::Done };
        let Publish { topic, payload, message_id, qos } = publish;
        shared.metrics.came(NAME, &payload);
        let begun = match message_id.as_deref() {
            None => None,
            Some(id) => match popsub.recent.begin(&user, &topic, id, &payload).await {
                Ok(begun) => Some(begun),
                Err(Repeated::Published) => {
                    shared.metrics.dropped(NAME, "duplicate", 1);
                    return Outcome::Done;
                }
                Err(Repeated::UnderWay) => {
                    shared.metrics.refused(NAME, "under_way");
                    return Outcome::Answer(publish_error(UNDER_WAY, Some(id)));
                }
            },
        };
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
                if let Some(begun) = begun {
                    begun.was_published();
                }
                opened.inspect(|opened| opened.stays());
                Outcome::Done
            }
            Err(refused) => {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::FutureExt;
    use tokio::sync::watch;
    use whispeer::plugin::{HookResult, Hooks, Plugin, Publishing, Refused};
    use whispeer::prelude::*;

    use super::*;
    use crate::Settings;
    use crate::gateway::Phase;
    use crate::settings::PopSub;

    /// Refuses the first message and no other.
    struct RefusesOnce(AtomicBool);

    impl Plugin for RefusesOnce {
        fn name(&self) -> &str {
            "refuses-once"
        }

        fn hooks(&self) -> Hooks {
            Hooks::PUBLISH
        }

        fn on_publish(&self, _: &mut Publishing<'_>) -> HookResult {
            if self.0.swap(true, Ordering::Relaxed) { Ok(()) } else { Err(Refused::new("the first one")) }
        }
    }

    struct Ground {
        bus: BusHandle,
        shared: Arc<Shared>,
        subscription: Subscription<Bytes>,
    }

    impl Ground {
        async fn new(bus: BusHandle) -> Self {
            let mut settings = Settings::new("127.0.0.1:0".parse().unwrap());
            settings.popsub = Some(PopSub::new("a key that is long enough for HS256", Vec::new()));
            let (listen, phase) = (settings.listen.clone(), watch::channel(Phase::Running).1);
            let shared = Arc::new(Shared::new(bus.view(), settings, &listen, phase).unwrap());
            let client = Client::new_memory(&bus.connector()).unwrap();
            let subscription = client.subscribe_bytes("jobs").await.unwrap();
            Self { bus, shared, subscription }
        }

        /// The same message, each time over a connection of its own.
        fn publish(&self) -> Operation {
            let client = Client::new_memory(&self.bus.connector()).unwrap();
            let (topic, message_id) = ("jobs".to_owned(), Some("1".to_owned()));
            let what = Publish { topic, payload: "work".into(), message_id, qos: Qos::AtLeastOnce };
            publish(Arc::clone(&self.shared), client, "alice".into(), what)
        }

        /// How many of them have come to a subscriber.
        async fn delivered(&mut self) -> usize {
            // What comes behind them tells that no more do.
            Client::new_memory(&self.bus.connector()).unwrap().publish_bytes("jobs", "end").await.unwrap();
            let mut count = 0;
            while self.subscription.recv().await.unwrap().1 != "end" {
                count += 1;
            }
            count
        }
    }

    /// Has it go on until it waits for somebody else.
    fn begin(operation: &mut Operation) {
        assert!(operation.now_or_never().is_none(), "it waits for the bus");
    }

    fn is_published(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Done)
    }

    #[tokio::test]
    async fn what_a_connection_that_was_lost_has_not_published_is_published_when_it_is_said_again() {
        let mut ground = Ground::new(Bus::builder().start().unwrap()).await;
        let mut lost = ground.publish();
        begin(&mut lost);
        drop(lost);
        assert_eq!(ground.delivered().await, 0);
        assert!(is_published(&ground.publish().await));
        assert_eq!(ground.delivered().await, 1);
        for _ in 0..2 {
            assert!(is_published(&ground.publish().await));
        }
        assert_eq!(ground.delivered().await, 0, "it was published");
        ground.bus.stop().await;
    }

    #[tokio::test]
    async fn of_two_connections_that_publish_the_same_one_does() {
        let mut ground = Ground::new(Bus::builder().start().unwrap()).await;
        let (mut first, mut second) = (ground.publish(), ground.publish());
        begin(&mut first);
        begin(&mut second);
        let (first, second) = tokio::join!(first, second);
        assert!(is_published(&first) && is_published(&second));
        assert_eq!(ground.delivered().await, 1);
        ground.bus.stop().await;
    }

    #[tokio::test]
    async fn where_the_first_connection_is_lost_the_second_publishes() {
        let mut ground = Ground::new(Bus::builder().start().unwrap()).await;
        let (mut first, mut second) = (ground.publish(), ground.publish());
        begin(&mut first);
        begin(&mut second);
        drop(first);
        assert!(is_published(&second.await));
        assert_eq!(ground.delivered().await, 1);
        ground.bus.stop().await;
    }

    #[tokio::test]
    async fn where_the_first_is_refused_the_second_is_not_told_that_it_was_published() {
        let bus = Bus::builder().plugin(RefusesOnce(AtomicBool::new(false))).start().unwrap();
        let mut ground = Ground::new(bus).await;
        let (mut first, mut second) = (ground.publish(), ground.publish());
        begin(&mut first);
        begin(&mut second);
        let (first, second) = tokio::join!(first, second);
        assert!(matches!(first, Outcome::Answer(_)) && is_published(&second));
        assert!(is_published(&ground.publish().await), "as it was published by the second");
        assert_eq!(ground.delivered().await, 1);
        ground.bus.stop().await;
    }

    #[tokio::test]
    async fn who_subscribes_while_the_ring_is_behind_the_bus_is_replayed_no_more_than_it_keeps() {
        let ground = Ground::new(Bus::builder().start().unwrap()).await;
        let client = Client::new_memory(&ground.bus.connector()).unwrap();
        let subscribed = async || {
            let topic = Topic::new("jobs").unwrap();
            match subscribe(Arc::clone(&ground.shared), client.clone(), topic).await {
                Outcome::Subscribed(subscribed) => subscribed.joining.unwrap(),
                _ => panic!("it was not subscribed"),
            }
        };
        drop(subscribed().await);
        // All of these are at the bus before whoever keeps them has had a turn.
        for number in 0..30_u8 {
            client.publish_bytes("jobs", vec![number]).await.unwrap();
        }
        let mut joining = subscribed().await;
        assert_eq!(joining.awaited(), Some(10));
        client.publish_bytes("jobs", vec![30]).await.unwrap();
        let mut replayed = Vec::new();
        while replayed.last() != Some(&30) {
            let text = std::future::poll_fn(|context| joining.poll_feed(context)).await.unwrap();
            let text: serde_json::Value = serde_json::from_slice(&text).unwrap();
            replayed.push(text["payload"].as_u64().unwrap());
        }
        assert_eq!(replayed, Vec::from_iter(20..=30));
        ground.bus.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_too_long_for_another_connection_is_told_to_try_again() {
        let mut ground = Ground::new(Bus::builder().start().unwrap()).await;
        let mut first = ground.publish();
        begin(&mut first);
        let Outcome::Answer(told) = ground.publish().await else { panic!("it was not published") };
        let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
        assert_eq!((&told["error"], &told["message_id"]), (&UNDER_WAY.into(), &"1".into()));
        assert!(is_published(&first.await));
        assert_eq!(ground.delivered().await, 1);
        ground.bus.stop().await;
    }
}
