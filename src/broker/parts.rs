//! What a broker is put together from.

use std::ffi::OsString;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::builder::BrokerBuilder;
use super::persistence::Kept;
use crate::engine::compression::Compression;
use crate::engine::encryption::{self, Key, Keyring};
#[cfg(feature = "websocket")]
use crate::error::BusError;
use crate::error::BusResult;
#[cfg(feature = "websocket")]
use crate::transport::Address;
#[cfg(all(feature = "tls", feature = "websocket"))]
use crate::transport::{ClientTls, ServerTls};

/// The variable of the environment that names the file of the keyring, here as for the command `whispeer`.
const KEYRING_VARIABLE: &str = "WHISPEER_KEYRING";

/// The keys of brokers in this process that were given none. They share them, so that two of them understand each other.
static DRAWN: Mutex<Option<Keyring>> = Mutex::new(None);

/// Something that a broker is put together from, by [`BrokerBuilder::with`]. What it has already of that kind is replaced.
pub trait Part: sealed::Add {}

impl<P: sealed::Add> Part for P {}

pub(super) mod sealed {
    use super::BrokerBuilder;

    pub trait Add {
        #[doc(hidden)]
        fn add(self, builder: &mut BrokerBuilder);
    }
}

/// Encrypts all that the broker publishes, end to end, and refuses what comes to its subscriptions unencrypted.
///
/// For algorithms, signatures and the like, give the engine itself as the part:
/// [`engine::encryption::Encryption`](encryption::Encryption).
#[derive(Debug, Clone, Default)]
pub struct Encryption {
    keyring: Option<Keyring>,
}

impl Encryption {
    /// With the keyring in the file that the variable `WHISPEER_KEYRING` names. Where it is not set, a key is drawn that lives
    /// with the process and that all brokers in it share, and the log says so once: others cannot read what is encrypted
    /// with it.
    ///
    /// A broker that keeps messages in a file ([`Persistence`](super::Persistence)) has a keyring beside it instead, so that
    /// they can be read as long as they are there. It has the name of the file with `.keys` behind it, where that really is if
    /// it is named by a link, and is for its owner alone. Whoever loses it loses the messages: back it up with them.
    ///
    /// It is made where nothing of that name is there and nothing that is stored is encrypted: at the first start, or when a
    /// broker begins to encrypt that has kept messages in plain, which looks at all of them once. Those are then refused by its
    /// subscriptions, as whatever comes in plain. Otherwise [`build`](super::BrokerBuilder::build) fails and says what to do: also
    /// where the keyring is a link to what is not there, or may not be read. It is never replaced.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With this keyring, also with keys that it gets later.
    #[must_use]
    pub fn with_keys(keyring: &Keyring) -> Self {
        Self { keyring: Some(keyring.clone()) }
    }

    pub(super) async fn engine(self, kept: Option<&Kept>) -> BusResult<encryption::Encryption> {
        let named = std::env::var_os(KEYRING_VARIABLE).filter(|file| !file.is_empty());
        let keyring = match (self.keyring, kept) {
            (Some(keyring), _) => keyring,
            (None, Some(kept)) if named.is_none() => match kept.keyring().await? {
                Some(keyring) => keyring,
                None => keyring(None)?,
            },
            (None, _) => keyring(named)?,
        };
        encryption::Encryption::new(&keyring)
    }
}

/// The keyring in this file, or that of the process.
fn keyring(file: Option<OsString>) -> BusResult<Keyring> {
    if let Some(file) = file.filter(|file| !file.is_empty()) {
        return Keyring::read(Path::new(&file));
    }
    let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(keyring) = &*drawn {
        return Ok(keyring.clone());
    }
    let keyring = Keyring::with(Key::generate()?)?;
    tracing::warn!(
        "a broker encrypts with a key that was drawn for this process, which others do not have and which ends with it; \
         `whispeer keys new FILE` makes a keyring, and {KEYRING_VARIABLE} names it"
    );
    *drawn = Some(keyring.clone());
    Ok(keyring)
}

impl sealed::Add for Encryption {
    fn add(self, builder: &mut BrokerBuilder) {
        builder.encryption = Some(super::builder::Encrypting::Keys(self));
    }
}

impl sealed::Add for encryption::Encryption {
    fn add(self, builder: &mut BrokerBuilder) {
        builder.encryption = Some(super::builder::Encrypting::Engine(self));
    }
}

impl sealed::Add for Compression {
    fn add(self, builder: &mut BrokerBuilder) {
        builder.compression = Some(self);
    }
}

/// Others, over WebSocket: they come to the broker's bus, or it goes to theirs.
///
/// Addresses are those of a bus, `ws://HOST:PORT/PATH` or `wss://…`; `http://` and `https://` are read as these. What goes
/// there are the bus's own frames, in binary messages: whatever client of a bus can be at the other end.
#[cfg(feature = "websocket")]
#[derive(Debug, Clone)]
pub struct WebSocket {
    pub(super) address: String,
    pub(super) joins: bool,
    #[cfg(feature = "tls")]
    pub(super) server_tls: Option<ServerTls>,
    #[cfg(feature = "tls")]
    pub(super) client_tls: Option<ClientTls>,
}

#[cfg(feature = "websocket")]
impl WebSocket {
    /// Listens there, so that others can come to the broker's bus. As it asks nobody who he is, that has to be an address of
    /// the loopback; see [`Bus`](crate::Bus) for more.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            joins: false,
            #[cfg(feature = "tls")]
            server_tls: None,
            #[cfg(feature = "tls")]
            client_tls: None,
        }
    }

    /// Goes to the bus that listens there, of another broker or of `whispeer serve`, and has none of its own. It comes back
    /// when the connection breaks.
    #[must_use]
    pub fn join(address: impl Into<String>) -> Self {
        Self { joins: true, ..Self::new(address) }
    }

    /// The certificate and key of a broker that listens at `https://` or `wss://`.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn server_tls(mut self, tls: ServerTls) -> Self {
        self.server_tls = Some(tls);
        self
    }

    /// Whom a broker that joins at `https://` or `wss://` trusts.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn client_tls(mut self, tls: ClientTls) -> Self {
        self.client_tls = Some(tls);
        self
    }

    pub(super) fn parsed(&self) -> BusResult<Address> {
        let text = &self.address;
        let read = match text.split_once("://") {
            Some(("http", rest)) => format!("ws://{rest}"),
            Some(("https", rest)) => format!("wss://{rest}"),
            _ => text.clone(),
        };
        match read.parse()? {
            address @ Address::WebSocket(_) => Ok(address),
            address => Err(BusError::InvalidSettings(format!(
                "{address} is no address of WebSocket; it begins with ws://, wss://, http:// or https://"
            ))),
        }
    }
}

#[cfg(feature = "websocket")]
impl sealed::Add for WebSocket {
    fn add(self, builder: &mut BrokerBuilder) {
        builder.websocket = Some(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_without_a_keyring_share_one_of_the_process() {
        let ids = |keyring: Keyring| keyring.keys().iter().map(|entry| entry.id).collect::<Vec<_>>();
        let first = ids(keyring(None).unwrap());
        assert_eq!(first.len(), 1);
        assert_eq!(ids(keyring(Some(OsString::new())).unwrap()), first);
    }

    #[test]
    fn a_keyring_that_is_named_and_not_there_is_an_error_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let error = keyring(Some(directory.path().join("none.keys").into())).unwrap_err();
        assert!(error.to_string().contains("none.keys"), "{error}");
    }

    #[cfg(feature = "websocket")]
    #[test]
    fn http_is_read_as_websocket_and_other_transports_are_refused() {
        let parsed = |text: &str| WebSocket::new(text).parsed().map(|address| address.to_string());
        assert_eq!(parsed("http://localhost:8080").unwrap(), parsed("ws://localhost:8080").unwrap());
        assert_eq!(
            parsed("https://localhost:8080/bus").unwrap(),
            parsed("wss://localhost:8080/bus").unwrap()
        );
        assert!(parsed("tcp://localhost:8080").unwrap_err().to_string().contains("no address of WebSocket"));
        assert!(parsed("http://").is_err());
    }
}
