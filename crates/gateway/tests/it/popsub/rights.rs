//! The bus decides what users may do, by the roles that the dialect gives them.

use serde_json::json;
use whispeer::auth::Policy;
use whispeer::prelude::*;

use super::{Ground, Socket, popsub, soon};

const POLICY: &str = r#"
    auth.roles.reader.subscribe.allow = ["news/**"]
    auth.roles.writer.subscribe.allow = ["**"]
    auth.roles.writer.publish.allow = ["**"]
"#;

/// `admin` may write and `alice` read.
async fn ground() -> Ground {
    let mut settings = popsub();
    settings.users[0].roles = vec!["writer".into()];
    settings.users[1].roles = vec!["reader".into()];
    Ground::over(Bus::builder().policy(Policy::from_toml(POLICY).unwrap()), settings).await
}

async fn refused(socket: &mut Socket) -> String {
    soon(socket.next()).await["error"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn nobody_gets_the_replay_of_a_topic_that_he_may_not_subscribe_to() {
    let ground = ground().await;
    let (mut admin, mut alice) = (ground.socket().await, ground.stranger().await);
    alice.log_in("alice").await;
    for topic in ["news/local", "secret"] {
        admin.publish(topic, topic).await;
    }
    admin.settle().await;
    alice.subscribe("secret").await;
    assert!(refused(&mut alice).await.contains("secret"));
    alice.subscribe("news/local").await;
    assert_eq!(soon(alice.next()).await["payload"], "news/local");
    alice.settle().await;
    ground.end().await;
}

#[tokio::test]
async fn who_may_not_publish_is_told_and_makes_no_ring() {
    let ground = ground().await;
    let mut alice = ground.stranger().await;
    alice.log_in("alice").await;
    let publish = json!({"type": "publish", "topic": "news/local", "payload": 1, "message_id": "7"});
    for _ in 0..2 {
        alice.send(publish.clone()).await;
        let told = soon(alice.next()).await;
        assert!(told["error"].is_string() && told["message_id"] == "7", "{told}");
    }
    assert_eq!(ground.bus.subscriptions(), []);
    ground.end().await;
}

#[tokio::test]
async fn a_role_that_the_policy_does_not_have_lets_nobody_in() {
    let mut settings = popsub();
    settings.roles = vec!["mistyped".into()];
    let ground = Ground::over(Bus::builder().policy(Policy::from_toml(POLICY).unwrap()), settings).await;
    let mut socket = ground.stranger().await;
    socket.send(json!({"type": "login", "username": "admin", "password": "password"})).await;
    let token = soon(socket.next()).await["token"].clone();
    socket.send(json!({"type": "auth", "token": token})).await;
    assert_eq!(refused(&mut socket).await, "authentication failed");
    assert_eq!(soon(socket.closed()).await, 1008);
    ground.end().await;
}
