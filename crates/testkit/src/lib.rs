//! The conformance suite of whispeer: one contract, checked on every transport.
//!
//! A [`Case`] is one promise. [`run`] gives it a [`Kit`]: a bus on the wanted [`Transport`] and clients
//! to it. [`for_each_case!`] makes a test of each. Where everything is in memory, time is paused, so
//! that limits of a second cost none. [`run_sealed`] does the same with clients that compress and encrypt,
//! [`run_furnished`] on a bus with plugins, [`run_with_streams`] on one that keeps topics in streams.
//!
//! After every case the books are checked ([`ledger`]): each live subscription's matches are taken,
//! dropped with a reason, or pending, at the bus and at its client alike; nobody was cut off who was
//! not meant to be; and once the clients are gone, nothing is left of them at the bus, and nothing has
//! vanished from its totals. Links with planted faults ([`fault`]) prove that the suite would notice.
//!
//! | promise | cases |
//! |---|---|
//! | Order holds per publisher, subscription and stream | `messages_of_one_publisher_arrive_in_order_over_all_topics`, `two_publishers_each_keep_their_own_order` |
//! | `flush()` is the barrier, also between publishes and requests | `flush_waits_until_everything_sent_before_is_routed`, `flush_orders_publishes_before_requests` |
//! | `close` and drain flush first | `close_flushes_what_was_published`, `dropping_every_handle_sends_what_was_published`, `a_drained_client_takes_nothing_new_and_loses_nothing`, `a_drained_subscription_gives_what_matched_before_and_ends` |
//! | A subscription's window is renewed as messages are taken | `credit_comes_back_as_messages_are_taken` |
//! | An unpolled subscription blocks nothing else of its client | `an_unread_subscription_holds_up_nothing_else_of_its_client` |
//! | The bus grants a window for publishes; `try_send` says Full | `the_window_for_publishes_holds_a_publisher_and_is_given_back` |
//! | One message may always pass, up to the frame limit; one byte over harms that call only | `a_message_larger_than_every_window_passes_alone` |
//! | `Block` parks for the slow subscription alone | `a_publish_is_parked_for_the_slow_one_alone` |
//! | After the block limit: a counted gap, then lagging until it reads | `block_takes_a_gap_after_the_limit_and_lags_until_it_reads` |
//! | A publisher may ask for less patience | `a_publisher_may_ask_for_less_patience` |
//! | `DropOldest`, `DropNewest`: the count comes with the next message | `drop_oldest_keeps_the_newest_behind_its_gap`, `drop_newest_keeps_what_was_there_and_tells_the_gap_with_the_next` |
//! | `Disconnect` | `disconnect_ends_the_subscription_that_falls_behind` |
//! | A setting can withhold `Block` | `a_bus_can_withhold_block` |
//! | Gaps are reported: how many, why | `recv_adds_what_it_skips_to_gaps` |
//! | Links never deadlock | `three_hundred_large_messages_to_oneself_end_in_messages_or_a_gap` |
//! | `publish` gives the number of matches, whatever became of them | `publish_tells_the_number_of_matching_subscriptions`, `every_match_counts_whether_delivered_parked_or_dropped` |
//! | A queue group is one match and gives work to members with credit | `a_queue_group_is_one_match_and_shares_its_messages`, `a_group_gives_work_only_to_members_with_credit`, `a_group_without_credit_parks_for_the_first_that_takes`, `a_group_goes_on_with_those_that_are_left` |
//! | What was delivered and never taken counts as dropped; what was drained does not | `what_a_subscription_leaves_untaken_counts_as_dropped`, `a_drained_subscription_counts_nothing_as_dropped` |
//! | Deliveries can exclude the sender | `no_echo_leaves_out_what_the_client_itself_publishes` |
//! | Patterns are allowed on both sides | `wildcards_meet_on_both_sides` |
//! | A typed subscriber gets the topic without the prefix | `the_prefix_is_stripped_and_the_topic_can_be_used_again` |
//! | `publish_many`: each subscription once | `publish_many_reaches_each_subscription_once` |
//! | Headers travel along | `headers_travel_with_a_message` |
//! | `$` topics are the bus's own | `topics_of_the_bus_are_out_of_reach_of_wildcards_and_publishers` |
//! | Dropping a subscription undoes it, and only it | `dropping_a_subscription_ends_it_at_the_bus`, `two_subscriptions_of_one_client_to_one_topic_are_independent` |
//! | A bad call or payload harms nothing else | `an_invalid_topic_fails_its_call_and_nothing_else`, `a_payload_of_another_type_is_told_and_harms_nothing_else` |
//! | Requests are answered | `a_request_gets_the_answer_of_its_server`, `answers_find_their_requests_in_any_order`, `a_request_to_nobody_fails_at_once` |
//! | Requests carry a deadline as remaining time | `a_deadline_passes_at_the_requester_and_is_seen_by_the_server` |
//! | Dropping the future cancels at the server | `dropping_a_request_cancels_it_at_the_server` |
//! | A server that goes away fails its pending requests at once | `a_server_that_goes_fails_its_pending_requests_at_once` |
//! | Dropped unanswered, a request fails as `Abandoned`; its id cannot be copied (see below) | `a_request_dropped_unanswered_fails_as_abandoned` |
//! | Only the session that was asked can answer | `only_the_connection_that_was_asked_can_answer` |
//! | One server per topic by default | `a_topic_has_one_server_unless_asked_otherwise` |
//! | A group of servers is shared among members with credit | `a_group_shares_requests_among_members_with_credit`, `requests_wait_for_a_server_without_credit` |
//! | Taking over; the old server drains | `taking_over_lets_the_old_server_finish_what_it_has`, `a_drained_serving_answers_what_was_handed_over` |
//! | Requests in flight are bounded | `the_limit_of_requests_fails_the_next_one` |
//! | Error replies can be matched on | `an_error_reply_is_matched_on_by_its_code`, `a_handler_that_panics_fails_its_request_only` |
//! | One mapping of errors, whatever side they arose on | `errors_are_of_the_same_class_on_whichever_side_they_arose` |
//! | Scatter and gather | `a_scattered_request_gathers_one_answer_of_each_topic` |
//! | Streaming replies, in order and within a window | `a_stream_of_answers_comes_in_order_and_ends`, `a_stream_that_is_not_read_stops_at_its_window`, `dropping_a_stream_cancels_it_at_the_server`, `a_stream_ends_with_its_error_or_as_abandoned`, `a_single_answer_is_a_stream_of_one`, `a_server_that_goes_ends_its_streams` |
//! | A will is published for a client that is gone without a word, and for no other | `the_will_of_a_client_that_is_gone_is_published`, `a_client_that_closes_or_takes_its_will_back_leaves_none` |
//! | Who is subscribed can be asked for, and is told when it changes | `who_is_subscribed_is_known_and_told_when_that_changes` |
//!
//! Durable topics are checked against lists that say what is to become of them, whatever their store ([`durable_model`]), and stores
//! by what all of them promise ([`store_contract`]).
//!
//! Certificates for tests of transports that need them are made by [`certificates`]; servers of NATS, alone and as a
//! cluster, are started by [`nats`].
//!
//! A request's id cannot be copied, which the compiler sees to:
//!
//! ```compile_fail,E0599
//! fn answer_twice(id: whispeer::client::RequestId) {
//!     let other = id.clone();
//! }
//! ```
//!
//! ```compile_fail,E0382
//! # async fn answer(client: whispeer::Client, id: whispeer::client::RequestId) -> whispeer::BusResult<()> {
//! client.respond_bytes(id, "once".into()).await?;
//! client.respond_bytes(id, "twice".into()).await
//! # }
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "this is a test: a panic is how it fails"
)]

pub mod certificates;
pub mod conformance;
pub mod dashboard;
pub mod datagrams;
pub mod durable_model;
pub mod fault;
pub mod kit;
pub mod ledger;
pub mod nats;
pub mod protocols;
pub mod raw;
pub mod relay;
pub mod store_contract;
pub mod tools;
pub mod wait;

pub use fault::Fault;
pub use kit::{Case, Furnish, Kit, Sealing, Transport, run, run_furnished, run_sealed, run_with_streams};
pub use ledger::Live;
