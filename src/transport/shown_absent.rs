//! Certificates that clients have shown, in a build without transports that ask for any: there are none.

use std::time::SystemTime;

/// What a client has shown; there is none.
#[derive(Debug)]
pub(crate) enum ShownCertificate {}

impl ShownCertificate {
    pub(crate) fn is_settled(&self) -> bool {
        match *self {}
    }
    pub(crate) fn next_end(&self, _now: SystemTime) -> Option<SystemTime> {
        match *self {}
    }
    pub(crate) fn check(&self, _now: SystemTime) -> Result<(), String> {
        match *self {}
    }
}
