//! Keyrings as TOML: whatever the text, it is refused without repeating a secret, or it is a keyring that is the same
//! when it is written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use whispeer::engine::encryption::{KeyId, Keyring};

/// What stands in most keyrings, so that the fuzzer need not find it out.
const KEY: &str = "6e28c1a5b1a7f7d1e3c04bcd0d6b1e6be7a03b3fbaf24c53bb6f1f1e6d8a9f20";

fuzz_target!(|text: &str| {
    // A short word stands for a key.
    let text = text.replace("KEY", KEY);
    match Keyring::from_toml(&text) {
        Ok(keyring) => {
            let written = keyring.to_toml();
            let again = Keyring::from_toml(&written).expect("what was written can be read");
            assert_eq!(again.keys(), keyring.keys());
            assert_eq!(again.retired(), keyring.retired());
            assert_eq!(again.to_toml(), written);
            assert!(!format!("{keyring:?}").contains(KEY));
        }
        Err(error) => assert!(!error.to_string().contains(KEY), "{error}"),
    }
    if let Ok(id) = text.parse::<KeyId>() {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
    }
});
