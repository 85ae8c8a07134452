//! Going on behind the last event that was read.

use serde_json::json;
use whispeer::client::Epoch;

use super::support::{STARTS, Served, orders, streams_of};
use whispeer::prelude::*;

#[tokio::test]
async fn messages_of_a_stream_have_an_id_by_which_a_reader_goes_on() {
    let served = Served::open().await;
    served.store("orders/1", 1..=2).await;
    let mut events = served.events("pattern=orders/**&start=all", &[]).await;
    assert_eq!(events.event("ready").await.id, None);
    let first = events.event("message").await;
    assert_eq!((&first.data["sequence"], &first.data["payload"]), (&json!(1), &json!(1)));
    assert!(first.data["time"].as_u64().unwrap() > 1_700_000_000_000);
    let id = first.id.unwrap();
    assert!(id.ends_with("-1"), "{id}");
    drop(events);

    served.store("orders/2", 3..=3).await;
    let mut events = served.events("pattern=orders/**&start=all", &[("last-event-id", &id)]).await;
    assert_eq!(events.event("ready").await.id.as_deref(), Some(&*id));
    assert_eq!((events.payload().await, events.payload().await), (json!(2), json!(3)));
    served.store("orders/2", 4..=4).await;
    assert_eq!(events.payload().await, 4);

    let mut events = served.events(&format!("pattern=orders/**&last_event_id={id}&limit=3"), &[]).await;
    events.event("ready").await;
    assert_eq!((events.payload().await, events.payload().await), (json!(2), json!(3)));
}

#[tokio::test]
async fn who_begins_with_what_comes_goes_on_there_even_if_nothing_has_come() {
    let served = Served::open().await;
    served.store("orders/1", 1..=2).await;
    let mut events = served.events("pattern=orders/**", &[]).await;
    let id = events.event("ready").await.id.unwrap();
    assert!(id.ends_with("-2"), "{id}");
    drop(events);
    served.store("orders/1", 3..=3).await;
    let mut events = served.events("pattern=orders/**", &[("last-event-id", &id)]).await;
    events.event("ready").await;
    assert_eq!(events.payload().await, 3);
}

#[tokio::test]
async fn a_stream_is_read_from_where_the_reader_says() {
    let served = Served::with_five().await;
    for (start, expected) in STARTS {
        let limit = expected.len();
        let mut events = served.events(&format!("pattern=orders/*&start={start}&limit={limit}"), &[]).await;
        events.event("ready").await;
        for number in expected {
            assert_eq!(events.payload().await, *number, "{start}");
        }
        assert_eq!(events.event("end").await.data["code"], "limit");
    }
}

#[tokio::test]
async fn what_the_stream_has_dropped_meanwhile_is_told_as_a_gap() {
    let served = Served::open().await;
    served.store("orders/1", 1..=1).await;
    let mut events = served.events("pattern=orders/*&start=all&limit=1", &[]).await;
    events.event("ready").await;
    let id = events.event("message").await.id.unwrap();
    // Of which the stream keeps the last ten.
    served.store("orders/1", 2..=15).await;
    let mut events = served.events("pattern=orders/*", &[("last-event-id", &id)]).await;
    events.event("ready").await;
    assert_eq!(events.event("gap").await.data, json!({"count": 4, "reason": "retention"}));
    assert_eq!(events.payload().await, 6);
}

#[tokio::test]
async fn a_stream_of_another_epoch_is_told_and_begins_anew() {
    let served = Served::open().await;
    served.store("orders/1", 1..=2).await;
    let other: Epoch = [7; 16];
    let id = format!("{:032x}-1", u128::from_be_bytes(other));
    let mut events = served.events("pattern=orders/*", &[("last-event-id", &id)]).await;
    assert_eq!(events.event("ready").await.id, None);
    assert_eq!(events.event("gap").await.data, json!({"count": 0, "reason": "recreated"}));
    assert_eq!(events.payload().await, 1);
}

#[tokio::test]
async fn where_there_is_no_stream_any_more_a_reader_is_told_and_gets_what_comes() {
    let served = Served::open().await;
    let id = format!("{}-1", "0".repeat(32));
    let mut events = served.events("pattern=greetings/*", &[("last-event-id", &id)]).await;
    assert_eq!(events.event("ready").await.id, None);
    assert_eq!(events.event("gap").await.data, json!({"count": 0, "reason": "recreated"}));
    served.client.publish_bytes("greetings/a", vec![7]).await.unwrap();
    assert_eq!(events.payload().await, 7);
}

#[tokio::test]
async fn of_several_patterns_the_id_tells_how_far_the_reader_is_in_each() {
    let served = Served::open().await;
    served.store("orders/1", 1..=1).await;
    served.store("orders/2", 2..=2).await;
    let query = "pattern=orders/1&pattern=greetings/*&pattern=orders/2&start=new";
    let mut events = served.events(query, &[]).await;
    events.event("ready").await;
    served.store("orders/2", 3..=3).await;
    let id = events.event("message").await.id.unwrap();
    let places: Vec<&str> = id.split(',').collect();
    assert_eq!(places.len(), 3);
    assert!(places[0].ends_with("-2") && places[1] == "-" && places[2].ends_with("-3"), "{id}");
    drop(events);
    served.store("orders/1", 4..=4).await;
    let mut events = served.events(query, &[("last-event-id", &id)]).await;
    events.event("ready").await;
    assert_eq!(events.payload().await, 4);
}

#[tokio::test]
async fn a_pattern_that_no_single_stream_keeps_has_no_ids() {
    let served =
        Served::over(Bus::builder().streams(streams_of(orders()).await).start().unwrap(), |_| {}).await;
    let mut events = served.events("pattern=**", &[]).await;
    assert_eq!(events.event("ready").await.id, None);
    served.store("orders/1", 1..=1).await;
    let message = events.event("message").await;
    assert_eq!((message.id, message.data["payload"].clone()), (None, json!(1)));
    assert_eq!(message.data.get("sequence"), None);
}
