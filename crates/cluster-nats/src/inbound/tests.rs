use whispeer::auth::Principal;
use whispeer::bus::BusHandle;
use whispeer::client::{Event, Subscription};
use whispeer::prelude::*;
use whispeer::topic::{Topic, TopicPattern};
use whispeer::transport::{Link, Peer};
use whispeer_testkit::nats::{self, NatsBuilder, NatsServer};
use whispeer_testkit::wait::{eventually, soon};

use super::outcomes::{Outcomes, Sender};
use super::*;
use crate::stamp::Stamp;

/// A link that runs.
struct Running {
    leave: oneshot::Sender<()>,
    link: JoinSet<BusResult<()>>,
}

impl Running {
    /// Ends it, as where something else of the link has ended.
    async fn end(mut self) {
        drop(self.leave);
        soon("the end of the link", self.link.join_next()).await.unwrap().unwrap().unwrap();
    }
}

/// A bus with what takes messages of others to it, and a program that sends as another bus would.
struct Bench {
    _server: NatsServer,
    bus: BusHandle,
    client: Client,
    own: async_nats::Client,
    other: async_nats::Client,
    counts: Arc<InboundCounts>,
    kept: Kept,
    disturbances: watch::Sender<u64>,
}

impl Bench {
    async fn new() -> Option<Self> {
        if !nats::available() {
            return None;
        }
        let server = NatsBuilder::newest().start().await;
        let own = async_nats::connect(server.url()).await.unwrap();
        let other = async_nats::connect(server.url()).await.unwrap();
        let bus = Bus::builder().start().unwrap();
        let client = Client::new_memory(&bus.connector()).unwrap();
        let (counts, kept, disturbances) = (Arc::default(), Kept::default(), watch::Sender::new(0));
        Some(Self { _server: server, bus, client, own, other, counts, kept, disturbances })
    }

    /// What takes messages to the bus over this link.
    fn inbound(&self, link: Link) -> Inbound {
        let link = Client::builder().no_reconnect().connect_link(link).unwrap();
        let (subjects, members) = (Subjects::new("w").unwrap(), Members::new(7));
        let (nats, counts, kept) = (self.own.clone(), Arc::clone(&self.counts), self.kept.clone());
        Inbound::new(self.bus.view(), link, nats, subjects, members, counts, kept)
    }

    fn link(&self) -> Link {
        self.bus.view().connect(Peer::new(Principal::Bus, "nats").relay()).unwrap()
    }

    /// Begins a link, which ends when this is dropped or told to.
    async fn begin(&self, bounds: Option<Bounds>) -> Running {
        self.counts.patterns.store(0, Ordering::Relaxed);
        let mut inbound = self.inbound(self.link());
        if let Some(bounds) = bounds {
            inbound.intake = Intake::new(bounds);
        }
        let (leave, leaving) = oneshot::channel();
        let mut link = JoinSet::new();
        link.spawn(inbound.run(self.bus.view().interest().unwrap(), self.disturbances.subscribe(), leaving));
        eventually("what is wanted", || self.counts.patterns.load(Ordering::Relaxed) == 1).await;
        settled(&self.own).await;
        Running { leave, link }
    }

    /// Sends the message of this number of a topic that has been published to without a rest for two seconds.
    async fn send(&self, topic: &str, number: u64) {
        self.other
            .publish_with_reply(format!("w.t.{topic}"), stamp(number), number.to_string().into())
            .await
            .unwrap();
    }

    async fn mark(&self, topic: &str, number: u64) {
        self.other.publish_with_reply(format!("w.p.{topic}"), stamp(number), "".into()).await.unwrap();
    }
}

fn stamp(number: u64) -> String {
    stamp_of(number, 1)
}

fn stamp_of(number: u64, count: u64) -> String {
    let (known, age) = (number - 1, Duration::from_secs(2));
    Stamp { origin: 9, number, known, run: known, age, count }.write("w.o.")
}

async fn settled(nats: &async_nats::Client) {
    let answer = soon("an answer of NATS", nats.request("nobody.is.here", "".into())).await;
    assert!(answer.is_err(), "{answer:?}");
}

/// What comes next: a message's topic and text, or how many are missing.
async fn next(subscription: &mut Subscription<bytes::Bytes>) -> Result<(String, String), u64> {
    match soon("an event", subscription.next_event()).await.expect("the bus runs") {
        Event::Message(message) => {
            Ok((message.topic.to_string(), String::from_utf8(message.value.to_vec()).unwrap()))
        }
        Event::Gap { count, .. } => Err(count),
        other => panic!("{other:?}"),
    }
}

async fn text(subscription: &mut Subscription<bytes::Bytes>) -> Result<String, u64> {
    next(subscription).await.map(|(_, text)| text)
}

#[tokio::test]
async fn a_link_that_begins_anew_tells_what_was_sent_meanwhile() {
    let Some(bench) = Bench::new().await else { return };
    let mut news = bench.client.subscribe_bytes("news/*").await.unwrap();
    let link = bench.begin(None).await;
    bench.send("news.a", 1).await;
    bench.send("news.b", 1).await;
    for _ in 0..2 {
        assert_eq!(text(&mut news).await, Ok("1".into()));
    }
    link.end().await;
    for number in 2..5 {
        bench.send("news.a", number).await;
        bench.send("news.b", number).await;
    }
    settled(&bench.other).await;
    let asked = bench.other.subscribe("w.again").await.unwrap();
    settled(&bench.other).await;
    let _link = bench.begin(None).await;
    bench.send("news.a", 5).await;
    assert_eq!(text(&mut news).await, Err(3));
    assert_eq!(text(&mut news).await, Ok("5".into()));
    // It asks for the ends of what was sent, and gets this one.
    let mut asked = asked;
    soon("the question", futures_util::StreamExt::next(&mut asked)).await.unwrap();
    bench.mark("news.b", 4).await;
    assert_eq!(text(&mut news).await, Err(3));
    bench.send("news.b", 4).await;
    bench.send("news.b", 5).await;
    assert_eq!(text(&mut news).await, Ok("5".into()), "nothing is taken twice");
}

#[tokio::test]
async fn what_comes_to_be_wanted_later_has_missed_nothing_of_the_time_before() {
    let Some(bench) = Bench::new().await else { return };
    let old = bench.client.subscribe_bytes("news/a").await.unwrap();
    let link = bench.begin(None).await;
    bench.send("news.a", 1).await;
    eventually("the message", || bench.bus.stats().delivered > 0).await;
    link.end().await;
    drop(old);
    bench.client.flush().await.unwrap();
    bench.send("news.a", 2).await;
    settled(&bench.other).await;
    let mut other = bench.client.subscribe_bytes("news/*").await.unwrap();
    let _link = bench.begin(None).await;
    bench.send("news.a", 3).await;
    assert_eq!(text(&mut other).await, Ok("3".into()));
}

#[tokio::test]
async fn what_was_on_its_way_to_the_bus_when_it_cut_the_link_off_is_told() {
    let Some(bench) = Bench::new().await else { return };
    let mut news = bench.client.subscribe_bytes("news/*").await.unwrap();
    let mut outcomes = Outcomes::new(bench.client.clone(), Arc::clone(&bench.counts));
    let publisher = bench.client.publisher_bytes("other").unwrap();
    let sender = Arc::new(Sender::new(Topic::new("news/a").unwrap(), publisher));
    for _ in 0..3 {
        outcomes.send(&sender, &["x".into()]).await.unwrap();
    }
    let options = whispeer::client::PublishOptions::default();
    outcomes.send_alone(TopicPattern::new("news/b").unwrap(), "x".into(), options).await.unwrap();
    let unsettled = outcomes.unsettled();
    assert_eq!(
        unsettled.iter().map(|(topic, count)| (topic.as_str(), *count)).collect::<Vec<_>>(),
        [("news/a", 3), ("news/b", 1)]
    );
    assert!(outcomes.unsettled().is_empty());

    let memory = bench.kept.take();
    bench.kept.put(Memory { unsettled, ..memory });
    let link = bench.begin(None).await;
    let mut missing = 0;
    while missing < 4 {
        // What was sent by itself came before.
        missing += text(&mut news).await.err().unwrap_or_default();
    }
    assert_eq!((missing, bench.counts.missing.load(Ordering::Relaxed)), (4, 4));
    link.end().await;
    let _link = bench.begin(None).await;
    bench.send("news.a", 1).await;
    assert_eq!(text(&mut news).await, Ok("1".into()), "it is told once");
}

#[tokio::test]
async fn of_a_batch_that_was_not_given_to_the_bus_as_a_whole_all_counts_as_on_its_way() {
    let bus = Bus::builder().start().unwrap();
    let link = bus.view().connect(Peer::new(Principal::Bus, "nats").relay()).unwrap();
    let sender = Arc::clone(&link.sender);
    let client = Client::builder().no_reconnect().connect_link(link).unwrap();
    client.flush().await.unwrap();
    let mut outcomes = Outcomes::new(client.clone(), Arc::default());
    let publisher = client.publisher_bytes("news/a").unwrap();
    let news = Arc::new(Sender::new(Topic::new("news/a").unwrap(), publisher));
    sender.close();
    let batch = vec!["x".into(); 100_000];
    assert!(outcomes.send(&news, &batch).await.is_err());
    let unsettled = outcomes.unsettled();
    assert_eq!(unsettled.len(), 1);
    assert_eq!((unsettled[0].0.as_str(), unsettled[0].1), ("news/a", 100_000));
}

#[tokio::test]
async fn what_is_found_missing_when_the_bus_cuts_the_link_off_is_told_by_the_next_one() {
    let Some(bench) = Bench::new().await else { return };
    let mut news = bench.client.subscribe_bytes("news/*").await.unwrap();
    let link = bench.link();
    let sender = Arc::clone(&link.sender);
    let mut inbound = bench.inbound(link);
    inbound.begin().await.unwrap();
    let wanted = vec![(TopicPattern::new("news/*").unwrap(), true)];
    inbound.wanted.follow(wanted, &mut inbound.intake).await.unwrap();
    let source = Arc::new(Source { number: 1, kind: Taken::Messages, since: Instant::now() });
    let mut came = bench.own.subscribe("w.t.news.*").await.unwrap();
    settled(&bench.own).await;
    for number in [1, 4] {
        bench.send("news.a", number).await;
    }
    let mut messages = Vec::new();
    for _ in 0..2 {
        messages.push(soon("a message", futures_util::StreamExt::next(&mut came)).await.unwrap());
    }
    inbound.take(Item::Messages(source, messages)).await.unwrap();
    assert_eq!(text(&mut news).await, Ok("1".into()));
    inbound.taking.outcomes.finish().await;
    assert!(inbound.taking.held.since().is_some(), "the other one waits for what is missing");
    sender.close();
    assert!(inbound.taking.settle().await.is_err());
    drop(inbound);

    let _link = bench.begin(None).await;
    assert_eq!(text(&mut news).await, Err(2));
    bench.send("news.a", 5).await;
    assert_eq!(text(&mut news).await, Err(1), "the one that waited");
    assert_eq!(text(&mut news).await, Ok("5".into()));
}

#[tokio::test]
async fn the_messages_of_a_batch_come_one_by_one_and_one_that_is_none_is_a_gap() {
    let Some(bench) = Bench::new().await else { return };
    let mut news = bench.client.subscribe_bytes("news/*").await.unwrap();
    let _link = bench.begin(None).await;
    let send = async |number, count, payload: Vec<u8>| {
        let subject = "w.t.news.a";
        bench.other.publish_with_reply(subject, stamp_of(number, count), payload.into()).await.unwrap();
    };
    let batch = |texts: &[&str]| {
        let mut payload = Vec::new();
        for text in texts {
            payload.extend_from_slice(&(text.len() as u32).to_le_bytes());
            payload.extend_from_slice(text.as_bytes());
        }
        payload
    };
    send(1, 3, batch(&["one", "", "three"])).await;
    for expected in ["one", "", "three"] {
        assert_eq!(text(&mut news).await, Ok(expected.into()));
    }
    send(4, 2, batch(&["four"])).await;
    send(6, 2, batch(&["six", "seven", "eight"])).await;
    send(8, 2, b"\x01\x00\x00\x00a\xff\xff\xff\xff".to_vec()).await;
    send(10, 1_000_000, Vec::new()).await;
    send(1_000_010, 2, batch(&["nine", "ten"])).await;
    let (mut missing, mut came) = (0, Vec::new());
    while came.len() < 2 {
        match text(&mut news).await {
            Ok(text) => came.push(text),
            Err(count) => missing += count,
        }
    }
    assert_eq!((came, missing), (vec!["nine".to_owned(), "ten".to_owned()], 1_000_006));
}

#[tokio::test]
async fn gaps_of_many_topics_stand_where_messages_are_missing() {
    let Some(bench) = Bench::new().await else { return };
    let mut news = bench.client.subscribe_bytes("news/*").await.unwrap();
    let _link = bench.begin(None).await;
    let topics: Vec<_> = (0..50).map(|number| format!("news.{number}")).collect();
    for number in [1, 3, 4, 7] {
        for topic in &topics {
            bench.send(topic, number).await;
        }
    }
    settled(&bench.other).await;
    let (mut messages, mut missing) = (std::collections::HashMap::<_, Vec<_>>::new(), 0);
    while messages.values().map(Vec::len).sum::<usize>() < 4 * topics.len() {
        match next(&mut news).await {
            Ok((topic, text)) => messages.entry(topic).or_default().push(text),
            Err(count) => missing += count,
        }
    }
    assert!(messages.values().all(|texts| *texts == ["1", "3", "4", "7"]), "{messages:?}");
    assert_eq!(missing, 50 + 2 * 50);
}

#[tokio::test]
async fn what_finds_no_room_is_told_as_missing_and_others_are_asked_for_the_end() {
    let Some(bench) = Bench::new().await else { return };
    let mut news = bench.client.subscribe_bytes("news/*").await.unwrap();
    let asked = bench.other.subscribe("w.again").await.unwrap();
    let _link = bench.begin(Some(Bounds { messages: 10, bytes: 1 << 20 })).await;
    // All of them are there before any is read: this is the only thread.
    let count = 2_000;
    for number in 1..=count {
        bench.send("news.a", number).await;
    }
    settled(&bench.other).await;
    let mut asked = asked;
    soon("the question", futures_util::StreamExt::next(&mut asked)).await.unwrap();
    bench.mark("news.a", count).await;
    let (mut taken, mut missing) = (0, 0);
    while taken + missing < count {
        match text(&mut news).await {
            Ok(_) => taken += 1,
            Err(count) => missing += count,
        }
    }
    assert_eq!((taken + missing, bench.counts.overrun.load(Ordering::Relaxed)), (count, missing));
    assert!(missing > 0);
}

#[tokio::test]
async fn an_answer_of_the_bus_is_told_so_that_it_is_asked_about_what_was_given_to_it_meanwhile() {
    let Some(bench) = Bench::new().await else { return };
    let mut outcomes = Outcomes::new(bench.client.clone(), Arc::clone(&bench.counts));
    let publisher = bench.client.publisher_bytes("news").unwrap();
    let sender = Arc::new(Sender::new(Topic::new("news").unwrap(), publisher));
    for count in 1..4 {
        outcomes.send(&sender, &["x".into()]).await.unwrap();
        sleep_until(outcomes.due().unwrap()).await;
        soon("the answer", outcomes.changed()).await;
        assert_eq!(outcomes.untold(), None);
        assert_eq!(bench.counts.received.load(Ordering::Relaxed), count);
        assert_eq!(outcomes.due(), None, "nothing is left to be asked about");
    }
    outcomes.send(&sender, &["x".into()]).await.unwrap();
    outcomes.finish().await;
    assert_eq!(bench.counts.received.load(Ordering::Relaxed), 4);
    assert!(outcomes.unsettled().is_empty());
}
