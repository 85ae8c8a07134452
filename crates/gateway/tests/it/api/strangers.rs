//! Callers who show nothing of themselves, of whom there may be many behind one address.

use std::sync::Arc;

use tokio::sync::Notify;
use whispeer::bus;
use whispeer::prelude::*;
use whispeer_testkit::wait::{eventually, soon};

use super::support::{Reader, Served, ask_from, bearer, orders, streams_of};

const PATH: &str = "/api/v1/history?pattern=orders/1";

#[tokio::test]
async fn requests_of_a_connection_are_one_session_which_ends_with_it() {
    let served = Served::open().await;
    let sessions = served.bus.stats().sessions;
    let mut one = Reader::ask(served.address(), PATH, &[]).await;
    for _ in 0..3 {
        one.rest().await;
        one = one.ask_again(served.address(), PATH, &[]).await;
        assert_eq!(one.answer.status, 200);
    }
    assert_eq!(served.bus.stats().sessions, sessions + 1);
    let other = Reader::ask(served.address(), PATH, &[]).await;
    assert_eq!(served.bus.stats().sessions, sessions + 2, "nobody says that it is the same caller");
    drop(one);
    eventually("the first one has ended", || served.bus.stats().sessions == sessions + 1).await;
    drop(other);
    eventually("the other one has ended", || served.bus.stats().sessions == sessions).await;
}

#[tokio::test]
async fn what_a_connection_asks_when_its_caller_has_shown_who_he_is_is_asked_by_his_session() {
    let served = Served::closed().await;
    let shown = bearer(&["reader"]);
    let mut one = Reader::ask(served.address(), PATH, &[("authorization", &shown)]).await;
    assert_eq!(one.answer.status, 200);
    one.rest().await;
    let one = one.ask_again(served.address(), PATH, &[]).await;
    assert_eq!(one.answer.status, 401, "it is not his connection that is let in");
}

#[tokio::test]
async fn nobody_is_kept_waiting_by_others_of_his_address() {
    let settings = bus::Settings { max_requests: 1, ..bus::Settings::default() };
    let bus = Bus::builder().settings(settings).streams(streams_of(orders()).await).start().unwrap();
    let served = Served::over(bus, |_| {}).await;
    let [begun, goes_on] = [(); 2].map(|()| Arc::new(Notify::new()));
    let answering = {
        let (begun, goes_on) = (Arc::clone(&begun), Arc::clone(&goes_on));
        move |asked: bytes::Bytes| {
            let (begun, goes_on) = (Arc::clone(&begun), Arc::clone(&goes_on));
            async move {
                if asked[..] == [1] {
                    begun.notify_one();
                    goes_on.notified().await;
                }
                Ok(asked)
            }
        }
    };
    let _handling = served.client.handle_bytes("echo", answering).await.unwrap();
    let address = served.address();
    let ask = async |number: &'static str| {
        let json = [("content-type", "application/json")];
        let path = "/api/v1/request?topic=echo";
        ask_from("127.0.0.1", address, "POST", path, &json, number.as_bytes()).await
    };
    let slow = async {
        let answer = ask("1").await;
        assert_eq!((answer.status, answer.json()), (200, 1.into()));
    };
    let quick = async {
        soon("the slow one's request", begun.notified()).await;
        let answer = ask("2").await;
        assert_eq!((answer.status, answer.json()), (200, 2.into()));
        goes_on.notify_one();
    };
    tokio::join!(slow, quick);
}
