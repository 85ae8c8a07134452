//! The load and the figures of `whispeer bench`.
//!
//! What is measured is what users get: publishers, subscribers, requesters and servers are processes
//! of their own (this binary again, with the hidden subcommand `bench-load`), and so is the bus. The
//! command itself only starts them, tells them when to begin, and adds up what they report:
//!
//! ```text
//!  bench ── starts ──► bus, subscribers, servers ── "ready"
//!        ── starts ──► publishers, requesters    ── "ready"
//!        ── "go"   ──► publishers, requesters    ── load ──► bus ──► subscribers, servers
//!        ◄── one line of JSON each: counts, times, latencies
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `plan` | what is to be measured, as it is handed to a process |
//! | `load` | what such a process does |
//! | `processes` | starting them and hearing from them |
//! | `figures` | what came out, as a table and as JSON |

pub(crate) mod figures;
pub(crate) mod load;
pub(crate) mod plan;
pub(crate) mod processes;
