//! A schema from a header, and a payload that is held against it: neither panics, and what is a schema means what its
//! canonical text means.

#![no_main]

use libfuzzer_sys::fuzz_target;
use whispeer::TopicPattern;
use whispeer::auth::Principal;
use whispeer::plugin::{MessageTypes, Plugins, Publishing, Schema, Session};
use whispeer::proto::ContentRef;

fuzz_target!(|input: &[u8]| {
    // The text ends at the first zero byte.
    let end = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let (text, payload) = input.split_at(end);
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let Ok(schema) = text.parse::<Schema>() else {
        return;
    };
    assert_eq!(schema.to_string().parse().as_ref(), Ok(&schema));
    assert!(schema.differences(&schema).is_empty());
    let plugins = Plugins::new().with(MessageTypes::new().schema(TopicPattern::everything(), schema));
    let session = Session::new(1, "", Principal::Local, "memory");
    let content = ContentRef::lent(&[], b"a", payload.get(1..).unwrap_or_default());
    if let Ok(mut message) = Publishing::new(&session, &content) {
        let _ = plugins.publish(&mut message);
        assert!(plugins.stats().iter().all(|plugin| plugin.failed == 0));
    }
});
