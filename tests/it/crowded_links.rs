//! Streams whose readers have had more for a link than it took: they go on when it has room again, without being asked.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use whispeer::bus::Settings;
use whispeer::client::{PublishOptions, Quality, Start};
use whispeer::prelude::*;
use whispeer::proto::fields::FieldsBuilder;
use whispeer::proto::{Header, Kind};
use whispeer::store::{MemoryStore, Store};
use whispeer_testkit::raw::RawPeer;

use crate::orders::{client, streams_on};

/// Long enough for whatever is on its way to come. Time is paused.
const LONG: Duration = Duration::from_secs(5);

const MESSAGES: u64 = 100;
const READERS: u32 = 64;

/// Has one session of a bus with a small budget read a stream many times, and not read its link at first. It has credit for all,
/// so that it says nothing. Returns how many messages come.
async fn delivered_over_a_link_that_was_full(quality: Quality) -> u64 {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let settings = Settings { byte_budget: 16 << 20, ..Settings::default() };
    let bus = Bus::builder().settings(settings).streams(streams_on(&store).await).start().unwrap();
    let kept = PublishOptions::default().quality(Quality::AtLeastOnce);
    for _ in 0..MESSAGES {
        client(&bus).publish_bytes_with("orders/7", vec![0; 4096], kept.clone()).await.unwrap();
    }
    let (mut peer, _) = RawPeer::welcomed(bus.connector().connect().unwrap()).await.unwrap();
    for id in 1..=READERS {
        let mut fields = FieldsBuilder::new();
        fields.quality(quality).unwrap();
        fields.start(Start::All).unwrap();
        peer.push_with(&Header::new(Kind::Subscribe, id, 0), fields.as_bytes(), b"orders/**", b"");
    }
    peer.flush().await.unwrap();
    tokio::time::sleep(LONG).await;
    let mut delivered = 0;
    while let Ok(frame) = timeout(LONG, peer.receive()).await {
        delivered += u64::from(frame.unwrap().unwrap().header.kind == Kind::Deliver);
    }
    delivered
}

#[tokio::test(start_paused = true)]
async fn who_reads_a_stream_goes_on_when_there_is_room_again() {
    let delivered = delivered_over_a_link_that_was_full(Quality::AtMostOnce).await;
    assert_eq!(delivered, MESSAGES * u64::from(READERS));
}

#[tokio::test(start_paused = true)]
async fn who_acknowledges_what_it_reads_goes_on_when_there_is_room_again() {
    let delivered = delivered_over_a_link_that_was_full(Quality::AtLeastOnce).await;
    // What nobody has acknowledged comes again, but later.
    assert_eq!(delivered, MESSAGES * u64::from(READERS));
}
