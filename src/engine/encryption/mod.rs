//! End-to-end encryption: the bus cannot read what it carries.
//!
//! | file | what it holds |
//! |---|---|
//! | `engine` | the engine, which puts the others together |
//! | `key` | keys, and what they are called |
//! | `keyring`, `scope` | the keys that somebody has, and which of them are for which topics |
//! | `key_file`, `secret_file` | keyrings as TOML, and what files with secrets have to be like |
//! | `identity`, `fingerprint` | who somebody is to those who hand keys over, and what people compare |
//! | `granting`, `grant`, `handing` | how keys are handed over, as what bytes, and what a keyring remembers of it |
//! | `refusal` | why a key that is handed over is not taken |
//! | `boxes` | keys sealed to somebody's public key |
//! | `cipher` | the three ciphers |
//! | `head`, `trailer` | what stands before and behind the content, and what it is bound to |
//! | `signature` | who has sent a message |
//! | `window`, `senders`, `topics`, `receiving` | what a receiver remembers |
//! | `sending` | what a sender keeps |

mod boxes;
mod cipher;
mod engine;
mod fingerprint;
mod grant;
mod granting;
mod handing;
mod head;
mod identity;
mod key;
mod key_file;
mod keyring;
mod receiving;
mod refusal;
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
pub use fingerprint::{Fingerprint, NoFingerprint};
pub use granting::{Accepted, GrantOptions};
pub use handing::{GrantEntry, Pin};
pub use identity::{Identity, PublicIdentity};
pub use key::{Key, KeyId};
pub use keyring::{KeyEntry, Keyring};
pub use refusal::GrantError;
pub use signature::{SignerKey, SigningIdentity};
pub use trailer::Padding;
