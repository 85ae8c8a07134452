//! Requests: one answer or a typed reason why there is none.

use std::time::Duration;

use bytes::Bytes;
use whispeer::ErrorClass;
use whispeer::client::{ManyOptions, RequestOptions, ServeOptions};
use whispeer::prelude::*;

use super::number;
use crate::kit::Kit;
use crate::ledger::Live;
use crate::protocols::{Double, NotADouble};
use crate::wait::{eventually, soon};

pub(crate) async fn a_request_gets_the_answer_of_its_server(kit: &Kit) -> Live {
    kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let mut serving = server.serve::<Double>("").await.unwrap();
    let answer = async {
        for _ in 0..100 {
            let (topic, id, Double(value)) = serving.recv().await.unwrap();
            assert_eq!(topic.as_str(), "");
            server.respond::<Double>(id, &(2 * value)).await.unwrap();
        }
    };
    let ask = async {
        for value in 0..100 {
            assert_eq!(client.request("", &Double(value)).await.unwrap(), 2 * value);
        }
    };
    tokio::join!(answer, ask);
    Live::none()
}

pub(crate) async fn answers_find_their_requests_in_any_order(kit: &Kit) -> Live {
    kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let mut serving = server.serve_bytes("echo").await.unwrap();
    let ask = |count| {
        let client = client.clone();
        async move { (count, client.request_bytes("echo", number(count)).await.unwrap()) }
    };
    let mut asked = tokio::task::JoinSet::new();
    (0..50).for_each(|count| drop(asked.spawn(ask(count))));
    let mut ids = Vec::new();
    for _ in 0..50 {
        let (_, id, payload) = serving.recv().await.unwrap();
        ids.push((id, payload));
    }
    for (id, payload) in ids.into_iter().rev() {
        server.respond_bytes(id, payload).await.unwrap();
    }
    while let Some(answer) = asked.join_next().await {
        let (count, answer) = answer.unwrap();
        assert_eq!(answer, number(count));
    }
    Live::none()
}

pub(crate) async fn a_request_to_nobody_fails_at_once(kit: &Kit) -> Live {
    kit.start();
    let client = kit.client().await;
    match client.request("nobody", &Double(1)).await {
        Err(BusError::NoServer { topic }) => assert_eq!(topic, "double/nobody"),
        other => panic!("{other:?}"),
    }
    Live::none()
}

pub(crate) async fn a_deadline_passes_at_the_requester_and_is_seen_by_the_server(kit: &Kit) -> Live {
    let bus = kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let mut serving = server.serve_bytes("slow").await.unwrap();
    let options = RequestOptions::default().timeout(kit.short_time());
    let ask = client.request_bytes_with("slow", Bytes::new(), options);
    let work = async {
        let (_, id, _) = serving.recv().await.unwrap();
        let left = id.time_left().expect("the deadline travels");
        assert!(left > Duration::ZERO && left <= kit.short_time(), "{left:?}");
        soon("the cancellation", id.cancelled()).await;
        server.respond_bytes(id, Bytes::new()).await
    };
    let (answer, late) = tokio::join!(ask, work);
    assert!(matches!(&answer, Err(BusError::TimedOut { after, .. }) if *after == kit.short_time()));
    assert!(matches!(late, Err(BusError::Cancelled)), "{late:?}");
    eventually("the bus forgets the request", || bus.stats().requests_in_flight == 0).await;
    Live::none()
}

pub(crate) async fn dropping_a_request_cancels_it_at_the_server(kit: &Kit) -> Live {
    let bus = kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let mut serving = server.serve_bytes("slow").await.unwrap();
    let id = {
        let mut asked = std::pin::pin!(client.request_bytes("slow", Bytes::new()));
        tokio::select! {
            answer = &mut asked => panic!("nobody answered: {answer:?}"),
            received = serving.recv() => received.unwrap().1,
        }
    };
    soon("the cancellation", id.cancelled()).await;
    assert!(id.is_cancelled());
    eventually("the bus forgets the request", || bus.stats().requests_in_flight == 0).await;
    Live::none()
}

pub(crate) async fn a_server_that_goes_fails_its_pending_requests_at_once(kit: &Kit) -> Live {
    kit.start();
    let (server, client) = (kit.link().await.unwrap(), kit.client().await);
    let server = kit.builder().connect_link(server).unwrap();
    let mut serving = server.serve_bytes("fragile").await.unwrap();
    let leave = async {
        let (_, id, _) = serving.recv().await.unwrap();
        server.close().await.unwrap();
        drop((id, serving));
    };
    let (answer, ()) = tokio::join!(client.request_bytes("fragile", Bytes::new()), leave);
    match answer {
        Err(BusError::ServerGone { topic }) => assert_eq!(topic, "fragile"),
        other => panic!("{other:?}"),
    }
    Live::none()
}

pub(crate) async fn a_request_dropped_unanswered_fails_as_abandoned(kit: &Kit) -> Live {
    kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let mut serving = server.serve_bytes("lazy").await.unwrap();
    let drop_it = async { drop(serving.recv().await.unwrap()) };
    let (answer, ()) = tokio::join!(client.request_bytes("lazy", Bytes::new()), drop_it);
    assert!(matches!(&answer, Err(BusError::Abandoned { topic }) if topic == "lazy"), "{answer:?}");
    let drop_all = async {
        eventually("the request is there", || kit.bus().stats().requests_in_flight == 1).await;
        drop(serving);
    };
    let (answer, ()) = tokio::join!(client.request_bytes("lazy", Bytes::new()), drop_all);
    assert!(matches!(&answer, Err(BusError::Abandoned { .. })), "{answer:?}");
    Live::none()
}

pub(crate) async fn only_the_connection_that_was_asked_can_answer(kit: &Kit) -> Live {
    kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let mut serving = server.serve_bytes("mine").await.unwrap();
    let answer = async {
        let (_, id, _) = serving.recv().await.unwrap();
        let refused = client.respond_bytes(id, "forged".into()).await;
        assert!(matches!(refused, Err(BusError::InvalidSettings(_))), "{refused:?}");
        let (_, id, _) = serving.recv().await.unwrap();
        server.clone().respond_bytes(id, "genuine".into()).await.unwrap();
    };
    let ask = async {
        let forged = client.request_bytes("mine", Bytes::new()).await;
        assert!(matches!(forged, Err(BusError::Abandoned { .. })), "{forged:?}");
        assert_eq!(client.request_bytes("mine", Bytes::new()).await.unwrap(), "genuine");
    };
    tokio::join!(answer, ask);
    Live::none()
}

pub(crate) async fn a_topic_has_one_server_unless_asked_otherwise(kit: &Kit) -> Live {
    kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let handling = server.handle("", |Double(value)| async move { Ok(2 * value) }).await.unwrap();
    for second in [&server, &client] {
        let refused = second.serve::<Double>("").await;
        assert!(matches!(&refused, Err(BusError::AlreadyServed { topic }) if topic == "double"));
    }
    let options = ServeOptions::default().group("shared");
    let refused = client.serve_with::<Double>("", options).await;
    assert!(matches!(refused, Err(BusError::AlreadyServed { .. })), "{refused:?}");
    assert_eq!(client.request("", &Double(4)).await.unwrap(), 8);
    handling.drain().await;
    let serving = client.serve::<Double>("").await.unwrap();
    drop(serving);
    Live::none()
}

pub(crate) async fn a_group_shares_requests_among_members_with_credit(kit: &Kit) -> Live {
    kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let options = || ServeOptions::default().group("pool").window(2, 1024);
    let mut one = server.serve_bytes_with("work", options()).await.unwrap();
    let mut other = client.serve_bytes_with("work", options()).await.unwrap();
    let mut asked = tokio::task::JoinSet::new();
    for count in 0..4 {
        let client = client.clone();
        asked.spawn(async move { client.request_bytes("work", number(count)).await });
    }
    for _ in 0..2 {
        let (_, id, payload) = soon("half of the requests", one.recv()).await.unwrap();
        server.respond_bytes(id, payload).await.unwrap();
        let (_, id, payload) = soon("the other half", other.recv()).await.unwrap();
        client.respond_bytes(id, payload).await.unwrap();
    }
    while let Some(answer) = asked.join_next().await {
        answer.unwrap().unwrap();
    }
    Live::none()
}

pub(crate) async fn requests_wait_for_a_server_without_credit(kit: &Kit) -> Live {
    let bus = kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let options = ServeOptions::default().window(1, 1024 * 1024);
    let mut serving = server.serve_bytes_with("work", options).await.unwrap();
    let mut asked = tokio::task::JoinSet::new();
    for count in 0..5 {
        let client = client.clone();
        asked.spawn(async move { client.request_bytes("work", number(count)).await });
    }
    eventually("four requests wait", || bus.served().iter().any(|served| served.waiting == 4)).await;
    for _ in 0..5 {
        let (_, id, payload) = soon("a request", serving.recv()).await.unwrap();
        server.respond_bytes(id, payload).await.unwrap();
    }
    while let Some(answer) = asked.join_next().await {
        answer.unwrap().unwrap();
    }
    Live::none()
}

pub(crate) async fn taking_over_lets_the_old_server_finish_what_it_has(kit: &Kit) -> Live {
    kit.start();
    let (old, new) = (kit.client().await, kit.client().await);
    let client = kit.client().await;
    let mut first = old.serve_bytes("post").await.unwrap();
    let change = async {
        let (_, id, _) = first.recv().await.unwrap();
        let options = ServeOptions::default().take_over();
        let mut second = new.serve_bytes_with("post", options).await.unwrap();
        assert!(soon("the end of the first", first.recv()).await.is_none());
        assert!(matches!(first.close_reason(), Some(BusError::TakenOver { .. })));
        old.respond_bytes(id, "old".into()).await.unwrap();
        let (_, id, _) = second.recv().await.unwrap();
        new.respond_bytes(id, "new".into()).await.unwrap();
    };
    let ask = async {
        assert_eq!(client.request_bytes("post", Bytes::new()).await.unwrap(), "old");
        assert_eq!(client.request_bytes("post", Bytes::new()).await.unwrap(), "new");
    };
    tokio::join!(change, ask);
    Live::none()
}

pub(crate) async fn a_drained_serving_answers_what_was_handed_over(kit: &Kit) -> Live {
    kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let mut serving = server.serve_bytes("work").await.unwrap();
    let drain = async {
        let (_, id, _) = serving.recv().await.unwrap();
        serving.drain().await.unwrap();
        let refused = client.request_bytes("work", Bytes::new()).await;
        assert!(matches!(refused, Err(BusError::NoServer { .. })), "{refused:?}");
        server.respond_bytes(id, "in time".into()).await.unwrap();
        assert!(soon("the end of the serving", serving.recv()).await.is_none());
    };
    let (answer, ()) = tokio::join!(client.request_bytes("work", Bytes::new()), drain);
    assert_eq!(answer.unwrap(), "in time");
    Live::none()
}

pub(crate) async fn an_error_reply_is_matched_on_by_its_code(kit: &Kit) -> Live {
    kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let handling = server
        .handle("", |Double(value)| async move {
            value.checked_mul(2).ok_or_else(|| ErrorReply::new("overflow", format!("2 * {value}")))
        })
        .await
        .unwrap();
    match client.request("", &Double(u64::MAX)).await {
        Err(BusError::Replied(reply)) => assert_eq!(reply.code(), "overflow"),
        other => panic!("{other:?}"),
    }
    match client.request("", &NotADouble("two".into())).await {
        Err(BusError::Replied(reply)) => assert_eq!(reply.code(), "undecodable"),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.request("", &Double(21)).await.unwrap(), 42);
    handling.drain().await;
    Live::none()
}

pub(crate) async fn errors_are_of_the_same_class_on_whichever_side_they_arose(kit: &Kit) -> Live {
    kit.start_with(|settings| {
        settings.allow_block = false;
        settings.frame_limit = 128 * 1024;
    });
    let (server, client) = (kit.client().await, kit.client().await);
    let mut serving = server.serve_bytes("work").await.unwrap();
    let classes = [
        (client.publish_bytes("a//b", "").await.map(drop), ErrorClass::Misuse),
        (client.publish_bytes("$bus", "").await.map(drop), ErrorClass::Misuse),
        (client.subscribe_bytes("a").await.map(drop), ErrorClass::Misuse),
        (client.serve_bytes("work").await.map(drop), ErrorClass::Misuse),
        (client.publish_bytes("a", vec![0; 128 * 1024]).await.map(drop), ErrorClass::Misuse),
        (client.request_bytes("none", Bytes::new()).await.map(drop), ErrorClass::Outcome),
    ];
    for (result, class) in classes {
        assert_eq!(result.as_ref().map_err(BusError::class), Err(class), "{result:?}");
    }
    // An answer that is too large fails its server's call, and the requester is told why.
    let answer = async {
        let (_, id, _) = serving.recv().await.unwrap();
        server.respond_bytes(id, vec![0; 128 * 1024].into()).await
    };
    let (asked, answered) = tokio::join!(client.request_bytes("work", Bytes::new()), answer);
    assert!(matches!(answered, Err(BusError::FrameTooLarge { .. })), "{answered:?}");
    assert!(matches!(asked, Err(BusError::FrameTooLarge { .. })), "{asked:?}");
    client.close().await.unwrap();
    let closed = client.publish_bytes("a", "").await;
    assert_eq!(closed.map_err(|error| error.class()), Err(ErrorClass::Link));
    Live::none()
}

pub(crate) async fn a_handler_that_panics_fails_its_request_only(kit: &Kit) -> Live {
    kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let handling = server
        .handle_bytes("touchy", |payload| async move {
            // `resume_unwind` is a panic that leaves no report on the terminal.
            if payload.is_empty() {
                std::panic::resume_unwind(Box::new("touched"));
            }
            Ok(payload)
        })
        .await
        .unwrap();
    match client.request_bytes("touchy", Bytes::new()).await {
        Err(BusError::Replied(reply)) => assert_eq!(reply.code(), "panic"),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.request_bytes("touchy", "fine".into()).await.unwrap(), "fine");
    handling.drain().await;
    Live::none()
}

pub(crate) async fn a_scattered_request_gathers_one_answer_of_each_topic(kit: &Kit) -> Live {
    kit.start();
    let (server, client) = (kit.client().await, kit.client().await);
    let one = server.handle_bytes("sensor/1", |_| async { Ok("one".into()) }).await.unwrap();
    let two = client.handle_bytes("sensor/2", |_| async { Ok("two".into()) }).await.unwrap();
    let bad =
        server.handle_bytes("sensor/3", |_| async { Err(ErrorReply::new("broken", "")) }).await.unwrap();
    let many = |options| client.request_many_bytes("sensor/*", Bytes::new(), options);
    let mut answered = Vec::new();
    for answer in many(ManyOptions::default()).await.unwrap() {
        answered.push(match answer {
            Ok((topic, payload)) => (topic.to_string(), payload),
            Err(BusError::Replied(reply)) => (reply.code().to_owned(), Bytes::new()),
            Err(error) => panic!("{error}"),
        });
    }
    answered.sort();
    let expected = [("broken", ""), ("sensor/1", "one"), ("sensor/2", "two")];
    assert_eq!(answered, expected.map(|(topic, payload)| (topic.to_owned(), payload.into())));
    assert_eq!(many(ManyOptions::default().count(2)).await.unwrap().len(), 2);
    let nobody = client.request_many_bytes("nobody/**", Bytes::new(), ManyOptions::default()).await;
    assert!(nobody.unwrap().is_empty());
    let silent = server.serve_bytes("sensor/4").await.unwrap();
    let patience = ManyOptions::default().timeout(kit.short_time());
    assert_eq!(many(patience).await.unwrap().len(), 3, "what came in time is the result");
    drop(silent);
    one.drain().await;
    two.drain().await;
    bad.drain().await;
    Live::none()
}

pub(crate) async fn the_limit_of_requests_fails_the_next_one(kit: &Kit) -> Live {
    kit.start_with(|settings| settings.max_requests = 3);
    let (server, client) = (kit.client().await, kit.client().await);
    let mut serving = server.serve_bytes("work").await.unwrap();
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let client = client.clone();
        asked.spawn(async move { client.request_bytes("work", "first".into()).await });
    }
    eventually("three requests are under way", || kit.bus().stats().requests_in_flight == 3).await;
    let refused = client.request_bytes("work", "fourth".into()).await;
    assert!(matches!(refused, Err(BusError::LimitReached { .. })), "{refused:?}");
    for _ in 0..3 {
        let (_, id, payload) = serving.recv().await.unwrap();
        server.respond_bytes(id, payload).await.unwrap();
    }
    while let Some(answer) = asked.join_next().await {
        assert_eq!(answer.unwrap().unwrap(), "first");
    }
    Live::none()
}
