//! The last messages of many topics.

use std::time::{Duration, Instant};

use super::*;

/// It took 14 s for as many when each page looked at all topics.
#[tokio::test]
async fn a_page_of_last_messages_costs_what_it_holds_however_many_topics_there_are() {
    const TOPICS: u64 = 100_000;
    let store = MemoryStore::new();
    store.open(settings("s", &["**"])).await.unwrap();
    for number in 0..TOPICS / 1_000 {
        let changes =
            (0..1_000).map(|index| Change::Append(message(&format!("a/{}", number * 1_000 + index), "x", 1)));
        store.commit(name("s"), changes.collect()).await.unwrap();
    }
    let begin = Instant::now();
    let last = read_all(&store, "s", Reading::from(0, 0), true).await;
    assert_eq!(last.len() as u64, TOPICS);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}
