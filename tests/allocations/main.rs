//! What is not allocated. A binary of its own, since its allocator counts.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed, as it should")]

#[cfg(all(feature = "compression", feature = "encryption"))]
mod client;
#[cfg(feature = "compression")]
mod compression;
