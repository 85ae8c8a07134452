use std::time::Duration;

use whispeer_testkit::nats::{self, NatsBuilder, NatsServer};
use whispeer_testkit::wait::soon;

use super::super::intake::{Bounds, Item};
use super::*;

/// What one bus takes from NATS, and a program that sends to it.
struct Bench {
    _server: NatsServer,
    own: Nats,
    other: Nats,
    intake: Intake,
    wanted: Wanted,
    counts: Arc<InboundCounts>,
}

fn pattern(text: &str) -> TopicPattern {
    TopicPattern::new(text).unwrap()
}

/// What this client has sent is at NATS, and what that has sent by then is here.
async fn settled(nats: &Nats) {
    let answer = soon("an answer of NATS", nats.request("nobody.is.here", "".into())).await;
    assert!(answer.is_err(), "{answer:?}");
}

impl Bench {
    /// One that subscribes to everything beyond so many patterns.
    async fn new(most: usize) -> Option<Self> {
        if !nats::available() {
            return None;
        }
        let server = NatsBuilder::newest().start().await;
        let own = async_nats::connect(server.url()).await.unwrap();
        let other = async_nats::connect(server.url()).await.unwrap();
        let counts = Arc::new(InboundCounts::default());
        let mut intake = Intake::new(Bounds { messages: 1_000, bytes: 1 << 20 });
        let subjects = Subjects::new("w").unwrap();
        let mut wanted = Wanted::new(own.clone(), subjects, 7, Arc::clone(&counts), most);
        wanted.begin(Since::default(), &mut intake).await.unwrap();
        Some(Self { _server: server, own, other, intake, wanted, counts })
    }

    async fn follow(&mut self, changes: &[(&str, bool)]) {
        let changes = changes.iter().map(|(text, is_wanted)| (pattern(text), *is_wanted)).collect();
        self.wanted.follow(changes, &mut self.intake).await.unwrap();
    }

    /// Sends these to a topic, so that they wait at the client of NATS.
    async fn send(&self, topic: &str, payloads: std::ops::Range<u32>) {
        // What is subscribed to is known by then.
        settled(&self.own).await;
        for number in payloads {
            self.other.publish(format!("w.t.{topic}"), number.to_string().into()).await.unwrap();
        }
        settled(&self.other).await;
        settled(&self.own).await;
    }

    /// Takes what comes until subscriptions have ended, and after that what is there; returns the messages that the oldest subscription brings.
    async fn take_until_end(&mut self) -> Vec<String> {
        let mut taken = Vec::new();
        let mut has_ended = false;
        loop {
            let item = match has_ended {
                false => Some(soon("what comes", self.intake.next()).await),
                true => self.intake.take_now(),
            };
            match item {
                None => return taken,
                Some(Item::Messages(source, messages)) if source.kind == Taken::Flushed => {
                    messages
                        .iter()
                        .for_each(|answer| self.wanted.answered(&answer.subject, &mut self.intake));
                }
                Some(Item::Messages(source, messages)) => {
                    for message in messages {
                        let topic = self.wanted.subjects.topic_of(&message.subject).unwrap();
                        if self.wanted.oldest(&topic) == Some(source.number) {
                            taken.push(String::from_utf8(message.payload.to_vec()).unwrap());
                        }
                    }
                }
                Some(Item::Ended(ended)) => {
                    self.wanted.forget(ended);
                    has_ended = true;
                }
            }
        }
    }

    fn patterns(&self) -> u64 {
        self.counts.patterns.load(Ordering::Relaxed)
    }
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn what_waits_of_a_subscription_that_ends_is_taken_once() {
    let Some(mut bench) = Bench::new(10).await else { return };
    bench.follow(&[("a/7", true)]).await;
    bench.send("a.7", 0..100).await;
    bench.follow(&[("a/*", true), ("a/7", false)]).await;
    assert_eq!(bench.patterns(), 2, "it is still subscribed to");
    // These come by both.
    bench.send("a.7", 100..120).await;
    assert_eq!(bench.take_until_end().await, numbers(0..120));
    assert_eq!(bench.patterns(), 1);
    bench.send("a.7", 120..130).await;
    bench.follow(&[("a/*", false)]).await;
    assert_eq!(bench.take_until_end().await, numbers(120..130));
    assert_eq!((bench.patterns(), bench.wanted.living.len()), (0, 0));
}

#[tokio::test]
async fn nothing_is_lost_between_many_patterns_and_everything() {
    let Some(mut bench) = Bench::new(4).await else { return };
    bench.follow(&[("a", true), ("b", true), ("c/*", true), ("d", true)]).await;
    bench.send("c.1", 0..50).await;
    bench.follow(&[("e", true)]).await;
    assert!(bench.wanted.everything.is_some());
    bench.send("c.1", 50..100).await;
    assert_eq!(bench.take_until_end().await, numbers(0..100));
    assert_eq!((bench.patterns(), bench.wanted.living.len()), (5, 1));

    bench.send("c.1", 100..150).await;
    bench.follow(&[("a", false), ("b", false), ("d", false)]).await;
    assert!(bench.wanted.everything.is_none());
    bench.send("c.1", 150..200).await;
    assert_eq!(bench.take_until_end().await, numbers(100..200));
    bench.send("e", 200..201).await;
    bench.send("a", 201..202).await;
    bench.follow(&[("c/*", false)]).await;
    assert_eq!(bench.take_until_end().await, numbers(200..201), "nobody wants the other");
    assert_eq!((bench.patterns(), bench.wanted.living.len()), (1, 1));
}

#[tokio::test]
async fn a_subscription_ends_also_where_nats_does_not_answer() {
    let Some(mut bench) = Bench::new(10).await else { return };
    bench.follow(&[("a", true)]).await;
    settled(&bench.own).await;
    // Another one's answer.
    bench.wanted.answered("w.flushed.0000000000000008.1", &mut bench.intake);
    bench.follow(&[("a", false)]).await;
    bench.wanted.answered("w.flushed.0000000000000007.x", &mut bench.intake);
    assert!(bench.wanted.due().is_some());
    bench.wanted.end_due(Instant::now(), &mut bench.intake);
    assert_eq!(bench.patterns(), 1);
    bench.wanted.end_due(Instant::now() + Duration::from_secs(60), &mut bench.intake);
    assert_eq!((bench.patterns(), bench.wanted.due()), (0, None));
}

#[tokio::test]
async fn no_more_patterns_end_at_a_time_than_there_may_be() {
    let Some(mut bench) = Bench::new(2).await else { return };
    let names: Vec<_> = (0..10).map(|number| format!("a/{number}")).collect();
    for (round, name) in names.iter().enumerate() {
        bench.follow(&[(name, true)]).await;
        bench.follow(&[(name, false)]).await;
        assert_eq!(bench.wanted.ending.len(), (round + 1).min(3));
        assert!(bench.patterns() <= 3, "{}", bench.patterns());
    }
    while !bench.wanted.living.is_empty() {
        bench.take_until_end().await;
    }
    assert_eq!((bench.patterns(), bench.wanted.ending.len(), bench.wanted.ended.len()), (0, 0, 0));
}

#[tokio::test]
async fn what_is_wanted_again_goes_on_where_it_was_to_end() {
    let Some(mut bench) = Bench::new(10).await else { return };
    bench.follow(&[("a", true)]).await;
    bench.send("a", 0..10).await;
    bench.follow(&[("a", false)]).await;
    bench.follow(&[("a", true)]).await;
    assert_eq!((bench.patterns(), bench.wanted.living.len()), (1, 1), "there are no two subscriptions");
    // NATS has answered by then.
    bench.send("a", 10..20).await;
    bench.follow(&[("b", true)]).await;
    bench.follow(&[("b", false)]).await;
    assert_eq!(bench.take_until_end().await, numbers(0..20));
    bench.send("a", 20..30).await;
    bench.follow(&[("a", false)]).await;
    assert_eq!(bench.take_until_end().await, numbers(20..30));
    assert_eq!((bench.patterns(), bench.wanted.living.len(), bench.wanted.ended.len()), (0, 0, 0));
}

#[tokio::test]
async fn what_is_wanted_again_when_it_has_just_ended_counts_as_old_as_it_was() {
    let Some(mut bench) = Bench::new(10).await else { return };
    bench.follow(&[("a", true)]).await;
    let began = bench.wanted.patterns[&pattern("a")].subscribed.as_ref().unwrap().since;
    bench.follow(&[("a", false)]).await;
    bench.wanted.end_due(Instant::now() + Duration::from_secs(60), &mut bench.intake);
    assert_eq!(bench.patterns(), 0);
    bench.follow(&[("a", true)]).await;
    let own = bench.wanted.patterns[&pattern("a")].subscribed.as_ref().unwrap();
    assert_eq!(
        (own.since, bench.wanted.living.len()),
        (began, 2),
        "the one before was not looked at to its end"
    );
    bench.send("a", 0..5).await;
    assert_eq!(bench.take_until_end().await, numbers(0..5));
    bench.follow(&[("a", false)]).await;
    bench.take_until_end().await;
    bench.follow(&[("a", true)]).await;
    let own = bench.wanted.patterns[&pattern("a")].subscribed.as_ref().unwrap();
    assert!(own.since > began, "it was not wanted in between");
}
