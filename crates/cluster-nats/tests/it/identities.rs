//! Who a bus is at NATS, and whom it talks to.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use std::path::PathBuf;

use tempfile::TempDir;
use whispeer_cluster_nats::{Connection, LinkState, NatsSettings};
use whispeer_testkit::certificates::Certificates;
use whispeer_testkit::nats;

use crate::links::becomes;
use crate::written::Written;

async fn is_let_in(settings: NatsSettings) {
    let connection = Connection::open(&settings).await.unwrap();
    becomes(&connection, LinkState::is_connected).await;
    connection.close().await;
}

/// Gives what is said of it, once.
async fn is_refused(settings: NatsSettings, because: &'static str) -> String {
    let (written, _guard) = Written::begin();
    let connection = Connection::open(&settings).await.unwrap();
    becomes(&connection, |state| state.error().is_some_and(|error| error.contains(because))).await;
    // It is tried again without another word.
    let mut state = connection.state();
    state.mark_unchanged();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let warnings = written.lines("WARN");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(!connection.state().borrow().is_connected());
    warnings[0].clone()
}

fn written_to(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn a_user_and_a_token_stand_in_the_url() {
    if !nats::available() {
        return;
    }
    for version in nats::versions() {
        let server =
            version.clone().config("authorization { user: \"a bus\", password: \"p@ss\" }").start().await;
        is_let_in(NatsSettings::new(&server.url_with("nats", "a%20bus:p%40ss@")).unwrap()).await;
        for who in ["a%20bus:other@", ""] {
            let said =
                is_refused(NatsSettings::new(&server.url_with("nats", who)).unwrap(), "authorization").await;
            assert!(said.contains("check the user") && !said.contains("other"), "{said}");
        }
        let server = version.config("authorization { token: \"s3cret\" }").start().await;
        is_let_in(NatsSettings::new(&server.url_with("nats", "s3cret@")).unwrap()).await;
        is_refused(NatsSettings::new(&server.url_with("nats", "guessed@")).unwrap(), "authorization").await;
    }
}

#[tokio::test]
async fn an_nkey_is_read_from_its_file() {
    if !nats::available() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let (known, unknown) = (KeyPair::new_user(), KeyPair::new_user());
    for version in nats::versions() {
        let server =
            version.config(format!("authorization {{ users: [ {{ nkey: {} }} ] }}", known.public_key()));
        let server = server.start().await;
        let settings = |name: &str, key: &KeyPair| {
            let path = written_to(&folder, name, &format!("# of a bus\n{}\n", key.seed().unwrap()));
            NatsSettings::new(&server.url()).unwrap().nkey_file(path)
        };
        is_let_in(settings("known.nk", &known)).await;
        is_refused(settings("unknown.nk", &unknown), "authorization").await;
    }
}

#[tokio::test]
async fn credentials_are_read_from_their_file() {
    if !nats::available() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let operator_token = signed(&operator, &operator, "house", json!({"type": "operator", "version": 2}));
    let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1});
    let account_token =
        signed(&operator, &account, "buses", json!({"type": "account", "version": 2, "limits": limits}));
    let config = format!(
        "operator: {operator_token}\nresolver: MEMORY\nresolver_preload: {{ {}: {account_token} }}",
        account.public_key()
    );
    for version in nats::versions() {
        let server = version.config(&config).start().await;
        let settings = |name: &str, issuer: &KeyPair| {
            let user = KeyPair::new_user();
            let rights = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
            let token = signed(issuer, &user, "bus", rights);
            let seed = user.seed().unwrap();
            let text = format!(
                "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
                 -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
            );
            NatsSettings::new(&server.url()).unwrap().credentials_file(written_to(&folder, name, &text))
        };
        is_let_in(settings("known.creds", &account)).await;
        is_refused(settings("unknown.creds", &KeyPair::new_account()), "authorization").await;
    }
}

/// A token as NATS has them, about `subject`.
fn signed(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: Value) -> String {
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let claims = json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name, "sub": subject.public_key(), "nats": nats,
    });
    let text = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}

#[tokio::test]
async fn a_server_is_trusted_by_its_ca_and_name_and_may_ask_for_a_certificate() {
    if !nats::available() {
        return;
    }
    let files = Certificates::new().files();
    let tls = |identity: &whispeer_testkit::certificates::IdentityFiles, more: &str| {
        let (certificate, key) = (identity.certificate.display(), identity.key.display());
        format!("tls {{ cert_file: \"{certificate}\", key_file: \"{key}\" {more} }}")
    };
    for version in nats::versions() {
        let server = version.clone().config(tls(&files.server, "")).start().await;
        for scheme in ["tls", "nats"] {
            let settings = NatsSettings::new(&server.url_with(scheme, "")).unwrap();
            is_let_in(settings.clone().ca_file(&files.authority)).await;
            let said = is_refused(settings.ca_file(&files.stranger), "UnknownIssuer").await;
            assert!(said.contains("check that both speak TLS"), "{said}");
        }
        let elsewhere = version.clone().config(tls(&files.elsewhere_server, "")).start().await;
        let settings = NatsSettings::new(&elsewhere.url_with("tls", "")).unwrap().ca_file(&files.authority);
        is_refused(settings, "certificate").await;

        let asks = format!(", ca_file: \"{}\", verify: true", files.authority.display());
        let server = version.clone().config(tls(&files.server, &asks)).start().await;
        let settings = NatsSettings::new(&server.url_with("tls", "")).unwrap().ca_file(&files.authority);
        is_let_in(settings.clone().identity_files(&files.client.certificate, &files.client.key)).await;
        is_refused(settings.clone(), "").await;
        is_refused(settings.identity_files(&files.strange_client.certificate, &files.strange_client.key), "")
            .await;

        // Who asks for TLS is not put off with less.
        let plain = version.start().await;
        is_refused(NatsSettings::new(&plain.url()).unwrap().ca_file(&files.authority), "").await;
        is_refused(NatsSettings::new(&plain.url_with("tls", "")).unwrap().ca_file(&files.authority), "")
            .await;
    }
}
