//! A field section: what is read from it, written anew, reads the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use whispeer::proto::fields::{Field, FieldsBuilder, Options, decode_gap, iterate, well_formed};

fuzz_target!(|section: &[u8]| {
    let _ = Options::read(section);
    let _ = decode_gap(section);
    let read: Vec<_> = iterate(section).filter(|field| !matches!(field, Field::Unknown(_))).collect();
    let mut builder = FieldsBuilder::new();
    for field in &read {
        let written = match *field {
            Field::Header { name, value } => builder.header(name, value),
            Field::Origin(bus) => builder.origin(bus),
            Field::Window { messages, bytes } => builder.window(messages, bytes),
            Field::Policy(policy) => builder.policy(policy),
            Field::Group(name) => builder.group(name),
            Field::BlockLimit(limit) => builder.block_limit(limit),
            Field::Deadline(left) => builder.deadline(left),
            Field::Topic(topic) => builder.topic(topic),
            Field::Mode(mode) => builder.mode(mode),
            Field::Quality(quality) => builder.quality(quality),
            Field::Start(start) => builder.start(start),
            Field::Position(position) => builder.position(position),
            Field::Epoch(epoch) => builder.epoch(epoch),
            Field::Limit { messages, bytes } => builder.limit(messages, bytes),
            _ => Ok(()),
        };
        // Only a section longer than any frame's does not fit again.
        if written.is_err() {
            return;
        }
    }
    let bytes = builder.finish();
    assert!(well_formed(&bytes));
    assert_eq!(iterate(&bytes).collect::<Vec<_>>(), read);
});
