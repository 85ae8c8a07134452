//! What handlers of a broker tell a test, which has threads of its own and no runtime.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// How long something may take that has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What handlers tell the test.
pub(crate) fn told<T>() -> (SyncSender<T>, Receiver<T>) {
    sync_channel(100_000)
}

pub(crate) fn next<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(PATIENCE).expect("it never came")
}

/// Waits until the other end of the gate sends something or is gone.
pub(crate) fn wait(gate: &Mutex<Receiver<()>>) {
    let _ = gate.lock().unwrap().recv();
}
