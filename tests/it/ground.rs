//! A bus with both transports, and well-behaved clients that have to get their way whatever others do.

use std::path::PathBuf;

use tempfile::TempDir;
use whispeer::bus::{BusBuilder, Settings};
use whispeer::prelude::*;
use whispeer::transport::{Link, connect_unix};
use whispeer_testkit::ledger::nothing_left;
use whispeer_testkit::raw::RawPeer;
use whispeer_testkit::wait::soon;

/// One bus and the folder of its socket.
pub(crate) struct Ground {
    pub(crate) bus: BusHandle,
    directory: TempDir,
}

/// Settings that differ from the defaults.
pub(crate) fn settings(change: impl FnOnce(&mut Settings)) -> BusBuilder {
    let mut settings = Settings::default();
    change(&mut settings);
    Bus::builder().settings(settings)
}

impl Ground {
    pub(crate) fn new(builder: BusBuilder) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bus = builder.listen_unix(directory.path().join("bus")).start().unwrap();
        Self { bus, directory }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("bus")
    }

    pub(crate) fn memory_link(&self) -> Link {
        self.bus.connector().connect().unwrap()
    }

    pub(crate) async fn unix_link(&self) -> Link {
        connect_unix(&self.socket()).await.unwrap()
    }

    /// One link of each transport.
    pub(crate) async fn links(&self) -> [Link; 2] {
        [self.memory_link(), self.unix_link().await]
    }

    pub(crate) fn client(&self) -> Client {
        Client::new_memory(&self.bus.connector()).unwrap()
    }

    /// A peer that has been welcomed, over each transport.
    pub(crate) async fn peers(&self) -> [RawPeer; 2] {
        let [memory, unix] = self.links().await;
        [RawPeer::welcomed(memory).await.unwrap().0, RawPeer::welcomed(unix).await.unwrap().0]
    }

    /// Messages and requests of others go their way.
    pub(crate) async fn serves_others(&self) {
        let (one, other) = (self.client(), Client::new_unix(&self.socket()).await.unwrap());
        let mut subscription = one.subscribe_bytes("good/news").await.unwrap();
        let handling = other.handle_bytes("good/echo", |payload| async { Ok(payload) }).await.unwrap();
        assert_eq!(other.publish_bytes("good/news", "good").await.unwrap(), 1);
        let received = soon("a message for a good client", subscription.recv()).await.unwrap();
        assert_eq!(received.1, "good");
        let answer = soon("an answer for a good client", one.request_bytes("good/echo", "hello".into()));
        assert_eq!(answer.await.unwrap(), "hello");
        handling.drain().await;
        drop(subscription);
        one.close().await.unwrap();
        other.close().await.unwrap();
    }

    /// Everybody has gone: nothing is left, and the bus stops.
    pub(crate) async fn end(self) {
        nothing_left(&self.bus).await;
        soon("the end of the bus", self.bus.stop()).await;
    }
}
