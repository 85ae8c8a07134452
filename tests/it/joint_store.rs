//! A store in memory that several buses have, of whose consumers each is one bus's at a time.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use whispeer::store::{
    Change, ConsumerPosition, ConsumerState, Delayed, MemoryStore, Name, Operation, Outcome, Page, Reading,
    Start, Store, StoreError, StreamSettings, StreamState,
};

/// What all who have it share.
struct Joint {
    store: MemoryStore,
    holders: Mutex<HashMap<Name, usize>>,
    ends: Mutex<HashMap<Name, watch::Sender<u64>>>,
}

/// The store as one of the buses has it.
#[derive(Clone)]
pub(crate) struct JointStore {
    joint: Arc<Joint>,
    own: usize,
}

impl JointStore {
    /// One for each of so many buses.
    pub(crate) fn new(buses: usize) -> Vec<Self> {
        let (store, holders, ends) = (MemoryStore::new(), Mutex::default(), Mutex::default());
        let joint = Arc::new(Joint { store, holders, ends });
        (0..buses).map(|own| Self { joint: Arc::clone(&joint), own }).collect()
    }

    /// Which of the buses has a consumer.
    pub(crate) fn holder(&self, consumer: &str) -> Option<usize> {
        self.joint.holders.lock().unwrap().get(&Name::new(consumer).unwrap()).copied()
    }

    /// Has a consumer be this bus's from here on, whoever had it.
    pub(crate) fn seize(&self, consumer: &str) {
        self.joint.holders.lock().unwrap().insert(Name::new(consumer).unwrap(), self.own);
    }

    fn end(&self, stream: &Name) -> watch::Sender<u64> {
        let mut ends = self.joint.ends.lock().unwrap();
        ends.entry(stream.clone()).or_insert_with(|| watch::Sender::new(1)).clone()
    }

    /// Takes or gives consumers, unless one of them is another bus's.
    fn hold(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut holders = self.joint.holders.lock().unwrap();
        for name in changes.iter().filter_map(Change::consumer) {
            if holders.get(name).is_some_and(|holder| *holder != self.own) {
                return Err(StoreError::InUse { place: format!("the consumer \"{name}\"") });
            }
        }
        for change in changes {
            match change {
                Change::Consumer { name, .. } => _ = holders.insert(name.clone(), self.own),
                Change::FreeConsumer(name) | Change::RemoveConsumer(name) => _ = holders.remove(name),
                _ => {}
            }
        }
        Ok(())
    }
}

impl fmt::Debug for JointStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("JointStore").field("own", &self.own).finish_non_exhaustive()
    }
}

impl Store for JointStore {
    fn kind(&self) -> &'static str {
        self.joint.store.kind()
    }

    fn open(&self, settings: StreamSettings) -> Operation<StreamState> {
        self.joint.store.open(settings)
    }

    fn streams(&self) -> Operation<Vec<StreamState>> {
        self.joint.store.streams()
    }

    fn remove(&self, stream: Name) -> Operation<()> {
        self.joint.store.remove(stream)
    }

    fn commit(&self, stream: Name, changes: Vec<Change>) -> Operation<Vec<Outcome>> {
        if let Err(error) = self.hold(&changes) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let of = |change: &Change| match change {
            Change::AppendTo { stream, .. } => self.end(stream),
            _ => self.end(&stream),
        };
        let ends: Vec<_> = changes.iter().map(of).collect();
        let answer = self.joint.store.commit(stream, changes);
        Box::pin(async move {
            let outcomes = answer.await?;
            for (outcome, end) in outcomes.iter().zip(ends) {
                if let Outcome::Appended { sequence } = outcome {
                    end.send_modify(|end| *end = (*end).max(sequence + 1));
                }
            }
            Ok(outcomes)
        })
    }

    fn read(&self, stream: Name, reading: Reading) -> Operation<Page> {
        self.joint.store.read(stream, reading)
    }

    fn last_per_topic(&self, stream: Name, reading: Reading) -> Operation<Page> {
        self.joint.store.last_per_topic(stream, reading)
    }

    fn find(&self, stream: Name, start: Start) -> Operation<u64> {
        self.joint.store.find(stream, start)
    }

    fn consumers(&self, stream: Name) -> Operation<Vec<ConsumerPosition>> {
        self.joint.store.consumers(stream)
    }

    fn consumer(&self, stream: Name, name: Name) -> Operation<ConsumerState> {
        self.joint.store.consumer(stream, name)
    }

    fn delayed(&self, stream: Name, until: u64, most: usize) -> Operation<Vec<Delayed>> {
        self.joint.store.delayed(stream, until, most)
    }

    fn appended(&self, stream: &Name) -> Option<watch::Receiver<u64>> {
        Some(self.end(stream).subscribe())
    }

    fn close(&self) -> Operation<()> {
        Box::pin(std::future::ready(Ok(())))
    }
}
