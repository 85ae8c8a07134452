//! The sealed payloads of docs/protocol-vectors.json, which another program has made from docs/PROTOCOL.md: Python, with
//! `cryptography` and others. docs/check_sealed.py checks them both ways as well.
#![cfg(feature = "compression")]

use serde_json::Value;

use super::super::cipher::Cipher;
use super::super::head::{Head, with_associated};
use super::super::trailer;
use super::vectors::bytes;
use super::*;
use crate::engine::compression::{Compression, Dictionary};
use crate::engine::encryption::{Padding, SigningIdentity};
use crate::engine::{Engines, Rules, envelope};

const PADDINGS: [Padding; 3] = [Padding::None, Padding::Padme, Padding::PowersOfTwo];

fn document() -> Value {
    serde_json::from_str(include_str!("../../../../docs/protocol-vectors.json")).unwrap()
}

fn section(name: &str) -> Vec<Value> {
    document()[name].as_array().unwrap().clone()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is no text in {value}"))
}

fn number(value: &Value, key: &str) -> u64 {
    text(value, key).parse().unwrap()
}

fn array<const N: usize>(value: &Value, key: &str) -> [u8; N] {
    bytes(text(value, key)).try_into().unwrap()
}

fn mark(value: &Value) -> Mark {
    Mark { sender: array(value, "sender_hex"), sequence: number(value, "sequence") }
}

fn context(vector: &Value) -> Context<'_> {
    let described = &vector["context"];
    let kind = match text(described, "kind") {
        "publish" => MessageKind::Publish,
        "request" => MessageKind::Request,
        "reply" => MessageKind::Reply,
        "stream_reply" => MessageKind::StreamReply,
        "error_reply" => MessageKind::ErrorReply,
        other => panic!("kind {other}"),
    };
    let mut context = Context::new(text(described, "topic"), kind);
    context.index = number(described, "index");
    context.request = described["request"].is_object().then(|| mark(&described["request"]));
    context.limit = vector["limit"].as_u64().map_or(context.limit, |limit| limit.try_into().unwrap());
    context
}

fn algorithm(layer: &Value) -> Algorithm {
    match text(layer, "algorithm") {
        "XChaCha20-Poly1305" => Algorithm::XChaCha20Poly1305,
        "ChaCha20-Poly1305" => Algorithm::ChaCha20Poly1305,
        "AES-256-GCM" => Algorithm::Aes256Gcm,
        other => panic!("algorithm {other}"),
    }
}

/// What opens all of them.
fn rules(implementation: Implementation, requires_encryption: bool) -> Rules {
    let document = document();
    let keyring = Keyring::new();
    for key in document["sealed_keys_hex"].as_array().unwrap() {
        keyring.rotate(Key::from_bytes(bytes(key.as_str().unwrap()).try_into().unwrap())).unwrap();
    }
    let encryption = Encryption::new(&keyring).unwrap().implementation(implementation);
    let dictionary = Dictionary::from_bytes(&bytes(text(&document, "sealed_dictionary_hex"))).unwrap();
    let engines = Engines::new().with(Compression::none().dictionary(dictionary));
    let engines = if requires_encryption { engines.with(encryption) } else { engines.reading(encryption) };
    engines.checked().unwrap()
}

fn opened(rules: &Rules, vector: &Value) -> Result<(Vec<u8>, Opened), EngineError> {
    let (context, arrived) = (context(vector), bytes(text(vector, "bytes_hex")));
    let mut memory = Memory::default();
    let (place, opened) = rules.open(&context, rules.find(context.topic)?, &mut memory, &arrived)?;
    Ok((memory.payload(&arrived, place).to_vec(), opened))
}

/// The outermost layer that encrypts.
fn encryption(vector: &Value) -> Option<&Value> {
    vector["layers"].as_array().unwrap().iter().find(|layer| layer["engine"] == "encryption")
}

/// What the engine writes by its own parts, as the sender and the number that are described.
fn encrypted(
    context: &Context<'_>,
    layer: &Value,
    content: Content<'_>,
    implementation: Implementation,
) -> Vec<u8> {
    let (algorithm, key, mark) = (algorithm(layer), Key::from_bytes(array(layer, "key_hex")), mark(layer));
    assert_eq!(key.id().to_string(), text(layer, "key_id_hex"));
    let cipher = Cipher::of_sender(algorithm, implementation, (key.id(), &key), &mark.sender);
    let is_signed = layer["signing_key_hex"].is_string();
    let identity = is_signed.then(|| SigningIdentity::from_bytes(&array(layer, "signing_key_hex")));
    let zeros = layer["padding"].as_u64().map(|zeros| zeros.try_into().unwrap());
    let length = content.bytes.len();
    let padding = PADDINGS.into_iter().find(|padding| padding.zeros(length, is_signed) == zeros);
    let padding = padding.unwrap_or_else(|| panic!("no padding has {zeros:?} zeros behind {length} bytes"));
    let time = layer["time"].is_string().then(|| number(layer, "time"));
    let is_bare = layer["is_bare"] == true;
    let head = Head { algorithm, key: key.id(), mark, is_bare, time }.to_bytes(context);
    let mut output = Vec::new();
    with_associated(context, (&head, time), |associated| {
        match is_bare {
            true => output.extend_from_slice(content.bytes),
            false => trailer::append(&mut output, content, associated, padding, identity.as_ref())?,
        }
        let tag = cipher.seal(mark.sequence, associated, &mut output)?;
        output.extend_from_slice(&tag);
        Ok(())
    })
    .unwrap();
    let time = time.map(u64::to_le_bytes);
    [&head[..], time.as_ref().map_or(&[], |time| time), &output].concat()
}

fn sealed(vector: &Value, implementation: Implementation) -> Vec<u8> {
    let context = context(vector);
    let (mut tag, mut content) = (0, bytes(text(vector, "payload_hex")));
    for layer in vector["layers"].as_array().unwrap().iter().rev() {
        if layer["engine"] == "encryption" {
            content = encrypted(&context, layer, Content { tag, bytes: &content }, implementation);
            tag = 2;
        } else {
            // Another program compresses to other bytes, so those that came out are described.
            let names = ["stored", "zstd", "lz4"];
            let algorithm = names.iter().position(|name| *name == text(layer, "algorithm")).unwrap();
            let data = bytes(text(layer, "data_hex"));
            content = [&[u8::try_from(algorithm).unwrap(), tag][..], &data].concat();
            tag = 1;
        }
    }
    if tag == 0 && !envelope::is_sealed(&content) {
        return content;
    }
    [&envelope::head(tag)[..], &content].concat()
}

/// The reason as the vectors name it.
fn reason(refused: &EngineError) -> &'static str {
    match refused {
        EngineError::Missing { .. } => "missing",
        EngineError::UnknownVersion { .. } => "unknown_version",
        EngineError::UnknownEngine { .. } => "unknown_engine",
        EngineError::UnknownDictionary { .. } => "unknown_dictionary",
        EngineError::UnknownKey { .. } => "unknown_key",
        EngineError::Malformed { .. } => "malformed",
        EngineError::TooLarge { .. } => "too_large",
        EngineError::Forged => "forged",
        other => panic!("{other:?}"),
    }
}

#[test]
fn sealed_payloads_open_as_in_the_vectors() {
    for implementation in IMPLEMENTATIONS {
        let rules = rules(implementation, false);
        for vector in section("sealed") {
            let name = &vector["name"];
            let (payload, opened) = opened(&rules, &vector).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(payload, bytes(text(&vector, "payload_hex")), "{name}");
            let layer = encryption(&vector);
            assert_eq!(opened.mark, layer.map(mark), "{name}");
            let signer = layer.filter(|layer| layer["signer_hex"].is_string());
            assert_eq!(opened.signer, signer.map(|layer| array(layer, "signer_hex")), "{name}");
        }
    }
}

#[test]
fn the_same_payloads_are_sealed_to_the_bytes_of_the_vectors() {
    for implementation in IMPLEMENTATIONS {
        for vector in section("sealed") {
            assert_eq!(
                sealed(&vector, implementation),
                bytes(text(&vector, "bytes_hex")),
                "{}",
                vector["name"]
            );
        }
    }
}

#[test]
fn what_the_vectors_call_refused_is_refused_for_that_reason() {
    for implementation in IMPLEMENTATIONS {
        for vector in section("refused_sealed") {
            let rules = rules(implementation, vector["requires_encryption"] == true);
            let name = &vector["name"];
            match opened(&rules, &vector) {
                Ok(opened) => panic!("{name}: {opened:?}"),
                Err(refused) => assert_eq!(reason(&refused), vector["reason"], "{name}: {refused}"),
            }
        }
    }
}

#[test]
fn the_vectors_have_every_cipher_with_everything_that_goes_with_it() {
    let vectors = section("sealed");
    for algorithm in ["XChaCha20-Poly1305", "ChaCha20-Poly1305", "AES-256-GCM"] {
        let is_full = |vector: &&Value| {
            let layer = encryption(vector).filter(|layer| layer["algorithm"] == algorithm);
            layer.is_some_and(|layer| !layer["padding"].is_null() && !layer["signer_hex"].is_null())
                && vector["context"]["request"].is_object()
                && vector["layers"].as_array().unwrap().len() == 2
        };
        assert!(vectors.iter().any(|vector| is_full(&vector)), "{algorithm}");
    }
}

#[test]
fn the_keyring_that_the_protocol_shows_is_one() {
    let protocol = include_str!("../../../../docs/PROTOCOL.md");
    let (shown, _) = protocol.split_once("```toml\n").unwrap().1.split_once("```").unwrap();
    let keyring = Keyring::from_toml(shown).unwrap();
    assert_eq!((keyring.keys().len(), keyring.retired().len()), (1, 1));
}
