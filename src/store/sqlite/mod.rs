//! A store in a file, by SQLite.
//!
//! One thread writes: all calls that wait while it waits for the disk are written together (group commit), with one
//! wait. Others read at the same time, from what has been written by then.
//!
//! | file | what it holds |
//! |---|---|
//! | `file` | the file, and who has it |
//! | `schema` | its tables |
//! | `queue` | calls that wait for a thread |
//! | `writer` | the thread that writes |
//! | `streams` | what a transaction does to streams |
//! | `stream` | what is known of one |
//! | `changing` | what one change does to it |
//! | `retention` | what goes of it |
//! | `topics` | the topics of streams, and what they count |
//! | `ids` | the ids by which messages are known that are sent again |
//! | `expiry` | messages that have expired |
//! | `removal` | what is left of streams that were taken out |
//! | `delayed` | what is kept until it is due |
//! | `consumers` | how far consumers are |
//! | `log` | what is written to first, and when it is moved to its place |
//! | `measured` | what writing takes |
//! | `reader` | threads that read |
//! | `search` | the last messages of a stream |
//! | `rare` | messages of few topics in a large stream |
//! | `failure` | what goes wrong |

mod changing;
mod consumers;
mod delayed;
mod expiry;
mod failure;
mod file;
mod ids;
mod log;
mod measured;
mod queue;
mod rare;
mod reader;
mod removal;
mod retention;
mod schema;
mod search;
mod stream;
mod streams;
mod topics;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

use self::file::StoreFile;
use self::reader::{Question, Readers};
use self::writer::{Task, Writer};
use super::change::{Change, ConsumerPosition, ConsumerState, Outcome};
use super::message::{Delayed, Page, Reading, Start};
use super::settings::{Name, StreamSettings, StreamState};
use super::{Operation, Store, StoreMetrics};
use crate::error::StoreError;
use crate::limits;

/// What a store promises of what it has returned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// It is on the disk: neither a crash of the process nor of the machine loses it.
    #[default]
    SurvivesPowerLoss,
    /// It is with the system: a crash of the process loses nothing, one of the machine what the system had not
    /// written yet, which may be half a minute.
    PowerLossLosesTheLatest,
}

/// How a [`SqliteStore`] works.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SqliteOptions {
    durability: Durability,
    queue_bytes: usize,
    file_system: Option<String>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { durability: Durability::default(), queue_bytes: limits::STORE_QUEUE_BYTES, file_system: None }
    }
}

impl SqliteOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What it promises of what it has returned for.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How many bytes calls may take that wait for the disk: the messages that they bring, and
    /// [`limits::STORE_CALL_BYTES`] for each. More are refused as [`StoreError::Busy`]; those that bring no messages,
    /// as what consumers write, are taken up to twice of it, and so is what is read. The default is
    /// [`limits::STORE_QUEUE_BYTES`].
    ///
    /// A bus counts what waits here in its byte budget, and has publishers wait when that is spent. So it should be larger
    /// than [`Settings::byte_budget`](crate::bus::Settings::byte_budget), and nothing is refused.
    #[must_use]
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// By which file system of SQLite's (a VFS that the process has registered) the file is read and written, instead of
    /// the system's own. Tests have one that fails.
    #[doc(hidden)]
    #[must_use]
    pub fn file_system(mut self, name: &str) -> Self {
        self.file_system = Some(name.to_owned());
        self
    }
}

/// Keeps streams in a file.
///
/// What was committed is on the disk, unless [`Durability`] says otherwise. A file belongs to one store at a time, by
/// whatever path it is opened: symbolic links are followed, and a file with hard links is refused.
///
/// # Examples
/// ```
/// use whispeer::TopicPattern;
/// use whispeer::store::{Name, SqliteOptions, SqliteStore, Store, StreamSettings};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("streams.db");
/// let store = SqliteStore::open(&path, SqliteOptions::new())?;
/// let orders = StreamSettings::new(Name::new("orders")?, vec![TopicPattern::new("orders/**")?]);
/// assert_eq!(store.open(orders).await?.messages, 0);
/// store.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    path: PathBuf,
    /// The one that it has behind all links.
    resolved: PathBuf,
    writer: Writer,
    readers: Readers,
    is_closed: Arc<AtomicBool>,
}

impl SqliteStore {
    /// Opens a file, which is made if it is not there, readable by its owner alone. This waits for the disk.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::SeveralNames`], [`StoreError::Newer`], [`StoreError::Corrupt`], [`StoreError::ReadOnly`], and
    /// [`StoreError::Failed`] for anything else that the system says.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        let queue_bytes = options.queue_bytes;
        let file = StoreFile::open(path, options)?;
        let resolved = file.path.clone();
        let readers = Readers::start(&file, queue_bytes)?;
        let writer = Writer::start(file, queue_bytes)?;
        let is_closed = Arc::new(AtomicBool::new(false));
        Ok(Self(Arc::new(Inner { path: path.to_owned(), resolved, writer, readers, is_closed })))
    }

    /// The file, as it was named.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The file by the one path that it has behind all links, whatever it was named by. What belongs to it lies beside it by names that
    /// begin likewise: its log, its lock, and what else is to be found by whoever opens it.
    #[must_use]
    pub fn resolved_path(&self) -> &Path {
        &self.0.resolved
    }

    /// Has the thread that writes panic.
    #[cfg(test)]
    pub(super) fn panic(&self) {
        self.0.writer.send(Task::Panic).unwrap();
    }

    /// Has the thread that writes take until what is returned is dropped. What is sent there is received once it has begun to.
    #[cfg(test)]
    pub(super) fn take_long(&self) -> std::sync::mpsc::SyncSender<()> {
        let (end, until) = std::sync::mpsc::sync_channel(0);
        self.0.writer.send(Task::Take(until)).unwrap();
        end
    }

    fn write<T: Send + 'static>(
        &self,
        task: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Task,
    ) -> Operation<T> {
        let (sender, receiver) = oneshot::channel();
        self.answer(self.0.writer.send(task(sender)), receiver)
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Question,
    ) -> Operation<T> {
        let (sender, receiver) = oneshot::channel();
        self.answer(self.0.readers.send(question(sender)), receiver)
    }

    /// What a thread answers. One that is gone, though nobody has closed the store, has failed.
    fn answer<T: Send + 'static>(
        &self,
        sent: Result<(), StoreError>,
        receiver: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Operation<T> {
        let (is_closed, path) = (Arc::clone(&self.0.is_closed), self.0.path.clone());
        Box::pin(async move {
            let answer = match sent {
                Ok(()) => receiver.await.unwrap_or(Err(StoreError::Closed)),
                Err(error) => Err(error),
            };
            match answer {
                Err(StoreError::Closed) if !is_closed.load(Ordering::Acquire) => Err(StoreError::Failed {
                    place: path.display().to_string(),
                    reason: "a thread of the store has panicked".to_owned(),
                }),
                answer => answer,
            }
        })
    }
}

impl Store for SqliteStore {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn metrics(&self) -> Option<StoreMetrics> {
        let Inner { writer, readers, .. } = &*self.0;
        Some(writer.measured().told(writer.waiting(), readers.waiting()))
    }

    fn open(&self, settings: StreamSettings) -> Operation<StreamState> {
        self.write(|answer| Task::Open { settings, answer })
    }

    fn streams(&self) -> Operation<Vec<StreamState>> {
        self.write(|answer| Task::Streams { answer })
    }

    fn remove(&self, stream: Name) -> Operation<()> {
        self.write(|answer| Task::Remove { stream, answer })
    }

    fn commit(&self, stream: Name, changes: Vec<Change>) -> Operation<Vec<Outcome>> {
        self.write(|answer| Task::Commit { stream, changes, answer })
    }

    fn read(&self, stream: Name, reading: Reading) -> Operation<Page> {
        self.ask(|answer| Question::Read { stream, reading, last_per_topic: false, answer })
    }

    fn last_per_topic(&self, stream: Name, reading: Reading) -> Operation<Page> {
        self.ask(|answer| Question::Read { stream, reading, last_per_topic: true, answer })
    }

    fn find(&self, stream: Name, start: Start) -> Operation<u64> {
        self.ask(|answer| Question::Find { stream, start, answer })
    }

    fn delayed(&self, stream: Name, until: u64, most: usize) -> Operation<Vec<Delayed>> {
        self.ask(|answer| Question::Delayed { stream, until, most, answer })
    }

    fn consumers(&self, stream: Name) -> Operation<Vec<ConsumerPosition>> {
        self.ask(|answer| Question::Consumers { stream, answer })
    }

    fn consumer(&self, stream: Name, name: Name) -> Operation<ConsumerState> {
        self.ask(|answer| Question::Consumer { stream, name, answer })
    }

    fn close(&self) -> Operation<()> {
        self.0.is_closed.store(true, Ordering::Release);
        let readers = self.0.readers.close();
        let written = self.write(|answer| Task::Close { answer });
        Box::pin(async move {
            readers.await;
            written.await
        })
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SqliteStore").field("path", &self.0.path).finish_non_exhaustive()
    }
}
