//! Matching, meeting and containing against a slow oracle that enumerates concrete topics.
//!
//! A topic that two patterns share needs no more fragments than both have without their `**`, and one
//! more where a `**` must take something so that the topic is not reserved. In place of a wildcard any
//! name that neither pattern mentions will do. Trying all topics up to that length over the names in use
//! and one more thus decides whether two patterns meet.

use proptest::prelude::*;

use super::{Topic, TopicPattern};

/// All topics of up to `longest` fragments from `names`, the empty one included.
fn topics(names: &[&'static str], longest: usize) -> Vec<Vec<&'static str>> {
    let mut all = vec![Vec::new()];
    let mut from = 0;
    for _ in 0..longest {
        let until = all.len();
        for index in from..until {
            for name in names {
                let mut longer = all[index].clone();
                longer.push(*name);
                all.push(longer);
            }
        }
        from = until;
    }
    all
}

/// What a pattern means, in the words of its definition.
fn accepts(pattern: &[&str], topic: &[&str]) -> bool {
    let reserved = topic.first().is_some_and(|first| first.starts_with('$'));
    if reserved && pattern.first() != topic.first() {
        return false;
    }
    accepts_common(pattern, topic)
}

fn accepts_common(pattern: &[&str], topic: &[&str]) -> bool {
    match (pattern, topic) {
        ([], []) => true,
        (["**", rest @ ..], _) => (0..=topic.len()).any(|taken| accepts_common(rest, &topic[taken..])),
        (["*", rest @ ..], [_, after @ ..]) => accepts_common(rest, after),
        ([name, rest @ ..], [first, after @ ..]) => name == first && accepts_common(rest, after),
        ([], _) | (_, []) => false,
    }
}

fn pattern_of(fragments: &[&str]) -> TopicPattern {
    TopicPattern::new(fragments.join("/")).unwrap()
}

#[test]
fn all_short_patterns_match_meet_and_contain_as_the_enumeration_says() {
    let patterns = topics(&["a", "$a", "*", "**"], 4);
    // Two patterns with `**` have three other fragments at most, and one more may be needed in front.
    let topics = topics(&["a", "$a", "x"], 7);
    let parsed: Vec<Topic> = topics.iter().map(|topic| Topic::new(topic.join("/")).unwrap()).collect();
    let mut accepted: Vec<(TopicPattern, Vec<u64>)> = Vec::new();
    for fragments in &patterns {
        let pattern = pattern_of(fragments);
        let mut set = vec![0; topics.len().div_ceil(64)];
        for (index, (names, topic)) in topics.iter().zip(&parsed).enumerate() {
            let accepts = accepts(fragments, names);
            assert_eq!(pattern.matches(topic), accepts, "{pattern} matches {topic}");
            set[index / 64] |= u64::from(accepts) << (index % 64);
        }
        accepted.push((pattern, set));
    }
    for (left, left_set) in &accepted {
        for (right, right_set) in &accepted {
            let common = left_set.iter().zip(right_set).any(|(left, right)| left & right != 0);
            assert_eq!(left.meets(right), common, "{left} meets {right}");
            let inside = left_set.iter().zip(right_set).all(|(left, right)| right & !left == 0);
            assert_eq!(left.contains(right), inside, "{left} contains {right}");
        }
    }
}

fn fragments(names: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(names), 0..=4)
}

/// A topic, and a pattern made from it by putting wildcards in place of fragments.
fn loosened() -> impl Strategy<Value = (Vec<String>, Vec<String>)> {
    let part = ("[ab$]{1,2}", 0..8_u8, 0..4_usize);
    prop::collection::vec(part, 0..40).prop_map(|parts| {
        let (mut topic, mut pattern) = (Vec::new(), Vec::new());
        let mut doubles = 0;
        for (index, (name, choice, run)) in parts.into_iter().enumerate() {
            // The first fragment stays, so that a reserved topic is matched as well.
            match choice {
                0 | 1 if index > 0 => pattern.push("*".to_owned()),
                2 if index > 0 && doubles < 8 => {
                    doubles += 1;
                    pattern.push("**".to_owned());
                    topic.extend(std::iter::repeat_n(name, run.min(63 - topic.len().min(63))));
                    continue;
                }
                _ => pattern.push(name.clone()),
            }
            topic.push(name);
        }
        topic.truncate(64);
        (topic, pattern)
    })
}

proptest! {
    #[test]
    fn patterns_meet_exactly_when_a_concrete_topic_matches_both(
        left in fragments(&["a", "b", "$a", "*", "*", "**", "**"]),
        right in fragments(&["a", "b", "$a", "*", "*", "**", "**"]),
    ) {
        let singles = |pattern: &[&str]| pattern.iter().filter(|name| **name != "**").count();
        let doubles = |pattern: &[&str]| pattern.len() > singles(pattern);
        // Without a `**` on one side, the topic is just as long as that side.
        let longest = match (doubles(&left), doubles(&right)) {
            (false, _) => left.len(),
            (_, false) => right.len(),
            (true, true) => singles(&left) + singles(&right) + 1,
        };
        let common = topics(&["a", "b", "$a", "x"], longest)
            .iter()
            .any(|topic| accepts(&left, topic) && accepts(&right, topic));
        prop_assert_eq!(pattern_of(&left).meets(&pattern_of(&right)), common);
        prop_assert_eq!(pattern_of(&right).meets(&pattern_of(&left)), common);
    }

    #[test]
    fn a_pattern_contains_another_exactly_when_it_matches_all_of_its_topics(
        outer in prop::collection::vec(prop::sample::select(&["a", "b", "*", "*", "**", "**"][..]), 0..=5),
        inner in prop::collection::vec(prop::sample::select(&["a", "b", "*", "**"][..]), 0..=4),
    ) {
        // At most two `**` of the inner pattern are apart, and a run of the outer one has three `*` at most.
        let all = topics(&["a", "b", "x"], 8);
        let inside = all.iter().filter(|topic| accepts(&inner, topic)).all(|topic| accepts(&outer, topic));
        let (outer, inner) = (pattern_of(&outer), pattern_of(&inner));
        prop_assert_eq!(outer.contains(&inner), inside, "{} contains {}", outer, inner);
    }

    #[test]
    fn containing_implies_meeting_and_carries_over(
        one in fragments(&["a", "b", "$a", "*", "*", "**", "**"]),
        two in fragments(&["a", "b", "$a", "*", "*", "**", "**"]),
        three in fragments(&["a", "b", "$a", "*", "*", "**", "**"]),
    ) {
        let (one, two, three) = (pattern_of(&one), pattern_of(&two), pattern_of(&three));
        prop_assert!(one.contains(&one));
        prop_assert!(!one.contains(&two) || one.meets(&two));
        prop_assert!(!(one.contains(&two) && two.contains(&three)) || one.contains(&three));
    }

    #[test]
    fn a_pattern_made_from_a_topic_matches_it((topic, pattern) in loosened()) {
        let topic_text = topic.join("/");
        let pattern = TopicPattern::new(pattern.join("/")).unwrap();
        let complete = topic.len() < 64;
        let topic = Topic::new(topic_text).unwrap();
        if complete {
            prop_assert!(pattern.matches(&topic), "{} matches {}", pattern, topic);
            prop_assert!(pattern.meets(&pattern));
            prop_assert!(pattern.contains(&pattern));
            prop_assert!(pattern.contains(&topic.into()));
        }
    }
}
