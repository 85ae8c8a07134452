//! Threads that read.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Statement, params};
use tokio::sync::oneshot;

use super::file::StoreFile;
use super::queue::{Queue, Waiting};
use super::schema::{row, sequence, signed, unsigned};
use super::search::{Search, Searching};
use super::streams::Trouble;
use super::writer::Answer;
use super::{consumers, delayed, rare, retention};
use crate::error::StoreError;
use crate::limits;
use crate::store::change::{ConsumerPosition, ConsumerState};
use crate::store::halving::first_that;
use crate::store::message::{Delayed, Message, Page, Reading, Start, weight};
use crate::store::settings::Name;
use crate::topic::TopicPattern;

/// Threads that read: replays of two streams do not wait for each other, and a third one is for the disk to decide.
const THREADS: usize = 2;

/// Topics that a thread remembers; then it begins anew.
const REMEMBERED: usize = 16 * 1024;

/// What is asked.
pub(super) enum Question {
    Read { stream: Name, reading: Reading, last_per_topic: bool, answer: Answer<Page> },
    Find { stream: Name, start: Start, answer: Answer<u64> },
    Delayed { stream: Name, until: u64, most: usize, answer: Answer<Vec<Delayed>> },
    Consumers { stream: Name, answer: Answer<Vec<ConsumerPosition>> },
    Consumer { stream: Name, name: Name, answer: Answer<ConsumerState> },
}

/// Hands questions to the threads.
pub(super) struct Readers {
    /// Gone once they are closed.
    questions: Mutex<Option<Queue<Question>>>,
    ended: Mutex<Vec<oneshot::Receiver<()>>>,
}

impl Readers {
    /// Begins with the file; questions that wait may take so many bytes.
    pub(super) fn start(file: &StoreFile, queue_bytes: usize) -> Result<Self, StoreError> {
        let (questions, receiver) = Queue::new(queue_bytes);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut ended = Vec::with_capacity(THREADS);
        for _ in 0..THREADS {
            let (end, end_receiver) = oneshot::channel();
            ended.push(end_receiver);
            let mut reader = ThreadReader {
                connection: file.reading()?,
                place: file.place.clone(),
                topics: HashMap::new(),
            };
            let receiver = Arc::clone(&receiver);
            let thread = thread::Builder::new().name("whispeer-replay".to_owned());
            let started = thread.spawn(move || {
                reader.run(&receiver);
                drop(reader);
                let _ = end.send(());
            });
            started.map_err(|error| StoreError::Failed {
                place: "a thread for the store".to_owned(),
                reason: error.to_string(),
            })?;
        }
        Ok(Self { questions: Mutex::new(Some(questions)), ended: Mutex::new(ended) })
    }

    pub(super) fn send(&self, question: Question) -> Result<(), StoreError> {
        let questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        questions.as_ref().ok_or(StoreError::Closed)?.send(question, 0)
    }

    /// Bytes that questions take which wait.
    pub(super) fn waiting(&self) -> usize {
        let questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        questions.as_ref().map_or(0, Queue::waiting)
    }

    /// Ends them when what was asked is answered.
    pub(super) fn close(&self) -> impl Future<Output = ()> + Send + 'static {
        drop(self.questions.lock().unwrap_or_else(PoisonError::into_inner).take());
        let ended = std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner));
        async move {
            for end in ended {
                let _ = end.await;
            }
        }
    }
}

/// What the file says of a stream.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) id: i64,
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) messages: u64,
}

/// What a thread has.
pub(super) struct ThreadReader {
    pub(super) connection: Connection,
    place: String,
    /// Topics by their ids, which are never used again.
    pub(super) topics: HashMap<i64, TopicPattern>,
}

/// A message whose bytes lie in the buffer of its page.
struct Found {
    sequence: u64,
    topic: TopicPattern,
    time: u64,
    expires: Option<u64>,
    fields: Range<usize>,
    payload: Range<usize>,
}

impl ThreadReader {
    fn run(&mut self, questions: &Mutex<mpsc::Receiver<Waiting<Question>>>) {
        // What takes more than a step goes on in turn with what is asked meanwhile.
        let mut searches = VecDeque::new();
        loop {
            let question = if searches.is_empty() {
                // Whoever waits for the next question holds it; the other waits for that one.
                let question = questions.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(question) = question else { return };
                Some(question)
            } else {
                // Where the other waits for the next question, that one is for it.
                questions.try_lock().ok().and_then(|questions| questions.try_recv().ok())
            };
            if let Some(question) = question {
                self.answer(question, &mut searches);
            }
            if let Some(searching) = searches.pop_front() {
                searches.extend(self.search(searching));
            }
        }
    }

    /// Does one step of a search; returns it if it is not over.
    fn search(&mut self, mut searching: Searching) -> Option<Searching> {
        if searching.answer.is_closed() {
            return None;
        }
        let found = match self.snapshot(|reader| searching.search.step(reader)) {
            Ok(None) => return Some(searching),
            Ok(Some(found)) => Ok(found),
            Err(error) => Err(error),
        };
        drop(searching.answer.send(found));
        None
    }

    fn answer(&mut self, question: Waiting<Question>, searches: &mut VecDeque<Searching>) {
        let Waiting { call, taken } = question;
        match call {
            Question::Read { stream, reading, last_per_topic, answer } => {
                let page = self.snapshot(|reader| reader.read(&stream, &reading, last_per_topic));
                drop(answer.send(page));
            }
            Question::Find { stream, start: Start::Last(count, pattern), answer } => {
                let search = Search::new(stream, count, pattern);
                searches.push_back(Searching { search, answer, _taken: taken });
            }
            Question::Find { stream, start, answer } => {
                drop(answer.send(self.snapshot(|reader| reader.find(&stream, &start))));
            }
            Question::Delayed { stream, until, most, answer } => {
                let found = self.snapshot(|reader| {
                    let stream = reader.stream(&stream)?;
                    delayed::due_by(&reader.connection, stream.id, until, most)
                });
                drop(answer.send(found));
            }
            Question::Consumers { stream, answer } => {
                let found = self.snapshot(|reader| {
                    let stream = reader.stream(&stream)?;
                    consumers::all(&reader.connection, stream.id)
                });
                drop(answer.send(found));
            }
            Question::Consumer { stream, name, answer } => {
                let found = self.snapshot(|reader| {
                    let id = reader.stream(&stream)?.id;
                    consumers::one(&reader.connection, (id, &stream), &name)
                });
                drop(answer.send(found));
            }
        }
    }

    /// Reads from the file as it is at one time.
    fn snapshot<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Trouble>) -> Result<T, StoreError> {
        let begun = self.connection.execute_batch("BEGIN").map_err(Trouble::from);
        let read = begun.and_then(|()| work(self));
        let _ = self.connection.execute_batch("COMMIT");
        read.map_err(|trouble| trouble.told(&self.place))
    }

    pub(super) fn stream(&self, name: &Name) -> Result<Extent, Trouble> {
        let mut find = self
            .connection
            .prepare_cached("SELECT id, first, next, messages FROM streams WHERE name = ?1")?;
        let found = find.query_row([name.as_str()], |row| {
            let number = |index| row.get(index).map(unsigned);
            Ok(Extent { id: row.get(0)?, first: number(1)?, end: number(2)?, messages: number(3)? })
        });
        Ok(found.optional()?.ok_or_else(|| StoreError::NoStream { stream: name.to_string() })?)
    }

    fn read(&mut self, name: &Name, reading: &Reading, last_per_topic: bool) -> Result<Page, Trouble> {
        let Extent { id: stream, first, end, .. } = self.stream(name)?;
        let from = row(stream, reading.from.clamp(first, end));
        let looks = signed(limits::STORE_LOOKS as u64 + 1);
        let Self { connection, topics, .. } = self;
        let mut page = Pages {
            reading,
            topics,
            connection,
            found: Vec::new(),
            bytes: Vec::new(),
            weight: 0,
            last: None,
        };
        let next = if last_per_topic {
            // A cross join is made in this order: topics by their last messages, of which a page is few.
            let mut find = connection.prepare_cached(
                "SELECT m.id, m.topic, m.time, m.expires, m.fields, m.payload
                 FROM topics t CROSS JOIN messages m ON m.id = t.last
                 WHERE t.last >= ?1 AND t.last < ?2 ORDER BY t.last LIMIT ?3",
            )?;
            page.fill(&mut find, params![from, row(stream, end), looks])?
        } else {
            let mut find = connection.prepare_cached(
                "SELECT id, topic, time, expires, fields, payload FROM messages
                 WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3",
            )?;
            let next = page.fill(&mut find, params![from, row(stream, end), looks])?;
            match next {
                Some(next) if !page.is_full() => page.fill_by_topics(stream, next)?,
                next => next,
            }
        };
        let messages = page.into_messages();
        Ok(Page { messages, next: next.unwrap_or(end), first, end })
    }

    fn find(&mut self, name: &Name, start: &Start) -> Result<u64, Trouble> {
        let stream @ Extent { first, end, .. } = self.stream(name)?;
        Ok(match start {
            Start::New => end,
            Start::All => first,
            Start::From(sequence) => (*sequence).clamp(1, end.max(1)),
            Start::Since(time) => self.first_since(stream, *time)?,
            // That is looked for in steps.
            Start::Last(..) => end,
        })
    }

    /// The first message of that time or later.
    fn first_since(&self, stream: Extent, time: u64) -> Result<u64, Trouble> {
        let Extent { id, first, end, .. } = stream;
        let next = |from, to| retention::next(&self.connection, id, from, to);
        let found = first_that((first, end), |at| at >= time, next)?;
        Ok(found.map_or(end, |(sequence, _)| sequence))
    }
}

/// A page that is being read. Its bytes lie in one buffer.
struct Pages<'a> {
    reading: &'a Reading,
    topics: &'a mut HashMap<i64, TopicPattern>,
    connection: &'a Connection,
    found: Vec<Found>,
    bytes: Vec<u8>,
    weight: u64,
    /// The topic of the message before, by its id, if it belongs to the page: messages of one topic often follow each other.
    last: Option<(i64, Option<TopicPattern>)>,
}

impl Pages<'_> {
    /// Takes messages until the page is full. Returns the sequence to go on from, if there is more.
    fn fill(
        &mut self,
        find: &mut Statement<'_>,
        parameters: impl rusqlite::Params,
    ) -> Result<Option<u64>, Trouble> {
        let blob = |_| Trouble::Damaged("a message has something else than bytes");
        let mut rows = find.query(parameters)?;
        let mut looked_at = 0;
        while let Some(row) = rows.next()? {
            let sequence = sequence(row.get(0)?);
            if self.is_full() || looked_at >= limits::STORE_LOOKS {
                return Ok(Some(sequence));
            }
            looked_at += 1;
            let expires: Option<u64> = row.get::<_, Option<i64>>(3)?.map(unsigned);
            if expires.is_some_and(|expires| expires <= self.reading.now) {
                continue;
            }
            let Some(topic) = self.topic(row.get(1)?)? else { continue };
            let fields = self.keep(row.get_ref(4)?.as_blob().map_err(blob)?);
            let payload = self.keep(row.get_ref(5)?.as_blob().map_err(blob)?);
            self.weight += weight(topic.as_str().len(), fields.len() + payload.len());
            let time = unsigned(row.get(2)?);
            self.found.push(Found { sequence, topic, time, expires, fields, payload });
        }
        Ok(None)
    }

    /// The topic of this id, if it belongs to the page.
    fn topic(&mut self, id: i64) -> Result<Option<TopicPattern>, Trouble> {
        if let Some((last, topic)) = &self.last
            && *last == id
        {
            return Ok(topic.clone());
        }
        let topic = topic(self.topics, self.connection, id)?;
        let topic = self.reading.takes(topic).then(|| topic.clone());
        self.last = Some((id, topic.clone()));
        Ok(topic)
    }

    fn is_full(&self) -> bool {
        self.found.len() >= self.reading.messages || self.weight >= self.reading.bytes
    }

    /// Goes on where many messages have been looked at for few: if the topics are few, the index has the others.
    fn fill_by_topics(&mut self, stream: i64, next: u64) -> Result<Option<u64>, Trouble> {
        let Some(pattern) = &self.reading.pattern else { return Ok(Some(next)) };
        let Some(topics) = rare::topics(self.connection, stream, pattern)? else { return Ok(Some(next)) };
        // One more than there is room for, to go on from.
        let count = (self.reading.messages - self.found.len()).min(limits::STORE_LOOKS - 1) + 1;
        let rows = rare::next(self.connection, &topics, row(stream, next), count)?;
        let has_all = rows.len() < count;
        let mut find = self
            .connection
            .prepare_cached("SELECT id, topic, time, expires, fields, payload FROM messages WHERE id = ?1")?;
        for (index, row) in rows.iter().enumerate() {
            if !has_all && index + 1 == count {
                return Ok(Some(sequence(*row)));
            }
            if let Some(next) = self.fill(&mut find, [row])? {
                return Ok(Some(next));
            }
        }
        Ok(None)
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        begin..self.bytes.len()
    }

    fn into_messages(self) -> Vec<Message> {
        let bytes = Bytes::from(self.bytes);
        let messages = self.found.into_iter().map(|found| Message {
            sequence: found.sequence,
            topic: found.topic,
            fields: bytes.slice(found.fields),
            payload: bytes.slice(found.payload),
            time: found.time,
            expires: found.expires,
        });
        messages.collect()
    }
}

/// The topic of this id.
pub(super) fn topic<'a>(
    topics: &'a mut HashMap<i64, TopicPattern>,
    connection: &Connection,
    id: i64,
) -> Result<&'a TopicPattern, Trouble> {
    if !topics.contains_key(&id) {
        if topics.len() >= REMEMBERED {
            topics.clear();
        }
        let mut find = connection.prepare_cached("SELECT topic FROM topics WHERE id = ?1")?;
        let text: String = find.query_row([id], |row| row.get(0))?;
        let topic =
            TopicPattern::new(text).map_err(|_| Trouble::Damaged("a message has a topic that is none"))?;
        topics.insert(id, topic);
    }
    topics.get(&id).ok_or(Trouble::Damaged("a message has no topic"))
}
