//! What every store promises, checked on any: the stores of the library, those that come with other crates, and one's own.
//!
//! [`for_each_store_case!`](crate::for_each_store_case) makes a test of each promise. [`says_what_memory_says`] does whatever it likes to a store and to one
//! in memory, and both have to say the same.

#![allow(missing_docs, reason = "cases have sentences for names")]
#![allow(clippy::missing_panics_doc, reason = "a case panics where a promise is broken")]

mod clocks;
mod contract;
mod model;
mod owners;

use std::pin::Pin;
use std::time::Duration;

use whispeer::store::*;
use whispeer::topic::TopicPattern;

pub use self::clocks::*;
pub use self::contract::*;
pub use self::model::{Step, says_what_memory_says, steps};
pub use self::owners::*;

/// One promise: it is given a store without streams, and panics where it is broken.
pub type StoreCase = for<'a> fn(&'a dyn Store) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Makes a test of each promise that every store makes: it gives a [`StoreCase`] to a function that makes a store without streams
/// for it.
///
/// ```
/// use whispeer::store::MemoryStore;
/// use whispeer_testkit::store_contract::StoreCase;
///
/// async fn in_memory(case: StoreCase) {
///     case(&MemoryStore::new()).await;
/// }
///
/// whispeer_testkit::for_each_store_case!(in_memory);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! for_each_store_case {
    ($run:path) => {
        $crate::for_each_store_case! { @ $run:
            messages_are_numbered_and_read_in_their_order
            a_stream_that_is_opened_again_is_the_same_and_one_that_was_removed_is_another
            no_topic_belongs_to_two_streams
            what_the_bounds_do_not_leave_goes_the_oldest_first_and_the_newest_stays
            topics_have_bounds_of_their_own
            what_is_too_old_or_has_expired_goes_at_a_sweep_and_is_not_read_before
            a_message_that_is_sent_again_is_known_for_a_while
            as_many_messages_are_known_as_the_settings_say
            ids_take_a_part_of_the_bytes_of_a_stream_and_the_newest_stays
            what_is_known_by_its_id_is_told_behind_what_was_asked_before_and_nothing_is_changed
            a_reader_begins_where_it_says
            a_pattern_reads_what_meets_it
            the_last_message_of_each_topic_is_found
            the_last_message_of_a_topic_is_the_one_before_it_when_it_goes
            consumers_keep_their_place
            what_is_not_due_is_kept_apart_and_added_when_it_is_released
            what_is_not_due_has_a_bound
            one_owner_keeps_at_most_as_much_as_it_leaves_for_others
            changes_are_made_together_or_not_at_all
            a_message_moves_to_another_stream_as_a_whole
            what_is_moved_twice_is_moved_once
            messages_that_are_named_are_dropped_a_step_at_a_time
            a_store_that_is_closed_says_so
            a_clock_that_was_ahead_for_a_moment_does_not_end_retention_by_age
            what_was_stored_while_a_clock_was_ahead_goes_with_what_came_after_it
            where_a_clock_is_corrected_by_little_times_stand_still
            who_begins_at_a_time_misses_nothing_since_also_where_a_clock_was_ahead
            ids_are_not_forgotten_by_a_clock_that_is_ahead_for_a_moment
            a_consumer_is_the_first_owners_who_comes
        }
    };
    (@ $run:path: $($name:ident)*) => {
        $(#[tokio::test]
        async fn $name() {
            $run(|store| Box::pin($crate::store_contract::$name(store))).await;
        })*
    };
}

pub fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

pub fn pattern(text: &str) -> TopicPattern {
    TopicPattern::new(text).unwrap()
}

pub fn settings(stream: &str, patterns: &[&str]) -> StreamSettings {
    StreamSettings::new(name(stream), patterns.iter().map(|text| pattern(text)).collect())
}

pub fn message(topic: &str, payload: &str, time: u64) -> NewMessage {
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
pub async fn append(store: &dyn Store, stream: &str, message: NewMessage) -> u64 {
    match store.commit(name(stream), vec![Change::Append(message)]).await.unwrap()[..] {
        [Outcome::Appended { sequence }] => sequence,
        ref other => panic!("{other:?}"),
    }
}

/// All that a reader gets, page by page.
pub async fn read_all(store: &dyn Store, stream: &str, mut reading: Reading, by_topic: bool) -> Vec<Message> {
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

pub fn payloads(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8(message.payload.to_vec()).unwrap()).collect()
}
