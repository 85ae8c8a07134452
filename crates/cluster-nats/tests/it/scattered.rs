//! Requests to many servers, wherever these are: each topic that meets the pattern is asked once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};
use whispeer::client::{ManyOptions, ServeOptions};
use whispeer::engine::Engines;
use whispeer::engine::encryption::{Encryption, Key, Keyring};
use whispeer::prelude::*;
use whispeer::topic::Topic;
use whispeer_testkit::nats::{self, NatsBuilder, NatsServer};

use crate::joined::{Joined, PREFIX, eventually, next_plain, settled, soon};

type Answers = Vec<BusResult<(Topic, Bytes)>>;

/// A server of one of several buses, and how often it was asked.
struct Sensor {
    asked: Arc<AtomicU64>,
    _answering: JoinSet<()>,
}

impl Sensor {
    /// Shares the topic with those at other buses, and answers with its own name.
    async fn new(client: &Client, topic: &str, name: &'static str) -> Self {
        let asked: Arc<AtomicU64> = Arc::default();
        let counted = Arc::clone(&asked);
        let group = ServeOptions::default().group("sensors");
        let mut serving = client.serve_bytes_with(topic, group).await.unwrap();
        let (client, mut answering) = (client.clone(), JoinSet::new());
        answering.spawn(async move {
            while let Some((_, id, _)) = serving.recv().await {
                counted.fetch_add(1, Ordering::Relaxed);
                // Who asked may have given up.
                let _ = client.respond_bytes(id, name.into()).await;
            }
        });
        Self { asked, _answering: answering }
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn ask(client: &Client, pattern: &str, options: ManyOptions) -> Answers {
    soon("the answers", client.request_many_bytes(pattern, "how warm?".into(), options)).await.unwrap()
}

/// What was answered, by topic.
fn answered(answers: &Answers) -> Vec<(String, String)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let answers = answers.iter().flatten().map(|(topic, answer)| (topic.to_string(), text(answer)));
    let mut answers: Vec<_> = answers.collect();
    answers.sort_unstable();
    answers
}

fn errors(answers: &Answers) -> Vec<&BusError> {
    answers.iter().filter_map(|answer| answer.as_ref().err()).collect()
}

/// Asks until so many have answered: what is served elsewhere is known at NATS a moment later.
async fn reaches(client: &Client, pattern: &str, servers: usize) {
    let asked = async {
        while answered(&ask(client, pattern, ManyOptions::default()).await).len() < servers {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("all servers", asked).await;
}

async fn several(server: &NatsServer, buses: usize) -> Vec<Joined> {
    let mut joined = Vec::new();
    for _ in 0..buses {
        joined.push(Joined::new(&server.url()).await);
    }
    for bus in &joined {
        eventually("the others", || bus.counter.members().list().len() == buses - 1).await;
    }
    joined
}

#[tokio::test(flavor = "multi_thread")]
async fn each_topic_that_is_served_at_any_bus_is_asked_once_and_at_its_own_first() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server = version.start().await;
        let buses = several(&server, 3).await;
        let [a, b, c] = [0, 1, 2].map(|bus| &buses[bus].client);
        let sensors = [
            Sensor::new(a, "sensor/1", "a").await,
            Sensor::new(b, "sensor/1", "b").await,
            Sensor::new(b, "sensor/2", "b").await,
            Sensor::new(c, "sensor/2", "c").await,
            Sensor::new(c, "sensor/3", "c").await,
            Sensor::new(c, "meter/1", "c").await,
        ];
        for client in [a, b, c] {
            reaches(client, "sensor/*", 3).await;
        }
        let counts = || sensors.each_ref().map(Sensor::asked);
        let before = counts();
        let answers = ask(a, "sensor/*", ManyOptions::default()).await;
        let topics: Vec<_> = answered(&answers).into_iter().map(|(topic, _)| topic).collect();
        assert_eq!(topics, ["sensor/1", "sensor/2", "sensor/3"]);
        assert!(answered(&answers).contains(&("sensor/1".into(), "a".into())), "{answers:?}");
        let now = counts();
        let more = [0, 1, 2, 3, 4, 5].map(|sensor| now[sensor] - before[sensor]);
        assert_eq!((more[0], more[1], more[2] + more[3], more[4], more[5]), (1, 0, 1, 1, 0));
        // As at one bus, a topic without wildcards is a pattern, and where nobody serves it nobody answers.
        assert_eq!(answered(&ask(a, "meter/1", ManyOptions::default()).await).len(), 1);
        assert!(ask(a, "meter/*/none", ManyOptions::default()).await.is_empty());
        assert_eq!(buses[0].counter.counts().unheard, 0);
    }
}

#[tokio::test]
async fn a_bus_that_is_alone_asks_nobody() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let mut questions = nats.subscribe(format!("{PREFIX}.serving")).await.unwrap();
    settled(&nats).await;
    let one = Joined::new(&server.url()).await;
    let _sensor = Sensor::new(&one.client, "sensor/1", "one").await;
    assert_eq!(answered(&ask(&one.client, "sensor/*", ManyOptions::default()).await).len(), 1);
    settled(&one.connection.client()).await;
    settled(&nats).await;
    assert!(timeout(Duration::ZERO, questions.next()).await.is_err(), "it has asked");
    // With the other one gone it is so again.
    let other = Joined::new(&server.url()).await;
    let _other = Sensor::new(&other.client, "sensor/2", "other").await;
    reaches(&one.client, "sensor/*", 2).await;
    other.stop().await;
    eventually("it is alone", || one.counter.members().list().is_empty()).await;
    let alone = async {
        loop {
            let asked = Instant::now();
            assert_eq!(answered(&ask(&one.client, "sensor/*", ManyOptions::default()).await).len(), 1);
            if asked.elapsed() < Duration::from_millis(500) {
                return;
            }
        }
    };
    soon("an answer at once", alone).await;
}

#[tokio::test]
async fn as_many_answers_as_are_wanted_end_it_and_others_are_cancelled_at_their_bus() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start().await;
    let buses = several(&server, 2).await;
    let (asker, asked) = (&buses[0].client, &buses[1].client);
    let _quick = Sensor::new(asked, "sensor/quick", "quick").await;
    let mut slow = asked.serve_bytes("sensor/slow").await.unwrap();
    let mut asking = JoinSet::new();
    let client = asker.clone();
    asking.spawn(async move {
        loop {
            let options = ManyOptions::default().count(1);
            let answers = ask(&client, "sensor/*", options).await;
            assert!(answers.len() <= 1);
        }
    });
    let (_, id, _) = soon("the request", slow.recv()).await.unwrap();
    soon("the cancellation", id.cancelled()).await;
    asking.shutdown().await;
    drop(id);
    eventually("nothing is left", || buses[0].bus.stats().requests_in_flight == 0).await;
}

#[tokio::test]
async fn what_has_come_of_other_buses_by_the_deadline_is_the_result() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start().await;
    let buses = several(&server, 2).await;
    let (asker, asked) = (&buses[0].client, &buses[1].client);
    let _quick = Sensor::new(asked, "sensor/quick", "quick").await;
    reaches(asker, "sensor/quick", 1).await;
    let mut slow = asked.serve_bytes("sensor/slow").await.unwrap();
    let (answers, id) = soon("a request that has reached both", async {
        loop {
            let options = ManyOptions::default().timeout(Duration::from_secs(1));
            let answers = ask(asker, "sensor/*", options).await;
            if let Ok(Some((_, id, _))) = timeout(Duration::ZERO, slow.recv()).await {
                return (answers, id);
            }
        }
    })
    .await;
    assert_eq!(answered(&answers), [("sensor/quick".to_owned(), "quick".to_owned())]);
    soon("the cancellation", id.cancelled()).await;
}

#[tokio::test]
async fn errors_of_servers_at_other_buses_stand_among_the_answers() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start().await;
    let buses = several(&server, 2).await;
    let (asker, asked) = (&buses[0].client, &buses[1].client);
    let _warm = Sensor::new(asked, "sensor/warm", "warm").await;
    let frozen = |_| async { Err(ErrorReply::new("frozen", "it is too cold")) };
    let _frozen = asked.handle_bytes("sensor/frozen", frozen).await.unwrap();
    reaches(asker, "sensor/warm", 1).await;
    let answers = soon("both", async {
        loop {
            let answers = ask(asker, "sensor/*", ManyOptions::default()).await;
            if !matches!(errors(&answers)[..], [BusError::NoServer { .. }]) && answers.len() == 2 {
                return answers;
            }
        }
    })
    .await;
    assert_eq!(answered(&answers), [("sensor/warm".to_owned(), "warm".to_owned())]);
    assert!(
        matches!(errors(&answers)[..], [BusError::Replied(reply)] if reply.code() == "frozen"),
        "{answers:?}"
    );
}

/// A program that is a bus as far as others see, and does what a test wants.
struct Pretender {
    nats: async_nats::Client,
    questions: Subscriber,
    /// Those to `sensor/9`.
    requests: Subscriber,
    beating: JoinSet<()>,
}

impl Pretender {
    const ID: &str = "00000000000000aa";

    async fn new(server: &NatsServer) -> Self {
        let nats = async_nats::connect(server.url()).await.unwrap();
        let questions = nats.subscribe(format!("{PREFIX}.serving")).await.unwrap();
        let requests = nats.queue_subscribe(format!("{PREFIX}.r.sensor.9"), "whispeer".into()).await.unwrap();
        settled(&nats).await;
        let (beats, mut beating) = (nats.clone(), JoinSet::new());
        beating.spawn(async move {
            let mut due = interval(Duration::from_millis(200));
            for number in 1_u64.. {
                due.tick().await;
                let beat = format!(
                    r#"{{"id":"{}","name":"pretender","epoch":1,"number":{number},"interval_ms":1000}}"#,
                    Self::ID
                );
                beats.publish(format!("{PREFIX}.bus.{}", Self::ID), beat.into()).await.unwrap();
            }
        });
        Self { nats, questions, requests, beating }
    }

    /// Answers the next question what it serves.
    async fn tell(&mut self, topics: &str) -> String {
        let question = next_plain(&mut self.questions).await;
        let told = format!(r#"{{"id":"{}","topics":{topics}}}"#, Self::ID);
        self.nats.publish(question.reply.unwrap(), told.into()).await.unwrap();
        String::from_utf8(question.payload.to_vec()).unwrap()
    }
}

#[tokio::test]
async fn a_bus_that_is_killed_in_the_middle_leaves_an_error_for_what_it_was_asked() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start().await;
    let one = Joined::new(&server.url()).await;
    let _here = Sensor::new(&one.client, "sensor/1", "here").await;
    let mut other = Pretender::new(&server).await;
    eventually("the other", || one.counter.members().list().len() == 1).await;
    let client = one.client.clone();
    let mut asking = JoinSet::new();
    asking.spawn(async move {
        loop {
            // Before it is known that there is another bus, nobody is asked there.
            let answers = ask(&client, "sensor/*", ManyOptions::default()).await;
            if answers.len() > 1 {
                return answers;
            }
        }
    });
    assert_eq!(other.tell(r#"["sensor/1","sensor/9"]"#).await, "sensor/*");
    let request = next_plain(&mut other.requests).await;
    assert_eq!(request.subject.as_str(), format!("{PREFIX}.r.sensor.9"));
    let headers = request.headers.unwrap();
    assert_eq!(headers.get("Whispeer-Topic").unwrap().as_str(), "sensor/*");
    let mut accepted = HeaderMap::new();
    accepted.insert("Whispeer-Origin", format!("{} 1", Pretender::ID));
    accepted.insert("Whispeer-Reply", "accepted");
    other.nats.publish_with_headers(request.reply.unwrap(), accepted, "".into()).await.unwrap();
    other.beating.shutdown().await;
    let answers = soon("the answers", asking.join_next()).await.unwrap().unwrap();
    assert_eq!(answered(&answers), [("sensor/1".to_owned(), "here".to_owned())]);
    assert!(
        matches!(errors(&answers)[..], [BusError::ServerGone { topic }] if topic == "sensor/9"),
        "{answers:?}"
    );
}

#[tokio::test]
async fn a_bus_that_does_not_say_in_time_what_it_serves_is_not_asked_and_counted() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start().await;
    let buses = several(&server, 2).await;
    let _far = Sensor::new(&buses[1].client, "sensor/2", "far").await;
    reaches(&buses[0].client, "sensor/*", 1).await;
    let _silent = Pretender::new(&server).await;
    eventually("the third", || buses[0].counter.members().list().len() == 2).await;
    let before = buses[0].counter.counts().unheard;
    let answers = ask(&buses[0].client, "sensor/*", ManyOptions::default()).await;
    assert_eq!(answered(&answers), [("sensor/2".to_owned(), "far".to_owned())]);
    assert!(errors(&answers).is_empty(), "{answers:?}");
    assert_eq!(buses[0].counter.counts().unheard, before + 1);
}

#[tokio::test]
async fn more_topics_than_nats_takes_in_one_message_are_left_out_and_said_so() {
    if !nats::available() {
        return;
    }
    let server = NatsBuilder::newest().config("max_payload: 2048").start().await;
    let buses = several(&server, 2).await;
    let mut sensors = Vec::new();
    for number in 0..100 {
        sensors.push(Sensor::new(&buses[1].client, &format!("sensor/{number:050}"), "far").await);
    }
    reaches(&buses[0].client, "sensor/*", 10).await;
    let answers = ask(&buses[0].client, "sensor/*", ManyOptions::default()).await;
    let count = answered(&answers).len();
    assert!((10..100).contains(&count), "{count}");
    let expected = format!("{} more", 100 - count);
    let left_out = errors(&answers);
    assert!(
        matches!(left_out[..], [BusError::LimitReached { what }] if what.contains(&expected)),
        "{left_out:?}"
    );
}

#[tokio::test]
async fn a_bus_that_drains_names_nothing_and_its_topics_are_asked_where_its_servers_are() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start().await;
    let mut buses = several(&server, 3).await;
    let _stays = Sensor::new(&buses[1].client, "sensor/1", "stays").await;
    let _leaves = Sensor::new(&buses[2].client, "sensor/1", "leaves").await;
    reaches(&buses[0].client, "sensor/*", 1).await;
    let client = buses[0].client.clone();
    let mut asking = JoinSet::new();
    let drained = Arc::new(AtomicU64::new(0));
    let ended = Arc::clone(&drained);
    asking.spawn(async move {
        while ended.load(Ordering::Relaxed) == 0 {
            let answers = ask(&client, "sensor/*", ManyOptions::default()).await;
            assert_eq!((answered(&answers).len(), errors(&answers).len()), (1, 0), "{answers:?}");
        }
    });
    soon("the end of the drain", buses.remove(2).bus.drain(Duration::from_secs(20))).await;
    drained.store(1, Ordering::Relaxed);
    soon("the last answers", asking.join_next()).await.unwrap().unwrap();
}

#[tokio::test]
async fn clients_that_encrypt_ask_servers_of_other_buses() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start().await;
    let buses = several(&server, 2).await;
    let member = |joined: &Joined| {
        let keyring = Keyring::with(Key::from_bytes([7; 32])).unwrap();
        let engines = Engines::new().with(Encryption::new(&keyring).unwrap());
        Client::builder().engines(engines).connect_memory(&joined.bus.connector()).unwrap()
    };
    let (alice, bob) = (member(&buses[0]), member(&buses[1]));
    let _far = Sensor::new(&bob, "sensor/far", "21 degrees").await;
    let _near = Sensor::new(&alice, "sensor/near", "19 degrees").await;
    let shy = |_| async { Err(ErrorReply::new("shy", "not today")) };
    let _shy = bob.handle_bytes("shy/far", shy).await.unwrap();
    reaches(&alice, "sensor/*", 2).await;
    let answers = ask(&alice, "sensor/*", ManyOptions::default()).await;
    let expected = [("sensor/far", "21 degrees"), ("sensor/near", "19 degrees")];
    assert_eq!(answered(&answers), expected.map(|(topic, answer)| (topic.to_owned(), answer.to_owned())));
    let answers = soon("the error", async {
        loop {
            let answers = ask(&alice, "shy/*", ManyOptions::default()).await;
            if !matches!(errors(&answers)[..], [] | [BusError::NoServer { .. }]) {
                return answers;
            }
        }
    })
    .await;
    assert!(
        matches!(errors(&answers)[..], [BusError::Replied(reply)] if reply.message() == "not today"),
        "{answers:?}"
    );
}

#[tokio::test]
async fn who_has_nothing_but_nats_asks_what_is_served_and_then_for_it() {
    if !nats::available() {
        return;
    }
    let server = NatsServer::start().await;
    let one = Joined::new(&server.url()).await;
    let _one = Sensor::new(&one.client, "sensor/1", "one").await;
    let _other = Sensor::new(&one.client, "meter/1", "other").await;
    let plain = async_nats::connect(server.url()).await.unwrap();
    let told =
        soon("an answer", plain.request(format!("{PREFIX}.serving"), "sensor/*".into())).await.unwrap();
    let told: serde_json::Value = serde_json::from_slice(&told.payload).unwrap();
    assert_eq!(told["topics"], serde_json::json!(["sensor/1"]));
    assert_eq!((told["id"].as_str().map(str::len), told["left_out"].as_u64()), (Some(16), Some(0)));
    let mut pattern = HeaderMap::new();
    pattern.insert("Whispeer-Topic", "sensor/*");
    let asked = async {
        loop {
            let subject = format!("{PREFIX}.r.sensor.1");
            if let Ok(answer) = plain.request_with_headers(subject, pattern.clone(), "?".into()).await {
                return answer;
            }
        }
    };
    assert_eq!(soon("an answer", asked).await.payload, "one");
}
