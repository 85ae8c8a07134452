//! What is measured: a server of NATS, buses, and their clients.

use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use whispeer::prelude::*;
use whispeer_testkit::nats::{NatsBuilder, NatsServer};

use crate::Outcome;
use crate::clients::{self, Seen};
use crate::processes::{BusProcess, Used, used};

/// How long a load is on before it counts.
const BEFORE: Duration = Duration::from_secs(1);

/// Two accounts: one for the buses, one that is told how the server is.
const ACCOUNTS: &str = "
accounts: { SYS: { users: [{user: sys, password: sys}] }, APP: { users: [{user: app, password: app}] } }
system_account: SYS
no_auth_user: app
";

/// Everything at this machine.
pub(crate) struct Place {
    _folder: TempDir,
    nats: Option<(NatsServer, async_nats::Client)>,
    /// The buses.
    pub(crate) buses: Vec<BusProcess>,
    /// The clients of each.
    pub(crate) clients: Vec<Vec<Client>>,
    /// What the clients have seen.
    pub(crate) seen: Seen,
}

/// What was used in a second.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    /// By each bus.
    pub(crate) buses: Vec<Used>,
    /// By NATS.
    pub(crate) nats: Used,
    /// By the clients.
    pub(crate) clients: Used,
    /// Messages that clients sent.
    pub(crate) sent: f64,
    /// And received.
    pub(crate) received: f64,
    /// Messages that NATS took.
    pub(crate) nats_in: f64,
    /// And gave.
    pub(crate) nats_out: f64,
    /// Milliseconds that half of what was received took at the most, and all but one in a hundred.
    pub(crate) latency: (f64, f64),
}

/// What a server of NATS says of itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NatsState {
    received: f64,
    sent: f64,
    /// Subscriptions of all its clients.
    pub(crate) subscriptions: f64,
}

impl Place {
    /// With so many buses and clients of each; joined, where there is more than one.
    pub(crate) async fn new(buses: usize, connections: usize) -> Outcome<Self> {
        Self::with(buses, connections, buses > 1).await
    }

    /// As [`Place::new`], with or without NATS.
    pub(crate) async fn with(buses: usize, connections: usize, is_joined: bool) -> Outcome<Self> {
        let folder = TempDir::new()?;
        let nats = if is_joined {
            let server = NatsBuilder::newest().config(ACCOUNTS).start().await;
            let system = async_nats::ConnectOptions::with_user_and_password("sys".into(), "sys".into());
            let system = system.connect(server.url()).await?;
            Some((server, system))
        } else {
            None
        };
        let url = nats.as_ref().map(|(server, _)| server.url());
        let buses = (0..buses)
            .map(|number| BusProcess::start(folder.path(), number, url.as_deref()))
            .collect::<Outcome<Vec<_>>>()?;
        let mut clients = Vec::new();
        for bus in &buses {
            clients.push(clients::connect(bus, connections).await?);
        }
        Ok(Self { _folder: folder, nats, buses, clients, seen: Seen::new() })
    }

    /// Where NATS is.
    pub(crate) fn url(&self) -> Outcome<String> {
        Ok(self.nats.as_ref().ok_or("there is no NATS")?.0.url())
    }

    /// What the server of NATS says of itself.
    pub(crate) async fn nats_state(&self) -> Outcome<NatsState> {
        let Some((_, system)) = &self.nats else { return Ok(NatsState::default()) };
        let answer = system.request("$SYS.REQ.SERVER.PING.STATSZ", "".into()).await?;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        let of =
            |path: &str| answer.pointer(path).and_then(Value::as_f64).ok_or_else(|| format!("no {path}"));
        Ok(NatsState {
            received: of("/statsz/received/msgs")?,
            sent: of("/statsz/sent/msgs")?,
            subscriptions: of("/statsz/subscriptions")?,
        })
    }

    /// What the server of NATS has used.
    pub(crate) fn nats_used(&self) -> Outcome<Used> {
        self.nats.as_ref().map_or(Ok(Used::default()), |(server, _)| used(server.process()))
    }

    fn all_used(&self) -> Outcome<(Vec<Used>, Used, Used)> {
        let buses = self.buses.iter().map(BusProcess::used).collect::<Outcome<_>>()?;
        Ok((buses, self.nats_used()?, used(std::process::id())?))
    }

    /// Looks at everything for so many seconds, from a second on.
    pub(crate) async fn observe(&self, seconds: f64) -> Outcome<Measured> {
        sleep(BEFORE).await;
        self.seen.take_latency();
        let state = self.nats_state().await?;
        let (began, sent, received) = (Instant::now(), self.seen.sent(), self.seen.received());
        let before = self.all_used()?;
        sleep(Duration::from_secs_f64(seconds)).await;
        let after = self.all_used()?;
        let (now_sent, now_received) = (self.seen.sent(), self.seen.received());
        let took = began.elapsed().as_secs_f64();
        let latency = self.seen.take_latency();
        let now_state = self.nats_state().await?;
        let in_a_second = |after: Used, before: Used| {
            let used = after - before;
            Used { work: used.work / took, memory: after.memory }
        };
        let at = |quantile| latency.value_at_quantile(quantile) as f64 / 1e6;
        Ok(Measured {
            buses: after
                .0
                .iter()
                .zip(&before.0)
                .map(|(after, before)| in_a_second(*after, *before))
                .collect(),
            nats: in_a_second(after.1, before.1),
            clients: in_a_second(after.2, before.2),
            sent: (now_sent - sent) as f64 / took,
            received: (now_received - received) as f64 / took,
            nats_in: (now_state.received - state.received) / took,
            nats_out: (now_state.sent - state.sent) / took,
            latency: (at(0.5), at(0.99)),
        })
    }

    /// Waits until all that buses have asked of NATS is there: nothing has changed for half a second.
    pub(crate) async fn settled(&self) -> Outcome {
        let mut last = f64::NAN;
        loop {
            let now = self.nats_state().await?.subscriptions;
            if now.to_bits() == last.to_bits() {
                return Ok(());
            }
            last = now;
            sleep(Duration::from_millis(500)).await;
        }
    }
}
