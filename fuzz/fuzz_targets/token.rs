//! A token from a stranger: whatever it says, it is refused, by issuers of either algorithm.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use whispeer::auth::{IssuerSettings, SigningKey, TokenAlgorithm, TokenVerifier};

/// Issuers whose keys nobody has kept.
static VERIFIER: LazyLock<TokenVerifier> = LazyLock::new(|| {
    let issuer = |name: &str, algorithm| {
        let key = SigningKey::generate(algorithm).expect("a new key");
        IssuerSettings {
            issuer: name.into(),
            audience: "a".into(),
            algorithm,
            key: Some(key.public_text().map_or_else(|| key.to_text(), Into::into)),
            key_file: None,
            roles: vec!["r".into()],
            default_roles: vec![],
        }
    };
    TokenVerifier::new(&[issuer("e", TokenAlgorithm::EdDSA), issuer("h", TokenAlgorithm::HS256)])
        .expect("two issuers")
});

fuzz_target!(|text: &str| {
    let refused = VERIFIER.verify(text).expect_err("nobody can sign");
    let _ = refused.to_string();
});
