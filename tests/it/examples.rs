//! Every example runs to its end, and none is forgotten.

use std::error::Error;
use std::fs;
use std::path::Path;

macro_rules! examples {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(
            mod $name {
                #![expect(clippy::print_stdout, dead_code, reason = "an example prints, and its `main` is not called")]
                include!(concat!("../../examples/", $file));

                #[test]
                fn runs_to_its_end() {
                    super::ends(run());
                }
            }
        )*

        const FILES: &[&str] = &[$($file),*];
    };
}

examples! {
    publish_subscribe = "01_publish_subscribe.rs",
    request_response = "02_request_response.rs",
    unix_socket = "03_unix_socket.rs",
    streaming_replies = "04_streaming_replies.rs",
    queue_group = "05_queue_group.rs",
    gaps_and_policies = "06_gaps_and_policies.rs",
    scatter_gather = "07_scatter_gather.rs",
    pipelined_publisher = "08_pipelined_publisher.rs",
}

/// Runs an example as its `main` does.
fn ends(example: impl Future<Output = Result<(), Box<dyn Error>>>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ended = runtime.block_on(whispeer_testkit::wait::soon("the end of the example", example));
    ended.unwrap();
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
