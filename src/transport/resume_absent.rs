//! Links that outlive their connection, in a build without transports that have connections: there are none.

use crate::error::BusError;

/// The connection under a link; there is none.
#[derive(Debug)]
pub(crate) enum Attachment {}

/// What lets a link outlive its connection; there is none.
#[derive(Debug)]
pub enum ResumableLink {}

impl ResumableLink {
    pub(crate) fn keep(&self) {
        match *self {}
    }
    pub(crate) fn last(&self) {
        match *self {}
    }
    pub(crate) fn keep_nothing(&self) {
        match *self {}
    }
    pub(crate) fn is_kept(&self) -> bool {
        match *self {}
    }
    pub(crate) fn lost(&self) -> Option<String> {
        match *self {}
    }
    pub(crate) fn is_lost(&self) -> bool {
        match *self {}
    }
    pub(crate) fn break_off(&self, _reason: &str) {
        match *self {}
    }
    pub(crate) fn held(&self) -> usize {
        match *self {}
    }
    pub(crate) fn received(&self) -> u64 {
        match *self {}
    }
    pub(crate) fn send(&self) {
        match *self {}
    }
    pub(crate) fn tell(&self) {
        match *self {}
    }
    pub(crate) fn confirm(&self, _position: u64) -> Result<(), BusError> {
        match *self {}
    }
    pub(crate) fn can_go_on(&self, _position: u64) -> bool {
        match *self {}
    }
    pub(crate) fn detach(&self, _read: Vec<u8>) -> Option<Attachment> {
        match *self {}
    }
    pub(crate) fn attach(&self, _attachment: Attachment, _position: u64, _preface: Vec<u8>) -> bool {
        match *self {}
    }
    pub(crate) fn replace(&self, _fresh: &Self, _read: Vec<u8>, _keep: bool) -> bool {
        match *self {}
    }
}
