//! What takes a session long leaves others their turns, and loses nothing by it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use whispeer::bus::BusStats;
use whispeer::limits::{ENDED_PER_TURN, TURN_MATCHES};
use whispeer::prelude::*;
use whispeer::proto::fields::FieldsBuilder;
use whispeer::proto::{Flags, Header, Kind};
use whispeer_testkit::ledger::totals_balance;
use whispeer_testkit::raw::RawPeer;
use whispeer_testkit::wait::{eventually, soon};

/// So many that a wildcard leads to more nodes, and to more matches, than one turn allows.
const SUBSCRIPTIONS: u32 = 40_000;

/// A bus with many subscriptions, all of them to different topics.
struct Crowd {
    bus: Arc<BusHandle>,
    subscriber: RawPeer,
}

impl Crowd {
    async fn new() -> Self {
        let bus = Arc::new(Bus::builder().start().unwrap());
        let mut subscriber = peer(&bus).await;
        for id in 1..=SUBSCRIPTIONS {
            subscriber.push(&Header::new(Kind::Subscribe, id, 0), &format!("a/{id}/b"), &[]);
            if id % 250 == 0 {
                subscriber.flush().await.unwrap();
                for _ in 0..250 {
                    assert_eq!(next(&mut subscriber).await.kind, Kind::Accepted);
                }
            }
        }
        Self { bus, subscriber }
    }

    fn client(&self) -> Client {
        Client::new_memory(&self.bus.connector()).unwrap()
    }

    /// Lets a peer send what it has queued, and gives the state of the bus after each turn until `done`.
    async fn seen_between_turns(
        &self,
        publisher: &mut RawPeer,
        done: impl Fn(&BusStats) -> bool + Send + 'static,
    ) -> Vec<BusStats> {
        publisher.flush().await.unwrap();
        seen_between_turns(Arc::clone(&self.bus), done).await
    }
}

/// The state of the bus after each turn of another task until `done`. Sessions are tasks, too: they take
/// turns with it.
async fn seen_between_turns(
    bus: Arc<BusHandle>,
    done: impl Fn(&BusStats) -> bool + Send + 'static,
) -> Vec<BusStats> {
    let turns = tokio::spawn(async move {
        let mut seen = vec![bus.stats()];
        while !seen.last().is_some_and(&done) {
            turn().await;
            seen.push(bus.stats());
        }
        seen
    });
    soon("the end", turns).await.unwrap()
}

/// Lets all other tasks that are ready have a turn.
async fn turn() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Others had a turn when some of the many had the message and some had not.
fn assert_in_parts(seen: &[BusStats]) {
    let matched: Vec<_> = seen.iter().map(|stats| stats.matched).collect();
    assert!(matched.iter().any(|matched| (1..SUBSCRIPTIONS.into()).contains(matched)), "{matched:?}");
    assert!(matched.windows(2).all(|pair| pair[1] - pair[0] <= TURN_MATCHES), "{matched:?}");
}

/// A publish to many topics that nobody subscribes to, and to these.
fn several(first: &str, last: &[&str]) -> (Header, FieldsBuilder, Vec<u8>) {
    let mut fields = FieldsBuilder::new();
    for number in 0..40 {
        fields.topic(&format!("**/nobody/**/{number}")).unwrap();
    }
    for topic in last {
        fields.topic(topic).unwrap();
    }
    (Header::new(Kind::Publish, 0, 1).flagged(Flags::ACKNOWLEDGE), fields, first.into())
}

async fn peer(bus: &BusHandle) -> RawPeer {
    RawPeer::welcomed(bus.connector().connect().unwrap()).await.unwrap().0
}

async fn next(peer: &mut RawPeer) -> Header {
    soon("a frame", peer.receive()).await.unwrap().expect("the connection lives").header
}

/// The number of matches that the bus answers an acknowledged publish with.
async fn matches(peer: &mut RawPeer) -> u32 {
    loop {
        let header = next(peer).await;
        assert_ne!(header.kind, Kind::Failed);
        if header.kind == Kind::Accepted {
            return header.id;
        }
    }
}

#[tokio::test]
async fn looking_for_matches_that_are_not_there_counts_as_work_of_the_turn() {
    const PUBLISHES: u64 = 200;
    let crowd = Crowd::new().await;
    let mut publisher = peer(&crowd.bus).await;
    for number in 0..PUBLISHES {
        publisher.push_publish(&format!("**/nobody/**/{number}/here"), b"");
    }
    let seen = crowd.seen_between_turns(&mut publisher, |stats| stats.published == PUBLISHES).await;
    let steps = seen.windows(2).map(|pair| pair[1].published - pair[0].published);
    assert!(steps.max() == Some(1), "each of them takes more than a turn");
    assert!(seen.len() > PUBLISHES as usize);
    assert_eq!(crowd.bus.stats().matched, 0);
}

#[tokio::test]
async fn a_publish_to_several_topics_is_interrupted_between_and_within_them() {
    let mut crowd = Crowd::new().await;
    let mut publisher = peer(&crowd.bus).await;
    let (header, fields, first) = several("a/7/*", &["a/*/b", "**/b"]);
    publisher.push_with(&header, fields.as_bytes(), &first, b"once");
    let seen = crowd.seen_between_turns(&mut publisher, |stats| stats.published > 0).await;
    assert!(seen.len() > 40, "others had only {} turns meanwhile", seen.len());
    assert_in_parts(&seen);
    let read = async {
        let mut times = vec![0; SUBSCRIPTIONS as usize + 1];
        for _ in 0..SUBSCRIPTIONS {
            let header = next(&mut crowd.subscriber).await;
            assert_eq!(header.kind, Kind::Deliver);
            times[header.id as usize] += 1;
        }
        assert!(times[1..].iter().all(|times| *times == 1), "each subscription gets it once");
    };
    let (answered, ()) = tokio::join!(matches(&mut publisher), read);
    assert_eq!(answered, SUBSCRIPTIONS);
    totals_balance(&crowd.bus.stats()).unwrap();
}

#[tokio::test]
async fn a_message_with_more_matches_than_a_turn_allows_reaches_all_of_them_in_several() {
    let mut crowd = Crowd::new().await;
    let mut publisher = peer(&crowd.bus).await;
    let header = Header::new(Kind::Publish, 0, 1).flagged(Flags::ACKNOWLEDGE);
    publisher.push(&header, "a/**", b"to all");
    publisher.push(&Header::new(Kind::Publish, 0, 2), "a/40000/b", b"to one");
    publisher.push(&Header::new(Kind::Publish, 0, 3), "a/1/b", b"to one");
    let seen = crowd.seen_between_turns(&mut publisher, |stats| stats.published > 0).await;
    assert_in_parts(&seen);
    let read = async {
        // What was published later comes later.
        let mut last = vec![0; SUBSCRIPTIONS as usize + 1];
        for _ in 0..SUBSCRIPTIONS + 2 {
            let frame = soon("a message", crowd.subscriber.receive()).await.unwrap().unwrap();
            assert_eq!(frame.header.kind, Kind::Deliver);
            let last = &mut last[frame.header.id as usize];
            *last += 1;
            assert_eq!(frame.header.sequence, *last);
            assert_eq!(&frame.payload[..], if *last == 1 { &b"to all"[..] } else { b"to one" });
        }
        assert_eq!((last[1], last[2], last[40_000]), (2, 1, 2));
    };
    let (answered, ()) = tokio::join!(matches(&mut publisher), read);
    assert_eq!(answered, SUBSCRIPTIONS);
    totals_balance(&crowd.bus.stats()).unwrap();
}

#[tokio::test]
async fn subscriptions_change_while_others_are_looked_up() {
    let mut crowd = Crowd::new().await;
    let mut publisher = peer(&crowd.bus).await;
    let client = crowd.client();
    client.ping().await.unwrap();
    let (header, fields, first) = several("**/b", &[]);
    publisher.push_with(&header, fields.as_bytes(), &first, b"x");
    publisher.flush().await.unwrap();
    let bus = Arc::clone(&crowd.bus);
    let subscribed = tokio::spawn(async move {
        let subscription = client.subscribe_bytes("**/b").await.unwrap();
        assert_eq!(bus.stats().published, 0, "others do not wait for the end of a look-up");
        subscription
    });
    let mut late = soon("a subscription", subscribed).await.unwrap();
    for id in 1..=SUBSCRIPTIONS {
        crowd.subscriber.push(&Header::new(Kind::Unsubscribe, id, 0), "", &[]);
    }
    let (answered, sent) = tokio::join!(matches(&mut publisher), async {
        crowd.subscriber.flush().await.unwrap();
        let (mut ended, mut delivered) = (0, 0);
        while ended < SUBSCRIPTIONS {
            match next(&mut crowd.subscriber).await.kind {
                Kind::Ended => ended += 1,
                Kind::Deliver => delivered += 1,
                kind => panic!("{kind:?}"),
            }
        }
        delivered
    });
    assert!(answered == sent || answered == sent + 1, "{answered} matches, {sent} delivered to the many");
    publisher.push(&Header::new(Kind::Publish, 0, 2), "a/b", b"news");
    publisher.flush().await.unwrap();
    let mut received = soon("the news", late.recv()).await.unwrap().1;
    if received == "x" {
        received = soon("the news", late.recv()).await.unwrap().1;
    }
    assert_eq!(received, "news");
    eventually("the totals balance", || totals_balance(&crowd.bus.stats()).is_ok()).await;
}

#[tokio::test(start_paused = true)]
async fn what_goes_on_in_the_next_turn_waits_for_nothing_else() {
    let crowd = Crowd::new().await;
    let mut publisher = peer(&crowd.bus).await;
    let start = tokio::time::Instant::now();
    for sequence in 1..=24 {
        // What comes before leaves more or less of a turn.
        for _ in 0..sequence {
            publisher.push(&Header::new(Kind::Ping, 0, 0), "", b"");
        }
        let header = Header::new(Kind::Publish, 0, sequence).flagged(Flags::ACKNOWLEDGE);
        publisher.push(&header, &format!("**/nobody/**/{sequence}"), b"");
        publisher.flush().await.unwrap();
        assert_eq!(matches(&mut publisher).await, 0);
    }
    // The clock goes on by itself when there is nothing to do but to wait for it.
    assert_eq!(start.elapsed(), std::time::Duration::ZERO);
}

#[tokio::test]
async fn a_publisher_that_leaves_in_the_middle_of_a_publish_leaves_nothing_behind() {
    let crowd = Crowd::new().await;
    for topic in ["**/nobody/**/here", "a/**"] {
        let mut publisher = peer(&crowd.bus).await;
        publisher.push_publish(topic, b"x");
        publisher.flush().await.unwrap();
        let other = crowd.client();
        other.ping().await.unwrap();
        drop(publisher);
        other.close().await.unwrap();
        eventually("it has gone", || crowd.bus.stats().sessions == 1).await;
    }
    let stats = crowd.bus.stats();
    assert_eq!(stats.published + stats.failed_publishes, 2);
    totals_balance(&stats).unwrap();
    let Crowd { bus, subscriber } = crowd;
    drop(subscriber);
    eventually("nothing is left", || bus.stats().table_bytes == 0 && bus.stats().queued_bytes == 0).await;
    totals_balance(&bus.stats()).unwrap();
}

#[tokio::test]
async fn the_subscriptions_of_a_session_that_ends_are_taken_back_in_several_turns() {
    let Crowd { bus, subscriber } = Crowd::new().await;
    let publisher = Client::new_memory(&bus.connector()).unwrap();
    assert_eq!(publisher.publish_bytes("a/*/b", "unread").await.unwrap(), SUBSCRIPTIONS as usize);
    drop(subscriber);
    let seen = seen_between_turns(Arc::clone(&bus), |stats| stats.subscriptions == 0).await;
    let left: Vec<_> = seen.iter().map(|stats| stats.subscriptions).collect();
    assert!(left.windows(2).all(|pair| pair[0] - pair[1] <= ENDED_PER_TURN), "{left:?}");
    eventually("the session has gone", || bus.stats().sessions == 1).await;
    let stats = bus.stats();
    assert_eq!((stats.table_bytes, stats.untaken), (0, SUBSCRIPTIONS.into()));
    totals_balance(&stats).unwrap();
}
