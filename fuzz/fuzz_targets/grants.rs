//! Whatever comes instead of a grant is refused and changes nothing, and so does a grant in which anything was changed.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use whispeer::engine::encryption::{GrantOptions, Identity, Key, Keyring};

/// A member, the keyring in which he has pinned the granter, and a grant for him.
static SCENE: LazyLock<(Identity, Keyring, Vec<u8>)> = LazyLock::new(|| {
    let granter = Identity::from_bytes(&[1; 32], &[2; 32]).expect("an identity");
    let member = Identity::from_bytes(&[3; 32], &[4; 32]).expect("an identity");
    let granting = Keyring::new();
    granting.rotate_for("a/**", Key::from_bytes([7; 32])).expect("a new keyring");
    let options = GrantOptions::new().topics("a/**");
    let grant = granting.grant(&granter, &[*member.public()], &options).expect("a first grant");
    let keyring = Keyring::new();
    keyring.pin(None, granter.public()).expect("a first pin");
    (member, keyring, grant)
});

fuzz_target!(|input: (u16, u16, Vec<u8>)| {
    let (member, keyring, grant) = &*SCENE;
    let (kept, changed, bytes) = input;
    let before = keyring.to_toml();

    // Behind the beginning of a grant, so that the rest of the layout is reached.
    let kept = usize::from(kept) % grant.len();
    for arrived in [bytes.clone(), [&grant[..kept], &bytes].concat()] {
        if arrived != *grant {
            let refused = keyring.accept(member, &arrived).expect_err("nobody has signed it");
            assert!(!refused.to_string().is_empty());
        }
    }
    let mut arrived = grant.clone();
    let bit = usize::from(changed) % (8 * grant.len());
    arrived[bit / 8] ^= 1 << (bit % 8);
    keyring.accept(member, &arrived).expect_err("it was changed");
    assert_eq!(*keyring.to_toml(), *before);

    let other = Keyring::from_toml(&before).expect("as it was written");
    assert!(other.accept(member, grant).expect("nothing was changed").is_new);
});
