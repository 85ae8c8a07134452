//! Requests, from the server's side.

use std::sync::Arc;

use tokio::sync::Notify;

use super::*;
use crate::ErrorReply;
use crate::client::{ServeOptions, Serving};
use crate::proto::fields::{FieldsBuilder, Options, ServeMode};

async fn serving(client: &Client, peer: &mut Peer) -> (Serving<Double>, u32) {
    let (serving, asked) = both(client.serve::<Double>(""), peer.accept(Kind::Serve)).await;
    (serving.unwrap(), asked.header.id)
}

impl Peer {
    fn ask(&self, serving: u32, token: u64, payload: &[u8]) {
        let mut fields = FieldsBuilder::new();
        fields.deadline(5 * SECOND).unwrap();
        fields.header("shop", "7").unwrap();
        let header = Header::new(Kind::Ask, serving, token);
        self.send_frame(&header, fields.as_bytes(), "double", payload);
    }

    fn ask_stream(&self, serving: u32, token: u64, window: u32) {
        let mut fields = FieldsBuilder::new();
        fields.window(window, 1_000_000).unwrap();
        let header = Header::new(Kind::Ask, serving, token).flagged(Flags::STREAM);
        self.send_frame(&header, fields.as_bytes(), "double", &encoded(&Double(1)));
    }

    fn cancel(&self, token: u64) {
        self.send(Header::new(Kind::Cancel, 0, token), &[]);
    }

    async fn expect_reply(&mut self, token: u64, flags: Flags) -> Vec<u8> {
        let reply = self.expect(Kind::Reply).await;
        assert_eq!((reply.header.sequence, reply.header.flags), (token, flags), "{reply:?}");
        reply.payload
    }

    async fn expect_refusal(&mut self, token: u64, flags: Flags) -> BusError {
        Refusal::decode(&self.expect_reply(token, flags).await).unwrap().into_error()
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_is_handed_over_and_answered() {
    let (client, mut peer) = connected().await;
    let (mut serving, id) = serving(&client, &mut peer).await;
    peer.ask(id, 900, &encoded(&Double(4)));
    let request = serving.next_request().await.unwrap();
    assert_eq!((request.topic.as_str(), &request.value), ("", &Double(4)));
    assert_eq!(request.headers.find("shop"), Some("7"));
    assert_eq!(request.id.time_left(), Some(5 * SECOND));
    client.respond::<Double>(request.id, &8).await.unwrap();
    assert_eq!(peer.expect_reply(900, Flags::NONE).await, encoded(&8u32));
}

#[tokio::test(start_paused = true)]
async fn a_serving_tells_the_bus_its_options() {
    let (client, mut peer) = connected().await;
    let options = ServeOptions::default().window(2, 4096).group("workers").take_over();
    let (serving, asked) = both(client.serve_with::<Double>("x", options), peer.accept(Kind::Serve)).await;
    serving.unwrap();
    let read = Options::read(&asked.fields).unwrap();
    assert_eq!((read.window, read.group, read.mode), (Some((2, 4096)), Some("workers"), ServeMode::TakeOver));
    assert_eq!(asked.topic, "double/x");
}

#[tokio::test(start_paused = true)]
async fn a_request_id_that_is_dropped_abandons_the_request() {
    let (client, mut peer) = connected().await;
    let (mut serving, id) = serving(&client, &mut peer).await;
    peer.ask(id, 1, &encoded(&Double(4)));
    drop(serving.recv().await.unwrap());
    let abandoned = peer.expect_refusal(1, Flags::ERROR).await;
    assert!(matches!(abandoned, BusError::Abandoned { topic } if topic == "double"));
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_in_a_dropped_serving_are_abandoned() {
    let (client, mut peer) = connected().await;
    let (serving, id) = serving(&client, &mut peer).await;
    peer.ask(id, 1, &encoded(&Double(4)));
    settle().await;
    drop(serving);
    peer.expect(Kind::Unserve).await;
    assert!(matches!(peer.expect_refusal(1, Flags::ERROR).await, BusError::Abandoned { .. }));
    // This one was on its way meanwhile.
    peer.ask(id, 2, &encoded(&Double(4)));
    assert!(matches!(peer.expect_refusal(2, Flags::ERROR).await, BusError::Abandoned { .. }));
    peer.send(Header::answering(Kind::Ended, Kind::Serve, id, 0), &[]);
    settle().await;
    assert!(client.close_reason().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_decode_is_answered_and_counted() {
    let (client, mut peer) = connected().await;
    let (mut serving, id) = serving(&client, &mut peer).await;
    peer.ask(id, 1, b"\xc1");
    peer.ask(id, 2, &encoded(&Double(4)));
    let (_topic, request_id, request) = serving.recv().await.unwrap();
    assert_eq!((request, serving.undecodable()), (Double(4), 1));
    match peer.expect_refusal(1, Flags::ERROR).await {
        BusError::Replied(reply) => assert_eq!(reply.code(), "undecodable"),
        other => panic!("expected an error reply, got {other:?}"),
    }
    client.respond_error(request_id, ErrorReply::new("odd", "no")).await.unwrap();
    assert!(matches!(peer.expect_refusal(2, Flags::ERROR).await, BusError::Replied(_)));
}

#[tokio::test(start_paused = true)]
async fn a_server_sees_that_nobody_waits_any_more() {
    let (client, mut peer) = connected().await;
    let (mut serving, id) = serving(&client, &mut peer).await;
    for token in 1..=3 {
        peer.ask(id, token, &encoded(&Double(4)));
    }
    let (_topic, first, _request) = serving.recv().await.unwrap();
    assert!(!first.is_cancelled());
    let mut cancelled = Box::pin(first.cancelled());
    assert!(is_waiting(&mut cancelled).await);
    peer.cancel(1);
    peer.cancel(2);
    cancelled.await;
    assert!(matches!(client.respond::<Double>(first, &8).await, Err(BusError::Cancelled)));
    // The second was cancelled before it was taken, so the third is next.
    let (_topic, third, _request) = serving.recv().await.unwrap();
    client.respond::<Double>(third, &8).await.unwrap();
    peer.expect_reply(3, Flags::NONE).await;
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_connection_cancels_what_is_in_work() {
    let (client, mut peer) = connected().await;
    let (mut serving, id) = serving(&client, &mut peer).await;
    peer.ask(id, 1, &encoded(&Double(4)));
    let (_topic, request_id, _request) = serving.recv().await.unwrap();
    drop(peer);
    request_id.cancelled().await;
    assert!(matches!(client.respond::<Double>(request_id, &8).await, Err(BusError::Disconnected { .. })));
    assert!(serving.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_answer_through_another_connection_is_refused_and_abandons_the_request() {
    let (client, mut peer) = connected().await;
    let (other, _other_peer) = connected().await;
    let (mut serving, id) = serving(&client, &mut peer).await;
    peer.ask(id, 1, &encoded(&Double(4)));
    let (_topic, request_id, _request) = serving.recv().await.unwrap();
    assert!(matches!(other.respond::<Double>(request_id, &8).await, Err(BusError::InvalidSettings(_))));
    assert!(matches!(peer.expect_refusal(1, Flags::ERROR).await, BusError::Abandoned { .. }));
}

#[tokio::test(start_paused = true)]
async fn an_answer_over_the_frame_limit_is_told_to_both_sides() {
    let (client, mut peer) = connected().await;
    let (serving, asked) = both(client.serve_bytes("big"), peer.accept(Kind::Serve)).await;
    let mut serving = serving.unwrap();
    peer.ask(asked.header.id, 1, b"");
    let (_topic, request_id, _request) = serving.recv().await.unwrap();
    let answer = vec![0; peer.welcome.frame_limit as usize];
    let refused = client.respond_bytes(request_id, answer.into()).await;
    assert!(matches!(refused, Err(BusError::FrameTooLarge { .. })), "{refused:?}");
    assert!(matches!(peer.expect_refusal(1, Flags::ERROR).await, BusError::FrameTooLarge { .. }));
}

#[tokio::test(start_paused = true)]
async fn credit_for_requests_goes_back_as_they_are_taken() {
    let (client, mut peer) = connected().await;
    let options = ServeOptions::default().window(2, 1_000_000);
    let (serving, asked) = both(client.serve_with::<Double>("", options), peer.accept(Kind::Serve)).await;
    let mut serving = serving.unwrap();
    peer.ask(asked.header.id, 1, &encoded(&Double(4)));
    let _request = serving.recv().await.unwrap();
    let credit = peer.expect(Kind::Credit).await;
    assert_eq!((credit.header.flags, credit.header.id), (Flags(Lane::Serving as u8), 1));
    for token in 2..=4 {
        peer.ask(asked.header.id, token, &encoded(&Double(4)));
    }
    assert!(matches!(client.closed().await, BusError::CreditExceeded { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_serving_that_is_taken_over_finishes_what_it_has() {
    let (client, mut peer) = connected().await;
    let (mut serving, id) = serving(&client, &mut peer).await;
    peer.ask(id, 1, &encoded(&Double(4)));
    let taken_over = refusal(&BusError::TakenOver { topic: "double".into() });
    peer.send(Header::answering(Kind::Ended, Kind::Serve, id, 0), &taken_over);
    let (_topic, request_id, _request) = serving.recv().await.unwrap();
    client.respond::<Double>(request_id, &8).await.unwrap();
    peer.expect_reply(1, Flags::NONE).await;
    assert!(serving.recv().await.is_none());
    assert!(matches!(serving.close_reason(), Some(BusError::TakenOver { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_answers_goes_as_far_as_the_requester_grants() {
    let (client, mut peer) = connected().await;
    let (mut serving, id) = serving(&client, &mut peer).await;
    peer.ask_stream(id, 1, 2);
    let (_topic, request_id, _request) = serving.recv().await.unwrap();
    let mut responder = client.respond_stream::<Double>(request_id).unwrap();
    responder.send(&1).await.unwrap();
    responder.send(&2).await.unwrap();
    let mut third = Box::pin(responder.send(&3));
    assert!(is_waiting(&mut third).await);
    peer.credit(Lane::Stream, 1, 1, 100);
    third.await.unwrap();
    responder.finish().unwrap();
    for number in 1..=3u32 {
        assert_eq!(peer.expect_reply(1, Flags::MORE).await, encoded(&number));
    }
    assert!(peer.expect_reply(1, Flags::END).await.is_empty());
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_by_error_by_being_dropped_or_by_its_requester() {
    let (client, mut peer) = connected().await;
    let (mut serving, id) = serving(&client, &mut peer).await;
    let mut responders = Vec::new();
    for token in 1..=3 {
        peer.ask_stream(id, token, 2);
        let (_topic, request_id, _request) = serving.recv().await.unwrap();
        responders.push(client.respond_stream::<Double>(request_id).unwrap());
    }
    let ended = Flags::END.with(Flags::ERROR);
    let mut gone = responders.pop().unwrap();
    drop(responders.pop());
    assert!(matches!(peer.expect_refusal(2, ended).await, BusError::Abandoned { .. }));
    responders.pop().unwrap().fail(ErrorReply::new("odd", "no")).unwrap();
    assert!(matches!(peer.expect_refusal(1, ended).await, BusError::Replied(_)));
    peer.cancel(3);
    settle().await;
    assert!(matches!(gone.send(&1).await, Err(BusError::Cancelled)));
    drop(gone);
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_for_a_plain_request_is_refused_on_both_sides() {
    let (client, mut peer) = connected().await;
    let (mut serving, id) = serving(&client, &mut peer).await;
    peer.ask(id, 1, &encoded(&Double(4)));
    let (_topic, request_id, _request) = serving.recv().await.unwrap();
    assert!(matches!(client.respond_stream::<Double>(request_id), Err(BusError::InvalidSettings(_))));
    assert!(matches!(peer.expect_refusal(1, Flags::ERROR).await, BusError::InvalidSettings(_)));
}

#[tokio::test(start_paused = true)]
async fn a_handler_answers_errs_and_panics_without_harm_to_the_next() {
    let (client, mut peer) = connected().await;
    let handle = client.handle("", |Double(number)| async move {
        match number {
            0 => panic!("zero"),
            1 => Err(ErrorReply::new("odd", "no")),
            _ => Ok(2 * number),
        }
    });
    let (handling, asked) = both(handle, peer.accept(Kind::Serve)).await;
    let handling = handling.unwrap();
    for (token, number) in [(1, 0), (2, 1), (3, 2)] {
        peer.ask(asked.header.id, token, &encoded(&Double(number)));
    }
    for (token, code) in [(1, "panic"), (2, "odd")] {
        match peer.expect_refusal(token, Flags::ERROR).await {
            BusError::Replied(reply) => assert_eq!(reply.code(), code),
            other => panic!("expected an error reply, got {other:?}"),
        }
    }
    assert_eq!(peer.expect_reply(3, Flags::NONE).await, encoded(&4u32));
    assert!(!handling.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_handler_whose_requester_goes_away_is_dropped() {
    let (client, mut peer) = connected().await;
    let alive = Arc::new(());
    let token = Arc::clone(&alive);
    let handle = client.handle("", move |_: Double| {
        let token = Arc::clone(&token);
        async move {
            std::future::pending::<()>().await;
            drop(token);
            Ok(0)
        }
    });
    let (handling, asked) = both(handle, peer.accept(Kind::Serve)).await;
    let _handling = handling.unwrap();
    peer.ask(asked.header.id, 1, &encoded(&Double(4)));
    settle().await;
    assert_eq!(Arc::strong_count(&alive), 3);
    peer.cancel(1);
    settle().await;
    assert_eq!(Arc::strong_count(&alive), 2);
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn a_drained_handler_finishes_what_was_handed_over() {
    let (client, mut peer) = connected().await;
    let go = Arc::new(Notify::new());
    let waits = Arc::clone(&go);
    let handle = client.handle("", move |Double(number)| {
        let waits = Arc::clone(&waits);
        async move {
            waits.notified().await;
            Ok(2 * number)
        }
    });
    let (handling, asked) = both(handle, peer.accept(Kind::Serve)).await;
    let handling = handling.unwrap();
    peer.ask(asked.header.id, 1, &encoded(&Double(4)));
    let script = async {
        peer.expect(Kind::Unserve).await;
        peer.send(Header::answering(Kind::Ended, Kind::Serve, asked.header.id, 0), &[]);
        go.notify_one();
        assert_eq!(peer.expect_reply(1, Flags::NONE).await, encoded(&8u32));
    };
    both(handling.drain(), script).await;
}

#[tokio::test(start_paused = true)]
async fn dropping_a_handler_abandons_what_is_in_work() {
    let (client, mut peer) = connected().await;
    let handle = client.handle("", |_: Double| std::future::pending());
    let (handling, asked) = both(handle, peer.accept(Kind::Serve)).await;
    peer.ask(asked.header.id, 1, &encoded(&Double(4)));
    settle().await;
    drop(handling);
    let mut kinds = [peer.receive().await.unwrap().header.kind, peer.receive().await.unwrap().header.kind];
    kinds.sort_by_key(|kind| *kind as u8);
    assert_eq!(kinds, [Kind::Unserve, Kind::Reply]);
}
