//! The handshake: the client's `HELLO`, the bus's `WELCOME`.

use std::fmt;
use std::time::Duration;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::MalformedFrame;
use super::wire::Reader;
use crate::error::truncate;
use crate::limits;

/// The protocol version that this crate speaks.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"WSPR";

/// Optional abilities of a side, as bits. Either side uses only what both have named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// The version's base alone.
    pub const NONE: Self = Self(0);
    /// Going on with a session over another connection.
    pub const RESUME: Self = Self(1);
    /// What this crate can do beyond the version's base.
    pub const SUPPORTED: Self = Self::RESUME;

    /// Whether all abilities of `other` are there.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Without the abilities of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The abilities that both sides have.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// The secret with which a client may come back to its session. Never printed; zeroed when dropped.
///
/// Two of them are compared in the same time wherever they differ.
#[derive(Clone)]
pub struct ResumeToken([u8; Self::LEN]);

impl PartialEq for ResumeToken {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for ResumeToken {}

/// The session that a client asks to come back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The session's id.
    pub session: u64,
    /// The secret that its `WELCOME` gave.
    pub token: ResumeToken,
    /// Bytes of the session's link that the client has received.
    pub received: u64,
}

impl ResumeToken {
    /// Bytes of a token.
    pub const LEN: usize = 32;

    /// A token of these bytes; they must come from a cryptographic random generator.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The secret itself, to be sent and never to be logged.
    #[must_use]
    pub const fn reveal(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for ResumeToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ResumeToken(..)")
    }
}

impl Drop for ResumeToken {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The payload of a `HELLO` frame:
///
/// ```text
/// "WSPR" | min version u16 | max version u16 | capabilities u64 | keep-alive ms u32
///        | name length u8 | name | resume u8 [ | session u64 | token 32 bytes | received u64 ]
///        | credentials u8 [ | length u16 | token ] or [ | length u16 | user | length u16 | password ]
/// ```
///
/// # Examples
/// ```
/// use whispeer::proto::Hello;
///
/// let hello = Hello { name: "billing".into(), ..Hello::default() };
/// assert_eq!(Hello::decode(&hello.encode())?.name, "billing");
/// # Ok::<(), whispeer::proto::MalformedFrame>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The oldest version the client speaks.
    pub min_version: u16,
    /// The newest version the client speaks.
    pub max_version: u16,
    /// What the client can do.
    pub capabilities: Capabilities,
    /// How often the client would like a sign of life; the bus may shorten it.
    pub keep_alive: Duration,
    /// What the client calls itself, for introspection; at most
    /// [`CLIENT_NAME_LIMIT`](limits::CLIENT_NAME_LIMIT) bytes.
    pub name: String,
    /// The session to come back to.
    pub resume: Option<Resume>,
    /// What the client shows to prove who it is.
    pub credentials: Option<Shown>,
}

/// What a client shows to prove who it is. Never printed; zeroed when dropped.
#[derive(Clone, PartialEq, Eq)]
pub enum Shown {
    /// A token.
    Token(Zeroizing<String>),
    /// The name of a user, and its password.
    Password(String, Zeroizing<String>),
}

impl fmt::Debug for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Token(_) => "Token(..)",
            Self::Password(..) => "Password(..)",
        })
    }
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            min_version: VERSION,
            max_version: VERSION,
            capabilities: Capabilities::NONE,
            keep_alive: limits::KEEP_ALIVE,
            name: String::new(),
            resume: None,
            credentials: None,
        }
    }
}

impl Hello {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut name = self.name.clone();
        truncate(&mut name, limits::CLIENT_NAME_LIMIT);
        let mut bytes = Vec::with_capacity(22 + name.len() + 48);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.min_version.to_le_bytes());
        bytes.extend_from_slice(&self.max_version.to_le_bytes());
        bytes.extend_from_slice(&self.capabilities.0.to_le_bytes());
        bytes.extend_from_slice(&millis(self.keep_alive).to_le_bytes());
        bytes.push(name.len() as u8);
        bytes.extend_from_slice(name.as_bytes());
        match &self.resume {
            None => bytes.push(0),
            Some(Resume { session, token, received }) => {
                bytes.push(1);
                bytes.extend_from_slice(&session.to_le_bytes());
                bytes.extend_from_slice(token.reveal());
                bytes.extend_from_slice(&received.to_le_bytes());
            }
        }
        match &self.credentials {
            None => bytes.push(0),
            Some(Shown::Token(token)) => {
                bytes.push(1);
                push_text(&mut bytes, token);
            }
            Some(Shown::Password(user, password)) => {
                bytes.push(2);
                push_text(&mut bytes, user);
                push_text(&mut bytes, password);
            }
        }
        bytes
    }

    /// Reads the payload; bytes after the known parts are left to later versions.
    ///
    /// # Errors
    /// [`MalformedFrame`] when it is cut off, or does not begin with the four magic bytes.
    pub fn decode(payload: &[u8]) -> Result<Self, MalformedFrame> {
        let mut reader = Reader::new(payload, "a HELLO that is cut off");
        if reader.array()? != MAGIC {
            return Err(MalformedFrame::Content("a HELLO that does not begin with \"WSPR\""));
        }
        let min_version = reader.u16()?;
        let max_version = reader.u16()?;
        let capabilities = Capabilities(reader.u64()?);
        let keep_alive = Duration::from_millis(u64::from(reader.u32()?));
        let length = usize::from(reader.u8()?);
        let mut name = String::from_utf8_lossy(reader.bytes(length)?).into_owned();
        truncate(&mut name, limits::CLIENT_NAME_LIMIT);
        let resume = match reader.u8()? {
            0 => None,
            _ => Some(Resume {
                session: reader.u64()?,
                token: ResumeToken::new(reader.array()?),
                received: reader.u64()?,
            }),
        };
        let kind = reader.u8()?;
        let mut text = || -> Result<Zeroizing<String>, MalformedFrame> {
            let length = usize::from(reader.u16()?);
            let text = std::str::from_utf8(reader.bytes(length)?);
            Ok(Zeroizing::new(
                text.map_err(|_| MalformedFrame::Content("credentials that are no text"))?.to_owned(),
            ))
        };
        let credentials = match kind {
            1 => Some(Shown::Token(text()?)),
            2 => Some(Shown::Password(text()?.to_string(), text()?)),
            _ => None,
        };
        Ok(Self { min_version, max_version, capabilities, keep_alive, name, resume, credentials })
    }
}

/// The payload of a `WELCOME` frame:
///
/// ```text
/// version u16 | capabilities u64 | bus u64 | session u64 | token 32 bytes | resumed u8
///             | frame limit u32 | keep-alive ms u32 | block limit ms u32
///             | publish window: messages u32, bytes u64 | subscriptions u32 | requests u32 | received u64
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The version both sides use from here on.
    pub version: u16,
    /// The abilities both sides have.
    pub capabilities: Capabilities,
    /// The bus's id, drawn at random when it starts.
    pub bus: u64,
    /// The session's id.
    pub session: u64,
    /// The secret to come back with.
    pub resume_token: ResumeToken,
    /// Whether this is the session that the client asked to come back to.
    pub resumed: bool,
    /// Bytes of the largest frame.
    pub frame_limit: u32,
    /// How often each side gives a sign of life.
    pub keep_alive: Duration,
    /// How long a publish is parked at most.
    pub block_limit: Duration,
    /// Messages and bytes the session may publish before the bus grants more.
    pub publish_window: (u32, u64),
    /// Subscriptions the session may hold.
    pub max_subscriptions: u32,
    /// Requests the session may have unanswered.
    pub max_requests: u32,
    /// Bytes of the session's link that the bus has received before, where it is resumed.
    pub received: u64,
}

impl Welcome {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(104);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&self.capabilities.0.to_le_bytes());
        bytes.extend_from_slice(&self.bus.to_le_bytes());
        bytes.extend_from_slice(&self.session.to_le_bytes());
        bytes.extend_from_slice(self.resume_token.reveal());
        bytes.push(u8::from(self.resumed));
        bytes.extend_from_slice(&self.frame_limit.to_le_bytes());
        bytes.extend_from_slice(&millis(self.keep_alive).to_le_bytes());
        bytes.extend_from_slice(&millis(self.block_limit).to_le_bytes());
        bytes.extend_from_slice(&self.publish_window.0.to_le_bytes());
        bytes.extend_from_slice(&self.publish_window.1.to_le_bytes());
        bytes.extend_from_slice(&self.max_subscriptions.to_le_bytes());
        bytes.extend_from_slice(&self.max_requests.to_le_bytes());
        bytes.extend_from_slice(&self.received.to_le_bytes());
        bytes
    }

    /// Reads the payload; bytes after the known parts are left to later versions.
    ///
    /// # Errors
    /// [`MalformedFrame`] when it is cut off.
    pub fn decode(payload: &[u8]) -> Result<Self, MalformedFrame> {
        let mut reader = Reader::new(payload, "a WELCOME that is cut off");
        Ok(Self {
            version: reader.u16()?,
            capabilities: Capabilities(reader.u64()?),
            bus: reader.u64()?,
            session: reader.u64()?,
            resume_token: ResumeToken::new(reader.array()?),
            resumed: reader.u8()? != 0,
            frame_limit: reader.u32()?,
            keep_alive: Duration::from_millis(u64::from(reader.u32()?)),
            block_limit: Duration::from_millis(u64::from(reader.u32()?)),
            publish_window: (reader.u32()?, reader.u64()?),
            max_subscriptions: reader.u32()?,
            max_requests: reader.u32()?,
            received: reader.u64()?,
        })
    }
}

/// A text that is longer than a `HELLO` may be is cut, and refused with it.
fn push_text(bytes: &mut Vec<u8>, text: &str) {
    let text = text.as_bytes();
    let text = text.get(..usize::from(u16::MAX)).unwrap_or(text);
    bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
    bytes.extend_from_slice(text);
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
