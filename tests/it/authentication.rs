//! `docs/AUTHENTICATION.md` says what is the case.

use std::fs;
use std::path::Path;
use std::time::Duration;

use whispeer::auth::{
    Action, AuthSettings, Credentials, Identity, Permissions, Policy, Principal, Rule, Secret, SigningKey,
    TokenAlgorithm, TokenIssuer, hash_password,
};
use whispeer::{TopicPattern, limits};

const PASSWORD: &str = "correct horse";

/// What stands in the document for the hash of a password.
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$...";

fn document() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/AUTHENTICATION.md")).unwrap()
}

/// The policy of the document, with a password for alice, and the key of its issuer.
fn policy() -> (Policy, SigningKey) {
    let document = document();
    let (_, after) = document.split_once("```toml\n").unwrap();
    let (text, _) = after.split_once("```").unwrap();
    assert!(text.contains(HASH));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("whispeer.toml");
    fs::write(&file, text.replace(HASH, &hash_password(&Secret::new(PASSWORD)).unwrap())).unwrap();
    let key = SigningKey::generate(TokenAlgorithm::EdDSA).unwrap();
    fs::write(folder.path().join("login.pub"), key.public_text().unwrap()).unwrap();
    (Policy::new(&AuthSettings::read(&file).unwrap()).unwrap(), key)
}

fn pattern(text: &str) -> TopicPattern {
    TopicPattern::new(text).unwrap()
}

fn may(identity: &Identity, action: Action, text: &str) -> bool {
    identity.permissions.allows(action, &pattern(text)).is_ok()
}

#[tokio::test]
async fn everybody_in_the_documented_policy_has_the_rights_and_the_name_that_are_documented() {
    let (policy, key) = policy();
    let policy = policy.own_uid(Some(1000));
    let document = document();
    let named = |identity: &Identity| {
        let name = identity.principal.to_string();
        assert!(name == "local" || document.contains(&format!("`{name}`")), "{name}");
    };
    let stranger = Principal::Network { address: "192.0.2.7:50112".parse().unwrap() };
    assert!(document.contains(&format!("`{stranger}`")));
    assert!(policy.authenticate(&stranger, None).await.is_err());

    let credentials = Credentials::password("alice", PASSWORD);
    let alice = policy.authenticate(&stranger, Some(&credentials)).await.unwrap();
    named(&alice);
    assert!(may(&alice, Action::Request, "sensors/kitchen/calibrate"));
    assert!(may(&alice, Action::Subscribe, "news"));
    assert!(!may(&alice, Action::Subscribe, "**"), "what the reader denies, the engineer does not allow");
    assert!(!may(&alice, Action::Subscribe, "sensors/kitchen/raw"));

    let kitchen = Principal::Certificate { name: "kitchen".into() };
    let kitchen = policy.authenticate(&kitchen, None).await.unwrap();
    named(&kitchen);
    assert!(may(&kitchen, Action::Publish, "sensors/kitchen/temperature"));
    assert!(may(&kitchen, Action::Serve, "sensors/kitchen/calibrate"));
    assert!(!may(&kitchen, Action::Subscribe, "alarms/fire"));

    let unix = |uid| Principal::Unix { uid, gid: 100, pid: Some(4242) };
    let reader = policy.authenticate(&unix(1001), None).await.unwrap();
    named(&reader);
    assert!(may(&reader, Action::Subscribe, "alarms/fire") && !reader.permissions.administer);
    let own = policy.authenticate(&unix(1000), None).await.unwrap();
    assert!(own.permissions.administer && may(&own, Action::Request, "$bus/stats"));
    assert!(policy.authenticate(&unix(1002), None).await.is_err());
    named(&policy.authenticate(&Principal::Local, None).await.unwrap());

    let issuer = TokenIssuer::new(key, "https://login.example", "my_bus").unwrap();
    let lifetime = Duration::from_secs(60);
    let token = issuer.issue("alice", &["sensor".into()], lifetime).unwrap();
    let sensor = policy.authenticate(&stranger, Some(&Credentials::Token(token))).await.unwrap();
    named(&sensor);
    assert!(may(&sensor, Action::Publish, "sensors/**") && !may(&sensor, Action::Subscribe, "alarms/fire"));
    let token = issuer.issue("alice", &[], lifetime).unwrap();
    let by_default = policy.authenticate(&stranger, Some(&Credentials::Token(token))).await.unwrap();
    assert!(may(&by_default, Action::Subscribe, "alarms/fire"));
    let token = issuer.issue("alice", &["operator".into()], lifetime).unwrap();
    assert!(policy.authenticate(&stranger, Some(&Credentials::Token(token))).await.is_err());
}

#[test]
fn what_is_allowed_is_as_the_table_says() {
    let document = document();
    let (_, table) = document.split_once("| allow | deny | tried | allowed |\n").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let patterns = |cell: &str| -> Vec<_> { cell.split('`').skip(1).step_by(2).map(pattern).collect() };
    let rows: Vec<_> = table.lines().skip(1).collect();
    assert_eq!(rows.len(), 14);
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [allow, deny, tried, allowed] = cells[..] else { panic!("{row}") };
        let rule = Rule { allow: patterns(allow), deny: patterns(deny) };
        let permissions = Permissions { subscribe: rule, ..Permissions::default() };
        let tried = patterns(tried).remove(0);
        assert_eq!(permissions.allows(Action::Subscribe, &tried).is_ok(), allowed == "yes", "{row}");
    }
}

#[test]
fn the_limits_are_those_that_are_documented() {
    // A line may break anywhere.
    let document = document().split_whitespace().collect::<Vec<_>>().join(" ");
    for text in [
        format!("At most {} patterns", limits::PERMISSION_PATTERNS),
        format!("at most {} roles", limits::ROLES_PER_PRINCIPAL),
        format!("of {} KiB at most", limits::TOKEN_BYTES / 1024),
        format!("up to {} bytes without control characters", limits::PRINCIPAL_NAME_BYTES),
        format!("differ by {} seconds", limits::TOKEN_LEEWAY.as_secs()),
        format!("and {} seconds for clocks", limits::TOKEN_LEEWAY.as_secs()),
        format!("{} bytes at least, in base64", limits::TOKEN_SECRET_BYTES_MIN),
        format!(
            "with {} MiB, {} passes and {} lane,",
            limits::PASSWORD_MEMORY_KIB / 1024,
            limits::PASSWORD_PASSES,
            limits::PASSWORD_LANES
        ),
        format!(
            "up to {} MiB, {} passes and {} lanes",
            limits::PASSWORD_MEMORY_KIB_MAX / 1024,
            limits::PASSWORD_PASSES_MAX,
            limits::PASSWORD_LANES_MAX
        ),
        format!("has {} characters at least", limits::PASSWORD_CHARACTERS_MIN),
    ] {
        assert!(document.contains(&text), "{text}");
    }
    assert!(document.contains("1,024 bytes at most") && limits::PASSWORD_BYTES == 1024);
    assert!(document.contains("Four run at once") && limits::PASSWORD_CHECKS == 4);
    assert!(document.contains("longer than two seconds") && limits::PASSWORD_WAIT == Duration::from_secs(2));
}
