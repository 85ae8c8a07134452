//! One question to all other buses, and what they have answered in time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::Client as Nats;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};
use whispeer::{BusError, BusResult};

use crate::members::Members;

/// Where all other buses are asked.
#[derive(Clone)]
pub(crate) struct Survey {
    nats: Nats,
    subject: String,
    members: Members,
}

/// What a survey has come to.
#[derive(Debug)]
pub(crate) struct Surveyed<T> {
    /// What each bus has answered, by its id.
    pub(crate) answers: BTreeMap<u64, T>,
    /// The buses that count as there and have not.
    pub(crate) silent: BTreeSet<u64>,
}

impl Survey {
    /// At a subject that every bus is subscribed to.
    pub(crate) fn new(nats: Nats, subject: String, members: Members) -> Self {
        Self { nats, subject, members }
    }

    /// Asks, and waits until each bus that is known to be there has answered, at the most for so long. `read` yields an answer and whose it is, or nothing
    /// where it is none.
    ///
    /// # Errors
    /// That the connection to NATS has ended.
    ///
    /// # Cancel safety
    /// What was answered is lost when the future is dropped.
    pub(crate) async fn ask<T>(
        &self,
        question: Bytes,
        patience: Duration,
        read: impl Fn(&[u8]) -> Option<(u64, T)>,
    ) -> BusResult<Surveyed<T>> {
        let until = Instant::now() + patience;
        let mut silent: BTreeSet<u64> = self.members.list().iter().map(|member| member.id).collect();
        let mut answers = BTreeMap::new();
        if silent.is_empty() {
            return Ok(Surveyed { answers, silent });
        }
        let inbox = self.nats.new_inbox();
        let mut answering = self.nats.subscribe(inbox.clone()).await.map_err(|_| closed())?;
        self.nats.publish_with_reply(self.subject.clone(), inbox, question).await.map_err(|_| closed())?;
        while !silent.is_empty()
            && let Ok(Some(answer)) = timeout_at(until, answering.next()).await
        {
            let Some((bus, answer)) = read(&answer.payload) else { continue };
            // Only those that are known to be there, so that nobody fills it.
            if silent.remove(&bus) {
                answers.insert(bus, answer);
            }
        }
        Ok(Surveyed { answers, silent })
    }
}

fn closed() -> BusError {
    BusError::Closed { what: "the link to NATS".into() }
}
