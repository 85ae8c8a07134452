//! An error from the wire: it reads again as it was written, and becomes an error that can be shown and sent on.

#![no_main]

use libfuzzer_sys::fuzz_target;
use whispeer::proto::Refusal;

fuzz_target!(|payload: &[u8]| {
    let Ok(refusal) = Refusal::decode(payload) else {
        return;
    };
    assert_eq!(Refusal::decode(&refusal.encode()).as_ref(), Ok(&refusal));
    let error = refusal.into_error();
    let _ = error.to_string();
    let _ = error.class();
    let _ = Refusal::from(&error).encode();
});
