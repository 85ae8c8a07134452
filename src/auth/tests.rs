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
        let rules: [Rule; 5] = std::array::from_fn(|at| match at == index {
            true => Rule::allowing([pattern("a/*")]),
            false => Rule::default(),
        });
        let [publish, subscribe, serve, request, consume] = rules;
        let permissions = Permissions { administer: false, publish, subscribe, serve, request, consume };
        for other in Action::ALL {
            assert_eq!(may(&permissions, other, "a/b"), other == action, "{action} {other}");
        }
    }
}

#[test]
fn a_pattern_that_no_consumer_can_have_is_refused_and_named() {
    let consuming = |text: &str, is_denied| {
        let (allow, deny) =
            if is_denied { (vec![], vec![pattern(text)]) } else { (vec![pattern(text)], vec![]) };
        Permissions { consume: Rule { allow, deny }, ..Permissions::default() }.check()
    };
    for is_denied in [false, true] {
        for text in ["**", "*/*", "orders/*", "*/billing", "orders/billing", "**/billing"] {
            assert!(consuming(text, is_denied).is_ok(), "{text}");
        }
        for text in ["", "billing", "*", "orders/billing/x", "$dead/orders"] {
            let refused = consuming(text, is_denied).unwrap_err().to_string();
            assert!(
                refused.contains(&format!("{text:?}")) && refused.contains("STREAM/CONSUMER"),
                "{refused}"
            );
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

fn stranger() -> Principal {
    Principal::Network { address: ([192, 0, 2, 1], 4242).into() }
}

fn unix(uid: u32) -> Principal {
    Principal::Unix { uid, gid: 0, pid: None }
}

fn certificate(name: &str) -> Principal {
    Principal::Certificate { name: name.into() }
}

const ROLES: &str = r#"
    [roles.reader]
    subscribe.allow = ["news/**"]
    [roles.writer]
    publish = { allow = ["news/**"], deny = ["news/drafts/**"] }
    [[certificates]]
    name = "ticker"
    roles = ["writer"]
    [[unix]]
    uid = 7
    roles = ["reader"]
"#;

fn policy(text: &str) -> Policy {
    Policy::new(&toml::from_str(text).unwrap()).unwrap()
}

fn fault(text: &str) -> String {
    let settings: AuthSettings = toml::from_str(text).unwrap();
    match Policy::new(&settings).unwrap_err() {
        BusError::InvalidSettings(text) => text,
        other => panic!("{other:?}"),
    }
}

/// What the roles allow, by a word for each action.
fn rights(identity: &Identity) -> String {
    let mut words: Vec<_> = Action::ALL
        .into_iter()
        .filter(|action| may(&identity.permissions, *action, "news/local"))
        .map(Action::name)
        .collect();
    if identity.permissions.administer {
        words.push("administer");
    }
    words.join(" ")
}

async fn rights_of(policy: &Policy, peer: &Principal) -> Option<String> {
    policy.authenticate(peer, None).await.ok().map(|identity| rights(&identity))
}

#[tokio::test]
async fn an_open_bus_lets_all_in_and_looks_at_no_credentials() {
    let policy = Policy::open().own_uid(Some(7));
    let all = "publish subscribe serve request consume";
    for peer in [stranger(), unix(8), certificate("any")] {
        assert_eq!(rights_of(&policy, &peer).await.unwrap(), all);
    }
    for peer in [Principal::Local, unix(7)] {
        assert_eq!(rights_of(&policy, &peer).await.unwrap(), format!("{all} administer"));
    }
    let identity = policy.authenticate(&stranger(), Some(&Credentials::token("nonsense"))).await.unwrap();
    assert_eq!(identity.principal, stranger());
    assert!(policy.is_open());
}

#[test]
fn a_connection_may_be_authenticated_on_any_thread() {
    fn goes_to_any_thread<T: Send>(_: T) {}
    fn is_shared_by_threads<T: Send + Sync>() {}
    goes_to_any_thread(Policy::open().authenticate(&stranger(), None));
    is_shared_by_threads::<Policy>();
    is_shared_by_threads::<Identity>();
}

#[tokio::test]
async fn a_policy_lets_in_its_own_process_and_user_and_nobody_else_by_default() {
    let policy = policy("").own_uid(Some(7));
    for peer in [Principal::Bus, Principal::Local, unix(7)] {
        assert_eq!(
            rights_of(&policy, &peer).await.unwrap(),
            "publish subscribe serve request consume administer"
        );
    }
    for peer in [stranger(), unix(8), certificate("any")] {
        let refused = policy.authenticate(&peer, None).await.unwrap_err();
        assert!(matches!(&refused, BusError::Denied { what } if what.contains("needs credentials")));
    }
    assert!(!policy.is_open());
}

#[tokio::test]
async fn roles_come_from_what_the_transport_proves_and_strangers_have_those_of_the_anonymous() {
    let closed = policy(ROLES).own_uid(Some(7));
    assert_eq!(rights_of(&closed, &certificate("ticker")).await.unwrap(), "publish");
    assert_eq!(rights_of(&closed, &unix(7)).await.unwrap(), "subscribe", "an entry replaces the user's own");
    assert_eq!(rights_of(&closed, &certificate("other")).await, None);
    let open = policy(&format!("anonymous = [\"reader\"]\n{ROLES}"));
    for peer in [stranger(), certificate("other"), unix(8)] {
        assert_eq!(rights_of(&open, &peer).await.unwrap(), "subscribe");
    }
}

#[test]
fn a_policy_that_cannot_be_meant_is_refused_with_the_entry_at_fault() {
    for (text, named) in [
        ("anonymous = [\"guest\"]", "anonymous has the role \"guest\""),
        ("[[unix]]\nuid = 7\nroles = [\"x\"]\n[roles.reader]", "uid 7 has the role \"x\""),
        ("[[unix]]\nuid = 7\n[[unix]]\nuid = 7", "uid 7 is there twice"),
        ("[[certificates]]\nname = \"\"", "certificate is empty"),
        ("[[certificates]]\nname = \"a\"\n[[certificates]]\nname = \"a\"", "twice"),
        ("[roles.\"a\\nb\"]", "control characters"),
    ] {
        let fault = fault(text);
        assert!(fault.contains(named), "{text}: {fault}");
    }
    let many: Vec<_> = (0..=limits::ROLES_PER_PRINCIPAL).map(|_| "\"r\"").collect();
    assert!(fault(&format!("anonymous = [{}]\n[roles.r]", many.join(","))).contains("33 roles"));
    let most: Vec<_> = (0..=limits::PERMISSION_PATTERNS).map(|index| format!("\"a/{index}\"")).collect();
    let role = format!("[roles.r]\nserve.deny = [{}]", most.join(","));
    assert!(fault(&role).contains("role \"r\""));
    for unknown in ["user = []", "[[users]]\nname = \"a\"\npasword = \"\"", "[[unix]]\nuid = -1"] {
        assert!(toml::from_str::<AuthSettings>(unknown).is_err(), "{unknown}");
    }
}

#[tokio::test]
async fn a_new_policy_narrows_the_rights_of_who_is_there_or_ends_them() {
    let old = policy(ROLES);
    let ticker = old.authenticate(&certificate("ticker"), None).await.unwrap();
    let narrower = policy(&ROLES.replace("news/drafts/**", "news/**"));
    let renewed = narrower.renew(&ticker).unwrap();
    assert_eq!((rights(&renewed), renewed.principal), (String::new(), certificate("ticker")));
    assert!(matches!(policy("").renew(&ticker), Err(BusError::Denied { .. })));
    let opened = Policy::open().renew(&ticker).unwrap();
    assert_eq!(rights(&opened), "publish subscribe serve request consume");
}

#[test]
fn nothing_secret_is_in_what_is_shown_for_debugging() {
    let text = "[[users]]\nname = \"alice\"\npassword = \"$hidden$\"\n[[issuers]]\nissuer = \"i\"\n\
                audience = \"a\"\nalgorithm = \"HS256\"\nkey = \"hidden\"";
    let settings: AuthSettings = toml::from_str(text).unwrap();
    let shown = format!("{settings:?}");
    assert!(shown.contains("alice") && !shown.contains("hidden"), "{shown}");
    let shown = format!("{:?} {:?}", Credentials::token("hidden"), Credentials::password("alice", "hidden"));
    assert!(shown.contains("alice") && !shown.contains("hidden"), "{shown}");
}

#[test]
fn paths_of_keys_are_relative_to_the_configuration() {
    let text =
        "[[issuers]]\nissuer = \"i\"\naudience = \"a\"\nalgorithm = \"EdDSA\"\nkey_file = \"login.pub\"";
    let mut settings: AuthSettings = toml::from_str(text).unwrap();
    settings.resolve(std::path::Path::new("/etc/whispeer"));
    let file = settings.issuers[0].key_file.clone().unwrap();
    assert_eq!(file, std::path::Path::new("/etc/whispeer/login.pub"));
}

#[cfg(not(feature = "auth"))]
#[test]
fn without_the_feature_users_and_issuers_are_refused_with_its_name() {
    let user = fault("[[users]]\nname = \"alice\"\npassword = \"$argon2id$\"");
    assert!(user.contains("feature `auth`"), "{user}");
    let issuer = "[[issuers]]\nissuer = \"i\"\naudience = \"a\"\nalgorithm = \"EdDSA\"\nkey = \"\"";
    assert!(fault(issuer).contains("feature `auth`"));
    assert!(Policy::from_toml("").unwrap_err().to_string().contains("feature `auth`"));
}

/// What needs tokens and passwords.
#[cfg(feature = "auth")]
mod with_credentials {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::error::BusResult;

    const PASSWORD: &str = "correct horse";

    fn user(name: &str, hash: &str, roles: &str) -> String {
        format!("[[users]]\nname = \"{name}\"\npassword = \"{hash}\"\nroles = [{roles}]\n")
    }

    fn hashed(password: &str) -> String {
        hash_password(&Secret::new(password)).unwrap()
    }

    fn issuer(key: &SigningKey, roles: &str) -> String {
        let pem = key.public_text().unwrap();
        format!(
            "[[issuers]]\nissuer = \"login\"\naudience = \"bus\"\nalgorithm = \"EdDSA\"\nkey = '''\n{pem}'''\n\
             roles = [{roles}]\n"
        )
    }

    fn refused_text(refused: BusResult<Identity>) -> String {
        match refused.unwrap_err() {
            BusError::Denied { what } => what,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_user_with_the_right_password_has_the_roles_of_the_user_wherever_it_comes_from() {
        let policy =
            policy(&format!("{}{ROLES}", user("alice", &hashed(PASSWORD), "\"reader\", \"writer\"")));
        let credentials = Credentials::password("alice", PASSWORD);
        for peer in [stranger(), certificate("ticker"), Principal::Local] {
            let identity = policy.authenticate(&peer, Some(&credentials)).await.unwrap();
            assert_eq!(identity.principal, Principal::User { name: "alice".into() });
            assert_eq!((rights(&identity).as_str(), identity.expires), ("publish subscribe", None));
        }
    }

    #[tokio::test]
    async fn a_peer_cannot_tell_a_wrong_password_from_an_unknown_user_or_a_bad_token() {
        let key = SigningKey::generate(TokenAlgorithm::EdDSA).unwrap();
        let users = user("alice", &hashed(PASSWORD), "");
        let policy = policy(&format!("{users}{}{ROLES}", issuer(&key, "")));
        let told =
            "the credentials were not accepted; check that they are right and still valid, or get new ones";
        let long = "a".repeat(limits::PASSWORD_BYTES + 1);
        for credentials in [
            Credentials::password("alice", "wrong"),
            Credentials::password("alice", long.as_str()),
            Credentials::password("bob", PASSWORD),
            Credentials::password("bob", long.as_str()),
            Credentials::password("", PASSWORD),
            Credentials::password("a\nb", PASSWORD),
            Credentials::password("a".repeat(10_000), PASSWORD),
            Credentials::token("nonsense"),
            Credentials::token("a".repeat(limits::TOKEN_BYTES + 1)),
        ] {
            for peer in [stranger(), Principal::Local] {
                assert_eq!(refused_text(policy.authenticate(&peer, Some(&credentials)).await), told);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_user_takes_a_turn_among_the_checks_as_a_known_one_does() {
        let text = user("alice", &hashed(PASSWORD), "");
        for name in ["alice", "bob"] {
            let passwords = Passwords::new(1, Duration::from_secs(1));
            let policy = policy(&text).passwords(passwords.clone());
            let slow = Arc::new(PasswordHash::parse(&hashed(PASSWORD)).unwrap());
            let (other, password) = (stranger(), Secret::new(PASSWORD));
            let mut busy = std::pin::pin!(passwords.check(&other, "carol", slow, true, password));
            let credentials = Credentials::password(name, PASSWORD);
            let mut asked = std::pin::pin!(policy.authenticate(&Principal::Local, Some(&credentials)));
            std::future::poll_fn(|context| {
                let _ = busy.as_mut().poll(context);
                assert_eq!(passwords.free(), 0);
                assert!(asked.as_mut().poll(context).is_pending(), "{name} waits for a turn");
                std::task::Poll::Ready(())
            })
            .await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_guesses_gains_nothing_by_a_policy_that_is_replaced() {
        let text = user("alice", &hashed(PASSWORD), "");
        let (wrong, right) =
            (Credentials::password("alice", "wrong horse"), Credentials::password("alice", PASSWORD));
        let before = policy(&text);
        for _ in 0..=limits::GUESSES_OF_A_SOURCE {
            refused_text(before.authenticate(&stranger(), Some(&wrong)).await);
        }
        let after = policy(&text).following(&before);
        let refused = after.authenticate(&stranger(), Some(&right)).await;
        assert!(matches!(refused, Err(BusError::Overloaded { .. })), "{refused:?}");
        let apart = policy(&text).passwords(Passwords::default()).following(&after);
        apart.authenticate(&stranger(), Some(&right)).await.unwrap();
    }

    #[tokio::test]
    async fn a_bus_without_users_takes_no_time_for_passwords() {
        let passwords = Passwords::new(1, Duration::ZERO);
        let policy = policy(ROLES).passwords(passwords);
        let credentials = Credentials::password("alice", PASSWORD);
        let peer = stranger();
        let mut asked = std::pin::pin!(policy.authenticate(&peer, Some(&credentials)));
        std::future::poll_fn(|context| {
            assert!(asked.as_mut().poll(context).is_ready());
            std::task::Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_token_gives_its_roles_until_it_ends() {
        let key = SigningKey::generate(TokenAlgorithm::EdDSA).unwrap();
        let policy = policy(&format!("{}{ROLES}", issuer(&key, "\"reader\", \"writer\"")));
        let issuer = TokenIssuer::new(key, "login", "bus").unwrap();
        let token = issuer.issue("alice", &["reader".into()], Duration::from_secs(60)).unwrap();
        let identity = policy.authenticate(&stranger(), Some(&Credentials::Token(token))).await.unwrap();
        let alice = Principal::Token { issuer: "login".into(), subject: "alice".into() };
        assert_eq!((rights(&identity).as_str(), identity.principal), ("subscribe", alice));
        assert!(identity.expires.is_some());
        let token = issuer.issue("alice", &[], Duration::from_secs(60)).unwrap();
        let identity = policy.authenticate(&stranger(), Some(&Credentials::Token(token))).await.unwrap();
        assert_eq!(rights(&identity), "", "without roles there are the issuer's default ones, here none");
    }

    #[tokio::test]
    async fn a_session_ends_when_its_user_goes_or_gets_another_password() {
        let hash = hashed(PASSWORD);
        let old = policy(&format!("{}{ROLES}", user("alice", &hash, "\"reader\"")));
        let credentials = Credentials::password("alice", PASSWORD);
        let alice = old.authenticate(&stranger(), Some(&credentials)).await.unwrap();
        let same = policy(&format!("{}{ROLES}", user("alice", &hash, "\"writer\"")));
        assert_eq!(rights(&same.renew(&alice).unwrap()), "publish");
        for users in [user("bob", &hash, ""), user("alice", &hashed(PASSWORD), "\"reader\"")] {
            let refused = policy(&format!("{users}{ROLES}")).renew(&alice);
            assert!(matches!(refused, Err(BusError::Denied { .. })), "{users}");
        }
    }

    #[tokio::test]
    async fn a_session_ends_when_its_issuer_goes_or_gets_another_key_or_may_no_longer_give_its_roles() {
        let [key, other] =
            [TokenAlgorithm::EdDSA; 2].map(|algorithm| SigningKey::generate(algorithm).unwrap());
        let old = policy(&format!("{}{ROLES}", issuer(&key, "\"reader\"")));
        let token = TokenIssuer::new(key.clone(), "login", "bus")
            .and_then(|issuer| issuer.issue("alice", &["reader".into()], Duration::from_secs(60)))
            .unwrap();
        let alice = old.authenticate(&stranger(), Some(&Credentials::Token(token))).await.unwrap();
        let narrower = ROLES.replace("subscribe.allow", "request.allow");
        let renewed = policy(&format!("{}{narrower}", issuer(&key, "\"reader\""))).renew(&alice).unwrap();
        assert_eq!((rights(&renewed).as_str(), renewed.expires), ("request", alice.expires));
        for text in [
            ROLES.to_owned(),
            format!("{}{ROLES}", issuer(&other, "\"reader\"")),
            format!("{}{ROLES}", issuer(&key, "\"writer\"")),
            format!("{}{ROLES}", issuer(&key, "\"reader\"").replace("\"bus\"", "\"shop\"")),
        ] {
            assert!(matches!(policy(&text).renew(&alice), Err(BusError::Denied { .. })), "{text}");
        }
    }

    #[tokio::test]
    async fn a_session_whose_token_names_no_roles_follows_those_that_its_issuer_gives_by_default() {
        let key = SigningKey::generate(TokenAlgorithm::EdDSA).unwrap();
        let issuer = issuer(&key, "\"reader\", \"writer\"");
        let old = policy(&format!("{issuer}default_roles = [\"reader\", \"writer\"]\n{ROLES}"));
        let token = TokenIssuer::new(key, "login", "bus")
            .and_then(|issuer| issuer.issue("alice", &[], Duration::from_secs(60)))
            .unwrap();
        let alice = old.authenticate(&stranger(), Some(&Credentials::Token(token))).await.unwrap();
        assert_eq!(rights(&alice), "publish subscribe");
        let narrower = policy(&format!("{issuer}default_roles = [\"reader\"]\n{ROLES}"));
        let narrowed = narrower.renew(&alice).unwrap();
        assert_eq!(rights(&narrowed), "subscribe");
        assert_eq!(rights(&old.renew(&narrowed).unwrap()), "publish subscribe");
    }

    #[tokio::test]
    async fn a_session_whose_token_has_expired_is_not_renewed() {
        let key = SigningKey::generate(TokenAlgorithm::EdDSA).unwrap();
        let policy = policy(&format!("{}{ROLES}", issuer(&key, "")));
        let token = TokenIssuer::new(key, "login", "bus")
            .and_then(|issuer| issuer.issue("alice", &[], Duration::from_secs(60)))
            .unwrap();
        let mut alice = policy.authenticate(&stranger(), Some(&Credentials::Token(token))).await.unwrap();
        assert!(policy.renew(&alice).is_ok());
        alice.expires = Some(std::time::SystemTime::now());
        assert!(alice.has_expired(std::time::SystemTime::now()));
        assert!(matches!(policy.renew(&alice), Err(BusError::Denied { .. })));
    }

    #[test]
    fn users_and_issuers_that_cannot_be_meant_are_refused_by_their_name_without_their_secrets() {
        let key = SigningKey::generate(TokenAlgorithm::EdDSA).unwrap();
        let hash = hashed(PASSWORD);
        for (text, named) in [
            (user("alice", "plaintext", ""), "user \"alice\""),
            (user("alice", &hash.replace("m=19456", "m=999999999"), ""), "too much"),
            (user("alice", &hash, "\"x\""), "role \"x\""),
            (user("alice", &hash, "").repeat(2), "twice"),
            (issuer(&key, "\"x\""), "issuer \"login\" has the role \"x\""),
            (issuer(&key, "").replace("key = '''", "other = '''"), "no key"),
            (format!("{}key_file = \"x\"", issuer(&key, "")), "both"),
            (issuer(&key, "").replace("EdDSA", "HS256"), "PEM"),
        ] {
            let Ok(settings) = toml::from_str::<AuthSettings>(&text) else {
                assert_eq!(named, "no key");
                continue;
            };
            let fault = Policy::new(&settings).unwrap_err().to_string();
            assert!(fault.contains(named), "{text}: {fault}");
            assert!(!fault.contains("plaintext") && !fault.contains(&hash), "{fault}");
        }
    }

    #[test]
    fn a_text_has_everything_under_auth_and_its_mistakes_are_told_with_their_line() {
        let text = "[auth]\nanonymous = [\"guest\"]\n[auth.roles.guest]\nsubscribe.allow = [\"news/*\"]\n";
        let settings = AuthSettings::from_toml(text).unwrap();
        assert_eq!((settings.anonymous, settings.roles.len()), (vec!["guest".to_owned()], 1));
        assert!(AuthSettings::from_toml("").unwrap().roles.is_empty());
        for (mistake, told) in [
            ("[auth]\nanonymus = []", "line 2: unknown field `anonymus`"),
            ("\n[roles.guest]", "line 2: unknown field `roles`"),
            ("[auth.roles.guest]\n\nsubscribe.allow = [\"news//*\"]", "line 3: "),
            ("[auth.roles.guest\n", "line 1: "),
            ("[[auth.users]]\nname = \"alice\"\npassword = 1357911", "line 3: expected a text"),
            ("[[auth.users]]\nname = \"alice\"\npassword = \"1357911", "line 3: "),
            ("[[auth.users]]\nname = \"alice\"\npassword = [\"1357911\"]", "line 3: expected a text"),
        ] {
            let error = AuthSettings::from_toml(mistake).unwrap_err().to_string();
            assert!(error.starts_with(told) && !error.contains("1357911"), "{error}");
        }
        assert!(matches!(
            Policy::from_toml("[auth]\nanonymous = [\"x\"]"),
            Err(BusError::InvalidSettings(_))
        ));
    }

    #[test]
    fn settings_may_be_a_part_of_a_larger_document_and_keep_their_places_in_it() {
        let part_of = |text: &str| {
            let document = toml::de::DeTable::parse(text).unwrap();
            let (_, auth) = document.get_ref().iter().find(|(key, _)| key.get_ref() == "auth").unwrap();
            let part = toml::de::ValueDeserializer::from(auth.clone());
            <AuthSettings as serde::Deserialize>::deserialize(part).map_err(|error| error.span())
        };
        let text = "listen = [\"unix:my_bus\"]\n[auth.roles.guest]\npublish.allow = [\"a\"]\n";
        assert!(part_of(text).unwrap().roles.contains_key("guest"));
        let mistake = part_of(&text.replace("publish", "publsh")).unwrap_err().unwrap();
        assert_eq!(mistake.start, text.find("publish").unwrap());
    }

    #[test]
    fn a_file_is_named_in_its_mistakes_and_its_paths_begin_where_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("auth.toml");
        let key = SigningKey::generate(TokenAlgorithm::EdDSA).unwrap();
        std::fs::write(folder.path().join("login.pub"), key.public_text().unwrap()).unwrap();
        let issuer = "[[auth.issuers]]\nissuer = \"i\"\naudience = \"a\"\nalgorithm = \"EdDSA\"\n";
        std::fs::write(&path, format!("{issuer}key_file = \"login.pub\"")).unwrap();
        assert!(Policy::new(&AuthSettings::read(&path).unwrap()).is_ok());
        std::fs::write(&path, format!("{issuer}file = \"login.pub\"")).unwrap();
        let error = AuthSettings::read(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}:5: unknown field `file`", path.display())), "{error}");
        std::fs::write(&path, " ".repeat(limits::AUTH_FILE_BYTES + 1)).unwrap();
        let large = AuthSettings::read(&path).unwrap_err().to_string();
        let absent = AuthSettings::read(&folder.path().join("absent")).unwrap_err().to_string();
        assert!(large.contains("more than") && absent.contains("No such file"), "{large} {absent}");
    }

    #[cfg(unix)]
    #[test]
    fn it_is_noticed_when_everybody_can_read_secrets() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("login.key");
        std::fs::write(&path, "key").unwrap();
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(file::read_text(&path, 3).unwrap().open_to_all, open, "{mode:o}");
        }
        let key = SigningKey::generate(TokenAlgorithm::EdDSA).unwrap();
        for (text, secret) in [
            (user("alice", "$hash$", ""), true),
            (issuer(&key, ""), false),
            (issuer(&key, "").replace("EdDSA", "HS256"), true),
            (ROLES.to_owned(), false),
        ] {
            assert_eq!(toml::from_str::<AuthSettings>(&text).unwrap().has_secrets(), secret, "{text}");
        }
    }

    #[test]
    fn the_key_of_an_issuer_may_lie_in_a_file() {
        let key = SigningKey::generate(TokenAlgorithm::EdDSA).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let settings = |file: &str| {
            let text =
                "[[issuers]]\nissuer = \"i\"\naudience = \"a\"\nalgorithm = \"EdDSA\"\nkey_file = \"FILE\"";
            let mut settings: AuthSettings = toml::from_str(&text.replace("FILE", file)).unwrap();
            settings.resolve(folder.path());
            settings
        };
        std::fs::write(folder.path().join("login.pub"), key.public_text().unwrap()).unwrap();
        assert!(Policy::new(&settings("login.pub")).is_ok());
        std::fs::write(folder.path().join("large"), vec![b'A'; limits::KEY_FILE_BYTES + 1]).unwrap();
        std::fs::write(folder.path().join("binary"), [0xff]).unwrap();
        for (file, why) in
            [("large", "more than 16384 bytes"), ("binary", "not text"), ("absent", "No such file")]
        {
            let error = Policy::new(&settings(file)).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(file), "{error}");
        }
    }
}
