//! QUIC: what TLS over TCP does, over UDP.
//!
//! | file | what it holds |
//! |---|---|
//! | `stream` | the stream that carries the frames of a link |
//! | `drive` | the work of a connection, done by whoever uses it |
//! | `endpoint` | a UDP socket, and who owns the work on it |
//! | `listener` | accepting connections |
//! | `client` | making one |
//! | `explain` | what went wrong, in words for the person who has to mend it |
//!
//! The protocol is quinn's, its cryptography rustls' and ring's, and the certificates those of
//! [`tls`](super::tls). Certificates are always verified; there is no early data, and no session of TLS is
//! resumed. A connection has one stream of frames, which the client opens.

mod client;
mod drive;
mod endpoint;
mod explain;
mod listener;
mod stream;

use std::sync::Arc;

use quinn::{TransportConfig, VarInt};

pub(super) use client::connect;
pub(super) use listener::QuicListener;

use crate::limits;

/// How connections behave, at either end; `streams` of them the other side may open.
fn transport(streams: u8) -> Arc<TransportConfig> {
    let window = VarInt::from_u32(limits::QUIC_WINDOW);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(streams.into()))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(window)
        .receive_window(window)
        .send_window(u64::from(limits::QUIC_WINDOW))
        // Frames say that a side is alive, and find out that one is not. A second clock would only differ.
        .max_idle_timeout(None);
    Arc::new(transport)
}

/// Whether both ends agreed to speak frames.
fn speaks_frames(connection: &quinn::Connection) -> bool {
    let data = connection.handshake_data();
    let data = data.and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok());
    data.is_some_and(|data| data.protocol.as_deref() == Some(super::tls::FRAMES))
}
