//! Telling a service manager that the bus is alive, as long as it answers.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use whispeer::bus::BusHandle;
use whispeer::client::Client;
use whispeer::{BusError, ErrorClass};

use super::notices;

/// What is asked of the bus. To answer it goes through its tables and locks each session once.
const QUESTION: &str = "$bus/stats";

/// The shortest interval between two questions.
const SHORTEST: Duration = Duration::from_millis(10);

/// The task that asks; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watchdog(JoinHandle<()>);

impl Watchdog {
    /// Starts to ask the bus, if the manager wants to know, twice in the time after which it takes the bus
    /// for dead. A bus that does not answer is not reported alive, and the manager starts it again.
    ///
    /// # Errors
    /// The bus does not accept a connection.
    pub(crate) fn start(bus: &BusHandle) -> Result<Option<Self>, BusError> {
        let Some(limit) = sd_notify::watchdog_enabled() else { return Ok(None) };
        let every = (limit / 2).max(SHORTEST);
        let builder = Client::builder().name("whispeer watchdog").request_timeout(every);
        let client = builder.connect_memory(&bus.connector())?;
        Ok(Some(Self(tokio::spawn(watch(client, every)))))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn watch(client: Client, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answered = match timeout(every, client.request_bytes(QUESTION, Default::default())).await {
            Ok(Ok(_)) => true,
            Ok(Err(BusError::TimedOut { .. })) | Err(_) => false,
            // The bus has ended, and says so itself.
            Ok(Err(error)) if error.class() == ErrorClass::Link => return,
            // A refusal is an answer: a bus that drains takes no new requests.
            Ok(Err(_)) => true,
        };
        if answered {
            notices::alive();
        } else {
            tracing::error!(?every, "the bus does not answer");
        }
    }
}
