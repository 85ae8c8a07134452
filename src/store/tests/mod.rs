//! What stores do beside what each of them promises; that is checked in `tests/store`.

#[cfg(feature = "sqlite")]
mod busy;
#[cfg(feature = "sqlite")]
mod file;
mod lasts;
#[cfg(feature = "sqlite")]
mod measured;
#[cfg(feature = "sqlite")]
mod searches;

use std::time::Duration;

use super::*;
use crate::topic::TopicPattern;

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

fn pattern(text: &str) -> TopicPattern {
    TopicPattern::new(text).unwrap()
}

fn settings(stream: &str, patterns: &[&str]) -> StreamSettings {
    StreamSettings::new(name(stream), patterns.iter().map(|text| pattern(text)).collect())
}

fn message(topic: &str, payload: &str, time: u64) -> NewMessage {
    NewMessage {
        topic: pattern(topic),
        fields: "".into(),
        payload: payload.to_owned().into(),
        time,
        expires: None,
        id: None,
    }
}

/// Appends one message, and says which sequence it has got.
async fn append(store: &dyn Store, stream: &str, message: NewMessage) -> u64 {
    match store.commit(name(stream), vec![Change::Append(message)]).await.unwrap()[..] {
        [Outcome::Appended { sequence }] => sequence,
        ref other => panic!("{other:?}"),
    }
}

/// All that a reader gets, page by page.
async fn read_all(store: &dyn Store, stream: &str, mut reading: Reading, by_topic: bool) -> Vec<Message> {
    let mut all = Vec::new();
    loop {
        let page = match by_topic {
            true => store.last_per_topic(name(stream), reading.clone()).await.unwrap(),
            false => store.read(name(stream), reading.clone()).await.unwrap(),
        };
        assert!(page.messages.len() <= reading.messages);
        assert!(page.next >= reading.from.min(page.end), "it goes on");
        all.extend(page.messages.clone());
        if !page.has_more() {
            return all;
        }
        assert!(page.next > reading.from);
        reading.from = page.next;
    }
}

fn payloads(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8(message.payload.to_vec()).unwrap()).collect()
}
