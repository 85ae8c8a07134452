//! Who asks.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use ring::hmac;
use whispeer::auth::{Credentials, Principal};
use whispeer::transport::Peer;
use zeroize::Zeroizing;

use super::failure::{Challenge, Failure};
use crate::limits;
use crate::rates::block_of;

/// Whoever asks: what he shows of himself, which the bus looks at, and where he asks from.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(super) credentials: Option<Credentials>,
    pub(super) address: SocketAddr,
}

/// What a caller is known by among others: nobody finds his credentials by it.
pub(super) type CallerKey = [u8; 32];

impl Caller {
    /// Who has sent these headers from there.
    pub(super) fn of(headers: &HeaderMap, address: SocketAddr) -> Result<Self, Failure> {
        let wrong = |detail: &str| Failure::unauthorized(Challenge::Wrong, detail);
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(text), others) = (given.next(), given.next()) else {
            return Ok(Self { credentials: None, address });
        };
        if others.is_some() {
            return Err(Failure::bad_request("authorization", "`Authorization` is given twice"));
        }
        let text = text.to_str().map_err(|_| wrong("`Authorization` has characters that are not ASCII"))?;
        let (scheme, shown) = text.split_once(' ').unwrap_or((text, ""));
        let shown = shown.trim();
        let credentials = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => match shown.len() {
                1..=limits::API_TOKEN_BYTES => Credentials::token(shown),
                0 => return Err(wrong("there is no token behind `Bearer`")),
                _ => return Err(wrong("the token is longer than the bus takes")),
            },
            "basic" => basic(shown).ok_or_else(|| {
                wrong(
                    "behind `Basic` stands the base64 of NAME:PASSWORD in UTF-8, of 1,280 bytes at the most",
                )
            })?,
            _ => {
                return Err(wrong(
                    "`Authorization` is `Bearer TOKEN`, or `Basic` with a name and a password",
                ));
            }
        };
        Ok(Self { credentials: Some(credentials), address })
    }

    pub(super) fn has_shown(&self) -> bool {
        self.credentials.is_some()
    }

    /// What the gateway itself can say of him.
    pub(super) fn peer(&self) -> Peer {
        Peer::new(Principal::Network { address: self.address }, "http")
    }

    /// By what he is known, if by anything. A token is the same from wherever it comes; guesses at passwords count by address.
    pub(super) fn key(&self, key: &hmac::Key) -> Option<CallerKey> {
        let mut tag = hmac::Context::with_key(key);
        let mut part = |bytes: &[u8]| {
            // Each part with its length, so that no two callers are one.
            tag.update(&(bytes.len() as u64).to_le_bytes());
            tag.update(bytes);
        };
        match self.credentials.as_ref()? {
            Credentials::Token(token) => {
                part(b"token");
                part(token.reveal().as_bytes());
            }
            Credentials::Password { user, password } => {
                part(b"password");
                part(user.as_bytes());
                part(password.reveal().as_bytes());
                part(block_of(self.address.ip()).to_string().as_bytes());
            }
            // Nothing else is made of a header.
            _ => return None,
        }
        let mut known = [0; 32];
        known.copy_from_slice(tag.sign().as_ref());
        Some(known)
    }
}

/// The name and password of RFC 7617.
fn basic(shown: &str) -> Option<Credentials> {
    // The longest name and password that a policy can have, and the colon.
    const LONGEST: usize = 256 + 1 + 1_024;
    if shown.len() > LONGEST.div_ceil(3) * 4 {
        return None;
    }
    let bytes = Zeroizing::new(STANDARD.decode(shown).ok()?);
    let (user, password) = str::from_utf8(&bytes).ok()?.split_once(':')?;
    Some(Credentials::password(user, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(authorization: &str, address: &str) -> Option<Caller> {
        let mut headers = HeaderMap::new();
        if !authorization.is_empty() {
            headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
        }
        Caller::of(&headers, address.parse().unwrap()).ok()
    }

    #[test]
    fn a_header_is_a_token_or_a_name_with_a_password() {
        let shown = |text: &str| caller(text, "192.0.2.1:1").unwrap().credentials;
        assert!(shown("").is_none());
        assert!(matches!(shown("bearer abc"), Some(Credentials::Token(token)) if token.reveal() == "abc"));
        let Some(Credentials::Password { user, password }) = shown("Basic YWxpY2U6YTpi") else { panic!() };
        assert_eq!((user.as_str(), password.reveal()), ("alice", "a:b"));
        for wrong in
            ["Bearer", "Bearer ", "Basic", "Basic YWxpY2U=", "Basic !", "Basic //8=", "Digest x", "x"]
        {
            assert!(caller(wrong, "192.0.2.1:1").is_none(), "{wrong}");
        }
        assert!(caller(&format!("Bearer {}", "a".repeat(limits::API_TOKEN_BYTES)), "192.0.2.1:1").is_some());
        assert!(
            caller(&format!("Bearer {}", "a".repeat(limits::API_TOKEN_BYTES + 1)), "192.0.2.1:1").is_none()
        );
    }

    #[test]
    fn callers_are_told_apart_by_what_they_show_and_where_that_counts_by_their_address() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"a key");
        let known = |shown, address| caller(shown, address).unwrap().key(&key);
        let (here, there) = ("192.0.2.1:1", "192.0.2.2:1");
        assert_eq!(known("Bearer a", here), known("Bearer a", there));
        assert_ne!(known("Bearer a", here), known("Bearer b", here));
        let (alice, bob) = ("Basic YWxpY2U6YTpi", "Basic Ym9iOmE6Yg==");
        assert_ne!(known(alice, here), known(alice, there));
        assert_ne!(known(alice, here), known(bob, here));
        // Who shows nothing is nobody who could be told apart.
        assert_eq!(known("", here), None);
    }

    #[test]
    fn what_somebody_shows_is_not_shown() {
        let shown = format!("{:?}", caller("Bearer hush", "192.0.2.1:1").unwrap());
        assert!(!shown.contains("hush"), "{shown}");
    }
}
