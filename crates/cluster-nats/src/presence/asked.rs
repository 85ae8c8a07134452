//! Who is there at all buses, asked at one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use whispeer::client::{BusPresence, ClusterPresence, Member, RequestId};
use whispeer::topic::TopicPattern;
use whispeer::{BusResult, ErrorReply};

use super::{PRESENCE, Presence, closed};
use crate::limits;
use crate::survey::Survey;

/// Where a bus is asked for all of them. Who may watch a topic may ask for it, which the bus has looked at.
const OF_ALL: &str = "$bus/cluster/presence";

/// The code of an answer that says why nothing is known of the others.
const UNKNOWN: &str = "cluster-unknown";

/// Bytes that what is told of a bus takes beside its members, at the most: its id and name, names of fields, and counts.
const BUS_BYTES: usize = 512;

/// What a server of NATS takes by default, until it has said so.
const MAX_PAYLOAD: usize = 1024 * 1024;

/// Who answers it.
#[derive(Clone)]
pub(super) struct Asked(pub(super) Presence);

impl Asked {
    /// Answers for this bus, and for all, until the link ends.
    ///
    /// # Errors
    /// Why it has ended.
    ///
    /// # Cancel safety
    /// Who has asked and has no answer yet is told that there is none.
    pub(super) async fn run(self) -> BusResult<()> {
        let mut questions =
            self.0.nats.subscribe(self.0.subjects.own(PRESENCE)).await.map_err(|_| closed())?;
        let mut serving = self.0.client.serve_bytes(OF_ALL).await?;
        let room = Arc::new(Semaphore::new(limits::OVERVIEWS));
        let mut asking = JoinSet::new();
        loop {
            tokio::select! {
                question = questions.next() => {
                    let question = question.ok_or_else(closed)?;
                    let Some(reply) = question.reply else { continue };
                    let Ok(pattern) = TopicPattern::from_utf8(&question.payload) else { continue };
                    if let Ok(text) = serde_json::to_vec(&self.own(&pattern, Form::Json, self.max_payload())?) {
                        let _ = self.0.nats.publish(reply, text.into()).await;
                    }
                }
                asked = serving.recv() => {
                    let (_, request, pattern) = asked.ok_or_else(closed)?;
                    let (asked, room) = (self.clone(), Arc::clone(&room));
                    asking.spawn(async move { asked.answer(request, &pattern, &room).await });
                }
                Some(_) = asking.join_next(), if !asking.is_empty() => {}
            }
        }
    }

    fn max_payload(&self) -> usize {
        match self.0.nats.server_info().max_payload {
            0 => MAX_PAYLOAD,
            bytes => bytes,
        }
    }

    /// This bus, in so many bytes.
    fn own(&self, pattern: &TopicPattern, form: Form, bytes: usize) -> BusResult<BusPresence> {
        let rows = self.0.bus.presence(pattern)?;
        let name = shown(&self.0.name);
        let own = BusPresence::new(self.0.members.own(), name, rows.rows, rows.left_out);
        Ok(cut(own, form, &AtomicUsize::new(bytes.saturating_sub(BUS_BYTES))))
    }

    async fn answer(&self, request: RequestId, asked: &[u8], room: &Semaphore) {
        let Ok(_place) = room.acquire().await else { return };
        let told = match self.all(asked).await {
            Ok(all) => rmp_serde::to_vec_named(&all).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        // Who has asked may be gone.
        let _ = match told {
            Ok(told) => self.0.client.respond_bytes(request, told.into()).await,
            Err(error) => self.0.client.respond_error(request, ErrorReply::new(UNKNOWN, error)).await,
        };
    }

    /// All buses that answer in time, in as many bytes as a reply may have.
    async fn all(&self, asked: &[u8]) -> BusResult<ClusterPresence> {
        let pattern = TopicPattern::from_utf8(asked)?;
        let buses = self.0.members.list().len() + 2;
        let limit = self.0.bus.reply_limit()?;
        let own = self.own(&pattern, Form::MessagePack, limit.saturating_sub(buses * BUS_BYTES))?;
        let used: usize = own.members.iter().map(|member| Form::MessagePack.size(member)).sum();
        let room = AtomicUsize::new(limit.saturating_sub(buses * BUS_BYTES + used));
        let survey = Survey::new(self.0.nats.clone(), self.0.subjects.own(PRESENCE), self.0.members.clone());
        let question = Bytes::copy_from_slice(pattern.as_str().as_bytes());
        let told = survey
            .ask(question, limits::OVERVIEW, |answer| {
                let mut bus: BusPresence = serde_json::from_slice(answer).ok()?;
                // What others say takes no room.
                self.0.members.epoch(bus.id)?;
                bus.name = shown(&bus.name);
                bus.members = bus.members.into_iter().map(|member| member.at(bus.id)).collect();
                Some((bus.id, cut(bus, Form::MessagePack, &room)))
            })
            .await?;
        let mut buses: Vec<BusPresence> = told.answers.into_values().chain([own]).collect();
        buses.sort_unstable_by_key(|bus| bus.id);
        Ok(ClusterPresence::new(buses, told.silent.into_iter().collect()))
    }
}

/// As much of a bus's name as is shown.
fn shown(name: &str) -> String {
    name[..name.floor_char_boundary(limits::MEMBER_NAME_BYTES)].to_owned()
}

/// How members are written.
#[derive(Debug, Clone, Copy)]
enum Form {
    Json,
    MessagePack,
}

impl Form {
    /// Bytes that a member takes, with what separates it from the next one.
    fn size(self, member: &Member) -> usize {
        match self {
            Self::Json => serde_json::to_vec(member).map_or(usize::MAX, |text| text.len() + 1),
            Self::MessagePack => rmp_serde::to_vec_named(member).map_or(usize::MAX, |bytes| bytes.len()),
        }
    }
}

/// Leaves out, and counts, what there is no room for, and takes the room of the others.
fn cut(bus: BusPresence, form: Form, room: &AtomicUsize) -> BusPresence {
    let BusPresence { id, name, mut members, mut left_out, .. } = bus;
    let there = members.len();
    members.retain(|member| {
        // Nobody else takes of it.
        let left = room.load(Ordering::Relaxed).checked_sub(form.size(member));
        left.inspect(|left| room.store(*left, Ordering::Relaxed)).is_some()
    });
    left_out = left_out.saturating_add(there - members.len());
    BusPresence::new(id, name, members, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus(members: u64) -> BusPresence {
        let member = |session| {
            let text = format!(
                r#"{{"session":{session},"principal":"Local","name":"alice","pattern":"chat/lobby","since":1763856000000}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let name = "ä".repeat(limits::MEMBER_NAME_BYTES / 2);
        BusPresence::new(u64::MAX, name, (0..members).map(member).collect(), 3)
    }

    #[test]
    fn what_is_told_of_a_bus_stays_below_its_bytes_and_what_is_left_out_is_counted() {
        for form in [Form::Json, Form::MessagePack] {
            let room = AtomicUsize::new(10_000 - BUS_BYTES);
            let told = cut(bus(1_000), form, &room);
            let size = match form {
                Form::Json => serde_json::to_vec(&told).unwrap().len(),
                Form::MessagePack => rmp_serde::to_vec_named(&told).unwrap().len(),
            };
            assert!((9_400..=10_000).contains(&size), "{form:?}: {size}");
            assert_eq!(told.members.len() + told.left_out, 1_003);
            assert_eq!(told.members[0].session, 0);
            // There is no room for another bus.
            let other = cut(bus(2), form, &room);
            assert_eq!((other.members.len(), other.left_out), (0, 5));
        }
        let whole = cut(bus(3), Form::Json, &AtomicUsize::new(10_000));
        assert_eq!((whole.members.len(), whole.left_out), (3, 3));
    }
}
