//! Topics and patterns as a specification.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::limits::{MAX_TOPIC_BYTES, MAX_TOPIC_EXCERPT_BYTES, MAX_TOPIC_FRAGMENTS};

fn topic(text: &str) -> Topic {
    Topic::new(text).unwrap()
}

fn pattern(text: &str) -> TopicPattern {
    TopicPattern::new(text).unwrap()
}

fn refusal(text: &str) -> TopicErrorKind {
    TopicPattern::new(text).unwrap_err().kind().clone()
}

#[test]
fn fragments_are_any_text_without_the_forbidden_characters() {
    for text in ["a", "chat:lobby", "Some-Event", "v1.2", "été/日本", "$bus/info", "a/$b", "{x}/(y)"] {
        assert_eq!(topic(text).as_str(), text);
        assert_eq!(pattern(text).as_str(), text);
        assert!(pattern(text).is_concrete());
    }
}

#[test]
fn the_empty_topic_is_valid_and_has_no_fragments() {
    assert_eq!(topic("").fragments().count(), 0);
    assert_eq!(topic(""), Topic::default());
    assert!(pattern("").is_concrete());
    assert!(!topic("").is_reserved());
}

#[test]
fn a_plus_is_read_as_a_single_wildcard_and_written_as_one() {
    assert_eq!(pattern("+/a/+").as_str(), "*/a/*");
    assert_eq!(pattern("+"), pattern("*"));
}

#[test]
fn empty_fragments_are_refused_with_their_position() {
    for (text, position) in [("/", 1), ("/a", 1), ("a//b", 2), ("a/", 2), ("a/b/", 3), ("**//", 2)] {
        assert_eq!(refusal(text), TopicErrorKind::EmptyFragment { position }, "{text}");
    }
}

#[test]
fn white_space_and_control_characters_are_refused_wherever_they_stand() {
    for character in [' ', '\t', '\n', '\u{a0}', '\u{2003}', '\u{3000}', '\0', '\u{7f}', '\u{85}'] {
        for fragment in [
            format!("{character}"),
            format!("{character}b"),
            format!("b{character}"),
            format!("é{character}é"),
        ] {
            let expected =
                TopicErrorKind::ForbiddenCharacter { position: 2, fragment: fragment.clone(), character };
            assert_eq!(refusal(&format!("a/{fragment}/c")), expected);
        }
    }
}

#[test]
fn wildcards_must_be_whole_fragments() {
    for fragment in ["a*", "*a", "a*b", "***", "****", "a+", "+a", "++", "*+", "+*", "**a"] {
        let expected = TopicErrorKind::WildcardInsideFragment { position: 2, fragment: fragment.to_owned() };
        assert_eq!(refusal(&format!("x/{fragment}")), expected);
    }
}

#[test]
fn a_concrete_topic_has_no_wildcards() {
    for (text, position, fragment) in [("*", 1, "*"), ("a/+", 2, "+"), ("a/b/**/c", 3, "**")] {
        let expected = TopicErrorKind::WildcardNotAllowed { position, fragment: fragment.to_owned() };
        assert_eq!(Topic::new(text).unwrap_err().kind(), &expected, "{text}");
        assert!(Topic::try_from(pattern(text)).is_err());
    }
}

#[test]
fn the_limits_hold_to_the_byte_and_the_fragment() {
    let longest = "a".repeat(MAX_TOPIC_BYTES);
    assert_eq!(topic(&longest).as_str(), longest);
    let (bytes, limit) = (MAX_TOPIC_BYTES + 1, MAX_TOPIC_BYTES);
    assert_eq!(refusal(&"a".repeat(bytes)), TopicErrorKind::TooLong { bytes, limit });
    assert_eq!(refusal(&"é".repeat(513)), TopicErrorKind::TooLong { bytes: 1_026, limit });

    let most = vec!["a"; MAX_TOPIC_FRAGMENTS].join("/");
    assert_eq!(topic(&most).fragments().count(), MAX_TOPIC_FRAGMENTS);
    for count in [MAX_TOPIC_FRAGMENTS + 1, MAX_TOPIC_FRAGMENTS + 5] {
        let limit = MAX_TOPIC_FRAGMENTS;
        let many = vec!["a"; count].join("/");
        assert_eq!(refusal(&many), TopicErrorKind::TooManyFragments { count, limit });
    }

    assert!(TopicPattern::new(["**"; 8].join("/a/")).is_ok());
    let nine = ["**"; 9].join("/a/");
    assert_eq!(refusal(&nine), TopicErrorKind::TooManyDoubleWildcards { count: 9, limit: 8 });
}

#[test]
fn bytes_that_are_not_utf8_are_refused_with_the_place() {
    let error = TopicPattern::from_utf8(b"ab/\xff").unwrap_err();
    assert_eq!(error.kind(), &TopicErrorKind::InvalidUtf8 { valid_up_to: 3 });
    assert_eq!(error.topic(), "ab/\u{fffd}");
    assert!(Topic::try_from(&b"a/b"[..]).is_ok());
    let flood = vec![0xff; 16 * MAX_TOPIC_BYTES];
    let error = Topic::from_utf8(&flood).unwrap_err();
    assert!(matches!(error.kind(), TopicErrorKind::TooLong { bytes: 16_384, .. }));
}

#[test]
fn errors_say_where_and_why_and_what_to_do() {
    for (text, message) in [
        ("a//b", r#"topic "a//b": fragment 2 is empty; remove the extra '/'"#),
        (
            "a/b c",
            r#"topic "a/b c": fragment 2, "b c", contains ' '; white space and control characters are not allowed, use '-' or '_' instead"#,
        ),
        (
            "a\n",
            r#"topic "a\n": fragment 1, "a\n", contains '\n'; white space and control characters are not allowed, use '-' or '_' instead"#,
        ),
        (
            "b*",
            r#"topic "b*": fragment 1, "b*", has a wildcard inside it; '*' and '+' cannot be part of a name, write the wildcard "*" or "**" as a whole fragment"#,
        ),
        (
            "a/**",
            r#"topic "a/**": fragment 2, "**", is a wildcard, but a concrete topic is needed here; write the name it stands for"#,
        ),
    ] {
        assert_eq!(Topic::new(text).unwrap_err().to_string(), message);
    }
}

#[test]
fn an_error_keeps_the_beginning_of_a_long_text_only() {
    let error = Topic::new("é".repeat(1 << 20)).unwrap_err();
    assert!(error.topic().len() <= MAX_TOPIC_EXCERPT_BYTES + '…'.len_utf8());
    assert!(error.topic().ends_with('…'));
    let fragment = format!("{} ", "é".repeat(400));
    assert!(Topic::new(fragment).unwrap_err().to_string().len() < 1_000);
}

#[test]
fn the_shape_of_a_text_is_known_without_building_a_value() {
    for (text, concrete, reserved, needs_canonical) in [
        ("", true, false, false),
        ("a/b", true, false, false),
        ("a/é", true, false, false),
        ("$bus/info", true, true, false),
        ("$bus/**", false, true, false),
        ("a/$b", true, false, false),
        ("a/*", false, false, false),
        ("a/+/**", false, false, true),
    ] {
        let shape = validate_pattern(text).unwrap();
        let seen = (shape.concrete, shape.reserved, shape.needs_canonical);
        assert_eq!(seen, (concrete, reserved, needs_canonical), "{text}");
        assert_eq!(validate_pattern_bytes(text.as_bytes()), Ok((text, shape)));
    }
}

#[test]
fn patterns_match_the_topics_they_describe() {
    for (text, matching, others) in [
        ("", &[""][..], &["a"][..]),
        ("a/b", &["a/b"], &["a", "a/b/c", "b/a", ""]),
        ("*", &["a"], &["", "a/b", "$a"]),
        ("**", &["", "a", "a/b/c"], &["$a", "$a/b"]),
        ("**/*", &["a", "a/b", "a/b/c", "a/$b"], &["", "$a", "$a/b"]),
        ("a/**", &["a", "a/b", "a/b/c"], &["", "b", "ab"]),
        ("a/**/*", &["a/b", "a/b/c"], &["a", "b/a"]),
        ("a/**/**", &["a", "a/b", "a/b/c"], &["", "b"]),
        ("**/a", &["a", "b/a", "b/a/a", "a/a"], &["", "a/b", "$b/a"]),
        ("**/a/**/a/**", &["a/a", "b/a/a/b", "a/b/a"], &["a", "b/a/b"]),
        ("*/**/*", &["a/b", "a/b/c"], &["", "a"]),
        ("a/*/c", &["a/b/c", "a/$b/c"], &["a/c", "a/b/b/c"]),
    ] {
        for name in matching {
            assert!(pattern(text).matches(&topic(name)), "{text} matches {name:?}");
        }
        for name in others {
            assert!(!pattern(text).matches(&topic(name)), "{text} does not match {name:?}");
        }
    }
}

#[test]
fn no_wildcard_stands_for_or_before_the_first_fragment_of_a_reserved_topic() {
    for (text, matching, others) in [
        ("$bus/**", &["$bus", "$bus/info"][..], &["bus", "a/$bus", "$busy"][..]),
        ("**", &[], &["$bus", "$bus/info"]),
        ("*/info", &["bus/info"], &["$bus/info"]),
        ("**/info", &["info", "bus/info"], &["$bus/info"]),
        ("**/$a", &["x/$a", "x/y/$a"], &["$a", "$x/$a"]),
        ("**/**/$a", &["x/$a"], &["$a"]),
        ("**/*/$a", &["x/$a"], &["$a", "$x/$a"]),
        ("a/**/$b", &["a/$b", "a/x/$b"], &["$b"]),
    ] {
        for name in matching {
            assert!(pattern(text).matches(&topic(name)), "{text} matches {name:?}");
        }
        for name in others {
            assert!(!pattern(text).matches(&topic(name)), "{text} does not match {name:?}");
        }
    }
}

#[test]
fn two_patterns_meet_when_a_topic_matches_both() {
    for (left, right, meet) in [
        ("a", "a", true),
        ("a", "b", false),
        ("*", "**", true),
        ("*", "", false),
        ("**", "", true),
        ("a/*", "*/b", true),
        ("a/*", "b/*", false),
        ("a/**", "**/b", true),
        ("a/**/c", "*/b/*", true),
        ("a/*/c", "**/b/*", true),
        ("a/**/b", "a", false),
        ("*/*", "a/**/b/c", false),
        ("$bus/*", "**", false),
        ("$bus/*", "$bus/**/info", true),
        ("$bus/**", "$box/**", false),
        ("$bus", "*", false),
        ("**/$a", "*", false),
        ("**/$a", "**/$a", true),
        ("**/$a", "*/$a", true),
        ("**/$a/b", "*/b", false),
        ("**/$a/b", "*/*/b", true),
        ("**/$a", "$a", false),
    ] {
        assert_eq!(pattern(left).meets(&pattern(right)), meet, "{left} meets {right}");
        assert_eq!(pattern(right).meets(&pattern(left)), meet, "{right} meets {left}");
    }
}

#[test]
fn a_pattern_contains_another_when_it_matches_every_topic_of_it() {
    for (outer, inner, contains) in [
        ("**", "**", true),
        ("**", "", true),
        ("", "**", false),
        ("a", "a", true),
        ("*", "a", true),
        ("a", "*", false),
        ("a/**", "a", true),
        ("a/**", "a/*/b", true),
        ("a/*", "a/**", false),
        ("a/*/**", "a/**", false),
        ("a/**/*", "a/*/**", true),
        ("*/**/c", "**/b/c", true),
        ("**/a/**", "**/a", true),
        ("**/a/b/**", "**/a/**/b/**", false),
        ("**/a/**/b", "a/**/a/b", true),
        ("a/*/*/**", "a/**/b", false),
        ("a/*/**", "a/**/b", true),
        ("**/a/*/*", "**/a/**/b/c", false),
        ("**", "$bus/info", false),
        ("$bus/**", "$bus/**/info", true),
        ("$bus/**", "$box", false),
        ("*/**", "$bus", false),
        ("**/$a", "*/$a", true),
        ("*/**/$a", "**/$a", true),
        ("**/$a", "**/$b/$a", true),
        ("**/$a", "$a", false),
    ] {
        assert_eq!(pattern(outer).contains(&pattern(inner)), contains, "{outer} contains {inner}");
    }
}

#[test]
fn containing_takes_no_more_for_many_double_wildcards() {
    let inner = pattern(&format!("{}/b", ["**/a/a/a/a/a/a"; 8].join("/")));
    let outer = pattern(&format!("{}/*/b", ["**/a/a/a/a/a/a"; 8].join("/")));
    let start = Instant::now();
    for _ in 0..1_000 {
        assert!(!outer.contains(&inner));
        assert!(inner.contains(&inner));
    }
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn eight_double_wildcards_on_each_side_do_not_multiply() {
    // Each `**` has many places to end, and the last fragments disagree: trying them one after the
    // other would take longer than the age of the universe.
    let left = pattern(&format!("{}/b", ["**/a/a/a/a/a/a"; 8].join("/")));
    let right = pattern(&format!("{}/c", ["a/a/a/a/a/a/**"; 8].join("/")));
    let long = topic(&["a"; 64].join("/"));
    let start = Instant::now();
    for _ in 0..1_000 {
        assert!(!left.meets(&right));
        assert!(!left.matches(&long));
    }
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_prefix_is_put_before_a_pattern_and_taken_away_again() {
    let prefix = topic("hello/v1");
    for text in ["", "alice", "*/bob", "**", "$alice"] {
        let whole = pattern(text).under(&prefix).unwrap();
        assert_eq!(whole.strip_prefix(&prefix), Some(pattern(text)), "{text}");
        assert_eq!(whole.is_concrete(), pattern(text).is_concrete());
        assert!(!whole.is_reserved());
    }
    assert_eq!(pattern("a/*").under(&Topic::default()).unwrap(), "a/*");
    assert_eq!(pattern("a/*").strip_prefix(&Topic::default()).unwrap(), "a/*");
    for text in ["", "hello", "hello/v", "hello/v12", "hello/*", "*/v1", "**", "x/hello/v1"] {
        assert_eq!(pattern(text).strip_prefix(&prefix), None, "{text}");
    }
}

#[test]
fn a_prefix_that_makes_a_pattern_too_long_is_an_error() {
    let long = pattern(&["*"; MAX_TOPIC_FRAGMENTS].join("/"));
    let error = long.under(&topic("a")).unwrap_err();
    assert!(matches!(error.kind(), TopicErrorKind::TooManyFragments { .. }));
    let long = topic(&"a".repeat(MAX_TOPIC_BYTES));
    assert!(matches!(long.join(&topic("b")).unwrap_err().kind(), TopicErrorKind::TooLong { .. }));
}

#[test]
fn topics_join() {
    assert_eq!(topic("a").join(&topic("b/c")).unwrap(), "a/b/c");
    assert_eq!(topic("").join(&topic("b")).unwrap(), "b");
    assert_eq!(topic("a").join(&topic("")).unwrap(), "a");
}

#[test]
fn a_concrete_pattern_is_a_topic_and_back() {
    assert_eq!(pattern("a/b").as_topic(), Some(topic("a/b")));
    assert_eq!(pattern("a/*").as_topic(), None);
    assert_eq!(TopicPattern::from(topic("a/b")), pattern("a/b"));
    assert!(TopicPattern::from(topic("a/b")).is_concrete());
}

#[test]
fn maps_keyed_by_topics_can_be_asked_with_text() {
    let map: HashMap<Topic, u8> = [(topic("a/b"), 1)].into();
    assert_eq!(map.get("a/b"), Some(&1));
    let set: BTreeSet<TopicPattern> = [pattern("a/+")].into();
    assert!(set.contains("a/*"));
}

#[test]
fn serde_writes_text_and_checks_what_it_reads() {
    assert_eq!(serde_json::to_string(&topic("a/b")).unwrap(), r#""a/b""#);
    assert_eq!(serde_json::from_str::<TopicPattern>(r#""a/+""#).unwrap(), "a/*");
    let error = serde_json::from_str::<Topic>(r#""a/+""#).unwrap_err();
    assert!(error.to_string().contains("fragment 2"), "{error}");
    assert!(serde_json::from_str::<Topic>("7").is_err());
}

proptest! {
    #[test]
    fn no_text_makes_parsing_panic(text in any::<String>()) {
        let _ = Topic::new(&text);
        let _ = TopicPattern::new(&text);
    }

    #[test]
    fn no_bytes_make_parsing_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let _ = Topic::from_utf8(&bytes);
        let parsed = TopicPattern::from_utf8(&bytes);
        prop_assert_eq!(validate_pattern_bytes(&bytes).is_ok(), parsed.is_ok());
    }

    #[test]
    fn what_is_accepted_survives_the_way_through_text(text in "[ab$é+*/ ]{0,14}") {
        let Ok(pattern) = TopicPattern::new(&text) else {
            prop_assert!(Topic::new(&text).is_err());
            return Ok(());
        };
        prop_assert_eq!(&TopicPattern::new(pattern.as_str()).unwrap(), &pattern);
        prop_assert!(!validate_pattern(pattern.as_str()).unwrap().needs_canonical);
        prop_assert_eq!(pattern.fragments().collect::<Vec<_>>().join("/"), pattern.as_str());
        prop_assert_eq!(Topic::new(&text).ok(), pattern.as_topic());
        let written = serde_json::to_string(&pattern).unwrap();
        prop_assert_eq!(serde_json::from_str::<TopicPattern>(&written).unwrap(), pattern);
    }
}
