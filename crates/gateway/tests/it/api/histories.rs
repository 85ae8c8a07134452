//! `GET /api/v1/history`.

use serde_json::json;

use super::support::{STARTS, Served, bearer, payloads};

#[tokio::test]
async fn a_stream_is_read_in_pages_to_its_end_and_no_further() {
    let served = Served::open().await;
    served.store("orders/1", 1..=5).await;
    let mut path = "/api/v1/history?pattern=orders/**&limit=2".to_owned();
    let mut seen = Vec::new();
    let end = loop {
        let page = served.get(&path, &[]).await.json();
        seen.push(payloads(&page));
        assert_eq!((&page["dropped"], &page["recreated"]), (&json!(0), &json!(false)));
        match page["next"].as_str() {
            Some(next) => path = format!("/api/v1/history?pattern=orders/**&limit=2&cursor={next}"),
            None => break page["end"].as_str().unwrap().to_owned(),
        }
    };
    assert_eq!(seen, [vec![1, 2], vec![3, 4], vec![5]]);

    // Later it goes on there.
    served.store("orders/1", 6..=6).await;
    let page = served.get(&format!("/api/v1/history?pattern=orders/**&cursor={end}"), &[]).await.json();
    assert_eq!(payloads(&page), [6]);
}

#[tokio::test]
async fn a_message_has_all_that_is_known_of_it() {
    let served = Served::open().await;
    let headers = [("whispeer-header-shop", "7")];
    let answer = served.post("/api/v1/publish?topic=orders/1&quality=1", &headers, r#"{"pears":2}"#).await;
    assert_eq!(answer.status, 200);
    let mut page = served.get("/api/v1/history?pattern=orders/1", &[]).await.json();
    let mut message = page["messages"][0].take();
    assert!(message["time"].take().as_u64().unwrap() > 1_700_000_000_000);
    let expected = json!({
        "sequence": 1, "time": null, "topic": "orders/1", "headers": [["shop", "7"]], "payload": {"pears": 2}
    });
    assert_eq!(message, expected);
}

#[tokio::test]
async fn a_page_begins_where_the_caller_says() {
    let served = Served::with_five().await;
    let none_yet = ("since:99999999999999", &[][..]);
    for (start, expected) in STARTS.into_iter().chain([none_yet]) {
        let page = served.get(&format!("/api/v1/history?pattern=orders/*&start={start}"), &[]).await;
        assert_eq!(payloads(&page.json()), expected, "{start}");
    }
}

#[tokio::test]
async fn what_is_gone_and_what_is_another_stream_is_told() {
    let served = Served::open().await;
    served.store("orders/1", 1..=1).await;
    let first = served.get("/api/v1/history?pattern=orders/1", &[]).await.json();
    let end = first["end"].as_str().unwrap();
    served.store("orders/1", 2..=15).await;
    let page = served.get(&format!("/api/v1/history?pattern=orders/1&cursor={end}"), &[]).await.json();
    assert_eq!((page["dropped"].clone(), payloads(&page)[0]), (json!(4), 6));

    let other = format!("{}-3", "0".repeat(32));
    let page = served.get(&format!("/api/v1/history?pattern=orders/1&cursor={other}"), &[]).await.json();
    assert_eq!((page["recreated"].clone(), payloads(&page)[0]), (json!(true), 6));
}

#[tokio::test]
async fn what_cannot_be_read_is_told_why() {
    let served = Served::closed().await;
    let reader = bearer(&["reader"]);
    for (who, query, expected) in [
        (None, "pattern=orders/1", (401, "unauthenticated")),
        (Some(&reader), "pattern=secret", (403, "denied")),
        (Some(&reader), "pattern=greetings/1", (409, "not-durable")),
        (Some(&reader), "pattern=orders//", (400, "invalid-topic")),
        (Some(&reader), "", (400, "parameters")),
        (Some(&reader), "pattern=orders/1&limit=0", (400, "parameters")),
        (Some(&reader), "pattern=orders/1&limit=1025", (400, "parameters")),
        (Some(&reader), "pattern=orders/1&start=new", (400, "parameters")),
        (Some(&reader), "pattern=orders/1&cursor=x", (400, "place")),
        (Some(&reader), "pattern=orders/1&start=all&cursor=x", (400, "parameters")),
    ] {
        let who: Vec<_> = who.iter().map(|who| ("authorization", who.as_str())).collect();
        let answer = served.get(&format!("/api/v1/history?{query}"), &who).await;
        let (status, code) = answer.problem();
        assert_eq!((status, &*code), expected, "{query}");
    }
}
