//! Several buses in one process, each with a connection of its own to a server of NATS.

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{ConnectOptions, Event};
use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use whispeer::bus::BusHandle;
use whispeer::client::RequestOptions;
use whispeer::prelude::*;
use whispeer_cluster_nats::members::{self, Members};
use whispeer_cluster_nats::requests::{self, LeaseSettings, Requests};
use whispeer_cluster_nats::subject::Subjects;
use whispeer_testkit::nats::{self, NatsBuilder, NatsServer};
use whispeer_testkit::wait::{eventually, soon};

/// A server of NATS, where there is one to be had.
pub(crate) async fn server() -> Option<NatsServer> {
    if !nats::available() {
        return None;
    }
    Some(NatsBuilder::newest().start().await)
}

/// A bus that is joined to the others at the server.
pub(crate) struct Node {
    pub(crate) bus: BusHandle,
    /// A client of this bus.
    pub(crate) client: Client,
    pub(crate) members: Members,
    tasks: JoinSet<()>,
    leave: Option<oneshot::Sender<()>>,
    requests: AbortHandle,
}

pub(crate) fn subjects() -> Subjects {
    Subjects::new("whispeer").unwrap()
}

/// A client of NATS, and whether it is connected, as a link has both.
pub(crate) async fn connect(server: &NatsServer) -> (async_nats::Client, watch::Receiver<Option<u64>>) {
    connect_to(&server.url()).await
}

/// One that is connected there.
async fn connect_to(url: &str) -> (async_nats::Client, watch::Receiver<Option<u64>>) {
    let (told, connection) = watch::channel(None);
    let number = AtomicU64::new(0);
    let options = ConnectOptions::new()
        .reconnect_delay_callback(|_| Duration::from_millis(20))
        .event_callback(move |event| {
            match event {
                Event::Connected => _ = told.send_replace(Some(number.fetch_add(1, Ordering::Relaxed) + 1)),
                Event::Disconnected => _ = told.send_replace(None),
                _ => {}
            }
            std::future::ready(())
        });
    let nats = options.connect(url).await.unwrap();
    let mut seen = connection.clone();
    soon("the connection", seen.wait_for(Option::is_some)).await.unwrap();
    (nats, connection)
}

impl Node {
    /// A bus with this id at the cluster.
    pub(crate) async fn start(server: &NatsServer, id: u64) -> Self {
        Self::start_at(&server.url(), id, None).await
    }

    /// One that is connected there, and keeps topics to a single server among all buses by leases.
    pub(crate) async fn start_at(url: &str, id: u64, leases: Option<LeaseSettings>) -> Self {
        let bus = Bus::builder().start().unwrap();
        let (nats, connection) = connect_to(url).await;
        let (leave, left) = oneshot::channel();
        let members = Members::new(id);
        let mut tasks = JoinSet::new();
        let (heard, known, connected) = (nats.clone(), members.clone(), connection.clone());
        tasks.spawn(async move {
            let end = async {
                if left.await.is_err() {
                    pending::<()>().await;
                }
            };
            let name = format!("bus-{id}");
            members::run(&heard, &subjects(), &name, &known, connected, (pending(), end)).await.unwrap();
        });
        let (_, moves) = watch::channel(0);
        let carried = Requests {
            bus: bus.view(),
            nats,
            subjects: subjects(),
            members: members.clone(),
            connection,
            leases,
            moves,
        };
        let requests = tasks.spawn(async move { requests::run(carried).await.unwrap() });
        let client = Client::new_memory(&bus.connector()).unwrap();
        Self { bus, client, members, tasks, leave: Some(leave), requests }
    }

    /// Waits until this bus knows so many others.
    pub(crate) async fn knows(&self, others: usize) {
        eventually("the other buses are known", || self.members.list().len() == others).await;
    }

    /// Asks as often as nobody is there: what is served elsewhere is known at NATS a moment later.
    pub(crate) async fn ask(&self, topic: &str, payload: &'static str) -> BusResult<Bytes> {
        self.ask_with(topic, payload, RequestOptions::default()).await
    }

    pub(crate) async fn ask_with(
        &self,
        topic: &str,
        payload: &'static str,
        options: RequestOptions,
    ) -> BusResult<Bytes> {
        let asking = async {
            loop {
                let answer = self.client.request_bytes_with(topic, payload.into(), options.clone()).await;
                match answer {
                    Err(BusError::NoServer { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                    other => return other,
                }
            }
        };
        soon("an answer", asking).await
    }

    /// Ends it without a word, as a process that is killed.
    pub(crate) async fn kill(mut self) {
        self.tasks.shutdown().await;
    }

    /// Ends its requests, and says that it leaves.
    pub(crate) async fn leave(mut self) {
        self.requests.abort();
        if let Some(leave) = self.leave.take() {
            leave.send(()).unwrap();
        }
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Several buses that know of each other, with the ids 1, 2 and so on.
pub(crate) async fn cluster(server: &NatsServer, size: u64) -> Vec<Node> {
    let mut nodes = Vec::new();
    for id in 1..=size {
        nodes.push(Node::start(server, id).await);
    }
    for node in &nodes {
        node.knows(nodes.len() - 1).await;
    }
    nodes
}

/// Two of them.
pub(crate) async fn pair(server: &NatsServer) -> (Node, Node) {
    let mut nodes = cluster(server, 2).await;
    let second = nodes.pop().unwrap();
    (nodes.pop().unwrap(), second)
}
