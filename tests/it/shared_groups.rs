//! Groups that acknowledge, with members at several buses that have links to each other: all share the messages, by the ledger of the bus that
//! has the consumer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use whispeer::auth::{Policy, Principal};
use whispeer::bus::{BusBuilder, BusView, ConsumerStats, LinkWishes, Rows, Settings, Streams};
use whispeer::client::{Consumer, Delivery, PublishOptions, Quality, Start, SubscribeOptions};
use whispeer::plugin::{self, HookResult, Hooks, Plugin, Refused};
use whispeer::prelude::*;
use whispeer::proto::fields::FieldsBuilder;
use whispeer::proto::{Capabilities, Flags, Header, Kind, Lane, Refusal, ResumeToken, Welcome};
use whispeer::store::{Change, Name, Store, StreamSettings};
use whispeer::transport::{Link, Peer, memory_pair};
use whispeer_testkit::raw::RawPeer;

use crate::joint_store::JointStore;

/// Long enough for whatever is on its way to come. Time is paused.
const LONG: Duration = Duration::from_secs(60);

/// The links that were brought and at which nobody answers, where only such are.
type Silent = Arc<Mutex<Option<Vec<Link>>>>;

/// Two buses that have one store.
struct Buses {
    stores: Vec<JointStore>,
    buses: Vec<BusHandle>,
    clients: Vec<Client>,
    /// Whether there are links between them.
    joined: Arc<AtomicBool>,
    silent: Silent,
    _bringing: JoinSet<()>,
}

/// Brings links to whichever of the buses has the consumer.
async fn bring(mut wishes: LinkWishes, buses: Vec<BusView>, joined: Arc<AtomicBool>, silent: Silent) {
    while let Some(wish) = wishes.next().await {
        let has = |bus: &&BusView| {
            bus.has_consumer(wish.stream(), wish.epoch(), wish.consumer()).unwrap_or_default()
        };
        if let Some(silent) = &mut *silent.lock().unwrap() {
            let (own, other) = memory_pair();
            silent.push(other);
            wish.grant(own);
        } else if joined.load(Ordering::Relaxed)
            && let Some(bus) = buses.iter().find(has)
        {
            wish.grant(bus.connect(Peer::new(Principal::Bus, "memory").sharing()).unwrap());
        }
    }
}

impl Buses {
    async fn start() -> Self {
        Self::start_with(|builder| builder).await
    }

    /// The second of which is built with something more.
    async fn start_with(second: impl Fn(BusBuilder) -> BusBuilder) -> Self {
        let stores = JointStore::new(2);
        let (mut buses, mut clients) = (Vec::new(), Vec::new());
        for store in &stores {
            let (name, pattern) = (Name::new("orders").unwrap(), TopicPattern::new("orders/**").unwrap());
            let settings = StreamSettings::new(name, vec![pattern]);
            let streams = Streams::open(Arc::new(store.clone()), [settings]).await.unwrap();
            let builder = Bus::builder().streams(streams);
            let builder = if buses.is_empty() { builder } else { second(builder) };
            let bus = builder.start().unwrap();
            clients.push(Client::new_memory(&bus.connector()).unwrap());
            buses.push(bus);
        }
        let (joined, silent) = (Arc::new(AtomicBool::new(true)), Silent::default());
        let mut bringing = JoinSet::new();
        for bus in &buses {
            let views = buses.iter().map(BusHandle::view).collect();
            let wishes = bus.view().link_wishes().unwrap();
            bringing.spawn(bring(wishes, views, Arc::clone(&joined), Arc::clone(&silent)));
        }
        Self { stores, buses, clients, joined, silent, _bringing: bringing }
    }

    async fn publish(&self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
            self.clients[0].publish_bytes_with("orders/7", number.to_string(), kept).await.unwrap();
        }
    }

    /// A member of the group at one of the buses.
    async fn member(&self, at: usize, options: SubscribeOptions) -> Consumer<Bytes> {
        self.clients[at].consume_bytes("orders/**", options).await.unwrap()
    }

    /// A member at each bus, the first of which has the consumer.
    async fn members(&self, options: &SubscribeOptions) -> (Consumer<Bytes>, Consumer<Bytes>) {
        let first = self.member(0, options.clone()).await;
        let second = self.member(1, options.clone()).await;
        self.shared_by(2).await;
        assert_eq!(self.stores[0].holder("printers"), Some(0));
        (first, second)
    }

    /// Waits until so many members share the consumer at the bus that has it.
    async fn shared_by(&self, members: u64) {
        let shared = async {
            loop {
                let holder = self.stores[0].holder("printers");
                let rows = match holder {
                    Some(holder) => consumers(&self.clients[holder]).await,
                    None => Vec::new(),
                };
                if rows.iter().any(|row| row.subscriptions as u64 == members) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LONG, shared).await.expect("they share it");
    }

    async fn stop(self) {
        for bus in self.buses {
            bus.stop().await;
        }
    }
}

async fn consumers(client: &Client) -> Vec<ConsumerStats> {
    let rows = client.request_bytes("$bus/consumers", "".into()).await.unwrap();
    rmp_serde::from_slice::<Rows<ConsumerStats>>(&rows).unwrap().rows
}

fn printers() -> SubscribeOptions {
    SubscribeOptions::default().start(Start::All).quality(Quality::AtLeastOnce).group("printers")
}

/// With whose members a message is for another one as long as the first has one that it has not taken.
fn one_by_one() -> SubscribeOptions {
    printers().window(1, 1 << 20)
}

async fn next(consumer: &mut Consumer<Bytes>) -> Delivery<Bytes> {
    timeout(LONG, consumer.recv()).await.expect("a message comes").expect("it goes on")
}

fn number(delivery: &Delivery<Bytes>) -> u64 {
    std::str::from_utf8(&delivery.value).unwrap().parse().unwrap()
}

/// Takes all that comes until nothing does for a while, and returns what was confirmed of it.
async fn take_all(consumer: &mut Consumer<Bytes>) -> Vec<u64> {
    let mut taken = Vec::new();
    while let Ok(Some(delivery)) = timeout(Duration::from_secs(5), consumer.recv()).await {
        let number = number(&delivery);
        match timeout(LONG, delivery.ack()).await.expect("it is answered") {
            Ok(()) => taken.push(number),
            // It comes again.
            Err(BusError::StaleAck { .. } | BusError::NotStored { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn members_at_both_buses_share_the_messages_and_each_is_acknowledged_once() {
    let buses = Buses::start().await;
    let (mut first, mut second) = buses.members(&printers()).await;
    let (_, one, other) = tokio::join!(buses.publish(1..=1_000), take_all(&mut first), take_all(&mut second));
    assert!(one.len() >= 200 && other.len() >= 200, "{} and {}", one.len(), other.len());
    let mut all = [one, other].concat();
    all.sort_unstable();
    assert_eq!(all, (1..=1_000).collect::<Vec<_>>(), "each went to one of them");
    let rows = consumers(&buses.clients[0]).await;
    assert_eq!((rows[0].floor, rows[0].pending), (1_001, 0), "all is done");
    buses.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_member_at_another_bus_had_comes_again_when_it_ends() {
    let buses = Buses::start().await;
    let (mut first, mut second) = buses.members(&one_by_one()).await;
    buses.publish(1..=2).await;
    let held = [next(&mut first).await, next(&mut second).await];
    let [own, others] = held;
    let lost = number(&others);
    own.ack().await.unwrap();
    // Without a word: its client is gone.
    std::mem::forget(others.receipt);
    drop(second);
    let again = next(&mut first).await;
    assert_eq!((number(&again), again.attempt.unwrap().redelivered), (lost, true));
    again.ack().await.unwrap();
    assert!(take_all(&mut first).await.is_empty());
    buses.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_member_at_another_bus_refuses_or_leaves_comes_again_and_is_a_dead_letter_in_the_end() {
    let buses = Buses::start().await;
    let options = printers().max_deliver(3).ack_wait(Duration::from_secs(2));
    let (first, mut second) = buses.members(&options).await;
    // The second one alone, so that all goes there.
    drop(first);
    buses.shared_by(1).await;
    assert_eq!(buses.stores[0].holder("printers"), Some(0), "its members are elsewhere alone");
    let mut dead = buses.clients[1]
        .subscribe_bytes_with("$dead/orders/printers", SubscribeOptions::default().start(Start::All))
        .await
        .unwrap();
    buses.publish([7]).await;
    let attempt = next(&mut second).await;
    assert_eq!(attempt.attempt.unwrap().number, 1);
    attempt.nack(Duration::ZERO);
    let attempt = next(&mut second).await;
    assert_eq!(attempt.attempt.unwrap().number, 2);
    // Its time begins anew with each of these.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        attempt.in_progress();
    }
    assert!(timeout(Duration::from_secs(1), second.recv()).await.is_err());
    attempt.nack(Duration::ZERO);
    let attempt = next(&mut second).await;
    assert_eq!(attempt.attempt.unwrap().number, 3);
    attempt.nack(Duration::ZERO);
    let (topic, payload) = timeout(LONG, dead.recv()).await.unwrap().unwrap();
    assert_eq!((topic.as_str(), &payload[..]), ("$dead/orders/printers", &b"7"[..]));
    buses.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_acknowledged_in_time_goes_to_a_member_at_another_bus() {
    let buses = Buses::start().await;
    let (mut first, mut second) = buses.members(&one_by_one().ack_wait(Duration::from_secs(2))).await;
    buses.publish(1..=2).await;
    let (stuck, taken) = (next(&mut second).await, next(&mut first).await);
    taken.ack().await.unwrap();
    let again = next(&mut first).await;
    assert_eq!(number(&again), number(&stuck));
    assert!(again.attempt.unwrap().redelivered);
    again.ack().await.unwrap();
    let late = timeout(LONG, stuck.ack()).await.expect("it is answered");
    assert!(matches!(late, Ok(()) | Err(BusError::StaleAck { .. })), "{late:?}");
    buses.stop().await;
}

#[tokio::test(start_paused = true)]
async fn members_go_on_at_their_own_bus_when_the_one_that_had_the_consumer_stops() {
    let mut buses = Buses::start().await;
    let (mut first, mut second) = buses.members(&printers().window(2, 1 << 20)).await;
    buses.publish(1..=4).await;
    let confirmed = next(&mut second).await;
    let done = number(&confirmed);
    confirmed.ack().await.unwrap();
    let held = next(&mut second).await;
    let _first = next(&mut first).await;
    buses.buses.remove(0).stop().await;
    let told = timeout(LONG, held.ack()).await.expect("it is answered");
    // It was to be known again at this bus, or it comes again.
    let mut rest = take_all(&mut second).await;
    rest.sort_unstable();
    assert!(!rest.contains(&done), "it was confirmed: {rest:?}");
    assert!(rest.len() >= 2, "{rest:?}, {told:?}");
    assert_eq!(buses.stores[1].holder("printers"), Some(1));
    let rows = consumers(&buses.clients[1]).await;
    assert_eq!((rows[0].floor, rows[0].pending), (5, 0), "all is done");
    buses.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_finds_the_consumer_anothers_sends_members_of_others_there() {
    let buses = Buses::start().await;
    let (mut first, mut second) = buses.members(&printers()).await;
    buses.publish([1]).await;
    // It was cut off for so long that another bus has taken it.
    buses.stores[1].seize("printers");
    let held = timeout(Duration::from_secs(1), async {
        tokio::select! { held = first.recv() => held, held = second.recv() => held }
    });
    let held = held.await.expect("it was handed out before").unwrap();
    let told = timeout(LONG, held.ack()).await.expect("it is answered");
    // It could not be written by the bus that had handed it out, and both share it again. Where it comes to the same client, that says by itself that it is done.
    let (one, other) = tokio::join!(take_all(&mut first), take_all(&mut second));
    assert_eq!([one, other].concat(), if told.is_ok() { vec![] } else { vec![1] });
    let rows = consumers(&buses.clients[1]).await;
    assert_eq!((rows[0].floor, rows[0].pending), (2, 0), "it is done");
    assert_eq!(buses.stores[0].holder("printers"), Some(1));
    buses.shared_by(2).await;
    buses.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_drained_member_at_another_bus_finishes_what_it_has_and_gets_nothing_more() {
    let buses = Buses::start().await;
    let (first, mut second) = buses.members(&printers()).await;
    drop(first);
    buses.shared_by(1).await;
    buses.publish(1..=3).await;
    let begun = next(&mut second).await;
    second.drain().await.unwrap();
    buses.publish(4..=6).await;
    let mut taken = vec![number(&begun)];
    while let Some(waiting) = timeout(LONG, second.recv()).await.expect("it ends") {
        taken.push(number(&waiting));
        waiting.ack().await.unwrap();
    }
    timeout(LONG, begun.ack()).await.expect("it is answered").unwrap();
    let mut successor = buses.member(0, printers()).await;
    taken.extend(take_all(&mut successor).await);
    taken.sort_unstable();
    assert_eq!(taken, [1, 2, 3, 4, 5, 6], "each once");
    buses.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_at_another_bus_is_handed_no_more_than_its_window() {
    let buses = Buses::start().await;
    let (first, mut second) = buses.members(&printers().window(2, 1 << 20)).await;
    drop(first);
    buses.shared_by(1).await;
    buses.publish(1..=50).await;
    assert_eq!(consumers(&buses.clients[0]).await[0].pending, 2, "its client has taken none");
    assert_eq!(take_all(&mut second).await, (1..=50).collect::<Vec<_>>(), "in their order");
    buses.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_grants_and_does_not_read_has_no_more_wait_at_its_bus_than_its_window() {
    let settings = Settings { byte_budget: 16 << 20, ..Settings::default() };
    let buses = Buses::start_with(|builder| builder.settings(settings.clone())).await;
    let first = buses.member(0, printers().window(2, 1 << 20)).await;
    let mut peer = RawPeer::welcomed(buses.buses[1].connector().connect().unwrap()).await.unwrap().0;
    let mut fields = FieldsBuilder::new();
    fields.group("printers").unwrap();
    fields.quality(Quality::AtLeastOnce).unwrap();
    fields.start(Start::All).unwrap();
    fields.window(2, 1 << 20).unwrap();
    peer.push_with(&Header::new(Kind::Subscribe, 7, 1), &fields.finish(), b"orders/**", &[]);
    peer.flush().await.unwrap();
    buses.shared_by(2).await;
    drop(first);
    buses.shared_by(1).await;
    // Its session has room for 32 of these, and its link for 16.
    let payload = Bytes::from(vec![b'x'; 64 * 1024]);
    for _ in 0..200 {
        let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
        buses.clients[0].publish_bytes_with("orders/7", payload.clone(), kept).await.unwrap();
    }
    for _ in 0..200 {
        let credit = Header::new(Kind::Credit, 2, 7).flagged(Flags(Lane::Subscription as u8));
        peer.send(&credit, "", &(1_u64 << 20).to_le_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let pending = consumers(&buses.clients[0]).await[0].pending;
    assert!(
        (2..=60).contains(&pending),
        "what its session and its link have room for, and a window: {pending}"
    );
    buses.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_handed_out_before_a_consumer_moved_counts_in_the_window() {
    let buses = Buses::start().await;
    buses.joined.store(false, Ordering::Relaxed);
    let narrow = printers().window(4, 1 << 20);
    let mut second = buses.member(1, narrow.clone()).await;
    buses.publish(1..=4).await;
    let mut first = buses.member(0, narrow).await;
    // The client of the second has four messages that its application has not taken.
    let one = next(&mut second).await;
    buses.stores[0].seize("printers");
    buses.joined.store(true, Ordering::Relaxed);
    // Where it comes again to the same client, that says by itself that it is done.
    let told = timeout(LONG, one.ack()).await.expect("it is answered");
    buses.publish(5..=40).await;
    let (mut all, other) = tokio::join!(take_all(&mut first), take_all(&mut second));
    all.extend(other);
    all.extend(told.is_ok().then_some(1));
    all.sort_unstable();
    assert_eq!(all, (1..=40).collect::<Vec<_>>());
    buses.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_other_times_than_members_at_another_bus_is_refused() {
    let buses = Buses::start().await;
    let _first = buses.member(0, printers()).await;
    let mut second = buses.member(1, printers().ack_wait(Duration::from_secs(7))).await;
    assert!(timeout(LONG, second.recv()).await.expect("it ends").is_none());
    let reason = second.close_reason();
    assert!(matches!(reason, Some(BusError::InvalidSettings(_))), "{reason:?}");
    buses.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_is_here_for_consumers_may_do_nothing_else_and_finds_no_consumer_that_is_not_here() {
    let buses = Buses::start().await;
    let other = || {
        let link = buses.buses[0].view().connect(Peer::new(Principal::Bus, "memory").sharing()).unwrap();
        Client::builder().no_reconnect().connect_link(link).unwrap()
    };
    let gone = other().consume_bytes("orders/**", printers()).await;
    assert!(matches!(gone, Err(BusError::Closed { .. })), "{:?}", gone.map(drop));
    assert_eq!(buses.stores[0].holder("printers"), None);
    let denied = other().subscribe_bytes("news/*").await;
    assert!(matches!(denied, Err(BusError::Denied { .. })), "{:?}", denied.map(drop));
    let ended = other().publish_bytes("news/local", "x").await;
    assert!(ended.is_err());
    let asked = other().request_bytes("$bus/info", "".into()).await;
    assert!(asked.is_err());
    buses.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_last_member_says_before_it_goes_reaches_the_bus_that_has_the_consumer() {
    let buses = Buses::start().await;
    let (first, mut second) = buses.members(&printers()).await;
    drop(first);
    buses.shared_by(1).await;
    buses.publish(1..=20).await;
    for _ in 0..20 {
        // Nobody waits for the answer.
        drop(next(&mut second).await.ack());
    }
    drop(second);
    let mut successor = buses.member(1, printers()).await;
    assert!(timeout(LONG, successor.recv()).await.is_err(), "all is done");
    buses.stop().await;
}

/// A member at the second bus, which has asked over a link at whose other end the test speaks for the bus that has the consumer, and what it has asked.
async fn asked_by_hand(buses: &Buses) -> (Consumer<Bytes>, RawPeer, Header) {
    *buses.silent.lock().unwrap() = Some(Vec::new());
    let member = buses.member(1, printers()).await;
    let link = timeout(LONG, async {
        loop {
            if let Some(link) = buses.silent.lock().unwrap().as_mut().and_then(Vec::pop) {
                return link;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let mut holder = RawPeer::new(link.await.expect("a link is asked for"));
    let hello = said(&mut holder, Kind::Hello).await;
    assert_eq!(hello.id, 0);
    let welcome = Welcome {
        version: 1,
        capabilities: Capabilities::NONE,
        bus: 1,
        session: 1,
        resume_token: ResumeToken::new([0; 32]),
        resumed: false,
        frame_limit: 1 << 20,
        keep_alive: Duration::from_secs(5),
        block_limit: Duration::from_secs(1),
        publish_window: (1, 1),
        max_subscriptions: 1,
        max_requests: 1,
        received: 0,
    };
    holder.send(&Header::new(Kind::Welcome, 0, 0), "", &welcome.encode()).await.unwrap();
    let asked = said(&mut holder, Kind::Subscribe).await;
    (member, holder, asked)
}

/// The next frame of this kind.
async fn said(peer: &mut RawPeer, kind: Kind) -> Header {
    loop {
        let frame = timeout(LONG, peer.receive()).await.expect("it comes").unwrap().expect("it goes on");
        if frame.header.kind == kind {
            return frame.header;
        }
    }
}

async fn refuse(holder: &mut RawPeer, asked: &Header, error: &BusError) {
    let failed = Header::answering(Kind::Failed, Kind::Subscribe, asked.id, asked.sequence);
    holder.send(&failed, "", &Refusal::from(error).encode()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drained_member_that_the_bus_with_the_consumer_refuses_ends() {
    let buses = Buses::start().await;
    let _first = buses.member(0, printers()).await;
    let (mut second, mut holder, asked) = asked_by_hand(&buses).await;
    second.drain().await.unwrap();
    assert_eq!(said(&mut holder, Kind::Unsubscribe).await.id, asked.id);
    refuse(&mut holder, &asked, &BusError::LimitReached { what: "subscriptions".into() }).await;
    assert!(timeout(LONG, second.recv()).await.expect("it ends").is_none());
    buses.stop().await;
}

#[tokio::test(start_paused = true)]
async fn members_of_a_consumer_that_was_made_anew_by_somebody_else_are_not_fed_its_messages() {
    let reader = "[auth.roles.reader]\nsubscribe.allow = [\"orders/**\"]\n[[auth.certificates]]\nname = \"billing\"\nroles = [\"reader\"]\n";
    let buses = Buses::start_with(|builder| builder.policy(Policy::from_toml(reader).unwrap())).await;
    buses.joined.store(false, Ordering::Relaxed);
    let _first = buses.member(0, printers()).await;
    let as_billing = Principal::Certificate { name: "billing".into() };
    let link = buses.buses[1].connector().connect_as(as_billing).unwrap();
    let billing = Client::builder().connect_link(link).unwrap();
    let mut second = billing.consume_bytes("orders/**", printers()).await.unwrap();
    // It waits, and the consumer becomes another one's meanwhile.
    let (name, stream) = (Name::new("printers").unwrap(), Name::new("orders").unwrap());
    let pattern = Some(TopicPattern::new("orders/**").unwrap());
    let made = Change::Consumer { name: name.clone(), from: 1, pattern, owner: "somebody else".into() };
    buses.stores[0].commit(stream, vec![Change::RemoveConsumer(name), made]).await.unwrap();
    buses.joined.store(true, Ordering::Relaxed);
    buses.publish(1..=10).await;
    assert!(timeout(LONG, second.recv()).await.expect("it ends").is_none(), "it was handed another's");
    let reason = second.close_reason();
    assert!(matches!(reason, Some(BusError::Denied { .. })), "{reason:?}");
    buses.stop().await;
}

/// Keeps orders from everybody.
struct Keeper;

impl Plugin for Keeper {
    fn name(&self) -> &str {
        "keeper"
    }

    fn hooks(&self) -> Hooks {
        Hooks::DELIVER
    }

    fn on_deliver(&self, delivery: &plugin::Delivery<'_>) -> HookResult {
        match delivery.topic().starts_with("orders/") {
            true => Err(Refused::new("not for you")),
            false => Ok(()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn members_whose_bus_has_plugins_that_keep_messages_back_wait_for_their_turn() {
    let buses = Buses::start_with(|builder| builder.plugin(Keeper)).await;
    let mut first = buses.member(0, printers()).await;
    let mut second = buses.member(1, printers()).await;
    buses.publish(1..=20).await;
    let (one, other) = tokio::join!(take_all(&mut first), take_all(&mut second));
    assert_eq!((one, other), ((1..=20).collect(), vec![]), "all may go to the one whose bus has no plugin");
    drop(first);
    buses.shared_by(1).await;
    assert_eq!(buses.stores[0].holder("printers"), Some(1), "it is the other one's turn");
    buses.publish([21]).await;
    assert!(take_all(&mut second).await.is_empty(), "it is kept back");
    buses.stop().await;
}

#[tokio::test(start_paused = true)]
async fn members_that_a_draining_bus_refuses_go_on_at_once_with_the_one_that_has_the_consumer_then() {
    let buses = Buses::start().await;
    let _first = buses.member(0, printers()).await;
    let (_second, mut holder, asked) = asked_by_hand(&buses).await;
    *buses.silent.lock().unwrap() = None;
    let refused = Instant::now();
    refuse(&mut holder, &asked, &BusError::Draining { what: "the bus".into() }).await;
    said(&mut holder, Kind::Goodbye).await;
    buses.shared_by(2).await;
    assert!(refused.elapsed() < Duration::from_secs(1), "{:?}", refused.elapsed());
    buses.stop().await;
}

#[tokio::test(start_paused = true)]
async fn members_that_are_given_a_link_where_nobody_answers_ask_for_another_one() {
    let buses = Buses::start().await;
    *buses.silent.lock().unwrap() = Some(Vec::new());
    let mut second = {
        let _first = buses.member(0, printers()).await;
        buses.publish([1]).await;
        let second = buses.member(1, printers()).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        let asked = buses.silent.lock().unwrap().as_ref().unwrap().len();
        assert!((3..=7).contains(&asked), "each was given five seconds: {asked}");
        second
    };
    // Those of the first bus have gone by now.
    let delivery = next(&mut second).await;
    assert_eq!(number(&delivery), 1);
    timeout(LONG, delivery.ack()).await.expect("it is answered").unwrap();
    buses.stop().await;
}
