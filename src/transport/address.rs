//! Where a bus can be found.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::BusError;
use crate::limits;

/// An address of a bus, as it is written on a command line.
///
/// | written | meaning |
/// |---|---|
/// | `unix:PATH`, or `PATH` alone | the Unix socket at that path |
/// | `mem:NAME` | a listener in this process |
/// | `tcp://HOST:PORT` | TCP; `HOST` is a name, an IPv4 address or an IPv6 address in brackets |
/// | `tls://HOST:PORT` | TLS over TCP; the certificate has to be for `HOST` |
/// | `ws://HOST:PORT/PATH` | WebSocket over TCP; without `:PORT` it is 80, and without `/PATH` it is `/` |
/// | `wss://HOST:PORT/PATH` | WebSocket over TLS; without `:PORT` it is 443 |
/// | `quic://HOST:PORT` | QUIC; the certificate has to be for `HOST` |
///
/// # Examples
/// ```
/// use whispeer::Address;
///
/// let address: Address = "my_bus".parse()?;
/// assert_eq!(address, Address::Unix("my_bus".into()));
/// assert_eq!(address.to_string(), "unix:my_bus");
/// assert!("smoke-signal://hill".parse::<Address>().is_err());
/// # Ok::<(), whispeer::BusError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A listener in this process, by name.
    Memory(String),
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(Endpoint),
    /// A TCP port where TLS is spoken.
    Tls(Endpoint),
    /// A TCP port where WebSocket is spoken, with TLS below it or without.
    WebSocket(WebSocketAddress),
    /// A UDP port where QUIC is spoken.
    Quic(Endpoint),
}

/// A port of a host.
///
/// # Examples
/// ```
/// use whispeer::transport::Endpoint;
///
/// let endpoint: Endpoint = "[::1]:4242".parse()?;
/// assert_eq!((endpoint.host(), endpoint.port()), ("::1", 4242));
/// assert_eq!(endpoint.to_string(), "[::1]:4242");
/// # Ok::<(), whispeer::BusError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    host: String,
    port: u16,
}

/// Bytes of the longest name of a host (RFC 1035, section 2.3.4).
const HOST_LIMIT: usize = 255;

impl Endpoint {
    /// The name or address of the host; an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0 lets the system choose one where it is listened on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        if text.contains('@') {
            return Err("credentials do not belong into an address, where logs and lists would show them");
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or("the bracket of the host is not closed")?;
                if host.parse::<Ipv6Addr>().is_err() {
                    return Err("what stands in brackets is not an IPv6 address");
                }
                (host, rest.strip_prefix(':').ok_or(NO_PORT)?)
            }
            None => text.rsplit_once(':').ok_or(NO_PORT)?,
        };
        if !text.starts_with('[') && host.contains(':') {
            return Err("an IPv6 address has to stand in brackets, such as [::1]:4242");
        }
        if host.is_empty() || host.len() > HOST_LIMIT || host.contains(['/', '?', '#', ' ']) {
            return Err("the host is not a name or an address");
        }
        let port = port.parse().map_err(|_| "the port is not a number from 0 to 65535")?;
        Ok(Self { host: host.to_owned(), port })
    }
}

/// A path of a host where WebSocket is spoken.
///
/// # Examples
/// ```
/// use whispeer::Address;
///
/// let Address::WebSocket(address) = "wss://bus.example.com/bus".parse()? else { panic!("it is one") };
/// assert_eq!((address.endpoint().port(), address.path(), address.is_secure()), (443, "/bus", true));
/// assert_eq!(address.to_string(), "wss://bus.example.com/bus");
/// # Ok::<(), whispeer::BusError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WebSocketAddress {
    endpoint: Endpoint,
    path: String,
    secure: bool,
}

impl WebSocketAddress {
    /// The host and the port, which is 80 or, with TLS, 443 if the address names none.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The path, which begins with a slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it is spoken over TLS (`wss`).
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    fn default_port(secure: bool) -> u16 {
        if secure { 443 } else { 80 }
    }

    fn scheme(&self) -> &'static str {
        if self.secure { "wss" } else { "ws" }
    }

    /// The host, and the port unless it is the default: as it stands in the address and in a request.
    pub(super) fn authority(&self) -> String {
        let text = self.endpoint.to_string();
        let default = format!(":{}", Self::default_port(self.secure));
        text.strip_suffix(&default).map(str::to_owned).unwrap_or(text)
    }

    fn read(text: &str, secure: bool) -> Result<Self, &'static str> {
        let (authority, path) = text.split_at(text.find(['/', '?', '#']).unwrap_or(text.len()));
        let behind_host = authority.rfind(']').map_or(authority, |bracket| &authority[bracket..]);
        let endpoint = match behind_host.contains(':') {
            true => Endpoint::read(authority),
            false => Endpoint::read(&format!("{authority}:{}", Self::default_port(secure))),
        }?;
        if path.contains(['?', '#']) {
            return Err("the address of a WebSocket ends with its path, without \"?\" and \"#\"");
        }
        // What a path may consist of (RFC 3986, section 3.3).
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&byte);
        if !path.bytes().all(allowed) {
            return Err("the path has characters that belong into no path; write them as %XX");
        }
        if path.len() > limits::WEBSOCKET_PATH {
            return Err("the path is longer than 1,024 bytes");
        }
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { endpoint, path: path.to_owned(), secure })
    }
}

impl fmt::Display for WebSocketAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path == "/" { "" } else { &self.path };
        write!(formatter, "{}://{}{path}", self.scheme(), self.authority())
    }
}

const NO_PORT: &str = "a port is missing; give one such as localhost:4242";

impl FromStr for Endpoint {
    type Err = BusError;

    fn from_str(text: &str) -> Result<Self, BusError> {
        Self::read(text).map_err(|reason| BusError::Connect {
            address: without_credentials(text).to_owned(),
            reason: reason.to_owned(),
            source: None,
        })
    }
}

/// What stands behind credentials, which are not to be printed.
fn without_credentials(text: &str) -> &str {
    text.rsplit_once('@').map_or(text, |(_, rest)| rest)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(formatter, "[{host}]:{port}")
        } else {
            write!(formatter, "{host}:{port}")
        }
    }
}

impl Address {
    /// Whether what lies between may break while both ends run: a network.
    pub(crate) fn is_remote(&self) -> bool {
        !matches!(self, Self::Memory(_) | Self::Unix(_))
    }

    /// The port of a host that is meant, if it is one.
    #[cfg(feature = "tcp")]
    pub(super) fn endpoint(&self) -> Option<&Endpoint> {
        match self {
            Self::Tcp(endpoint) | Self::Tls(endpoint) | Self::Quic(endpoint) => Some(endpoint),
            Self::WebSocket(address) => Some(&address.endpoint),
            Self::Memory(_) | Self::Unix(_) => None,
        }
    }

    /// The same address with another port, if it has one.
    #[cfg(feature = "tcp")]
    pub(super) fn with_port(&self, port: u16) -> Self {
        let mut address = self.clone();
        if let Self::Tcp(endpoint)
        | Self::Tls(endpoint)
        | Self::Quic(endpoint)
        | Self::WebSocket(WebSocketAddress { endpoint, .. }) = &mut address
        {
            endpoint.port = port;
        }
        address
    }
}

impl FromStr for Address {
    type Err = BusError;

    fn from_str(text: &str) -> Result<Self, BusError> {
        let refuse = |reason: &str| {
            Err(BusError::Connect { address: text.to_owned(), reason: reason.to_owned(), source: None })
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                refuse("a path must follow \"unix:\"")
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        if let Some(name) = text.strip_prefix("mem:") {
            return if name.is_empty() {
                refuse("a name must follow \"mem:\"")
            } else {
                Ok(Self::Memory(name.into()))
            };
        }
        if let Some(endpoint) = text.strip_prefix("tcp://") {
            return endpoint.parse().map(Self::Tcp);
        }
        if let Some(endpoint) = text.strip_prefix("tls://") {
            return endpoint.parse().map(Self::Tls);
        }
        if let Some(endpoint) = text.strip_prefix("quic://") {
            return endpoint.parse().map(Self::Quic);
        }
        for (scheme, secure) in [("ws://", false), ("wss://", true)] {
            let Some(rest) = text.strip_prefix(scheme) else { continue };
            return WebSocketAddress::read(rest, secure).map(Self::WebSocket).map_err(|reason| {
                // What stands in a query or before the host may be a secret.
                let shown = without_credentials(rest).split(['?', '#']).next().unwrap_or_default();
                BusError::Connect {
                    address: format!("{scheme}{shown}"),
                    reason: reason.to_owned(),
                    source: None,
                }
            });
        }
        for (scheme, instead) in [("http://", "ws://"), ("https://", "wss://")] {
            let Some(rest) = text.strip_prefix(scheme) else { continue };
            // The rest may have secrets, as above.
            let place = without_credentials(rest.split(['/', '?', '#']).next().unwrap_or_default());
            return Err(BusError::Connect {
                address: format!("{scheme}{place}"),
                reason: format!(
                    "HTTP is what a gateway speaks; the bus's own protocol is at {instead}{place}/bus there"
                ),
                source: None,
            });
        }
        if text.is_empty() {
            return refuse("the address is empty; give a socket's path such as \"my_bus\"");
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return refuse(&format!(
                "\"{scheme}://\" is not a transport of this build; use unix:PATH, tcp://HOST:PORT, \
                 tls://HOST:PORT, quic://HOST:PORT, ws://HOST:PORT/PATH, wss://HOST:PORT/PATH or mem:NAME"
            ));
        }
        Ok(Self::Unix(text.into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(name) => write!(formatter, "mem:{name}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Tcp(endpoint) => write!(formatter, "tcp://{endpoint}"),
            Self::Tls(endpoint) => write!(formatter, "tls://{endpoint}"),
            Self::WebSocket(address) => address.fmt(formatter),
            Self::Quic(endpoint) => write!(formatter, "quic://{endpoint}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        for text in [
            "unix:/run/bus",
            "mem:inside",
            "tcp://localhost:4242",
            "tcp://10.0.0.1:0",
            "tls://bus.example.com:4242",
            "quic://[::1]:4242",
            "tcp://[fe80::1]:65535",
            "ws://localhost:4242",
            "ws://localhost:0/a/bus",
            "ws://[::1]:4242",
            "ws://[::1]/bus",
            "ws://10.0.0.1:443",
            "wss://bus.example.com/b%20us",
            "wss://bus.example.com:80/~bus@home",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_websocket_has_the_ports_and_the_path_of_http_unless_it_says_others() {
        for (text, host, port, path, secure) in [
            ("ws://localhost", "localhost", 80, "/", false),
            ("ws://localhost:80/", "localhost", 80, "/", false),
            ("wss://[::1]/bus", "::1", 443, "/bus", true),
            ("wss://host:4242/a/b", "host", 4242, "/a/b", true),
        ] {
            let Address::WebSocket(address) = text.parse().unwrap() else { panic!("{text}") };
            let endpoint = address.endpoint();
            assert_eq!((endpoint.host(), endpoint.port()), (host, port), "{text}");
            assert_eq!((address.path(), address.is_secure()), (path, secure), "{text}");
            assert_eq!(address.to_string().parse::<Address>().unwrap(), Address::WebSocket(address));
        }
        assert_eq!("ws://localhost:80/".parse::<Address>().unwrap().to_string(), "ws://localhost");
    }

    #[test]
    fn what_is_no_address_says_what_is_missing() {
        for (text, reason) in [
            ("tcp://localhost", "port"),
            ("tcp://localhost:", "number"),
            ("tcp://localhost:65536", "number"),
            ("tcp://:4242", "host"),
            ("tcp://::1:4242", "brackets"),
            ("tcp://[::1:4242", "bracket"),
            ("tcp://[localhost]:4242", "IPv6"),
            ("tcp://[::1]4242", "port"),
            ("tcp://alice:secret@host:1", "credentials"),
            ("tcp://host/path:1", "host"),
            ("ws://:80/", "host"),
            ("ws://::1/", "brackets"),
            ("ws://[::1/", "bracket"),
            ("ws://host:http/", "number"),
            ("ws://host/b us", "%XX"),
            ("ws://host/bus?token=secret", "path"),
            ("wss://host/#secret", "path"),
            ("wss://alice:secret@host/", "credentials"),
            ("", "empty"),
            ("smoke://hill", "transport"),
            ("http://localhost:8080", " ws://localhost:8080/bus "),
            ("http://localhost:8080/api/v1?token=secret", " ws://localhost:8080/bus "),
            ("https://alice:secret@bus.example.com", " wss://bus.example.com/bus "),
            ("https://bus.example.com/?a=secret@secret", " wss://bus.example.com/bus "),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
