//! `whispeer sub`: prints what is published.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use whispeer::client::{
    Delivery, Event, GapReason, Message, Policy, PublishOptions, Quality, Start, SubscribeOptions,
    Subscription,
};
use whispeer::{BusResult, json, limits};

use super::consume::Consuming;
use crate::connection::{BusChoice, BusOptions, Connection, SealingOptions};
use crate::failure::Failure;
use crate::interrupts::Interrupts;
use crate::output::{self, Output};
use crate::quantity::{self, Window};

const EXAMPLES: &str = "\
Examples:
  whispeer sub 'news/**'                    all below news; quote wildcards for the shell
  whispeer sub --count 1 jobs/done          wait for one message
  whispeer sub --json 'sensors/*' | jq .topic
  whispeer sub --raw logs > app.log         payloads as they are, a line each
  whispeer sub --group workers jobs         share messages with others of the group
  whispeer sub --durable billing 'orders/**' >> orders.jsonl
                                            go on where the last run has ended
  whispeer sub --group workers --qos 1 'orders/**'
                                            share a stream's messages; none is lost with a member

A line is printed for each message: its payload as JSON. Bytes, and payloads that are not MessagePack,
are printed as {\"$binary\": \"BASE64\"}. Messages that were dropped are told on standard error, and with
--json as {\"gap\": COUNT, \"reason\": REASON, \"pattern\": PATTERN} in their place.

With --json a line is {\"topic\": TOPIC, \"headers\": [[NAME, VALUE], ...], \"payload\": VALUE}.

A message that several of the patterns meet is printed once for each.

With --durable or --qos the topics have to be in a stream of the bus (`whispeer info` shows them). Each message is
acknowledged once it has been written out, and what was not is sent again, to the next run or another member; with
--json such a message has \"sequence\" and \"attempt\" too. `whispeer consumers ls` shows how far consumers are.";

/// Subscribe and print messages
#[derive(Debug, Args)]
#[command(name = "sub", after_help = EXAMPLES)]
pub(crate) struct Subscribe {
    /// What to subscribe to: topics with the wildcards * (one fragment) and ** (any number)
    #[arg(required = true, value_name = "PATTERN")]
    patterns: Vec<String>,

    /// End after that many messages
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Print each payload's bytes as they are, and a newline
    #[arg(long, conflicts_with = "json")]
    raw: bool,

    /// Print objects with topic, headers and payload
    #[arg(long)]
    json: bool,

    /// What the bus does with messages while this command cannot keep up
    #[arg(long, value_enum, default_value = "block", value_name = "POLICY")]
    policy: PolicyName,

    /// Messages, and bytes, that may be on their way here at a time [default: 1024,1MiB]
    #[arg(long, value_parser = quantity::window, value_name = "MESSAGES[,SIZE]")]
    window: Option<Window>,

    /// Join a queue group: each message goes to one of its members
    #[arg(long, value_name = "NAME")]
    group: Option<String>,

    /// Be the durable consumer of this name, which goes on behind what it has acknowledged; implies --qos 1
    #[arg(long, value_name = "NAME", conflicts_with_all = ["group", "policy", "no_echo"])]
    durable: Option<String>,

    /// How sure it is to be: 0 for at most once, 1 for at least once, 2 for exactly once; from 1 on each message is acknowledged [default: 0]
    #[arg(long, value_name = "QOS", value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: Option<u8>,

    /// Begin with what the stream has already, where the consumer or group is new
    #[arg(long)]
    all: bool,

    /// Leave out what this connection publishes itself
    #[arg(long)]
    no_echo: bool,

    /// Have the bus publish a message to this topic when this command ends without having closed its connection
    #[arg(long, requires = "will_payload", value_name = "TOPIC")]
    will_topic: Option<String>,

    /// That message, as JSON
    #[arg(long, requires = "will_topic", allow_hyphen_values = true, value_name = "VALUE")]
    will_payload: Option<String>,

    #[command(flatten)]
    sealing: SealingOptions,

    #[command(flatten)]
    pub(crate) bus: BusOptions,
}

/// The policies, as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PolicyName {
    /// Hold the publisher up, at most for the bus's block limit; then drop and count
    Block,
    /// Drop and count the oldest
    DropOldest,
    /// Drop and count the newest
    DropNewest,
    /// End the subscription
    Disconnect,
}

impl From<PolicyName> for Policy {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::Block => Self::Block,
            PolicyName::DropOldest => Self::DropOldest,
            PolicyName::DropNewest => Self::DropNewest,
            PolicyName::Disconnect => Self::Disconnect,
        }
    }
}

impl Subscribe {
    pub(crate) async fn run(self, bus: &BusChoice, interrupts: Interrupts) -> anyhow::Result<()> {
        let will = self.will_payload.as_ref().map(|value| json::from_json(value.as_bytes())).transpose()?;
        let quality = self.quality()?;
        let connection = bus.connect_sealing("sub", &self.sealing).await?;
        if let (Some(topic), Some(payload)) = (&self.will_topic, will) {
            let options = PublishOptions::default();
            connection.check(connection.client.set_will_bytes(topic, payload, options).await)?;
        }
        if quality > Quality::AtMostOnce {
            return self.consume(&connection, quality, &interrupts).await;
        }
        let mut merged = Merged { subscriptions: Vec::new(), next: 0, draining: false };
        for pattern in &self.patterns {
            let subscribed = connection.client.subscribe_bytes_with(pattern, self.options()).await;
            merged.subscriptions.push(connection.check(subscribed)?);
        }
        output::notice(format_args!("subscribed to {}", self.patterns.join(", ")));
        let mut output = Output::start()?;
        let printed = self.print(&connection, &mut merged, &mut output, &interrupts).await;
        let written = output.finish().await;
        drop(merged);
        // What was printed was printed; that the connection is gone no longer matters.
        let _ = connection.client.close().await;
        printed.and(written)
    }

    /// How sure it is to be.
    fn quality(&self) -> anyhow::Result<Quality> {
        let quality = match (self.qos, &self.durable) {
            (Some(0), Some(_)) => {
                let failure = Failure::usage("a durable consumer acknowledges, and --qos 0 does not");
                return Err(failure.help("leave out --qos, or give --qos 1 or 2").into());
            }
            (None | Some(0), None) => Quality::AtMostOnce,
            (None | Some(1), _) => Quality::AtLeastOnce,
            (Some(_), _) => Quality::ExactlyOnce,
        };
        if quality == Quality::AtMostOnce && self.all {
            let failure = Failure::usage("--all is for what acknowledges");
            return Err(failure
                .help("add --durable NAME or --qos 1, or use `whispeer replay --follow`")
                .into());
        }
        if quality > Quality::AtMostOnce && self.patterns.len() > 1 {
            let failure = Failure::usage("what acknowledges has one pattern");
            return Err(failure.help("run the command once for each, each with a name of its own").into());
        }
        Ok(quality)
    }

    /// Prints what comes, and acknowledges it then.
    async fn consume(
        &self,
        connection: &Connection,
        quality: Quality,
        interrupts: &Interrupts,
    ) -> anyhow::Result<()> {
        let pattern = self.patterns.first().map_or("", String::as_str);
        let mut options = self.options().quality(quality);
        if let Some(name) = &self.durable {
            options = options.durable(name);
        }
        if self.all {
            options = options.start(Start::All);
        }
        let consumer = connection.check(connection.client.consume_bytes(pattern, options).await)?;
        output::notice(format_args!("subscribed to {pattern}"));
        let mut output = Output::start()?;
        let mut consuming = Consuming::new(connection, consumer);
        let push = |delivery: &Delivery<Bytes>, text: &mut Vec<u8>| self.push_delivery(delivery, text);
        let printed = consuming.print(&mut output, interrupts, self.count, push).await;
        let written = output.finish().await;
        drop(consuming);
        // What was acknowledged is kept; that the connection is gone no longer matters.
        let _ = connection.client.close().await;
        printed.and(written)
    }

    fn push_delivery(&self, delivery: &Delivery<Bytes>, text: &mut Vec<u8>) {
        if self.json {
            let attempt = delivery.attempt.map_or(1, |attempt| attempt.number);
            let sequence = delivery.receipt.sequence();
            text.extend_from_slice(format!("{{\"sequence\":{sequence},\"attempt\":{attempt},").as_bytes());
            push_members(delivery, text);
            text.extend_from_slice(b"}\n");
            return;
        }
        self.push_line(delivery, text);
    }

    /// Adds a payload as a line.
    fn push_line(&self, message: &Message<Bytes>, text: &mut Vec<u8>) {
        if self.raw {
            text.extend_from_slice(&message.value);
        } else {
            json::push_json(&message.value, text);
        }
        text.push(b'\n');
    }

    async fn print(
        &self,
        connection: &Connection,
        merged: &mut Merged,
        output: &mut Output,
        interrupts: &Interrupts,
    ) -> anyhow::Result<()> {
        let mut left = self.count;
        let mut interrupted = pin!(interrupts.first());
        loop {
            let event = match poll_fn(|context| Poll::Ready(merged.poll_next(context))).await {
                Poll::Ready(event) => event,
                Poll::Pending => {
                    // Whoever reads the output should see what there is before a pause.
                    output.flush().await?;
                    tokio::select! {
                        event = poll_fn(|context| merged.poll_next(context)) => event,
                        error = output.failed() => return Err(error),
                        () = &mut interrupted, if !merged.draining => {
                            connection.check(merged.drain().await)?;
                            continue;
                        }
                    }
                }
            };
            let Some((at, event)) = event else {
                return if merged.draining { Ok(()) } else { Err(merged.ended(connection)) };
            };
            self.push(merged.pattern(at), event, output.buffer(), &mut left);
            output.flush_if_full().await?;
            if left == Some(0) {
                return Ok(());
            }
        }
    }

    fn push(&self, pattern: &str, event: Event<Bytes>, text: &mut Vec<u8>, left: &mut Option<u64>) {
        match event {
            Event::Message(message) => {
                if self.json {
                    push_object(&message, text);
                    text.push(b'\n');
                } else {
                    self.push_line(&message, text);
                }
                *left = left.map(|left| left.saturating_sub(1));
            }
            Event::Gap { count, reason } => self.push_gap(pattern, count, reason, text),
            Event::Undecodable { error, .. } => output::notice(format_args!("{error}")),
            _ => {}
        }
    }

    fn push_gap(&self, pattern: &str, count: u64, reason: GapReason, text: &mut Vec<u8>) {
        let reason = reason.name();
        output::notice(format_args!("gap: {count} messages for {pattern} were dropped ({reason})"));
        if self.json {
            text.extend_from_slice(
                format!("{{\"gap\":{count},\"reason\":\"{reason}\",\"pattern\":").as_bytes(),
            );
            json::push_json_string(pattern, text);
            text.extend_from_slice(b"}\n");
        }
    }

    fn options(&self) -> SubscribeOptions {
        let mut options = SubscribeOptions::default().policy(self.policy.into());
        if let Some(Window { messages, bytes }) = self.window {
            options = options.window(messages, bytes.unwrap_or(limits::WINDOW_BYTES));
        }
        if let Some(group) = &self.group {
            options = options.group(group);
        }
        if self.no_echo {
            options = options.no_echo();
        }
        options
    }
}

/// Adds a message with all that came with it.
fn push_object(message: &Message<Bytes>, text: &mut Vec<u8>) {
    text.push(b'{');
    push_members(message, text);
    text.push(b'}');
}

/// Adds what an object has of a message: topic, headers and payload.
pub(super) fn push_members(message: &Message<Bytes>, text: &mut Vec<u8>) {
    text.extend_from_slice(b"\"topic\":");
    json::push_json_string(message.topic.as_str(), text);
    text.extend_from_slice(b",\"headers\":[");
    for (index, (name, value)) in message.headers.iter().enumerate() {
        text.extend_from_slice(if index == 0 { b"[" } else { b",[" });
        json::push_json_string(name, text);
        text.push(b',');
        json::push_json_string(value, text);
        text.push(b']');
    }
    text.extend_from_slice(b"],\"payload\":");
    json::push_json(&message.value, text);
}

/// Several subscriptions, which take turns.
struct Merged {
    subscriptions: Vec<Subscription<Bytes>>,
    next: usize,
    draining: bool,
}

impl Merged {
    /// The next event of any of them, and of which one. `None` when nothing is there and one has ended
    /// by itself, so that no pattern goes missing unnoticed, or all have after a drain.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Event<Bytes>)>> {
        let (mut ended, mut found) = (0, None);
        let count = self.subscriptions.len();
        for turn in 0..count {
            let at = (self.next + turn) % count;
            let Some(subscription) = self.subscriptions.get_mut(at) else { continue };
            // Nothing is lost when this future is dropped, and dropping it is cheap.
            match pin!(subscription.next_event()).poll(context) {
                Poll::Ready(Some(event)) => {
                    found = Some((at, event));
                    break;
                }
                Poll::Ready(None) => ended += 1,
                Poll::Pending => {}
            }
        }
        if let Some((at, event)) = found {
            self.next = at + 1;
            return Poll::Ready(Some((at, event)));
        }
        let over = if self.draining { ended == count } else { ended > 0 };
        if over { Poll::Ready(None) } else { Poll::Pending }
    }

    fn pattern(&self, at: usize) -> &str {
        self.subscriptions.get(at).map_or("", Subscription::pattern)
    }

    async fn drain(&mut self) -> BusResult<()> {
        self.draining = true;
        for subscription in &mut self.subscriptions {
            subscription.drain().await?;
        }
        Ok(())
    }

    fn ended(&self, connection: &Connection) -> anyhow::Error {
        let reason = self.subscriptions.iter().find_map(Subscription::close_reason);
        connection.ended(connection.client.close_reason().or(reason))
    }
}
