//! Payloads of the bus as JSON and back.
//!
//! What typed clients send is MessagePack, and stands as JSON here. A payload that is sealed (encrypted, or compressed by its
//! sender) cannot be read; it is passed as marked base64, `{"$sealed":"…"}`, and counted.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use whispeer::json::push_json;

/// Adds a payload as JSON. Returns whether it was sealed.
pub(crate) fn push_payload(payload: &[u8], text: &mut Vec<u8>) -> bool {
    let is_sealed = whispeer::engine::is_sealed(payload);
    if is_sealed {
        text.extend_from_slice(b"{\"$sealed\":\"");
        text.extend_from_slice(STANDARD.encode(payload).as_bytes());
        text.extend_from_slice(b"\"}");
    } else {
        push_json(payload, text);
    }
    is_sealed
}
