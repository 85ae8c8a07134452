//! Permissions and policies as a specification.

use proptest::prelude::*;

use super::*;
use crate::error::BusError;
use crate::limits;
use crate::topic::{Topic, TopicPattern};

fn pattern(text: &str) -> TopicPattern {
    TopicPattern::new(text).unwrap()
}

fn patterns(texts: &[&str]) -> Vec<TopicPattern> {
    texts.iter().map(|text| pattern(text)).collect()
}

/// Permissions to publish, and to do nothing else.
fn publishing(allow: &[&str], deny: &[&str]) -> Permissions {
    let publish = Rule { allow: patterns(allow), deny: patterns(deny) };
    Permissions { publish, ..Permissions::default() }
}

fn may(permissions: &Permissions, action: Action, text: &str) -> bool {
    permissions.allows(action, &pattern(text)).is_ok()
}

#[test]
fn by_default_nothing_is_allowed() {
    for action in Action::ALL {
        for text in ["", "a", "*", "**", "$bus/stats"] {
            assert!(!may(&Permissions::default(), action, text), "{action} {text:?}");
        }
    }
    assert!(Permissions::default().allows_administering().is_err());
}

#[test]
fn a_pattern_is_allowed_when_one_single_allowed_pattern_covers_it_and_no_denied_one_meets_it() {
    for (allow, deny, text, allowed) in [
        (&["a/**"][..], &[][..], "a/b", true),
        (&["a/**"], &[], "a/*/c", true),
        (&["a/**"], &[], "*/b", false),
        (&["a/**"], &[], "**", false),
        (&["a/b", "a/c"], &[], "a/b", true),
        (&["*/b", "a/*"], &[], "a/b", true),
        (&["", "*/**"], &[], "**", false),
        (&["a/**"], &["a/secret"], "a/b", true),
        (&["a/**"], &["a/secret"], "a/secret", false),
        (&["a/**"], &["a/secret"], "a/*", false),
        (&["a/**"], &["a/secret/**"], "a/**", false),
        (&["a/**"], &["a/secret/**"], "a/*/x", false),
        (&["a/**"], &["**"], "a", false),
        (&["**"], &["b/**"], "a/**", true),
    ] {
        assert_eq!(
            may(&publishing(allow, deny), Action::Publish, text),
            allowed,
            "{allow:?} {deny:?} {text}"
        );
    }
}

#[test]
fn each_action_has_a_rule_of_its_own() {
    for (index, action) in Action::ALL.into_iter().enumerate() {
        let rules: [Rule; 4] = std::array::from_fn(|at| match at == index {
            true => Rule::allowing([pattern("a/*")]),
            false => Rule::default(),
        });
        let [publish, subscribe, serve, request] = rules;
        let permissions = Permissions { administer: false, publish, subscribe, serve, request };
        for other in Action::ALL {
            assert_eq!(may(&permissions, other, "a/b"), other == action, "{action} {other}");
        }
    }
}

#[test]
fn no_wildcard_grants_or_denies_what_begins_with_a_dollar_sign() {
    let everything = publishing(&["**", "*/**", "*"], &[]);
    assert!(may(&everything, Action::Publish, "**"));
    assert!(!may(&everything, Action::Publish, "$bus/stats") && !may(&everything, Action::Publish, "$x"));
    let named = publishing(&["$x/**"], &["**"]);
    assert!(may(&named, Action::Publish, "$x/*/a"));
    assert!(!may(&named, Action::Publish, "$y/a"));
    assert!(!may(&publishing(&["$x/**"], &["$x/y"]), Action::Publish, "$x/*"));
}

#[test]
fn an_administrator_may_ask_the_bus_about_itself_unless_that_is_denied() {
    let mut permissions = Permissions { administer: true, ..Permissions::default() };
    assert!(permissions.allows_administering().is_ok());
    assert!(may(&permissions, Action::Request, "$bus/stats"));
    assert!(may(&permissions, Action::Subscribe, "$bus/**"));
    for (action, text) in [
        (Action::Publish, "$bus/stats"),
        (Action::Serve, "$bus/stats"),
        (Action::Request, "$busy/stats"),
        (Action::Request, "a"),
        (Action::Request, "**"),
    ] {
        assert!(!may(&permissions, action, text), "{action} {text}");
    }
    permissions.request.deny = patterns(&["$bus/sessions"]);
    assert!(!may(&permissions, Action::Request, "$bus/sessions"));
    assert!(may(&permissions, Action::Request, "$bus/stats"));
}

#[test]
fn open_permissions_cover_all_that_is_not_reserved() {
    for action in Action::ALL {
        assert!(may(&Permissions::unreserved(), action, "**") && may(&Permissions::all(), action, "a/*"));
        assert!(!may(&Permissions::unreserved(), action, "$bus/stats"));
    }
    assert!(may(&Permissions::all(), Action::Request, "$bus/stats"));
    assert!(Permissions::unreserved().allows_administering().is_err());
}

#[test]
fn roles_allow_together_what_each_allows_but_not_what_one_denies() {
    let together = Permissions::together([
        &publishing(&["a/**"], &["a/x"]),
        &publishing(&["b/**", "a/**"], &["b/y"]),
        &Permissions { administer: true, ..Permissions::default() },
    ]);
    assert_eq!(together.publish.allow, patterns(&["a/**", "b/**"]));
    assert!(may(&together, Action::Publish, "a/b") && may(&together, Action::Publish, "b/a"));
    assert!(!may(&together, Action::Publish, "a/x") && !may(&together, Action::Publish, "b/y"));
    assert!(together.administer);
    assert_eq!(Permissions::together([]), Permissions::default());
}

#[test]
fn what_is_denied_is_told_with_what_would_be_needed_and_not_with_what_else_there_is() {
    let permissions = publishing(&["a/**"], &["a/secret/plan"]);
    for (text, message) in [
        (
            "b/*",
            r#"publishing to "b/*" is not granted; it needs a permission to publish whose allow list has one pattern that covers all of it"#,
        ),
        (
            "$bus/x",
            r#"publishing to "$bus/x" is not granted; it needs a permission to publish whose allow list has one pattern that covers all of it and begins with "$bus", which no wildcard stands for"#,
        ),
        (
            "a/**",
            r#"publishing to "a/**" is denied for some of the topics it stands for; use patterns that leave them out, or a permission to publish that does not deny them"#,
        ),
        (
            "a/secret/plan",
            r#"publishing to "a/secret/plan" is denied; it needs a permission to publish that does not"#,
        ),
    ] {
        let denied = permissions.allows(Action::Publish, &pattern(text)).unwrap_err();
        assert_eq!(denied.to_string(), message);
        let excluded = text.starts_with("a/").then(|| pattern("a/secret/plan"));
        assert_eq!(denied.denied_by(), excluded.as_ref());
        assert_eq!((denied.action(), denied.topic()), (Action::Publish, &pattern(text)));
        assert!(matches!(BusError::from(denied), BusError::Denied { what } if what == message));
    }
}

#[test]
fn a_rule_has_a_bounded_number_of_patterns() {
    let most: Vec<_> =
        (0..=limits::PERMISSION_PATTERNS).map(|index| pattern(&format!("a/{index}"))).collect();
    let mut permissions = Permissions { serve: Rule::allowing(most.clone()), ..Permissions::default() };
    let error = permissions.check().unwrap_err().to_string();
    assert!(error.contains("allow list of serve has 257 patterns"), "{error}");
    permissions.serve.deny = permissions.serve.allow.split_off(1);
    assert!(permissions.check().is_ok());
}

#[test]
fn permissions_stand_in_a_configuration_as_they_are_read() {
    let text = r#"
        administer = true
        publish.allow = ["a/+"]
        subscribe = { allow = ["**"], deny = ["a/**"] }
    "#;
    let permissions: Permissions = toml::from_str(text).unwrap();
    assert_eq!(permissions.publish.allow, patterns(&["a/*"]));
    assert_eq!(toml::from_str::<Permissions>(&toml::to_string(&permissions).unwrap()).unwrap(), permissions);
    for wrong in ["publsh.allow = []", "publish.alow = []", "publish = [\"a\"]", "publish.allow = [\"a//b\"]"]
    {
        assert!(toml::from_str::<Permissions>(wrong).is_err(), "{wrong}");
    }
}

/// All topics of up to four fragments.
fn all_topics() -> Vec<Topic> {
    let mut texts = vec![String::new()];
    let mut longest: Vec<String> = vec![String::new()];
    for _ in 0..4 {
        longest = longest
            .iter()
            .flat_map(|text| {
                ["a", "b", "$a", "x"].map(|name| match text.is_empty() {
                    true => name.to_owned(),
                    false => format!("{text}/{name}"),
                })
            })
            .collect();
        texts.extend(longest.iter().cloned());
    }
    texts.iter().map(|text| Topic::new(text).unwrap()).collect()
}

fn any_pattern() -> impl Strategy<Value = TopicPattern> {
    let names = &["a", "b", "$a", "*", "*", "**"][..];
    prop::collection::vec(prop::sample::select(names), 0..=4).prop_map(|names| pattern(&names.join("/")))
}

proptest! {
    /// What a pattern is allowed for, each concrete topic that it stands for is allowed for by itself; and a
    /// concrete topic is allowed exactly when the definition says so.
    #[test]
    fn what_is_allowed_never_lets_a_topic_pass_that_is_not(
        allow in prop::collection::vec(any_pattern(), 0..4),
        deny in prop::collection::vec(any_pattern(), 0..3),
        tried in prop::collection::vec(any_pattern(), 8),
    ) {
        let rule = Rule { allow: allow.clone(), deny: deny.clone() };
        let permissions = Permissions { request: rule, ..Permissions::default() };
        let topics = all_topics();
        let fine = |topic: &Topic| {
            allow.iter().any(|allowed| allowed.matches(topic)) && !deny.iter().any(|denied| denied.matches(topic))
        };
        for topic in &topics {
            let allowed = permissions.allows(Action::Request, &topic.into()).is_ok();
            prop_assert_eq!(allowed, fine(topic), "{}", topic);
        }
        // A pattern that is allowed itself makes sure that some are.
        for tried in tried.iter().chain(&allow) {
            if permissions.allows(Action::Request, tried).is_ok() {
                let passed = topics.iter().filter(|topic| tried.matches(topic)).find(|topic| !fine(topic));
                prop_assert_eq!(passed, None, "{} is allowed", tried);
            }
        }
    }
}
