//! `whispeer consumers`: how far durable consumers are.

use clap::{Args, Subcommand};
use whispeer::bus::{ConsumerStats, Rows, StreamChange};

use super::dlq::change;
use super::info::{ask, check_stream};
use crate::connection::{BusChoice, BusOptions};
use crate::failure::{FAILED, Failure};
use crate::output::{self, Align, Table};
use crate::quantity::human_count;

const EXAMPLES: &str = "\
Examples:
  whispeer consumers ls
  whispeer consumers ls orders --json | jq '.[] | select(.behind > 1000)'
  whispeer consumers rm orders billing

FLOOR is the first sequence that a consumer is not done with, and BEHIND how many there are from there on; PENDING is
what its subscriptions have and have not acknowledged, and AGAIN what is to be sent once more. WAITS FOR says why it is
handed nothing more though there is more. OWNER is who made it, on a bus that asks who somebody is.";

/// Show how far durable consumers are, or remove one
#[derive(Debug, Args)]
#[command(name = "consumers", after_help = EXAMPLES)]
pub(crate) struct Consumers {
    #[command(subcommand)]
    what: What,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum What {
    /// Show the consumers of a stream, or of all
    Ls {
        /// Only of this stream
        #[arg(value_name = "STREAM")]
        stream: Option<String>,

        /// Print an array of objects
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        bus: BusOptions,
    },
    /// Forget the position of a consumer that has no subscriptions
    Rm {
        /// The stream
        #[arg(value_name = "STREAM")]
        stream: String,

        /// The consumer
        #[arg(value_name = "CONSUMER")]
        consumer: String,

        #[command(flatten)]
        bus: BusOptions,
    },
}

impl Consumers {
    pub(crate) fn bus(&self) -> &BusOptions {
        match &self.what {
            What::Ls { bus, .. } | What::Rm { bus, .. } => bus,
        }
    }

    pub(crate) async fn run(self, bus: &BusChoice) -> anyhow::Result<()> {
        let connection = bus.connect("consumers").await?;
        match self.what {
            What::Ls { stream, json, .. } => {
                let mut all: Rows<ConsumerStats> = ask(&connection, "$bus/consumers").await?;
                if let Some(stream) = &stream {
                    all.rows.retain(|row| row.stream == *stream);
                    if all.rows.is_empty() {
                        check_stream(&connection, stream).await?;
                    }
                }
                if json {
                    let rows = serde_json::to_string(&all.rows)?;
                    output::print(format!("{rows}\n"))?;
                } else {
                    output::print(table(&all.rows).render())?;
                }
                if all.left_out > 0 {
                    output::notice(format_args!("{} more are left out", human_count(all.left_out as u64)));
                }
                Ok(())
            }
            What::Rm { stream, consumer, .. } => {
                let (of, name) = (stream.clone(), consumer.clone());
                let removed =
                    change(&connection, &StreamChange::RemoveConsumer { stream, consumer }).await?.count;
                if removed == 0 {
                    let failure =
                        Failure::new(FAILED, format!("the stream \"{of}\" has no consumer \"{name}\""));
                    return Err(failure.help("`whispeer consumers ls` lists those that there are").into());
                }
                output::notice(format_args!("removed the consumer \"{name}\" of \"{of}\""));
                Ok(())
            }
        }
    }
}

fn table(rows: &[ConsumerStats]) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("STREAM", Left),
        ("CONSUMER", Left),
        ("PATTERN", Left),
        ("SUBS", Right),
        ("FLOOR", Right),
        ("BEHIND", Right),
        ("PENDING", Right),
        ("AGAIN", Right),
        ("WAITS FOR", Left),
        ("OWNER", Left),
    ]);
    for row in rows {
        table.row(vec![
            row.stream.clone(),
            row.name.clone(),
            row.pattern.clone(),
            row.subscriptions.to_string(),
            row.floor.to_string(),
            human_count(row.behind),
            human_count(row.pending),
            human_count(row.again),
            row.waits_for.clone().unwrap_or_else(|| "-".to_owned()),
            row.owner.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table
}
