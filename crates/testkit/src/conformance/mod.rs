//! The cases. Each is one promise, named by a sentence, and leaves the subscriptions that are alive at
//! its end to be checked.

mod credit;
mod delivery;
mod groups;
mod presence;
mod requests;
mod streams;

use std::ops::Range;

use bytes::Bytes;
use whispeer::client::Subscription;

use self::credit::*;
use self::delivery::*;
use self::groups::*;
use self::presence::*;
use self::requests::*;
use self::streams::*;
use crate::kit::Case;
use crate::wait::soon;

/// Calls a macro with the names of all cases, separated by commas.
#[macro_export]
macro_rules! for_each_case {
    ($callback:ident) => {
        $callback! {
            messages_of_one_publisher_arrive_in_order_over_all_topics,
            two_publishers_each_keep_their_own_order,
            publish_tells_the_number_of_matching_subscriptions,
            flush_waits_until_everything_sent_before_is_routed,
            flush_orders_publishes_before_requests,
            close_flushes_what_was_published,
            dropping_every_handle_sends_what_was_published,
            a_drained_subscription_gives_what_matched_before_and_ends,
            a_drained_client_takes_nothing_new_and_loses_nothing,
            no_echo_leaves_out_what_the_client_itself_publishes,
            wildcards_meet_on_both_sides,
            the_prefix_is_stripped_and_the_topic_can_be_used_again,
            publish_many_reaches_each_subscription_once,
            two_subscriptions_of_one_client_to_one_topic_are_independent,
            dropping_a_subscription_ends_it_at_the_bus,
            what_a_subscription_leaves_untaken_counts_as_dropped,
            a_drained_subscription_counts_nothing_as_dropped,
            topics_of_the_bus_are_out_of_reach_of_wildcards_and_publishers,
            a_payload_of_another_type_is_told_and_harms_nothing_else,
            an_invalid_topic_fails_its_call_and_nothing_else,
            headers_travel_with_a_message,
            three_hundred_large_messages_to_oneself_end_in_messages_or_a_gap,
            credit_comes_back_as_messages_are_taken,
            an_unread_subscription_holds_up_nothing_else_of_its_client,
            the_window_for_publishes_holds_a_publisher_and_is_given_back,
            a_message_larger_than_every_window_passes_alone,
            a_publish_is_parked_for_the_slow_one_alone,
            block_takes_a_gap_after_the_limit_and_lags_until_it_reads,
            drop_oldest_keeps_the_newest_behind_its_gap,
            drop_newest_keeps_what_was_there_and_tells_the_gap_with_the_next,
            disconnect_ends_the_subscription_that_falls_behind,
            a_publisher_may_ask_for_less_patience,
            a_bus_can_withhold_block,
            every_match_counts_whether_delivered_parked_or_dropped,
            recv_adds_what_it_skips_to_gaps,
            a_queue_group_is_one_match_and_shares_its_messages,
            a_group_gives_work_only_to_members_with_credit,
            a_group_without_credit_parks_for_the_first_that_takes,
            a_group_goes_on_with_those_that_are_left,
            a_request_gets_the_answer_of_its_server,
            answers_find_their_requests_in_any_order,
            a_request_to_nobody_fails_at_once,
            a_deadline_passes_at_the_requester_and_is_seen_by_the_server,
            dropping_a_request_cancels_it_at_the_server,
            a_server_that_goes_fails_its_pending_requests_at_once,
            a_request_dropped_unanswered_fails_as_abandoned,
            only_the_connection_that_was_asked_can_answer,
            a_topic_has_one_server_unless_asked_otherwise,
            a_group_shares_requests_among_members_with_credit,
            requests_wait_for_a_server_without_credit,
            taking_over_lets_the_old_server_finish_what_it_has,
            a_drained_serving_answers_what_was_handed_over,
            an_error_reply_is_matched_on_by_its_code,
            errors_are_of_the_same_class_on_whichever_side_they_arose,
            a_handler_that_panics_fails_its_request_only,
            a_scattered_request_gathers_one_answer_of_each_topic,
            the_limit_of_requests_fails_the_next_one,
            a_stream_of_answers_comes_in_order_and_ends,
            a_stream_that_is_not_read_stops_at_its_window,
            dropping_a_stream_cancels_it_at_the_server,
            a_stream_ends_with_its_error_or_as_abandoned,
            a_single_answer_is_a_stream_of_one,
            a_server_that_goes_ends_its_streams,
            the_will_of_a_client_that_is_gone_is_published,
            a_client_that_closes_or_takes_its_will_back_leaves_none,
            who_is_subscribed_is_known_and_told_when_that_changes,
        }
    };
}

macro_rules! table {
    ($($case:ident),* $(,)?) => {
        /// All cases, in the order of the table in this crate's documentation.
        pub const CASES: &[Case] = &[$(Case { name: stringify!($case), run: |kit| Box::pin($case(kit)) }),*];
    };
}

for_each_case!(table);

/// A payload that is a number.
fn number(count: u64) -> Bytes {
    count.to_string().into()
}

fn numbers(range: Range<u64>) -> Vec<u64> {
    range.collect()
}

/// The number that a payload is.
fn text_of(payload: &[u8]) -> u64 {
    std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok()).expect("a payload is a number")
}

/// Takes so many messages.
async fn take(subscription: &mut Subscription<Bytes>, count: usize) -> Vec<u64> {
    let mut taken = Vec::with_capacity(count);
    for _ in 0..count {
        let received = soon("a message", subscription.recv()).await;
        let (_, payload) = received.unwrap_or_else(|| panic!("ended: {:?}", subscription.close_reason()));
        taken.push(text_of(&payload));
    }
    taken
}
