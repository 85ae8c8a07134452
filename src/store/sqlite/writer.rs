//! The thread that writes.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;

use super::failure::{is_final, told};
use super::file::StoreFile;
use super::log::Log;
use super::measured::Measured;
use super::queue::{Queue, Waiting};
use super::streams::{Streams, Trouble};
use crate::error::StoreError;
use crate::store::change::{Change, Outcome};
use crate::store::settings::{Name, StreamSettings, StreamState};

/// Whom to tell what has become of a task.
pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the thread is to do.
pub(super) enum Task {
    Open {
        settings: StreamSettings,
        answer: Answer<StreamState>,
    },
    Streams {
        answer: Answer<Vec<StreamState>>,
    },
    Remove {
        stream: Name,
        answer: Answer<()>,
    },
    Commit {
        stream: Name,
        changes: Vec<Change>,
        answer: Answer<Vec<Outcome>>,
    },
    Close {
        answer: Answer<()>,
    },
    /// Panics, as nothing should.
    #[cfg(test)]
    Panic,
    /// Takes until the other end of this is gone, as a disk may.
    #[cfg(test)]
    Take(mpsc::Receiver<()>),
}

/// Hands tasks to the thread, in their order.
pub(super) struct Writer {
    tasks: Queue<Task>,
    measured: Arc<Measured>,
}

impl Writer {
    /// Begins with the file; tasks that wait may take so many bytes.
    pub(super) fn start(file: StoreFile, queue_bytes: usize) -> Result<Self, StoreError> {
        let (tasks, receiver) = Queue::new(queue_bytes);
        let streams = Streams::load(&file.connection).map_err(|trouble| trouble.told(&file.place))?;
        let log = Log::new(&file.connection, streams.bound()).map_err(|error| told(&file.place, &error))?;
        let measured = Arc::new(Measured::new());
        let writing = Writing {
            place: file.place.clone(),
            file,
            streams,
            log,
            failed: None,
            measured: Arc::clone(&measured),
        };
        let thread = thread::Builder::new().name("whispeer-store".to_owned());
        let started = thread.spawn(move || writing.run(&receiver));
        started.map(drop).map_err(|error| StoreError::Failed {
            place: "a thread for the store".to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Self { tasks, measured })
    }

    /// What writing takes.
    pub(super) fn measured(&self) -> &Measured {
        &self.measured
    }

    /// Bytes that tasks take which wait.
    pub(super) fn waiting(&self) -> usize {
        self.tasks.waiting()
    }

    pub(super) fn send(&self, task: Task) -> Result<(), StoreError> {
        let brings = weight(&task);
        self.tasks.send(task, brings)
    }
}

/// What the thread has.
struct Writing {
    file: StoreFile,
    place: String,
    streams: Streams,
    log: Log,
    /// Why nothing more is taken.
    failed: Option<StoreError>,
    measured: Arc<Measured>,
}

/// A task that is done but for what the disk says.
enum Done {
    Open(Answer<StreamState>, Box<Result<StreamState, StoreError>>),
    Streams(Answer<Vec<StreamState>>, Result<Vec<StreamState>, StoreError>),
    Remove(Answer<()>, Result<(), StoreError>),
    Commit(Answer<Vec<Outcome>>, Result<Vec<Outcome>, StoreError>),
}

impl Writing {
    /// Until the last of those who send is gone, or closes it.
    fn run(mut self, tasks: &mpsc::Receiver<Waiting<Task>>) {
        while let Some(first) = self.next(tasks) {
            let (mut group, mut closing, mut bytes) = (Vec::new(), None, 0);
            let mut next = Some(first);
            while let Some(task) = next {
                match task {
                    Task::Close { answer } => {
                        closing = Some(answer);
                        break;
                    }
                    task => {
                        bytes += weight(&task);
                        group.push(task);
                    }
                }
                let is_full = group.len() >= self.log.group_messages() || bytes >= self.log.group_bytes();
                next = if is_full { None } else { tasks.try_recv().ok().map(|waiting| waiting.call) };
            }
            if !group.is_empty() {
                self.write(group);
            }
            if let Some(answer) = closing {
                // What is behind it in the queue is dropped, and told that the store is closed.
                let closed = self.close();
                // Whoever is told may open the file again.
                drop(self);
                let _ = answer.send(closed);
                return;
            }
        }
        let _ = self.close();
    }

    /// What is to be done next. As long as there is nothing, what is left of streams that were taken out goes.
    fn next(&mut self, tasks: &mpsc::Receiver<Waiting<Task>>) -> Option<Task> {
        while self.failed.is_none() && self.streams.has_remains() {
            match tasks.try_recv() {
                Ok(waiting) => return Some(waiting.call),
                Err(mpsc::TryRecvError::Disconnected) => return None,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            if let Err(error) = self.transact(&[]) {
                self.note(&error);
                // A full disk is not tried again before somebody else does.
                break;
            }
            self.relieve();
        }
        tasks.recv().ok().map(|waiting| waiting.call)
    }

    /// Does all of these in one transaction, unless they drop so much that others would wait for it: then the rest of them have one of
    /// their own.
    fn write(&mut self, mut group: Vec<Task>) {
        while !group.is_empty() {
            group = self.write_some(group);
            self.relieve();
        }
    }

    /// Does the first of these in one transaction. Returns those that are left.
    fn write_some(&mut self, mut group: Vec<Task>) -> Vec<Task> {
        let mut left = Vec::new();
        let mut done = Vec::with_capacity(group.len());
        let written = match &self.failed {
            Some(failed) => Err(failed.clone()),
            None => self.transact(&group),
        };
        match written {
            Ok(results) => {
                left = group.split_off(results.len());
                done.extend(group.into_iter().zip(results).map(|(task, result)| result.of(task)));
            }
            Err(error) => {
                self.note(&error);
                done.extend(group.into_iter().map(|task| Done::failed(task, &error)));
            }
        }
        for done in done {
            done.tell();
        }
        left
    }

    /// Nothing more is taken after what cannot be undone.
    fn note(&mut self, error: &StoreError) {
        if is_final(error) && self.failed.is_none() {
            self.failed = Some(error.clone());
            self.file.give_up();
        }
    }

    /// Keeps the log short. Nobody waits for that: what was told before is on the disk, where it is.
    fn relieve(&mut self) {
        if self.failed.is_some() {
            return;
        }
        let connection = &self.file.connection;
        let bounded = self.log.bound(connection, self.streams.bound());
        if let Err(error) = bounded.and_then(|()| self.log.relieve(connection, &self.measured)) {
            // Where there is no room now, there may be some the next time.
            self.note(&told(&self.place, &error));
        }
    }

    /// Does these, or the first of them if they drop much. Returns what those have come to that are done.
    fn transact(&mut self, group: &[Task]) -> Result<Vec<Reached>, StoreError> {
        let connection = &self.file.connection;
        let begun = Instant::now();
        let transacted = connection.execute_batch("BEGIN IMMEDIATE").map_err(Trouble::from).and_then(|()| {
            let mut results = Vec::with_capacity(group.len());
            for task in group {
                results.push(Reached::by(task, &mut self.streams, connection)?);
                if self.streams.has_dropped_enough() {
                    break;
                }
            }
            self.streams.remove_remains(connection)?;
            self.streams.flush(connection)?;
            let ready = Instant::now();
            connection.execute_batch("COMMIT")?;
            self.measured.committed(results.len(), begun, ready);
            self.streams.committed();
            Ok(results)
        });
        transacted.map_err(|trouble| {
            self.measured.failed();
            // Where it was not begun, or is undone already, there is nothing to undo.
            let _ = connection.execute_batch("ROLLBACK");
            let error = trouble.told(&self.place);
            match self.streams.undo(connection) {
                Ok(()) => error,
                // What the streams are is not known, so nothing can be added to them.
                Err(trouble) if !is_final(&error) => match trouble.told(&self.place) {
                    told if is_final(&told) => told,
                    told => StoreError::Failed { place: self.place.clone(), reason: told.to_string() },
                },
                Err(_) => error,
            }
        })
    }

    fn close(&mut self) -> Result<(), StoreError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        // The next who opens it need not read the log.
        let truncated = self.file.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        truncated.map_err(|error| {
            let error = told(&self.place, &error);
            self.note(&error);
            error
        })
    }
}

fn weight(task: &Task) -> u64 {
    let Task::Commit { changes, .. } = task else { return 0 };
    let weights = changes.iter().map(|change| match change {
        Change::Append(message)
        | Change::AppendTo { message, .. }
        | Change::Move { message, .. }
        | Change::Delay { message, .. } => message.weight(),
        _ => 0,
    });
    weights.sum()
}

/// What a task has come to, if the transaction succeeds.
enum Reached {
    State(Box<Result<StreamState, StoreError>>),
    States(Vec<StreamState>),
    Nothing(Result<(), StoreError>),
    Outcomes(Result<Vec<Outcome>, StoreError>),
}

impl Reached {
    fn by(task: &Task, streams: &mut Streams, connection: &rusqlite::Connection) -> Result<Self, Trouble> {
        Ok(match task {
            Task::Open { settings, .. } => {
                Self::State(Box::new(refusable(streams.open(connection, settings))?))
            }
            Task::Streams { .. } => Self::States(streams.states()),
            Task::Remove { stream, .. } => Self::Nothing(refusable(streams.remove(connection, stream))?),
            Task::Commit { stream, changes, .. } => {
                Self::Outcomes(refusable(streams.commit(connection, stream, changes))?)
            }
            Task::Close { .. } => Self::Nothing(Ok(())),
            #[cfg(test)]
            Task::Panic => panic!("a test has asked for it"),
            #[cfg(test)]
            Task::Take(until) => {
                while until.recv().is_ok() {}
                Self::Nothing(Err(StoreError::Closed))
            }
        })
    }

    fn of(self, task: Task) -> Done {
        match (task, self) {
            (Task::Open { answer, .. }, Self::State(state)) => Done::Open(answer, state),
            (Task::Streams { answer }, Self::States(states)) => Done::Streams(answer, Ok(states)),
            (Task::Remove { answer, .. }, Self::Nothing(done)) => Done::Remove(answer, done),
            (Task::Commit { answer, .. }, Self::Outcomes(outcomes)) => Done::Commit(answer, outcomes),
            (task, _) => Done::failed(task, &StoreError::Closed),
        }
    }
}

/// A call that is refused changes nothing, and harms no other.
fn refusable<T>(done: Result<T, Trouble>) -> Result<Result<T, StoreError>, Trouble> {
    match done {
        Ok(done) => Ok(Ok(done)),
        Err(Trouble::Refused(error)) => Ok(Err(error)),
        Err(trouble) => Err(trouble),
    }
}

impl Done {
    fn failed(task: Task, error: &StoreError) -> Self {
        match task {
            Task::Open { answer, .. } => Self::Open(answer, Box::new(Err(error.clone()))),
            Task::Streams { answer } => Self::Streams(answer, Err(error.clone())),
            Task::Remove { answer, .. } | Task::Close { answer } => Self::Remove(answer, Err(error.clone())),
            Task::Commit { answer, .. } => Self::Commit(answer, Err(error.clone())),
            #[cfg(test)]
            Task::Panic | Task::Take(_) => Self::Remove(oneshot::channel().0, Err(error.clone())),
        }
    }

    /// Who has gone meanwhile need not know.
    fn tell(self) {
        match self {
            Self::Open(answer, result) => drop(answer.send(*result)),
            Self::Streams(answer, result) => drop(answer.send(result)),
            Self::Remove(answer, result) => drop(answer.send(result)),
            Self::Commit(answer, result) => drop(answer.send(result)),
        }
    }
}
