//! Several servers that are one.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Index;

use super::probe::Probe;
use super::server::Routes;
use super::{NatsBuilder, NatsServer, blocking};

/// How often ports are chosen anew when somebody else took one between the choice and its use.
const TRIES: usize = 10;

/// A cluster with JetStream. Its nodes are servers like one alone: `cluster[0].kill()`.
#[derive(Clone, Debug)]
pub struct NatsCluster {
    nodes: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts `size` nodes of the newest program, as [`NatsBuilder::start_cluster`].
    ///
    /// # Panics
    /// When it does not come up; the logs are shown.
    pub async fn start(size: usize) -> Self {
        NatsBuilder::newest().start_cluster(size).await
    }

    pub(super) fn launch(settings: &NatsBuilder, size: usize) -> Self {
        let mut why = String::new();
        for _ in 0..TRIES {
            match Self::try_launch(settings, size) {
                Ok(cluster) => {
                    cluster.settle();
                    return cluster;
                }
                Err(error) if error.contains("address already in use") => why = error,
                Err(error) => panic!("a node did not start:\n{error}"),
            }
        }
        panic!("no free ports were found:\n{why}");
    }

    fn try_launch(settings: &NatsBuilder, size: usize) -> Result<Self, String> {
        // Every node has to be told of all, and what they listen on has to outlive a restart. All are held until
        // the last is chosen, so that they are different.
        let held: Vec<_> = (0..size)
            .map(|_| {
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| format!("no free port: {error}"))
            })
            .collect::<Result<_, _>>()?;
        let all: Vec<u16> =
            held.iter().filter_map(|held| held.local_addr().ok()).map(|address| address.port()).collect();
        drop(held);
        let nodes = all.iter().enumerate().map(|(at, own)| {
            let settings = NatsBuilder { name: format!("n{}", at + 1), jetstream: true, ..settings.clone() };
            NatsServer::try_launch(settings, Some(Routes { own: *own, all: all.clone() }))
        });
        Ok(Self { nodes: nodes.collect::<Result<_, _>>()? })
    }

    /// Where clients connect to, node by node.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(NatsServer::url).collect()
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[NatsServer] {
        &self.nodes
    }

    /// Starts a node again, as [`NatsServer::restart`]. It may not have found the others yet: see
    /// [`NatsCluster::settled`].
    ///
    /// # Panics
    /// When it does not come up; its log is shown.
    pub async fn restart(&self, node: usize) {
        self.nodes[node].restart().await;
    }

    /// Waits until each node reaches each other one and JetStream keeps a replica at every node. All have to run.
    ///
    /// # Panics
    /// When it takes too long.
    pub async fn settled(&self) {
        let cluster = self.clone();
        blocking(move || cluster.settle()).await;
    }

    fn settle(&self) {
        let mut probes: Vec<Probe> = self
            .nodes
            .iter()
            .map(|node| Probe::connect(node.address()).expect("nodes let clients in"))
            .collect();
        for to in 0..probes.len() {
            for from in 0..probes.len() {
                if let Ok([to_probe, from_probe]) = probes.get_disjoint_mut([to, from]) {
                    let reached = to_probe.reached_from(from_probe, &format!("{from}.{to}"));
                    reached.unwrap_or_else(|error| panic!("node {to} does not hear node {from}: {error}"));
                }
            }
        }
        if let Some(probe) = probes.first_mut() {
            let agreed = probe.replicated(self.nodes.len());
            agreed.unwrap_or_else(|error| panic!("JetStream does not replicate: {error}"));
        }
    }
}

impl Index<usize> for NatsCluster {
    type Output = NatsServer;

    fn index(&self, node: usize) -> &NatsServer {
        &self.nodes[node]
    }
}
