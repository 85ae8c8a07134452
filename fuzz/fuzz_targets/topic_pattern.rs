//! Texts as patterns: the canonical form stays as it is, meets itself, and meeting is mutual.

#![no_main]

use libfuzzer_sys::fuzz_target;
use whispeer::TopicPattern;

fuzz_target!(|input: (&[u8], &[u8])| {
    let Ok(pattern) = TopicPattern::from_utf8(input.0) else {
        return;
    };
    assert_eq!(TopicPattern::new(pattern.as_str()).as_ref(), Ok(&pattern));
    assert!(pattern.meets(&pattern), "{pattern} does not meet itself");
    assert_eq!(pattern.as_topic().is_some(), pattern.is_concrete());
    let Ok(other) = TopicPattern::from_utf8(input.1) else {
        return;
    };
    assert_eq!(pattern.meets(&other), other.meets(&pattern), "{pattern} and {other}");
    if pattern.contains(&other) {
        assert!(pattern.meets(&other), "{pattern} contains {other} and does not meet it");
    }
    if let Some(topic) = other.as_topic() {
        assert_eq!(pattern.matches(&topic), pattern.meets(&other), "{pattern} and {topic}");
        assert_eq!(pattern.matches(&topic), pattern.contains(&other), "{pattern} and {topic}");
    }
});
