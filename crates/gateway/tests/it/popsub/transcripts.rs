//! What is said and answered, line by line.

use super::{Ground, popsub};
use crate::player::play;

#[tokio::test]
async fn the_examples_of_the_document_go_as_they_stand_there() {
    let ground = Ground::new(popsub()).await;
    play(ground.address(), include_str!("../../transcripts/popsub/document.txt"), &[]).await;
    ground.end().await;
}

#[tokio::test]
async fn each_error_is_told_in_the_form_of_the_dialect() {
    let mut settings = popsub();
    settings.max_subscriptions = 2;
    let ground = Ground::new(settings).await;
    play(ground.address(), include_str!("../../transcripts/popsub/errors.txt"), &[]).await;
    ground.end().await;
}

#[tokio::test]
async fn messages_are_replayed_acknowledged_and_delivered_once() {
    let mut settings = popsub();
    settings.replay_of = vec![("short".into(), 2), ("never".into(), 0)];
    let ground = Ground::new(settings).await;
    play(ground.address(), include_str!("../../transcripts/popsub/delivery.txt"), &[]).await;
    ground.end().await;
}

#[tokio::test]
async fn it_is_spoken_at_the_root_where_the_settings_say_so() {
    const ROOT: &str = r#"
        a+ /
        a> {"type": "auth", "token": "none"}
        a< {"error": "authentication failed"}
        a! 1008
    "#;
    let mut settings = popsub();
    settings.at_root = true;
    let ground = Ground::new(settings).await;
    play(ground.address(), ROOT, &[]).await;
    // Anything else at the root is what it would be without.
    play(ground.address(), "GET /\n= 404\nPOST / {\"upgrade\":\"websocket\"} {}\n= 404", &[]).await;
    ground.end().await;

    let ground = Ground::new(popsub()).await;
    play(ground.address(), "a+ /\na! 404\nGET /popsub\n= 426", &[]).await;
    ground.end().await;
}
