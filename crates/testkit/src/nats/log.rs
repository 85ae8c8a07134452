//! What a server says, kept from its beginning and waited for line by line.

use std::io::{BufRead, BufReader};
use std::process::ChildStderr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::wait::PATIENCE;

/// How many of the last lines are shown when a test fails.
const SHOWN: usize = 60;

/// The lines of one server, over all of its starts.
#[derive(Clone, Debug, Default)]
pub(super) struct Log(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Said {
    lines: Vec<String>,
    /// The process that writes has ended.
    ended: bool,
}

impl Log {
    /// Takes in what a process says, in a thread that ends with it.
    pub(super) fn follow(&self, from: ChildStderr) -> JoinHandle<()> {
        self.locked().ended = false;
        let log = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                log.locked().lines.push(line);
                log.0.more.notify_all();
            }
            log.locked().ended = true;
            log.0.more.notify_all();
        })
    }

    /// How many lines there are, as a place to look from.
    pub(super) fn len(&self) -> usize {
        self.locked().lines.len()
    }

    /// The first line from place `from` on that `find` gives something for, waited for.
    ///
    /// # Errors
    /// Without one when the process ends or nothing comes for long: what the log says.
    pub(super) fn wait<T>(&self, from: usize, find: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let until = Instant::now() + PATIENCE;
        let (mut said, mut at) = (self.locked(), from);
        loop {
            for line in &said.lines[at..] {
                if let Some(found) = find(line) {
                    return Ok(found);
                }
            }
            at = said.lines.len();
            let left = until.saturating_duration_since(Instant::now());
            if said.ended || left.is_zero() {
                return Err(last(&said.lines));
            }
            said = self.0.more.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All of it.
    pub(super) fn text(&self) -> String {
        self.locked().lines.join("\n")
    }

    /// Its last lines.
    pub(super) fn tail(&self) -> String {
        last(&self.locked().lines)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Said> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn last(lines: &[String]) -> String {
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}
