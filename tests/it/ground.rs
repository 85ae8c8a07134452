//! A bus with both transports, and well-behaved clients that have to get their way whatever others do.

use std::path::PathBuf;

use bytes::Bytes;
use tempfile::TempDir;
use whispeer::bus::{BusBuilder, Settings};
use whispeer::client::{Handling, Subscription};
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

    /// Clients that connect now and will want to be served whatever happens.
    pub(crate) async fn bystander(&self) -> Bystander {
        let (inside, outside) = (self.client(), Client::new_unix(&self.socket()).await.unwrap());
        let news = inside.subscribe_bytes("good/news").await.unwrap();
        let echo = outside.handle_bytes("good/echo", |payload| async { Ok(payload) }).await.unwrap();
        Bystander { inside, outside, news, _echo: echo, rounds: 0 }
    }

    /// Messages and requests of others go their way.
    pub(crate) async fn serves_others(&self) {
        self.bystander().await.was_unharmed().await;
    }

    /// Everybody has gone: nothing is left, and the bus stops.
    pub(crate) async fn end(self) {
        nothing_left(&self.bus).await;
        soon("the end of the bus", self.bus.stop()).await;
    }
}

/// Two well-behaved clients, one over memory and one over the Unix socket.
pub(crate) struct Bystander {
    inside: Client,
    outside: Client,
    news: Subscription<Bytes>,
    _echo: Handling,
    rounds: u64,
}

impl Bystander {
    /// A message goes one way and a request the other.
    pub(crate) async fn goes_on(&mut self) {
        self.rounds += 1;
        let payload = Bytes::from(self.rounds.to_string());
        let publish = soon("a match", self.outside.publish_bytes("good/news", payload.clone()));
        assert_eq!(publish.await.unwrap(), 1);
        let received = soon("a message for a good client", self.news.recv()).await.unwrap();
        assert_eq!(received.1, payload);
        let answer = self.inside.request_bytes("good/echo", payload.clone());
        assert_eq!(soon("an answer for a good client", answer).await.unwrap(), payload);
    }

    /// Goes on once more, has missed nothing, and leaves.
    pub(crate) async fn was_unharmed(mut self) {
        self.goes_on().await;
        let counts = self.news.counts();
        assert_eq!((counts.taken, counts.dropped()), (self.rounds, 0));
        self.inside.close().await.unwrap();
        self.outside.close().await.unwrap();
    }
}
