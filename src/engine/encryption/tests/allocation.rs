//! Sealing and opening allocate nothing but the output.

use allocation_counter::measure;

use super::*;
use crate::engine::encryption::{Padding, SigningIdentity};

#[test]
fn the_usual_message_allocates_nothing_beyond_the_output() {
    for algorithm in ALGORITHMS {
        for implementation in IMPLEMENTATIONS {
            let keyring = keyring();
            keyring.rotate_for("a/**", Key::from_bytes([1; 32])).unwrap();
            let identity = SigningIdentity::from_bytes(&[3; 32]);
            let engine = || {
                let engine = Encryption::new(&keyring).unwrap().trust("a/*", [identity.public()]).unwrap();
                engine
                    .algorithm(algorithm)
                    .implementation(implementation)
                    .padding(Padding::Padme)
                    .sign(identity.clone())
            };
            let (sender, receiver) = (engine(), engine());
            let (mut memory, mut opened) = (Memory::default(), Vec::new());
            let mut way = |output: &mut Vec<u8>| {
                let content = Content { tag: 0, bytes: &[5; 1000] };
                sender.seal(&published(TOPIC), content, output).unwrap();
                opened.clear();
                receiver.open(&published(TOPIC), &mut memory, output, &mut opened).unwrap();
            };
            way(&mut Vec::new());
            let mut used = Vec::with_capacity(4096);
            let counted = measure(|| way(&mut used));
            assert_eq!(counted.count_total, 0, "{algorithm:?} of {implementation:?}");
            let counted = measure(|| way(&mut Vec::new()));
            assert_eq!(counted.count_total, 1, "{algorithm:?} of {implementation:?}");
        }
    }
}
