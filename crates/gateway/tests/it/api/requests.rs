//! `POST /api/v1/request`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use whispeer::ErrorReply;
use whispeer::auth::Policy;
use whispeer::prelude::*;
use whispeer_testkit::wait::soon;

use super::support::{Served, ask, bearer};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sum {
    of: Vec<i64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Total {
    total: i64,
}

impl RequestProtocol for Sum {
    type Rsp = Total;

    fn prefix() -> &'static str {
        "sum"
    }
}

#[tokio::test]
async fn a_typed_server_is_asked_and_answers_in_json() {
    let served = Served::open().await;
    let answering = |sum: Sum| async move { Ok(Total { total: sum.of.iter().sum() }) };
    let _handling = served.client.handle("", answering).await.unwrap();
    let answer = served.post("/api/v1/request?topic=sum", &[], r#"{"of":[1,2,39]}"#).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.json(), json!({"total": 42}));
}

#[tokio::test]
async fn bytes_are_asked_and_answered_as_they_are() {
    let served = Served::open().await;
    let _handling = served.client.handle_bytes("echo", |asked| async { Ok(asked) }).await.unwrap();
    let headers = [("content-type", "application/octet-stream"), ("accept", "application/octet-stream")];
    let answer = ask(served.address(), "POST", "/api/v1/request?topic=echo", &headers, b"\xffa").await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"\xffa"[..]));
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));

    let headers = [("accept", "application/msgpack")];
    let answer = served.post("/api/v1/request?topic=echo", &headers, "[1]").await;
    assert_eq!(
        (&answer.body[..], answer.header("content-type")),
        (&[0x91, 1][..], Some("application/msgpack"))
    );
}

#[tokio::test]
async fn an_error_of_the_server_is_told_with_its_code() {
    let served = Served::open().await;
    let failing = |_| async { Err(ErrorReply::new("out_of_stock", "none left of article 7")) };
    let _handling = served.client.handle_bytes("broken", failing).await.unwrap();
    let answer = served.post("/api/v1/request?topic=broken", &[], "7").await;
    assert_eq!(answer.problem(), (502, "error-reply".into()));
    let reply = json!({"code": "out_of_stock", "message": "none left of article 7"});
    assert_eq!(answer.json()["reply"], reply);
}

#[tokio::test]
async fn nobody_there_no_answer_in_time_and_no_answer_at_all_are_told_apart() {
    let served =
        Served::with(Policy::open(), |settings| settings.request_timeout = Duration::from_secs(5)).await;
    let answer = served.post("/api/v1/request?topic=nobody", &[], "1").await;
    assert_eq!(answer.problem(), (503, "no-server".into()));
    assert_eq!(answer.header("retry-after"), Some("1"));

    let mut serving = served.client.serve_bytes("slow").await.unwrap();
    let answer = served.post("/api/v1/request?topic=slow&timeout=0.01", &[], "1").await;
    assert_eq!(answer.problem(), (504, "timed-out".into()));

    let dropping = async { while serving.recv().await.is_some() {} };
    let answer = tokio::select! {
        answer = served.post("/api/v1/request?topic=slow", &[], "1") => answer,
        () = dropping => panic!("it serves for as long as it is there"),
    };
    assert_eq!(answer.problem(), (502, "abandoned".into()));

    let answer = served.post("/api/v1/request?topic=slow&timeout=5.1", &[], "1").await;
    assert_eq!(answer.problem(), (400, "parameters".into()));
}

#[tokio::test]
async fn a_caller_who_goes_away_cancels_his_request() {
    let served = Served::open().await;
    let mut serving = served.client.serve_bytes("slow").await.unwrap();
    let asked = soon("the request", async {
        tokio::select! {
            answer = served.post("/api/v1/request?topic=slow", &[], "1") => panic!("{answer:?}"),
            asked = serving.recv() => asked.unwrap(),
        }
    })
    .await;
    soon("the end of the request", asked.1.cancelled()).await;
}

#[tokio::test]
async fn what_cannot_be_asked_is_told_why() {
    let served = Served::closed().await;
    let writer = bearer(&["writer"]);
    for (who, path, body, expected) in [
        (None, "/api/v1/request?topic=echo", "1", (401, "unauthenticated")),
        (Some(&writer), "/api/v1/request?topic=secret", "1", (403, "denied")),
        (Some(&writer), "/api/v1/request?topic=$bus/stop", "1", (403, "denied")),
        (Some(&writer), "/api/v1/request?topic=a/*", "1", (400, "invalid-topic")),
        (Some(&writer), "/api/v1/request", "1", (400, "parameters")),
        (Some(&writer), "/api/v1/request?topic=echo", "{", (400, "json")),
        (Some(&writer), "/api/v1/request?topic=echo&timeout=never", "1", (400, "parameters")),
    ] {
        let who: Vec<_> = who.iter().map(|who| ("authorization", who.as_str())).collect();
        let answer = served.post(path, &who, body).await;
        let (status, code) = answer.problem();
        assert_eq!((status, &*code), expected, "{path} {body}");
    }
}
