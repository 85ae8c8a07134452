//! HTTP and WebSocket for browsers and scripts.
