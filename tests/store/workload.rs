//! What is done to stores at random, and what they have to say of it.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use whispeer::TopicPattern;
use whispeer::store::{
    Change, ConsumerState, Delayed, MemoryStore, Message, MessageId, Name, NewMessage, Outcome, Reading,
    Retention, Store, StoreError, StreamSettings, StreamState, weight,
};

/// Numbers from a seed (xorshift).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end.max(1)
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }
}

/// A number that somebody may set by a variable.
pub(crate) fn number_from(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |number| number.parse().unwrap())
}

pub(crate) fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

pub(crate) fn pattern(text: &str) -> TopicPattern {
    TopicPattern::new(text).unwrap()
}

pub(crate) fn settings(stream: &str, patterns: &[&str]) -> StreamSettings {
    StreamSettings::new(name(stream), patterns.iter().map(|text| pattern(text)).collect())
}

/// A message whose bytes are all told by its number.
pub(crate) fn message(topic: &str, number: u64, length: usize) -> NewMessage {
    let payload: Vec<u8> = number.to_le_bytes().into_iter().cycle().take(length.max(8)).collect();
    NewMessage {
        topic: pattern(topic),
        fields: "".into(),
        payload: payload.into(),
        time: number,
        expires: None,
        id: None,
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Call {
    Open(StreamSettings),
    Remove(Name),
    Commit(Name, Vec<Change>),
}

impl Call {
    /// Calls the store at once; it may be waited for later.
    pub(crate) fn on(
        self,
        store: &dyn Store,
    ) -> impl Future<Output = Result<Vec<Outcome>, StoreError>> + Send + use<> {
        let (opened, removed, committed) = match self {
            Self::Open(settings) => (Some(store.open(settings)), None, None),
            Self::Remove(stream) => (None, Some(store.remove(stream)), None),
            Self::Commit(stream, changes) => (None, None, Some(store.commit(stream, changes))),
        };
        async move {
            if let Some(opened) = opened {
                opened.await?;
            }
            if let Some(removed) = removed {
                removed.await?;
            }
            match committed {
                Some(committed) => committed.await,
                None => Ok(Vec::new()),
            }
        }
    }
}

/// Calls that follow from a seed. Each commit appends a message that no other has, so that a state tells which commits
/// it has seen.
pub(crate) struct Workload {
    pub(crate) random: Random,
    count: u64,
    time: u64,
}

impl Workload {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), count: 0, time: 1_000 }
    }

    /// What comes first in a new file.
    pub(crate) fn openings() -> Vec<Call> {
        // Small, so that retention has much to do and pages come free.
        let bounded = Retention::new().bytes(400_000).topic_messages(30).age(Duration::from_secs(40));
        vec![
            Call::Open(settings("a", &["a/**"]).retention(bounded).known_for(Duration::from_secs(5))),
            Call::Open(settings("b", &["b/**", "c"]).retention(Retention::new().bytes(700_000))),
        ]
    }

    pub(crate) fn call(&mut self) -> Call {
        match self.random.below(200) {
            0 => return Call::Remove(name("a")),
            1..=2 => return Self::openings().remove(0),
            _ => {}
        }
        let stream = if self.random.below(3) == 0 { "b" } else { "a" };
        let mut changes: Vec<_> = (0..self.random.below(4)).map(|_| self.change(stream)).collect();
        let at = self.random.below(changes.len() as u64 + 1) as usize;
        changes.insert(at, Change::Append(self.message(stream)));
        Call::Commit(name(stream), changes)
    }

    fn message(&mut self, stream: &str) -> NewMessage {
        self.count += 1;
        self.time += self.random.below(300);
        let length = match self.random.below(10) {
            0 => self.random.below(20_000),
            1..=3 => self.random.below(3_000),
            _ => self.random.below(100),
        };
        let topics: &[&str] = match stream {
            "a" => &["a/1", "a/2", "a/3", "a/*", "a/x/y"],
            _ => &["b/1", "b/2", "c"],
        };
        let mut message = message(self.random.one_of(topics), self.count, length as usize);
        message.time = self.time;
        message.expires = (self.random.below(5) == 0).then(|| self.time + self.random.below(20_000));
        message
    }

    fn change(&mut self, stream: &str) -> Change {
        let end = self.count + 1;
        let near = |random: &mut Random| end.saturating_sub(random.below(60));
        let consumer = name(self.random.one_of(&["one", "two", "three"]));
        match self.random.below(18) {
            0..=3 => {
                let mut message = self.message(stream);
                let number = self.random.below(8);
                message.id = Some(MessageId { publisher: [7; 16], number });
                Change::Append(message)
            }
            4..=5 => {
                let from = near(&mut self.random);
                Change::Consumer { name: consumer, pattern: Some(pattern("**")), from, owner: Bytes::new() }
            }
            6..=7 => {
                let floor = near(&mut self.random) / 2;
                let sequences = (0..self.random.below(5)).map(|_| near(&mut self.random)).collect();
                Change::Done { consumer, floor, sequences }
            }
            8 => {
                let attempts = self.random.below(5) as u32;
                Change::Attempted { consumer, sequence: near(&mut self.random), attempts }
            }
            9 => Change::RemoveConsumer(consumer),
            10 => Change::Expire { now: self.time },
            11..=12 => {
                let due = self.time + self.random.below(20_000);
                let owner = ["", "alice", "bob"][self.random.below(3) as usize].into();
                Change::Delay { message: self.message(stream), due, author: "somebody".into(), owner }
            }
            13 => Change::Release { id: self.random.below(self.count) / 8, time: self.time },
            14 => Change::DropDelayed { id: self.random.below(self.count) / 8 },
            15..=16 => {
                let sequence = near(&mut self.random);
                let to = self.random.one_of(&["a", "b"]);
                Change::Move { sequence, stream: name(to), message: self.message(to) }
            }
            _ => Change::Purge { before: near(&mut self.random) / 2 },
        }
    }
}

/// All that a store says of a stream.
#[derive(Debug, PartialEq)]
pub(crate) struct Said {
    state: StreamState,
    messages: Vec<Message>,
    last: Vec<Message>,
    consumers: Vec<ConsumerState>,
    delayed: Vec<Delayed>,
}

/// Its streams, without what is drawn at random.
pub(crate) async fn states_of(store: &dyn Store) -> Vec<StreamState> {
    let states = store.streams().await.unwrap();
    states
        .into_iter()
        .map(|mut state| {
            state.epoch = [0; 16];
            state
        })
        .collect()
}

pub(crate) async fn all_of(store: &dyn Store) -> Vec<Said> {
    let mut said = Vec::new();
    for state in states_of(store).await {
        let stream = state.settings.name.clone();
        let messages = read_all(store, &stream, false).await;
        let last = read_all(store, &stream, true).await;
        let mut consumers = Vec::new();
        for listed in store.consumers(stream.clone()).await.unwrap() {
            let consumer = store.consumer(stream.clone(), listed.name.clone()).await.unwrap();
            assert_eq!(consumer.position(), listed);
            consumers.push(consumer);
        }
        let delayed = store.delayed(stream, u64::MAX, 100).await.unwrap();
        said.push(Said { state, messages, last, consumers, delayed });
    }
    said
}

pub(crate) async fn read_all(store: &dyn Store, stream: &Name, by_topic: bool) -> Vec<Message> {
    let (mut all, mut reading) = (Vec::new(), Reading::from(0, 0));
    loop {
        let page = match by_topic {
            true => store.last_per_topic(stream.clone(), reading.clone()).await.unwrap(),
            false => store.read(stream.clone(), reading.clone()).await.unwrap(),
        };
        let next = page.has_more().then_some(page.next);
        all.extend(page.messages);
        match next {
            Some(next) => reading.from = next,
            None => return all,
        }
    }
}

/// Whether the file says what the model says after `done` calls, or more. Brings the model there.
pub(crate) async fn is_a_state_of(
    model: &MemoryStore,
    file: &dyn Store,
    calls: &[Call],
    done: usize,
) -> Option<usize> {
    let (states, said) = (states_of(file).await, all_of(file).await);
    for call in &calls[..done] {
        let _ = call.clone().on(model).await;
    }
    for count in done..=calls.len() {
        if states_of(model).await == states && all_of(model).await == said {
            return Some(count);
        }
        if let Some(call) = calls.get(count) {
            let _ = call.clone().on(model).await;
        }
    }
    None
}

/// Looks at the file itself, which nobody has open: that it is whole, and counts what it says it has.
pub(crate) fn examine(path: &Path) {
    let connection = Connection::open(path).unwrap();
    let whole: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    let weigh = |context: &Context<'_>| {
        let [topic, content] = [context.get::<u32>(0)?, context.get(1)?].map(|length| length as usize);
        Ok(weight(topic, content).cast_signed())
    };
    connection.create_scalar_function("weight", 2, FunctionFlags::SQLITE_DETERMINISTIC, weigh).unwrap();
    let none = |what: &str, sql: &str| {
        let count: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(count, 0, "{what}");
    };
    none(
        "topics that do not count what they have",
        "SELECT count(*) FROM topics t LEFT JOIN
         (SELECT m.topic, count(*) AS messages, max(m.id) AS last,
                 sum(weight(length(CAST(t.topic AS BLOB)), length(m.fields) + length(m.payload))) AS bytes
          FROM messages m JOIN topics t ON t.id = m.topic GROUP BY m.topic) m ON m.topic = t.id
         WHERE t.messages IS NOT m.messages OR t.bytes IS NOT m.bytes OR t.last IS NOT m.last",
    );
    none(
        "streams that do not count what their topics count",
        "SELECT count(*) FROM streams s WHERE s.messages IS NOT
         (SELECT coalesce(sum(messages), 0) FROM topics t WHERE t.stream = s.id) OR s.bytes IS NOT
         (SELECT coalesce(sum(bytes), 0) FROM topics t WHERE t.stream = s.id)",
    );
    none(
        "streams that do not count the ids that they know",
        "SELECT count(*) FROM streams s WHERE s.ids IS NOT
         (SELECT count(*) FROM message_ids i WHERE i.stream = s.id)",
    );
    none(
        "streams that do not count what is not due",
        "SELECT count(*) FROM streams s WHERE s.delayed IS NOT
         (SELECT count(*) FROM delayed d WHERE d.stream = s.id) OR s.delayed_bytes IS NOT
         (SELECT coalesce(sum(weight(length(CAST(topic AS BLOB)), length(fields) + length(payload))
           + length(author) + length(owner)), 0)
          FROM delayed d WHERE d.stream = s.id)",
    );
    none(
        "delayed messages of no stream",
        "SELECT count(*) FROM delayed WHERE stream NOT IN
         (SELECT id FROM streams UNION ALL SELECT stream FROM removed)",
    );
    none("messages of no topic", "SELECT count(*) FROM messages WHERE topic NOT IN (SELECT id FROM topics)");
    none(
        "topics of no stream",
        "SELECT count(*) FROM topics WHERE stream NOT IN
         (SELECT id FROM streams UNION ALL SELECT stream FROM removed)",
    );
    none(
        "progress of no consumer",
        "SELECT count(*) FROM progress WHERE consumer NOT IN (SELECT id FROM consumers)",
    );
}
