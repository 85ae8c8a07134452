//! Clients of several buses leave one that drains, and what they ask and publish meanwhile is for the next.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::task::JoinSet;
use whispeer::bus::BusView;
use whispeer::client::Reconnect;
use whispeer::prelude::*;
use whispeer_testkit::wait::{eventually, soon};

/// Buses on Unix sockets, as clients know them.
struct Buses {
    _folder: TempDir,
    addresses: Vec<String>,
    /// The first, until it drains.
    first: Mutex<Option<BusHandle>>,
    views: Vec<BusView>,
    second: BusHandle,
}

impl Buses {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["one", "two"].map(|name| folder.path().join(name));
        let [first, second] = paths.each_ref().map(|path| listen_and_serve_unix(path).unwrap());
        let addresses = paths.iter().map(|path| format!("unix:{}", path.display())).collect();
        let views = vec![first.view(), second.view()];
        Self { _folder: folder, addresses, first: Mutex::new(Some(first)), views, second }
    }

    /// A client of the first, that goes to the second.
    async fn client(&self) -> Client {
        Client::builder().reconnect(Reconnect::default()).connect_any(&self.addresses).await.unwrap()
    }

    async fn drain_first(&self) {
        let first = self.first.lock().unwrap().take().unwrap();
        soon("the end of the drain", first.drain(Duration::from_secs(20))).await;
    }

    /// How many topics are served at one of them.
    fn served(&self, bus: usize) -> usize {
        self.views[bus].stats().unwrap().served_topics
    }
}

/// Tasks that go on until they are stopped, and count what they do.
#[derive(Default)]
struct Load {
    tasks: JoinSet<()>,
    stops: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
}

impl Load {
    fn repeat<F: Future<Output = ()> + Send>(&mut self, work: impl Fn() -> F + Send + Sync + 'static) {
        let (stops, done) = (Arc::clone(&self.stops), Arc::clone(&self.done));
        self.tasks.spawn(async move {
            while !stops.load(Ordering::Relaxed) {
                work().await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    async fn goes_on(&self) {
        let enough = self.done.load(Ordering::Relaxed) + 100;
        eventually("more is done", || self.done.load(Ordering::Relaxed) >= enough).await;
    }

    async fn end(mut self) {
        self.stops.store(true, Ordering::Relaxed);
        while let Some(ended) = soon("the end", self.tasks.join_next()).await {
            ended.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_publishes_at_a_bus_that_drains_go_to_the_next_and_none_fails() {
    let buses = Buses::new();
    let far = Client::connect(&buses.addresses[1]).await.unwrap();
    let echo = |payload: Bytes| async move { Ok(payload) };
    let _far = far.handle_bytes("echo", echo).await.unwrap();
    let near = Client::connect(&buses.addresses[0]).await.unwrap();
    let _near = near.handle_bytes("echo", echo).await.unwrap();
    let mut load = Load::default();
    for _ in 0..4 {
        let (asks, publishes) = (buses.client().await, buses.client().await);
        load.repeat(move || {
            let asks = asks.clone();
            async move { assert_eq!(asks.request_bytes("echo", "hello".into()).await.unwrap(), "hello") }
        });
        load.repeat(move || {
            let publishes = publishes.clone();
            async move { _ = publishes.publish_bytes("news", "hello").await.unwrap() }
        });
    }
    load.goes_on().await;
    buses.drain_first().await;
    load.goes_on().await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_leaves_a_bus_that_drains_when_it_has_answered_all_that_it_was_asked_there() {
    let buses = Buses::new();
    let moves = buses.client().await;
    let mut serving = moves.serve_bytes("slow").await.unwrap();
    let asks = Client::connect(&buses.addresses[0]).await.unwrap();
    let far = Client::connect(&buses.addresses[1]).await.unwrap();
    let asked = asks.request_bytes("slow", "first".into());
    let served = async {
        let (_, first, _) = soon("the request", serving.recv()).await.unwrap();
        let draining = buses.drain_first();
        let answering = async {
            eventually("its serving ends there", || buses.served(0) == 0).await;
            // It is not at the next yet.
            assert_eq!(buses.served(1), 0);
            moves.respond_bytes(first, "answered".into()).await.unwrap();
            eventually("it serves at the next", || buses.served(1) > 0).await;
        };
        tokio::join!(draining, answering);
    };
    let (answer, ()) = tokio::join!(asked, served);
    assert_eq!(answer.unwrap(), "answered");
    let (answer, ()) = tokio::join!(far.request_bytes("slow", "second".into()), async {
        let (_, second, _) = soon("the request", serving.recv()).await.unwrap();
        moves.respond_bytes(second, "answered".into()).await.unwrap();
    });
    assert_eq!(answer.unwrap(), "answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serving_that_ends_while_its_client_leaves_does_not_come_back() {
    let buses = Buses::new();
    let moves = buses.client().await;
    let keeps = moves.serve_bytes("keeps").await.unwrap();
    let mut serving = moves.serve_bytes("slow").await.unwrap();
    let asks = Client::connect(&buses.addresses[0]).await.unwrap();
    let served = async {
        let (_, request, _) = soon("the request", serving.recv()).await.unwrap();
        let answering = async {
            eventually("its servings end there", || buses.served(0) == 0).await;
            drop(serving);
            moves.respond_bytes(request, "answered".into()).await.unwrap();
        };
        tokio::join!(buses.drain_first(), answering);
    };
    let (answer, ()) = tokio::join!(asks.request_bytes("slow", "".into()), served);
    assert_eq!(answer.unwrap(), "answered");
    eventually("the other one is there", || buses.served(1) == 1).await;
    moves.ping().await.unwrap();
    assert_eq!(buses.second.served()[0].topic, "keeps");
    drop(keeps);
}
