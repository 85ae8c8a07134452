//! Buses on hosts with a network between them, each beside a node of NATS, while something of all that fails.
//!
//! `WHISPEER_SEED` draws other faults, `WHISPEER_ROUNDS` more of them.

#![expect(clippy::print_stdout, reason = "a test that fails shows what it went through")]

mod kept;
mod net;

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use whispeer::client::{Event, Reconnect, RequestOptions, Subscription};
use whispeer::prelude::*;
use whispeer_testkit::nats;

use self::net::Net;
use crate::support::{Place, Running};

const HOSTS: usize = 3;

/// How long a request may take by its deadline, and how much later it may have ended.
const DEADLINE: Duration = Duration::from_secs(4);
const LATER: Duration = Duration::from_secs(2);

/// How long it may take until all is well again by itself.
const REPAIR: Duration = Duration::from_secs(25);

/// How long something is broken.
const BROKEN: Duration = Duration::from_secs(3);

/// What may happen to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Its node of NATS is killed, and started again.
    Node,
    /// It is cut off for a while.
    Cut,
    /// What it sends takes long, and some of it is lost, for a while.
    Slow,
    /// Its bus is killed, and started again.
    Bus,
}

/// Hosts, each with a node of NATS and a bus.
struct Cluster {
    place: Place,
    program: std::path::PathBuf,
    /// JetStream is at all nodes, and buses have a stream in it.
    has_streams: bool,
    nodes: Vec<Child>,
    buses: Vec<Running>,
    // Dropped behind what runs there.
    net: Net,
}

impl Cluster {
    fn start(program: &std::path::Path) -> Self {
        Self::new(program, false)
    }

    /// With a stream that lies at all nodes.
    fn with_streams(program: &std::path::Path) -> Self {
        Self::new(program, true)
    }

    fn new(program: &std::path::Path, has_streams: bool) -> Self {
        let (net, place) = (Net::new(HOSTS), Place::new());
        let (nodes, buses) = (Vec::new(), Vec::new());
        if has_streams {
            let streams = "[streams.kept]\npatterns = [\"kept/*\", \"opened\"]\nstorage = \"jetstream\"\n";
            place.write("whispeer.toml", streams);
        }
        let mut cluster = Self { place, program: program.to_owned(), has_streams, nodes, buses, net };
        cluster.nodes = (0..HOSTS).map(|host| cluster.node(host)).collect();
        cluster.buses = (0..HOSTS).map(|host| cluster.bus(host)).collect();
        cluster
    }

    fn node(&self, host: usize) -> Child {
        let routes: Vec<_> =
            (0..HOSTS).map(|other| format!("nats-route://{}:6222", self.net.address(other))).collect();
        let address = self.net.address(host);
        let mut command: Command = self.net.command(host, self.program.to_str().unwrap());
        command
            .args(["-a", &address, "-p", "4222", "-n", &format!("n{host}"), "--cluster_name", "hosts"])
            .args(["--cluster", &format!("nats://{address}:6222"), "--routes", &routes.join(",")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if self.has_streams {
            command.arg("-js").arg("-sd").arg(self.place.path(&format!("node{host}")));
        }
        command.spawn().unwrap()
    }

    fn bus(&self, host: usize) -> Running {
        let command = self.net.command(host, env!("CARGO_BIN_EXE_whispeer"));
        let (address, nats) = (self.address(host), format!("nats://{}", self.net.address(host)));
        let mut command = self.place.furnish(command, &["serve", &address, "--nats", &nats]);
        if self.has_streams {
            let replicas = HOSTS.to_string();
            command.args(["--config", "whispeer.toml", "--nats-replicas", &replicas]);
            command.args(["--nats-lease-replicas", &replicas]);
        }
        let mut bus = Running::new(command.spawn().unwrap());
        bus.wait_for("ready on");
        bus
    }

    fn address(&self, host: usize) -> String {
        format!("unix:{}", self.place.path(&format!("bus{host}")).display())
    }

    async fn client(&self, host: usize) -> Client {
        Client::builder().reconnect(Reconnect::default()).connect(&self.address(host)).await.unwrap()
    }

    /// Lets something fail for a while, and repairs it.
    async fn fail(&mut self, fault: Fault, host: usize, while_broken: Duration) {
        match fault {
            Fault::Node => {
                self.nodes[host].kill().unwrap();
                self.nodes[host].wait().unwrap();
                sleep(while_broken).await;
                self.nodes[host] = self.node(host);
            }
            Fault::Cut => {
                self.net.cut(host);
                sleep(while_broken).await;
                self.net.join(host);
            }
            Fault::Slow => {
                self.net.slow_down(host);
                sleep(while_broken).await;
                self.net.speed_up(host);
            }
            Fault::Bus => {
                self.buses[host].kill();
                sleep(while_broken).await;
                self.buses[host] = self.bus(host);
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // It may have ended by itself.
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// What a subscriber of all numbers has had.
#[derive(Default)]
struct Had {
    last: HashMap<String, u64>,
    messages: u64,
    missing: u64,
    /// Something is missing, and nobody knows how much.
    unknown: bool,
}

impl Had {
    fn note(&mut self, event: Event<Bytes>) {
        match event {
            Event::Gap { count, .. } => {
                self.missing += count;
                self.unknown |= count == 0;
            }
            Event::Message(message) => {
                let number = str::from_utf8(&message.value).unwrap().parse().unwrap();
                let last = self.last.entry(message.topic.to_string()).or_default();
                assert!(number > *last, "{}: {number} behind {last}", message.topic);
                *last = number;
                self.messages += 1;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What flows meanwhile.
struct Load {
    tasks: JoinSet<()>,
    stops: Arc<AtomicBool>,
    published: Arc<AtomicU64>,
    had: Vec<Arc<Mutex<Had>>>,
    answered: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
}

impl Load {
    async fn start(cluster: &Cluster) -> Self {
        let mut load = Self {
            tasks: JoinSet::new(),
            stops: Arc::default(),
            published: Arc::default(),
            had: Vec::new(),
            answered: Arc::default(),
            failed: Arc::default(),
        };
        for host in 0..HOSTS {
            let client = cluster.client(host).await;
            let subscription = client.subscribe_bytes("numbers/*").await.unwrap();
            let had = Arc::new(Mutex::new(Had::default()));
            load.had.push(Arc::clone(&had));
            load.tasks.spawn(take(subscription, had));
            load.tasks.spawn(serve(cluster.client(host).await, format!("echo/{host}")));
        }
        // What is subscribed to is known everywhere.
        for host in 0..HOSTS {
            well(cluster, host).await;
        }
        for host in 0..HOSTS {
            let (stops, published) = (Arc::clone(&load.stops), Arc::clone(&load.published));
            let client = cluster.client(host).await;
            load.tasks.spawn(async move {
                let topic = format!("numbers/{host}");
                for number in 1_u64.. {
                    if stops.load(Ordering::Relaxed) {
                        return;
                    }
                    if client.publish_bytes(&topic, number.to_string()).await.is_ok() {
                        published.fetch_add(1, Ordering::Relaxed);
                    }
                    sleep(Duration::from_millis(10)).await;
                }
            });
            for asked in 0..HOSTS {
                let (stops, answered, failed) =
                    (Arc::clone(&load.stops), Arc::clone(&load.answered), Arc::clone(&load.failed));
                let client = cluster.client(host).await;
                load.tasks.spawn(async move {
                    while !stops.load(Ordering::Relaxed) {
                        match ask(&client, asked).await {
                            Ok(()) => _ = answered.fetch_add(1, Ordering::Relaxed),
                            Err(error) => failed.lock().unwrap().push(error.to_string()),
                        }
                        sleep(Duration::from_millis(20)).await;
                    }
                });
            }
        }
        load
    }

    /// What each subscriber has had and is told to be missing.
    fn accounted(&self) -> Vec<u64> {
        let had = self.had.iter().map(|had| had.lock().unwrap());
        had.map(|had| had.messages + had.missing).collect()
    }
}

async fn take(mut subscription: Subscription<Bytes>, had: Arc<Mutex<Had>>) {
    while let Some(event) = subscription.next_event().await {
        had.lock().unwrap().note(event);
    }
}

async fn serve(client: Client, topic: String) {
    loop {
        let Ok(mut serving) = client.serve_bytes(&topic).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        while let Some((_, id, payload)) = serving.recv().await {
            // Who asked may be gone.
            let _ = client.respond_bytes(id, payload).await;
        }
    }
}

/// Asks a host's server. Whatever becomes of it, it ends by its deadline.
async fn ask(client: &Client, host: usize) -> BusResult<()> {
    let began = Instant::now();
    let options = RequestOptions::default().timeout(DEADLINE);
    let topic = format!("echo/{host}");
    let answer = timeout(DEADLINE + LATER, client.request_bytes_with(&topic, "hello".into(), options)).await;
    let answer = answer
        .unwrap_or_else(|_| panic!("a request to {topic} has not ended after {:?}", began.elapsed()))?;
    assert_eq!(answer, "hello");
    Ok(())
}

/// Waits until what this host's bus publishes reaches all, and what its clients ask is answered by all.
async fn well(cluster: &Cluster, host: usize) {
    let began = Instant::now();
    let client = cluster.client(host).await;
    let mut probes = Vec::new();
    for other in 0..HOSTS {
        let probe = cluster.client(other).await;
        probes.push((probe.subscribe_bytes(&format!("probes/{host}")).await.unwrap(), probe));
    }
    for (other, (probe, _)) in probes.iter_mut().enumerate() {
        loop {
            client.publish_bytes(&format!("probes/{host}"), "well").await.unwrap();
            let arrived = matches!(timeout(Duration::from_millis(100), probe.recv()).await, Ok(Some(_)));
            let asked = ask(&client, other).await;
            if arrived && asked.is_ok() {
                break;
            }
            let late = began.elapsed() > REPAIR;
            assert!(!late, "{host} does not reach {other} within {REPAIR:?}: {arrived}, {asked:?}");
        }
    }
}

/// Numbers that follow from a seed.
struct Drawn(u64);

impl Drawn {
    fn next(&mut self, below: usize) -> usize {
        // The generator of Marsaglia's paper of 2003.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Goes through faults, one after the other, while messages and requests flow. `is_exact` where no bus is killed.
async fn endure(program: &std::path::Path, faults: &[Fault], is_exact: bool) {
    let mut drawn = Drawn(number("WHISPEER_SEED", 1).max(1));
    let mut cluster = Cluster::start(program);
    let mut load = Load::start(&cluster).await;
    // Subscriptions are older than what is lost.
    sleep(Duration::from_millis(1_500)).await;
    for _ in 0..number("WHISPEER_ROUNDS", 1) {
        for fault in faults {
            let host = drawn.next(HOSTS);
            println!("{fault:?} of host {host}");
            cluster.fail(*fault, host, BROKEN).await;
            for host in 0..HOSTS {
                well(&cluster, host).await;
            }
        }
    }
    let (answered, failed) = (load.answered.load(Ordering::Relaxed), load.failed.lock().unwrap().len());
    assert!(
        answered > 100 && failed < answered as usize,
        "{answered} answered, {failed} failed: {:?}",
        load.failed
    );
    load.stops.store(true, Ordering::Relaxed);
    // Requests under way end; what is published is told by messages or gaps.
    sleep(Duration::from_secs(1)).await;
    let published = load.published.load(Ordering::Relaxed);
    let began = Instant::now();
    while is_exact && load.accounted().iter().any(|count| *count < published) {
        assert!(
            began.elapsed() < REPAIR,
            "{published} were published, and accounted for {:?}",
            load.accounted()
        );
        sleep(Duration::from_millis(50)).await;
    }
    if is_exact {
        assert_eq!(load.accounted(), [published; HOSTS], "nothing is told to be missing that is not");
    }
    println!("{published} messages, {answered} requests, {failed} failed while something was broken");
    while let Some(ended) = load.tasks.try_join_next() {
        ended.unwrap();
    }
}

/// Runs this with a program of NATS, where there is all that it takes.
fn run<T: Future<Output = ()>>(test: impl FnOnce(std::path::PathBuf) -> T) {
    if !net::available() || !nats::available() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test(nats::NatsBuilder::newest().program().to_owned()));
}

#[test]
fn whatever_happens_to_nats_and_the_network_each_message_comes_or_is_told_to_be_missing() {
    run(|nats| async move { endure(&nats, &[Fault::Slow, Fault::Node, Fault::Cut], true).await });
}

#[test]
fn buses_that_are_killed_leave_the_others_in_order_and_come_back() {
    run(|nats| async move { endure(&nats, &[Fault::Bus, Fault::Node, Fault::Bus], false).await });
}

#[test]
fn what_three_nodes_keep_outlives_each_of_them_and_a_topic_has_one_server() {
    // Longer than a lease, so that another host has it by then.
    let long = Duration::from_secs(14);
    let faults = [(Fault::Node, BROKEN), (Fault::Cut, long), (Fault::Bus, BROKEN), (Fault::Slow, BROKEN)];
    run(|nats| async move { kept::endure(&nats, &faults).await });
}
