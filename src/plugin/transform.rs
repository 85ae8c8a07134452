//! A closure as a plugin.

use std::fmt;

use super::{HookResult, Hooks, Plugin, Publishing};
use crate::topic::TopicPattern;

/// Changes what is published, as a closure says, or refuses it.
///
/// The topics that it sees to can be narrowed: what is published elsewhere does not reach the closure.
///
/// # Examples
/// ```
/// use whispeer::plugin::{Refused, Transform};
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let stamp = Transform::new("stamp", |message| {
///     let from = message.session().name.clone();
///     message.set_header("from", from);
///     Ok(())
/// });
/// let closed = Transform::new("closed", |_| Err(Refused::new("the shop is closed")))
///     .topics(TopicPattern::new("orders/**")?);
/// let bus = Bus::builder().plugin(stamp).plugin(closed).start()?;
/// let client = Client::new_memory(&bus.connector())?;
/// client.publish_bytes("news", "hello").await?;
/// assert!(client.publish_bytes("orders/7", "two apples").await.is_err());
/// # Ok(())
/// # }
/// ```
pub struct Transform<F> {
    name: String,
    topics: Vec<TopicPattern>,
    change: F,
}

impl<F> Transform<F>
where
    F: Fn(&mut Publishing<'_>) -> HookResult + Send + Sync + 'static,
{
    /// A plugin of that name that calls `change` for each message.
    #[must_use]
    pub fn new(name: impl Into<String>, change: F) -> Self {
        Self { name: name.into(), topics: Vec::new(), change }
    }

    /// Sees to topics of this pattern, and of those given before. A message that is published to a pattern is seen to if
    /// the two meet.
    #[must_use]
    pub fn topics(mut self, pattern: TopicPattern) -> Self {
        self.topics.push(pattern);
        self
    }
}

impl<F> Plugin for Transform<F>
where
    F: Fn(&mut Publishing<'_>) -> HookResult + Send + Sync + 'static,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn hooks(&self) -> Hooks {
        Hooks::PUBLISH
    }

    fn on_publish(&self, message: &mut Publishing<'_>) -> HookResult {
        if self.topics.is_empty() || self.topics.iter().any(|own| own.meets(message.topic())) {
            (self.change)(message)?;
        }
        Ok(())
    }
}

impl<F> fmt::Debug for Transform<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Transform")
            .field("name", &self.name)
            .field("topics", &self.topics)
            .finish_non_exhaustive()
    }
}
