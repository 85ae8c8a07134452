//! Requests of those who have nothing but NATS, and to them.

use std::time::Duration;

use async_nats::HeaderMap;
use futures_util::StreamExt;
use whispeer::client::RequestOptions;
use whispeer::prelude::*;
use whispeer_testkit::wait::{eventually, soon};

use crate::ground::{Node, connect, server};

/// Asks by NATS alone, as often as nobody is there.
async fn ask(nats: &async_nats::Client, subject: &'static str, headers: HeaderMap) -> async_nats::Message {
    let asking = async {
        loop {
            match nats.request_with_headers(subject, headers.clone(), "question".into()).await {
                Ok(answer) => return answer,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    soon("an answer", asking).await
}

#[tokio::test]
async fn a_plain_client_asks_a_server_of_a_bus() {
    let Some(server) = server().await else { return };
    let node = Node::start(&server, 1).await;
    let (plain, _connection) = connect(&server).await;
    let mut serving = node.client.serve_bytes("shop/price").await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("user", "alice");
    let served = async {
        let request = soon("the request", serving.next_request()).await.unwrap();
        assert_eq!(request.topic.as_str(), "shop/price");
        assert_eq!((request.headers.find("user"), request.origin), (Some("alice"), None));
        assert_eq!(request.value, "question");
        assert!(request.id.time_left().unwrap() <= Duration::from_secs(30));
        node.client.respond_bytes(request.id, "answer".into()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(ask(&plain, "whispeer.r.shop.price", headers), served);
    assert_eq!(answer.payload, "answer");
    assert!(answer.headers.is_none_or(|headers| headers.is_empty()));
}

#[tokio::test]
async fn a_plain_client_is_told_of_errors_as_services_of_nats_do() {
    let Some(server) = server().await else { return };
    let node = Node::start(&server, 1).await;
    let (plain, _connection) = connect(&server).await;
    let fails = |_| async { Err(ErrorReply::new("division", "not\npossible")) };
    let _serving = node.client.handle_bytes("divide", fails).await.unwrap();
    let answer = ask(&plain, "whispeer.r.divide", HeaderMap::new()).await;
    let headers = answer.headers.unwrap();
    assert_eq!(headers.get("Nats-Service-Error-Code").unwrap().as_str(), "division");
    assert_eq!(headers.get("Nats-Service-Error").unwrap().as_str(), "not possible");
    assert!(answer.payload.is_empty());
}

#[tokio::test]
async fn a_plain_service_answers_a_client_of_a_bus() {
    let Some(server) = server().await else { return };
    let node = Node::start(&server, 1).await;
    let (plain, _connection) = connect(&server).await;
    let mut requests = plain.queue_subscribe("whispeer.r.shop.price", "whispeer".into()).await.unwrap();
    crate::joined::settled(&plain).await;
    let served = async {
        // Until the bus has its uplink, its client is told that there is nobody.
        let request = soon("the request", requests.next()).await.unwrap();
        assert_eq!(request.payload, "question");
        let headers = request.headers.unwrap();
        assert_eq!(headers.get("user").unwrap().as_str(), "bob");
        let left: u64 = headers.get("Whispeer-Deadline").unwrap().as_str().parse().unwrap();
        assert!(left <= 5_000_000, "{left}");
        plain.publish(request.reply.unwrap(), "answer".into()).await.unwrap();

        let request = soon("the next request", requests.next()).await.unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Service-Error-Code", "404");
        headers.insert("Nats-Service-Error", "no such thing");
        plain.publish_with_headers(request.reply.unwrap(), headers, "".into()).await.unwrap();
    };
    let asked = async {
        let options = RequestOptions::default().header("user", "bob").timeout(Duration::from_secs(5));
        assert_eq!(node.ask_with("shop/price", "question", options).await.unwrap(), "answer");
        match node.ask("shop/price", "").await {
            Err(BusError::Replied(reply)) => {
                assert_eq!((reply.code(), reply.message()), ("404", "no such thing"));
            }
            other => panic!("{other:?}"),
        }
    };
    tokio::join!(served, asked);
}

#[tokio::test]
async fn what_is_no_request_harms_nobody() {
    let Some(server) = server().await else { return };
    let node = Node::start(&server, 1).await;
    let (plain, _connection) = connect(&server).await;
    let _serving = node.client.handle_bytes("echo", |payload| async move { Ok(payload) }).await.unwrap();
    ask(&plain, "whispeer.r.echo", HeaderMap::new()).await;
    let own = "0000000000000001";
    let wrong = [("Whispeer-Origin", "nobody"), ("Whispeer-Deadline", "-1"), ("Whispeer-Fields", "%")];
    for (name, value) in wrong {
        let mut headers = HeaderMap::new();
        headers.insert("Whispeer-Origin", "00000000000000aa 1");
        headers.insert(name, value);
        let answer = ask(&plain, "whispeer.r.echo", headers.clone()).await;
        assert_eq!(answer.headers.unwrap().get("Whispeer-Reply").unwrap().as_str(), "error", "{name}");
        plain
            .publish_with_headers(format!("whispeer.cancel.{own}"), headers.clone(), "".into())
            .await
            .unwrap();
        plain.publish_with_headers(format!("whispeer.reply.{own}.1"), headers, "".into()).await.unwrap();
    }
    // Nobody could be answered.
    plain.publish("whispeer.r.echo", "".into()).await.unwrap();
    for subject in ["reply.0000000000000001.x", "reply.0000000000000001.99", "bus.x", "bus.0000000000000001"]
    {
        plain.publish(format!("whispeer.{subject}"), "{}".into()).await.unwrap();
    }
    assert_eq!(ask(&plain, "whispeer.r.echo", HeaderMap::new()).await.payload, "question");
    eventually("nothing is left", || node.bus.stats().requests_in_flight == 0).await;
}

/// What somebody answers who takes himself for a bus.
fn answer(what: &str, number: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Whispeer-Origin", "00000000000000aa 1");
    headers.insert("Whispeer-Reply", what);
    headers.insert("Whispeer-Number", number.to_string());
    headers
}

#[tokio::test]
async fn replies_that_are_lost_doubled_or_too_many_end_their_request_and_the_other_bus_is_told() {
    let Some(server) = server().await else { return };
    let node = Node::start(&server, 1).await;
    let (plain, _connection) = connect(&server).await;
    let mut requests = plain.queue_subscribe("whispeer.r.count", "whispeer".into()).await.unwrap();
    let mut told = plain.subscribe("whispeer.cancel.00000000000000aa").await.unwrap();
    crate::joined::settled(&plain).await;
    while let Err(BusError::NoServer { .. }) = node
        .client
        .request_bytes_with("count", "".into(), RequestOptions::default().timeout(Duration::from_millis(50)))
        .await
    {}
    soon("the probe", requests.next()).await.unwrap();

    let wrong: [&[(&str, u64)]; 5] = [
        &[("part", 1)],
        &[("part", 0), ("part", 0)],
        &[("part", 0), ("end", 2)],
        &[("part", 0), ("part", 1), ("part", 2)],
        &[("something", 0)],
    ];
    for answers in wrong {
        let options = RequestOptions::default().window(2, 1_000_000);
        let mut stream = node.client.request_stream_bytes_with("count", "go".into(), options).await.unwrap();
        let request = loop {
            let request = soon("the request", requests.next()).await.unwrap();
            if request.payload == "go" {
                break request;
            }
        };
        for (what, number) in answers {
            let reply = request.reply.clone().unwrap();
            plain.publish_with_headers(reply, answer(what, *number), "x".into()).await.unwrap();
        }
        let mut end = None;
        while let Some(answer) = soon("an answer", async {
            // The reader takes nothing as long as too much is to come.
            if answers.len() == 3 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            stream.recv().await
        })
        .await
        {
            end = Some(answer);
        }
        assert!(matches!(&end, Some(Err(BusError::Protocol { .. }))), "{answers:?}: {end:?}");
        if answers.iter().any(|(what, _)| *what == "part") && answers[0].1 == 0 {
            let headers = soon("the cancellation", async {
                loop {
                    let headers = told.next().await.unwrap().headers.unwrap();
                    if headers.get("Whispeer-Cancel").is_some() {
                        return headers;
                    }
                }
            })
            .await;
            assert_eq!(headers.get("Whispeer-Of").unwrap().as_str(), "0000000000000001");
        }
    }
}

#[tokio::test]
async fn what_is_asked_of_others_is_bounded_and_told_as_such() {
    let Some(server) = server().await else { return };
    let node = Node::start(&server, 1).await;
    let (plain, _connection) = connect(&server).await;
    let _silent = plain.queue_subscribe("whispeer.r.silent", "whispeer".into()).await.unwrap();
    crate::joined::settled(&plain).await;
    let large = bytes::Bytes::from(vec![0; 900_000]);
    let mut asked = tokio::task::JoinSet::new();
    let most = whispeer_cluster_nats::limits::REQUEST_BYTES_OUT / large.len();
    for _ in 0..2 * most {
        // Each has a session of its own, which has a bound as well.
        let client = Client::new_memory(&node.bus.connector()).unwrap();
        let large = large.clone();
        asked.spawn(async move {
            let options = RequestOptions::default().timeout(Duration::from_secs(3));
            client.request_bytes_with("silent", large, options).await
        });
    }
    let answers = asked.join_all().await;
    let overloaded =
        answers.iter().filter(|answer| matches!(answer, Err(BusError::Overloaded { .. }))).count();
    assert!(overloaded >= most / 2, "{overloaded} of {}", answers.len());
    let silent = |answer: &_| {
        matches!(
            answer,
            Err(BusError::Overloaded { .. } | BusError::TimedOut { .. } | BusError::NoServer { .. })
        )
    };
    assert!(answers.iter().all(silent), "{answers:?}");
    eventually("nothing is left", || node.bus.stats().requests_in_flight == 0).await;
}
