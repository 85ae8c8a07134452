//! What every bus promises, by one that keeps all topics in JetStream.

use std::sync::Arc;

use whispeer::bus::Streams;
use whispeer_testkit::store_contract::settings;
use whispeer_testkit::{Transport, for_each_case, nats, run_with_streams};

use super::opened;

/// The one case of what no stream keeps, wherever it is: messages to several topics at once.
const SEVERAL_TOPICS: &str = "publish_many_reaches_each_subscription_once";

fn holds(case: &str) {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let name = version.version();
        let server = version.jetstream().start_blocking();
        let verdict = run_with_streams(case, Transport::Unix, async || {
            let store = Arc::new(opened(&server).await);
            Streams::open(store, [settings("all", &["**"])]).await.unwrap()
        });
        match verdict {
            Err(why) if case == SEVERAL_TOPICS => {
                assert!(why.contains("is kept in a stream; publish to it by itself"), "NATS {name}: {why}");
            }
            Err(why) => panic!("{case} in JetStream of NATS {name}: {why}"),
            Ok(()) => assert_ne!(case, SEVERAL_TOPICS, "NATS {name}: a stream takes what it does not keep"),
        }
    }
}

macro_rules! instantiate {
    ($($case:ident),* $(,)?) => {
        $(
            #[test]
            fn $case() {
                holds(stringify!($case));
            }
        )*
    };
}

for_each_case!(instantiate);
