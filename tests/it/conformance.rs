//! The conformance suite on every transport, with both ends swapped, and proof that it can fail.

use whispeer_testkit::{Fault, Transport, for_each_case, run};

macro_rules! instantiate {
    ($($case:ident),* $(,)?) => {
        instantiate!(@on memory, Memory, $($case),*);
        instantiate!(@on unix, Unix, $($case),*);
        instantiate!(@on unix_with_workers, UnixWorkers, $($case),*);
        instantiate!(@on tcp, Tcp, $($case),*);
        instantiate!(@on tls, Tls, $($case),*);
        instantiate!(@on ws, Ws, $($case),*);
        instantiate!(@on wss, Wss, $($case),*);
        instantiate!(@on ws_and_unix, WsAndUnix, $($case),*);
        instantiate!(@on quic, Quic, $($case),*);
        instantiate!(@on tls_and_tcp, TlsAndTcp, $($case),*);
        instantiate!(@on unix_and_tls, UnixAndTls, $($case),*);
        instantiate!(@on quic_and_tcp, QuicAndTcp, $($case),*);
        instantiate!(@on tcp_and_tls, TcpAndTls, $($case),*);
        instantiate!(@on tls_and_unix, TlsAndUnix, $($case),*);
        instantiate!(@on unix_and_ws, UnixAndWs, $($case),*);
        instantiate!(@on tcp_and_quic, TcpAndQuic, $($case),*);
        instantiate!(@on wss_and_quic, WssAndQuic, $($case),*);
        instantiate!(@on quic_and_wss, QuicAndWss, $($case),*);
        instantiate!(@on unix_and_memory, UnixAndMemory, $($case),*);
        instantiate!(@on memory_and_unix, MemoryAndUnix, $($case),*);
    };
    (@on $module:ident, $transport:ident, $($case:ident),*) => {
        mod $module {
            $(
                #[test]
                fn $case() {
                    super::holds(stringify!($case), super::Transport::$transport);
                }
            )*
        }
    };
}

for_each_case!(instantiate);

fn holds(case: &str, transport: Transport) {
    if let Err(why) = run(case, transport, Fault::None) {
        panic!("{case} over {transport:?}: {why}");
    }
}

#[cfg(all(feature = "compression", feature = "encryption"))]
mod sealed {
    //! All payloads compressed and encrypted: what the suite promises holds for them as well.

    use std::sync::LazyLock;

    use whispeer::engine::Engines;
    use whispeer::engine::compression::Compression;
    use whispeer::engine::encryption::{Encryption, Key, Keyring};
    use whispeer_testkit::{Fault, Sealing, Transport, for_each_case, run_sealed};

    static KEYRING: LazyLock<Keyring> =
        LazyLock::new(|| Keyring::with(Key::from_bytes([7; 32])).expect("a keyring"));

    fn encrypted() -> Engines {
        Engines::new().with(Encryption::new(&KEYRING).expect("a random number"))
    }

    fn compressed_and_encrypted() -> Engines {
        encrypted().with(Compression::new().threshold(16))
    }

    /// Their payloads are of one byte again and again, and are to fill frames and windows: compressed they would not.
    const LARGE: [&str; 3] = [
        "a_message_larger_than_every_window_passes_alone",
        "errors_are_of_the_same_class_on_whichever_side_they_arose",
        "three_hundred_large_messages_to_oneself_end_in_messages_or_a_gap",
    ];

    fn holds(case: &str, transport: Transport) {
        let sealing = match LARGE.contains(&case) {
            // The envelope, and what encryption puts before and behind the content.
            true => Sealing { engines: encrypted, growth: 4 + 33 + 16 },
            false => Sealing { engines: compressed_and_encrypted, growth: 0 },
        };
        let verdict = run_sealed(case, transport, Fault::None, sealing);
        if case == "publish_many_reaches_each_subscription_once" {
            // The one thing that cannot be: encryption binds a message to one topic.
            let why = verdict.expect_err("one message went to several topics");
            assert!(why.contains("one message cannot go to several topics with encryption"), "{why}");
        } else if let Err(why) = verdict {
            panic!("{case} over {transport:?}: {why}");
        }
    }

    macro_rules! instantiate {
        ($($case:ident),* $(,)?) => {
            instantiate!(@on memory, Memory, $($case),*);
            instantiate!(@on unix, Unix, $($case),*);
            instantiate!(@on quic_and_tcp, QuicAndTcp, $($case),*);
        };
        (@on $module:ident, $transport:ident, $($case:ident),*) => {
            mod $module {
                $(
                    #[test]
                    fn $case() {
                        super::holds(stringify!($case), super::Transport::$transport);
                    }
                )*
            }
        };
    }

    for_each_case!(instantiate);
}

mod plugged {
    //! Plugins that have their hands in everything and leave it as it is: all promises hold on such a bus as well.

    use whispeer::bus::BusBuilder;
    use whispeer::plugin::{HookResult, Plugin, Publishing, Subscribing};
    use whispeer_testkit::{Transport, for_each_case, run_furnished};

    struct Copier;

    impl Plugin for Copier {
        fn name(&self) -> &str {
            "copier"
        }

        async fn on_subscribe(&self, _subscribing: &Subscribing) -> HookResult {
            tokio::task::yield_now().await;
            Ok(())
        }

        fn on_publish(&self, message: &mut Publishing<'_>) -> HookResult {
            let copy = message.payload().to_vec();
            Ok(message.set_payload(copy)?)
        }
    }

    fn with_plugin(builder: BusBuilder) -> BusBuilder {
        builder.plugin(Copier)
    }

    macro_rules! instantiate {
        ($($case:ident),* $(,)?) => {
            instantiate!(@on memory, Memory, $($case),*);
            instantiate!(@on unix, Unix, $($case),*);
            instantiate!(@on unix_with_workers, UnixWorkers, $($case),*);
            instantiate!(@on unix_and_memory, UnixAndMemory, $($case),*);
        };
        (@on $module:ident, $transport:ident, $($case:ident),*) => {
            mod $module {
                $(
                    #[test]
                    fn $case() {
                        let verdict = super::run_furnished(
                            stringify!($case),
                            super::Transport::$transport,
                            super::with_plugin,
                        );
                        verdict.unwrap();
                    }
                )*
            }
        };
    }

    for_each_case!(instantiate);
}

mod kept {
    //! All topics in a stream: what the suite promises holds for durable topics as well.

    use std::sync::Arc;

    use whispeer::bus::Streams;
    use whispeer::store::{MemoryStore, Store};
    use whispeer_testkit::store_contract::settings;
    use whispeer_testkit::{Transport, for_each_case, run_with_streams};

    /// The one case of what no stream keeps: messages to several topics at once.
    const SEVERAL_TOPICS: &str = "publish_many_reaches_each_subscription_once";

    fn holds<S: Store>(case: &str, transport: Transport, open: impl FnOnce() -> S) {
        let verdict = run_with_streams(case, transport, async || {
            Streams::open(Arc::new(open()), [settings("all", &["**"])]).await.unwrap()
        });
        match verdict {
            Err(why) if case == SEVERAL_TOPICS => {
                assert!(why.contains("is kept in a stream; publish to it by itself"), "{why}");
            }
            Err(why) => panic!("{case} over {transport:?}: {why}"),
            Ok(()) => assert_ne!(case, SEVERAL_TOPICS, "a stream takes what it does not keep"),
        }
    }

    fn holds_in_memory(case: &str) {
        holds(case, Transport::Memory, MemoryStore::new);
    }

    #[cfg(feature = "sqlite")]
    fn holds_in_a_file(case: &str) {
        use whispeer::store::{SqliteOptions, SqliteStore};

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        holds(case, Transport::Unix, || SqliteStore::open(&path, SqliteOptions::new()).unwrap());
    }

    macro_rules! instantiate {
        ($($case:ident),* $(,)?) => {
            mod in_memory {
                $(
                    #[test]
                    fn $case() {
                        super::holds_in_memory(stringify!($case));
                    }
                )*
            }

            #[cfg(feature = "sqlite")]
            mod in_a_file {
                $(
                    #[test]
                    fn $case() {
                        super::holds_in_a_file(stringify!($case));
                    }
                )*
            }
        };
    }

    for_each_case!(instantiate);
}

/// A fault makes the case fail that the promise belongs to, and the relay alone does not.
fn is_noticed(fault: Fault, case: &str) {
    let verdict = run(case, Transport::Memory, fault);
    assert!(verdict.is_err(), "{fault:?} went unnoticed by {case}");
    holds(case, Transport::Memory);
}

#[test]
fn a_lost_delivery_is_noticed() {
    is_noticed(Fault::LoseDelivery(3), "messages_of_one_publisher_arrive_in_order_over_all_topics");
}

#[test]
fn a_skipped_count_is_noticed_by_the_books_alone() {
    // The case itself takes nothing, so that only conservation can tell.
    is_noticed(Fault::HideLoss(2), "every_match_counts_whether_delivered_parked_or_dropped");
}

#[test]
fn a_gap_that_is_not_told_is_noticed() {
    is_noticed(Fault::SwallowGaps, "block_takes_a_gap_after_the_limit_and_lags_until_it_reads");
    is_noticed(Fault::SwallowGaps, "drop_newest_keeps_what_was_there_and_tells_the_gap_with_the_next");
}

#[test]
fn lost_credit_of_a_subscription_is_noticed() {
    is_noticed(Fault::LoseSubscriptionCredit, "credit_comes_back_as_messages_are_taken");
}

#[test]
fn lost_credit_for_publishes_is_noticed() {
    is_noticed(Fault::LosePublishCredit, "the_window_for_publishes_holds_a_publisher_and_is_given_back");
}

#[test]
fn reordered_deliveries_are_noticed() {
    is_noticed(Fault::Reorder(5), "close_flushes_what_was_published");
}

#[test]
fn a_missed_unsubscribe_is_noticed() {
    is_noticed(Fault::SwallowUnsubscribe, "dropping_a_subscription_ends_it_at_the_bus");
    is_noticed(Fault::SwallowUnsubscribe, "two_subscriptions_of_one_client_to_one_topic_are_independent");
}

#[test]
fn a_missed_cancellation_is_noticed() {
    is_noticed(Fault::SwallowCancel, "dropping_a_request_cancels_it_at_the_server");
}

#[test]
fn the_table_of_promises_names_every_case() {
    let table = include_str!("../../crates/testkit/src/lib.rs");
    for case in whispeer_testkit::conformance::CASES {
        assert!(table.contains(&format!("`{}`", case.name)), "{} is not in the table", case.name);
    }
}
