//! Publishes that wait for a store.
//!
//! They are given to it in the order in which they come, and it takes all of them: what bounds them is the publish window of
//! each session, and the byte budget of the bus. Where that is spent, publishers wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use super::Stream;
use super::turns::Turn;
use crate::auth::{Author, Principal};
use crate::bus::backlog::Asked;
use crate::bus::clock::system_time;
use crate::bus::task::SessionTask;
use crate::bus::underway::Waiting;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::{Field, FieldsBuilder, Quality, iterate};
use crate::proto::{Content, ContentRef, Flags, Header, Kind};
use crate::store::{Change, Message, MessageId, NewMessage, Operation, Outcome, StoreError};
use crate::topic::TopicPattern;

/// What a session has given to stores, in its order, and the flushes behind it.
#[derive(Default)]
pub(crate) struct Storing {
    queue: VecDeque<Entry>,
    bytes: usize,
    /// That of the publish that is being delivered.
    turn: Option<Turn>,
}

enum Entry {
    Publish(Box<Waiter>),
    Refused(Box<Refused>),
    /// `PING`s that are answered when all before is stored.
    Ping(u64),
}

/// A publish that is being stored.
struct Waiter {
    header: Header,
    content: Arc<Content>,
    /// Bytes of the frame that it came in.
    arrived: usize,
    asked: Asked,
    /// When it is due, if it is delayed.
    due: Option<u64>,
    stream: Arc<Stream>,
    stored: Stored,
    /// When it is to be delivered, unless that is later.
    turn: Option<Turn>,
    _waiting: Waiting,
}

/// A publish that plugins refuse, and that its client may have sent before: stores are asked whether they have it.
struct Refused {
    header: Header,
    arrived: usize,
    error: BusError,
    /// One operation for each stream that may have it.
    asked: Vec<(Arc<Stream>, Operation<Vec<Outcome>>)>,
    _waiting: Waiting,
}

impl Refused {
    fn held(&self) -> usize {
        self.asked.capacity() * limits::STORE_CALL_BYTES
    }

    /// What is to be told, once the stores have answered: the refusal, unless one of them has it.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<u64, BusError>> {
        while let Some((stream, asked)) = self.asked.last_mut() {
            let Poll::Ready(answer) = asked.as_mut().poll(context) else { return Poll::Pending };
            match answer.as_deref() {
                Ok([Outcome::Known { .. } | Outcome::Delayed { .. }]) => {
                    stream.grow_by(answer.as_deref().unwrap_or_default());
                    // It was delivered when it came first, or will be when it is due.
                    return Poll::Ready(Ok(0));
                }
                Ok(_) => {}
                Err(error) => {
                    let refusal = &self.error;
                    let reason = format!(
                        "{refusal}; whether it was stored before is not known, as the store fails: {error}"
                    );
                    self.error = BusError::NotStored { reason };
                }
            }
            self.asked.pop();
        }
        Poll::Ready(Err(self.error.clone()))
    }
}

enum Stored {
    Asked(Operation<Vec<Outcome>>),
    /// The store has answered, and readers have been told.
    Answered(Result<Vec<Outcome>, StoreError>),
}

impl Waiter {
    /// Ready when the store has answered, and all that it had before has been delivered.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Stored::Asked(stored) = &mut self.stored {
            let Poll::Ready(answer) = stored.as_mut().poll(context) else { return Poll::Pending };
            if let Ok(outcomes) = &answer {
                self.stream.grow_by(outcomes);
            }
            self.stored = Stored::Answered(answer);
        }
        self.turn.as_ref().map_or(Poll::Ready(()), |turn| turn.poll(context))
    }
}

impl Storing {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.turn.is_none()
    }

    /// Bytes of memory that wait.
    pub(crate) fn held(&self) -> usize {
        self.bytes
    }

    /// Puts a flush behind what waits; `false` if nothing does.
    pub(crate) fn flush(&mut self, sequence: u64) -> bool {
        if self.queue.is_empty() {
            return false;
        }
        self.queue.push_back(Entry::Ping(sequence));
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

impl SessionTask {
    /// The stream of this topic; a publish that is to be kept needs one.
    pub(crate) fn stream_of(&self, topic: &TopicPattern, quality: Quality) -> BusResult<Option<Arc<Stream>>> {
        match self.shared.streams.of(topic)? {
            None if quality > Quality::AtMostOnce => Err(BusError::NotDurable { topic: topic.to_string() }),
            found => Ok(found.cloned()),
        }
    }

    /// Gives a publish to the store.
    pub(crate) fn store(
        &mut self,
        stream: &Arc<Stream>,
        header: &Header,
        content: &ContentRef<'_>,
        asked: Asked,
    ) -> BusResult<()> {
        if header.flags.contains(Flags::STORED) && self.session.peer.principal == Principal::Bus {
            self.route_stored(header, content, asked, content.frame_size());
            return Ok(());
        }
        let content = content.shared();
        let (message, left) = new_message(&content)?;
        let expires = left.map(|left| message.time.saturating_add(left));
        let change = Change::Append(NewMessage { expires, ..message });
        self.give_to_store(stream, header, content, (asked, change));
        Ok(())
    }

    /// Gives a publish to the store that is due at a later time.
    pub(crate) fn store_delayed(
        &mut self,
        stream: &Arc<Stream>,
        header: &Header,
        content: &ContentRef<'_>,
        (due, author): (u64, &Author),
    ) -> BusResult<()> {
        let content = content.shared();
        let (message, left) = new_message(&content)?;
        let message = NewMessage { expires: left.map(|left| due.saturating_add(left)), ..message };
        let owner = author.holder().unwrap_or_default().into();
        let author = rmp_serde::to_vec_named(author)
            .map_err(|error| BusError::NotStored { reason: error.to_string() })?
            .into();
        let change = Change::Delay { message, due, author, owner };
        self.give_to_store(stream, header, content, (Asked::default(), change));
        Ok(())
    }

    fn give_to_store(
        &mut self,
        stream: &Arc<Stream>,
        header: &Header,
        content: Arc<Content>,
        (asked, change): (Asked, Change),
    ) {
        let (due, (stored, turn)) = match change {
            Change::Delay { due, .. } => (Some(due), (stream.commit(vec![change]), None)),
            append => {
                let (stored, turn) = stream.append(append);
                (None, (stored, Some(turn)))
            }
        };
        let stored = Stored::Asked(stored);
        self.storing.bytes += content.size() + limits::STORE_CALL_BYTES;
        let _waiting = Waiting::new(&self.shared);
        let (stream, arrived) = (Arc::clone(stream), self.arrived_size.unwrap_or(content.frame_size()));
        let waiter = Waiter { header: *header, content, arrived, asked, due, stream, stored, turn, _waiting };
        self.storing.queue.push_back(Entry::Publish(Box::new(waiter)));
    }

    /// Answers a publish that plugins refuse. One that says by what id it is known may have been sent before, and been stored
    /// without its client being told: then it is answered as published, as it would be without plugins. So stores are asked
    /// first, those of the topic that it came with and of the one that plugins had given it by then.
    ///
    /// # Errors
    /// The refusal, where no store can have it.
    pub(crate) fn refuse_unless_stored(
        &mut self,
        header: &Header,
        content: &ContentRef<'_>,
        topic: &TopicPattern,
        error: BusError,
    ) -> BusResult<()> {
        let id = iterate(content.fields).find_map(|field| match field {
            Field::MessageId(id) => Some(MessageId { publisher: id.publisher, number: id.number }),
            _ => None,
        });
        let Some(id) = id else { return Err(error) };
        let came = TopicPattern::from_utf8(content.topic)?;
        // A topic that meets several streams has none.
        let of = |topic| self.shared.streams.of(topic).ok().flatten().cloned();
        let mut streams: Vec<Arc<Stream>> = [of(&came), of(topic)].into_iter().flatten().collect();
        streams.dedup_by(|one, other| Arc::ptr_eq(one, other));
        if streams.is_empty() {
            return Err(error);
        }
        let ask = |stream: Arc<Stream>| {
            let asked = stream.commit(vec![Change::Recall { id }]);
            (stream, asked)
        };
        let asked = streams.into_iter().map(ask).collect();
        let _waiting = Waiting::new(&self.shared);
        let refused = Refused { header: *header, arrived: content.frame_size(), error, asked, _waiting };
        self.storing.bytes += refused.held();
        self.storing.queue.push_back(Entry::Refused(Box::new(refused)));
        Ok(())
    }

    /// Delivers what has been stored by now; pending while the store is to be waited for.
    pub(crate) fn poll_storing(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            // What takes more than a turn is first; who sees to that comes back here.
            if self.underway.is_some() {
                return Poll::Ready(());
            }
            self.storing.turn = None;
            match self.storing.queue.front_mut() {
                None => return Poll::Ready(()),
                Some(Entry::Ping(sequence)) => {
                    let pong = Header::new(Kind::Pong, 0, *sequence);
                    self.storing.queue.pop_front();
                    self.answer(|state| state.control(&pong, &ContentRef::empty()));
                }
                Some(Entry::Refused(refused)) => {
                    let Poll::Ready(told) = refused.poll(context) else { return Poll::Pending };
                    let (header, arrived, held) = (refused.header, refused.arrived, refused.held());
                    self.storing.queue.pop_front();
                    self.storing.bytes = self.storing.bytes.saturating_sub(held);
                    self.conclude(&header, arrived, told);
                }
                Some(Entry::Publish(waiter)) => {
                    if waiter.poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    if let Some(Entry::Publish(waiter)) = self.storing.queue.pop_front() {
                        let bytes = waiter.content.size() + limits::STORE_CALL_BYTES;
                        self.storing.bytes = self.storing.bytes.saturating_sub(bytes);
                        self.go_live(*waiter);
                    }
                }
            }
        }
    }

    /// Delivers what has been stored, and has stores wake this task for the rest. It comes after what was read, as
    /// that may be stored at once.
    pub(crate) fn take_stored(&mut self, context: &mut Context<'_>) {
        if self.storing.is_empty() {
            return;
        }
        if self.poll_storing(context).is_ready() && self.underway.is_some() {
            // What takes more than a turn goes on in the next one, and the rest after it.
            self.interrupted = true;
            context.waker().wake_by_ref();
        }
        self.end_turn();
    }

    fn go_live(&mut self, waiter: Waiter) {
        let Waiter { header, content, arrived, asked, due, stream, stored, turn, .. } = waiter;
        let Stored::Answered(stored) = stored else { return };
        // Until all have it, which may take more than this turn of the session.
        self.storing.turn = turn;
        let content = content.borrowed();
        match stored {
            Ok(_) if let Some(due) = due => {
                stream.note_due(due);
                stream.look_again();
                self.accept_delayed(&header, arrived);
            }
            Ok(outcomes) => {
                if matches!(outcomes[..], [Outcome::Known { .. }]) {
                    // It was delivered when it came first.
                    return self.conclude(&header, arrived, Ok(0));
                }
                self.route_stored(&header, &content, asked, arrived);
            }
            Err(StoreError::LimitReached { what }) if due.is_some() => {
                self.conclude(&header, arrived, Err(BusError::LimitReached { what }));
            }
            Err(error) => {
                let reason = error.to_string();
                self.conclude(&header, arrived, Err(BusError::NotStored { reason }));
            }
        }
    }
}

/// What is stored of a publish, without its end, and for how long it is of use. Options are for the bus and not for those
/// who read it some day.
fn new_message(content: &Content) -> BusResult<(NewMessage, Option<u64>)> {
    let (mut fields, mut left, mut id) = (FieldsBuilder::new(), None, None);
    for field in iterate(content.fields()) {
        match field {
            Field::Header { name, value } => fields.header(name, value)?,
            Field::Origin(bus) => fields.origin(bus)?,
            Field::MessageId(given) => {
                id = Some(MessageId { publisher: given.publisher, number: given.number });
            }
            Field::Expires(time) => left = Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            _ => {}
        }
    }
    let (size, limit) = (fields.as_bytes().len(), limits::STORED_FIELDS_LIMIT);
    if size > limit {
        return Err(BusError::HeadersTooLarge { size, limit });
    }
    let message = NewMessage {
        topic: TopicPattern::from_utf8(content.topic())?,
        fields: fields.finish().into(),
        payload: content.payload_bytes(),
        time: milliseconds(),
        expires: None,
        id,
    };
    Ok((message, left))
}

/// Says how long a stored message is of use, if that has an end; `false` if it is of none any more.
pub(super) fn say_left(message: &Message, fields: &mut FieldsBuilder) -> bool {
    let Some(expires) = message.expires else { return true };
    let left = expires.saturating_sub(milliseconds());
    // There was room for this before it was published.
    let _ = fields.expires(Duration::from_millis(left));
    left > 0
}

/// When it is, as messages are stored.
pub(super) fn milliseconds() -> u64 {
    let since = system_time().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
