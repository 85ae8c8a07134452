//! Reading and writing of little-endian values in payloads and fields.

use super::MalformedFrame;

/// Takes values off the front of a slice; what is missing is an error, never a panic.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads from `bytes`; `what` names them in an error.
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], MalformedFrame> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(MalformedFrame::Content(self.what))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], MalformedFrame> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(MalformedFrame::Content(self.what))?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, MalformedFrame> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, MalformedFrame> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, MalformedFrame> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, MalformedFrame> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }
}
