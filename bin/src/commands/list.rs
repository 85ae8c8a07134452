//! `whispeer ls`: lists the topics that are published to.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, timeout_at};
use whispeer::client::{Event, Policy, SubscribeOptions};

use crate::connection::{BusChoice, BusOptions};
use crate::output;
use crate::quantity;

const EXAMPLES: &str = "\
Examples:
  whispeer ls                      all topics that something is published to within 2 s
  whispeer ls 'sensors/**' --for 1m

It can only see what is published while it listens.";

/// List the topics that are published to at the moment
#[derive(Debug, Args)]
#[command(name = "ls", after_help = EXAMPLES)]
pub(crate) struct List {
    /// Which topics
    #[arg(default_value = "**")]
    pattern: String,

    /// How long to listen
    #[arg(long = "for", value_parser = quantity::duration, default_value = "2s", value_name = "TIME")]
    listen: Duration,

    /// How many topics to list at the most
    #[arg(long, default_value_t = 10_000, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    max: u32,

    #[command(flatten)]
    pub(crate) bus: BusOptions,
}

impl List {
    pub(crate) async fn run(self, bus: &BusChoice) -> anyhow::Result<()> {
        let connection = bus.connect("ls").await?;
        // Someone who only looks must not hold publishers up.
        let options = SubscribeOptions::default().policy(Policy::DropNewest);
        let subscribed = connection.client.subscribe_bytes_with(&self.pattern, options).await;
        let mut subscription = connection.check(subscribed)?;
        let until = Instant::now() + self.listen;
        let most = usize::try_from(self.max).unwrap_or(usize::MAX);
        let mut topics = BTreeSet::new();
        let (mut missed, mut capped) = (0, false);
        while let Ok(event) = timeout_at(until, subscription.next_event()).await {
            match event {
                None => return Err(connection.ended(subscription.close_reason())),
                Some(Event::Message(message)) => {
                    if topics.contains(message.topic.as_str()) {
                        continue;
                    }
                    if topics.len() >= most {
                        capped = true;
                        break;
                    }
                    topics.insert(message.topic.as_str().to_owned());
                }
                Some(Event::Gap { count, .. }) => missed += count,
                Some(_) => {}
            }
        }
        let mut text = String::new();
        for topic in &topics {
            text.push_str(topic);
            text.push('\n');
        }
        output::print(text)?;
        if capped {
            output::notice(format_args!(
                "there are more than {most} topics; these are the first that were seen (--max)"
            ));
        }
        if missed > 0 {
            output::notice(format_args!(
                "{missed} messages were too fast for this listing; their topics may be missing"
            ));
        }
        Ok(())
    }
}
