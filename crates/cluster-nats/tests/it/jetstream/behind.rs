//! Servers that know less of the journal than was read of it, or say nothing, as one that is cut off does, or has just been elected.

use std::time::Duration;

use async_nats::jetstream;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use whispeer::store::{Change, Reading, Store, StoreError};
use whispeer_cluster_nats::jetstream::{JetStreamOptions, JetStreamStore};
use whispeer_testkit::nats::{self, NatsBuilder, NatsServer};
use whispeer_testkit::store_contract::{append, message, name, payloads, read_all, settings};

use super::{opened, opened_with};

const LONG: Duration = Duration::from_secs(30);

/// How a server asks JetStream itself, where clients are answered by somebody else.
const DOMAIN: &str = "itself";

/// What clients ask of the journal.
const QUESTIONS: [&str; 4] = [
    "STREAM.INFO.whispeer-streams",
    "STREAM.MSG.GET.whispeer-streams",
    "DIRECT.GET.whispeer-streams",
    "CONSUMER.CREATE.whispeer-streams",
];

/// What is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Behind {
    Nothing,
    /// What servers say of the journal, where they say anything.
    Answers,
    /// Those that push entries, which have none.
    Consumers,
}

/// Answers in place of JetStream what is asked of the journal.
struct Answering {
    server: NatsServer,
    behind: watch::Sender<Behind>,
    /// How often something was asked that was behind.
    asked: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Answering {
    /// A server that passes all on to JetStream, until something of it is to be behind.
    async fn start(version: NatsBuilder) -> Self {
        let mappings = QUESTIONS.map(|question| format!("\"$JS.API.{question}\": \"asked.{question}\""));
        let account = format!(
            "no_auth_user: a\naccounts {{ A {{ jetstream: enabled, users: [{{ user: a, password: a }}], mappings: {{ {} }} }} }}",
            mappings.join(", ")
        );
        let server = version.jetstream_in(DOMAIN).config(account).start().await;
        let client = async_nats::connect(server.url()).await.unwrap();
        let questions = client.subscribe("asked.>").await.unwrap();
        client.flush().await.unwrap();
        let (behind, is_behind) = watch::channel(Behind::Nothing);
        let (counts, asked) = watch::channel(0);
        let task = tokio::spawn(answer(client, questions, is_behind, counts));
        Self { server, behind, asked, task }
    }

    fn is_behind_with(&self, what: Behind) {
        self.behind.send_replace(what);
    }

    /// Waits until it was asked several times more.
    async fn asked_again(&mut self, times: usize) {
        let before = *self.asked.borrow();
        let again = self.asked.wait_for(|asked| *asked >= before + times);
        timeout(LONG, again).await.expect("it is asked again").unwrap();
    }
}

async fn answer(
    client: async_nats::Client,
    mut questions: async_nats::Subscriber,
    behind: watch::Receiver<Behind>,
    counts: watch::Sender<usize>,
) {
    while let Some(question) = questions.next().await {
        let (what, reply) = (question.subject.strip_prefix("asked.").unwrap(), question.reply.unwrap());
        let (subject, mut payload) = (format!("$JS.{DOMAIN}.API.{what}"), question.payload);
        let behind = *behind.borrow();
        let error = json!({ "code": 404, "err_code": 10_037, "description": "no message found" });
        let answer = match what.split('.').collect::<Vec<_>>()[..] {
            ["STREAM", "INFO", ..] if behind == Behind::Answers => {
                let told = client.request(subject.clone(), payload.clone()).await.unwrap();
                let mut told: Value = serde_json::from_slice(&told.payload).unwrap();
                told["state"]["last_seq"] = json!(1);
                Some(told)
            }
            ["STREAM", "MSG", ..] if behind == Behind::Answers => {
                Some(json!({ "type": "io.nats.jetstream.api.v1.stream_msg_get_response", "error": error }))
            }
            // One that is cut off says nothing.
            ["DIRECT", ..] if behind == Behind::Answers => None,
            ["CONSUMER", ..] if behind == Behind::Consumers => {
                let mut asked: Value = serde_json::from_slice(&payload).unwrap();
                asked["config"]["opt_start_seq"] = json!(1_000_000_000);
                payload = asked.to_string().into();
                client.publish_with_reply(subject, reply, payload).await.unwrap();
                counts.send_modify(|count| *count += 1);
                continue;
            }
            _ => {
                client.publish_with_reply(subject, reply, payload).await.unwrap();
                continue;
            }
        };
        if let Some(answer) = answer {
            client.publish(reply, answer.to_string().into()).await.unwrap();
        }
        counts.send_modify(|count| *count += 1);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A store that reads the journal again when it is told to.
async fn store(server: &NatsServer, doubt: Duration) -> (async_nats::Client, JetStreamStore) {
    let client = async_nats::connect(server.url()).await.unwrap();
    let options = JetStreamOptions::new("whispeer").unwrap().doubt(doubt);
    let store = JetStreamStore::new(client.clone(), options).unwrap();
    store.open(settings("s", &["**"])).await.unwrap();
    (client, store)
}

/// Appends "1", "2" and "3", which are the first messages of the stream.
async fn append_three(store: &JetStreamStore) {
    for number in 1..=3 {
        assert_eq!(append(store, "s", message("a", &number.to_string(), number)).await, number);
    }
}

#[tokio::test]
async fn a_server_that_tells_of_an_earlier_end_is_asked_again() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let mut answering = Answering::start(version).await;
        let (client, store) = store(&answering.server, LONG).await;
        append_three(&store).await;
        answering.is_behind_with(Behind::Answers);
        client.force_reconnect().await.unwrap();
        answering.asked_again(4).await;
        answering.is_behind_with(Behind::Nothing);
        assert_eq!(append(&store, "s", message("a", "x", 4)).await, 4);
    }
}

#[tokio::test]
async fn what_all_servers_have_lost_is_told_when_they_had_the_time_to_catch_up() {
    if !nats::available() {
        return;
    }
    let answering = Answering::start(NatsBuilder::newest()).await;
    let (client, store) = store(&answering.server, Duration::from_millis(200)).await;
    append(&store, "s", message("a", "x", 1)).await;
    answering.is_behind_with(Behind::Answers);
    client.force_reconnect().await.unwrap();
    let failed = async {
        loop {
            match store.commit(name("s"), vec![Change::Append(message("a", "x", 2))]).await {
                Ok(_) | Err(StoreError::Busy { .. }) => {}
                Err(error) => return error,
            }
        }
    };
    let told = timeout(LONG, failed).await.unwrap().to_string();
    assert!(told.contains("it ends before what was read of it"), "{told}");
}

/// Does this again where the store is busy.
async fn soon_done(mut call: impl AsyncFnMut() -> Result<(), StoreError>) {
    let done = async {
        while let Err(error) = call().await {
            assert!(matches!(error, StoreError::Busy { .. }), "{error}");
        }
    };
    timeout(LONG, done).await.expect("it is done");
}

#[tokio::test]
async fn what_is_stored_and_not_read_back_does_not_fill_the_journal() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let mut answering = Answering::start(version).await;
        let client = async_nats::connect(answering.server.url()).await.unwrap();
        let options = JetStreamOptions::new("whispeer").unwrap().answer(Duration::from_millis(400));
        let store = JetStreamStore::new(client.clone(), options).unwrap();
        soon_done(async || store.open(settings("s", &["**"])).await.map(drop)).await;
        let stored =
            async || store.commit(name("s"), vec![Change::Append(message("a", "x", 1))]).await.map(drop);
        soon_done(stored).await;
        answering.is_behind_with(Behind::Answers);
        client.force_reconnect().await.unwrap();
        answering.asked_again(4).await;
        for _ in 0..4 {
            let refused = store.commit(name("s"), vec![Change::Append(message("a", "y", 2))]).await;
            assert!(matches!(refused, Err(StoreError::Busy { .. })), "{refused:?}");
        }
        let itself = jetstream::with_domain(client, DOMAIN);
        let entries = itself.get_stream("whispeer-streams").await.unwrap().cached_info().state.last_sequence;
        assert!(entries < 20, "{entries} entries for six calls");
        answering.is_behind_with(Behind::Nothing);
        soon_done(stored).await;
    }
}

#[tokio::test]
async fn a_message_that_a_server_does_not_have_yet_is_waited_for_and_not_passed_over() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let mut answering = Answering::start(version).await;
        let (_client, writing) = store(&answering.server, LONG).await;
        append_three(&writing).await;
        // It has none of them from itself.
        let (_client, reading) = store(&answering.server, LONG).await;
        answering.is_behind_with(Behind::Answers);
        let other = reading.clone();
        let read = tokio::spawn(async move { other.read(name("s"), Reading::from(0, 0)).await });
        answering.asked_again(4).await;
        assert!(!read.is_finished(), "it waits for the first");
        answering.is_behind_with(Behind::Nothing);
        let page = timeout(LONG, read).await.unwrap().unwrap().unwrap();
        assert_eq!(
            (payloads(&page.messages), page.next),
            (vec!["1".to_owned()], 2),
            "the others were not there"
        );
        assert_eq!(payloads(&read_all(&reading, "s", Reading::from(0, 0), false).await), ["1", "2", "3"]);
    }
}

#[tokio::test]
async fn a_message_that_is_gone_without_a_word_is_an_error_and_no_hole() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::builder().jetstream().start().await;
    let writing = opened(&server).await;
    writing.open(settings("s", &["**"])).await.unwrap();
    append_three(&writing).await;
    let options = JetStreamOptions::new("whispeer").unwrap().doubt(Duration::from_millis(100));
    let reading = opened_with(&server, options).await;
    reading.open(settings("s", &["**"])).await.unwrap();
    let jetstream = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let journal = jetstream.get_stream("whispeer-streams").await.unwrap();
    // Behind the messages the other has opened the stream once more.
    let second = journal.cached_info().state.last_sequence - 2;
    assert!(journal.delete_message(second).await.unwrap());

    let before = reading.read(name("s"), Reading::from(0, 0)).await.unwrap();
    assert_eq!((payloads(&before.messages), before.next), (vec!["1".to_owned()], 2));
    let refused = timeout(LONG, reading.read(name("s"), Reading::from(2, 0))).await.unwrap();
    let Err(StoreError::Corrupt { place, reason }) = refused else { panic!("{refused:?}") };
    assert!(place.contains(&format!("entry {second} of the journal")), "{place}");
    assert!(reason.contains("nothing in the journal says that its message was dropped"), "{reason}");
    assert!(reason.contains("message 2 of the stream \"s\""), "{reason}");
    // Who knows that goes on behind it.
    let behind = reading.read(name("s"), Reading::from(3, 0)).await.unwrap();
    assert_eq!(payloads(&behind.messages), ["3"]);
}

#[tokio::test]
async fn a_delayed_message_that_is_gone_does_not_hold_up_the_others() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::builder().jetstream().start().await;
    let writing = opened(&server).await;
    writing.open(settings("s", &["**"])).await.unwrap();
    for number in 1..=3 {
        let message = message("a", &number.to_string(), number);
        let (author, owner) = ("".into(), "".into());
        let delay = Change::Delay { due: number, author, owner, message };
        writing.commit(name("s"), vec![delay]).await.unwrap();
    }
    let options = JetStreamOptions::new("whispeer").unwrap().doubt(Duration::from_millis(100));
    let other = opened_with(&server, options).await;
    other.open(settings("s", &["**"])).await.unwrap();
    let jetstream = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let journal = jetstream.get_stream("whispeer-streams").await.unwrap();
    // Each has an entry that says when it is due behind it.
    let second = journal.cached_info().state.last_sequence - 4;
    assert!(journal.delete_message(second).await.unwrap());
    let mut due = Vec::new();
    soon_done(async || other.delayed(name("s"), 10, 10).await.map(|found| due = found)).await;
    let due: Vec<_> = due.iter().map(|one| &one.message.payload[..]).collect();
    assert_eq!(due, [b"1", b"3"]);
}

#[tokio::test]
async fn the_journal_is_followed_again_where_what_pushed_it_is_gone() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.jetstream().start().await;
        let (one, other) = (opened(&server).await, opened(&server).await);
        one.open(settings("s", &["**"])).await.unwrap();
        other.open(settings("s", &["**"])).await.unwrap();
        let jetstream = jetstream::new(async_nats::connect(server.url()).await.unwrap());
        let journal = jetstream.get_stream("whispeer-streams").await.unwrap();
        let consumers: Vec<_> = journal.consumer_names().map(Result::unwrap).collect().await;
        assert!(consumers.len() >= 2, "each has one: {consumers:?}");
        for consumer in consumers {
            journal.delete_consumer(&consumer).await.unwrap();
        }
        append(&one, "s", message("a", "x", 1)).await;
        let mut appended = other.appended(&name("s")).unwrap();
        let grown = appended.wait_for(|end| *end > 1);
        timeout(LONG, grown).await.expect("who only reads hears of it, too").unwrap();
        assert_eq!(payloads(&read_all(&other, "s", Reading::from(0, 0), false).await), ["x"]);
    }
}

#[tokio::test]
async fn who_is_told_of_nothing_by_a_server_that_is_behind_has_another_one_tell() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let mut answering = Answering::start(version).await;
        let (_client, writing) = store(&answering.server, LONG).await;
        append_three(&writing).await;
        answering.is_behind_with(Behind::Consumers);
        let reading = opened(&answering.server).await;
        answering.asked_again(2).await;
        answering.is_behind_with(Behind::Nothing);
        let read = async {
            loop {
                match reading.read(name("s"), Reading::from(0, 0)).await {
                    Ok(page) => return payloads(&page.messages),
                    Err(error) => assert!(matches!(error, StoreError::Busy { .. }), "{error}"),
                }
            }
        };
        assert_eq!(timeout(LONG, read).await.unwrap(), ["1", "2", "3"]);
    }
}
