//! What encryption costs for each message, beside the bare ciphers of both libraries.
//!
//! A bare cipher gets the same bytes and as many that it authenticates beside them, with a key that is ready. It
//! works in place, on a message that was copied there or (`in place`) that it destroys. All take turns within each
//! round, and what is shown are medians of the rounds, in nanoseconds.
//!
//! ```text
//! cargo run --release --example encryption -- 31
//! ```

use std::hint::black_box;
use std::time::Instant;

use aes_gcm::Aes256Gcm;
use anyhow::{Context as _, Result, anyhow};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, XChaCha20Poly1305};
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use whispeer::engine::encryption::{Algorithm, Encryption, Implementation, Key, Keyring};
use whispeer::engine::{Content, Context, Engine, Memory, MessageKind};

const SIZES: [usize; 3] = [16, 1024, 64 * 1024];
const TOPIC: &str = "plant/hall-3/press/temperature";
/// As many bytes as are authenticated beside the content: a domain, a head, kind, index and topic.
const ASSOCIATED: usize = 18 + 33 + 1 + 8 + 2 + TOPIC.len();
const KEY: [u8; 32] = [7; 32];

/// Does something so many times.
type Work = Box<dyn FnMut(usize)>;

fn main() -> Result<()> {
    let rounds = std::env::args()
        .nth(1)
        .map_or(Ok(31), |text| text.parse::<usize>())?;
    for algorithm in [
        Algorithm::XChaCha20Poly1305,
        Algorithm::ChaCha20Poly1305,
        Algorithm::Aes256Gcm,
    ] {
        for size in SIZES {
            println!("{algorithm:?}, {size} bytes");
            measure(rounds, size, &mut contestants(algorithm, size)?);
        }
    }
    Ok(())
}

fn measure(rounds: usize, size: usize, contestants: &mut [(&str, Work)]) {
    let times = 40_000 / (1 + size / 256);
    let mut taken = vec![Vec::with_capacity(rounds); contestants.len()];
    for _ in 0..rounds {
        for ((_, work), taken) in contestants.iter_mut().zip(&mut taken) {
            let begin = Instant::now();
            work(times);
            taken.push(begin.elapsed().as_secs_f64() * 1e9 / times as f64);
        }
    }
    for ((name, _), taken) in contestants.iter().zip(&mut taken) {
        taken.sort_by(f64::total_cmp);
        let median = taken.get(rounds / 2).copied().unwrap_or_default();
        println!("  {name:34} {median:9.1}");
    }
}

fn contestants(algorithm: Algorithm, size: usize) -> Result<Vec<(&'static str, Work)>> {
    let mut contestants = bare_ring(algorithm, size)?;
    contestants.extend(bare_rust_crypto(algorithm, size)?);
    for (implementation, [seal, open]) in [
        (
            Implementation::Ring,
            ["whispeer on ring: seal", "whispeer on ring: open"],
        ),
        (
            Implementation::RustCrypto,
            [
                "whispeer on RustCrypto: seal",
                "whispeer on RustCrypto: open",
            ],
        ),
    ] {
        let engine = || {
            let keyring = Keyring::with(Key::from_bytes(KEY))?;
            anyhow::Ok(
                Encryption::new(&keyring)?
                    .algorithm(algorithm)
                    .implementation(implementation),
            )
        };
        contestants.push((seal, sealing(engine()?, size)));
        contestants.push((open, opening(engine()?, size)?));
    }
    Ok(contestants)
}

fn sealing(engine: Encryption, size: usize) -> Work {
    let payload = vec![7; size];
    let mut output = Vec::new();
    let context = Context::new(TOPIC, MessageKind::Publish);
    Box::new(move |times| {
        for _ in 0..times {
            output.clear();
            output.extend_from_slice(&[0; 4]);
            let content = Content {
                tag: 0,
                bytes: black_box(&payload),
            };
            let _ = black_box(engine.seal(&context, content, &mut output));
            black_box(&mut output);
        }
    })
}

/// Opens one message again and again, as one that comes from a store; a live one costs a bit more or less.
fn opening(engine: Encryption, size: usize) -> Result<Work> {
    let payload = vec![7; size];
    let mut context = Context::new(TOPIC, MessageKind::Publish);
    context.stored = true;
    let mut sealed = Vec::new();
    engine.seal(
        &context,
        Content {
            tag: 0,
            bytes: &payload,
        },
        &mut sealed,
    )?;
    let (mut memory, mut output) = (Memory::default(), Vec::new());
    Ok(Box::new(move |times| {
        for _ in 0..times {
            output.clear();
            let opened = engine.open(&context, &mut memory, black_box(&sealed), &mut output);
            let _ = black_box(opened);
            black_box(&mut output);
        }
    }))
}

fn nonce(number: usize) -> [u8; 12] {
    let mut nonce = [0; 12];
    let (_, last) = nonce.split_at_mut(4);
    last.copy_from_slice(&(number as u64).to_le_bytes());
    nonce
}

fn bare_ring(algorithm: Algorithm, size: usize) -> Result<Vec<(&'static str, Work)>> {
    let code = match algorithm {
        Algorithm::Aes256Gcm => &AES_256_GCM,
        // XChaCha20 is that with another key, once a sender's nonces have been looked at.
        _ => &CHACHA20_POLY1305,
    };
    let key = || {
        UnboundKey::new(code, &KEY)
            .map(LessSafeKey::new)
            .map_err(|_| anyhow!("a key of another length"))
    };
    let (sealing, opening, in_place) = (key()?, key()?, key()?);
    let payload = vec![7; size];
    let mut output = Vec::with_capacity(size + 16);
    let mut seal = move |key: &LessSafeKey, number: usize, output: &mut Vec<u8>| {
        output.clear();
        output.extend_from_slice(black_box(&payload));
        let nonce = Nonce::assume_unique_for_key(nonce(number));
        let _ = key.seal_in_place_append_tag(nonce, Aad::from(black_box([1; ASSOCIATED])), output);
        black_box(output);
    };
    let mut sealed = Vec::new();
    seal(&opening, 0, &mut sealed);
    let (mut opened, mut message) = (Vec::with_capacity(size + 16), vec![7; size]);
    Ok(vec![
        (
            "ring: seal in place",
            Box::new(move |times| {
                for number in 0..times {
                    let nonce = Nonce::assume_unique_for_key(nonce(number));
                    let associated = Aad::from(black_box([1; ASSOCIATED]));
                    let tag = in_place.seal_in_place_separate_tag(nonce, associated, &mut message);
                    let _ = black_box(tag);
                }
            }),
        ),
        (
            "ring: seal",
            Box::new(move |times| {
                (0..times).for_each(|number| seal(&sealing, number, &mut output))
            }),
        ),
        (
            "ring: open",
            Box::new(move |times| {
                for _ in 0..times {
                    opened.clear();
                    opened.extend_from_slice(black_box(&sealed));
                    let nonce = Nonce::assume_unique_for_key(nonce(0));
                    let associated = Aad::from(black_box([1; ASSOCIATED]));
                    let _ = black_box(opening.open_in_place(nonce, associated, &mut opened));
                }
            }),
        ),
    ])
}

fn bare_rust_crypto(algorithm: Algorithm, size: usize) -> Result<Vec<(&'static str, Work)>> {
    let long = |number| {
        let mut long = [0; 24];
        let (_, last) = long.split_at_mut(12);
        last.copy_from_slice(&nonce(number));
        long
    };
    match algorithm {
        Algorithm::Aes256Gcm => {
            let cipher = || Aes256Gcm::new(&KEY.into());
            rust_crypto([cipher(), cipher()], size, move |number| {
                nonce(number).into()
            })
        }
        Algorithm::ChaCha20Poly1305 => {
            let cipher = || ChaCha20Poly1305::new(&KEY.into());
            rust_crypto([cipher(), cipher()], size, move |number| {
                nonce(number).into()
            })
        }
        _ => {
            let cipher = || XChaCha20Poly1305::new(&KEY.into());
            rust_crypto([cipher(), cipher()], size, move |number| {
                long(number).into()
            })
        }
    }
}

fn rust_crypto<C: AeadInOut + 'static>(
    [sealing, opening]: [C; 2],
    size: usize,
    nonce: impl Fn(usize) -> chacha20poly1305::aead::Nonce<C> + Clone + 'static,
) -> Result<Vec<(&'static str, Work)>> {
    let payload = vec![7; size];
    let mut sealed = payload.clone();
    let tag = opening
        .encrypt_inout_detached(&nonce(0), &[1; ASSOCIATED], (&mut *sealed).into())
        .ok()
        .context("nothing can be too long")?;
    let (mut output, mut opened) = (Vec::new(), Vec::new());
    let first = nonce(0);
    Ok(vec![
        (
            "RustCrypto: seal",
            Box::new(move |times| {
                for number in 0..times {
                    output.clear();
                    output.extend_from_slice(black_box(&payload));
                    let associated = black_box([1; ASSOCIATED]);
                    let bytes = (&mut *output).into();
                    if let Ok(tag) =
                        sealing.encrypt_inout_detached(&nonce(number), &associated, bytes)
                    {
                        output.extend_from_slice(&tag);
                    }
                    black_box(&mut output);
                }
            }),
        ),
        (
            "RustCrypto: open",
            Box::new(move |times| {
                for _ in 0..times {
                    opened.clear();
                    opened.extend_from_slice(black_box(&sealed));
                    let associated = black_box([1; ASSOCIATED]);
                    let bytes = (&mut *opened).into();
                    let _ =
                        black_box(opening.decrypt_inout_detached(&first, &associated, bytes, &tag));
                }
            }),
        ),
    ])
}
