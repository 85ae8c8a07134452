//! Changing the settings of a bus that runs.

use std::time::Duration;

use whispeer::bus::Settings;
use whispeer::client::{Policy, SubscribeOptions};
use whispeer::prelude::*;

#[tokio::test]
async fn a_lowered_limit_on_connections_holds_for_those_to_come() {
    let bus = Bus::builder().start().unwrap();
    let first = Client::new_memory(&bus.connector()).unwrap();
    first.ping().await.unwrap();
    let applied = bus.apply(&Settings { max_sessions: 1, ..Settings::default() }).unwrap();
    assert_eq!(applied.now, ["max_sessions"]);
    assert_eq!(applied.at_restart, [""; 0]);
    let second = Client::new_memory(&bus.connector()).unwrap();
    assert!(matches!(second.ping().await, Err(BusError::LimitReached { .. })));
    first.ping().await.unwrap();
    let again = bus.apply(&Settings::default()).unwrap();
    assert_eq!(again.now, ["max_sessions"]);
    Client::new_memory(&bus.connector()).unwrap().ping().await.unwrap();
    assert_eq!(bus.apply(&Settings::default()).unwrap().now, [""; 0]);
}

#[tokio::test]
async fn the_policy_block_can_be_withheld_from_new_subscriptions() {
    let bus = Bus::builder().start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let options = || SubscribeOptions::default().policy(Policy::Block);
    let _kept = client.subscribe_bytes_with("before", options()).await.unwrap();
    bus.apply(&Settings { allow_block: false, ..Settings::default() }).unwrap();
    let refused = client.subscribe_bytes_with("after", options()).await;
    assert!(matches!(refused, Err(BusError::Denied { .. })), "{refused:?}");
    assert_eq!(client.publish_bytes("before", "still there").await.unwrap(), 1);
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_invalid_settings_change_nothing() {
    let bus = Bus::builder().start().unwrap();
    let asked = Settings { byte_budget: 1 << 30, publish_window: (1, 1), ..Settings::default() };
    let applied = bus.apply(&asked).unwrap();
    assert_eq!(applied.now, [""; 0]);
    assert_eq!(applied.at_restart, ["byte_budget", "publish_window"]);
    let invalid = Settings { max_servings: 1, keep_alive: Duration::ZERO, ..Settings::default() };
    assert!(matches!(bus.apply(&invalid), Err(BusError::InvalidSettings(_))));
    assert_eq!(bus.apply(&Settings::default()).unwrap().now, [""; 0]);
}
