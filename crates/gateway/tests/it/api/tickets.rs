//! `POST /api/v1/ticket`, and what a ticket is good for.

use std::time::Duration;

use serde_json::json;

use super::support::{Served, ask_from, bearer};

async fn ticket(served: &Served, who: &str) -> String {
    let answer = served.post("/api/v1/ticket", &[("authorization", who)], "").await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    assert_eq!(answer.json()["expires_in"], 30);
    answer.json()["ticket"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_ticket_stands_once_for_who_has_got_it() {
    let served = Served::closed().await;
    let ticket = ticket(&served, &bearer(&["reader"])).await;
    let query = format!("pattern=greetings/*&ticket={ticket}");
    let mut events = served.events(&query, &[]).await;
    events.event("ready").await;
    served.client.publish_bytes("greetings/a", vec![7]).await.unwrap();
    assert_eq!(events.payload().await, 7);
    let again = served.get(&format!("/api/v1/subscribe?{query}"), &[]).await;
    assert_eq!(again.problem(), (401, "unauthenticated".into()));
}

#[tokio::test]
async fn a_ticket_gives_no_more_rights_than_its_holder_has() {
    let served = Served::closed().await;
    let ticket = ticket(&served, &bearer(&["writer"])).await;
    let answer = served.get(&format!("/api/v1/subscribe?pattern=greetings/*&ticket={ticket}"), &[]).await;
    assert_eq!(answer.problem(), (403, "denied".into()));
}

#[tokio::test]
async fn a_ticket_is_over_after_half_a_minute() {
    let served = Served::closed().await;
    let ticket = ticket(&served, &bearer(&["reader"])).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(30)).await;
    tokio::time::resume();
    let answer = served.get(&format!("/api/v1/subscribe?pattern=greetings/*&ticket={ticket}"), &[]).await;
    assert_eq!(answer.problem(), (401, "unauthenticated".into()));
}

#[tokio::test]
async fn a_ticket_is_good_from_the_address_that_it_was_given_to() {
    let served = Served::closed().await;
    let ticket = ticket(&served, &bearer(&["reader"])).await;
    let path = format!("/api/v1/subscribe?pattern=greetings/*&ticket={ticket}");
    let answer = ask_from("127.0.0.2", served.address(), "GET", &path, &[], b"").await;
    assert_eq!(answer.problem(), (401, "unauthenticated".into()));
}

#[tokio::test]
async fn a_ticket_is_for_those_whom_the_bus_lets_in_and_for_one_path() {
    let served = Served::closed().await;
    assert_eq!(served.post("/api/v1/ticket", &[], "").await.problem(), (401, "unauthenticated".into()));
    let ticket = ticket(&served, &bearer(&["reader"])).await;
    let answer = served.get(&format!("/api/v1/history?pattern=orders/1&ticket={ticket}"), &[]).await;
    assert_eq!(answer.problem(), (400, "unknown-parameter".into()));
    let answer = served.post(&format!("/api/v1/publish?topic=a&ticket={ticket}"), &[], "1").await;
    assert_eq!(answer.problem().0, 400);
    assert_eq!(json!(answer.problem().1), "unknown-parameter");
}
