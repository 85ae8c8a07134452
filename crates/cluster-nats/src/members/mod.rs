//! Which buses there are: each says so in intervals, and counts as gone when it has missed three.
//!
//! A heartbeat is a JSON object on `{prefix}.bus.{id}`:
//!
//! ```text
//! {"id":"00c0ffee00c0ffee","name":"shop-1","epoch":1,"number":17,"interval_ms":1000,"draining":false,"leaving":false,"watches":false}
//! ```
//!
//! `id` is drawn at random when the bus begins its link, `epoch` counts its connections to NATS from 1, and `number` its heartbeats. So
//! the others see what they have missed, that it has lost its connection (what it was doing for them then is lost), that it
//! drains, and that it leaves, which it says with its last one. `watches` tells that somebody there wants to hear who comes and goes elsewhere.
//!
//! How often: every second with up to [`MEMBERS_AT_FULL_RATE`](limits::MEMBERS_AT_FULL_RATE) buses, otherwise every `buses / 128`
//! seconds, rounded up. Whoever sees a new bus says soon that it is there itself, so that the new one knows all within a
//! quarter of an interval.

mod beat;
mod table;

pub use beat::run;
pub use table::{Member, MemberEvent, Members};

use crate::limits;

/// Where a bus is known by its connection to NATS: its number, from 1, while there is one.
///
/// Whoever has the client of NATS says so, and counts one up whenever the connection was lost or messages were dropped for this
/// client being slow: in both cases what was under way may be lost.
pub type Connection = tokio::sync::watch::Receiver<Option<u64>>;

/// A bus's id at the cluster as it is written: 16 hexadecimal digits.
#[must_use]
pub fn written(id: u64) -> String {
    format!("{id:016x}")
}

/// Reads an id as it is written.
#[must_use]
pub fn read_id(text: &str) -> Option<u64> {
    let digits =
        text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}
