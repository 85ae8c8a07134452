//! Messages that another program has made from the description of the format: Python, with `cryptography`.

use super::vectors::bytes;
use super::*;
use crate::engine::encryption::SigningIdentity;

const MARK: Mark =
    Mark { sender: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], sequence: 0x0304_0506_0708 };

#[test]
fn what_another_program_has_encrypted_opens() {
    let sealed = [
        concat!(
            "0194b5ab8cd0861e82000102030405060708090a0b0c0d0e0f080706050403000058d954da019c6f3fc957df30362a31",
            "b5237a133a3aa044",
        ),
        concat!(
            "0294b5ab8cd0861e82000102030405060708090a0b0c0d0e0f080706050403000070910b4d13c73f6ef27b19572846f5",
            "9d4726c7770d56b4",
        ),
        concat!(
            "0394b5ab8cd0861e82000102030405060708090a0b0c0d0e0f0807060504030000f1730708e3f9641e4340fa178bb84d",
            "d3077b27af51b5bf",
        ),
    ];
    for (algorithm, sealed) in ALGORITHMS.into_iter().zip(sealed) {
        for implementation in IMPLEMENTATIONS {
            let receiver = engine().implementation(implementation);
            let (content, opened) = open(&receiver, &published(TOPIC), &bytes(sealed)).unwrap();
            assert_eq!(
                (content.as_slice(), opened.tag, opened.mark),
                (&b"hello"[..], 9, Some(MARK)),
                "{algorithm:?}"
            );
        }
    }
}

#[test]
fn so_does_a_signed_and_padded_answer() {
    let sealed = concat!(
        "8194b5ab8cd0861e82000102030405060708090a0b0c0d0e0f080706050403000058d954da01956fc4cd4ccf3964782c",
        "34a2400c1d98348f02206699f91bed568d27b413e9b810f913b4761265be1ead42ae7efb8690bb0e81b9839e33a0bd6b",
        "e7e1c5a9e64d19a726bb0f92c539ee031e69fc364378c01eea837402d920b90b2bbdb59139624f43c5e1a6c6851e45b6",
        "689fd690e252da863616759c46d7525a08d0ef41ec9cc3",
    );
    let mut context = Context::new(TOPIC, MessageKind::StreamReply);
    (context.index, context.request) = (3, Some(Mark { sender: [5; 16], sequence: 6 }));
    let (content, opened) = open(&engine(), &context, &bytes(sealed)).unwrap();
    let signer = SigningIdentity::from_bytes(&[3; 32]).public().to_bytes();
    assert_eq!((content.as_slice(), opened.mark, opened.signer), (&b"hello"[..], Some(MARK), Some(signer)));
}
