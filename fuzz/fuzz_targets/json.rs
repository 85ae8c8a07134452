//! Payloads as JSON and texts as payloads: what is shown can be read, and is shown the same then.

#![no_main]

use libfuzzer_sys::fuzz_target;
use whispeer::json::{from_json, to_json};

fuzz_target!(|input: &[u8]| {
    let shown = to_json(input);
    let read = from_json(shown.as_bytes()).expect("it is JSON");
    assert_eq!(to_json(&read), shown);
    if let Ok(payload) = from_json(input) {
        let shown = to_json(&payload);
        assert_eq!(from_json(shown.as_bytes()).expect("it is JSON"), payload, "{shown}");
    }
});
