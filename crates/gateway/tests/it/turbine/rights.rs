//! What the policy of the bus says to sessions of the dialect.

use serde_json::{Value, json};
use whispeer::auth::Policy;
use whispeer::prelude::*;

use super::{Place, publication};

/// A bus whose policy knows who reads and who writes.
async fn place(roles: &[&str], publish_roles: &[&str]) -> Place {
    let policy = r#"
        auth.roles.reader.subscribe.allow = ["news/**"]
        auth.roles.writer.publish.allow = ["news/**"]
    "#;
    let bus = Bus::builder().policy(Policy::from_toml(policy).unwrap()).start().unwrap();
    let owned = |roles: &[&str]| roles.iter().map(|&role| role.to_owned()).collect();
    Place::on(bus, |settings| {
        settings.roles = owned(roles);
        settings.publish_roles = owned(publish_roles);
    })
    .await
}

fn forbidden() -> Value {
    json!({"id": 2, "error": {"code": 403, "message": "forbidden"}})
}

#[tokio::test]
async fn sessions_have_the_roles_of_the_settings_and_no_others() {
    let place = place(&["reader"], &["writer"]).await;
    let mut socket = place.subscribed("news/local").await;
    assert_eq!(
        socket.subscribe("chat/lobby").await,
        forbidden(),
        "the token restricts nothing, and the policy does"
    );
    assert_eq!(place.publish("news/local", &json!(1)).await, json!({"ok": true, "delivered": 1}));
    assert_eq!(socket.next().await, publication("news/local", &json!(1)));
    let answer = place.post(r#"{"channel":"chat/lobby","data":1}"#, &[]).await;
    assert_eq!((answer.status, answer.json()["error"]["message"].as_str()), (403, Some("forbidden")));
}

#[tokio::test]
async fn without_a_role_a_session_may_nothing() {
    let place = place(&[], &[]).await;
    let mut socket = place.connected().await;
    assert_eq!(socket.subscribe("news/local").await, forbidden());
    assert_eq!(place.post(r#"{"channel":"news/local","data":1}"#, &[]).await.status, 403);
}
