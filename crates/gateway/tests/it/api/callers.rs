//! Who asks, and the sessions of those who do.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use whispeer::auth::Policy;
use whispeer_testkit::wait::eventually;

use super::support::{ALICE, POLICY, Served, bearer, bearer_for};

const HISTORY: &str = "/api/v1/history?pattern=orders/1";

#[tokio::test]
async fn a_user_shows_a_name_and_a_password() {
    let served = Served::closed().await;
    assert_eq!(served.get(HISTORY, &[("authorization", ALICE)]).await.status, 200);
    let denied = served.post("/api/v1/publish?topic=orders/1", &[("authorization", ALICE)], "1").await;
    assert_eq!(denied.problem(), (403, "denied".into()));
}

#[tokio::test]
async fn who_is_not_let_in_is_told_how_to_say_who_he_is() {
    let served = Served::closed().await;
    let wrong = "Basic YWxpY2U6d3JvbmcgcGFzc3dvcmQ=";
    for (shown, bearer) in [
        (None, r#"Bearer realm="whispeer""#),
        (Some("Bearer nonsense"), r#"Bearer realm="whispeer", error="invalid_token""#),
        (Some(wrong), r#"Bearer realm="whispeer", error="invalid_token""#),
        (Some("Digest a=b"), r#"Bearer realm="whispeer", error="invalid_token""#),
    ] {
        let headers: Vec<_> = shown.iter().map(|shown| ("authorization", *shown)).collect();
        let answer = served.get(HISTORY, &headers).await;
        assert_eq!(answer.problem(), (401, "unauthenticated".into()));
        let asked: Vec<_> = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "www-authenticate")
            .map(|(_, how)| how)
            .collect();
        assert_eq!(asked, [bearer, r#"Basic realm="whispeer", charset="UTF-8""#], "{shown:?}");
    }
    let twice = [("authorization", ALICE), ("authorization", ALICE)];
    assert_eq!(served.get(HISTORY, &twice).await.problem(), (400, "authorization".into()));
}

#[tokio::test]
async fn who_guesses_a_name_s_password_is_slowed_down() {
    let served = Served::closed().await;
    let mut statuses = Vec::new();
    for guess in 0..12 {
        let shown = STANDARD.encode(format!("bob:guess number {guess}"));
        let answer = served.get(HISTORY, &[("authorization", &format!("Basic {shown}"))]).await;
        let status = answer.problem().0;
        assert!(status == 401 || answer.header("retry-after").is_some());
        statuses.push(status);
    }
    assert_eq!((statuses[0], statuses[11]), (401, 429), "{statuses:?}");
}

#[tokio::test]
async fn all_requests_of_a_caller_are_one_session_also_those_that_come_at_once() {
    let served = Served::closed().await;
    let before = served.bus.stats().sessions_total;
    let (one, other) =
        (bearer_for("alice", &["reader"], Duration::from_secs(60)), bearer(&["writer", "reader"]));
    let ask = async |who: &str| served.get(HISTORY, &[("authorization", who)]).await.status;
    assert_eq!(join_all((0..20).map(|_| ask(&one))).await, [200; 20]);
    assert_eq!(served.bus.stats().sessions_total, before + 1);
    assert_eq!(ask(&other).await, 200);
    assert_eq!(ask(&one).await, 200);
    assert_eq!(served.bus.stats().sessions_total, before + 2);
}

#[tokio::test]
async fn a_session_that_nobody_uses_ends_after_a_minute() {
    let served = Served::closed().await;
    let sessions = served.bus.stats().sessions;
    let shown = bearer(&["reader"]);
    let mut events = served.events("pattern=orders/1", &[("authorization", &shown)]).await;
    events.event("ready").await;
    assert_eq!(served.get(HISTORY, &[("authorization", &bearer(&["writer", "reader"]))]).await.status, 200);
    assert_eq!(served.bus.stats().sessions, sessions + 2);
    tokio::time::pause();
    for _ in 0..8 {
        tokio::time::advance(Duration::from_secs(10)).await;
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
    eventually("the idle one has ended", || served.bus.stats().sessions == sessions + 1).await;
    // The other one is used all the time.
    served.client.publish_bytes("orders/1", vec![7]).await.unwrap();
    loop {
        let event = events.next().await.unwrap();
        if event.name == "message" {
            break assert_eq!(event.data["payload"], 7);
        }
    }
}

#[tokio::test]
async fn a_session_that_has_ended_is_made_anew() {
    let served = Served::closed().await;
    let shown = bearer(&["reader"]);
    let ask = async || served.get(HISTORY, &[("authorization", &shown)]).await.status;
    assert_eq!(ask().await, 200);
    let without = POLICY.replace("https://login.example", "https://other.example");
    served.bus.set_policy(Policy::from_toml(&without).unwrap());
    assert_eq!(ask().await, 401);
    served.bus.set_policy(Policy::from_toml(&POLICY).unwrap());
    assert_eq!(ask().await, 200);
}

#[tokio::test]
async fn a_crowd_takes_no_more_sessions_than_there_may_be_and_keeps_nobody_out() {
    let served = Served::closed().await;
    let before = served.bus.stats().sessions;
    for number in 0..1_100 {
        let shown = bearer_for(&format!("user {number}"), &["reader"], Duration::from_secs(600));
        assert_eq!(
            served.get("/api/v1/history?pattern=secret", &[("authorization", &shown)]).await.status,
            403
        );
    }
    eventually("the oldest have made way", || served.bus.stats().sessions <= before + 1_024).await;
    let shown = bearer_for("user 0", &["reader"], Duration::from_secs(600));
    assert_eq!(served.get(HISTORY, &[("authorization", &shown)]).await.status, 200);
}

#[tokio::test]
async fn while_it_drains_nothing_new_is_taken() {
    let served = Served::open().await;
    // A connection that is kept has its next request answered so.
    let mut events = served.events("pattern=a", &[]).await;
    events.event("ready").await;
    let address = served.address();
    served.bus.drain(Duration::from_secs(5)).await;
    while events.next().await.is_some() {}
    let refused = tokio::net::TcpStream::connect(address).await;
    assert!(refused.is_err(), "it listens no more");
}
