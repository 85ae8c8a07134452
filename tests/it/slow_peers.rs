//! Peers that are slow or silent: whoever leaves too much unread or unfinished is cut off with a reason
//! after a time limit, whoever reads however slowly lives, and others never notice.

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};
use whispeer::client::SubscribeOptions;
use whispeer::limits::{HANDSHAKE_TIMEOUT, KEEP_ALIVE, STALL_LIMIT};
use whispeer::prelude::*;
use whispeer::proto::fields::{FieldsBuilder, decode_gap};
use whispeer::proto::{Flags, HEADER_LEN, Header, Hello, Kind, Lane, Refusal};
use whispeer::transport::{Form, Incoming};
use whispeer_testkit::raw::RawPeer;
use whispeer_testkit::wait::{eventually, soon};

use crate::ground::{Ground, settings};

/// A peer that has said `HELLO` and reads and writes single bytes as it pleases.
struct SlowPeer {
    stream: UnixStream,
}

impl SlowPeer {
    async fn welcomed(ground: &Ground) -> Self {
        let mut peer = Self { stream: UnixStream::connect(ground.socket()).await.unwrap() };
        peer.send(&Header::new(Kind::Hello, 0, 0), &[], "", &Hello::default().encode()).await;
        assert_eq!(peer.receive().await.0.kind, Kind::Welcome);
        peer
    }

    async fn send(&mut self, header: &Header, fields: &[u8], topic: &str, payload: &[u8]) {
        let head = header.encode(fields.len(), topic.len(), payload.len());
        let frame = [&head[..], fields, topic.as_bytes(), payload].concat();
        self.stream.write_all(&frame).await.unwrap();
    }

    /// Reads a single frame and not a byte more.
    async fn receive(&mut self) -> (Header, Vec<u8>) {
        let mut frame = vec![0; HEADER_LEN];
        self.stream.read_exact(&mut frame).await.unwrap();
        let total = u32::from_le_bytes(*frame.first_chunk().unwrap()) as usize + 4;
        frame.resize(total, 0);
        self.stream.read_exact(&mut frame[HEADER_LEN..]).await.unwrap();
        let mut incoming = Incoming::new(Form::Bytes, usize::MAX);
        let mut read = 0;
        while read < total {
            read += poll_fn(|context| incoming.poll_read_from(context, &mut &frame[read..])).await.unwrap();
        }
        let (header, content) = incoming.next_frame().unwrap().unwrap();
        (header, content.payload().to_vec())
    }

    /// Reads all that is left, up to the reason for the end.
    async fn goodbye(&mut self) -> BusError {
        loop {
            let (header, payload) = soon("a goodbye", self.receive()).await;
            if header.kind == Kind::Goodbye {
                return Refusal::decode(&payload).unwrap().into_error();
            }
        }
    }
}

/// The options of a subscription that the bus never has to hold back for.
fn boundless() -> Vec<u8> {
    let mut fields = FieldsBuilder::new();
    fields.window(1_000_000, 1 << 30).unwrap();
    fields.finish()
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_hung_up_on() {
    let ground = Ground::new(Bus::builder());
    let bystander = ground.bystander().await;
    // Half a handshake is none.
    let mut half = UnixStream::connect(ground.socket()).await.unwrap();
    half.write_all(&Header::new(Kind::Hello, 0, 0).encode(0, 0, 100)).await.unwrap();
    for link in ground.links().await {
        let start = Instant::now();
        let reason = soon("a reason", RawPeer::new(link).goodbye()).await;
        assert!(matches!(reason, BusError::TimedOut { .. }), "{reason:?}");
        assert!(start.elapsed() <= HANDSHAKE_TIMEOUT + Duration::from_millis(10), "{:?}", start.elapsed());
    }
    let reason = SlowPeer { stream: half }.goodbye().await;
    assert!(matches!(reason, BusError::TimedOut { .. }), "{reason:?}");
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_welcomed_peer_that_falls_silent_is_cut_off_for_it() {
    let ground = Ground::new(Bus::builder());
    let bystander = ground.bystander().await;
    let start = Instant::now();
    for mut peer in ground.peers().await {
        let reason = tokio::time::timeout(4 * KEEP_ALIVE, peer.goodbye()).await.expect("a reason");
        assert!(matches!(reason, BusError::KeepAlive { .. }), "{reason:?}");
        assert_eq!(start.elapsed().as_secs(), 3 * KEEP_ALIVE.as_secs());
    }
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_is_cut_off_as_stalled() {
    let ground = Ground::new(settings(|settings| settings.stall_limit = Duration::from_secs(15)));
    let mut bystander = ground.bystander().await;
    let client = ground.client();
    for mut peer in ground.peers().await {
        let before = ground.bus.stats();
        peer.push_with(&Header::new(Kind::Subscribe, 1, 0), &boundless(), b"news", &[]);
        peer.flush().await.unwrap();
        eventually("the peer has subscribed", || {
            ground.bus.stats().subscriptions == before.subscriptions + 1
        })
        .await;
        let news = client.publisher_bytes("news").unwrap();
        for _ in 0..5_000 {
            news.send(&vec![0; 1_000].into()).await.unwrap();
        }
        news.flush().await.unwrap();
        let start = Instant::now();
        while ground.bus.stats().sessions_cut_off == before.sessions_cut_off {
            assert!(start.elapsed() < Duration::from_secs(30), "the peer is not cut off");
            sleep(Duration::from_millis(500)).await;
            bystander.goes_on().await;
        }
        let reason = soon("a reason", peer.goodbye()).await;
        assert!(matches!(reason, BusError::Stalled { .. }), "{reason:?}");
        assert_eq!(client.publish_bytes("news", "to nobody").await.unwrap(), 0);
        assert_eq!(ground.bus.stats().subscriptions, before.subscriptions);
    }
    client.close().await.unwrap();
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_one_frame_now_and_then_lives_and_harms_nobody() {
    let ground = Ground::new(Bus::builder());
    let mut bystander = ground.bystander().await;
    let mut slow = SlowPeer::welcomed(&ground).await;
    // A window that its socket holds: the bus never has more for it.
    let mut fields = FieldsBuilder::new();
    fields.window(64, 64 * 1024).unwrap();
    slow.send(&Header::new(Kind::Subscribe, 1, 0), fields.as_bytes(), "news", &[]).await;
    assert_eq!(slow.receive().await.0.kind, Kind::Accepted);
    let client = ground.client();
    let news = client.publisher_bytes("news").unwrap();
    let (mut delivered, mut dropped) = (0, 0);
    for round in 0..10 * STALL_LIMIT.as_secs() / 7 {
        for _ in 0..100 {
            news.send(&vec![0; 1_000].into()).await.unwrap();
        }
        news.flush().await.unwrap();
        sleep(Duration::from_secs(7)).await;
        bystander.goes_on().await;
        let (header, payload) = soon("the next frame", slow.receive()).await;
        match header.kind {
            Kind::Deliver => delivered += 1,
            Kind::Gap => dropped += decode_gap(&payload).unwrap().0,
            Kind::Ping => {}
            kind => panic!("{kind:?} in round {round}"),
        }
        assert!(header.kind == Kind::Ping || header.sequence == delivered + dropped, "{header:?}");
        let credit = Header::new(Kind::Credit, 1, 1).flagged(Flags(Lane::Subscription as u8));
        slow.send(&credit, &[], "", &1_100u64.to_le_bytes()).await;
    }
    assert!(delivered > 20 && ground.bus.stats().sessions_cut_off == 0);
    drop(slow);
    client.close().await.unwrap();
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_application_that_takes_one_message_now_and_then_slows_nobody_else() {
    let ground = Ground::new(Bus::builder());
    let publisher = ground.client();
    for client in [ground.client(), Client::new_unix(&ground.socket()).await.unwrap()] {
        let few = SubscribeOptions::default().window(4, 1024);
        let mut slow = client.subscribe_bytes_with("news", few).await.unwrap();
        let mut fast = client.subscribe_bytes("news").await.unwrap();
        for round in 0..20u64 {
            for _ in 0..50 {
                assert_eq!(publisher.publish_bytes("news", "a line").await.unwrap(), 2);
                assert_eq!(fast.recv().await.unwrap().1, "a line");
            }
            assert_eq!(fast.counts().received, 50 * (round + 1));
            sleep(Duration::from_secs(5)).await;
            slow.recv().await.unwrap();
        }
        let row = ground.bus.subscriptions().into_iter().find(|row| !row.dropped.is_empty()).unwrap();
        assert_eq!(row.matched, 1_000);
        drop((slow, fast));
        client.close().await.unwrap();
    }
    assert_eq!(ground.bus.stats().sessions_cut_off, 0);
    publisher.close().await.unwrap();
    ground.serves_others().await;
    ground.end().await;
}

#[tokio::test]
async fn floods_of_pings_and_subscribes_without_reading_overrun_the_control_lane() {
    let ground = Ground::new(Bus::builder());
    let mut bystander = ground.bystander().await;
    for kind in [Kind::Ping, Kind::Subscribe] {
        for mut peer in ground.peers().await {
            let before = ground.bus.stats().sessions_cut_off;
            let flood = async {
                let mut count = 0;
                while ground.bus.stats().sessions_cut_off == before {
                    for _ in 0..256 {
                        count += 1;
                        peer.push(&Header::new(kind, count, u64::from(count)), "flood", &[]);
                    }
                    peer.flush().await.unwrap();
                    bystander.goes_on().await;
                }
                // More than the link holds: the bus reads on, so that its peer gets to read the reason.
                for _ in 0..100_000 {
                    peer.push(&Header::new(Kind::Ping, 0, 0), "", &[]);
                }
                peer.flush().await.unwrap();
            };
            soon("the end of the flood", flood).await;
            let reason = soon("a reason", peer.goodbye()).await;
            assert!(matches!(reason, BusError::ControlOverrun { .. }), "{kind:?}: {reason:?}");
            drop(peer);
            bystander.goes_on().await;
        }
    }
    assert_eq!(ground.bus.stats().sessions_cut_off, 4);
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_begun_and_never_finished_ends_its_connection() {
    let ground = Ground::new(Bus::builder());
    let mut bystander = ground.bystander().await;
    // A small frame and one that is read into a buffer of its own.
    for size in [1_000, 1_000_000] {
        let before = ground.bus.stats();
        let mut peer = SlowPeer::welcomed(&ground).await;
        let head = Header::new(Kind::Publish, 0, 1).encode(0, 4, size);
        peer.stream.write_all(&[&head[..], b"news"].concat()).await.unwrap();
        let start = Instant::now();
        while ground.bus.stats().sessions_cut_off == before.sessions_cut_off {
            assert!(start.elapsed() < 2 * STALL_LIMIT, "the peer is not cut off");
            // A sign of life, and no more.
            peer.stream.write_all(b"x").await.unwrap();
            sleep(Duration::from_secs(3)).await;
            bystander.goes_on().await;
        }
        assert!(start.elapsed() >= STALL_LIMIT / 2);
        let reason = peer.goodbye().await;
        let BusError::Protocol { what } = &reason else { panic!("{reason:?}") };
        assert!(what.contains("not finished"), "{what}");
    }
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_takes_its_time_and_is_finished_arrives() {
    let ground = Ground::new(Bus::builder());
    let client = ground.client();
    let mut subscription = client.subscribe_bytes("news").await.unwrap();
    let mut peer = SlowPeer::welcomed(&ground).await;
    for sequence in 1..=5 {
        let head = Header::new(Kind::Publish, 0, sequence).encode(0, 4, 20);
        for byte in [&head[..], b"newstwenty bytes of news"].concat() {
            peer.stream.write_all(&[byte]).await.unwrap();
            sleep(Duration::from_millis(400)).await;
        }
        assert_eq!(soon("the message", subscription.recv()).await.unwrap().1, "twenty bytes of news");
    }
    assert_eq!(ground.bus.stats().sessions_cut_off, 0);
}
