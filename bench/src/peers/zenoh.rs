//! Zenoh through its router, over a Unix socket or TCP.
//!
//! Messages are put with congestion control that blocks, so that none is dropped, and without the
//! express flag, so that small ones travel together; they are received in callbacks: as Zenoh's
//! own measurements of throughput do. The router does not add timestamps, and nobody scouts.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use futures_util::future::FutureExt;
use tokio::sync::Notify;
use zenoh::pubsub::{Publisher as ZenohPublisher, Subscriber};
use zenoh::qos::CongestionControl;
use zenoh::query::{ConsolidationMode, QueryTarget, Queryable};
use zenoh::{Config, Session, Wait};

use crate::address::Address;
use crate::load::client::{PubSub, Publisher, Receiving, Requester};
use crate::load::message::{SMALLEST_BYTES, write_end};
use crate::load::payloads::Payloads;
use crate::load::receiver::Receiver;
use crate::load::shared::Shared;

const SERVED: &str = "bench/echo";

/// Sessions that the router accepts, 1,000 by default: as many as the measurement of memory needs.
const SESSIONS: &str = "transport/unicast/max_sessions:20000";

/// The stream of the messages that find out whether a subscription has reached the router.
const PROBES: u16 = u16::MAX;

/// How often it is tried.
const PROBE_INTERVAL: Duration = Duration::from_millis(2);

/// How often it is tried at most.
const PROBE_LIMIT: u32 = 10_000;

/// How the router is started.
///
/// # Errors
/// When the address cannot be written.
pub fn command(program: &Path, address: &Address) -> Result<Command> {
    let mut command = Command::new(program);
    command
        .args(["--listen", &endpoint(address)])
        .args(["--no-multicast-scouting", "--no-timestamp"])
        .args(["--cfg", "scouting/gossip/enabled:false"])
        .args(["--cfg", SESSIONS])
        .env("RUST_LOG", "error");
    Ok(command)
}

fn endpoint(address: &Address) -> String {
    match address {
        Address::Unix(path) => format!("unixsock-stream/{}", path.display()),
        Address::Tcp(port) => format!("tcp/127.0.0.1:{port}"),
    }
}

/// A session with the router.
pub struct Zenoh {
    session: Session,
    address: Address,
}

impl PubSub for Zenoh {
    type Publisher = ZenohPut;
    type Held = Subscriber<()>;

    async fn connect(address: &Address) -> Result<Self> {
        let mut config = Config::default();
        for (key, value) in [
            ("mode", "\"client\""),
            ("connect/endpoints", &format!("[{:?}]", endpoint(address))),
            ("scouting/multicast/enabled", "false"),
            ("scouting/gossip/enabled", "false"),
        ] {
            config.insert_json5(key, value).map_err(boxed)?;
        }
        Ok(Self {
            session: zenoh::open(config).await.map_err(boxed)?,
            address: address.clone(),
        })
    }

    async fn publisher(&self, topic: &str, payload_bytes: usize) -> Result<ZenohPut> {
        let publisher = self
            .session
            .declare_publisher(topic.to_owned())
            .congestion_control(CongestionControl::Block)
            .await
            .map_err(boxed)?;
        Ok(ZenohPut {
            session: self.session.clone(),
            publisher,
            payloads: Payloads::new(payload_bytes),
        })
    }

    async fn subscribe(&self, patterns: Vec<String>, receiver: Receiver) -> Result<Receiving> {
        let (shared, received) = Shared::new(receiver);
        let probed = Arc::new(Notify::new());
        let mut subscribers = Vec::new();
        for pattern in &patterns {
            let (shared, probed) = (Arc::clone(&shared), Arc::clone(&probed));
            let subscriber = self
                .session
                .declare_subscriber(pattern.clone())
                .callback(move |sample| {
                    let payload = sample.payload().to_bytes();
                    if is_probe(&payload) {
                        probed.notify_one();
                    } else {
                        shared.take(&payload);
                    }
                })
                .await
                .map_err(boxed)?;
            subscribers.push(subscriber);
        }
        // A declaration is not acknowledged, so a message through the router has to show that the
        // last one has arrived. It comes from another session, because one's own take a short cut.
        if let Some(last) = patterns.last() {
            let probing = <Self as PubSub>::connect(&self.address).await?;
            probing.probe(&concrete(last), &probed).await?;
        }
        let session = self.session.clone();
        Ok(async move {
            let receiver = received.await?;
            drop((subscribers, session));
            receiver
        }
        .boxed_local())
    }

    async fn hold(&self, pattern: &str) -> Result<Subscriber<()>> {
        self.session
            .declare_subscriber(pattern.to_owned())
            .callback(|_| {})
            .await
            .map_err(boxed)
    }

    async fn release(&self, held: Subscriber<()>) -> Result<()> {
        held.undeclare().await.map_err(boxed)
    }
}

impl Zenoh {
    /// Publishes to `topic` until it has been received.
    async fn probe(&self, topic: &str, probed: &Notify) -> Result<()> {
        let mut probe = vec![0; SMALLEST_BYTES];
        write_end(&mut probe, PROBES, 0);
        for _ in 0..PROBE_LIMIT {
            self.session
                .put(topic, probe.clone())
                .congestion_control(CongestionControl::Block)
                .await
                .map_err(boxed)?;
            if tokio::time::timeout(PROBE_INTERVAL, probed.notified())
                .await
                .is_ok()
            {
                return Ok(());
            }
        }
        bail!("a subscription did not reach the router")
    }

    /// Asks until there is an answer.
    async fn wait_for_answers(&self) -> Result<()> {
        for _ in 0..PROBE_LIMIT {
            let probe = Bytes::from_static(&[0; SMALLEST_BYTES]);
            if self.request(probe, |_| ()).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
        bail!("the queryable did not reach the router")
    }
}

/// A topic that `pattern` matches.
fn concrete(pattern: &str) -> String {
    pattern.replace("**", "x").replace('*', "x")
}

fn is_probe(payload: &[u8]) -> bool {
    // The stream is in the upper bits of the first word.
    payload.get(6..8) == Some(&PROBES.to_le_bytes())
}

impl Requester for Zenoh {
    async fn connect(address: &Address) -> Result<Self> {
        <Self as PubSub>::connect(address).await
    }

    async fn answer(self, ready: impl FnOnce()) -> Result<()> {
        let _queryable: Queryable<()> = self
            .session
            .declare_queryable(SERVED)
            .callback(|query| {
                let payload = query.payload().cloned().unwrap_or_default();
                // The asker fails when it gets no answer.
                let _ = query.reply(SERVED, payload).wait();
            })
            .await
            .map_err(boxed)?;
        let asking = <Self as PubSub>::connect(&self.address).await?;
        asking.wait_for_answers().await?;
        ready();
        std::future::pending().await
    }

    async fn request<T>(&self, payload: Bytes, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let answers = self
            .session
            .get(SERVED)
            .payload(payload)
            .target(QueryTarget::BestMatching)
            .consolidation(ConsolidationMode::None)
            .congestion_control(CongestionControl::Block)
            .await
            .map_err(boxed)?;
        let answer = answers.recv_async().await.map_err(boxed)?;
        match answer.result() {
            Ok(sample) => Ok(look(&sample.payload().to_bytes())),
            Err(error) => bail!("a query failed: {error}"),
        }
    }
}

/// Puts to a key.
pub struct ZenohPut {
    session: Session,
    publisher: ZenohPublisher<'static>,
    payloads: Payloads,
}

impl Publisher for ZenohPut {
    async fn send(&mut self, write: impl FnOnce(&mut [u8])) -> Result<()> {
        let payload = self.payloads.next(write).clone();
        self.publisher.put(payload).await.map_err(boxed)
    }

    async fn send_to(&mut self, topic: &str, write: impl FnOnce(&mut [u8])) -> Result<()> {
        let payload = self.payloads.next(write).clone();
        self.session
            .put(topic, payload)
            .congestion_control(CongestionControl::Block)
            .await
            .map_err(boxed)
    }
}

/// An error without the place in Zenoh's source that it ends with.
fn boxed(error: impl std::fmt::Display) -> anyhow::Error {
    let text = error.to_string();
    let told = text.split_once(" at /").map_or(&text[..], |(told, _)| told);
    anyhow!("{told}")
}
