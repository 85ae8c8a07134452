//! `whispeer stop`: ends a bus in good order.

use std::time::Duration;

use clap::Args;
use whispeer::BusError;
use whispeer::bus::StopRequest;

use crate::connection::{BusChoice, BusOptions};
use crate::failure::{Failure, NO_BUS};
use crate::output;
use crate::quantity::duration;

const EXAMPLES: &str = "\
Examples:
  whispeer stop --addr my_bus
  whispeer stop --addr tls://bus.example.com:4242 --cert admin.pem --key admin.key --grace 1m

Only the user that the bus runs as may do so, or who has a role with `administer = true`.";

/// Ask a bus to stop: it takes nothing new, and lets what is in flight finish
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Stop {
    /// How long that may take; then the bus stops whatever is left
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    grace: Duration,

    #[command(flatten)]
    pub(crate) bus: BusOptions,
}

impl Stop {
    pub(crate) async fn run(self, bus: &BusChoice) -> anyhow::Result<()> {
        let connection = bus.connect_once("stop").await?;
        let grace_ms = u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX);
        let request = StopRequest { grace_ms }.to_bytes();
        connection.check(connection.client.request_bytes("$bus/stop", request).await)?;
        connection.client.closed().await;
        match connection.client.close_reason() {
            None | Some(BusError::Closed { .. }) => {
                output::notice(format_args!("{} has stopped", connection.address));
                Ok(())
            }
            Some(reason) => {
                let what = format!(
                    "asked {} to stop, and lost the connection before it had: {reason}",
                    connection.address
                );
                Err(Failure::new(NO_BUS, what).into())
            }
        }
    }
}
