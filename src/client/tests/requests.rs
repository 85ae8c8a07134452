//! Requests, from the requester's side.

use super::*;
use crate::client::{ManyOptions, RequestOptions};
use crate::proto::fields::{Options, iterate};

#[tokio::test(start_paused = true)]
async fn a_request_carries_its_deadline_and_gets_its_answer() {
    let (client, mut peer) = connected().await;
    let script = async {
        let request = peer.expect(Kind::Request).await;
        assert_eq!((request.topic.as_str(), request.payload), ("double/me", encoded(&Double(21))));
        assert_eq!(Duration::from_micros(request.header.sequence), limits::REQUEST_TIMEOUT);
        peer.send(Header::new(Kind::Answer, request.header.id, 0), &encoded(&42u32));
        peer.expect_silence().await;
    };
    let (answer, ()) = both(client.request("me", &Double(21)), script).await;
    assert_eq!(answer.unwrap(), 42);
}

#[tokio::test(start_paused = true)]
async fn wildcards_are_refused_before_anything_is_sent() {
    let (client, mut peer) = connected().await;
    assert!(matches!(client.request("*", &Double(1)).await, Err(BusError::InvalidTopic(_))));
    assert!(matches!(client.request_stream("**", &Double(1)).await, Err(BusError::InvalidTopic(_))));
    assert!(matches!(client.serve::<Double>("+").await, Err(BusError::InvalidTopic(_))));
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn errors_of_bus_and_server_can_be_matched_on() {
    let (client, mut peer) = connected().await;
    let reply = crate::ErrorReply::new("odd", "only even numbers");
    let errors = [BusError::NoServer { topic: "double".into() }, BusError::Replied(reply.clone())];
    let script = async {
        for error in &errors {
            let id = peer.expect(Kind::Request).await.header.id;
            peer.send(Header::new(Kind::Answer, id, 0).flagged(Flags::ERROR), &refusal(error));
        }
        let id = peer.expect(Kind::Request).await.header.id;
        peer.send(Header::new(Kind::Answer, id, 0), b"\xc1");
    };
    let calls = async {
        assert!(matches!(client.request("", &Double(1)).await, Err(BusError::NoServer { .. })));
        match client.request("", &Double(1)).await {
            Err(BusError::Replied(got)) => assert_eq!(got, reply),
            other => panic!("expected the reply, got {other:?}"),
        }
        let undecodable = client.request("", &Double(1)).await;
        assert!(matches!(undecodable, Err(BusError::Decode { .. })), "{undecodable:?}");
    };
    both(calls, script).await;
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_exact_and_cancels_at_the_bus() {
    let (client, mut peer) = connected().await;
    let start = tokio::time::Instant::now();
    let options = RequestOptions::default().timeout(2 * SECOND);
    let error = client.request_with("", &Double(1), options).await.unwrap_err();
    assert!(matches!(error, BusError::TimedOut { after, .. } if after == 2 * SECOND), "{error:?}");
    assert_eq!(start.elapsed(), 2 * SECOND);
    let id = peer.expect(Kind::Request).await.header.id;
    assert_eq!(peer.expect(Kind::Cancel).await.header.id, id);
    // An answer that comes too late harms nothing.
    peer.send(Header::new(Kind::Answer, id, 0), &encoded(&2u32));
    settle().await;
    assert!(client.close_reason().is_none());
}

#[tokio::test(start_paused = true)]
async fn dropping_a_request_cancels_it() {
    let (client, mut peer) = connected().await;
    let mut request = Box::pin(client.request("", &Double(1)));
    assert!(is_waiting(&mut request).await);
    drop(request);
    let id = peer.expect(Kind::Request).await.header.id;
    assert_eq!(peer.expect(Kind::Cancel).await.header.id, id);
}

#[tokio::test(start_paused = true)]
async fn one_request_over_the_limit_is_refused_and_the_others_go_on() {
    let (client, mut peer) = connected_with(|welcome| welcome.max_requests = 1).await;
    let mut first = Box::pin(client.request("", &Double(1)));
    assert!(is_waiting(&mut first).await);
    assert!(matches!(client.request("", &Double(2)).await, Err(BusError::LimitReached { .. })));
    let id = peer.expect(Kind::Request).await.header.id;
    peer.send(Header::new(Kind::Answer, id, 0), &encoded(&2u32));
    assert_eq!(first.await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_over_the_frame_limit_is_refused_here() {
    let (client, mut peer) = connected().await;
    let payload = vec![0; peer.welcome.frame_limit as usize];
    let refused = client.request_bytes("a", payload.into()).await;
    assert!(matches!(refused, Err(BusError::FrameTooLarge { .. })), "{refused:?}");
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_answers_renews_its_window_as_they_are_taken() {
    let (client, mut peer) = connected().await;
    let mut answers = client.request_stream("", &Double(1)).await.unwrap();
    let request = peer.expect(Kind::Request).await;
    assert_eq!(request.header.flags, Flags::STREAM);
    let window = Options::read(&request.fields).unwrap().window;
    assert_eq!(window, Some((limits::STREAM_WINDOW, limits::WINDOW_BYTES)));
    let id = request.header.id;
    for number in 0..limits::STREAM_WINDOW {
        peer.send(Header::new(Kind::Answer, id, 0).flagged(Flags::MORE), &encoded(&number));
    }
    for number in 0..limits::STREAM_WINDOW / 2 {
        assert_eq!(answers.recv().await.unwrap().unwrap(), number);
    }
    let credit = peer.expect(Kind::Credit).await;
    assert_eq!(credit.header.flags, Flags(Lane::Stream as u8));
    assert_eq!((credit.header.id, credit.header.sequence), (limits::STREAM_WINDOW / 2, u64::from(id)));
    peer.send(Header::new(Kind::Answer, id, 0).flagged(Flags::END), &[]);
    let mut rest = 0;
    while let Some(answer) = answers.recv().await {
        answer.unwrap();
        rest += 1;
    }
    assert_eq!(rest, limits::STREAM_WINDOW / 2);
    drop(answers);
    peer.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_past_its_window_cuts_the_bus_off() {
    let (client, mut peer) = connected().await;
    let _answers = client.request_stream("", &Double(1)).await.unwrap();
    let id = peer.expect(Kind::Request).await.header.id;
    for number in 0..=limits::STREAM_WINDOW {
        peer.send(Header::new(Kind::Answer, id, 0).flagged(Flags::MORE), &encoded(&number));
    }
    assert!(matches!(client.closed().await, BusError::CreditExceeded { .. }));
}

#[tokio::test(start_paused = true)]
async fn the_last_answer_of_a_stream_takes_no_credit() {
    // Once the messages of the window are used up, and once its bytes.
    for (window, answers) in [((2, 1 << 20), 2), ((256, 10), 1)] {
        let (client, mut peer) = connected().await;
        let options = RequestOptions::default().window(window.0, window.1);
        let mut stream = client.request_stream_with("", &Double(1), options).await.unwrap();
        let id = peer.expect(Kind::Request).await.header.id;
        for number in 0..answers {
            peer.send(Header::new(Kind::Answer, id, 0).flagged(Flags::MORE), &encoded(&number));
        }
        peer.send(Header::new(Kind::Answer, id, 0), &encoded(&answers));
        settle().await;
        assert!(client.close_reason().is_none(), "{:?}", client.close_reason());
        for number in 0..=answers {
            assert_eq!(stream.recv().await.unwrap().unwrap(), number);
        }
        assert!(stream.recv().await.is_none());
        peer.expect_silence().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_may_be_a_single_answer_or_end_with_an_error() {
    let (client, mut peer) = connected().await;
    let mut single = client.request_stream("", &Double(1)).await.unwrap();
    let id = peer.expect(Kind::Request).await.header.id;
    peer.send(Header::new(Kind::Answer, id, 0), &encoded(&2u32));
    assert_eq!(single.recv().await.unwrap().unwrap(), 2);
    assert!(single.recv().await.is_none());

    let mut broken = client.request_stream("", &Double(1)).await.unwrap();
    let id = peer.expect(Kind::Request).await.header.id;
    peer.send(Header::new(Kind::Answer, id, 0).flagged(Flags::MORE), &encoded(&2u32));
    let gone = refusal(&BusError::ServerGone { topic: "double".into() });
    peer.send(Header::new(Kind::Answer, id, 0).flagged(Flags::END.with(Flags::ERROR)), &gone);
    assert_eq!(broken.recv().await.unwrap().unwrap(), 2);
    assert!(matches!(broken.recv().await, Some(Err(BusError::ServerGone { .. }))));
    assert!(broken.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_dropped_or_runs_out_of_time_is_cancelled() {
    let (client, mut peer) = connected().await;
    let options = RequestOptions::default().timeout(SECOND);
    let mut slow = client.request_stream_with("", &Double(1), options).await.unwrap();
    let dropped = client.request_stream("", &Double(2)).await.unwrap();
    let (first, second) = (peer.expect(Kind::Request).await, peer.expect(Kind::Request).await);
    drop(dropped);
    assert_eq!(peer.expect(Kind::Cancel).await.header.id, second.header.id);
    assert!(matches!(slow.recv().await, Some(Err(BusError::TimedOut { .. }))));
    assert!(slow.recv().await.is_none());
    assert_eq!(peer.expect(Kind::Cancel).await.header.id, first.header.id);
}

fn answer_of(peer: &Peer, id: u32, topic: &str, flags: Flags, payload: &[u8]) {
    let header = Header::new(Kind::Answer, id, 0).flagged(Flags::MORE.with(flags));
    peer.send_frame(&header, &[], topic, payload);
}

#[tokio::test(start_paused = true)]
async fn many_servers_are_gathered_until_all_have_answered() {
    let (client, mut peer) = connected().await;
    let script = async {
        let request = peer.expect(Kind::Request).await;
        assert_eq!((request.topic.as_str(), request.header.flags), ("double/*", Flags::SCATTER));
        let id = request.header.id;
        answer_of(&peer, id, "double/a", Flags::NONE, &encoded(&2u32));
        let gone = refusal(&BusError::ServerGone { topic: "double/b".into() });
        answer_of(&peer, id, "double/b", Flags::ERROR, &gone);
        peer.send(Header::new(Kind::Answer, id, 2).flagged(Flags::END), &[]);
    };
    let (answers, ()) = both(client.request_many("*", &Double(1), ManyOptions::default()), script).await;
    let answers = answers.unwrap();
    assert_eq!(answers.len(), 2);
    assert!(matches!(&answers[0], Ok((topic, 2)) if topic == "a"));
    assert!(matches!(&answers[1], Err(BusError::ServerGone { .. })));
}

#[tokio::test(start_paused = true)]
async fn gathering_ends_with_the_wanted_number_or_the_deadline() {
    let (client, mut peer) = connected().await;
    let script = async {
        for _ in 0..2 {
            let request = peer.expect(Kind::Request).await;
            // A scattered request has no window: its answers take no credit.
            assert_eq!(iterate(&request.fields).count(), 0);
            answer_of(&peer, request.header.id, "double/a", Flags::NONE, &encoded(&2u32));
            assert_eq!(peer.expect(Kind::Cancel).await.header.id, request.header.id);
        }
    };
    let calls = async {
        let one = client.request_many("*", &Double(1), ManyOptions::default().count(1)).await;
        assert_eq!(one.unwrap().len(), 1);
        let in_time = client.request_many("*", &Double(1), ManyOptions::default().timeout(SECOND)).await;
        assert_eq!(in_time.unwrap().len(), 1);
    };
    both(calls, script).await;
}
