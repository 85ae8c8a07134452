//! Payloads of the handshake: what is read, written anew, reads the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use whispeer::proto::{Hello, Welcome};

fuzz_target!(|payload: &[u8]| {
    if let Ok(hello) = Hello::decode(payload) {
        assert_eq!(Hello::decode(&hello.encode()).as_ref(), Ok(&hello));
    }
    if let Ok(welcome) = Welcome::decode(payload) {
        assert_eq!(Welcome::decode(&welcome.encode()).as_ref(), Ok(&welcome));
    }
});
