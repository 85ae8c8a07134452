//! A store against memory: whatever is done to both, both say the same.

use proptest::prelude::*;

use super::*;

/// One thing that is done to a store.
#[derive(Debug, Clone)]
pub enum Step {
    Open(Retention, u64),
    Commit(Vec<Change>),
    Reopen,
    Remove,
}

fn topic() -> impl Strategy<Value = TopicPattern> {
    prop::sample::select(vec!["a", "b", "a/x", "b/x", "*", "*/x", "**"]).prop_map(pattern)
}

fn bound(most: u64) -> impl Strategy<Value = Option<u64>> {
    prop::option::weighted(0.3, 0..most)
}

fn retention() -> impl Strategy<Value = Retention> {
    (bound(40), bound(20), bound(2_000), bound(5), bound(600)).prop_map(
        |(age, messages, bytes, topic_messages, topic_bytes)| {
            let mut retention = Retention::new();
            retention.age = age.map(Duration::from_secs);
            (retention.messages, retention.bytes) = (messages, bytes);
            (retention.topic_messages, retention.topic_bytes) = (topic_messages, topic_bytes);
            retention
        },
    )
}

fn consumer() -> impl Strategy<Value = Name> {
    prop::sample::select(vec!["one", "two"]).prop_map(name)
}

/// Mostly within a minute, and at times of a clock that is far ahead.
fn time() -> impl Strategy<Value = u64> {
    prop_oneof![9 => 0..60_000_u64, 1 => 0..300_000_u64]
}

fn new_message() -> impl Strategy<Value = NewMessage> {
    let parts = (topic(), "[a-z]{0,40}", time(), bound(80_000), prop::option::of(0..12_u64));
    parts.prop_map(|(topic, payload, time, expires, number)| {
        let id = number.map(|number| MessageId { publisher: [3; 16], number });
        let fields = payload.get(..payload.len() / 3).unwrap_or_default().to_owned().into();
        NewMessage { topic, fields, payload: payload.into(), time, expires, id }
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        12 => new_message().prop_map(Change::Append),
        2 => (consumer(), prop::option::of(topic()), 0..40_u64, "[a-b]?").prop_map(|(name, pattern, from, owner)| {
            Change::Consumer { name, pattern, from, owner: owner.into() }
        }),
        1 => consumer().prop_map(Change::RemoveConsumer),
        1 => consumer().prop_map(Change::FreeConsumer),
        3 => (consumer(), 0..40_u64, prop::collection::vec(0..50_u64, 0..5))
            .prop_map(|(consumer, floor, sequences)| Change::Done { consumer, floor, sequences }),
        2 => (consumer(), 0..50_u64, 0..9_u32)
            .prop_map(|(consumer, sequence, attempts)| Change::Attempted { consumer, sequence, attempts }),
        1 => (consumer(), 0..50_u64).prop_map(|(consumer, before)| Change::Handed { consumer, before }),
        1 => prop::collection::vec(0..60_u64, 0..5).prop_map(|sequences| Change::Drop { sequences }),
        1 => (0..60_u64, new_message()).prop_map(|(sequence, message)| Change::Move {
            sequence,
            stream: name("s"),
            message,
        }),
        1 => prop_oneof![0..90_000_u64, 0..300_000_u64].prop_map(|now| Change::Expire { now }),
        1 => (0..60_u64).prop_map(|before| Change::Purge { before }),
        4 => (new_message(), 0..60_000_u64, "[a-b]?").prop_map(|(message, due, owner)| Change::Delay {
            message,
            due,
            author: "somebody".into(),
            owner: owner.into(),
        }),
        3 => (0..20_u64, time()).prop_map(|(id, time)| Change::Release { id, time }),
        1 => (0..20_u64).prop_map(|id| Change::DropDelayed { id }),
        2 => (0..12_u64).prop_map(|number| Change::Recall { id: MessageId { publisher: [3; 16], number } }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (retention(), 0..30_u64).prop_map(|(retention, known_for)| Step::Open(retention, known_for)),
        20 => prop::collection::vec(change(), 1..6).prop_map(Step::Commit),
        2 => Just(Step::Reopen),
        1 => Just(Step::Remove),
    ]
}

/// All that can be asked of a store, without what it draws at random.
async fn all_of(store: &dyn Store, now: u64) -> String {
    let mut said = Vec::new();
    for mut state in store.streams().await.unwrap() {
        state.epoch = [0; 16];
        said.push(format!("{state:?}"));
    }
    let mut starts = vec![Start::New, Start::All];
    starts.extend([1, 7, 30].into_iter().flat_map(|number| {
        let some = Some(pattern("a/**"));
        [
            Start::From(number),
            Start::Since(number * 1_000),
            Start::Last(number, None),
            Start::Last(number, some),
        ]
    }));
    for start in starts {
        said.push(format!("{start:?}: {:?}", store.find(name("s"), start.clone()).await));
    }
    for reading in
        [Reading::from(0, 0), Reading::from(3, now).at_most(2), Reading::from(0, now).of(pattern("a/*"))]
    {
        if store.consumers(name("s")).await.is_ok() {
            for by_topic in [false, true] {
                said.push(format!("{:?}", read_all(store, "s", reading.clone(), by_topic).await));
            }
        }
    }
    for (until, most) in [(u64::MAX, 100), (now, 3)] {
        said.push(format!("{:?}", store.delayed(name("s"), until, most).await));
    }
    said.push(format!("{:?}", store.consumers(name("s")).await));
    for consumer in ["one", "two"] {
        said.push(format!("{:?}", store.consumer(name("s"), name(consumer)).await));
    }
    said.join("\n")
}

/// What is done to a store.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..40)
}

/// Does the same to a store and to one in memory, and asks both all that there is. `open` opens the store, also after it was closed.
pub async fn says_what_memory_says<S: Store>(steps: Vec<Step>, open: impl AsyncFn() -> S) {
    let mut store = open().await;
    let memory = MemoryStore::new();
    for step in steps {
        match step {
            Step::Open(retention, known_for) => {
                let known_for = Duration::from_secs(known_for);
                let settings = settings("s", &["**"]).retention(retention).known_for(known_for);
                let opened = (store.open(settings.clone()).await, memory.open(settings).await);
                assert_eq!(opened.0.unwrap().end, opened.1.unwrap().end);
            }
            Step::Commit(changes) => {
                let told = store.commit(name("s"), changes.clone()).await;
                assert_eq!(told, memory.commit(name("s"), changes.clone()).await, "{changes:?}");
            }
            Step::Reopen => {
                store.close().await.unwrap();
                drop(store);
                store = open().await;
            }
            Step::Remove => assert_eq!(store.remove(name("s")).await, memory.remove(name("s")).await),
        }
        assert_eq!(all_of(&store, 30_000).await, all_of(&memory, 30_000).await);
    }
    store.close().await.unwrap();
}
