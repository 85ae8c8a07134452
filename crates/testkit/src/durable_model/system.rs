//! The bus, and those who use it.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;
use whispeer::bus::{ConsumerStats, Rows, StreamChange, StreamChanged, StreamStats, Streams};
use whispeer::client::{
    Acknowledged, Consumer, Delivery, Event, GapReason, History, HistoryOptions, PublishOptions, Quality,
    Start, SubscribeOptions, Subscription,
};
use whispeer::prelude::*;
use whispeer::proto::fields::{FieldsBuilder, MessageId};
use whispeer::proto::{Header, Kind};
use whispeer::store::{Name, Retention, StreamSettings};

use super::consumer::{ACK_WAIT, MOST, PENDING};
use super::log::KNOWN_FOR;
use super::seen::{Answer, Given, Letter, Page, Read, Row, Seen};
use super::steps::{
    Begin, CONSUMERS, CURSORS, GROUP, Kept, Leaving, NAMELESS, PATTERNS, SEATS, Step, TOPICS,
};
use super::storage::Storage;
use crate::fault::{Fault, faulty_link};
use crate::raw::RawPeer;

const MANY: u32 = 1_000;
const BYTES: u64 = 1 << 20;

/// A process that takes part in a consumer.
struct Process {
    consumer: Consumer<Bytes>,
    rests: bool,
    held: BTreeMap<u64, Delivery<Bytes>>,
    acknowledged: Vec<(u64, Acknowledged)>,
    /// What had arrived by the last look, and what had been told of in gaps.
    arrived: u64,
    gaps: (u64, u64),
    client: Client,
    /// What its link goes over, if it can break.
    relay: Option<JoinSet<io::Result<()>>>,
}

pub(super) struct System {
    storage: Storage,
    kept: Kept,
    begun: Instant,
    bus: Option<BusHandle>,
    user: Client,
    /// The last that has published with an id of its choice.
    publisher: Option<RawPeer>,
    seats: [Option<Process>; SEATS.len()],
    cursors: [Option<Subscription<Bytes>>; CURSORS],
    seen: Seen,
}

fn settings(kept: Kept) -> StreamSettings {
    let log = StreamSettings::new(Name::new("log").unwrap(), vec![TopicPattern::new("log/**").unwrap()]);
    let mut retention = Retention::new();
    retention.age = kept.age.map(Duration::from_secs);
    (retention.messages, retention.bytes) = (kept.messages, kept.bytes);
    (retention.topic_messages, retention.topic_bytes) = (kept.topic_messages, kept.topic_bytes);
    log.retention(retention).known_for(Duration::from_millis(KNOWN_FOR))
}

fn start(begin: Begin) -> Start {
    match begin {
        Begin::All => Start::All,
        Begin::New => Start::New,
        Begin::From(sequence) => Start::From(sequence),
        Begin::Last(count) => Start::Last(count),
        Begin::LastPerTopic => Start::LastPerTopic,
    }
}

async fn serve(storage: &Storage, kept: Kept) -> (BusHandle, Client) {
    let streams = Streams::open(storage.store(), [settings(kept)]).await.unwrap();
    let bus = Bus::builder().streams(streams).start().unwrap();
    let user = Client::new_memory(&bus.connector()).unwrap();
    (bus, user)
}

impl System {
    pub(super) async fn begin(storage: Storage, kept: Kept) -> Self {
        let begun = Instant::now();
        let (bus, user) = serve(&storage, kept).await;
        let (seats, cursors) = (Default::default(), Default::default());
        let seen = Seen::default();
        Self { storage, kept, begun, bus: Some(bus), user, publisher: None, seats, cursors, seen }
    }

    /// Milliseconds since it has begun.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap()
    }

    pub(super) async fn end(mut self) {
        self.stop().await;
        self.storage.end().await;
    }

    pub(super) async fn act(&mut self, step: Step, text: &str) -> Answer {
        match step {
            Step::Publish { topic, quality, ttl, .. } => {
                let quality =
                    [Quality::AtMostOnce, Quality::AtLeastOnce, Quality::ExactlyOnce][usize::from(quality)];
                self.publish(topic, text, ttl, PublishOptions::default().quality(quality)).await;
            }
            Step::Delay { topic, delay, ttl } => {
                let later = PublishOptions::default().quality(Quality::AtLeastOnce);
                self.publish(topic, text, ttl, later.deliver_in(Duration::from_secs(delay))).await;
            }
            Step::Identified { topic, number } => self.publish_identified(topic, text, number).await,
            Step::Join { seat, begin, window } => return self.join(seat, begin, window).await,
            Step::Leave { seat, how } => {
                if let Some(Process { consumer, client, held, relay, .. }) = self.seats[seat].take() {
                    match how {
                        Leaving::Dropped => drop(consumer),
                        Leaving::Killed if let Some(mut relay) = relay => relay.shutdown().await,
                        Leaving::Closed | Leaving::Killed => client.close().await.unwrap(),
                    }
                    drop(held);
                }
            }
            Step::Rest { seat } => self.rests(seat, true),
            Step::Take { seat } => self.rests(seat, false),
            Step::Ack { seat, which } => {
                if let Some((sequence, delivery)) = self.taken(seat, which)
                    && let Some(process) = &mut self.seats[seat]
                {
                    process.acknowledged.push((sequence, delivery.ack()));
                }
            }
            Step::Nack { seat, which, delay } => {
                if let Some((_, delivery)) = self.taken(seat, which) {
                    match delay {
                        Some(seconds) => delivery.nack(Duration::from_secs(seconds)),
                        // Who says nothing refuses it as well.
                        None => drop(delivery),
                    }
                }
            }
            Step::InProgress { seat, which } => {
                if let Some((sequence, delivery)) = self.taken(seat, which)
                    && let Some(process) = &mut self.seats[seat]
                {
                    delivery.in_progress();
                    process.held.insert(sequence, delivery);
                }
            }
            Step::Pass { .. } => {}
            Step::Restart => self.restart().await,
            Step::Open { cursor, begin, pattern } => {
                if self.cursors[cursor].is_none() {
                    let options = SubscribeOptions::default().start(start(begin));
                    let opened = self.user.subscribe_bytes_with(PATTERNS[pattern], options).await;
                    self.cursors[cursor] = Some(opened.unwrap());
                }
            }
            Step::Close { cursor } => self.cursors[cursor] = None,
            Step::Page { begin, pattern, limit } => {
                let options = HistoryOptions::default().start(start(begin)).limit(limit, BYTES);
                let page = self.user.history_bytes(PATTERNS[pattern], options).await.unwrap();
                let (next, end, dropped) = (page.next, page.end, page.dropped);
                return Answer::Page(Page { messages: shown(&page), next, end, dropped });
            }
            Step::Redrive { which } | Step::Discard { which } => {
                let (stream, all) = ("log".to_owned(), self.letters().await);
                let sequences = match which {
                    Some(_) if all.is_empty() => return Answer::None,
                    Some(which) => Some(vec![all[which % all.len()].0]),
                    None => None,
                };
                return self
                    .change(match step {
                        Step::Redrive { .. } => StreamChange::Redrive { stream, sequences },
                        _ => StreamChange::Drop { stream, sequences },
                    })
                    .await;
            }
            Step::Remove { consumer } => {
                let (stream, consumer) = ("log".to_owned(), CONSUMERS[consumer].0.to_owned());
                return self.change(StreamChange::RemoveConsumer { stream, consumer }).await;
            }
        }
        Answer::Done
    }

    async fn publish(&self, topic: usize, text: &str, ttl: Option<u64>, options: PublishOptions) {
        let options = match ttl {
            Some(seconds) => options.ttl(Duration::from_secs(seconds)),
            None => options,
        };
        self.user.publish_bytes_with(TOPICS[topic], text.to_owned(), options).await.unwrap();
    }

    /// No client gives a message the id of another, but by sending it again; so this is a peer that does.
    async fn publish_identified(&mut self, topic: usize, text: &str, number: u64) {
        let mut fields = FieldsBuilder::new();
        fields.quality(Quality::ExactlyOnce).unwrap();
        fields.message_id(MessageId::new([7; 16], number)).unwrap();
        let link = self.bus().connector().connect().unwrap();
        let (mut publisher, _) = RawPeer::welcomed(link).await.unwrap();
        let header = Header::new(Kind::Publish, 0, 1);
        publisher.push_with(&header, &fields.finish(), TOPICS[topic].as_bytes(), text.as_bytes());
        publisher.flush().await.unwrap();
        self.publisher = Some(publisher);
    }

    async fn join(&mut self, seat: usize, begin: Begin, window: u32) -> Answer {
        if self.seats[seat].is_some() {
            return Answer::None;
        }
        let (name, pattern) = CONSUMERS[SEATS[seat]];
        let options = SubscribeOptions::default()
            .quality(if seat.is_multiple_of(2) { Quality::AtLeastOnce } else { Quality::ExactlyOnce })
            .start(start(begin))
            .window(window, BYTES)
            .ack_wait(Duration::from_millis(ACK_WAIT))
            .max_deliver(MOST)
            .max_pending(u32::try_from(PENDING[SEATS[seat]]).unwrap());
        let options = match SEATS[seat] {
            NAMELESS => options,
            GROUP => options.group(name),
            _ => options.durable(name),
        };
        let mut link = self.bus().connector().connect().unwrap();
        let mut relay = None;
        if !seat.is_multiple_of(2) {
            link = faulty_link(link, Fault::None, relay.insert(JoinSet::new()));
        }
        let client = Client::builder().connect_link(link).unwrap();
        match client.consume_bytes(pattern, options).await {
            Ok(consumer) => {
                let (held, acknowledged) = (BTreeMap::new(), Vec::new());
                let (arrived, gaps, rests) = (0, (0, 0), false);
                self.seats[seat] =
                    Some(Process { consumer, rests, held, acknowledged, arrived, gaps, client, relay });
                Answer::Done
            }
            Err(BusError::ConsumerBusy { .. }) => Answer::Busy,
            Err(_) => Answer::Refused,
        }
    }

    fn rests(&mut self, seat: usize, rests: bool) {
        if let Some(process) = &mut self.seats[seat] {
            process.rests = rests;
        }
    }

    /// Takes one of the messages from a process that has some, counted round.
    fn taken(&mut self, seat: usize, which: usize) -> Option<(u64, Delivery<Bytes>)> {
        let held = &mut self.seats[seat].as_mut()?.held;
        let sequence = held.keys().copied().nth(which % held.len().max(1))?;
        Some((sequence, held.remove(&sequence)?))
    }

    async fn change(&self, change: StreamChange) -> Answer {
        match self.user.request_bytes("$bus/streams/change", change.to_bytes()).await {
            Ok(changed) => Answer::Count(rmp_serde::from_slice::<StreamChanged>(&changed).unwrap().count),
            Err(_) => Answer::Busy,
        }
    }

    async fn restart(&mut self) {
        self.stop().await;
        self.storage.reopen().await;
        let (bus, user) = serve(&self.storage, self.kept).await;
        (self.bus, self.user, self.publisher) = (Some(bus), user, None);
    }

    /// Ends the bus while its clients are there.
    async fn stop(&mut self) {
        if let Some(bus) = self.bus.take() {
            bus.stop().await;
        }
        (self.seats, self.cursors) = Default::default();
    }

    fn bus(&self) -> &BusHandle {
        self.bus.as_ref().expect("it runs")
    }

    /// Lets everything go its way until so many milliseconds after the beginning.
    pub(super) async fn pass_until(&mut self, until: u64) {
        let mut over = pin!(tokio::time::sleep_until(self.begun + Duration::from_millis(until)));
        poll_fn(|context| {
            self.poll_all(context);
            over.as_mut().poll(context)
        })
        .await;
    }

    fn poll_all(&mut self, context: &mut Context<'_>) {
        let Seen { got, read, answered, .. } = &mut self.seen;
        for (seat, process) in self.seats.iter_mut().enumerate() {
            let Some(process) = process else { continue };
            while !process.rests
                && let Poll::Ready(delivery) = pin!(process.consumer.recv()).poll(context)
            {
                let delivery = delivery.expect("the bus runs");
                let (sequence, attempt) = (delivery.receipt.sequence(), delivery.attempt.unwrap());
                assert_eq!(delivery.position.unwrap().sequence, sequence);
                got[seat].given.push_back(Given {
                    sequence,
                    topic: delivery.topic.to_string(),
                    text: text(&delivery.value),
                    attempt: attempt.number,
                    redelivered: attempt.redelivered,
                });
                let before = process.held.insert(sequence, delivery);
                assert!(before.is_none(), "seat {seat} has {sequence}, and is given it once more");
            }
            process.acknowledged.retain_mut(|(sequence, acknowledged)| {
                match pin!(acknowledged).poll(context) {
                    Poll::Pending => true,
                    Poll::Ready(Ok(())) => {
                        answered.push((seat, *sequence, true));
                        false
                    }
                    Poll::Ready(Err(error)) => {
                        assert!(matches!(error, BusError::StaleAck { .. }), "{error}");
                        answered.push((seat, *sequence, false));
                        false
                    }
                }
            });
        }
        for (cursor, read) in self.cursors.iter_mut().zip(read) {
            let Some(cursor) = cursor else { continue };
            while let Poll::Ready(event) = pin!(cursor.next_event()).poll(context) {
                read.push(match event.expect("the bus runs") {
                    Event::Message(message) => {
                        let position = message.position.unwrap();
                        let (topic, text) = (message.topic.to_string(), text(&message.value));
                        let (sequence, replayed) = (position.sequence, position.replayed);
                        Read::Message { sequence, topic, text, replayed }
                    }
                    Event::Gap { count, reason: GapReason::Retention } => Read::Gap(count),
                    event => panic!("{event:?}"),
                });
            }
        }
    }

    /// All that can be seen since the last look.
    pub(super) async fn look(&mut self) -> Seen {
        let mut seen = std::mem::take(&mut self.seen);
        for (seat, process) in self.seats.iter_mut().enumerate() {
            let Some(process) = process else { continue };
            let counts = process.consumer.counts();
            let gaps = (counts.dropped_for(GapReason::Expired), counts.dropped_for(GapReason::Retention));
            assert_eq!(gaps.0 + gaps.1, counts.dropped(), "nothing else is dropped");
            seen.got[seat].arrived =
                counts.received - std::mem::replace(&mut process.arrived, counts.received);
            let before = std::mem::replace(&mut process.gaps, gaps);
            let sum = &mut seen.gaps[SEATS[seat]];
            *sum = (sum.0 + gaps.0 - before.0, sum.1 + gaps.1 - before.1);
        }
        let consumers: Rows<ConsumerStats> = self.ask("$bus/consumers").await;
        for row in consumers.rows {
            let index = CONSUMERS.iter().position(|(name, _)| *name == row.name).unwrap();
            assert_eq!((row.stream.as_str(), row.pattern.as_str()), ("log", CONSUMERS[index].1));
            let ConsumerStats { subscriptions, floor, behind, pending, again, .. } = row;
            seen.rows[index] = Some(Row { subscriptions, floor, behind, pending, again });
        }
        let streams: Rows<StreamStats> = self.ask("$bus/streams").await;
        let [stream] = &streams.rows[..] else { panic!("there is one: {streams:?}") };
        assert_eq!(stream.problem, None);
        seen.stream = (stream.messages, stream.bytes, stream.first, stream.next);
        let all = HistoryOptions::default().limit(MANY, BYTES);
        seen.messages = shown(&self.user.history_bytes("log/**", all).await.unwrap());
        if stream.dead_letters > 0 {
            seen.letters = self.letters().await;
        }
        assert_eq!(seen.letters.len() as u64, stream.dead_letters);
        seen
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, topic: &str) -> T {
        rmp_serde::from_slice(&self.user.request_bytes(topic, Bytes::new()).await.unwrap()).unwrap()
    }

    async fn letters(&self) -> Vec<(u64, Letter)> {
        let all = HistoryOptions::default().limit(MANY, BYTES);
        let page = self.user.history_bytes("$dead/log/**", all).await.unwrap();
        let letters = page.messages.iter().map(|letter| {
            let header = |name: &str| letter.headers.find(name).unwrap_or_default().to_owned();
            let topic = letter.topic.as_str();
            Letter {
                consumer: topic.strip_prefix("$dead/log").unwrap().trim_start_matches('/').to_owned(),
                text: text(&letter.value),
                topic: header("dead-topic"),
                reason: header("dead-reason"),
                attempts: header("dead-attempts"),
                sequence: header("dead-sequence"),
            }
        });
        page.messages.iter().map(|letter| letter.position.unwrap().sequence).zip(letters).collect()
    }
}

fn text(value: &Bytes) -> String {
    String::from_utf8(value.to_vec()).unwrap()
}

fn shown(page: &History<Bytes>) -> Vec<(u64, String, String)> {
    let messages = page.messages.iter();
    messages
        .map(|message| (message.position.unwrap().sequence, message.topic.to_string(), text(&message.value)))
        .collect()
}
