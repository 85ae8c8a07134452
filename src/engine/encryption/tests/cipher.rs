//! Published cases, for both libraries.

use super::*;
use crate::engine::encryption::tests::vectors::{Case, bytes, cases};

const IMPLEMENTATIONS: [Implementation; 2] = [Implementation::Ring, Implementation::RustCrypto];

/// Seals and opens each case with both libraries.
fn check(algorithm: Algorithm, text: &str, least: usize) {
    let cases = cases(text);
    for Case { id, columns, is_valid } in &cases {
        let [key, nonce, associated, message, ciphertext, tag] = &columns[..] else { panic!("six columns") };
        let (key, tag) = (key.as_slice().try_into().unwrap(), tag.as_slice().try_into().unwrap());
        let (first, nonce) = match algorithm {
            Algorithm::XChaCha20Poly1305 => {
                let (first, last) = nonce.split_first_chunk::<16>().unwrap();
                (*first, [&[0; 4], last].concat())
            }
            _ => ([0; 16], nonce.clone()),
        };
        let nonce: [u8; 12] = nonce.try_into().unwrap();
        for implementation in IMPLEMENTATIONS {
            let cipher = Cipher::new(algorithm, implementation, key, &first);
            let mut text = ciphertext.clone();
            let opened = cipher.open_with(nonce, associated, &mut text, tag);
            assert_eq!(opened.is_ok(), *is_valid, "case {id} with {implementation:?}");
            if *is_valid {
                assert_eq!(&text, message, "case {id} with {implementation:?}");
                assert_eq!(cipher.seal_with(nonce, associated, &mut text), Ok(tag));
                assert_eq!(&text, ciphertext, "case {id} with {implementation:?}");
            }
        }
    }
    assert!(cases.len() >= least, "{} cases", cases.len());
}

#[test]
fn chacha20_poly1305_is_that_of_rfc_8439_and_wycheproof() {
    check(Algorithm::ChaCha20Poly1305, include_str!("vectors/chacha20_poly1305.json"), 100);
}

#[test]
fn xchacha20_poly1305_is_that_of_the_draft_and_wycheproof() {
    check(Algorithm::XChaCha20Poly1305, include_str!("vectors/xchacha20_poly1305.json"), 100);
}

#[test]
fn aes_256_gcm_is_that_of_nist_and_wycheproof() {
    check(Algorithm::Aes256Gcm, include_str!("vectors/aes_256_gcm.json"), 60);
    // Test cases 13 and 14 of "The Galois/Counter Mode of Operation (GCM)", which NIST SP 800-38D specifies.
    for (message, ciphertext, tag) in [
        ("", "", "530f8afbc74536b9a963b4f1c4cb738b"),
        (
            "00000000000000000000000000000000",
            "cea7403d4d606b6e074ec5d3baf39d18",
            "d0d1c8a799996bf0265b98b5d48ab919",
        ),
    ] {
        for implementation in IMPLEMENTATIONS {
            let cipher = Cipher::new(Algorithm::Aes256Gcm, implementation, &[0; 32], &[0; 16]);
            let mut text = bytes(message);
            assert_eq!(cipher.seal(0, &[], &mut text).unwrap().to_vec(), bytes(tag));
            assert_eq!(text, bytes(ciphertext));
        }
    }
}

#[test]
fn keys_are_derived_as_in_rfc_5869() {
    let cases = cases(include_str!("vectors/hkdf_sha256.json"));
    for Case { id, columns, .. } in &cases {
        let [key, salt, info, derived] = &columns[..] else { panic!("four columns") };
        let mut made = vec![0; derived.len()];
        derive(key, salt, &[info], &mut made);
        assert_eq!(&made, derived, "case {id}");
        let (one, other) = info.split_at(info.len() / 2);
        derive(key, salt, &[one, other], &mut made);
        assert_eq!(&made, derived, "case {id} in two parts");
    }
    assert!(cases.len() > 20, "{} cases", cases.len());
}

#[test]
fn the_nonce_is_the_sequence_behind_zeros() {
    assert_eq!(nonce(0x0807_0605_0403_0201), [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
}
