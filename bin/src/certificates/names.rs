//! What a certificate may be for, and how its files are called.

use std::fmt;
use std::net::IpAddr;

use rustls_pki_types::DnsName;

use crate::failure::Failure;

/// The scheme of the URI that carries a client's name among the alternative names of its certificate:
/// `whispeer:alice`. The common name of the subject says the same to tools that show certificates.
pub(crate) const CLIENT_SCHEME: &str = "whispeer:";

/// Characters of a client's name: as many as the common name of a subject may have (RFC 5280,
/// `ub-common-name`).
const LONGEST_NAME: usize = 64;

/// Names that one server certificate may have. Each makes every handshake longer; more than this is a
/// list that was meant for something else.
pub(crate) const MOST_SERVER_NAMES: usize = 100;

/// File names that have a meaning of their own in the folder.
const RESERVED: [&str; 2] = ["ca", "crl"];

/// What a certificate is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Authority,
    Server,
    Client,
    /// None of ours: for several purposes, or none that is known here.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Authority => "ca",
            Self::Server => "server",
            Self::Client => "client",
            Self::Other => "other",
        })
    }
}

/// One of the alternative names of a certificate's subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    Dns(String),
    Address(IpAddr),
    Uri(String),
    /// Of a form that `whispeer certs` never makes, and so cannot renew.
    Other,
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(text) | Self::Uri(text) => formatter.write_str(text),
            Self::Address(address) => write!(formatter, "{address}"),
            Self::Other => formatter.write_str("(other)"),
        }
    }
}

impl Name {
    /// The name under which a bus is reached: a DNS name, perhaps with `*` as its first label, or an IP
    /// address, perhaps in the brackets that it has in an address.
    pub(crate) fn of_server(text: &str) -> anyhow::Result<Self> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Self::Address(address));
        }
        let labels = text.strip_prefix("*.").unwrap_or(text);
        // A wildcard for all of a top-level domain is refused by those who check it.
        let wildcard_too_wide = labels.len() < text.len() && !labels.contains('.');
        if DnsName::try_from(labels).is_ok() && !labels.ends_with('.') && !wildcard_too_wide {
            return Ok(Self::Dns(text.to_ascii_lowercase()));
        }
        let failure = Failure::usage(format!("\"{text}\" cannot be the name of a server"));
        let help = match text {
            _ if text.contains("://") || text.contains('/') => {
                "give the host's name alone, without the scheme"
            }
            _ if text.contains(':') => "give the host's name alone, without the port",
            _ if !text.is_ascii() => "write an international name in its ASCII form, which begins with xn--",
            _ => "give a DNS name or an IP address, such as bus.example.com or 192.0.2.7",
        };
        Err(failure.help(help).into())
    }

    /// What a client's certificate says of its name, for those who check it.
    pub(crate) fn of_client(name: &str) -> Self {
        Self::Uri(format!("{CLIENT_SCHEME}{name}"))
    }

    /// Whether only this host can be meant.
    pub(crate) fn is_loopback(&self) -> bool {
        match self {
            Self::Dns(name) => name == "localhost" || name.ends_with(".localhost"),
            Self::Address(address) => address.is_loopback(),
            Self::Uri(_) | Self::Other => false,
        }
    }
}

/// Refuses what cannot be a client's name and the name of its files.
///
/// The characters that are left need no escaping in a URI, in a file's name or in a shell.
pub(crate) fn check_client(name: &str) -> anyhow::Result<()> {
    check(name, "the name of a client", "alice or alice@example.com")
}

/// Refuses what cannot be the name of a server certificate's files.
pub(crate) fn check_file(name: &str) -> anyhow::Result<()> {
    check(name, "the name of certificate files", "server or bus-1")
}

fn check(name: &str, what: &str, examples: &str) -> anyhow::Result<()> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "-_.@".contains(character);
    let failure = Failure::usage(format!("\"{name}\" cannot be {what}"));
    if name.is_empty()
        || name.len() > LONGEST_NAME
        || name.starts_with(['-', '.'])
        || name.ends_with(".pem")
        || name.ends_with(".key")
        || !name.chars().all(allowed)
    {
        let help = format!(
            "use at most {LONGEST_NAME} letters (a to z), digits, '-', '_', '.' and '@', such as {examples}"
        );
        return Err(failure.help(help).into());
    }
    if RESERVED.contains(&name) {
        return Err(failure.help(format!("{name}.pem has a meaning of its own; choose another name")).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_dns_names_and_addresses() {
        for name in ["localhost", "bus.example.com", "*.example.com", "a_b.local", "xn--bcher-kva.example"] {
            assert_eq!(Name::of_server(name).unwrap(), Name::Dns(name.into()), "{name}");
        }
        assert_eq!(Name::of_server("Bus.Example.COM").unwrap().to_string(), "bus.example.com");
        assert_eq!(Name::of_server("192.0.2.7").unwrap(), Name::Address([192, 0, 2, 7].into()));
        assert_eq!(Name::of_server("[::1]").unwrap(), Name::of_server("::1").unwrap());
    }

    #[test]
    fn what_is_no_servers_name_is_refused_with_what_to_write() {
        for (name, help) in [
            ("tls://host", "without the scheme"),
            ("host:4242", "without the port"),
            ("bücher.example", "xn--"),
            ("", "DNS name"),
            ("a..b", "DNS name"),
            ("-a", "DNS name"),
            ("host.", "DNS name"),
            ("*", "DNS name"),
            ("*.com", "DNS name"),
            ("a.*.com", "DNS name"),
            ("1.2.3", "DNS name"),
            ("a b", "DNS name"),
        ] {
            let error = Name::of_server(name).unwrap_err();
            let failure = error.downcast_ref::<Failure>().unwrap();
            assert!(format!("{failure:?}").contains(help), "{name}: {failure:?}");
        }
    }

    #[test]
    fn clients_names_need_no_escaping_anywhere() {
        for name in ["alice", "Alice-1", "alice@example.com", "a.b_c"] {
            assert!(check_client(name).is_ok(), "{name}");
        }
        let long = "a".repeat(65);
        for name in
            ["", "-a", ".a", "a/b", "a b", "ä", "a:b", "a%20", "ca", "crl", "alice.pem", "a.key", &long]
        {
            assert!(check_client(name).is_err(), "{name}");
        }
    }
}
