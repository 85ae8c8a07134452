//! Buses joined over a cluster of NATS, restarted one after the other under load, and then the nodes of NATS: whatever is asked is answered,
//! and what was acknowledged is kept.
//!
//! `WHISPEER_ROUNDS` restarts them more than once.

#![expect(clippy::print_stdout, reason = "a test that fails shows what it went through")]

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use whispeer::client::{
    Event, PublishOptions, Quality, Reconnect, RequestOptions, ServeOptions, Start, SubscribeOptions,
    Subscription,
};
use whispeer::prelude::*;
use whispeer_testkit::nats::{self, NatsBuilder, NatsCluster};

use crate::support::{LIMIT, Place, Running};

const BUSES: usize = 3;

/// How long a request may take. A restart is far shorter.
const DEADLINE: Duration = Duration::from_secs(20);

/// Between two messages of a publisher, and two requests of a client.
const PAUSE: Duration = Duration::from_millis(5);

/// How long it may take until a bus that has started reaches all others.
const JOINING: Duration = Duration::from_secs(30);

/// A node of NATS waits for its clients to go elsewhere before it ends: as short as it may be.
const GRACE: &str = "lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"3s\"";

/// What a subscriber of all numbers has had of them.
#[derive(Default)]
struct Had {
    topics: HashMap<String, BTreeSet<u64>>,
    /// Messages that are told to be missing, and how often it was told without a number.
    missing: u64,
    unknown: u64,
    /// Messages that came twice.
    repeated: u64,
}

/// Messages that may come twice to a subscriber who goes to another bus as often as here: some of those that are on their way at that moment.
const REPEATED: u64 = 20;

/// Three buses of their own processes, and what flows.
struct Ground {
    place: Place,
    nats: NatsCluster,
    buses: Vec<Running>,
    /// Who asks and publishes, until it stops.
    tasks: JoinSet<()>,
    stops: Arc<AtomicBool>,
    /// Who serves and is subscribed, until it ends.
    others: JoinSet<()>,
    ends: Arc<AtomicBool>,
    /// Numbers that were asked and are answered, and those that were served.
    asked: Arc<AtomicU64>,
    served: Arc<Mutex<HashSet<Bytes>>>,
    failed: Arc<Mutex<Vec<String>>>,
    /// What publishers were told to be published, and kept.
    published: Arc<Mutex<HashMap<String, u64>>>,
    kept: Arc<Mutex<BTreeSet<String>>>,
    had: Vec<Arc<Mutex<Had>>>,
}

impl Ground {
    async fn new(version: NatsBuilder) -> Self {
        let nats = version.config(GRACE).start_cluster(BUSES).await;
        let mut ground = Self {
            place: Place::new(),
            nats,
            buses: Vec::new(),
            tasks: JoinSet::new(),
            stops: Arc::default(),
            others: JoinSet::new(),
            ends: Arc::default(),
            asked: Arc::default(),
            served: Arc::default(),
            failed: Arc::default(),
            published: Arc::default(),
            kept: Arc::default(),
            had: Vec::new(),
        };
        let urls = ground.nats.urls();
        for bus in 0..BUSES {
            let mut urls = urls.clone();
            urls.rotate_left(bus);
            let address = ground.address(bus);
            let file = format!(
                "listen = [\"{address}\"]\nstore.folder = \"kept{bus}\"\n[nats]\nurl = \"{}\"\n[streams.orders]\npatterns = [\"orders/**\"]\n",
                urls.join(",")
            );
            ground.place.write(&format!("bus{bus}.toml"), &file);
        }
        for bus in 0..BUSES {
            let running = ground.bus(bus);
            ground.buses.push(running);
        }
        ground
    }

    fn bus(&self, bus: usize) -> Running {
        let mut running = self.place.start(&["serve", "--config", &format!("bus{bus}.toml")]);
        running.wait_for("ready on");
        running
    }

    fn address(&self, bus: usize) -> String {
        format!("unix:{}", self.place.path(&format!("bus{bus}")).display())
    }

    /// A client of this bus and the one behind it, so that clients stay spread over the buses.
    async fn client(&self, bus: usize) -> Client {
        let addresses = [bus, (bus + 1) % BUSES].map(|bus| self.address(bus));
        Client::builder().reconnect(Reconnect::default()).connect_any(addresses).await.unwrap()
    }

    /// Waits until what this bus publishes reaches all others, and each is asked.
    async fn joined(&self, bus: usize) {
        let began = Instant::now();
        let single = async |bus| Client::connect(&self.address(bus)).await.unwrap();
        let client = single(bus).await;
        for other in (0..BUSES).filter(|other| *other != bus) {
            let far = single(other).await;
            let topic = format!("probe/{bus}/{other}");
            let mut probe = far.subscribe_bytes(&topic).await.unwrap();
            let _handling = far.handle_bytes(&topic, |payload| async move { Ok(payload) }).await.unwrap();
            loop {
                client.publish_bytes(&topic, "well").await.unwrap();
                let arrived = matches!(timeout(Duration::from_millis(100), probe.recv()).await, Ok(Some(_)));
                if arrived && client.request_bytes(&topic, "well".into()).await.is_ok() {
                    break;
                }
                assert!(began.elapsed() < JOINING, "bus {bus} does not reach bus {other}");
            }
        }
    }

    async fn load(&mut self) {
        for bus in 0..BUSES {
            // Each topic is served at two buses.
            for at in [bus, (bus + 1) % BUSES] {
                let client = self.client(at).await;
                let group = ServeOptions::default().group("echo");
                let mut requests = client.serve_bytes_with(&format!("echo/{bus}"), group).await.unwrap();
                let (ends, served) = (Arc::clone(&self.ends), Arc::clone(&self.served));
                self.others.spawn(async move {
                    while !ends.load(Ordering::Relaxed) {
                        let Ok(request) = timeout(Duration::from_millis(50), requests.recv()).await else {
                            continue;
                        };
                        let Some((_, id, payload)) = request else {
                            panic!("it has ended: {:?}", requests.close_reason())
                        };
                        let is_new = served.lock().unwrap().insert(payload.clone());
                        assert!(is_new, "served twice: {payload:?}");
                        // Who asked is told if it fails.
                        let _ = client.respond_bytes(id, payload).await;
                    }
                });
            }
            let had = Arc::new(Mutex::new(Had::default()));
            let numbers = self.client(bus).await.subscribe_bytes("numbers/*").await.unwrap();
            self.had.push(Arc::clone(&had));
            self.others.spawn(take(numbers, had, Arc::clone(&self.ends)));
        }
        for bus in 0..BUSES {
            self.joined(bus).await;
        }
        for bus in 0..BUSES {
            for topic in 0..BUSES {
                self.ask(bus, topic).await;
            }
            self.publish(bus).await;
            self.keep(bus).await;
        }
    }

    /// Asks for numbers that nobody else asks for.
    async fn ask(&mut self, bus: usize, topic: usize) {
        let client = self.client(bus).await;
        let (stops, asked, failed) =
            (Arc::clone(&self.stops), Arc::clone(&self.asked), Arc::clone(&self.failed));
        let begun = Instant::now();
        self.tasks.spawn(async move {
            for number in 0_u64.. {
                if stops.load(Ordering::Relaxed) {
                    return;
                }
                let (payload, path) = (format!("{bus}.{topic}.{number}"), format!("echo/{topic}"));
                let options = RequestOptions::default().timeout(DEADLINE);
                let sent = begun.elapsed();
                match client.request_bytes_with(&path, payload.clone().into(), options).await {
                    Ok(answer) => assert_eq!(answer, payload),
                    Err(error) => {
                        let text = format!("{sent:?} to {:?}: {path} of bus {bus}: {error}", begun.elapsed());
                        println!("{text}");
                        failed.lock().unwrap().push(text);
                    }
                }
                asked.fetch_add(1, Ordering::Relaxed);
                sleep(PAUSE).await;
            }
        });
    }

    /// Publishes numbers that are sent once.
    async fn publish(&mut self, bus: usize) {
        let client = self.client(bus).await;
        let (stops, published) = (Arc::clone(&self.stops), Arc::clone(&self.published));
        self.tasks.spawn(async move {
            let topic = format!("numbers/{bus}");
            for number in 1.. {
                if stops.load(Ordering::Relaxed) {
                    return;
                }
                client.publish_bytes(&topic, number.to_string()).await.unwrap();
                published.lock().unwrap().insert(topic.clone(), number);
                sleep(PAUSE).await;
            }
        });
    }

    /// Publishes numbers that are kept.
    async fn keep(&mut self, bus: usize) {
        let client = self.client(bus).await;
        let (stops, kept) = (Arc::clone(&self.stops), Arc::clone(&self.kept));
        self.tasks.spawn(async move {
            for number in 0_u64.. {
                if stops.load(Ordering::Relaxed) {
                    return;
                }
                let (text, once) = (format!("{bus}.{number}"), PublishOptions::default());
                let once = once.quality(Quality::AtLeastOnce);
                client.publish_bytes_with("orders/new", text.clone(), once).await.unwrap();
                kept.lock().unwrap().insert(text);
                sleep(PAUSE).await;
            }
        });
    }

    /// Waits until requests are answered that were not asked yet.
    async fn goes_on(&self) {
        let enough = self.asked.load(Ordering::Relaxed) + 100;
        let began = Instant::now();
        while self.asked.load(Ordering::Relaxed) < enough {
            assert!(began.elapsed() < LIMIT, "requests are not answered any more: {:?}", self.failed);
            sleep(PAUSE).await;
        }
    }

    async fn restart_bus(&mut self, bus: usize) {
        let began = Instant::now();
        self.buses[bus].signal("TERM");
        let status = loop {
            match self.buses[bus].has_status() {
                Some(status) => break status,
                None => sleep(PAUSE).await,
            }
            assert!(began.elapsed() < LIMIT, "bus {bus} does not end");
        };
        assert_eq!(status.code(), Some(0), "bus {bus}");
        println!("bus {bus} has drained within {:?}", began.elapsed());
        self.goes_on().await;
        self.buses[bus] = self.bus(bus);
        self.joined(bus).await;
    }

    async fn restart_node(&self, node: usize) {
        let began = Instant::now();
        self.nats[node].retire().await;
        println!("node {node} has ended within {:?}", began.elapsed());
        self.goes_on().await;
        self.nats.restart(node).await;
        self.nats.settled().await;
        for bus in 0..BUSES {
            self.joined(bus).await;
        }
    }

    /// Ends what flows, and looks at what has become of it.
    async fn end(mut self) {
        self.goes_on().await;
        self.stops.store(true, Ordering::Relaxed);
        while let Some(ended) = timeout(LIMIT, self.tasks.join_next()).await.unwrap() {
            ended.unwrap();
        }
        self.ends.store(true, Ordering::Relaxed);
        while let Some(ended) = timeout(LIMIT, self.others.join_next()).await.unwrap() {
            ended.unwrap();
        }
        let asked = self.asked.load(Ordering::Relaxed);
        let failed = std::mem::take(&mut *self.failed.lock().unwrap());
        assert!(failed.is_empty(), "of {asked} requests {} failed: {failed:?}", failed.len());
        assert_eq!(self.served.lock().unwrap().len() as u64, asked, "each is served once");
        for (bus, had) in self.had.iter().enumerate() {
            let had = had.lock().unwrap();
            for (topic, last) in &*self.published.lock().unwrap() {
                let seen = had.topics.get(topic).map_or(0, BTreeSet::len) as u64;
                assert!(had.repeated <= REPEATED, "{} came twice at {bus}", had.repeated);
                let missing = last - seen;
                println!(
                    "{missing} of {last} of {topic} missing at {bus}; told {} and {} times more",
                    had.missing, had.unknown
                );
                assert!(
                    missing <= had.missing || had.unknown > 0,
                    "of {topic} {missing} are missing at {bus}, and nobody was told"
                );
            }
        }
        let kept = std::mem::take(&mut *self.kept.lock().unwrap());
        let count = kept.len();
        let mut left = kept;
        for bus in 0..BUSES {
            let client = Client::connect(&self.address(bus)).await.unwrap();
            let all = SubscribeOptions::default().start(Start::All);
            let mut orders = client.subscribe_bytes_with("orders/**", all).await.unwrap();
            while let Ok(Some((_, number))) = timeout(Duration::from_millis(500), orders.recv()).await {
                left.remove(str::from_utf8(&number).unwrap());
            }
        }
        assert!(left.is_empty(), "of {count} that were acknowledged {} are lost: {left:?}", left.len());
        println!("{asked} requests were answered, {count} messages kept");
    }
}

async fn take(mut numbers: Subscription<Bytes>, had: Arc<Mutex<Had>>, ends: Arc<AtomicBool>) {
    // What is under way at the end comes within this, or is told to be missing.
    let (mut quiet, last) = (Instant::now(), Duration::from_secs(5));
    while !ends.load(Ordering::Relaxed) || quiet.elapsed() < last {
        let Ok(event) = timeout(Duration::from_millis(50), numbers.next_event()).await else { continue };
        quiet = Instant::now();
        let mut had = had.lock().unwrap();
        match event.unwrap_or_else(|| panic!("it has ended: {:?}", numbers.close_reason())) {
            Event::Message(message) => {
                let number = str::from_utf8(&message.value).unwrap().parse().unwrap();
                let is_new = had.topics.entry(message.topic.to_string()).or_default().insert(number);
                // What is under way when he goes to another bus may reach that behind him.
                had.repeated += u64::from(!is_new);
            }
            Event::Gap { count: 0, .. } => had.unknown += 1,
            Event::Gap { count, .. } => had.missing += count,
            other => panic!("{other:?}"),
        }
    }
}

fn roll(version: NatsBuilder) {
    let rounds = std::env::var("WHISPEER_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut ground = Ground::new(version).await;
        ground.load().await;
        for _ in 0..rounds {
            for node in 0..BUSES {
                ground.restart_node(node).await;
            }
            for bus in 0..BUSES {
                ground.restart_bus(bus).await;
            }
        }
        ground.end().await;
    });
}

#[test]
fn buses_and_nodes_of_nats_are_restarted_one_by_one_without_a_failed_request() {
    if nats::available() {
        roll(NatsBuilder::newest());
    }
}

#[test]
fn so_they_are_with_the_oldest_nodes_that_are_supported() {
    if nats::available() && nats::versions().len() > 1 {
        roll(nats::versions().remove(0));
    }
}
