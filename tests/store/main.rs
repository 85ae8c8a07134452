//! What a store in a file keeps, whatever happens to it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that panics has failed, as it should, and what is printed is for who reads it"
)]

mod busy;
mod contract;
mod faults;
mod killed;
#[cfg(unix)]
mod one_file;
mod power_loss;
mod size;
mod workload;
