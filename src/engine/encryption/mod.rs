//! End-to-end encryption: the bus cannot read what it carries.
//!
//! | file | what it holds |
//! |---|---|
//! | `key` | keys, and what they are called |
//! | `keyring`, `scope` | the keys that somebody has, and which of them are for which topics |
//! | `key_file` | keyrings as TOML |

mod key;
mod key_file;
mod keyring;
mod scope;

pub use key::{Key, KeyId};
pub use keyring::{KeyEntry, Keyring};
