//! What encryption promises.

mod allocation;
mod foreign;
mod grants;
mod keys;
mod refusals;
mod replays;
mod round_trips;
mod signed;
pub(super) mod vectors;

use super::{Algorithm, Encryption, Implementation, Key, Keyring};
use crate::engine::{Content, Context, Engine, EngineError, Mark, Memory, MessageKind, Opened};

const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::XChaCha20Poly1305, Algorithm::ChaCha20Poly1305, Algorithm::Aes256Gcm];
const IMPLEMENTATIONS: [Implementation; 2] = [Implementation::Ring, Implementation::RustCrypto];
const TOPIC: &str = "a/b";

/// A keyring with one key for all topics.
fn keyring() -> Keyring {
    Keyring::with(Key::from_bytes([7; 32])).unwrap()
}

fn engine() -> Encryption {
    Encryption::new(&keyring()).unwrap()
}

fn published(topic: &str) -> Context<'_> {
    Context::new(topic, MessageKind::Publish)
}

fn seal(engine: &Encryption, context: &Context<'_>, bytes: &[u8]) -> Result<(Vec<u8>, Mark), EngineError> {
    seal_tagged(engine, context, Content { tag: 9, bytes })
}

fn seal_tagged(
    engine: &Encryption,
    context: &Context<'_>,
    content: Content<'_>,
) -> Result<(Vec<u8>, Mark), EngineError> {
    let mut output = Vec::new();
    let bytes = content.bytes;
    let sealed = engine.seal(context, content, &mut output)?;
    assert!(output.len() <= bytes.len() + engine.overhead(bytes.len()));
    Ok((output, sealed.mark.unwrap()))
}

/// Opens it with a memory of its own.
fn open(engine: &Encryption, context: &Context<'_>, sealed: &[u8]) -> Result<(Vec<u8>, Opened), EngineError> {
    open_with(engine, context, &mut Memory::default(), sealed)
}

fn open_with(
    engine: &Encryption,
    context: &Context<'_>,
    memory: &mut Memory,
    sealed: &[u8],
) -> Result<(Vec<u8>, Opened), EngineError> {
    // What is there already is not the engine's.
    let mut output = b"before".to_vec();
    let opened = engine.open(context, memory, sealed, &mut output);
    let content = output.split_off(6);
    assert_eq!(output, b"before");
    if opened.is_err() {
        assert!(content.is_empty(), "nothing is left of what was refused");
    }
    opened.map(|opened| (content, opened))
}
