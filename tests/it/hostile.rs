//! Peers that break the rules: each is cut off with a reason, harms nobody else and leaves nothing.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use whispeer::prelude::*;
use whispeer::proto::{Flags, HEADER_LEN, Header, Hello, Kind, Lane, Refusal};
use whispeer_testkit::raw::RawPeer;
use whispeer_testkit::wait::{eventually, soon};

use crate::ground::{Ground, settings};

/// What the bus says in the end to whoever sent these bytes.
async fn farewell(ground: &Ground, bytes: &[u8]) -> BusError {
    let mut stream = UnixStream::connect(ground.socket()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut said = Vec::new();
    soon("the end of the connection", stream.read_to_end(&mut said)).await.unwrap();
    // The last frame is the goodbye; a welcome may stand before it.
    let mut rest = &said[..];
    loop {
        let length = u32::from_le_bytes(*rest.first_chunk().expect("a goodbye")) as usize + 4;
        let (frame, after) = rest.split_at(length);
        if frame[4] == Kind::Goodbye as u8 {
            return Refusal::decode(&frame[HEADER_LEN..]).unwrap().into_error();
        }
        rest = after;
    }
}

fn hello(hello: &Hello) -> Vec<u8> {
    let payload = hello.encode();
    let mut bytes = Header::new(Kind::Hello, 0, 0).encode(0, 0, payload.len()).to_vec();
    bytes.extend_from_slice(&payload);
    bytes
}

#[tokio::test]
async fn garbage_on_the_socket_is_cut_off_with_a_reason() {
    let ground = Ground::new(Bus::builder());
    let bystander = ground.bystander().await;
    for garbage in
        [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], &[0; 64], &[0xff; 4096], b"\x15\0\0\0x"]
    {
        let mut bytes = garbage.to_vec();
        bytes.resize(bytes.len().max(32), b'?');
        let reason = farewell(&ground, &bytes).await;
        assert!(matches!(reason, BusError::Protocol { .. }), "{reason:?}");
    }
    assert_eq!(ground.bus.stats().sessions_cut_off, 4);
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test]
async fn a_version_that_the_bus_does_not_speak_is_refused() {
    let ground = Ground::new(Bus::builder());
    let bystander = ground.bystander().await;
    let other = Hello { min_version: 7, max_version: 9, ..Hello::default() };
    for link in ground.links().await {
        let mut peer = RawPeer::new(link);
        peer.send(&Header::new(Kind::Hello, 0, 0), "", &other.encode()).await.unwrap();
        let reason = soon("a reason", peer.goodbye()).await;
        assert!(matches!(reason, BusError::UnsupportedVersion { .. }), "{reason:?}");
    }
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test]
async fn anything_before_a_complete_hello_is_refused() {
    let ground = Ground::new(Bus::builder());
    for link in ground.links().await {
        let mut peer = RawPeer::new(link);
        peer.push_publish("a", b"too early");
        peer.flush().await.unwrap();
        let reason = soon("a reason", peer.goodbye()).await;
        assert!(matches!(reason, BusError::Protocol { .. }), "{reason:?}");
    }
    for payload in [&b"WSPR"[..], b"NATS\x01\0\x01\0", &[0; 300]] {
        let mut peer = RawPeer::new(ground.memory_link());
        peer.send(&Header::new(Kind::Hello, 0, 0), "", payload).await.unwrap();
        let reason = soon("a reason", peer.goodbye()).await;
        assert!(matches!(reason, BusError::Protocol { .. }), "{reason:?}");
    }
    ground.end().await;
}

#[tokio::test]
async fn oversized_and_malformed_frames_end_their_own_connection_only() {
    let ground = Ground::new(settings(|settings| settings.frame_limit = 128 * 1024));
    let bystander = ground.bystander().await;
    let frame = Header::new(Kind::Publish, 0, 1).encode(0, 1, 3);
    let with = |at: usize, value: &[u8]| {
        let mut bytes = frame.to_vec();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    let malformed = [
        with(0, &(128 * 1024 - 3u32).to_le_bytes()),
        with(0, &u32::MAX.to_le_bytes()),
        with(0, &3u32.to_le_bytes()),
        with(4, &[99]),
        with(6, &u16::MAX.to_le_bytes()),
        with(8, &u16::MAX.to_le_bytes()),
        with(10, &[1, 0]),
    ];
    for bytes in malformed {
        let mut all = hello(&Hello::default());
        all.extend_from_slice(&bytes);
        all.extend_from_slice(b"tail");
        let reason = farewell(&ground, &all).await;
        assert!(matches!(reason, BusError::Protocol { .. }), "{bytes:?}: {reason:?}");
    }
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_their_own_connection_only() {
    let ground = Ground::new(Bus::builder());
    let bystander = ground.bystander().await;
    let twice = |kind| vec![Header::new(kind, 1, 0); 2];
    let breaches: [Vec<Header>; 9] = [
        vec![Header::new(Kind::Hello, 0, 0)],
        vec![Header::new(Kind::Deliver, 1, 1)],
        vec![Header::new(Kind::Welcome, 0, 0)],
        vec![Header::new(Kind::Publish, 0, 2)],
        vec![Header::new(Kind::Credit, 1, 1)],
        vec![Header::new(Kind::Credit, 1, 1).flagged(Flags(Lane::Subscription as u8))],
        twice(Kind::Subscribe),
        twice(Kind::Serve),
        vec![Header::new(Kind::Answer, 1, 1)],
    ];
    for headers in breaches {
        for mut peer in ground.peers().await {
            for header in &headers {
                peer.push(header, "breach", &[]);
            }
            peer.flush().await.unwrap();
            let reason = soon("a reason", peer.goodbye()).await;
            assert!(matches!(reason, BusError::Protocol { .. }), "{headers:?}: {reason:?}");
        }
    }
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test]
async fn bad_calls_of_a_raw_peer_are_refused_and_its_connection_lives() {
    let ground = Ground::new(Bus::builder());
    let bystander = ground.bystander().await;
    for mut peer in ground.peers().await {
        let calls: [(Kind, &[u8], &[u8]); 8] = [
            (Kind::Subscribe, b"", b"a//b"),
            (Kind::Subscribe, b"", b"\xff"),
            (Kind::Subscribe, b"\x03\xff", b"a"),
            (Kind::Subscribe, b"\x03\x0c\0\0\0\0\0\0\0\0\0\0\0\0\0", b"a"),
            (Kind::Serve, b"", b"*"),
            (Kind::Serve, b"", b"$bus/stats"),
            (Kind::Request, b"", b"a/*"),
            (Kind::Request, b"\x01\xff\xff", b"a"),
        ];
        for (id, (kind, fields, topic)) in (1..).zip(calls) {
            peer.push_with(&Header::new(kind, id, 0), fields, topic, b"payload");
        }
        for (sequence, topic) in (1..).zip([&b"a//b"[..], b"\xff", b"$bus"]) {
            peer.push_with(&Header::new(Kind::Publish, 0, sequence), &[], topic, b"payload");
        }
        peer.push(&Header::new(Kind::Ping, 0, 77), "", &[]);
        peer.flush().await.unwrap();
        let mut refused = 0;
        loop {
            let frame = soon("an answer", peer.receive()).await.unwrap().expect("the connection lives");
            match frame.header.kind {
                Kind::Failed => refused += 1,
                Kind::Answer if frame.header.flags.contains(Flags::ERROR) => refused += 1,
                Kind::Pong if frame.header.sequence == 77 => break,
                Kind::Ping => {}
                kind => panic!("{kind:?} as the answer to a bad call"),
            }
        }
        assert_eq!(refused, 11);
    }
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test]
async fn a_client_killed_in_mid_request_leaves_nothing_and_its_other_side_knows() {
    let ground = Ground::new(Bus::builder());
    let bystander = ground.bystander().await;
    let server = ground.client();
    let mut serving = server.serve_bytes("work").await.unwrap();
    for mut peer in ground.peers().await {
        peer.send(&Header::new(Kind::Request, 1, 30_000_000), "work", b"payload").await.unwrap();
        let (_, id, _) = soon("the request", serving.recv()).await.unwrap();
        drop(peer);
        soon("the cancellation", id.cancelled()).await;
    }
    serving.drain().await.unwrap();
    let before = ground.bus.stats().served_topics;
    for mut peer in ground.peers().await {
        peer.send(&Header::new(Kind::Serve, 1, 0), "fragile", &[]).await.unwrap();
        eventually("the topic is served", || ground.bus.stats().served_topics == before + 1).await;
        let kill = async {
            while peer.receive().await.unwrap().is_some_and(|frame| frame.header.kind != Kind::Ask) {}
            drop(peer);
        };
        let (answer, ()) = tokio::join!(server.request_bytes("fragile", "x".into()), kill);
        assert!(matches!(answer, Err(BusError::ServerGone { .. })), "{answer:?}");
        eventually("nobody serves it", || ground.bus.stats().served_topics == before).await;
    }
    server.close().await.unwrap();
    bystander.was_unharmed().await;
    ground.end().await;
}

#[tokio::test]
async fn random_frames_neither_panic_nor_stop_the_bus() {
    const KINDS: [Kind; 12] = [
        Kind::Ping,
        Kind::Pong,
        Kind::Credit,
        Kind::Subscribe,
        Kind::Unsubscribe,
        Kind::Publish,
        Kind::Serve,
        Kind::Unserve,
        Kind::Request,
        Kind::Reply,
        Kind::Cancel,
        Kind::Goodbye,
    ];
    const TOPICS: [&[u8]; 6] = [b"a", b"a/*", b"**", b"b/c", b"", b"$x"];
    let ground = Ground::new(Bus::builder());
    // A multiplicative generator: the frames are the same in every run.
    let mut state = 0x9e37_79b9_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for round in 0..60 {
        let [memory, unix] = ground.peers().await;
        let mut peer = if round % 2 == 0 { memory } else { unix };
        let mut published = 0;
        for _ in 0..200 {
            let among = if random(40) == 0 { KINDS.len() } else { KINDS.len() - 1 };
            let kind = KINDS[random(among)];
            let mut header =
                Header::new(kind, random(4) as u32, random(6) as u64).flagged(Flags(random(8) as u8));
            if kind == Kind::Publish {
                published += 1;
                header.sequence = published;
            }
            let payload = vec![random(256) as u8; random(40)];
            peer.push_with(&header, &[], TOPICS[random(6)], &payload);
        }
        // It may have been cut off before.
        let _ = peer.flush().await;
    }
    // These were free to publish to everything; others are served as before.
    ground.serves_others().await;
    ground.end().await;
}
