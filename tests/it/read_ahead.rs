//! A replay reads one page of its stream ahead of what its subscriber takes, as far as that has credit, and no more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use whispeer::bus::Streams;
use whispeer::client::{Start, SubscribeOptions};
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::store::{Change, MemoryStore, Name, NewMessage, Store, StreamSettings};

use crate::tampered_store::TamperedStore;

const LONG: Duration = Duration::from_secs(20);
const PAGE: u64 = limits::STORE_PAGE_MESSAGES as u64;

/// A bus whose stream has so many messages, and where it was asked for pages.
async fn bus_with(count: u64) -> (BusHandle, watch::Receiver<Vec<u64>>) {
    let (asked, told) = watch::channel(Vec::new());
    let store = TamperedStore::new(MemoryStore::new()).on_read(move |reading, page| {
        asked.send_modify(|asked| asked.push(reading.from));
        page
    });
    let (name, pattern) = (Name::new("orders").unwrap(), TopicPattern::new("orders/**").unwrap());
    let settings = StreamSettings::new(name.clone(), vec![pattern]);
    store.open(settings.clone()).await.unwrap();
    let message = |number: u64| {
        Change::Append(NewMessage {
            topic: TopicPattern::new("orders/7").unwrap(),
            fields: "".into(),
            payload: number.to_string().into(),
            time: 1,
            expires: None,
            id: None,
        })
    };
    store.commit(name, (1..=count).map(message).collect()).await.unwrap();
    let streams = Streams::open(Arc::new(store), [settings]).await.unwrap();
    (Bus::builder().streams(streams).start().unwrap(), told)
}

#[tokio::test]
async fn the_next_page_is_read_while_one_is_taken_and_not_the_one_behind_it() {
    let (bus, mut asked) = bus_with(3 * PAGE).await;
    let client = Client::new_memory(&bus.connector()).unwrap();
    let options = SubscribeOptions::default().start(Start::All).window(2 * PAGE as u32, 1 << 20);
    let mut orders = client.subscribe_bytes_with("orders/**", options).await.unwrap();
    let two = timeout(LONG, asked.wait_for(|asked| asked.len() > 1)).await.expect("it reads ahead").unwrap();
    assert_eq!(*two, [1, PAGE + 1], "while no message was taken: both halves of the window");
    drop(two);
    for number in 1..=3 * PAGE {
        let (_, payload) = timeout(LONG, orders.recv()).await.expect("it comes").unwrap();
        assert_eq!(payload, number.to_string());
        if number < PAGE / 2 {
            assert_eq!(asked.borrow().len(), 2, "there is no credit for more at {number}");
        }
    }
    assert_eq!(asked.borrow()[..3], [1, PAGE + 1, 2 * PAGE + 1]);
    assert_eq!(orders.gaps(), 0);
}

#[tokio::test]
async fn nothing_is_read_ahead_of_a_limit() {
    let (bus, asked) = bus_with(3 * PAGE).await;
    let client = Client::new_memory(&bus.connector()).unwrap();
    let options = SubscribeOptions::default().start(Start::All).limit(100, u64::MAX);
    let mut orders = client.subscribe_bytes_with("orders/**", options).await.unwrap();
    let mut count = 0;
    while timeout(LONG, orders.recv()).await.expect("it comes, or ends").is_some() {
        count += 1;
    }
    assert_eq!((count, &*asked.borrow()), (100, &vec![1]));
}
