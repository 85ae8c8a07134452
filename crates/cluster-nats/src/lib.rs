//! Several buses that act as one, joined over NATS.
//!
//! | file | what it holds |
//! |---|---|
//! | `subject` | topics and patterns as subjects of NATS, and back |

pub mod subject;
