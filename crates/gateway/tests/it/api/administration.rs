//! `GET /api/v1/topics`, `sessions`, `streams` and `consumers`.

use serde_json::json;
use whispeer::client::SubscribeOptions;

use super::support::{Served, bearer};

#[tokio::test]
async fn an_administrator_sees_topics_sessions_streams_and_consumers() {
    let served = Served::closed().await;
    let admin = bearer(&["admin"]);
    let admin = [("authorization", &*admin)];
    let _messages = served.client.subscribe_bytes("greetings/*").await.unwrap();
    let _handling = served.client.handle_bytes("echo", |asked| async { Ok(asked) }).await.unwrap();
    let durable = SubscribeOptions::default().durable("billing");
    let _orders = served.client.subscribe_bytes_with("orders/**", durable).await.unwrap();
    served.store("orders/1", 1..=3).await;

    let topics = served.get("/api/v1/topics", &admin).await.json();
    let patterns: Vec<_> =
        topics["subscriptions"]["rows"].as_array().unwrap().iter().map(|row| &row["pattern"]).collect();
    assert!(patterns.contains(&&json!("greetings/*")), "{patterns:?}");
    let rows = topics["served"]["rows"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["topic"] == "echo"), "{topics}");
    assert_eq!(topics["served"]["left_out"], 0);

    let sessions = served.get("/api/v1/sessions", &admin).await.json();
    let own = sessions["rows"].as_array().unwrap().iter().find(|row| row["transport"] == "http").unwrap();
    assert_eq!(own["principal"], r#"token "alice" of "https://login.example""#);
    assert_eq!(own["name"], "http");

    let streams = served.get("/api/v1/streams", &admin).await.json();
    assert_eq!((&streams["rows"][0]["name"], &streams["rows"][0]["messages"]), (&json!("orders"), &json!(3)));

    let consumers = served.get("/api/v1/consumers", &admin).await.json();
    let billing = &consumers["rows"][0];
    assert_eq!((&billing["name"], &billing["stream"]), (&json!("billing"), &json!("orders")));
}

#[tokio::test]
async fn nobody_else_does() {
    let served = Served::closed().await;
    let open = Served::open().await;
    let reader = bearer(&["reader", "writer"]);
    for path in ["/api/v1/topics", "/api/v1/sessions", "/api/v1/streams", "/api/v1/consumers"] {
        assert_eq!(served.get(path, &[]).await.problem(), (401, "unauthenticated".into()));
        let answer = served.get(path, &[("authorization", &reader)]).await;
        assert_eq!(answer.problem(), (403, "denied".into()));
        // A bus without a policy has administrators in its own process alone.
        assert_eq!(open.get(path, &[]).await.problem(), (403, "denied".into()));
        assert_eq!(open.get(&format!("{path}?a=1"), &[]).await.problem(), (400, "unknown-parameter".into()));
    }
}
