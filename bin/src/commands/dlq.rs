//! `whispeer dlq`: what no consumer could deal with.

use clap::{Args, Subcommand};
use whispeer::bus::{StreamChange, StreamChanged};
use whispeer::client::{HistoryOptions, Start};

use super::info::check_stream;
use crate::connection::{BusChoice, BusOptions, Connection};
use crate::failure::{FAILED, Failure};
use crate::output::{self, Align, Table};
use crate::quantity::{human_count, human_size};

const EXAMPLES: &str = "\
Examples:
  whispeer dlq ls orders
  whispeer dlq redrive orders --all       put all back at the end of their stream
  whispeer dlq redrive orders 17 18
  whispeer dlq drop orders 19
  whispeer replay '$dead/orders/**'       their payloads and headers; with --keyring also what is encrypted

A message whose delivery has failed too often is put away with why. Only the user that the bus runs as may put back and
drop, or who has a role with `administer = true`; who puts back needs the right to publish to all topics of the stream.";

/// List, put back or drop messages that no consumer could deal with
#[derive(Debug, Args)]
#[command(name = "dlq", after_help = EXAMPLES)]
pub(crate) struct Dlq {
    #[command(subcommand)]
    what: What,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum What {
    /// List the dead letters of a stream
    Ls {
        /// The stream
        #[arg(value_name = "STREAM")]
        stream: String,

        /// Print an object for each
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        bus: BusOptions,
    },
    /// Put dead letters back at the end of their stream, as they were published
    Redrive(Which),
    /// Drop dead letters
    Drop(Which),
}

/// Which dead letters.
#[derive(Debug, Args)]
struct Which {
    /// The stream
    #[arg(value_name = "STREAM")]
    stream: String,

    /// Their sequences, as `ls` shows them
    #[arg(value_name = "SEQUENCE", required_unless_present = "all")]
    sequences: Vec<u64>,

    /// All that there are
    #[arg(long, conflicts_with = "sequences")]
    all: bool,

    #[command(flatten)]
    bus: BusOptions,
}

impl Dlq {
    pub(crate) fn bus(&self) -> &BusOptions {
        match &self.what {
            What::Ls { bus, .. } => bus,
            What::Redrive(which) | What::Drop(which) => &which.bus,
        }
    }

    pub(crate) async fn run(self, bus: &BusChoice) -> anyhow::Result<()> {
        let connection = bus.connect("dlq").await?;
        match self.what {
            What::Ls { stream, json, .. } => {
                check_stream(&connection, &stream).await?;
                list(&connection, &stream, json).await
            }
            What::Redrive(Which { stream, sequences, all, .. }) => {
                let sequences = (!all).then_some(sequences);
                let changed = change(&connection, &StreamChange::Redrive { stream, sequences }).await?;
                output::notice(format_args!("put {} back", letters(changed.count)));
                if changed.left > 0 {
                    let left = letters(changed.left);
                    output::notice(format_args!(
                        "left {left}, whose topics the stream has no more or whose time to live is over"
                    ));
                }
                Ok(())
            }
            What::Drop(Which { stream, sequences, all, .. }) => {
                let sequences = (!all).then_some(sequences);
                let dropped = change(&connection, &StreamChange::Drop { stream, sequences }).await?.count;
                output::notice(format_args!("dropped {}", letters(dropped)));
                Ok(())
            }
        }
    }
}

fn letters(count: u64) -> String {
    format!("{} dead letter{}", human_count(count), if count == 1 { "" } else { "s" })
}

/// Asks the bus to do something to a stream; returns what has come of it.
pub(super) async fn change(connection: &Connection, change: &StreamChange) -> anyhow::Result<StreamChanged> {
    let asked = connection.client.request_bytes("$bus/streams/change", change.to_bytes()).await;
    let answer = connection.check(asked)?;
    let changed = rmp_serde::from_slice(&answer).map_err(|error| {
        Failure::new(FAILED, format!("the answer on $bus/streams/change is not understood: {error}"))
            .help("use matching releases of this command and of the bus")
    })?;
    Ok(changed)
}

async fn list(connection: &Connection, stream: &str, json: bool) -> anyhow::Result<()> {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("SEQUENCE", Right),
        ("CONSUMER", Left),
        ("TOPIC", Left),
        ("BYTES", Right),
        ("ATTEMPTS", Right),
        ("REASON", Left),
    ]);
    let pattern = format!("$dead/{stream}/**");
    let mut options = HistoryOptions::default().start(Start::All);
    loop {
        let page = connection.check(connection.client.history_bytes(&pattern, options.clone()).await)?;
        for message in page.messages {
            let header = |name: &str| message.headers.find(name).unwrap_or("-").to_owned();
            let sequence = message.position.map_or(0, |position| position.sequence);
            // $dead, the stream, and the consumer if it has a name.
            let consumer = message.topic.as_str().split('/').nth(2).unwrap_or("-").to_owned();
            if json {
                let line = serde_json::json!({
                    "sequence": sequence,
                    "consumer": consumer,
                    "topic": header("dead-topic"),
                    "bytes": message.value.len(),
                    "attempts": header("dead-attempts"),
                    "reason": header("dead-reason"),
                });
                output::print(format!("{line}\n"))?;
            } else {
                table.row(vec![
                    sequence.to_string(),
                    consumer,
                    header("dead-topic"),
                    human_size(message.value.len() as u64),
                    header("dead-attempts"),
                    header("dead-reason"),
                ]);
            }
        }
        match page.next {
            Some(next) => options = options.start(Start::From(next)),
            None => break,
        }
    }
    if json { Ok(()) } else { output::print(table.render()) }
}
