//! What is kept by three nodes, and who serves alone, while nodes, buses and links fail.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use whispeer::client::{Event, PublishOptions, Quality, RequestOptions, Start, SubscribeOptions};
use whispeer::prelude::*;

use super::{Cluster, DEADLINE, Drawn, Fault, HOSTS, LATER, REPAIR, number, well};

/// The topic that has one server among all.
const ALONE: &str = "alone";

/// How long it may take until JetStream has a leader, and what is kept is open.
const OPENING: Duration = Duration::from_secs(60);

/// What flows meanwhile, and what has become of it.
#[derive(Default)]
struct Flow {
    stops: AtomicBool,
    /// The last number of each host that was acknowledged; all before it were, too.
    acknowledged: [AtomicU64; HOSTS],
    /// The last number of each host that a reader at each host has had.
    read: Mutex<HashMap<(usize, String), u64>>,
    /// Servings of [`ALONE`] so far, each of which has its number, and those that have not ended.
    servings: AtomicU64,
    serving: AtomicI64,
    /// The greatest number that has answered another host.
    latest: AtomicU64,
    answered: AtomicU64,
}

/// Publishes numbers to be kept, each until it is acknowledged.
async fn publish(client: Client, host: usize, flow: Arc<Flow>) {
    let topic = format!("kept/{host}");
    let options = || PublishOptions::default().quality(Quality::AtLeastOnce);
    for number in 1_u64.. {
        while client.publish_bytes_with(&topic, number.to_string(), options()).await.is_err() {
            if flow.stops.load(Ordering::Relaxed) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        flow.acknowledged[host].store(number, Ordering::Relaxed);
        if flow.stops.load(Ordering::Relaxed) {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Reads all that is kept, from the first message on: nothing may be missing, whatever happens. What was refused and sent again may come twice.
async fn read(client: Client, host: usize, flow: Arc<Flow>) {
    let options = || SubscribeOptions::default().start(Start::All);
    let mut subscription = loop {
        match client.subscribe_bytes_with("kept/*", options()).await {
            Ok(subscription) => break subscription,
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    };
    while let Some(event) = subscription.next_event().await {
        let Event::Message(message) = event else { panic!("host {host}: {event:?}") };
        let number: u64 = str::from_utf8(&message.value).unwrap().parse().unwrap();
        let mut read = flow.read.lock().unwrap();
        let last = read.entry((host, message.topic.to_string())).or_default();
        assert!(
            number == *last || number == *last + 1,
            "host {host}, {}: {number} behind {last}",
            message.topic
        );
        *last = number;
    }
    let ended = !flow.stops.load(Ordering::Relaxed);
    assert!(!ended, "host {host} reads no more: {:?}", subscription.close_reason());
}

/// Wants to be the one that serves, whenever it is not.
async fn serve_alone(client: Client, host: usize, flow: Arc<Flow>) {
    loop {
        if let Ok(mut serving) = client.serve_bytes(ALONE).await {
            let number = flow.servings.fetch_add(1, Ordering::Relaxed) + 1;
            flow.serving.fetch_add(1, Ordering::Relaxed);
            let answer = Bytes::from(format!("{host} {number}"));
            while let Some((_, id, _)) = serving.recv().await {
                // Who asked may be gone.
                let _ = client.respond_bytes(id, answer.clone()).await;
            }
            flow.serving.fetch_sub(1, Ordering::Relaxed);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Who serves alone, as this client finds it: the host, and the number of its serving.
async fn who(client: &Client) -> BusResult<(usize, u64)> {
    let options = RequestOptions::default().timeout(DEADLINE);
    let asked = timeout(DEADLINE + LATER, client.request_bytes_with(ALONE, "".into(), options)).await;
    let answer = asked.expect("a request ends by its deadline")?;
    let (host, number) = str::from_utf8(&answer).unwrap().split_once(' ').unwrap();
    Ok((host.parse().unwrap(), number.parse().unwrap()))
}

/// Asks for it again and again. Once a serving has answered another host, none that was there before it does so any more. A host that is cut off may
/// have one of its own.
async fn ask_alone(client: Client, host: usize, flow: Arc<Flow>) {
    while !flow.stops.load(Ordering::Relaxed) {
        let before = flow.latest.load(Ordering::Relaxed);
        if let Ok((server, number)) = who(&client).await {
            flow.answered.fetch_add(1, Ordering::Relaxed);
            if server != host {
                assert!(number >= before, "serving {number} answers host {host} behind serving {before}");
                flow.latest.fetch_max(number, Ordering::Relaxed);
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until all hosts find the same server, and there is no other one.
async fn one_serves(clients: &[Client], flow: &Flow) {
    let began = Instant::now();
    loop {
        let mut found = Vec::new();
        for client in clients {
            found.push(who(client).await.ok());
        }
        let serving = flow.serving.load(Ordering::Relaxed);
        if serving == 1 && found.iter().all(|who| who.is_some() && *who == found[0]) {
            return;
        }
        let is_late = began.elapsed() > REPAIR + Duration::from_secs(15);
        assert!(!is_late, "{serving} serve {ALONE}, and the hosts find {found:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a message is kept at each host.
async fn opened(clients: &[Client]) {
    let options = || PublishOptions::default().quality(Quality::AtLeastOnce);
    let began = Instant::now();
    for client in clients {
        while let Err(error) = client.publish_bytes_with("opened", "", options()).await {
            assert!(began.elapsed() < OPENING, "{error}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Goes through faults while all of that flows.
pub(super) async fn endure(program: &std::path::Path, faults: &[(Fault, Duration)]) {
    let mut drawn = Drawn(number("WHISPEER_SEED", 1).max(1));
    let mut cluster = Cluster::with_streams(program);
    let mut clients = Vec::new();
    for host in 0..HOSTS {
        clients.push(cluster.client(host).await);
    }
    opened(&clients).await;
    let (flow, mut tasks) = (Arc::new(Flow::default()), JoinSet::new());
    let mut echoes = JoinSet::new();
    for host in 0..HOSTS {
        tasks.spawn(publish(cluster.client(host).await, host, Arc::clone(&flow)));
        tasks.spawn(read(cluster.client(host).await, host, Arc::clone(&flow)));
        tasks.spawn(serve_alone(cluster.client(host).await, host, Arc::clone(&flow)));
        tasks.spawn(ask_alone(cluster.client(host).await, host, Arc::clone(&flow)));
        echoes.spawn(super::serve(cluster.client(host).await, format!("echo/{host}")));
    }
    one_serves(&clients, &flow).await;
    for _ in 0..number("WHISPEER_ROUNDS", 1) {
        for (fault, lasting) in faults {
            let host = drawn.next(HOSTS);
            println!("{fault:?} of host {host} for {lasting:?}");
            cluster.fail(*fault, host, *lasting).await;
            for host in 0..HOSTS {
                well(&cluster, host).await;
            }
            one_serves(&clients, &flow).await;
            while let Some(ended) = tasks.try_join_next() {
                ended.unwrap();
            }
        }
    }
    flow.stops.store(true, Ordering::Relaxed);
    let began = Instant::now();
    loop {
        while let Some(ended) = tasks.try_join_next() {
            ended.unwrap();
        }
        let acknowledged: Vec<_> =
            flow.acknowledged.iter().map(|number| number.load(Ordering::Relaxed)).collect();
        let read = flow.read.lock().unwrap().clone();
        let has_all = |host: usize| {
            let last = |of: usize| read.get(&(host, format!("kept/{of}"))).copied().unwrap_or_default();
            (0..HOSTS).all(|of| last(of) >= acknowledged[of])
        };
        if (0..HOSTS).all(has_all) {
            println!(
                "{acknowledged:?} acknowledged, {} answered, {} servings",
                flow.answered.load(Ordering::Relaxed),
                flow.servings.load(Ordering::Relaxed)
            );
            assert!(acknowledged.iter().all(|count| *count > 50), "{acknowledged:?}");
            return;
        }
        assert!(began.elapsed() < REPAIR, "{acknowledged:?} were acknowledged, and read {read:?}");
        sleep(Duration::from_millis(50)).await;
    }
}
