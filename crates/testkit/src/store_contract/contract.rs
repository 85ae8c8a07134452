//! What is stored, and what is read.

use super::*;

pub async fn messages_are_numbered_and_read_in_their_order(store: &dyn Store) {
    store.open(settings("orders", &["orders/**"])).await.unwrap();
    for number in 1..=10 {
        let message = message("orders/7", &format!("order {number}"), 1_000 + number);
        assert_eq!(append(store, "orders", message).await, number);
    }
    let page = store.read(name("orders"), Reading::from(0, 0).at_most(4)).await.unwrap();
    assert_eq!((page.next, page.first, page.end), (5, 1, 11));
    assert_eq!(payloads(&page.messages), ["order 1", "order 2", "order 3", "order 4"]);
    assert_eq!(page.messages[3].time, 1_004);
    assert!(page.has_more());
    let rest = store.read(name("orders"), Reading::from(page.next, 0)).await.unwrap();
    assert_eq!((rest.messages.len(), rest.next, rest.has_more()), (6, 11, false));
    // A page has one message at least, however large.
    let mut small = Reading::from(3, 0);
    small.bytes = 1;
    assert_eq!(payloads(&store.read(name("orders"), small).await.unwrap().messages), ["order 3"]);
    let beyond = store.read(name("orders"), Reading::from(99, 0)).await.unwrap();
    assert_eq!((beyond.messages.len(), beyond.next), (0, 11));
    // The clock may have been set back; what a stream says of its times does not.
    append(store, "orders", message("orders/7", "late", 5)).await;
    let late = store.read(name("orders"), Reading::from(11, 0)).await.unwrap();
    assert_eq!(late.messages[0].time, 1_010);
}

pub async fn a_stream_that_is_opened_again_is_the_same_and_one_that_was_removed_is_another(
    store: &dyn Store,
) {
    let first = store.open(settings("s", &["a"])).await.unwrap();
    append(store, "s", message("a", "x", 1)).await;
    let again = store.open(settings("s", &["a", "b"])).await.unwrap();
    assert_eq!((again.epoch, again.messages, again.settings.patterns.len()), (first.epoch, 1, 2));
    store.remove(name("s")).await.unwrap();
    let gone = store.read(name("s"), Reading::from(1, 0)).await.unwrap_err();
    assert_eq!(gone, StoreError::NoStream { stream: "s".into() });
    assert_eq!(store.remove(name("s")).await.unwrap_err(), gone);
    let new = store.open(settings("s", &["a"])).await.unwrap();
    assert_ne!(new.epoch, first.epoch);
    assert_eq!((new.first, new.end, new.messages, new.bytes), (1, 1, 0, 0));
}

pub async fn no_topic_belongs_to_two_streams(store: &dyn Store) {
    store.open(settings("one", &["a/**", "b"])).await.unwrap();
    let refused = store.open(settings("two", &["c", "*/x"])).await.unwrap_err();
    let (pattern, other, stream) = ("*/x".into(), "a/**".into(), "one".into());
    assert_eq!(refused, StoreError::Overlapping { pattern, other, stream });
    store.open(settings("two", &["c", "d/x"])).await.unwrap();
    let names = store.streams().await.unwrap().into_iter().map(|state| state.settings.name.to_string());
    assert_eq!(names.collect::<Vec<_>>(), ["one", "two"]);
    for wrong in ["", "a b", "ü", &"x".repeat(65)] {
        assert!(matches!(Name::new(wrong), Err(StoreError::InvalidName { .. })), "{wrong}");
    }
}

pub async fn what_the_bounds_do_not_leave_goes_the_oldest_first_and_the_newest_stays(store: &dyn Store) {
    let bounded = |retention| settings("s", &["**"]).retention(retention);
    store.open(bounded(Retention::new().messages(3))).await.unwrap();
    for number in 1..=5 {
        append(store, "s", message("a", &number.to_string(), number)).await;
    }
    assert_eq!(payloads(&read_all(store, "s", Reading::from(0, 0), false).await), ["3", "4", "5"]);
    let state = &store.streams().await.unwrap()[0];
    assert_eq!((state.first, state.end, state.messages), (3, 6, 3));
    let each = 2 + whispeer::limits::STORED_OVERHEAD as u64;
    assert_eq!(state.bytes, 3 * each);
    // A bound that no message fits leaves the newest.
    store.open(bounded(Retention::new().bytes(1))).await.unwrap();
    append(store, "s", message("a", "6", 6)).await;
    assert_eq!(payloads(&read_all(store, "s", Reading::from(0, 0), false).await), ["6"]);
    let purged = store.commit(name("s"), vec![Change::Purge { before: 7 }]).await.unwrap();
    assert_eq!(purged, [Outcome::Done { dropped: 1 }]);
    let state = &store.streams().await.unwrap()[0];
    assert_eq!((state.first, state.end, state.messages, state.bytes), (7, 7, 0, 0));
}

pub async fn topics_have_bounds_of_their_own(store: &dyn Store) {
    let retention = Retention::new().topic_messages(2).messages(5);
    store.open(settings("s", &["**"]).retention(retention)).await.unwrap();
    for (number, topic) in ["a", "b", "a", "a", "c", "d", "*"].into_iter().enumerate() {
        append(store, "s", message(topic, &format!("{topic}{number}"), number as u64)).await;
    }
    let left = payloads(&read_all(store, "s", Reading::from(0, 0), false).await);
    assert_eq!(left, ["a2", "a3", "c4", "d5", "*6"]);
    assert_eq!(store.streams().await.unwrap()[0].first, 3);
}

pub async fn what_is_too_old_or_has_expired_goes_at_a_sweep_and_is_not_read_before(store: &dyn Store) {
    let retention = Retention::new().age(Duration::from_secs(10));
    store.open(settings("s", &["**"]).retention(retention)).await.unwrap();
    for (time, expires) in [(1_000, None), (5_000, None), (6_000, Some(7_000)), (8_000, Some(60_000))] {
        append(store, "s", NewMessage { expires, ..message("a", &time.to_string(), time) }).await;
    }
    assert_eq!(payloads(&read_all(store, "s", Reading::from(0, 6_999), false).await).len(), 4);
    let live = payloads(&read_all(store, "s", Reading::from(0, 7_000), false).await);
    assert_eq!(live, ["1000", "5000", "8000"]);
    let sweep = |now| store.commit(name("s"), vec![Change::Expire { now }]);
    assert_eq!(sweep(11_000).await.unwrap(), [Outcome::Done { dropped: 1 }]);
    assert_eq!(sweep(15_001).await.unwrap(), [Outcome::Done { dropped: 2 }]);
    assert_eq!(payloads(&read_all(store, "s", Reading::from(0, 0), false).await), ["8000"]);
    assert_eq!(store.streams().await.unwrap()[0].first, 4);
}

pub async fn a_message_that_is_sent_again_is_known_for_a_while(store: &dyn Store) {
    store.open(settings("s", &["**"]).known_for(Duration::from_secs(10))).await.unwrap();
    let sent = |number, time| {
        let id = Some(MessageId { publisher: [7; 16], number });
        store.commit(name("s"), vec![Change::Append(NewMessage { id, ..message("a", "x", time) })])
    };
    assert_eq!(sent(u64::MAX, 1_000).await.unwrap(), [Outcome::Appended { sequence: 1 }]);
    assert_eq!(sent(2, 2_000).await.unwrap(), [Outcome::Appended { sequence: 2 }]);
    assert_eq!(sent(u64::MAX, 10_999).await.unwrap(), [Outcome::Known { sequence: 1 }]);
    assert_eq!(sent(u64::MAX, 11_000).await.unwrap(), [Outcome::Appended { sequence: 3 }]);
    assert_eq!(sent(2, 11_500).await.unwrap(), [Outcome::Known { sequence: 2 }]);
    // It is known, also where retention has dropped it.
    store.commit(name("s"), vec![Change::Purge { before: 4 }]).await.unwrap();
    assert_eq!(sent(2, 11_600).await.unwrap(), [Outcome::Known { sequence: 2 }]);
}

pub async fn what_is_known_by_its_id_is_told_behind_what_was_asked_before_and_nothing_is_changed(
    store: &dyn Store,
) {
    store.open(settings("s", &["**"])).await.unwrap();
    let commit = |changes| store.commit(name("s"), changes);
    let id = |number| MessageId { publisher: [7; 16], number };
    let sent = |number| NewMessage { id: Some(id(number)), ..message("a", "x", 1_000) };
    let recall = |number| Change::Recall { id: id(number) };
    // What was begun before is done when it is asked.
    let storing = commit(vec![Change::Append(sent(1)), delay(sent(2), 2_000)]);
    let asked = commit(vec![recall(1), recall(2), recall(u64::MAX)]).await.unwrap();
    let none = Outcome::Done { dropped: 0 };
    let (stored, kept) = (Outcome::Known { sequence: 1 }, Outcome::Delayed { id: 1 });
    assert_eq!(asked, [stored, kept, none]);
    storing.await.unwrap();
    let before = store.streams().await.unwrap();
    let elsewhere = Change::Recall { id: MessageId { publisher: [8; 16], number: 1 } };
    assert_eq!(commit(vec![elsewhere]).await.unwrap(), [none]);
    assert_eq!(store.streams().await.unwrap(), before);
    commit(vec![Change::DropDelayed { id: 1 }]).await.unwrap();
    assert_eq!(commit(vec![recall(2)]).await.unwrap(), [none], "what was dropped is kept no more");
    let nowhere = store.commit(name("t"), vec![recall(1)]).await;
    assert!(matches!(nowhere, Err(StoreError::NoStream { .. })), "{nowhere:?}");
}

pub async fn as_many_messages_are_known_as_the_settings_say(store: &dyn Store) {
    let state = store.open(settings("s", &["**"]).known_messages(3)).await.unwrap();
    assert_eq!(state.settings.known_messages, 3);
    let sent = |number| {
        let id = Some(MessageId { publisher: [7; 16], number });
        store.commit(name("s"), vec![Change::Append(NewMessage { id, ..message("a", "x", 1_000) })])
    };
    for number in 1..=3 {
        assert_eq!(sent(number).await.unwrap(), [Outcome::Appended { sequence: number }]);
    }
    assert_eq!(sent(1).await.unwrap(), [Outcome::Known { sequence: 1 }], "two have come after it");
    assert_eq!(sent(4).await.unwrap(), [Outcome::Appended { sequence: 4 }]);
    assert_eq!(sent(1).await.unwrap(), [Outcome::Appended { sequence: 5 }], "three have come after it");
    store.open(settings("s", &["**"]).known_messages(100)).await.unwrap();
    for number in 6..=90 {
        assert_eq!(sent(number).await.unwrap(), [Outcome::Appended { sequence: number }]);
    }
    assert_eq!(sent(6).await.unwrap(), [Outcome::Known { sequence: 6 }], "it is a setting");
}

pub async fn ids_take_a_part_of_the_bytes_of_a_stream_and_the_newest_stays(store: &dyn Store) {
    let bounded = |bytes| settings("s", &["**"]).retention(Retention::new().bytes(bytes));
    let (most, all) = (10, 10 * whispeer::limits::MESSAGE_IDS_PART * whispeer::limits::MESSAGE_ID_BYTES);
    store.open(bounded(all)).await.unwrap();
    let sent = |number, payload| {
        let id = Some(MessageId { publisher: [7; 16], number });
        store.commit(name("s"), vec![Change::Append(NewMessage { id, ..message("a", payload, 1_000) })])
    };
    let state = async || store.streams().await.unwrap().remove(0);
    for number in 1..=100 {
        sent(number, "x").await.unwrap();
    }
    let before = state().await;
    assert_eq!((before.ids, before.forgotten), (most, 90));
    assert!(before.bytes + most * whispeer::limits::MESSAGE_ID_BYTES <= all && before.bytes > all / 2);
    assert_eq!(sent(91, "x").await.unwrap(), [Outcome::Known { sequence: 91 }]);
    assert_eq!(sent(90, "x").await.unwrap(), [Outcome::Appended { sequence: 101 }]);
    // What is published without ids does not push them out.
    for _ in 0..100 {
        append(store, "s", message("a", "x", 1_000)).await;
    }
    assert_eq!((state().await.ids, state().await.forgotten), (most, 91));
    // Nor are they kept beyond their time where there is no room.
    for _ in 0..100 {
        append(store, "s", message("a", "x", 1_000_000)).await;
    }
    assert_eq!((state().await.ids, state().await.forgotten), (0, 91));
    // Where there is room for none, one is known all the same.
    store.open(bounded(1)).await.unwrap();
    assert_eq!(sent(500, "x").await.unwrap(), [Outcome::Appended { sequence: 302 }]);
    assert_eq!(sent(500, "x").await.unwrap(), [Outcome::Known { sequence: 302 }]);
}

pub async fn a_reader_begins_where_it_says(store: &dyn Store) {
    store.open(settings("s", &["**"])).await.unwrap();
    assert_eq!(store.find(name("s"), Start::All).await.unwrap(), 1);
    for number in 1..=20 {
        let topic = if number % 5 == 0 { "rare" } else { "often" };
        append(store, "s", message(topic, "x", number * 10)).await;
    }
    store.commit(name("s"), vec![Change::Purge { before: 4 }]).await.unwrap();
    for (start, sequence) in [
        (Start::New, 21),
        (Start::All, 4),
        (Start::From(0), 1),
        (Start::From(1), 1),
        (Start::From(99), 21),
        (Start::Since(0), 4),
        (Start::Since(100), 10),
        (Start::Since(101), 11),
        (Start::Since(999), 21),
        (Start::Last(0, None), 21),
        (Start::Last(3, None), 18),
        (Start::Last(99, None), 4),
        (Start::Last(2, Some(pattern("rare"))), 15),
        (Start::Last(9, Some(pattern("none"))), 21),
        // These are all that there are, whatever they are of.
        (Start::Last(u64::MAX, Some(pattern("none"))), 4),
    ] {
        assert_eq!(store.find(name("s"), start.clone()).await.unwrap(), sequence, "{start:?}");
    }
}

pub async fn a_pattern_reads_what_meets_it(store: &dyn Store) {
    store.open(settings("s", &["**"])).await.unwrap();
    for topic in ["a/x", "b/x", "a/*", "*/y", "c"] {
        append(store, "s", message(topic, topic, 1)).await;
    }
    let reading = |text| Reading::from(0, 0).of(pattern(text));
    let read = |text| read_all(store, "s", reading(text), false);
    assert_eq!(payloads(&read("a/x").await), ["a/x", "a/*"]);
    assert_eq!(payloads(&read("*/x").await), ["a/x", "b/x", "a/*"]);
    assert_eq!(payloads(&read("a/**").await), ["a/x", "a/*", "*/y"]);
    assert!(read("d").await.is_empty());
    // Page by page, too.
    assert_eq!(payloads(&read_all(store, "s", reading("a/**").at_most(1), false).await).len(), 3);
}

pub async fn the_last_message_of_each_topic_is_found(store: &dyn Store) {
    store.open(settings("s", &["**"])).await.unwrap();
    for (number, topic) in ["a", "b", "a", "c", "a", "b"].into_iter().enumerate() {
        append(store, "s", message(topic, &format!("{topic}{number}"), 1)).await;
    }
    for most in [1, 2, 10] {
        let last = read_all(store, "s", Reading::from(0, 0).at_most(most), true).await;
        assert_eq!(payloads(&last), ["c3", "a4", "b5"]);
    }
    let of_two = read_all(store, "s", Reading::from(5, 0).of(pattern("*")), true).await;
    assert_eq!(payloads(&of_two), ["a4", "b5"]);
}

pub async fn the_last_message_of_a_topic_is_the_one_before_it_when_it_goes(store: &dyn Store) {
    store.open(settings("s", &["**"])).await.unwrap();
    for (topic, payload) in [("a", "1"), ("b", "2"), ("a", "3"), ("b", "4")] {
        append(store, "s", message(topic, payload, 1)).await;
    }
    let drop_one = |sequence| store.commit(name("s"), vec![Change::Drop { sequences: vec![sequence] }]);
    drop_one(3).await.unwrap();
    assert_eq!(payloads(&read_all(store, "s", Reading::from(0, 0), true).await), ["1", "4"]);
    drop_one(1).await.unwrap();
    assert_eq!(payloads(&read_all(store, "s", Reading::from(0, 0), true).await), ["4"]);
    append(store, "s", message("a", "5", 1)).await;
    assert_eq!(payloads(&read_all(store, "s", Reading::from(0, 0), true).await), ["4", "5"]);
}

pub async fn consumers_keep_their_place(store: &dyn Store) {
    store.open(settings("s", &["**"])).await.unwrap();
    let make = |from| {
        let (name, pattern) = (name("worker"), Some(pattern("a/*")));
        Change::Consumer { name, pattern, from, owner: "".into() }
    };
    let done = |floor, sequences: &[u64]| Change::Done {
        consumer: name("worker"),
        floor,
        sequences: sequences.to_vec(),
    };
    let attempted = |sequence, attempts| Change::Attempted { consumer: name("worker"), sequence, attempts };
    store.commit(name("s"), vec![make(3), attempted(4, 2), done(0, &[2, 5, 7])]).await.unwrap();
    // Who comes back finds it as it is.
    store.commit(name("s"), vec![make(1)]).await.unwrap();
    let worker = async || store.consumer(name("s"), name("worker")).await;
    let consumer = worker().await.unwrap();
    assert_eq!(
        (&consumer.name, &consumer.pattern, consumer.floor),
        (&name("worker"), &Some(pattern("a/*")), 3)
    );
    let known: Vec<_> =
        consumer.known.iter().map(|(sequence, known)| (*sequence, known.attempts, known.is_done)).collect();
    assert_eq!(known, [(4, 2, false), (5, 0, true), (7, 0, true)]);
    store.commit(name("s"), vec![done(6, &[]), done(4, &[1]), attempted(5, 9)]).await.unwrap();
    let consumer = worker().await.unwrap();
    assert_eq!((consumer.floor, consumer.known.len()), (6, 1), "it does not go back");
    assert_eq!(consumer.handed, 3, "it begins with what nobody has been handed");
    let handed = |before| Change::Handed { consumer: name("worker"), before };
    store.commit(name("s"), vec![handed(9), handed(8)]).await.unwrap();
    assert_eq!(worker().await.unwrap().handed, 9);

    let other = Change::Consumer { name: name("other"), pattern: None, from: 2, owner: "".into() };
    store.commit(name("s"), vec![other]).await.unwrap();
    let (other, worker_listed) = (name("other"), worker().await.unwrap().position());
    let listed = [ConsumerPosition::new(other.clone(), None, 2), worker_listed];
    assert_eq!(store.consumers(name("s")).await.unwrap(), listed, "by their names");
    assert!(store.consumer(name("s"), other).await.unwrap().known.is_empty(), "what is known is of one");

    store.commit(name("s"), vec![Change::RemoveConsumer(name("worker"))]).await.unwrap();
    assert_eq!(store.consumers(name("s")).await.unwrap(), listed[..1]);
    let (stream, consumer) = ("s".to_owned(), "worker".to_owned());
    assert_eq!(worker().await.unwrap_err(), StoreError::NoConsumer { stream, consumer });
    let nowhere = store.consumer(name("t"), name("worker")).await.unwrap_err();
    assert_eq!(nowhere, StoreError::NoStream { stream: "t".to_owned() });
}

fn delay(message: NewMessage, due: u64) -> Change {
    Change::Delay { message, due, author: "alice".into(), owner: "".into() }
}

pub async fn what_is_not_due_is_kept_apart_and_added_when_it_is_released(store: &dyn Store) {
    store.open(settings("s", &["**"])).await.unwrap();
    let commit = |changes| store.commit(name("s"), changes);
    let mut known = message("a/2", "second", 5);
    (known.id, known.expires) = (Some(MessageId { publisher: [7; 16], number: u64::MAX }), Some(9_999));
    let kept = commit(vec![
        delay(message("a/*", "third", 5), 3_000),
        delay(message("a/1", "first", 5), 1_000),
        delay(known.clone(), 2_000),
        delay(message("a/3", "with the third", 5), 3_000),
        // Sent again.
        delay(known.clone(), 2_500),
    ]);
    let kept: Vec<_> = kept.await.unwrap();
    assert_eq!(kept, [1, 2, 3, 4, 3].map(|id| Outcome::Delayed { id }));
    let state = &store.streams().await.unwrap()[0];
    assert_eq!((state.messages, state.bytes, state.delayed), (0, 0, 4));
    assert!(read_all(store, "s", Reading::from(0, 0), false).await.is_empty());
    assert!(store.delayed(name("s"), 999, 10).await.unwrap().is_empty());
    let first = store.delayed(name("s"), u64::MAX, 1).await.unwrap().remove(0);
    assert_eq!((first.id, first.due, &first.author[..]), (2, 1_000, &b"alice"[..]));
    let due = store.delayed(name("s"), 3_000, 10).await.unwrap();
    assert_eq!(due.iter().map(|delayed| delayed.id).collect::<Vec<_>>(), [2, 3, 1, 4]);
    assert_eq!(due[1].message, NewMessage { time: 2_000, ..known.clone() });

    let release = |id| Change::Release { id, time: 4_000 };
    let done = commit(vec![release(3), release(2), release(9), Change::DropDelayed { id: 4 }]).await.unwrap();
    let none = Outcome::Done { dropped: 0 };
    let [second, first] = [1, 2].map(|sequence| Outcome::Appended { sequence });
    assert_eq!(done, [second, first, none, Outcome::Done { dropped: 1 }]);
    let read = read_all(store, "s", Reading::from(0, 0), false).await;
    assert_eq!(payloads(&read), ["second", "first"]);
    assert_eq!((read[0].time, read[0].expires), (4_000, Some(9_999)));
    // It is known by its id once it is there, as any other.
    let again = commit(vec![delay(known.clone(), 1), Change::Append(NewMessage { time: 4_001, ..known })]);
    assert_eq!(again.await.unwrap(), [Outcome::Known { sequence: 1 }, Outcome::Known { sequence: 1 }]);
    assert_eq!(commit(vec![release(2), Change::DropDelayed { id: 4 }]).await.unwrap(), [none, none]);
    // Purging is for what is there.
    commit(vec![Change::Purge { before: 99 }, Change::Expire { now: u64::MAX >> 1 }]).await.unwrap();
    let left = store.delayed(name("s"), u64::MAX, 10).await.unwrap();
    assert_eq!(left.iter().map(|delayed| (delayed.id, delayed.due)).collect::<Vec<_>>(), [(1, 3_000)]);
    // A stream that is taken out takes it along.
    store.remove(name("s")).await.unwrap();
    store.open(settings("s", &["**"])).await.unwrap();
    assert!(store.delayed(name("s"), u64::MAX, 10).await.unwrap().is_empty());
    assert_eq!(commit(vec![delay(message("a", "x", 1), 1)]).await.unwrap(), [Outcome::Delayed { id: 1 }]);
}

pub async fn what_is_not_due_has_a_bound(store: &dyn Store) {
    store.open(settings("s", &["**"])).await.unwrap();
    let large = |times: usize| NewMessage { payload: vec![0; times << 20].into(), ..message("a", "", 1) };
    let refused = |refused: Result<_, StoreError>| matches!(refused, Err(StoreError::LimitReached { .. }));
    let commit = |changes| store.commit(name("s"), changes);
    commit(vec![delay(large(40), 1)]).await.unwrap();
    assert!(refused(commit(vec![Change::Append(message("a", "x", 1)), delay(large(24), 1)]).await));
    assert_eq!(store.streams().await.unwrap()[0].end, 1, "nothing was changed");
    commit(vec![delay(large(23), 1)]).await.unwrap();
    commit(vec![Change::DropDelayed { id: 1 }]).await.unwrap();
    commit(vec![delay(large(40), 1)]).await.unwrap();
    // A page has one at least, however large.
    assert_eq!(store.delayed(name("s"), 1, 10).await.unwrap().len(), 1);
    commit(vec![Change::DropDelayed { id: 2 }, Change::DropDelayed { id: 3 }]).await.unwrap();
    let small = |count| (0..count).map(|_| delay(message("a", "", 1), 1)).collect::<Vec<_>>();
    commit(small(whispeer::limits::DELAYED_MESSAGES - 1)).await.unwrap();
    assert!(refused(commit(small(2)).await));
    commit(small(1)).await.unwrap();
}

pub async fn one_owner_keeps_at_most_as_much_as_it_leaves_for_others(store: &dyn Store) {
    const MIB: usize = 1 << 20;
    store.open(settings("s", &["**"])).await.unwrap();
    store.open(settings("t", &["$t"])).await.unwrap();
    let large = |owner: &'static str, times: usize| {
        let message = NewMessage { payload: vec![0; times * MIB].into(), ..message("a", "", 1) };
        Change::Delay { message, due: 1, author: "somebody".into(), owner: owner.into() }
    };
    let small = |owner: &'static str, count: u64| {
        let one =
            Change::Delay { message: message("a", "", 1), due: 1, author: "".into(), owner: owner.into() };
        vec![one; count as usize]
    };
    let refused = |refused: Result<_, StoreError>| match refused {
        Err(StoreError::LimitReached { what }) => what.contains("as is left for others"),
        _ => false,
    };
    let commit = |changes| store.commit(name("s"), changes);
    commit(vec![large("hog", 20), large("hog", 11)]).await.unwrap();
    assert!(refused(commit(vec![large("hog", 1)]).await), "half of 64 MiB and a little");
    commit(vec![large("alice", 16)]).await.unwrap();
    assert!(refused(commit(vec![large("alice", 1)]).await), "a half of what the hog has left");
    commit(vec![large("bob", 8)]).await.unwrap();
    commit(vec![large("", 8)]).await.unwrap();
    // What goes makes room, and streams do not count for each other.
    commit(vec![Change::Release { id: 1, time: 1 }]).await.unwrap();
    commit(vec![large("hog", 4)]).await.unwrap();
    assert!(refused(commit(vec![large("hog", 8)]).await));
    store.commit(name("t"), vec![large("hog", 20)]).await.unwrap();
    // Messages count as well as bytes.
    store.remove(name("s")).await.unwrap();
    store.open(settings("s", &["**"])).await.unwrap();
    let half = whispeer::limits::DELAYED_MESSAGES / 2;
    assert!(refused(commit(small("hog", half + 1)).await));
    commit(small("hog", half)).await.unwrap();
    assert!(refused(commit(small("hog", 1)).await));
    commit(small("alice", half / 2)).await.unwrap();
}

pub async fn changes_are_made_together_or_not_at_all(store: &dyn Store) {
    store.open(settings("s", &["**"])).await.unwrap();
    let done = || Change::Done { consumer: name("nobody"), floor: 1, sequences: vec![] };
    let changes = vec![Change::Append(message("a", "x", 1)), done()];
    let refused = store.commit(name("s"), changes).await.unwrap_err();
    assert_eq!(refused, StoreError::NoConsumer { stream: "s".into(), consumer: "nobody".into() });
    let nowhere = store.commit(name("t"), vec![]).await.unwrap_err();
    assert_eq!(nowhere, StoreError::NoStream { stream: "t".into() });
    assert_eq!(store.streams().await.unwrap()[0].messages, 0);
    let consumer = Change::Consumer { name: name("nobody"), pattern: None, from: 1, owner: "".into() };
    let removed = Change::RemoveConsumer(name("nobody"));
    let changes = vec![consumer, Change::Append(message("a", "x", 1)), done(), removed.clone()];
    assert_eq!(store.commit(name("s"), changes.clone()).await.unwrap().len(), 4);
    let after = [changes, vec![removed]].concat();
    assert!(matches!(store.commit(name("s"), after).await, Err(StoreError::NoConsumer { .. })));
    assert_eq!(store.streams().await.unwrap()[0].messages, 1);
}

pub async fn a_message_moves_to_another_stream_as_a_whole(store: &dyn Store) {
    store.open(settings("s", &["**"])).await.unwrap();
    store.open(settings("dead", &["$dead/s"])).await.unwrap();
    for number in 1..=3 {
        append(store, "s", message("a", &number.to_string(), number)).await;
    }
    let to = |stream| Change::AppendTo { stream: name(stream), message: message("$dead/s", "2", 9) };
    let nowhere = store.commit(name("s"), vec![Change::Drop { sequences: vec![2] }, to("t")]).await;
    assert_eq!(nowhere.unwrap_err(), StoreError::NoStream { stream: "t".into() });
    let moved = store.commit(name("s"), vec![to("dead"), Change::Drop { sequences: vec![2, 2, 9] }]).await;
    assert_eq!(moved.unwrap(), [Outcome::Appended { sequence: 1 }, Outcome::Done { dropped: 1 }]);
    assert_eq!(payloads(&read_all(store, "s", Reading::from(0, 0), false).await), ["1", "3"]);
    assert_eq!(payloads(&read_all(store, "dead", Reading::from(0, 0), false).await), ["2"]);
    // Where the first go, the stream begins behind them.
    store.commit(name("s"), vec![Change::Drop { sequences: vec![1] }]).await.unwrap();
    let state = store.streams().await.unwrap().remove(1);
    assert_eq!((state.first, state.end, state.messages), (3, 4, 1));
}

pub async fn what_is_moved_twice_is_moved_once(store: &dyn Store) {
    store.open(settings("dead", &["$dead/s"])).await.unwrap();
    store.open(settings("s", &["a"])).await.unwrap();
    for number in 1..=3 {
        append(store, "dead", message("$dead/s", &number.to_string(), number)).await;
    }
    let back = |sequence, stream| Change::Move {
        sequence,
        stream: name(stream),
        message: message("a", &format!("was {sequence}"), 9),
    };
    let moved = store.commit(name("dead"), vec![back(1, "s"), back(2, "s"), back(1, "s")]).await;
    let (one, two) = (Outcome::Appended { sequence: 1 }, Outcome::Appended { sequence: 2 });
    assert_eq!(moved.unwrap(), [one, two, Outcome::Done { dropped: 0 }]);
    let again = store.commit(name("dead"), vec![back(2, "s"), back(9, "s")]).await;
    assert_eq!(again.unwrap(), [Outcome::Done { dropped: 0 }; 2], "nothing is added for what is gone");
    assert_eq!(payloads(&read_all(store, "s", Reading::from(0, 0), false).await), ["was 1", "was 2"]);
    assert_eq!(payloads(&read_all(store, "dead", Reading::from(0, 0), false).await), ["3"]);
    let nowhere = store.commit(name("dead"), vec![back(3, "t")]).await;
    assert_eq!(nowhere.unwrap_err(), StoreError::NoStream { stream: "t".into() });
    // Within a stream it goes to the end.
    assert_eq!(store.commit(name("dead"), vec![back(3, "dead")]).await.unwrap().len(), 1);
    assert_eq!(payloads(&read_all(store, "dead", Reading::from(0, 0), false).await), ["was 3"]);
    let states = store.streams().await.unwrap();
    let counts = states.iter().map(|state| (state.messages, state.first, state.end));
    assert_eq!(counts.collect::<Vec<_>>(), [(1, 4, 5), (2, 1, 3)]);
}

pub async fn messages_that_are_named_are_dropped_a_step_at_a_time(store: &dyn Store) {
    store.open(settings("s", &["**"])).await.unwrap();
    let step = whispeer::limits::RETENTION_STEP;
    let messages = (0..step + 476).map(|number| Change::Append(message("a", "x", number)));
    store.commit(name("s"), messages.collect()).await.unwrap();
    let named =
        |sequences: std::ops::RangeInclusive<u64>| Change::Drop { sequences: sequences.rev().collect() };
    let dropped = async |changes| {
        let outcomes = store.commit(name("s"), changes).await.unwrap();
        let dropped = outcomes.into_iter().map(|outcome| match outcome {
            Outcome::Done { dropped } => dropped,
            other => panic!("{other:?}"),
        });
        dropped.collect::<Vec<_>>()
    };
    assert_eq!(
        dropped(vec![named(1..=700), named(601..=1_400)]).await,
        [700, step - 700],
        "of both together"
    );
    let left = read_all(store, "s", Reading::from(0, 0), false).await;
    assert_eq!(
        left.first().map(|message| message.sequence),
        Some(701),
        "in the order in which they are named"
    );
    assert_eq!(left.len(), 476);
    assert_eq!(dropped(vec![named(1..=5_000)]).await, [476]);
    assert_eq!(dropped(vec![named(1..=5_000)]).await, [0], "none is left");
}

pub async fn a_store_that_is_closed_says_so(store: &dyn Store) {
    store.open(settings("s", &["**"])).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(store.read(name("s"), Reading::from(1, 0)).await.unwrap_err(), StoreError::Closed);
    assert_eq!(store.commit(name("s"), vec![]).await.unwrap_err(), StoreError::Closed);
    assert_eq!(store.close().await.unwrap_err(), StoreError::Closed);
}
