//! Which pages may use the gateway.
//!
//! Browsers let any page ask any address that their user can reach. So a page's origin has to be listed, whatever it asks
//! for and wherever the gateway listens; and the gateway has to be asked for by a name of its own, as a page could give
//! another one its address and would be of the same origin then (DNS rebinding). Callers that are no browsers send no origin.

use std::net::SocketAddr;

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};

use crate::Settings;
use crate::gateway::GatewayError;
use crate::problem::Problem;

/// Names of this host that nobody else can give it.
const OWN: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Whom requests may come from.
#[derive(Debug)]
pub(crate) struct Origins {
    /// In small letters.
    listed: Vec<String>,
    /// Names by which it may be asked for, in small letters.
    hosts: Vec<String>,
}

impl Origins {
    /// What the settings list, and on the loopback the gateway's own, which listens at `local`.
    pub(crate) fn new(settings: &Settings, local: &[SocketAddr]) -> Result<Self, GatewayError> {
        let mut listed = Vec::new();
        for origin in &settings.origins {
            if !is_origin(origin) {
                return Err(GatewayError::Settings(format!(
                    "\"{origin}\" is no origin; write it as browsers do, such as https://app.example.com, without a path"
                )));
            }
            listed.push(origin.to_ascii_lowercase());
        }
        let mut hosts: Vec<String> = settings.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        if let Some(wrong) = hosts.iter().find(|host| host.is_empty() || host.contains(['/', '@', ' '])) {
            return Err(GatewayError::Settings(format!(
                "\"{wrong}\" is no host; write its name, with or without a port, such as bus.example.com"
            )));
        }
        // A name whose origin is listed is one of those that people give it.
        hosts.extend(
            listed.iter().filter_map(|origin| origin.split_once("://")).map(|(_, host)| host.to_owned()),
        );
        hosts.extend(OWN.map(str::to_owned));
        for address in local.iter().filter(|address| address.ip().is_loopback()) {
            listed.extend(OWN.map(|own| format!("http://{own}:{}", address.port())));
            if address.port() == 80 {
                listed.extend(OWN.map(|own| format!("http://{own}")));
            }
        }
        Ok(Self { listed, hosts })
    }

    /// Whether a page of this origin may use the gateway.
    pub(crate) fn lists(&self, origin: &HeaderValue) -> bool {
        self.listed.iter().any(|listed| listed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()))
    }

    /// Whether a request with these headers may pass.
    pub(crate) fn check(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
        for origin in headers.get_all(ORIGIN) {
            if !self.lists(origin) {
                let origin = String::from_utf8_lossy(origin.as_bytes());
                let origin: String = origin.chars().take(200).collect();
                return Err(Problem::new(
                    StatusCode::FORBIDDEN,
                    format!(
                        "pages of {origin:?} are not let in; to do so, list that origin (`origins` in `[gateway]`)"
                    ),
                )
                .code("origin"));
            }
        }
        let mut hosts = headers.get_all(HOST).iter();
        let named = match (uri.authority(), hosts.next(), hosts.next()) {
            (Some(authority), ..) => authority.as_str().as_bytes(),
            (None, Some(host), None) => host.as_bytes(),
            _ => return Err(Problem::bad_request("a request has one header `Host`").code("host")),
        };
        let named = String::from_utf8_lossy(named).to_ascii_lowercase();
        if self.is_own(&named) {
            return Ok(());
        }
        let named: String = named.chars().take(200).collect();
        Err(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            format!("this is not {named:?}; if it is known by that name, list it (`hosts` in `[gateway]`)"),
        )
        .code("host"))
    }

    /// Whether the gateway may be asked for by this name. An address is nobody's to give away.
    fn is_own(&self, named: &str) -> bool {
        let bare = match named.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => named,
        };
        let address = bare.trim_start_matches('[').trim_end_matches(']');
        address.parse::<std::net::IpAddr>().is_ok()
            || self.hosts.iter().any(|host| host == named || host == bare)
    }
}

/// Whether it is scheme, host and maybe a port, as browsers send it.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let is_scheme = matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https");
    let fits =
        |uri: Uri| uri.authority().is_some_and(|host| !host.as_str().contains('@')) && uri.query().is_none();
    is_scheme && !host.contains('/') && text.parse().is_ok_and(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(local: &str, headers: &[(&str, &str)]) -> Result<(), StatusCode> {
        let mut settings = Settings::new(local.parse().unwrap());
        settings.origins = vec!["https://app.example.com".into()];
        settings.hosts = vec!["bus.example.com".into()];
        let origins = Origins::new(&settings, &settings.listen).unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        origins.check(&map, &Uri::from_static("/")).map_err(|problem| problem.status())
    }

    #[test]
    fn who_is_no_browser_sends_no_origin_and_is_let_in() {
        for host in [
            "localhost:80",
            "127.0.0.1",
            "[::1]:8080",
            "192.0.2.1:8080",
            "bus.example.com:1",
            "APP.example.com",
        ] {
            assert_eq!(check("0.0.0.0:8080", &[("host", host)]), Ok(()), "{host}");
        }
    }

    #[test]
    fn pages_are_let_in_if_their_origin_is_listed() {
        let from = |local, origin| check(local, &[("host", "localhost:8080"), ("origin", origin)]);
        assert_eq!(from("127.0.0.1:8080", "https://app.example.com"), Ok(()));
        assert_eq!(from("127.0.0.1:8080", "http://localhost:8080"), Ok(()));
        assert_eq!(from("127.0.0.1:8080", "http://localhost:8081"), Err(StatusCode::FORBIDDEN));
        assert_eq!(from("0.0.0.0:8080", "http://localhost:8080"), Err(StatusCode::FORBIDDEN));
        for origin in
            ["null", "http://app.example.com", "https://app.example.com.evil.example", "https://evil.example"]
        {
            assert_eq!(from("127.0.0.1:8080", origin), Err(StatusCode::FORBIDDEN), "{origin}");
        }
    }

    #[test]
    fn a_name_that_somebody_else_gave_it_is_refused() {
        let named = |host| check("127.0.0.1:8080", &[("host", host)]);
        assert_eq!(named("evil.example:8080"), Err(StatusCode::MISDIRECTED_REQUEST));
        assert_eq!(check("127.0.0.1:8080", &[]), Err(StatusCode::BAD_REQUEST));
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(check("127.0.0.1:8080", &twice), Err(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn what_is_listed_has_to_be_an_origin() {
        let mut settings = Settings::new("127.0.0.1:1".parse().unwrap());
        for origin in
            ["*", "null", "app.example.com", "https://app.example.com/", "https://", "ftp://a", "http://a@b"]
        {
            settings.origins = vec![origin.into()];
            let error = Origins::new(&settings, &settings.listen).unwrap_err();
            assert!(error.to_string().contains(origin), "{error}");
        }
    }
}
