//! Clocks that were wrong for a while, and were set right again.

use super::*;
use whispeer::limits::{CLOCK_AHEAD, MESSAGE_IDS_AGED};

const SECOND: u64 = 1_000;
const YEAR: u64 = 365 * 24 * 60 * 60 * SECOND;

/// Appends messages of these times.
async fn append_at(store: &dyn Store, times: impl IntoIterator<Item = u64>) {
    for time in times {
        append(store, "s", message("a", &time.to_string(), time)).await;
    }
}

/// Sweeps until nothing goes, and says which sequences are left.
async fn left_at(store: &dyn Store, now: u64) -> Vec<u64> {
    while store.commit(name("s"), vec![Change::Expire { now }]).await.unwrap()
        != [Outcome::Done { dropped: 0 }]
    {}
    read_all(store, "s", Reading::from(0, 0), false).await.iter().map(|message| message.sequence).collect()
}

fn kept_for(seconds: u64) -> StreamSettings {
    settings("s", &["**"]).retention(Retention::new().age(Duration::from_secs(seconds)))
}

pub async fn a_clock_that_was_ahead_for_a_moment_does_not_end_retention_by_age(store: &dyn Store) {
    store.open(kept_for(3600)).await.unwrap();
    let now = YEAR;
    append_at(store, [now + YEAR, now, now + SECOND]).await;
    assert_eq!(left_at(store, now + 3600 * SECOND).await, [1, 2, 3]);
    assert_eq!(left_at(store, now + 3601 * SECOND).await, [3]);
    assert_eq!(left_at(store, now + 3602 * SECOND).await, [0; 0]);
}

pub async fn what_was_stored_while_a_clock_was_ahead_goes_with_what_came_after_it(store: &dyn Store) {
    store.open(kept_for(150)).await.unwrap();
    append_at(store, [10 * SECOND, YEAR, YEAR + 1]).await;
    assert_eq!(left_at(store, 200 * SECOND).await, [2, 3], "nobody can say how old they are");
    // Wrong once more.
    append_at(store, [100 * SECOND, 2 * YEAR, 200 * SECOND]).await;
    assert_eq!(left_at(store, 250 * SECOND).await, [2, 3, 4, 5, 6]);
    assert_eq!(left_at(store, 251 * SECOND).await, [5, 6]);
    assert_eq!(left_at(store, 351 * SECOND).await, [0; 0]);
}

pub async fn where_a_clock_is_corrected_by_little_times_stand_still(store: &dyn Store) {
    store.open(settings("s", &["**"])).await.unwrap();
    let (right, ahead) = (YEAR, YEAR + CLOCK_AHEAD.as_millis() as u64);
    append_at(store, [ahead, right, ahead + 1, right]).await;
    let read = read_all(store, "s", Reading::from(0, 0), false).await;
    let times: Vec<_> = read.iter().map(|message| message.time).collect();
    assert_eq!(times, [ahead, ahead, ahead + 1, right]);
}

pub async fn who_begins_at_a_time_misses_nothing_since_also_where_a_clock_was_ahead(store: &dyn Store) {
    store.open(settings("s", &["**"])).await.unwrap();
    let times = (1..=20).map(|number| number * SECOND);
    append_at(
        store,
        times.map(|time| if (7 * SECOND..10 * SECOND).contains(&time) { time + YEAR } else { time }),
    )
    .await;
    for time in 1..=20 {
        let begins = store.find(name("s"), Start::Since(time * SECOND)).await.unwrap();
        assert!(begins == time || time >= 7 && begins == 7, "since {time}: {begins}");
    }
    assert_eq!(store.find(name("s"), Start::Since(21 * SECOND)).await.unwrap(), 21);
}

pub async fn ids_are_not_forgotten_by_a_clock_that_is_ahead_for_a_moment(store: &dyn Store) {
    const BEFORE: u64 = 100;
    store.open(settings("s", &["**"]).known_for(Duration::from_secs(10))).await.unwrap();
    let sent = async |number, time| {
        let id = Some(MessageId { publisher: [7; 16], number });
        let append = Change::Append(NewMessage { id, ..message("a", "x", time) });
        store.commit(name("s"), vec![append]).await.unwrap().remove(0)
    };
    for number in 1..=BEFORE {
        sent(number, SECOND).await;
    }
    let wrong = [BEFORE + 1, BEFORE + 2];
    for number in wrong {
        sent(number, YEAR).await;
    }
    let forgotten = wrong.len() * MESSAGE_IDS_AGED;
    for number in forgotten as u64 + 1..=BEFORE + 2 {
        assert_eq!(sent(number, 2 * SECOND).await, Outcome::Known { sequence: number });
    }
    // They are forgotten when their time is over by a clock that is right; those that came in between with what came after them.
    for (numbers, time, left) in [(1_000..1_100, 20, 102), (2_000..2_100, 30, 100)] {
        for number in numbers {
            sent(number, time * SECOND).await;
        }
        assert_eq!(store.streams().await.unwrap()[0].ids, left);
    }
    assert!(matches!(sent(wrong[0], 30 * SECOND).await, Outcome::Appended { .. }));
}
