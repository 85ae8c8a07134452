//! Streams of answers to one request.

use bytes::Bytes;
use whispeer::limits;
use whispeer::prelude::*;

use super::{number, text_of};
use crate::kit::Kit;
use crate::ledger::Live;
use crate::wait::{eventually, now_or_never, soon};

pub(crate) async fn a_stream_of_answers_comes_in_order_and_ends(kit: &Kit) -> Live {
    kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let mut serving = server.serve_bytes("count").await.unwrap();
    let mut answers = client.request_stream_bytes("count", Bytes::new()).await.unwrap();
    let (_, id, _) = serving.recv().await.unwrap();
    assert!(id.wants_stream());
    let mut responder = server.respond_stream_bytes(id).unwrap();
    let answer = async {
        for count in 0..2_000 {
            responder.send(&number(count)).await.unwrap();
        }
        responder.finish().unwrap();
    };
    let receive = async {
        for count in 0..2_000 {
            assert_eq!(text_of(&answers.recv().await.unwrap().unwrap()), count);
        }
        assert!(answers.recv().await.is_none());
    };
    tokio::join!(answer, receive);
    Live::none()
}

pub(crate) async fn a_stream_that_is_not_read_stops_at_its_window(kit: &Kit) -> Live {
    kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let mut serving = server.serve_bytes("count").await.unwrap();
    let mut answers = client.request_stream_bytes("count", Bytes::new()).await.unwrap();
    let (_, id, _) = serving.recv().await.unwrap();
    let mut responder = server.respond_stream_bytes(id).unwrap();
    for count in 0..u64::from(limits::STREAM_WINDOW) {
        soon("room within the window", responder.send(&number(count))).await.unwrap();
    }
    server.flush().await.unwrap();
    client.flush().await.unwrap();
    assert!(now_or_never(responder.send(&number(999))).await.is_none(), "it sent past the window");
    // The connection of the one that does not read is open for everything else.
    assert_eq!(client.publish_bytes("news", "").await.unwrap(), 0);
    for count in 0..u64::from(limits::STREAM_WINDOW) {
        assert_eq!(text_of(&answers.recv().await.unwrap().unwrap()), count);
    }
    soon("room again", responder.send(&number(1_000))).await.unwrap();
    responder.finish().unwrap();
    assert_eq!(text_of(&answers.recv().await.unwrap().unwrap()), 1_000);
    assert!(answers.recv().await.is_none());
    Live::none()
}

pub(crate) async fn dropping_a_stream_cancels_it_at_the_server(kit: &Kit) -> Live {
    let bus = kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let mut serving = server.serve_bytes("count").await.unwrap();
    let answers = client.request_stream_bytes("count", Bytes::new()).await.unwrap();
    let (_, id, _) = serving.recv().await.unwrap();
    let mut responder = server.respond_stream_bytes(id).unwrap();
    responder.send(&number(1)).await.unwrap();
    drop(answers);
    let mut sent = Ok(());
    while sent.is_ok() {
        sent = soon("the cancellation", responder.send(&number(2))).await;
        tokio::task::yield_now().await;
    }
    assert!(matches!(sent, Err(BusError::Cancelled)), "{sent:?}");
    assert!(responder.is_cancelled());
    eventually("the bus forgets the request", || bus.stats().requests_in_flight == 0).await;
    Live::none()
}

pub(crate) async fn a_stream_ends_with_its_error_or_as_abandoned(kit: &Kit) -> Live {
    kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let mut serving = server.serve_bytes("count").await.unwrap();
    for fails in [true, false] {
        let mut answers = client.request_stream_bytes("count", Bytes::new()).await.unwrap();
        let (_, id, _) = serving.recv().await.unwrap();
        let mut responder = server.respond_stream_bytes(id).unwrap();
        responder.send(&number(1)).await.unwrap();
        if fails {
            responder.fail(ErrorReply::new("tired", "no more")).unwrap();
        } else {
            drop(responder);
        }
        assert_eq!(text_of(&answers.recv().await.unwrap().unwrap()), 1);
        match (fails, answers.recv().await) {
            (true, Some(Err(BusError::Replied(reply)))) => assert_eq!(reply.code(), "tired"),
            (false, Some(Err(BusError::Abandoned { .. }))) => {}
            (_, other) => panic!("{other:?}"),
        }
        assert!(answers.recv().await.is_none());
    }
    Live::none()
}

pub(crate) async fn a_single_answer_is_a_stream_of_one(kit: &Kit) -> Live {
    kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let mut serving = server.serve_bytes("count").await.unwrap();
    let mut answers = client.request_stream_bytes("count", Bytes::new()).await.unwrap();
    let (_, id, _) = serving.recv().await.unwrap();
    server.respond_bytes(id, "only".into()).await.unwrap();
    assert_eq!(answers.recv().await.unwrap().unwrap(), "only");
    assert!(answers.recv().await.is_none());
    // The other way round the server learns that its requester takes one answer.
    let refuse = async {
        let (_, id, _) = serving.recv().await.unwrap();
        server.respond_stream_bytes(id).map(drop)
    };
    let (asked, answered) = tokio::join!(client.request_bytes("count", Bytes::new()), refuse);
    assert!(matches!(answered, Err(BusError::InvalidSettings(_))), "{answered:?}");
    assert!(matches!(asked, Err(BusError::InvalidSettings(_))), "{asked:?}");
    Live::none()
}

pub(crate) async fn a_server_that_goes_ends_its_streams(kit: &Kit) -> Live {
    kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let mut serving = server.serve_bytes("count").await.unwrap();
    let mut answers = client.request_stream_bytes("count", Bytes::new()).await.unwrap();
    let (_, id, _) = serving.recv().await.unwrap();
    let mut responder = server.respond_stream_bytes(id).unwrap();
    responder.send(&number(1)).await.unwrap();
    server.close().await.unwrap();
    assert_eq!(text_of(&answers.recv().await.unwrap().unwrap()), 1);
    let end = answers.recv().await;
    assert!(matches!(end, Some(Err(BusError::ServerGone { .. }))), "{end:?}");
    drop((responder, serving));
    Live::none()
}
