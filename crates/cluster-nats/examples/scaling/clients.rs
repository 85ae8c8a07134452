//! The clients that load what is measured, all in this process.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::task::JoinHandle;
use whispeer::client::{Publisher, SubscribeOptions};
use whispeer::prelude::*;

use crate::Outcome;
use crate::processes::BusProcess;
use crate::random::Random;
use crate::simulate::histogram;

/// Bytes of a message.
const MESSAGE: usize = 64;

/// What clients have seen so far.
#[derive(Clone)]
pub(crate) struct Seen {
    began: Instant,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    latency: Arc<Mutex<Histogram<u64>>>,
}

impl Seen {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            sent: Arc::default(),
            received: Arc::default(),
            failed: Arc::default(),
            latency: Arc::new(Mutex::new(histogram())),
        }
    }

    /// Messages, or requests, that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Messages, or replies, that have come.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Messages that could not be sent, and requests that had no reply.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Waits until each request that was sent has ended.
    ///
    /// # Errors
    /// When some are still under way after ten seconds, or there were some that failed.
    pub(crate) async fn all_answered(&self) -> Outcome {
        let until = Instant::now() + Duration::from_secs(10);
        while self.received() + self.failed() < self.sent() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (sent, received) = (self.sent(), self.received());
        if received < sent {
            return Err(format!("of {sent} requests {received} had a reply").into());
        }
        Ok(())
    }

    /// How long they took since this was asked last, in nanoseconds.
    pub(crate) fn take_latency(&self) -> Histogram<u64> {
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *latency, histogram())
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn message(&self) -> Bytes {
        let mut message = vec![0; MESSAGE];
        message[..8].copy_from_slice(&self.now().to_le_bytes());
        message.into()
    }

    /// Something came that was sent at `then`.
    fn took(&self, then: u64) {
        self.received.fetch_add(1, Ordering::Relaxed);
        let took = self.now().saturating_sub(then);
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(took);
    }

    fn took_message(&self, message: &[u8]) {
        if let Some(then) = message.first_chunk() {
            self.took(u64::from_le_bytes(*then));
        }
    }
}

/// Connects so many clients to a bus.
pub(crate) async fn connect(bus: &BusProcess, count: usize) -> Outcome<Vec<Client>> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(Client::new_unix(&bus.socket).await?);
    }
    Ok(clients)
}

/// Lets a client have what is published to a topic.
pub(crate) async fn subscribe(client: &Client, topic: &str, seen: &Seen) -> Outcome<JoinHandle<()>> {
    let options = SubscribeOptions::default().no_echo();
    let mut subscription = client.subscribe_bytes_with(topic, options).await?;
    let seen = seen.clone();
    Ok(tokio::spawn(async move {
        while let Some((_, message)) = subscription.recv().await {
            seen.took_message(&message);
        }
    }))
}

/// Something that happens by chance, so often in a second, until this is dropped.
pub(crate) struct Load {
    is_over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Load {
    fn start(rate: f64, seen: &Seen, mut send: impl FnMut(&mut Random) + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, sent) = (Arc::clone(&is_over), Arc::clone(&seen.sent));
        let thread = thread::spawn(move || {
            let mut random = Random::new(1);
            let mut next = Instant::now();
            while !over.load(Ordering::Relaxed) {
                next += Duration::from_nanos(random.gap(rate));
                let pause = next.saturating_duration_since(Instant::now());
                if !pause.is_zero() {
                    thread::sleep(pause);
                }
                send(&mut random);
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { is_over, thread: Some(thread) }
    }

    /// Publishes by any of these.
    pub(crate) fn publish(publishers: Vec<Publisher<Bytes>>, rate: f64, seen: &Seen) -> Self {
        let (runtime, of) = (tokio::runtime::Handle::current(), seen.clone());
        Self::start(rate, seen, move |random| {
            let publisher = &publishers[random.below(publishers.len() as u64) as usize];
            if runtime.block_on(publisher.send(&of.message())).is_err() {
                of.failed.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    /// Asks any of these services by any of these clients.
    pub(crate) fn ask(clients: Vec<Client>, services: Vec<String>, rate: f64, seen: &Seen) -> Self {
        let (runtime, of) = (tokio::runtime::Handle::current(), seen.clone());
        Self::start(rate, seen, move |random| {
            let client = clients[random.below(clients.len() as u64) as usize].clone();
            let service = services[random.below(services.len() as u64) as usize].clone();
            let seen = of.clone();
            runtime.spawn(async move {
                let began = seen.now();
                match client.request_bytes(&service, seen.message()).await {
                    Ok(_) => seen.took(began),
                    Err(_) => _ = seen.failed.fetch_add(1, Ordering::Relaxed),
                }
            });
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // It sleeps for no longer than the pause between two.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the load ended by itself");
        }
    }
}
