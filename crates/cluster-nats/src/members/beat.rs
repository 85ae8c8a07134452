//! Saying that this bus is there, and hearing the others.

use std::time::Duration;

use async_nats::Client;
use futures_util::StreamExt;
use tokio::time::{Instant, sleep_until, timeout};

use super::table::{Beat, Members};
use super::{Connection, limits, written};
use crate::subject::Subjects;

/// Which of all numbers a bus's ids fall into, to tell how long it waits before it answers a new one.
const SPREAD: u64 = 256;

/// Tells the other buses that this one is there, until `end`; then, that it leaves. From `drains` on it says that it is about to. Keeps
/// `members`, which has its own id, up to date.
///
/// While there is no connection nothing is sent and nobody counts as gone.
///
/// # Errors
/// Why nothing can be heard: the client of NATS has ended.
///
/// # Cancel safety
/// Dropped, it ends without a word: the others count this bus as gone after three intervals.
pub async fn run(
    nats: &Client,
    subjects: &Subjects,
    name: &str,
    members: &Members,
    mut connection: Connection,
    (drains, end): (impl Future<Output = ()>, impl Future<Output = ()>),
) -> Result<(), async_nats::Error> {
    let mut heard = nats.subscribe(subjects.of_heartbeats()).await?;
    let mut speaker =
        Speaker { nats, subject: subjects.of_bus(members.own()), name, members, draining: false, number: 0 };
    let mut next = Instant::now();
    let (mut drains, mut end) = (std::pin::pin!(drains), std::pin::pin!(end));
    let mut connected = *connection.borrow_and_update();
    let (mut moves, mut watches) = (members.moves(), members.watches());
    loop {
        let timer = match (connected, members.next_expiry()) {
            (None, _) => None,
            (Some(_), Some(expiry)) => Some(expiry.min(next)),
            (Some(_), None) => Some(next),
        };
        tokio::select! {
            biased;
            () = &mut end => break,
            () = &mut drains, if !speaker.draining => {
                speaker.draining = true;
                next = Instant::now();
            }
            changed = connection.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let before = connected;
                connected = *connection.borrow_and_update();
                if connected.is_some() && connected != before {
                    members.hear_anew(Instant::now());
                    next = Instant::now();
                }
            }
            Ok(()) = moves.changed() => next = Instant::now(),
            Ok(()) = watches.changed() => next = Instant::now(),
            message = heard.next() => {
                let Some(message) = message else { return Err("the client of NATS has ended".into()) };
                let now = Instant::now();
                if read(&message.payload).is_some_and(|beat| members.heard(&beat, now)) {
                    next = next.min(now + answer_after(members));
                }
            }
            () = sleep_until(timer.unwrap_or_else(far)), if timer.is_some() => {
                let now = Instant::now();
                members.expire(now);
                if let Some(epoch) = connected.filter(|_| now >= next) {
                    speaker.say(epoch, false).await;
                    next = now + members.interval();
                }
            }
        }
    }
    if let Some(epoch) = connected {
        speaker.say(epoch, true).await;
        // Nobody waits for a goodbye for long: it spares the others three intervals.
        let _ = timeout(limits::HEARTBEAT, nats.flush()).await;
    }
    Ok(())
}

struct Speaker<'a> {
    nats: &'a Client,
    subject: String,
    name: &'a str,
    members: &'a Members,
    draining: bool,
    number: u64,
}

impl Speaker<'_> {
    async fn say(&mut self, epoch: u64, leaving: bool) {
        self.number += 1;
        let moves = *self.members.moves().borrow();
        let draining = self.draining || moves;
        let beat = self.members.beat(self.name, (epoch, self.number), (draining, leaving));
        // A short map of numbers and a name can be written.
        let Ok(text) = serde_json::to_vec(&beat) else { return };
        // A connection that takes nothing is about to be lost; what waits would be old.
        let said = timeout(limits::HEARTBEAT, self.nats.publish(self.subject.clone(), text.into())).await;
        if !matches!(said, Ok(Ok(()))) {
            tracing::debug!("a heartbeat could not be sent");
        }
        self.members.has_told(moves);
    }
}

/// How long to wait before a new bus is told of this one: not all at once.
fn answer_after(members: &Members) -> Duration {
    let share = u32::try_from(members.own() % SPREAD).unwrap_or(0);
    members.interval() / 4 * share / u32::try_from(SPREAD).unwrap_or(1)
}

fn read(payload: &[u8]) -> Option<Beat> {
    if payload.len() > limits::HEARTBEAT_BYTES {
        return None;
    }
    serde_json::from_slice(payload).ok()
}

/// A time that does not come, for a timer that nobody waits for.
fn far() -> Instant {
    Instant::now() + limits::HEARTBEAT_MAX
}

/// The heartbeats' subjects.
impl Subjects {
    /// Where a bus says that it is there.
    #[must_use]
    pub fn of_bus(&self, id: u64) -> String {
        format!("{}.bus.{}", self.prefix(), written(id))
    }

    /// Where all of them do.
    #[must_use]
    pub fn of_heartbeats(&self) -> String {
        format!("{}.bus.*", self.prefix())
    }
}
