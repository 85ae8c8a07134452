//! Every example runs to its end, and none is forgotten.

use std::error::Error;
use std::fs;
use std::path::Path;

macro_rules! examples {
    ($($file:literal $path:literal $name:ident),* $(,)?) => {
        $(
            #[path = $path]
            #[allow(dead_code, reason = "it is a program of its own as well")]
            mod $name;

            #[test]
            fn $name() {
                ends($name::run());
            }
        )*

        const FILES: &[&str] = &[$($file),*, SEALED, GRANTED, BROKER, PLUGIN, WILLS, CONSUMER, CHAT];
    };
}

examples! {
    "01_publish_subscribe.rs" "../../examples/01_publish_subscribe.rs" publish_subscribe,
    "02_request_response.rs" "../../examples/02_request_response.rs" request_response,
    "03_unix_socket.rs" "../../examples/03_unix_socket.rs" unix_socket,
    "04_streaming_replies.rs" "../../examples/04_streaming_replies.rs" streaming_replies,
    "05_queue_group.rs" "../../examples/05_queue_group.rs" queue_group,
    "06_gaps_and_policies.rs" "../../examples/06_gaps_and_policies.rs" gaps_and_policies,
    "07_scatter_gather.rs" "../../examples/07_scatter_gather.rs" scatter_gather,
    "08_pipelined_publisher.rs" "../../examples/08_pipelined_publisher.rs" pipelined_publisher,
}

/// Of the last ones some need features that are not among the defaults.
const SEALED: &str = "09_end_to_end_encryption.rs";
const GRANTED: &str = "10_key_grants.rs";
const BROKER: &str = "11_broker.rs";
const PLUGIN: &str = "12_plugin.rs";

/// Behind them in the order of their names.
const WILLS: &str = "13_will_and_delay.rs";
const CONSUMER: &str = "14_durable_consumer.rs";
const CHAT: &str = "15_chat_service.rs";

#[cfg(all(feature = "compression", feature = "encryption"))]
#[path = "../../examples/09_end_to_end_encryption.rs"]
#[allow(dead_code, reason = "it is a program of its own as well")]
mod end_to_end_encryption;

#[cfg(all(feature = "compression", feature = "encryption"))]
#[test]
fn end_to_end_encryption() {
    ends(end_to_end_encryption::run());
}

#[cfg(feature = "encryption")]
#[path = "../../examples/10_key_grants.rs"]
#[allow(dead_code, reason = "it is a program of its own as well")]
mod key_grants;

#[cfg(feature = "encryption")]
#[test]
fn key_grants() {
    ends(key_grants::run());
}

#[cfg(feature = "broker")]
#[path = "../../examples/11_broker.rs"]
#[allow(dead_code, reason = "it is a program of its own as well")]
mod broker;

#[cfg(feature = "broker")]
#[test]
fn broker() {
    ends(async { broker::run() });
}

#[path = "../../examples/12_plugin.rs"]
#[allow(dead_code, reason = "it is a program of its own as well")]
mod plugin;

#[test]
fn plugin() {
    ends(plugin::run());
}

#[path = "../../examples/13_will_and_delay.rs"]
#[allow(dead_code, reason = "it is a program of its own as well")]
mod will_and_delay;

#[test]
fn will_and_delay() {
    ends(will_and_delay::run());
}

/// Runs an example as its `main` does.
fn ends(example: impl Future<Output = Result<(), Box<dyn Error>>>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ended = runtime.block_on(whispeer_testkit::wait::soon("the end of the example", example));
    ended.unwrap();
}

#[path = "../../examples/14_durable_consumer.rs"]
#[allow(dead_code, reason = "it is a program of its own as well")]
mod durable_consumer;

#[test]
fn durable_consumer() {
    ends(durable_consumer::run());
}

#[path = "../../examples/15_chat_service.rs"]
#[allow(dead_code, reason = "it is a program of its own as well")]
mod chat_service;

#[test]
fn chat_service() {
    ends(chat_service::run());
}

#[test]
fn no_example_is_forgotten() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut found: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".rs"))
        .collect();
    found.sort();
    assert_eq!(found, FILES);
}
