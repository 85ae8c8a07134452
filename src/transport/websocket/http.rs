//! Reading and writing the heads of HTTP messages over a channel.

use std::future::poll_fn;
use std::io::{self, IoSlice};

use crate::limits;
use crate::transport::channel::Channel;

/// What came before the first frame.
#[derive(Debug)]
pub(super) struct Head {
    bytes: Vec<u8>,
    /// Where the head ends.
    end: usize,
}

impl Head {
    /// The head.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.end).unwrap_or_default()
    }

    /// What has arrived behind it.
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.end..).unwrap_or_default()
    }
}

/// Why there is no head.
#[derive(Debug)]
pub(super) enum NoHead {
    /// It begins with what no HTTP message begins with.
    NotHttp,
    /// It is longer than [`limits::WEBSOCKET_HEAD`].
    TooLong,
    /// The connection ended.
    Failed(io::Error),
}

/// Reads a head, which begins with the name of a method or of a version: with three capital letters at least. What
/// begins otherwise is told at once, and not when nothing more comes.
pub(super) async fn read_head(channel: &impl Channel) -> Result<Head, NoHead> {
    const END: &[u8] = b"\r\n\r\n";
    const LETTERS: usize = 3;
    let mut bytes = vec![0; limits::WEBSOCKET_HEAD];
    let mut filled = 0;
    loop {
        let room = bytes.get_mut(filled..).unwrap_or_default();
        if room.is_empty() {
            return Err(NoHead::TooLong);
        }
        let count = poll_fn(|context| channel.poll_read(context, room)).await.map_err(NoHead::Failed)?;
        if count == 0 {
            let what = "the connection was closed during the WebSocket handshake";
            return Err(NoHead::Failed(io::Error::new(io::ErrorKind::UnexpectedEof, what)));
        }
        // The end may have begun in what was there before.
        let start = filled.saturating_sub(END.len() - 1);
        filled += count;
        if !bytes.iter().take(filled.min(LETTERS)).all(u8::is_ascii_uppercase) {
            return Err(NoHead::NotHttp);
        }
        let arrived = bytes.get(start..filled).unwrap_or_default();
        if let Some(place) = arrived.windows(END.len()).position(|window| window == END) {
            bytes.truncate(filled);
            return Ok(Head { bytes, end: start + place + END.len() });
        }
    }
}

/// Writes all of `bytes`.
pub(super) async fn write(channel: &impl Channel, mut bytes: &[u8]) -> io::Result<()> {
    loop {
        let written = if bytes.is_empty() {
            channel.try_flush().map(|()| 0)
        } else {
            channel.try_write(&[IoSlice::new(bytes)])
        };
        match written {
            Ok(_) if bytes.is_empty() => return Ok(()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll_fn(|context| channel.poll_room(context)).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Text of a stranger, for a message: quoted, and cut.
pub(super) fn quoted(text: &[u8]) -> String {
    const SHOWN: usize = 100;
    let text: String = String::from_utf8_lossy(text).chars().take(SHOWN).collect();
    format!("{text:?}")
}
