//! Keyrings, and what engines make of them while they change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::engine::encryption::{KeyEntry, KeyId};
use crate::error::BusError;
use crate::limits;

fn key(number: u8) -> Key {
    Key::from_bytes([number; 32])
}

fn name(number: u8) -> String {
    key(number).id().to_string()
}

/// Which key something is sealed with.
fn sealed_with(engine: &Encryption, topic: &str) -> Result<Vec<u8>, EngineError> {
    seal(engine, &published(topic), b"").map(|(sealed, _)| sealed[1..9].to_vec())
}

#[test]
fn a_new_key_encrypts_at_once_and_the_old_one_opens_until_it_is_retired() {
    let keyring = keyring();
    let engine = Encryption::new(&keyring).unwrap();
    let context = published(TOPIC);
    let (old, _) = seal(&engine, &context, b"old").unwrap();
    keyring.rotate(key(8)).unwrap();
    assert_eq!(sealed_with(&engine, TOPIC).unwrap(), key(8).id().to_bytes());
    let mut memory = Memory::default();
    assert!(open_with(&engine, &context, &mut memory, &old).is_ok());
    // What has been opened with a key before is no exception.
    let (old, _) = seal(&Encryption::new(&super::keyring()).unwrap(), &context, b"old").unwrap();
    keyring.retire(key(7).id()).unwrap();
    let refused = open_with(&engine, &context, &mut memory, &old);
    assert_eq!(refused, Err(EngineError::RetiredKey { key: name(7) }));
    let stranger = Encryption::new(&Keyring::with(key(9)).unwrap()).unwrap();
    let (strange, _) = seal(&stranger, &context, b"").unwrap();
    assert_eq!(open(&engine, &context, &strange), Err(EngineError::UnknownKey { key: name(9) }));
}

#[test]
fn a_key_that_is_added_opens_and_does_not_encrypt() {
    let keyring = Keyring::new();
    let engine = Encryption::new(&keyring).unwrap();
    assert_eq!(sealed_with(&engine, TOPIC), Err(EngineError::NoKey));
    keyring.add(key(7)).unwrap();
    assert_eq!(sealed_with(&engine, TOPIC), Err(EngineError::NoKey));
    let (sealed, _) = seal(&super::engine(), &published(TOPIC), b"").unwrap();
    assert!(open(&engine, &published(TOPIC), &sealed).is_ok());
    keyring.rotate(key(7)).unwrap();
    assert_eq!(sealed_with(&engine, TOPIC).unwrap(), key(7).id().to_bytes());
}

#[test]
fn a_key_is_for_the_topics_of_its_pattern() {
    let keyring = keyring();
    keyring.rotate_for("a/**", key(1)).unwrap();
    keyring.rotate_for("a/b/**", key(2)).unwrap();
    let engine = Encryption::new(&keyring).unwrap();
    for (topic, number) in
        [("c", 7), ("a", 1), ("a/c", 1), ("a/b", 2), ("a/b/*", 2), ("a/c/**", 1), ("c/**", 7)]
    {
        // Twice, as topics are remembered.
        for _ in 0..2 {
            assert_eq!(sealed_with(&engine, topic).unwrap(), key(number).id().to_bytes(), "{topic}");
        }
    }
    for (topic, narrower) in [("a/**", "a/b/**"), ("**", "a/b/**"), ("*/b", "a/b/**")] {
        let narrower = narrower.to_owned();
        assert_eq!(sealed_with(&engine, topic), Err(EngineError::SeveralKeys { narrower }), "{topic}");
    }
    // Whoever has just one of these keys does not get in elsewhere.
    for (topic, number) in [("c", 1), ("a", 7), ("a/b", 1), ("a/c", 2), ("a/**", 1), ("**", 7)] {
        let other = Encryption::new(&Keyring::with(key(number)).unwrap()).unwrap();
        let (sealed, _) = seal(&other, &published(topic), b"").unwrap();
        let refused = open(&engine, &published(topic), &sealed);
        assert_eq!(refused, Err(EngineError::KeyOutOfScope { key: name(number) }), "{topic}");
    }
}

#[test]
fn topics_whose_key_is_retired_fall_back_to_no_other() {
    let keyring = keyring();
    keyring.rotate_for("a/**", key(1)).unwrap();
    keyring.retire(key(1).id()).unwrap();
    let again = Keyring::from_toml(&keyring.to_toml()).unwrap();
    for keyring in [&keyring, &again] {
        assert_eq!(sealed_with(&Encryption::new(keyring).unwrap(), TOPIC), Err(EngineError::NoKey));
        assert!(matches!(keyring.rotate_for("a/**", key(1)), Err(BusError::InvalidSettings(_))));
    }
}

/// Keys in the order in which they come.
fn place(id: [u8; KeyId::LEN]) -> Option<usize> {
    [7].into_iter().chain(100..140).position(|number| key(number).id().to_bytes() == id)
}

/// Ends other threads also where this one fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn keys_change_while_threads_seal_and_open() {
    let keyring = keyring();
    let engine = Encryption::new(&keyring).unwrap();
    let is_done = AtomicBool::new(false);
    let work = || {
        let mut memory = Memory::default();
        let mut newest = Some(0);
        while !is_done.load(Ordering::Relaxed) {
            let before = keyring.keys().into_iter().find(|entry| entry.is_sending).unwrap().id;
            let (sealed, _) = seal(&engine, &published(TOPIC), b"text").unwrap();
            let used = place(sealed[1..9].try_into().unwrap());
            let least = place(before.to_bytes()).max(newest);
            assert!(used >= least, "{used:?} is older than {least:?}");
            newest = used;
            match open_with(&engine, &published(TOPIC), &mut memory, &sealed) {
                Ok((content, _)) => assert_eq!(content, b"text"),
                Err(error) => assert!(matches!(error, EngineError::RetiredKey { .. }), "{error}"),
            }
        }
    };
    thread::scope(|scope| {
        let done = Done(&is_done);
        let workers: Vec<_> = (0..3).map(|_| scope.spawn(work)).collect();
        let mut old = key(7).id();
        for number in 100..140 {
            let new = keyring.rotate(key(number)).unwrap();
            thread::yield_now();
            keyring.retire(old).unwrap();
            old = new;
        }
        drop(done);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
    assert_eq!(keyring.keys().len(), 1);
    assert_eq!(sealed_with(&engine, TOPIC).unwrap(), key(139).id().to_bytes());
}

#[test]
fn a_keyring_reads_again_as_it_was_written() {
    let keyring = keyring();
    keyring.rotate_for("a/\"quoted\\\"/**", key(1)).unwrap();
    keyring.rotate_for("a/\"quoted\\\"/**", key(2)).unwrap();
    keyring.add_for("b/*", key(3)).unwrap();
    keyring.add(key(4)).unwrap();
    keyring.retire(key(4).id()).unwrap();
    let text = keyring.to_toml();
    let again = Keyring::from_toml(&text).unwrap();
    assert_eq!((again.keys(), again.retired()), (keyring.keys(), keyring.retired()));
    assert_eq!(*again.to_toml(), *text);
    let sending = |entry: &KeyEntry| (entry.id, entry.is_sending);
    assert_eq!(again.keys().iter().map(sending).filter(|(_, sends)| *sends).count(), 2);
    assert!(!format!("{again:?}").contains("0101"), "{again:?}");
}

#[test]
fn what_is_wrong_in_a_keyring_is_told_without_its_secrets() {
    let secret = "0123456789abcdef".repeat(4);
    for (text, reason) in [
        (format!("[[keys]]\nuse = \"send\"\nkey = \"{secret}0\""), "line 3: expected 64 hexadecimal digits"),
        (format!("[[keys]]\nuse = \"send\"\nkey = [\"{secret}\"]"), "line 3: expected 64 hexadecimal digits"),
        (format!("[[keys]]\nuse = \"send\"\nkey = \"{secret}"), "line 3"),
        (format!("[[keys]]\nkey = \"{secret}\""), "missing field `use`"),
        (format!("[[keys]]\nuse = \"both\"\nkey = \"{secret}\""), "line 2"),
        (
            format!("[[keys]]\nid = \"0000000000000000\"\nuse = \"send\"\nkey = \"{secret}\""),
            "said to be another",
        ),
        (format!("[[keys]]\nuse = \"send\"\nkey = \"{secret}\"\n").repeat(2), "is there twice"),
        (format!("[[keys]]\ntopics = \"a//b\"\nuse = \"send\"\nkey = \"{secret}\""), "a//b"),
        (format!("[[keys]]\ntopics = \"$bus/**\"\nuse = \"send\"\nkey = \"{secret}\""), "never encrypted"),
        ("unknown = 1".to_owned(), "unknown field"),
        ("#".repeat(limits::KEYRING_BYTES + 1), "bytes"),
        (
            format!(
                "[[keys]]\nuse = \"send\"\nkey = \"{secret}\"\n[[keys]]\nuse = \"send\"\nkey = \"{}\"",
                "00".repeat(32)
            ),
            "second to send with",
        ),
    ] {
        let refused = Keyring::from_toml(&text).unwrap_err().to_string();
        assert!(refused.contains(reason), "{refused} should say: {reason}");
        assert!(!refused.contains("0123456789abcdef"), "{refused}");
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_others_can_read_is_refused() {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    fs::write(&path, keyring().to_toml().as_bytes()).unwrap();
    for (mode, is_taken) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let read = Keyring::read(&path);
        assert_eq!(read.is_ok(), is_taken, "{mode:o}: {read:?}");
        if let Err(error) = read {
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }
    assert!(Keyring::read(&folder.path().join("none")).is_err());
    assert!(Keyring::from_variable("WHISPEER_NO_SUCH_VARIABLE").unwrap_err().to_string().contains("not set"));
}

#[test]
fn keyrings_are_bounded() {
    let keyring = Keyring::new();
    let numbered = |number: usize| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
        Key::from_bytes(bytes)
    };
    for number in 0..limits::KEYRING_PATTERNS {
        keyring.add_for(&format!("p/{number}"), numbered(number)).unwrap();
    }
    let further = keyring.add_for("p", numbered(1 << 20));
    assert!(matches!(further, Err(BusError::LimitReached { .. })));
    for number in limits::KEYRING_PATTERNS..limits::KEYRING_KEYS {
        keyring.add(numbered(number)).unwrap();
    }
    assert!(matches!(keyring.add(numbered(1 << 20)), Err(BusError::LimitReached { .. })));
    assert!(keyring.rotate(numbered(limits::KEYRING_KEYS - 1)).is_ok(), "it has that one");
    assert!(matches!(keyring.add_for("p/1", numbered(2)), Err(BusError::InvalidSettings(_))));
    assert!(keyring.retire(numbered(1 << 20).id()).is_err());
    assert!(keyring.to_toml().len() <= limits::KEYRING_BYTES);
    assert!(Keyring::from_toml(&keyring.to_toml()).is_ok());
}

#[test]
fn a_keyring_remembers_the_newest_retired_keys_or_is_refused() {
    let ids = |count: usize| (0..count).map(|number| format!("\"{number:016x}\"")).collect::<Vec<_>>();
    let text = |count: usize| format!("retired = [{}]", ids(count).join(", "));
    let full = Keyring::from_toml(&text(limits::KEYRING_RETIRED)).unwrap();
    assert_eq!(full.retired().len(), limits::KEYRING_RETIRED);
    assert_eq!(
        full.retired().last().unwrap().to_string(),
        *ids(limits::KEYRING_RETIRED).last().unwrap().trim_matches('"')
    );
    let further = Keyring::from_toml(&text(limits::KEYRING_RETIRED + 1));
    assert!(matches!(further, Err(BusError::LimitReached { .. })), "{further:?}");
    full.add(key(1)).unwrap();
    full.retire(key(1).id()).unwrap();
    assert_eq!(full.retired().len(), limits::KEYRING_RETIRED);
    assert_eq!(full.retired().last(), Some(&key(1).id()));
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_of_its_own_user_is_refused_at_once() {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::process::Command;

    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg("-m").arg("600").arg(&pipe).status().unwrap().success());
    for path in [pipe.as_path(), folder.path(), std::path::Path::new("/dev/null")] {
        let refused = Keyring::read(path).unwrap_err().to_string();
        assert!(refused.contains("no regular file"), "{refused}");
    }
    // Only root can give files away.
    let path = folder.path().join("keys.toml");
    fs::write(&path, keyring().to_toml().as_bytes()).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    if chown(&path, Some(12_345), None).is_ok() {
        let refused = Keyring::read(&path).unwrap_err().to_string();
        assert!(refused.contains("belongs to user 12345"), "{refused}");
    }
}
