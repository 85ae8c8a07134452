//! What NATS makes of the subjects, by its own rules of matching.

use proptest::prelude::*;

use super::*;

fn subjects() -> Subjects {
    Subjects::new("w").unwrap()
}

fn topic(text: &str) -> Topic {
    Topic::new(text).unwrap()
}

fn pattern(text: &str) -> TopicPattern {
    TopicPattern::new(text).unwrap()
}

/// Whether NATS delivers what is published to `subject` to who is subscribed to `wanted`.
fn delivers(wanted: &str, subject: &str) -> bool {
    let (mut wanted, mut subject) = (wanted.split('.'), subject.split('.'));
    loop {
        match (wanted.next(), subject.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(_)) => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

#[test]
fn topics_are_subjects_that_can_be_read() {
    for (text, subject) in [
        ("", "w.t"),
        ("hello/alice", "w.t.hello.alice"),
        ("chat:lobby", "w.t.chat:lobby"),
        ("v1.2/a>b/100%", "w.t.v1%2E2.a%3Eb.100%25"),
        (">", "w.t.%3E"),
        ("grüße", "w.t.grüße"),
        ("$bus/info", "w.t.$bus.info"),
    ] {
        assert_eq!(subjects().of_topic(&topic(text)), subject);
        assert_eq!(subjects().topic_of(subject), Some(topic(text)), "{subject}");
    }
}

#[test]
fn patterns_are_one_subject_or_two() {
    for (text, expected, is_exact) in [
        ("", vec!["w.t"], true),
        ("a/*/b", vec!["w.t.a.*.b"], true),
        ("a/**", vec!["w.t.a", "w.t.a.>"], true),
        ("a/**/**", vec!["w.t.a", "w.t.a.>"], true),
        ("a/*/**", vec!["w.t.a.*", "w.t.a.*.>"], true),
        ("a/**/b", vec!["w.t.a.>"], false),
        ("a/**/*", vec!["w.t.a.>"], false),
        // They do not match reserved topics.
        ("*", vec!["w.t.*"], false),
        ("**", vec!["w.t", "w.t.>"], false),
        ("**/b", vec!["w.t.>"], false),
    ] {
        let interest = subjects().of_pattern(&pattern(text));
        assert_eq!(
            (interest.subjects, interest.is_exact),
            (expected.into_iter().map(str::to_owned).collect(), is_exact),
            "{text}"
        );
    }
}

#[test]
fn what_is_no_subject_of_a_topic_is_none() {
    for subject in [
        "", "w", "w.", "w.w", "w.x.a", "x.t.a", "w.t.", "w.t..a", "w.t.a.", "w.t.%", "w.t.%2", "w.t.%zz",
        "w.t.%2e", "w.t.%41", "w.t.%2F", "w.t.a/b", "w.t.%00", "w.t.*", "w.t.>", "w.ta",
    ] {
        assert_eq!(subjects().topic_of(subject), None, "{subject}");
    }
}

#[test]
fn a_prefix_is_one_of_visible_tokens() {
    for prefix in ["whispeer", "shop.buses", "a-b_c"] {
        assert_eq!(Subjects::new(prefix).unwrap().of_topic(&topic("x")), format!("{prefix}.t.x"));
    }
    for prefix in
        ["", ".", "a.", ".a", "a..b", "a b", "a.*", ">", "$SYS", "_INBOX.x", "grüße", &"x".repeat(129)]
    {
        let error = Subjects::new(prefix).unwrap_err().to_string();
        assert!(error.contains("give one such as"), "{error}");
    }
}

#[test]
fn the_longest_topic_has_room_in_a_line_of_the_protocol() {
    let longest = topic(&format!("{}.", ".".repeat(whispeer::limits::MAX_TOPIC_BYTES - 1)));
    let subject = Subjects::new(&"x".repeat(PREFIX_BYTES)).unwrap().of_topic(&longest);
    assert!(subject.len() + 512 < 4096, "{}", subject.len());
}

fn fragment() -> impl Strategy<Value = String> {
    prop_oneof!["[abc]", "[.>%$]{1,3}", "[a-zA-Z0-9:._~-]{1,8}", "[äöü€😀]{1,3}"]
}

fn any_topic() -> impl Strategy<Value = Topic> {
    prop::collection::vec(fragment(), 0..6).prop_map(|fragments| topic(&fragments.join("/")))
}

/// A pattern that has often something to do with the topic.
fn pattern_near(topic: &Topic) -> impl Strategy<Value = TopicPattern> + use<> {
    let own: Vec<String> = topic.fragments().map(str::to_owned).collect();
    let count = own.len();
    let change = prop_oneof![Just("*".to_owned()), Just("**".to_owned()), fragment()];
    let changes = prop::collection::vec((0..=count, change, any::<bool>()), 0..4);
    (Just(own), changes).prop_map(|(mut fragments, changes)| {
        for (at, text, replaces) in changes {
            let at = at.min(fragments.len());
            if replaces && at < fragments.len() {
                fragments[at] = text;
            } else {
                fragments.insert(at, text);
            }
        }
        pattern(&fragments.join("/"))
    })
}

proptest! {
    #[test]
    fn each_topic_has_one_subject_and_comes_back(topic in any_topic()) {
        let subject = subjects().of_topic(&topic);
        prop_assert!(!subject.contains(char::is_whitespace));
        prop_assert_eq!(subjects().topic_of(&subject), Some(topic));
    }

    #[test]
    fn any_text_is_a_topic_s_subject_or_none(subject in "w\\.t(\\.[a%2E5>*/]{0,5}){0,4}") {
        if let Some(topic) = subjects().topic_of(&subject) {
            prop_assert_eq!(subjects().of_topic(&topic), subject);
        }
    }

    #[test]
    fn what_a_pattern_matches_comes_once_and_nothing_else_does_where_it_is_exact(
        (topic, pattern) in any_topic().prop_flat_map(|topic| {
            let pattern = pattern_near(&topic);
            (Just(topic), pattern)
        })
    ) {
        let interest = subjects().of_pattern(&pattern);
        let subject = subjects().of_topic(&topic);
        let times = interest.subjects.iter().filter(|wanted| delivers(wanted, &subject)).count();
        prop_assert!(times <= 1, "it comes twice");
        if pattern.matches(&topic) {
            prop_assert_eq!(times, 1);
        } else if interest.is_exact {
            prop_assert_eq!(times, 0);
        }
    }
}
