//! End-to-end encryption: the bus cannot read what it carries.
//!
//! | file | what it holds |
//! |---|---|
//! | `engine` | the engine, which puts the others together |
//! | `key` | keys, and what they are called |
//! | `keyring`, `scope` | the keys that somebody has, and which of them are for which topics |
//! | `key_file`, `secret_file` | keyrings as TOML, and what files with secrets have to be like |
//! | `cipher` | the three ciphers |
//! | `head`, `trailer` | what stands before and behind the content, and what it is bound to |
//! | `signature` | who has sent a message |
//! | `window`, `senders`, `topics`, `receiving` | what a receiver remembers |
//! | `sending` | what a sender keeps |

mod cipher;
mod engine;
mod head;
mod key;
mod key_file;
mod keyring;
mod receiving;
mod scope;
mod secret_file;
mod senders;
mod sending;
mod signature;
#[cfg(test)]
mod tests;
mod topics;
mod trailer;
mod window;

pub use cipher::{Algorithm, Implementation};
pub use engine::Encryption;
pub use key::{Key, KeyId};
pub use keyring::{KeyEntry, Keyring};
pub use signature::{SignerKey, SigningIdentity};
pub use trailer::Padding;
