//! Requests to many servers where a bus is joined to others: what is served elsewhere is asked for as well, each topic once.

use std::time::Duration;

use bytes::Bytes;
use whispeer::auth::Principal;
use whispeer::client::{ManyOptions, Serving};
use whispeer::limits::SCATTER_LIMIT;
use whispeer::prelude::*;
use whispeer::proto::fields::FieldsBuilder;
use whispeer::proto::{Flags, Header, Kind, Refusal, ServedElsewhere};
use whispeer::topic::Topic;
use whispeer::transport::Peer;
use whispeer_testkit::raw::RawPeer;
use whispeer_testkit::wait::{eventually, now_or_never, soon};

use crate::ground::settings;

type Answers = BusResult<Vec<BusResult<(Topic, Bytes)>>>;

/// A bus with who joins it to others, and a client.
struct Joined {
    bus: BusHandle,
    cluster: Client,
    /// What is asked of others.
    uplink: Serving<Bytes>,
    /// What is asked about them.
    topics: Serving<Bytes>,
    client: Client,
}

/// A link of the bus's own.
fn own(bus: &BusHandle) -> whispeer::transport::Link {
    bus.view().connect(Peer::new(Principal::Bus, "cluster")).unwrap()
}

async fn joined() -> Joined {
    joined_to(Bus::builder().start().unwrap()).await
}

async fn joined_to(bus: BusHandle) -> Joined {
    let cluster = Client::builder().name("cluster").no_reconnect().connect_link(own(&bus)).unwrap();
    let uplink = soon("the uplink", cluster.serve_bytes("$bus/uplink")).await.unwrap();
    let topics = soon("its topics", cluster.serve_bytes("$bus/uplink/topics")).await.unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    Joined { bus, cluster, uplink, topics, client }
}

fn told<'a>(topics: impl IntoIterator<Item = &'a str>) -> Bytes {
    let topics = topics.into_iter().map(|topic| Topic::new(topic).unwrap()).collect();
    ServedElsewhere { topics, left_out: 0 }.encode().into()
}

impl Joined {
    fn ask(&self, pattern: &'static str, options: ManyOptions) -> tokio::task::JoinHandle<Answers> {
        let client = self.client.clone();
        tokio::spawn(async move { client.request_many_bytes(pattern, "how warm?".into(), options).await })
    }

    /// Answers the question what is served elsewhere.
    async fn tell(&mut self, payload: Bytes) {
        let (_, question, _) = soon("the question", self.topics.recv()).await.unwrap();
        self.cluster.respond_bytes(question, payload).await.unwrap();
    }

    /// Answers the next request to another bus with its topic.
    async fn answer(&mut self) {
        let (_, id, _) = soon("a request", self.uplink.recv()).await.unwrap();
        let topic = Bytes::copy_from_slice(id.topic().as_bytes());
        self.cluster.respond_bytes(id, topic).await.unwrap();
    }
}

/// The topics that have answered, in their order.
fn answered(answers: &[BusResult<(Topic, Bytes)>]) -> Vec<String> {
    let mut topics: Vec<_> = answers.iter().flatten().map(|(topic, _)| topic.to_string()).collect();
    topics.sort_unstable();
    topics
}

fn errors(answers: &[BusResult<(Topic, Bytes)>]) -> Vec<&BusError> {
    answers.iter().filter_map(|answer| answer.as_ref().err()).collect()
}

#[tokio::test]
async fn each_topic_that_is_served_anywhere_is_asked_once_and_here_first() {
    let mut joined = joined().await;
    let _here = joined.client.handle_bytes("sensor/1", |_| async { Ok("here".into()) }).await.unwrap();
    let options = ManyOptions::default().header("user", "alice").timeout(Duration::from_secs(5));
    let asking = joined.ask("sensor/*", options);

    let question = soon("the question", joined.topics.next_request()).await.unwrap();
    assert_eq!((question.topic.as_str(), &question.value[..]), ("sensor/*", &b""[..]));
    assert!(question.id.time_left().unwrap() <= Duration::from_secs(5));
    // What does not meet the pattern, what is asked here and what stands there twice is not asked.
    let topics = told(["sensor/2", "sensor/1", "other", "sensor/3", "sensor/2", "$bus/stats"]);
    joined.cluster.respond_bytes(question.id, topics).await.unwrap();
    for expected in ["sensor/2", "sensor/3"] {
        let request = soon("a request", joined.uplink.next_request()).await.unwrap();
        assert_eq!((request.topic.as_str(), request.id.topic()), ("sensor/*", expected));
        assert_eq!((&request.value[..], request.headers.find("user")), (&b"how warm?"[..], Some("alice")));
        assert!(request.id.time_left().unwrap() <= Duration::from_secs(5) && !request.id.wants_stream());
        joined.cluster.respond_bytes(request.id, "there".into()).await.unwrap();
    }
    let answers = soon("the answers", asking).await.unwrap().unwrap();
    assert_eq!(answered(&answers), ["sensor/1", "sensor/2", "sensor/3"]);
    for (topic, answer) in answers.into_iter().flatten() {
        assert_eq!(answer, if topic.as_str() == "sensor/1" { "here" } else { "there" });
    }
    assert!(now_or_never(joined.uplink.recv()).await.is_none());
    eventually("nothing is left", || joined.bus.stats().requests_in_flight == 0).await;
}

#[tokio::test]
async fn a_topic_that_has_got_a_server_here_meanwhile_is_asked_here() {
    let mut joined = joined().await;
    let asking = joined.ask("sensor/*", ManyOptions::default());
    let (_, question, _) = soon("the question", joined.topics.recv()).await.unwrap();
    let _here = joined.client.handle_bytes("sensor/1", |_| async { Ok("here".into()) }).await.unwrap();
    joined.cluster.respond_bytes(question, told(["sensor/1"])).await.unwrap();
    let answers = soon("the answers", asking).await.unwrap().unwrap();
    assert_eq!(
        answers.into_iter().map(Result::unwrap).map(|(_, answer)| answer).collect::<Vec<_>>(),
        ["here"]
    );
}

#[tokio::test]
async fn where_nobody_tells_what_is_served_elsewhere_it_is_asked_here_alone() {
    let Joined { topics, client, mut uplink, bus: _bus, cluster } = joined().await;
    drop(topics);
    cluster.ping().await.unwrap();
    let _here = client.handle_bytes("sensor/1", |_| async { Ok("here".into()) }).await.unwrap();
    let answers = client.request_many_bytes("sensor/*", "".into(), ManyOptions::default()).await.unwrap();
    assert_eq!(answered(&answers), ["sensor/1"]);
    assert!(now_or_never(uplink.recv()).await.is_none());
}

#[tokio::test]
async fn what_the_bus_itself_asks_of_many_and_what_is_reserved_stays_here() {
    let mut joined = joined().await;
    let options = ManyOptions::default;
    let asked =
        soon("an answer", joined.cluster.request_many_bytes("**", "".into(), options())).await.unwrap();
    assert!(asked.is_empty());
    let asked =
        soon("an answer", joined.client.request_many_bytes("$bus/uplink/*", "".into(), options())).await;
    assert!(asked.unwrap().is_empty(), "who tells of topics is none");
    assert!(now_or_never(joined.topics.recv()).await.is_none());
    let refused = joined.client.serve_bytes("$bus/uplink/topics").await.map(drop);
    assert!(matches!(refused, Err(BusError::ReservedTopic { .. })), "{refused:?}");
    let refused = joined.client.request_bytes("$bus/uplink/topics", "".into()).await;
    assert!(matches!(refused, Err(BusError::NoServer { .. })), "{refused:?}");
}

#[tokio::test]
async fn as_many_answers_as_are_wanted_end_it_and_the_others_are_cancelled() {
    let mut joined = joined().await;
    let asking = joined.ask("sensor/*", ManyOptions::default().count(1));
    joined.tell(told(["sensor/1", "sensor/2"])).await;
    joined.answer().await;
    let (_, second, _) = soon("a request", joined.uplink.recv()).await.unwrap();
    assert_eq!(answered(&soon("the answers", asking).await.unwrap().unwrap()), ["sensor/1"]);
    soon("the cancellation", second.cancelled()).await;
}

#[tokio::test]
async fn who_gives_up_before_it_is_known_what_is_served_elsewhere_asks_nobody_there() {
    let mut joined = joined().await;
    let asking = joined.ask("sensor/*", ManyOptions::default());
    let (_, question, _) = soon("the question", joined.topics.recv()).await.unwrap();
    asking.abort();
    soon("the cancellation", question.cancelled()).await;
    let refused = joined.cluster.respond_bytes(question, told(["sensor/1"])).await;
    assert!(matches!(refused, Err(BusError::Cancelled)), "{refused:?}");
    joined.cluster.ping().await.unwrap();
    assert!(now_or_never(joined.uplink.recv()).await.is_none());
}

#[tokio::test]
async fn what_has_come_by_the_deadline_is_the_result() {
    let mut joined = joined().await;
    let _here = joined.client.handle_bytes("sensor/1", |_| async { Ok("here".into()) }).await.unwrap();
    // Nobody says what is served elsewhere.
    let asking = joined.ask("sensor/*", ManyOptions::default().timeout(Duration::from_secs(1)));
    let (_, question, _) = soon("the question", joined.topics.recv()).await.unwrap();
    let answers = soon("the answers", asking).await.unwrap().unwrap();
    assert_eq!(answered(&answers), ["sensor/1"]);
    soon("the cancellation", question.cancelled()).await;
    // One of those elsewhere says nothing.
    let asking = joined.ask("sensor/*", ManyOptions::default().timeout(Duration::from_secs(1)));
    joined.tell(told(["sensor/2", "sensor/3"])).await;
    joined.answer().await;
    let (_, silent, _) = soon("a request", joined.uplink.recv()).await.unwrap();
    let answers = soon("the answers", asking).await.unwrap().unwrap();
    assert_eq!(answered(&answers), ["sensor/1", "sensor/2"]);
    soon("the cancellation", silent.cancelled()).await;
    eventually("nothing is left", || joined.bus.stats().requests_in_flight == 0).await;
}

#[tokio::test]
async fn errors_stand_in_their_place_and_name_the_topic() {
    let mut joined = joined().await;
    let asking = joined.ask("sensor/*", ManyOptions::default());
    joined.tell(told(["sensor/1", "sensor/2", "sensor/3"])).await;
    let (_, first, _) = soon("a request", joined.uplink.recv()).await.unwrap();
    joined.cluster.respond_error(first, ErrorReply::new("cold", "it is frozen")).await.unwrap();
    let (_, abandoned, _) = soon("a request", joined.uplink.recv()).await.unwrap();
    drop(abandoned);
    joined.answer().await;
    let answers = soon("the answers", asking).await.unwrap().unwrap();
    assert_eq!(answered(&answers), ["sensor/3"]);
    let errors = errors(&answers);
    assert!(matches!(errors[0], BusError::Replied(reply) if reply.code() == "cold"), "{errors:?}");
    assert!(matches!(errors[1], BusError::Abandoned { topic } if topic == "sensor/2"), "{errors:?}");
}

#[tokio::test]
async fn the_end_of_the_uplink_ends_what_it_was_asked() {
    let mut joined = joined().await;
    let asking = joined.ask("sensor/*", ManyOptions::default());
    joined.tell(told(["sensor/1"])).await;
    let (_, id, _) = soon("a request", joined.uplink.recv()).await.unwrap();
    // The whole session, with what it was asked.
    let Joined { bus, cluster, uplink, topics, .. } = joined;
    let closing = cluster.close();
    std::mem::forget(id);
    soon("the end", closing).await.unwrap();
    drop((uplink, topics));
    let answers = soon("the answers", asking).await.unwrap().unwrap();
    let errors = errors(&answers);
    assert!(matches!(errors[..], [BusError::ServerGone { topic }] if topic == "sensor/1"), "{answers:?}");
    eventually("nothing is left", || bus.stats().requests_in_flight == 0).await;
}

#[tokio::test]
async fn why_it_is_not_known_what_is_served_elsewhere_is_one_of_the_answers() {
    let mut joined = joined().await;
    let _here = joined.client.handle_bytes("sensor/1", |_| async { Ok("here".into()) }).await.unwrap();
    let asking = joined.ask("sensor/*", ManyOptions::default());
    let (_, question, _) = soon("the question", joined.topics.recv()).await.unwrap();
    joined.cluster.respond_error(question, ErrorReply::new("away", "there is no network")).await.unwrap();
    let answers = soon("the answers", asking).await.unwrap().unwrap();
    assert_eq!(answered(&answers), ["sensor/1"]);
    let failed = errors(&answers);
    assert!(matches!(failed[..], [BusError::Replied(reply)] if reply.code() == "away"), "{answers:?}");

    for payload in [&b"\x01"[..], b"\0\0\0\0\x05\0a"] {
        let asking = joined.ask("sensor/*", ManyOptions::default());
        joined.tell(payload.into()).await;
        let answers = soon("the answers", asking).await.unwrap().unwrap();
        assert!(matches!(errors(&answers)[..], [BusError::Protocol { .. }]), "{answers:?}");
    }
}

#[tokio::test]
async fn topics_beyond_the_bound_are_left_out_and_that_is_one_of_the_answers() {
    let mut joined = joined().await;
    let _here = joined.client.handle_bytes("one/here", |_| async { Ok("here".into()) }).await.unwrap();
    let names: Vec<String> = (0..SCATTER_LIMIT).map(|number| format!("many/{number}")).collect();
    let asking = joined.ask("*/*", ManyOptions::default());
    joined.tell(told(names.iter().map(String::as_str))).await;
    for _ in 1..SCATTER_LIMIT {
        joined.answer().await;
    }
    let answers = soon("the answers", asking).await.unwrap().unwrap();
    assert_eq!(answered(&answers).len(), SCATTER_LIMIT);
    assert!(matches!(errors(&answers)[..], [BusError::LimitReached { .. }]), "{:?}", errors(&answers));

    // Or so says who tells of them.
    let asking = joined.ask("one/*", ManyOptions::default());
    joined.tell(ServedElsewhere { topics: Vec::new(), left_out: 7 }.encode().into()).await;
    let answers = soon("the answers", asking).await.unwrap().unwrap();
    assert_eq!(answered(&answers), ["one/here"]);
    let left_out = errors(&answers);
    assert!(
        matches!(left_out[..], [BusError::LimitReached { what }] if what.contains("7 more")),
        "{left_out:?}"
    );
}

#[tokio::test]
async fn copies_for_other_buses_count_in_the_bytes_that_a_session_may_ask() {
    let bus = settings(|settings| settings.request_bytes = 8 * 1024).start().unwrap();
    let mut joined = joined_to(bus).await;
    let client = joined.client.clone();
    let asking = tokio::spawn(async move {
        client.request_many_bytes("sensor/*", vec![7; 3 * 1024].into(), ManyOptions::default()).await
    });
    joined.tell(told(["sensor/1", "sensor/2", "sensor/3"])).await;
    joined.answer().await;
    joined.answer().await;
    let answers = soon("the answers", asking).await.unwrap().unwrap();
    assert_eq!(answered(&answers), ["sensor/1", "sensor/2"]);
    assert!(matches!(errors(&answers)[..], [BusError::LimitReached { .. }]), "{answers:?}");
    // All of it is given back.
    let asking = joined.ask("sensor/*", ManyOptions::default());
    joined.tell(told(["sensor/1"])).await;
    joined.answer().await;
    assert_eq!(answered(&soon("the answers", asking).await.unwrap().unwrap()), ["sensor/1"]);
}

/// What a request to a pattern that names this topic is answered.
async fn answer_to_named(peer: &mut RawPeer, topic: &str) -> (Flags, Vec<u8>) {
    let mut fields = FieldsBuilder::new();
    fields.topic(topic).unwrap();
    peer.push_with(&Header::new(Kind::Request, 1, 0), fields.as_bytes(), b"sensor/*", b"");
    peer.flush().await.unwrap();
    loop {
        let frame = soon("a frame", peer.receive()).await.unwrap().expect("the bus runs");
        if frame.header.kind == Kind::Answer {
            return (frame.header.flags, frame.payload.to_vec());
        }
    }
}

#[tokio::test]
async fn a_session_of_the_buss_own_asks_for_one_topic_of_a_pattern_and_nobody_else_may() {
    let joined = joined().await;
    let client = &joined.client;
    let _there = client.handle_bytes("sensor/1", |_| async { Ok("warm".into()) }).await.unwrap();
    let _secret = client.handle_bytes("secret", |_| async { Ok("no".into()) }).await.unwrap();
    let (mut peer, _) = RawPeer::welcomed(own(&joined.bus)).await.unwrap();
    assert_eq!(answer_to_named(&mut peer, "sensor/1").await, (Flags::NONE, b"warm".to_vec()));
    let error = |(flags, payload): (Flags, Vec<u8>)| {
        assert_eq!(flags, Flags::ERROR);
        Refusal::decode(&payload).unwrap().into_error()
    };
    let nobody = error(answer_to_named(&mut peer, "sensor/2").await);
    assert!(matches!(&nobody, BusError::NoServer { topic } if topic == "sensor/2"), "{nobody:?}");
    let other = error(answer_to_named(&mut peer, "secret").await);
    assert!(matches!(other, BusError::InvalidSettings(_)), "{other:?}");

    let (mut stranger, _) = RawPeer::welcomed(joined.bus.connector().connect().unwrap()).await.unwrap();
    let refused = error(answer_to_named(&mut stranger, "sensor/1").await);
    assert!(matches!(refused, BusError::InvalidSettings(_)), "{refused:?}");
}

#[tokio::test]
async fn a_topic_that_a_client_names_itself_is_not_handed_on() {
    let mut joined = joined().await;
    let (mut stranger, _) = RawPeer::welcomed(joined.bus.connector().connect().unwrap()).await.unwrap();
    let mut fields = FieldsBuilder::new();
    fields.topic("sensor/secret").unwrap();
    let header = Header::new(Kind::Request, 1, 0).flagged(Flags::SCATTER);
    stranger.push_with(&header, fields.as_bytes(), b"sensor/*", b"");
    stranger.push_with(&Header::new(Kind::Request, 2, 0), fields.as_bytes(), b"plain", b"");
    stranger.flush().await.unwrap();
    let plain = soon("a request", joined.uplink.next_request()).await.unwrap();
    assert_eq!(plain.id.topic(), "plain");
    joined.tell(told(["sensor/1"])).await;
    let request = soon("a request", joined.uplink.next_request()).await.unwrap();
    assert_eq!(request.id.topic(), "sensor/1");
}
