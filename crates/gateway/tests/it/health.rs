//! Whether it lives and serves.

use whispeer::prelude::*;
use whispeer_gateway::{Gateway, Settings};

use crate::http::ask;
use crate::player::play;

#[tokio::test]
async fn it_tells_that_it_lives_and_serves() {
    let bus = Bus::builder().start().unwrap();
    let gateway = Gateway::start(&bus, Settings::new("127.0.0.1:0".parse().unwrap())).await.unwrap();
    play(gateway.local_addr(), include_str!("../transcripts/http/health.txt"), &[]).await;
    gateway.stop().await;
}

#[tokio::test]
async fn each_answer_has_the_id_of_its_request() {
    let bus = Bus::builder().start().unwrap();
    let gateway = Gateway::start(&bus, Settings::new("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let own = [("x-request-id".to_owned(), "abc-1".to_owned())];
    let answer = ask(gateway.local_addr(), "GET", "/nowhere", &own, b"").await;
    assert!(answer.head.contains("x-request-id: abc-1"), "{answer:?}");
    assert_eq!(answer.json()["status"], 404);
    gateway.stop().await;
}
