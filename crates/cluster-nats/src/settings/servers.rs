//! URLs of servers, and who is named in them.

use std::net::IpAddr;

use async_nats::ServerAddr;
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use crate::error::NatsError;
use crate::limits;

/// What URLs name, without whom they name.
#[derive(Clone)]
pub(super) struct Servers {
    servers: Vec<ServerAddr>,
    pub(super) who: Option<Who>,
}

/// Who is named in an URL.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Who {
    User { name: String, password: Zeroizing<String> },
    Token(Zeroizing<String>),
}

impl Servers {
    pub(super) fn parse(urls: &str) -> Result<Self, NatsError> {
        let given: Vec<&str> = urls.split(',').map(str::trim).filter(|url| !url.is_empty()).collect();
        if given.is_empty() {
            return Err(NatsError::Servers("no server is named".into()));
        }
        if given.len() > limits::LINK_SERVERS {
            let (count, most) = (given.len(), limits::LINK_SERVERS);
            return Err(NatsError::Servers(format!("{count} servers are named, and {most} are the most")));
        }
        let (mut servers, mut who) = (Vec::with_capacity(given.len()), None);
        for url in given {
            // A password that has a `,` was cut apart by now, so that all is shown at once.
            let (server, named) =
                parse(url).map_err(|reason| NatsError::Url { given: masked(urls), reason })?;
            if let Some(named) = named {
                if who.as_ref().is_some_and(|known| *known != named) {
                    let what = "URLs of servers name different users: the bus is the same at all of them";
                    return Err(NatsError::Servers(what.into()));
                }
                who = Some(named);
            }
            servers.push(server);
        }
        Ok(Self { servers, who })
    }

    pub(super) fn addresses(&self) -> Vec<ServerAddr> {
        self.servers.clone()
    }

    pub(super) fn shown(&self) -> String {
        self.servers.iter().map(shown).collect::<Vec<_>>().join(",")
    }

    pub(super) fn ask_for_tls(&self) -> bool {
        self.servers.iter().any(ServerAddr::tls_required)
    }

    /// The first host that is not of this machine.
    pub(super) fn beyond_loopback(&self) -> Option<String> {
        let beyond = self.servers.iter().find(|server| {
            let host = server.host();
            !host
                .parse::<IpAddr>()
                .map_or(host.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
        });
        beyond.map(|server| server.host().to_owned())
    }
}

/// A server as it may be shown.
pub(crate) fn shown(server: &ServerAddr) -> String {
    let host = server.host();
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("{}://{bracketed}:{}", server.scheme(), server.port())
}

/// The error is what is wrong with it, without the URL.
fn parse(url: &str) -> Result<(ServerAddr, Option<Who>), String> {
    // What the parser says has nothing of the URL in it.
    let parsed: ServerAddr = url.parse().map_err(|error: std::io::Error| error.to_string())?;
    if !["nats", "tls"].contains(&parsed.scheme()) {
        return Err("it begins with neither `nats://` nor `tls://`".into());
    }
    if parsed.host().is_empty() {
        return Err("it names no host".into());
    }
    let decoded = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        decoded.map(|text| text.into_owned()).map_err(|_| "user or password is no UTF-8")
    };
    let who = match (parsed.username(), parsed.password()) {
        (Some(name), Some(password)) => {
            Some(Who::User { name: decoded(name)?, password: decoded(password)?.into() })
        }
        (Some(token), None) => Some(Who::Token(decoded(token)?.into())),
        (None, Some(_)) => return Err("it has a password and no user".into()),
        (None, None) => None,
    };
    let mut bare = parsed.into_inner();
    if !matches!(bare.path(), "" | "/") || bare.query().is_some() || bare.fragment().is_some() {
        return Err("something stands behind the host and its port".into());
    }
    if bare.set_username("").is_err() || bare.set_password(None).is_err() {
        return Err("it names no host".into());
    }
    let server = ServerAddr::from_url(bare).map_err(|error| error.to_string())?;
    Ok((server, who))
}

/// An URL, or several, without what may be secret: all before the last `@` but the first scheme.
#[must_use]
pub fn masked(url: &str) -> String {
    let Some((before, host)) = url.rsplit_once('@') else { return url.to_owned() };
    let scheme = before.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
    format!("{scheme}***@{host}")
}
