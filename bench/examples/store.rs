//! How many messages a store takes in a second, beside what the disk can do, and how many it reads.
//!
//! ```text
//! cargo run --release --example store -- FOLDER 100 1000000
//! ```
//!
//! `FOLDER` has to be on a real disk; messages have so many bytes, and so many are read and opened.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use whispeer::TopicPattern;
use whispeer::store::{
    Change, Name, NewMessage, Reading, SqliteOptions, SqliteStore, Store, StreamSettings,
};

/// How long each measurement takes.
const TIME: Duration = Duration::from_secs(3);
/// Messages that are read unless it is told otherwise.
const READ: u64 = 1_000_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .context("a folder on a real disk is needed")?;
    let size = arguments
        .next()
        .map_or(Ok(100), |size| size.parse::<usize>())?;
    let count = arguments
        .next()
        .map_or(Ok(READ), |count| count.parse::<u64>())?;
    let folder = tempfile::tempdir_in(folder)?;
    println!(
        "write and sync of {size} B: {:9.0} a second",
        syncs(folder.path(), size)?
    );

    let store = SqliteStore::open(&folder.path().join("db"), SqliteOptions::new())?;
    let stream = Name::new("bench")?;
    let patterns = vec![TopicPattern::new("**")?];
    store
        .open(StreamSettings::new(stream.clone(), patterns))
        .await?;
    for outstanding in [1, 8, 64, 512] {
        let rate = appends(&store, &stream, size, outstanding).await?;
        println!("appended, {outstanding:3} outstanding: {rate:9.0} a second");
    }

    let message = message(size)?;
    let mut end = store.streams().await?.remove(0).end;
    while end <= count {
        let changes = vec![Change::Append(message.clone()); 4096];
        store.commit(stream.clone(), changes).await?;
        end += 4096;
    }
    let (begin, mut reading, mut read) = (Instant::now(), Reading::from(1, 0), 0);
    loop {
        let page = store.read(stream.clone(), reading.clone()).await?;
        read += page.messages.len();
        if !page.has_more() {
            break;
        }
        reading.from = page.next;
    }
    let rate = read as f64 / begin.elapsed().as_secs_f64();
    println!("read {read}: {rate:9.0} a second");
    store.close().await?;
    let bytes = std::fs::metadata(folder.path().join("db"))?.len();
    println!("{:.1} B of the file for each", bytes as f64 / read as f64);

    let begin = Instant::now();
    let store = SqliteStore::open(&folder.path().join("db"), SqliteOptions::new())?;
    let messages = store.streams().await?.remove(0).messages;
    println!(
        "opened with {messages} messages in {:?}",
        begin.elapsed()
    );
    Ok(())
}

fn message(size: usize) -> Result<NewMessage> {
    Ok(NewMessage {
        topic: TopicPattern::new("plant/hall-3/press/temperature")?,
        fields: "".into(),
        payload: vec![7; size].into(),
        time: 1,
        expires: None,
        id: None,
    })
}

/// Writes at the end of a file that reach the disk, one after the other.
fn syncs(folder: &Path, size: usize) -> Result<f64> {
    let path = folder.join("syncs");
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let (begin, mut count) = (Instant::now(), 0);
    while begin.elapsed() < TIME {
        file.write_all(&vec![7; size])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}

async fn appends(
    store: &SqliteStore,
    stream: &Name,
    size: usize,
    outstanding: usize,
) -> Result<f64> {
    let message = message(size)?;
    let append = || store.commit(stream.clone(), vec![Change::Append(message.clone())]);
    let (begin, mut count) = (Instant::now(), 0);
    let mut waiting: std::collections::VecDeque<_> = (0..outstanding).map(|_| append()).collect();
    while let Some(next) = waiting.pop_front() {
        next.await?;
        count += 1;
        if begin.elapsed() < TIME {
            waiting.push_back(append());
        }
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}
