//! End-to-end encryption: the bus cannot read what it carries.
//!
//! | file | what it holds |
//! |---|---|
//! | `key` | keys, and what they are called |

mod key;

pub use key::{Key, KeyId};
