//! Engines against a bus that says what it likes of topics.

use super::*;
use crate::client::{Event, ManyOptions};
use crate::engine::{Chain, Content, Context, Engine, Engines, Mark, Memory, Opened, Sealed, Stage};
use crate::proto::fields::FieldsBuilder;
use crate::{EngineError, ErrorReply};

/// Required, and binds nothing: all that is refused is so by the client itself. A payload that begins with a digit is of
/// the sender of that number.
#[derive(Debug)]
struct Wrapping;

impl Engine for Wrapping {
    fn id(&self) -> u8 {
        200
    }

    fn name(&self) -> &str {
        "wrapping"
    }

    fn stage(&self) -> Stage {
        Stage::ENCRYPT
    }

    fn is_required(&self) -> bool {
        true
    }

    fn seal(
        &self,
        _context: &Context<'_>,
        content: Content<'_>,
        output: &mut Vec<u8>,
    ) -> Result<Sealed, EngineError> {
        output.push(content.tag);
        output.extend_from_slice(content.bytes);
        Ok(Sealed::default())
    }

    fn open(
        &self,
        _context: &Context<'_>,
        _memory: &mut Memory,
        sealed: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Opened, EngineError> {
        let (tag, bytes) = sealed.split_first().ok_or(EngineError::Malformed { what: "it is empty" })?;
        output.extend_from_slice(bytes);
        let opened = Opened::tagged(*tag);
        Ok(match bytes.first().filter(|byte| byte.is_ascii_digit()) {
            Some(digit) => opened.marked(Mark { sender: [*digit; 16], sequence: 7 }),
            None => opened,
        })
    }
}

fn wrapped(payload: &[u8]) -> Vec<u8> {
    [&[0xC1, 0x57, 1, 200, 0], payload].concat()
}

/// A client that requires engines but for metrics.
async fn connected() -> (Client, Peer) {
    let engines = Engines::new().topic("metrics/**", Chain::new()).with(Wrapping);
    let (client, mut peer) = connecting(Client::builder().engines(engines));
    peer.shake_hands().await;
    client.connection.shared.opened().await.unwrap();
    (client, peer)
}

fn error_of<T: std::fmt::Debug>(event: Option<Event<T>>) -> EngineError {
    match event {
        Some(Event::Undecodable { error: BusError::Engine { error, .. }, .. }) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_bus_cannot_choose_the_rule_for_what_it_delivers() {
    let (client, mut peer) = connected().await;
    let subscribed = both(client.subscribe_bytes("secret/*"), peer.accept(Kind::Subscribe)).await;
    let (mut subscription, id) = (subscribed.0.unwrap(), subscribed.1.header.id);
    for (sequence, topic, payload) in [
        (1, "metrics/load", b"plain".to_vec()),
        (2, "$bus/stats", b"plain".to_vec()),
        (3, "other/topic", wrapped(b"sealed for others")),
        (4, "secret/a/b", wrapped(b"sealed for others")),
    ] {
        peer.deliver(id, sequence, topic, &payload);
        assert_eq!(error_of(subscription.next_event().await), EngineError::Misrouted, "{topic}");
    }
    peer.deliver(id, 5, "secret/a", b"plain");
    assert_eq!(error_of(subscription.next_event().await), EngineError::Missing { engine: "wrapping".into() });
    peer.deliver(id, 6, "*/a", &wrapped(b"to a pattern that it meets"));
    assert_eq!(subscription.recv().await.unwrap().1, "to a pattern that it meets");
    peer.deliver(id, 7, "secret/a", &wrapped(b"sealed"));
    assert_eq!(subscription.recv().await.unwrap().1, "sealed");
}

#[tokio::test(start_paused = true)]
async fn a_bus_cannot_choose_that_a_dead_letter_needs_no_engine() {
    let (client, mut peer) = connected().await;
    let subscribed = both(client.subscribe_bytes("$dead/orders/**"), peer.accept(Kind::Subscribe)).await;
    let (mut subscription, id) = (subscribed.0.unwrap(), subscribed.1.header.id);
    let letter = |sequence, topic: &str, original: Option<&str>, payload: &[u8]| {
        let mut fields = FieldsBuilder::new();
        if let Some(original) = original {
            fields.header("dead-topic", original).unwrap();
        }
        peer.send_frame(&Header::new(Kind::Deliver, id, sequence), fields.as_bytes(), topic, payload);
    };
    let missing = || EngineError::Missing { engine: "wrapping".into() };
    let unsaid =
        || EngineError::Malformed { what: "it is a dead letter and does not say of which topic it was" };
    for (sequence, topic, original, payload, error) in [
        (1, "$dead/orders/billing", Some("secret/a"), b"plain".to_vec(), missing()),
        (2, "$dead/orders/billing", None, b"plain".to_vec(), unsaid()),
        (3, "$dead/orders/billing", Some("$bus/stats"), b"plain".to_vec(), unsaid()),
        (4, "$dead/others/billing", Some("secret/a"), wrapped(b"of another stream"), EngineError::Misrouted),
    ] {
        letter(sequence, topic, original, &payload);
        assert_eq!(error_of(subscription.next_event().await), error, "{original:?}");
    }
    letter(5, "$dead/orders/billing", Some("secret/a"), &wrapped(b"sealed"));
    assert_eq!(subscription.recv().await.unwrap().1, "sealed");
    letter(6, "$dead/orders", Some("metrics/load"), b"plain, as its topic is");
    assert_eq!(subscription.recv().await.unwrap().1, "plain, as its topic is");
}

#[tokio::test(start_paused = true)]
async fn a_bus_cannot_choose_the_server_of_a_sealed_request_or_the_rule_for_its_answer() {
    let (client, mut peer) = connected().await;
    let served = both(client.serve::<Double>(""), peer.accept(Kind::Serve)).await;
    let (mut serving, id) = (served.0.unwrap(), served.1.header.id);
    for (token, topic, payload) in [
        (1, "other", wrapped(&encoded(&Double(1)))),
        (2, "metrics/x", encoded(&Double(1))),
        (3, "$x", encoded(&Double(1))),
    ] {
        peer.send_frame(&Header::new(Kind::Ask, id, token), &[], topic, &payload);
        let ((), reply) = both(
            async {
                let mut next = Box::pin(serving.recv());
                assert!(is_waiting(&mut next).await, "{topic} is not handed over");
            },
            peer.expect(Kind::Reply),
        )
        .await;
        let error = Refusal::decode(&reply.payload).unwrap().into_error();
        let BusError::Replied(said) = error else { panic!("{error:?}") };
        assert_eq!(said.message(), "the server cannot open the request");
    }

    let mut answers = client.request_stream_bytes("secret/count", "x".into()).await.unwrap();
    let request = peer.expect(Kind::Request).await;
    assert_eq!(request.payload[..5], wrapped(b""));
    let answer = Header::new(Kind::Answer, request.header.id, 0).flagged(Flags::MORE);
    peer.send_frame(&answer, &[], "$x", b"plain");
    let error = answers.recv().await.unwrap().unwrap_err();
    assert!(matches!(&error, BusError::Engine { error: EngineError::Missing { .. }, .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_bus_cannot_mix_the_streams_of_two_servers() {
    let (client, mut peer) = connected().await;
    let mut answers = client.request_stream_bytes("secret/count", "x".into()).await.unwrap();
    let id = peer.expect(Kind::Request).await.header.id;
    let more = Header::new(Kind::Answer, id, 0).flagged(Flags::MORE);
    let failed = Header::new(Kind::Answer, id, 0).flagged(Flags::END.with(Flags::ERROR));
    let said = Refusal::from(&BusError::Replied(ErrorReply::new("tired", "no more"))).encode();
    for (header, payload) in
        [(more, &b"1 first"[..]), (more, b"2 other"), (more, b"1 second"), (failed, &said)]
    {
        peer.send_frame(&header, &[], "secret/count", &wrapped(payload));
    }
    assert_eq!(answers.recv().await.unwrap().unwrap(), "1 first");
    let error = answers.recv().await.unwrap().unwrap_err();
    assert!(matches!(&error, BusError::Engine { error: EngineError::Misrouted, .. }), "{error:?}");
    assert_eq!(answers.recv().await.unwrap().unwrap(), "1 second");
    let error = answers.recv().await.unwrap().unwrap_err();
    assert!(matches!(&error, BusError::Replied(reply) if reply.code() == "tired"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_bus_cannot_repeat_the_answer_of_one_of_several_servers() {
    let (client, mut peer) = connected().await;
    let asked = client.request_many_bytes("secret/*", "x".into(), ManyOptions::default());
    let answering = async {
        let id = peer.expect(Kind::Request).await.header.id;
        let more = Header::new(Kind::Answer, id, 0).flagged(Flags::MORE);
        for (topic, payload) in [("secret/a", b"1 a"), ("secret/b", b"2 b"), ("secret/a", b"1 a")] {
            peer.send_frame(&more, &[], topic, &wrapped(payload));
        }
        peer.send_frame(&Header::new(Kind::Answer, id, 0).flagged(Flags::END), &[], "", &[]);
    };
    let (answers, ()) = both(asked, answering).await;
    let answers = answers.unwrap();
    let text = |index: usize| answers[index].as_ref().map(|(_, payload)| payload.clone());
    assert_eq!((text(0).unwrap(), text(1).unwrap()), ("1 a".into(), "2 b".into()));
    let error = text(2).unwrap_err();
    assert!(
        matches!(&error, BusError::Engine { error: EngineError::Replayed { sequence: 7 }, .. }),
        "{error:?}"
    );
    assert_eq!(answers.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_the_value_of_a_request_is_told_to_the_asker_alone() {
    let (client, mut peer) = connected().await;
    let served = both(client.serve::<Double>(""), peer.accept(Kind::Serve)).await;
    let (mut serving, id) = (served.0.unwrap(), served.1.header.id);
    let payload = wrapped(&encoded(&"the eagle has landed"));
    peer.send_frame(&Header::new(Kind::Ask, id, 1), &[], "double", &payload);
    let mut next = Box::pin(serving.recv());
    assert!(is_waiting(&mut next).await);
    let reply = peer.expect(Kind::Reply).await;
    assert_eq!(reply.payload[..5], wrapped(b""), "it is sealed");
    let error = Refusal::decode(&reply.payload[5..]).unwrap().into_error();
    assert!(matches!(&error, BusError::Replied(said) if said.code() == "undecodable"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn one_sealed_message_does_not_go_to_several_topics() {
    let (client, mut peer) = connected().await;
    let refused = client.publish_many(&["a", "b"], &note("x")).await;
    assert!(matches!(refused, Err(BusError::InvalidSettings(_))), "{refused:?}");
    peer.expect_silence().await;
}

/// As [`connected`], but what is sealed already is passed on.
async fn passing() -> (Client, Peer) {
    let engines = Engines::new().topic("metrics/**", Chain::new()).with(Wrapping);
    let (client, mut peer) = connecting(Client::builder().engines(engines).pass_sealed());
    peer.shake_hands().await;
    client.connection.shared.opened().await.unwrap();
    (client, peer)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_passes_on_seals_what_is_not_sealed_yet_and_that_alone() {
    let (client, mut peer) = passing().await;
    for (topic, given, sent) in [
        ("secret/a", b"plain".to_vec(), wrapped(b"plain")),
        ("secret/a", wrapped(b"sealed"), wrapped(b"sealed")),
        ("metrics/a", b"plain".to_vec(), b"plain".to_vec()),
        ("metrics/a", wrapped(b"sealed"), wrapped(b"sealed")),
    ] {
        client.publisher_bytes(topic).unwrap().send(&given.into()).await.unwrap();
        assert_eq!(peer.expect(Kind::Publish).await.payload, sent, "{topic}");
    }
}

#[tokio::test(start_paused = true)]
async fn subscriptions_of_a_client_that_passes_on_hand_out_what_arrives() {
    let (client, mut peer) = passing().await;
    let subscribed = both(client.subscribe_content("**"), peer.accept(Kind::Subscribe)).await;
    let (mut subscription, id) = (subscribed.0.unwrap(), subscribed.1.header.id);
    for (sequence, payload) in (1..).zip([wrapped(b"sealed"), b"plain".to_vec()]) {
        peer.deliver(id, sequence, "secret/a", &payload);
        assert_eq!(subscription.recv().await.unwrap().1.payload(), payload);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_sealed_by_others_is_passed_on_and_so_is_its_answer() {
    let (client, mut peer) = passing().await;
    for (given, sent, answer, got) in [
        (b"plain".to_vec(), wrapped(b"plain"), wrapped(b"answer"), b"answer".to_vec()),
        (wrapped(b"sealed"), wrapped(b"sealed"), wrapped(b"answer"), wrapped(b"answer")),
    ] {
        let answering = async {
            let request = peer.expect(Kind::Request).await;
            assert_eq!(request.payload, sent);
            peer.send(Header::new(Kind::Answer, request.header.id, 0), &answer);
        };
        let (answer, ()) = both(client.request_bytes("secret/a", given.into()), answering).await;
        assert_eq!(answer.unwrap(), got);
    }
    let mut answers = client.request_stream_bytes("secret/a", wrapped(b"sealed").into()).await.unwrap();
    let id = peer.expect(Kind::Request).await.header.id;
    let more = Header::new(Kind::Answer, id, 0).flagged(Flags::MORE);
    peer.send_frame(&more, &[], "secret/a", &wrapped(b"answer"));
    assert_eq!(answers.recv().await.unwrap().unwrap(), wrapped(b"answer"));
}
