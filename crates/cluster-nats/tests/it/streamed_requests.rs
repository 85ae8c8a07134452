//! Streams of replies from another bus.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use whispeer::client::{Handling, ReplyStream, RequestId, RequestOptions, Serving};
use whispeer::prelude::*;
use whispeer_testkit::nats::NatsServer;
use whispeer_testkit::wait::{eventually, now_or_never, soon};

use crate::ground::{Node, pair, server};

struct Ground {
    one: Node,
    two: Node,
    counting: Serving<Bytes>,
    _known: Handling,
    _server: NatsServer,
}

/// Two buses; at the second one `count` is served.
async fn ground() -> Option<Ground> {
    let server = server().await?;
    let (one, two) = pair(&server).await;
    let counting = two.client.serve_bytes("count").await.unwrap();
    let _known = two.client.handle_bytes("known", |_| async { Ok("".into()) }).await.unwrap();
    // What was served before it is known as well.
    one.ask("known", "").await.unwrap();
    Some(Ground { one, two, counting, _known, _server: server })
}

impl Ground {
    async fn ask(&mut self, window: u32) -> (ReplyStream<Bytes>, RequestId) {
        let options = RequestOptions::default().window(window, 1_000_000);
        let answers = self.one.client.request_stream_bytes_with("count", "".into(), options).await.unwrap();
        (answers, soon("the request", self.counting.recv()).await.unwrap().1)
    }
}

async fn next(answers: &mut ReplyStream<Bytes>) -> BusResult<Bytes> {
    soon("an answer", answers.recv()).await.unwrap()
}

#[tokio::test]
async fn a_stream_of_thousands_comes_in_order_through_a_window_of_a_few() {
    let Some(mut ground) = ground().await else { return };
    let (mut answers, id) = ground.ask(4).await;
    let client = ground.two.client.clone();
    let serving = tokio::spawn(async move {
        let mut responder = client.respond_stream_bytes(id).unwrap();
        for number in 0..2_000_u32 {
            responder.send(&number.to_le_bytes().to_vec().into()).await.unwrap();
        }
        responder.finish().unwrap();
    });
    for number in 0..2_000_u32 {
        assert_eq!(next(&mut answers).await.unwrap(), number.to_le_bytes().as_slice());
    }
    assert!(soon("the end", answers.recv()).await.is_none());
    serving.await.unwrap();
}

#[tokio::test]
async fn a_reader_that_waits_lets_the_server_wait() {
    let Some(mut ground) = ground().await else { return };
    let (mut answers, id) = ground.ask(4).await;
    let mut responder = ground.two.client.respond_stream_bytes(id).unwrap();
    for _ in 0..4 {
        soon("room", responder.send(&"one".into())).await.unwrap();
    }
    assert!(now_or_never(responder.send(&"too much".into())).await.is_none(), "the window has four");
    for _ in 0..4 {
        next(&mut answers).await.unwrap();
    }
    soon("room", responder.send(&"five".into())).await.unwrap();
    assert_eq!(next(&mut answers).await.unwrap(), "five");
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_cancelled_at_its_server() {
    let Some(mut ground) = ground().await else { return };
    let (mut answers, id) = ground.ask(4).await;
    let mut responder = ground.two.client.respond_stream_bytes(id).unwrap();
    responder.send(&"one".into()).await.unwrap();
    next(&mut answers).await.unwrap();
    drop(answers);
    eventually("the server sees it", || responder.is_cancelled()).await;
    assert!(matches!(responder.send(&"two".into()).await, Err(BusError::Cancelled)));
}

#[tokio::test]
async fn a_stream_ends_with_the_error_of_its_server() {
    let Some(mut ground) = ground().await else { return };
    let (mut answers, id) = ground.ask(4).await;
    let mut responder = ground.two.client.respond_stream_bytes(id).unwrap();
    responder.send(&"one".into()).await.unwrap();
    responder.fail(ErrorReply::new("full", "no more")).unwrap();
    assert_eq!(next(&mut answers).await.unwrap(), "one");
    let end = next(&mut answers).await;
    assert!(matches!(&end, Err(BusError::Replied(reply)) if reply.code() == "full"), "{end:?}");
    assert!(soon("the end", answers.recv()).await.is_none());
}

#[tokio::test]
async fn a_server_that_gives_one_reply_makes_a_stream_of_one() {
    let Some(mut ground) = ground().await else { return };
    let (mut answers, id) = ground.ask(4).await;
    ground.two.client.respond_bytes(id, "all".into()).await.unwrap();
    assert_eq!(next(&mut answers).await.unwrap(), "all");
    assert!(soon("the end", answers.recv()).await.is_none());
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Lines(u32);

impl RequestProtocol for Lines {
    type Rsp = String;

    fn prefix() -> &'static str {
        "lines"
    }

    /// A value of the process counts for more than its bytes.
    fn response_weight(line: &String) -> usize {
        line.len() * 10
    }
}

#[tokio::test]
async fn credit_comes_back_as_it_was_taken_where_the_two_buses_count_otherwise() {
    let Some(ground) = ground().await else { return };
    let mut serving = ground.two.client.serve::<Lines>("log").await.unwrap();
    let client = ground.two.client.clone();
    let served = tokio::spawn(async move {
        while let Some((_, id, Lines(count))) = serving.recv().await {
            if !id.wants_stream() {
                client.respond::<Lines>(id, &"known".into()).await.unwrap();
                continue;
            }
            let mut responder = client.respond_stream::<Lines>(id).unwrap();
            for number in 0..count {
                responder.send(&format!("line {number}")).await.unwrap();
            }
            responder.finish().unwrap();
        }
    });
    let client = &ground.one.client;
    let known = async { while client.request("log", &Lines(0)).await.is_err() {} };
    soon("what is served there", known).await;
    let options = RequestOptions::default().window(1_000, 400);
    let mut lines = client.request_stream_with("log", &Lines(500), options).await.unwrap();
    for number in 0..500 {
        assert_eq!(soon("a line", lines.recv()).await.unwrap().unwrap(), format!("line {number}"));
    }
    assert!(soon("the end", lines.recv()).await.is_none());
    served.abort();
}
