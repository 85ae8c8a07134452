//! Where a bus can be found.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::BusError;

/// An address of a bus, as it is written on a command line.
///
/// | written | meaning |
/// |---|---|
/// | `unix:PATH`, or `PATH` alone | the Unix socket at that path |
/// | `mem:NAME` | a listener in this process |
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
        if text.is_empty() {
            return refuse("the address is empty; give a socket's path such as \"my_bus\"");
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return refuse(&format!(
                "\"{scheme}://\" is not a transport of this build; use unix:PATH or mem:NAME"
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
        }
    }
}
