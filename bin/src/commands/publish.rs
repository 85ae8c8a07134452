//! `whispeer pub`: publishes.

use std::time::Duration;

use clap::Args;
use whispeer::client::{PublishOptions, Quality};

use crate::connection::{BusChoice, BusOptions, Connection, SealingOptions};
use crate::input::{self, LineForm, Lines};
use crate::interrupts::Interrupts;
use crate::output;
use crate::payload;
use crate::quantity::{self, human_count};

const EXAMPLES: &str = "\
Examples:
  whispeer pub news/local '\"rain\"'             a JSON string; note both pairs of quotes
  whispeer pub sensors/7 '{\"celsius\": 21.5}'   a JSON object
  whispeer pub sensors/7 < reading.json        a JSON value from standard input
  whispeer pub --raw files/logo < logo.png     bytes as they are
  whispeer pub --qos 1 orders/7 '{\"pears\": 2}'   ends when the bus has stored it
  tail -f app.log | whispeer pub --lines logs  each line as a string

Values are sent as MessagePack; {\"$binary\": \"BASE64\"} stands for bytes. Topics may have the
wildcards * and **; the message then goes to every subscription that meets them.";

/// Publish a value, or each line of standard input
#[derive(Debug, Args)]
#[command(name = "pub", after_help = EXAMPLES)]
pub(crate) struct Publish {
    /// The topic
    topic: String,

    /// The value, as JSON; without it, it is read from standard input
    #[arg(allow_hyphen_values = true, conflicts_with = "lines")]
    value: Option<String>,

    /// Send each line of standard input as a string
    #[arg(long)]
    lines: bool,

    /// Send bytes as they are, instead of JSON as MessagePack
    #[arg(long)]
    raw: bool,

    /// Send a header along; may be given several times
    #[arg(long = "header", value_parser = quantity::header, value_name = "NAME=VALUE")]
    headers: Vec<(String, String)>,

    /// How sure it is to be: 0 for at most once, 1 for at least once, 2 for exactly once; from 1 on the topic has to be in a stream
    #[arg(long, default_value_t = 0, value_name = "QOS", value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,

    /// How long a message is of use, such as 500ms or 2m; without it, it always is
    #[arg(long, value_parser = quantity::duration, value_name = "DURATION")]
    ttl: Option<Duration>,

    /// Have the bus publish it so much later, such as 10s or 1h
    #[arg(long = "in", value_parser = quantity::duration, value_name = "DURATION")]
    delay: Option<Duration>,

    /// Do not say what was published
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    sealing: SealingOptions,

    #[command(flatten)]
    pub(crate) bus: BusOptions,
}

impl Publish {
    pub(crate) async fn run(self, bus: &BusChoice, interrupts: Interrupts) -> anyhow::Result<()> {
        if self.lines {
            return self.publish_lines(bus, &interrupts).await;
        }
        let payload = match &self.value {
            Some(value) => payload::from_text(value.as_bytes(), self.raw)?,
            None => {
                let text = tokio::select! {
                    text = input::read_all() => text?,
                    () = interrupts.first() => return Ok(()),
                };
                payload::from_text(&text, self.raw)?
            }
        };
        let connection = bus.connect_sealing("pub", &self.sealing).await?;
        let published = connection.client.publish_bytes_with(&self.topic, payload, self.options()).await;
        let subscriptions = connection.check(published)?;
        if let Some(delay) = self.delay.filter(|_| !self.quiet) {
            output::notice(format_args!("the bus publishes it in {}", quantity::exact_duration(delay)));
        } else if !self.quiet {
            let plural = if subscriptions == 1 { "" } else { "s" };
            let stored = if self.qos == 0 { "" } else { "stored and " };
            output::notice(format_args!(
                "{stored}published to {} subscription{plural}",
                human_count(subscriptions as u64)
            ));
        }
        connection.check(connection.client.close().await)
    }

    async fn publish_lines(&self, bus: &BusChoice, interrupts: &Interrupts) -> anyhow::Result<()> {
        let connection = bus.connect_sealing("pub", &self.sealing).await?;
        let mut published = 0;
        let sent = self.send_lines(&connection, interrupts, &mut published).await;
        if !self.quiet {
            let plural = if published == 1 { "" } else { "s" };
            output::notice(format_args!("published {} message{plural}", human_count(published)));
        }
        sent?;
        connection.check(connection.client.close().await)
    }

    /// Sends lines until the input ends or the user interrupts, and flushes.
    ///
    /// Memory is bounded by what is read ahead and the window for publishes: while that is used up,
    /// nothing more is read.
    async fn send_lines(
        &self,
        connection: &Connection,
        interrupts: &Interrupts,
        published: &mut u64,
    ) -> anyhow::Result<()> {
        let publisher =
            connection.check(connection.client.publisher_bytes_with(&self.topic, self.options()))?;
        let mut lines = Lines::start(if self.raw { LineForm::Bytes } else { LineForm::String })?;
        let mut failed = Ok(());
        'input: loop {
            let payloads = tokio::select! {
                biased;
                () = interrupts.first() => break,
                reason = connection.client.closed() => return Err(connection.ended(Some(reason))),
                payloads = lines.next() => payloads,
            };
            let payloads = match payloads {
                None => break,
                Some(Ok(payloads)) => payloads,
                Some(Err(error)) => {
                    failed = Err(error);
                    break;
                }
            };
            for payload in payloads {
                if let Err(error) = publisher.send(&payload).await {
                    failed = Err(connection.failure(&error));
                    break 'input;
                }
                *published += 1;
            }
        }
        let flushed = publisher.flush().await;
        failed?;
        connection.check(flushed)
    }

    fn options(&self) -> PublishOptions {
        let quality = match self.qos {
            0 => Quality::AtMostOnce,
            1 => Quality::AtLeastOnce,
            _ => Quality::ExactlyOnce,
        };
        let mut options =
            PublishOptions::default().headers(self.headers.iter().cloned().collect()).quality(quality);
        if let Some(time) = self.ttl {
            options = options.ttl(time);
        }
        match self.delay {
            Some(time) => options.deliver_in(time),
            None => options,
        }
    }
}
