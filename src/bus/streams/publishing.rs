//! Publishes that wait for a store.
//!
//! They are given to it in the order in which they come, and it takes all of them: what bounds them is the publish window of
//! each session, and the byte budget of the bus. Where that is spent, publishers wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
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
use crate::transport::Part;

/// What a session has given to stores, and the flushes behind it. Order holds for each stream: what is for one waits for the store
/// of that one only, so that no store that stalls keeps the session's places in the lines of other streams, where everybody else
/// stands behind them.
#[derive(Default)]
pub(crate) struct Storing {
    /// One for each stream that something waits for. Whose turn it is next is the first of them.
    lines: VecDeque<Line>,
    /// What plugins refuse, until it is known whether it was stored before.
    refused: VecDeque<Box<Refused>>,
    /// `PING`s that are answered when all before is stored.
    pings: VecDeque<Ping>,
    /// How many publishes there have been, and how many of them and of flushes wait.
    given: u64,
    waiting: usize,
    bytes: usize,
    /// That of the publish that is being delivered.
    turn: Option<Turn>,
}

/// What a session has for one stream, in its order. It is not empty.
struct Line {
    stream: Arc<Stream>,
    waiters: VecDeque<Box<Waiter>>,
}

/// A flush: it waits for all publishes before this number.
struct Ping {
    sequence: u64,
    before: u64,
}

/// A publish that is being stored.
struct Waiter {
    /// Its place among all that the session has given to stores.
    number: u64,
    header: Header,
    content: Arc<Content>,
    /// Bytes of the frame that it came in.
    arrived: usize,
    asked: Asked,
    /// When it is due, if it is delayed.
    due: Option<u64>,
    stored: Stored,
    /// When it is to be delivered, unless that is later.
    turn: Option<Turn>,
    _waiting: Waiting,
}

/// A publish that plugins refuse, and that its client may have sent before: stores are asked whether they have it.
struct Refused {
    /// Its place among all that the session has given to stores.
    number: u64,
    header: Header,
    arrived: usize,
    error: BusError,
    /// One operation for each stream that may have it.
    asked: Vec<(Arc<Stream>, Operation<Vec<Outcome>>)>,
    /// Bytes of memory that it takes.
    held: usize,
    _waiting: Waiting,
}

impl Refused {
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
    /// Bytes of memory that it takes.
    fn held(&self) -> usize {
        self.content.size() + limits::STORE_CALL_BYTES
    }

    /// Ready when the store has answered, and all that it had before has been delivered.
    fn poll(&mut self, stream: &Stream, context: &mut Context<'_>) -> Poll<()> {
        if let Stored::Asked(stored) = &mut self.stored {
            let Poll::Ready(answer) = stored.as_mut().poll(context) else { return Poll::Pending };
            if let Ok(outcomes) = &answer {
                stream.grow_by(outcomes);
            }
            self.stored = Stored::Answered(answer);
        }
        self.turn.as_ref().map_or(Poll::Ready(()), |turn| turn.poll(context))
    }
}

impl Storing {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0 && self.turn.is_none()
    }

    /// Bytes of memory that wait.
    pub(crate) fn held(&self) -> usize {
        self.bytes
    }

    /// Puts a flush behind what waits; `false` if nothing does.
    pub(crate) fn flush(&mut self, sequence: u64) -> bool {
        if self.waiting == 0 {
            return false;
        }
        self.waiting += 1;
        self.pings.push_back(Ping { sequence, before: self.given });
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    fn push(&mut self, stream: &Arc<Stream>, waiter: Waiter) {
        self.bytes += waiter.held();
        (self.given, self.waiting) = (self.given + 1, self.waiting + 1);
        let waiter = Box::new(waiter);
        match self.lines.iter_mut().find(|line| Arc::ptr_eq(&line.stream, stream)) {
            Some(line) => line.waiters.push_back(waiter),
            None => self.lines.push_back(Line { stream: Arc::clone(stream), waiters: [waiter].into() }),
        }
    }

    fn push_refused(&mut self, refused: Refused) {
        self.bytes += refused.held;
        (self.given, self.waiting) = (self.given + 1, self.waiting + 1);
        self.refused.push_back(Box::new(refused));
    }

    /// What is to be told of the next publish that plugins have refused; pending if that of none is known.
    fn poll_refused(&mut self, context: &mut Context<'_>) -> Poll<(Header, usize, BusResult<u64>)> {
        let Some(refused) = self.refused.front_mut() else { return Poll::Pending };
        let told = ready!(refused.poll(context));
        let told = (refused.header, refused.arrived, told);
        if let Some(refused) = self.refused.pop_front() {
            self.waiting -= 1;
            self.bytes = self.bytes.saturating_sub(refused.held);
        }
        Poll::Ready(told)
    }

    /// The next publish that can be delivered, with its stream; pending if there is none. Of each stream the first is looked at.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<(Arc<Stream>, Box<Waiter>)> {
        for _ in 0..self.lines.len() {
            let Some(line) = self.lines.front_mut() else { break };
            let first = line.waiters.front_mut();
            if first.is_some_and(|first| first.poll(&line.stream, context).is_ready())
                && let Some(waiter) = line.waiters.pop_front()
            {
                let stream = Arc::clone(&line.stream);
                if line.waiters.is_empty() {
                    self.lines.pop_front();
                }
                self.waiting -= 1;
                self.bytes = self.bytes.saturating_sub(waiter.held());
                return Poll::Ready((stream, waiter));
            }
            self.lines.rotate_left(1);
        }
        Poll::Pending
    }

    /// Has other streams be looked at before this one.
    fn give_way(&mut self, stream: &Arc<Stream>) {
        if self.lines.front().is_some_and(|line| Arc::ptr_eq(&line.stream, stream)) {
            self.lines.rotate_left(1);
        }
    }

    /// The next flush before which nothing waits any more.
    fn next_flushed(&mut self) -> Option<Ping> {
        let ping = self.pings.front()?;
        let firsts = self.lines.iter().filter_map(|line| line.waiters.front());
        let mut numbers =
            firsts.map(|first| first.number).chain(self.refused.front().map(|first| first.number));
        if numbers.any(|number| number < ping.before) {
            return None;
        }
        self.waiting -= 1;
        self.pings.pop_front()
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
        let is_told_so =
            header.flags.contains(Flags::STORED) && self.session.peer.principal == Principal::Bus;
        // What comes from another bus that has the same store is in it already.
        let is_stored_elsewhere = self.session.peer.part == Part::Relay && stream.is_shared();
        if is_told_so || is_stored_elsewhere {
            self.route_stored(header, content, asked, content.frame_size());
            return Ok(());
        }
        stream.check_open()?;
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
        stream.check_open()?;
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
        let waiter = Waiter {
            number: self.storing.given,
            header: *header,
            arrived: self.arrived_size.unwrap_or(content.frame_size()),
            content,
            asked,
            due,
            stored: Stored::Asked(stored),
            turn,
            _waiting: Waiting::new(&self.shared),
        };
        self.storing.push(stream, waiter);
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
        let asked: Vec<_> = streams.into_iter().map(ask).collect();
        let held = asked.len() * limits::STORE_CALL_BYTES;
        let _waiting = Waiting::new(&self.shared);
        let (number, arrived) = (self.storing.given, content.frame_size());
        let refused = Refused { number, header: *header, arrived, error, asked, held, _waiting };
        self.storing.push_refused(refused);
        Ok(())
    }

    /// Delivers what has been stored by now; pending while a store is to be waited for.
    pub(crate) fn poll_storing(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // What takes more than a turn is first; who sees to that comes back here.
        while self.underway.is_none() {
            self.storing.turn = None;
            if let Poll::Ready((stream, waiter)) = self.storing.poll_next(context) {
                self.go_live(&stream, *waiter);
                if self.underway.is_some() {
                    self.storing.give_way(&stream);
                }
                continue;
            }
            if let Poll::Ready((header, arrived, told)) = self.storing.poll_refused(context) {
                self.conclude(&header, arrived, told);
                continue;
            }
            while let Some(ping) = self.storing.next_flushed() {
                let pong = Header::new(Kind::Pong, 0, ping.sequence);
                self.answer(|state| state.control(&pong, &ContentRef::empty()));
            }
            return if self.storing.is_empty() { Poll::Ready(()) } else { Poll::Pending };
        }
        Poll::Ready(())
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

    fn go_live(&mut self, stream: &Stream, waiter: Waiter) {
        let Waiter { header, content, arrived, asked, due, stored, turn, .. } = waiter;
        let Stored::Answered(stored) = stored else { return };
        // Until all have it, which may take more than this turn of the session.
        self.storing.turn = turn;
        let content = content.borrowed();
        match stored {
            Ok(_) if let Some(due) = due => {
                stream.note_own_due(due);
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
