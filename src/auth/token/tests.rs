//! Tokens as a specification, seen from somebody who would like to get in.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{IssuerSettings, Principal, Secret, TokenAlgorithm, TokenError};
use super::{SigningKey, TokenIssuer, TokenVerifier, keys, provider};
use crate::error::BusError;
use crate::limits;

const LOGIN: &str = "https://login.example";

fn issuer(name: &str, key: &SigningKey) -> IssuerSettings {
    IssuerSettings {
        issuer: name.into(),
        audience: "whispeer".into(),
        algorithm: key.algorithm(),
        key: Some(key.public_text().map_or_else(|| key.to_text(), Secret::new)),
        key_file: None,
        roles: vec!["reader".into(), "writer".into()],
        default_roles: vec!["guest".into()],
    }
}

fn verifier(key: &SigningKey) -> TokenVerifier {
    TokenVerifier::new(&[issuer(LOGIN, key)]).unwrap()
}

fn keys_of_both_algorithms() -> [SigningKey; 2] {
    [TokenAlgorithm::EdDSA, TokenAlgorithm::HS256].map(|algorithm| SigningKey::generate(algorithm).unwrap())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims that are in order, but for these.
fn claims(changes: Value) -> Value {
    let mut claims = json!({ "iss": LOGIN, "aud": "whispeer", "sub": "alice", "exp": now() + 600 });
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

/// A token with any claims, signed well.
fn signed(key: &SigningKey, claims: &Value) -> String {
    provider::install().unwrap();
    jsonwebtoken::encode(&Header::new(keys::algorithm_of(key.algorithm())), claims, &key.encoding_key())
        .unwrap()
}

/// A token of any three parts.
fn assembled(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}.{}", encode(header), encode(claims), URL_SAFE_NO_PAD.encode(signature))
}

fn refusal(key: &SigningKey, token: &str) -> TokenError {
    verifier(key).verify(token).unwrap_err()
}

#[test]
fn a_token_says_whom_it_stands_for_which_roles_and_until_when() {
    for key in keys_of_both_algorithms() {
        let issuer = TokenIssuer::new(key.clone(), LOGIN, "whispeer").unwrap();
        let token = issuer.issue("alice", &["reader".into()], Duration::from_secs(600)).unwrap();
        let verified = verifier(&key).verify(token.reveal()).unwrap();
        let alice = Principal::Token { issuer: LOGIN.into(), subject: "alice".into() };
        assert_eq!((verified.principal, verified.roles), (alice, vec!["reader".to_owned()]));
        let left = verified.expires.duration_since(SystemTime::now()).unwrap();
        let most = Duration::from_secs(600) + limits::TOKEN_LEEWAY;
        assert!(left <= most && left > most - Duration::from_secs(60), "{left:?}");
    }
}

#[test]
fn a_token_that_names_no_roles_has_those_that_its_issuer_gives_by_default() {
    let [key, _] = keys_of_both_algorithms();
    let issuer = TokenIssuer::new(key.clone(), LOGIN, "whispeer").unwrap();
    let token = issuer.issue("alice", &[], Duration::from_secs(60)).unwrap();
    assert_eq!(verifier(&key).verify(token.reveal()).unwrap().roles, ["guest"]);
    let none = signed(&key, &claims(json!({ "roles": [] })));
    assert!(verifier(&key).verify(&none).unwrap().roles.is_empty(), "an empty list narrows to nothing");
}

#[test]
fn a_token_cannot_name_a_role_that_its_issuer_may_not_give() {
    let [key, _] = keys_of_both_algorithms();
    let token = signed(&key, &claims(json!({ "roles": ["reader", "admin"] })));
    assert_eq!(refusal(&key, &token), TokenError::Role { issuer: LOGIN.into() });
    let many = vec!["reader"; limits::ROLES_PER_PRINCIPAL + 1];
    let token = signed(&key, &claims(json!({ "roles": many })));
    assert_eq!(refusal(&key, &token), TokenError::Claim { issuer: LOGIN.into(), claim: "roles" });
}

#[test]
fn a_token_signed_by_another_key_is_refused() {
    for (one, other) in keys_of_both_algorithms().into_iter().zip(keys_of_both_algorithms()) {
        let token = signed(&other, &claims(json!({})));
        assert_eq!(refusal(&one, &token), TokenError::Signature { issuer: LOGIN.into() });
    }
}

#[test]
fn an_issuer_cannot_speak_for_another_one() {
    let (keys, others) = (keys_of_both_algorithms(), keys_of_both_algorithms());
    let verifier = TokenVerifier::new(&[issuer("one", &keys[0]), issuer("two", &others[0])]).unwrap();
    let token = signed(&keys[0], &claims(json!({ "iss": "two" })));
    assert_eq!(verifier.verify(&token).unwrap_err(), TokenError::Signature { issuer: "two".into() });
    let token = signed(&keys[0], &claims(json!({ "iss": "three" })));
    assert_eq!(verifier.verify(&token).unwrap_err(), TokenError::UnknownIssuer);
    let token = signed(&keys[0], &claims(json!({ "iss": ["one", "two"] })));
    assert_eq!(verifier.verify(&token).unwrap_err(), TokenError::Malformed);
}

#[test]
fn a_changed_token_is_refused() {
    for key in keys_of_both_algorithms() {
        let token = signed(&key, &claims(json!({ "roles": ["reader"] })));
        let parts: Vec<_> = token.split('.').collect();
        let forged = URL_SAFE_NO_PAD.encode(claims(json!({ "roles": ["writer"] })).to_string());
        let forged = format!("{}.{forged}.{}", parts[0], parts[2]);
        assert_eq!(refusal(&key, &forged), TokenError::Signature { issuer: LOGIN.into() });
        for cut in ["", &token[..token.len() - 4]] {
            assert!(verifier(&key).verify(cut).is_err());
        }
        let unsigned = format!("{}.{}.", parts[0], parts[1]);
        assert_eq!(refusal(&key, &unsigned), TokenError::Signature { issuer: LOGIN.into() });
    }
}

#[test]
fn a_token_without_a_signature_is_refused_however_it_spells_none() {
    for key in keys_of_both_algorithms() {
        for none in ["none", "None", "NONE", "nOnE", ""] {
            let token = assembled(&json!({ "typ": "JWT", "alg": none }), &claims(json!({})), b"");
            assert_eq!(refusal(&key, &token), TokenError::Malformed, "{none}");
        }
        let token = assembled(&json!({ "typ": "JWT" }), &claims(json!({})), b"");
        assert_eq!(refusal(&key, &token), TokenError::Malformed);
    }
}

#[test]
fn the_public_key_is_no_secret_to_sign_with() {
    let [key, secret] = keys_of_both_algorithms();
    provider::install().unwrap();
    let pem = key.public_text().unwrap();
    let der = STANDARD.decode(pem.lines().nth(1).unwrap()).unwrap();
    for public in [pem.as_bytes(), pem.trim_end().as_bytes(), &der[..], &der[12..]] {
        let forging = EncodingKey::from_secret(public);
        let header = Header::new(Algorithm::HS256);
        let token = jsonwebtoken::encode(&header, &claims(json!({})), &forging).unwrap();
        assert_eq!(refusal(&key, &token), TokenError::Algorithm { issuer: LOGIN.into() });
    }
    let token = signed(&key, &claims(json!({})));
    assert_eq!(refusal(&secret, &token), TokenError::Algorithm { issuer: LOGIN.into() });
}

#[test]
fn the_token_does_not_choose_another_algorithm_of_the_same_family() {
    let [_, secret] = keys_of_both_algorithms();
    for algorithm in ["HS384", "HS512", "RS256", "PS256", "ES256", "HS257"] {
        let token = assembled(&json!({ "alg": algorithm }), &claims(json!({})), &[0; 64]);
        let refused = refusal(&secret, &token);
        let expected = [TokenError::Algorithm { issuer: LOGIN.into() }, TokenError::Malformed];
        assert!(expected.contains(&refused), "{algorithm}: {refused:?}");
    }
}

#[test]
fn a_key_that_the_token_brings_along_is_not_looked_at() {
    let [key, other] = [TokenAlgorithm::EdDSA; 2].map(|algorithm| SigningKey::generate(algorithm).unwrap());
    let der = STANDARD.decode(other.public_text().unwrap().lines().nth(1).unwrap()).unwrap();
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(&der[12..]) });
    let header: Header =
        serde_json::from_value(json!({ "alg": "EdDSA", "jwk": jwk, "kid": "../../dev/null" })).unwrap();
    provider::install().unwrap();
    let token = jsonwebtoken::encode(&header, &claims(json!({})), &other.encoding_key()).unwrap();
    assert_eq!(refusal(&key, &token), TokenError::Signature { issuer: LOGIN.into() });
}

#[test]
fn an_extension_that_has_to_be_understood_is_refused() {
    let [key, _] = keys_of_both_algorithms();
    provider::install().unwrap();
    let mut header = Header::new(Algorithm::EdDSA);
    header.crit = Some(vec!["exp".into()]);
    let token = jsonwebtoken::encode(&header, &claims(json!({})), &key.encoding_key()).unwrap();
    assert_eq!(refusal(&key, &token), TokenError::Extension);
}

#[test]
fn a_token_counts_between_its_beginning_and_its_end_and_a_little_around_them() {
    let [key, _] = keys_of_both_algorithms();
    let leeway = limits::TOKEN_LEEWAY.as_secs_f64();
    let token = signed(&key, &claims(json!({ "nbf": 1_000, "exp": 2_000.5 })));
    let expired = Some(TokenError::Expired { issuer: LOGIN.into() });
    let early = Some(TokenError::NotYetValid { issuer: LOGIN.into() });
    for (now, refused) in [
        (0.0, early.clone()),
        (999.9 - leeway, early),
        (1_000.0 - leeway, None),
        (1_500.0, None),
        (2_000.4 + leeway, None),
        (2_000.5 + leeway, expired.clone()),
        (1e9, expired),
    ] {
        let now = UNIX_EPOCH + Duration::from_secs_f64(now);
        let verified = verifier(&key).verify_at(&token, now);
        if let Ok(verified) = &verified {
            assert_eq!(verified.expires, UNIX_EPOCH + Duration::from_secs_f64(2_000.5 + leeway));
        }
        assert_eq!(verified.err(), refused, "{now:?}");
    }
    let long_ago = UNIX_EPOCH - Duration::from_secs(1_000_000);
    assert!(verifier(&key).verify_at(&token, long_ago).is_err(), "a clock that is wrong is no panic");
    let token = signed(&key, &claims(json!({ "exp": 0 })));
    assert_eq!(refusal(&key, &token), TokenError::Expired { issuer: LOGIN.into() });
}

#[test]
fn a_token_needs_every_claim_in_its_proper_form() {
    let [key, _] = keys_of_both_algorithms();
    let verifier = verifier(&key);
    for (changes, named) in [
        (json!({ "exp": null }), "exp"),
        (json!({ "exp": "tomorrow" }), "exp"),
        (json!({ "exp": 1e300 }), "exp"),
        (json!({ "exp": -1 }), "exp"),
        (json!({ "nbf": "yesterday" }), "nbf"),
        (json!({ "nbf": -1 }), "nbf"),
        (json!({ "aud": null }), "aud"),
        (json!({ "sub": null }), "sub"),
        (json!({ "sub": 7 }), "sub"),
        (json!({ "sub": "" }), "sub"),
        (json!({ "sub": "a\nb" }), "sub"),
        (json!({ "sub": "a".repeat(limits::PRINCIPAL_NAME_BYTES + 1) }), "sub"),
        (json!({ "roles": "reader" }), "roles"),
        (json!({ "roles": [7] }), "roles"),
    ] {
        let token = signed(&key, &claims(changes.clone()));
        match verifier.verify(&token).unwrap_err() {
            TokenError::Claim { claim, .. } => assert!(claim.contains(named), "{changes}: {claim}"),
            other => panic!("{changes}: {other:?}"),
        }
    }
    let without_issuer = signed(&key, &claims(json!({ "iss": null })));
    assert_eq!(verifier.verify(&without_issuer).unwrap_err(), TokenError::Malformed);
}

#[test]
fn a_token_for_another_audience_is_refused() {
    let [key, _] = keys_of_both_algorithms();
    let audience = TokenError::Audience { issuer: LOGIN.into() };
    for aud in [json!("billing"), json!(["billing", "shop"]), json!([]), json!("whispeer ")] {
        let token = signed(&key, &claims(json!({ "aud": aud })));
        assert_eq!(refusal(&key, &token), audience, "{aud}");
    }
    let shared = signed(&key, &claims(json!({ "aud": ["billing", "whispeer"] })));
    assert!(verifier(&key).verify(&shared).is_ok());
}

#[test]
fn a_token_that_is_too_long_is_refused_before_it_is_read() {
    let [key, _] = keys_of_both_algorithms();
    let bytes = limits::TOKEN_BYTES + 1;
    assert_eq!(refusal(&key, &".".repeat(bytes)), TokenError::TooLong { bytes });
    let long = signed(&key, &claims(json!({ "padding": "a".repeat(limits::TOKEN_BYTES) })));
    assert!(matches!(refusal(&key, &long), TokenError::TooLong { .. }));
    let nested = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    let nested = format!("e30.{}.", URL_SAFE_NO_PAD.encode(format!("{{\"iss\":{nested}}}")));
    assert_eq!(refusal(&key, &nested), TokenError::Malformed);
}

#[test]
fn an_error_says_nothing_that_the_token_says_beyond_the_issuer_that_is_known() {
    let [key, other] = [TokenAlgorithm::EdDSA; 2].map(|algorithm| SigningKey::generate(algorithm).unwrap());
    for changes in [
        json!({ "iss": "marker" }),
        json!({ "sub": "marker\n" }),
        json!({ "aud": "marker" }),
        json!({ "exp": "marker" }),
        json!({ "roles": ["marker"] }),
        json!({ "roles": "marker" }),
    ] {
        let token = signed(&key, &claims(changes));
        let text = refusal(&key, &token).to_string();
        assert!(!text.contains("marker") && !text.contains(&token), "{text}");
        assert!(!refusal(&other, &token).to_string().contains("marker"));
    }
}

#[test]
fn a_secret_that_can_be_guessed_is_refused() {
    let short = STANDARD.encode([7; limits::TOKEN_SECRET_BYTES_MIN - 1]);
    let least = STANDARD.encode([7; limits::TOKEN_SECRET_BYTES_MIN]);
    let error = SigningKey::parse(&short).unwrap_err().to_string();
    assert!(error.contains("31 bytes") && !error.contains(&short), "{error}");
    assert!(SigningKey::parse(&least).is_ok());
    let in_lines = format!("{}\n{}\r\n", &least[..20], &least[20..]);
    let in_lines = SigningKey::parse(&in_lines).unwrap();
    assert_eq!(in_lines.to_text().reveal().trim(), least);
    let settings = |key: &str| {
        let [_, any] = keys_of_both_algorithms();
        IssuerSettings { key: Some(Secret::new(key)), ..issuer(LOGIN, &any) }
    };
    assert!(TokenVerifier::new(&[settings(&least)]).is_ok());
    let long = STANDARD.encode([7; limits::TOKEN_SECRET_BYTES_MAX + 1]);
    for key in [&*short, &*long, "", "not base64, but long enough to be a secret!"] {
        let error = TokenVerifier::new(&[settings(key)]).unwrap_err();
        assert!(matches!(&error, BusError::InvalidSettings(text) if text.contains(LOGIN)), "{error}");
    }
}

#[test]
fn a_key_has_to_fit_its_algorithm() {
    let [key, secret] = keys_of_both_algorithms();
    let public = key.public_text().unwrap();
    for (algorithm, text) in [
        (TokenAlgorithm::HS256, &*public),
        (TokenAlgorithm::HS256, key.to_text().reveal()),
        (TokenAlgorithm::EdDSA, key.to_text().reveal()),
        (TokenAlgorithm::EdDSA, secret.to_text().reveal()),
        (TokenAlgorithm::EdDSA, &public.replace('M', "N")),
        (TokenAlgorithm::EdDSA, ""),
    ] {
        let settings = IssuerSettings { algorithm, key: Some(text.into()), ..issuer(LOGIN, &key) };
        let error = TokenVerifier::new(&[settings]).unwrap_err().to_string();
        assert!(error.contains(LOGIN) && !error.contains(text.trim()) || text.is_empty(), "{error}");
    }
    let twice = TokenVerifier::new(&[issuer(LOGIN, &key), issuer(LOGIN, &secret)]).unwrap_err();
    assert!(twice.to_string().contains("twice"), "{twice}");
}

#[test]
fn a_key_is_read_as_it_is_written_and_as_openssl_writes_it() {
    for key in keys_of_both_algorithms() {
        let again = SigningKey::parse(key.to_text().reveal()).unwrap();
        assert_eq!(again.to_text().reveal(), key.to_text().reveal());
        assert!(!format!("{key:?}").contains(key.to_text().reveal().trim()));
    }
    // The example of RFC 8410, sections 10.1 and 10.3.
    let key = SigningKey::parse(
        "-----BEGIN PRIVATE KEY-----\n\
         MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
         -----END PRIVATE KEY-----\n",
    );
    assert_eq!(
        key.unwrap().public_text().unwrap(),
        "-----BEGIN PUBLIC KEY-----\n\
         MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
         -----END PUBLIC KEY-----\n"
    );
    for text in ["-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "-----BEGIN ", "", "%"] {
        assert!(SigningKey::parse(text).is_err(), "{text}");
    }
}

#[test]
fn names_that_cannot_be_shown_or_compared_are_not_signed() {
    let [key, _] = keys_of_both_algorithms();
    assert!(TokenIssuer::new(key.clone(), "", "whispeer").is_err());
    assert!(TokenIssuer::new(key.clone(), LOGIN, "").is_err());
    let issuer = TokenIssuer::new(key, LOGIN, "whispeer").unwrap();
    let minute = Duration::from_secs(60);
    for (subject, roles, lifetime) in [
        ("", vec![], minute),
        ("a\u{7f}", vec![], minute),
        ("alice", vec![String::new()], minute),
        ("alice", vec!["reader".into(); limits::ROLES_PER_PRINCIPAL + 1], minute),
        ("alice", vec![], Duration::from_millis(999)),
        ("alice", vec![], Duration::MAX),
        ("alice", vec!["a".repeat(limits::PRINCIPAL_NAME_BYTES); 12], minute),
    ] {
        let refused = issuer.issue(subject, &roles, lifetime);
        assert!(matches!(refused, Err(BusError::InvalidSettings(_))), "{subject} {refused:?}");
    }
}

#[test]
fn what_the_provider_does_not_know_is_an_error_and_no_panic() {
    provider::install().unwrap();
    provider::install().unwrap();
    let header = Header::new(Algorithm::RS256);
    assert!(jsonwebtoken::encode(&header, &json!({}), &EncodingKey::from_rsa_der(b"")).is_err());
    let header = Header::new(Algorithm::EdDSA);
    assert!(jsonwebtoken::encode(&header, &json!({}), &EncodingKey::from_ed_der(b"")).is_err());
}

/// A process in which somebody asked jsonwebtoken for a provider before there was one has none for ever.
#[test]
fn a_process_without_a_provider_gets_an_error_and_no_panic() {
    const CHILD: &str = "auth::token::tests::in_a_process_that_has_no_provider";
    let child = Command::new(std::env::current_exe().unwrap()).args(["--exact", CHILD, "--ignored"]).output();
    let child = child.unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "it spoils its process; a_process_without_a_provider_gets_an_error_and_no_panic runs it in one of its own"]
fn in_a_process_that_has_no_provider() {
    let key = EncodingKey::from_secret(b"any");
    let asked = std::panic::catch_unwind(|| jsonwebtoken::crypto::sign(b"", &key, Algorithm::HS256));
    assert!(asked.is_err(), "jsonwebtoken needs a provider");
    let key = SigningKey::generate(TokenAlgorithm::HS256).unwrap();
    let refused = TokenVerifier::new(&[issuer(LOGIN, &key)]).unwrap_err().to_string();
    assert!(refused.contains("install"), "{refused}");
    assert!(TokenIssuer::new(key, LOGIN, "whispeer").is_err());
    assert!(TokenVerifier::new(&[]).is_ok(), "a bus without tokens needs no provider");
}

proptest! {
    #[test]
    fn no_text_is_a_token_or_makes_checking_it_panic(
        text in any::<String>(),
        parts in prop::collection::vec("[A-Za-z0-9_-]{0,24}", 0..5),
    ) {
        let [key, _] = keys_of_both_algorithms();
        let verifier = verifier(&key);
        prop_assert!(verifier.verify(&text).is_err());
        prop_assert!(verifier.verify(&parts.join(".")).is_err());
    }
}
