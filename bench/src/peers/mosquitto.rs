//! Mosquitto, over its Unix socket, with QoS 0 throughout.
//!
//! `rumqttc` has a channel of requests to the task that drives the connection; it is as long as
//! its documents recommend for many publishes, and no message waits for another. MQTT has no
//! requests in its version 3.1.1; they are two publishes. The broker may keep as much for a client
//! as it needs, or else it would drop messages at full speed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::future::FutureExt;
use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS, SubscribeFilter, Transport,
};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::paired::Waiting;
use crate::address::Address;
use crate::load::client::{PubSub, Publisher, Receiving, Requester};
use crate::load::payloads::Payloads;
use crate::load::receiver::{Receiver, Step};

/// Requests that wait for the task that drives the connection.
const REQUESTS: usize = 1024;

/// Bytes of the largest packet; 10 KiB by default.
const PACKET_BYTES: usize = 1024 * 1024;

/// Patterns of one packet.
const PATTERNS_A_PACKET: usize = 500;

/// Longer than any measurement, so that no pings are among what is measured.
const KEEP_ALIVE: Duration = Duration::from_secs(3600);

const ASKED: &str = "bench/ask";

const ANSWERED: &str = "bench/answer";

/// What differs from the broker's defaults: no limit on what waits for a client (1,000 messages),
/// no delay of small writes, no messages of its own about itself; and who may connect.
const SETTINGS: &str = "allow_anonymous true\n\
    max_queued_messages 0\n\
    max_inflight_messages 0\n\
    set_tcp_nodelay true\n\
    sys_interval 0\n\
    persistence false\n\
    log_type error\n";

/// Numbers the clients of this process, whose names have to differ.
static CLIENTS: AtomicU64 = AtomicU64::new(0);

/// How the broker is started.
///
/// # Errors
/// When its settings cannot be written.
pub fn command(program: &Path, address: &Address, directory: &Path) -> Result<Command> {
    let settings = directory.join("mosquitto.conf");
    // Started by root it would become a user that may not write into the directory.
    let user = if nix::unistd::geteuid().is_root() {
        "user root\n"
    } else {
        ""
    };
    let listener = format!("listener 0 {}\n", address.path()?.display());
    fs::write(&settings, format!("{user}{listener}{SETTINGS}"))?;
    let mut command = Command::new(program);
    command.arg("-c").arg(settings);
    Ok(command)
}

/// A connection to Mosquitto.
pub struct Mosquitto {
    client: AsyncClient,
    /// What drives the connection, until a publisher or a subscription takes it over.
    driver: Mutex<Option<EventLoop>>,
    waiting: Waiting,
    tasks: JoinSet<Result<()>>,
}

impl Mosquitto {
    async fn driver(&self) -> Result<EventLoop> {
        let mut driver = self.driver.lock().await;
        driver.take().context("the connection is in use")
    }
}

impl PubSub for Mosquitto {
    type Publisher = MosquittoPublisher;
    type Held = String;

    async fn connect(address: &Address) -> Result<Self> {
        let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
        let name = format!("bench-{}-{number}", std::process::id());
        let path = address.path()?.display().to_string();
        let mut options = MqttOptions::new(name, path, 0);
        options
            .set_transport(Transport::unix())
            .set_keep_alive(KEEP_ALIVE)
            .set_max_packet_size(PACKET_BYTES, PACKET_BYTES);
        let (client, mut driver) = AsyncClient::new(options, REQUESTS);
        while !matches!(driver.poll().await?, Event::Incoming(Packet::ConnAck(_))) {}
        Ok(Self {
            client,
            driver: Mutex::new(Some(driver)),
            waiting: Waiting::default(),
            tasks: JoinSet::new(),
        })
    }

    async fn publisher(&self, topic: &str, payload_bytes: usize) -> Result<MosquittoPublisher> {
        let mut driver = self.driver().await?;
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            while !matches!(driver.poll().await?, Event::Outgoing(Outgoing::Disconnect)) {}
            anyhow::Ok(driver)
        });
        Ok(MosquittoPublisher {
            client: self.client.clone(),
            topic: topic.to_owned(),
            payloads: Payloads::new(payload_bytes),
            driving,
        })
    }

    async fn subscribe(&self, patterns: Vec<String>, receiver: Receiver) -> Result<Receiving> {
        let mut driver = self.driver().await?;
        for some in patterns.chunks(PATTERNS_A_PACKET) {
            let filters = some
                .iter()
                .map(|pattern| SubscribeFilter::new(filter(pattern), QoS::AtMostOnce));
            self.client.subscribe_many(filters).await?;
            while !matches!(driver.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
        }
        // The driver ends with the last sender of requests.
        let client = self.client.clone();
        Ok(async move {
            let received = receive(driver, receiver).await;
            drop(client);
            received
        }
        .boxed_local())
    }

    async fn hold(&self, pattern: &str) -> Result<String> {
        let pattern = filter(pattern);
        self.client.subscribe(&pattern, QoS::AtMostOnce).await?;
        let mut driver = self.driver.lock().await;
        let driver = driver.as_mut().context("the connection is in use")?;
        while !matches!(driver.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
        Ok(pattern)
    }

    async fn release(&self, held: String) -> Result<()> {
        self.client.unsubscribe(held).await?;
        let mut driver = self.driver.lock().await;
        let driver = driver.as_mut().context("the connection is in use")?;
        while !matches!(driver.poll().await?, Event::Incoming(Packet::UnsubAck(_))) {}
        Ok(())
    }
}

async fn receive(mut driver: EventLoop, mut receiver: Receiver) -> Result<Receiver> {
    loop {
        if let Event::Incoming(Packet::Publish(message)) = driver.poll().await?
            && receiver.accept(&message.payload)? == Step::End
        {
            return Ok(receiver);
        }
    }
}

impl Requester for Mosquitto {
    async fn connect(address: &Address) -> Result<Self> {
        let mut this = <Self as PubSub>::connect(address).await?;
        this.hold(ANSWERED).await?;
        let mut driver = this.driver().await?;
        let waiting = this.waiting.clone();
        this.tasks.spawn(async move {
            loop {
                if let Event::Incoming(Packet::Publish(answer)) = driver.poll().await? {
                    waiting.answer(answer.payload)?;
                }
            }
        });
        Ok(this)
    }

    async fn answerer(address: &Address) -> Result<Self> {
        <Self as PubSub>::connect(address).await
    }

    async fn answer(self, ready: impl FnOnce()) -> Result<()> {
        self.hold(ASKED).await?;
        let mut driver = self.driver().await?;
        ready();
        loop {
            if let Event::Incoming(Packet::Publish(request)) = driver.poll().await? {
                let client = &self.client;
                // The channel has room for all requests that are under way, so that this task,
                // which drives the connection too, never waits for itself.
                client.try_publish(ANSWERED, QoS::AtMostOnce, false, request.payload)?;
            }
        }
    }

    async fn request<T>(&self, payload: Bytes, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let answer = self.waiting.add(&payload)?;
        self.client
            .publish_bytes(ASKED, QoS::AtMostOnce, false, payload)
            .await?;
        Ok(look(&answer.await?))
    }
}

/// Publishes with QoS 0.
pub struct MosquittoPublisher {
    client: AsyncClient,
    topic: String,
    payloads: Payloads,
    driving: JoinSet<Result<EventLoop>>,
}

impl Publisher for MosquittoPublisher {
    async fn send(&mut self, write: impl FnOnce(&mut [u8])) -> Result<()> {
        let payload = self.payloads.next(write).clone();
        self.client
            .publish_bytes(&self.topic, QoS::AtMostOnce, false, payload)
            .await?;
        Ok(())
    }

    async fn send_to(&mut self, topic: &str, write: impl FnOnce(&mut [u8])) -> Result<()> {
        let payload = self.payloads.next(write).clone();
        self.client
            .publish_bytes(topic, QoS::AtMostOnce, false, payload)
            .await?;
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        // Requests are served in turn, so that all publishes have been written before this.
        self.client.disconnect().await?;
        match self.driving.join_next().await {
            Some(ended) => ended?.map(drop),
            None => bail!("nothing drives the connection"),
        }
    }
}

/// A topic or pattern as MQTT writes it.
fn filter(pattern: &str) -> String {
    pattern.replace("**", "#").replace('*', "+")
}
