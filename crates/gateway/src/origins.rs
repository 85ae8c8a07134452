//! Which pages may use the gateway.
//!
//! Browsers let any page ask any address that their user can reach. So a page's origin has to be listed, whatever it asks
//! for and wherever the gateway listens; and the gateway has to be asked for by a name of its own, as a page could give
//! another one its address and would be of the same origin then (DNS rebinding). Callers that are no browsers send no origin.
//!
//! Neither do browsers with all that pages have them ask: pictures, scripts, frames and links come without. Browsers say of each
//! request whose page it is for, though (Fetch Metadata, <https://www.w3.org/TR/fetch-metadata/>), and what is for another site's is
//! refused as well (resource isolation). They say so at `https` and on the loopback alone.

use std::net::SocketAddr;

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};

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

    /// Whether a request that has passed [`check`](Self::check) is for a page that may ask, as far as its browser says.
    ///
    /// With an origin it is, as that is listed. Without, it has to be for a page of the gateway's own origin, or for nobody's, as
    /// what is typed in by hand. Other sites may link to pages of the folder (`is_page`), and neither embed nor load anything.
    pub(crate) fn check_site(method: &Method, headers: &HeaderMap, is_page: bool) -> Result<(), Problem> {
        let says = |name: &str, value: &str| headers.get(name).is_some_and(|said| said == value);
        // What is no word of today's is not one that lets anybody in.
        let is_own = |site: &HeaderValue| site == "same-origin" || site == "none";
        let is_link = || {
            *method == Method::GET && says("sec-fetch-mode", "navigate") && says("sec-fetch-dest", "document")
        };
        if headers.contains_key(ORIGIN)
            || headers.get_all("sec-fetch-site").iter().all(is_own)
            || (is_page && is_link())
        {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "a page of another site asks for this without saying its origin, as with pictures, scripts and frames; have it \
             ask with `fetch` (or `crossorigin`), and list its origin (`origins` in `[gateway]`)",
        )
        .code("site"))
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

    /// Whether a request passes for which a browser says this of site, mode and destination.
    fn fetched(method: &Method, origin: bool, said: [&str; 3], is_page: bool) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in ["sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"].into_iter().zip(said) {
            if !value.is_empty() {
                headers.insert(name, value.parse().unwrap());
            }
        }
        if origin {
            headers.insert(ORIGIN, HeaderValue::from_static("https://app.example.com"));
        }
        Origins::check_site(method, &headers, is_page).is_ok()
    }

    #[test]
    fn of_other_sites_pages_only_links_to_pages_come_in_without_an_origin() {
        let modes = ["", "cors", "no-cors", "navigate", "same-origin", "websocket"];
        let destinations = ["", "document", "empty", "iframe", "frame", "embed", "object", "image", "script"];
        for site in ["", "none", "same-origin", "same-site", "cross-site", "elsewhere"] {
            for mode in modes {
                for dest in destinations {
                    for method in [Method::GET, Method::HEAD, Method::POST] {
                        for is_page in [false, true] {
                            let what = format!("{method} {site} {mode} {dest} {is_page}");
                            let said = [site, mode, dest];
                            let is_own = ["", "none", "same-origin"].contains(&site);
                            let is_link =
                                is_page && method == Method::GET && (mode, dest) == ("navigate", "document");
                            assert_eq!(fetched(&method, false, said, is_page), is_own || is_link, "{what}");
                            // One that is not listed does not come as far.
                            assert!(fetched(&method, true, said, is_page), "{what}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn who_says_twice_where_he_is_has_to_be_right_twice() {
        let mut headers = HeaderMap::new();
        headers.append("sec-fetch-site", HeaderValue::from_static("same-origin"));
        headers.append("sec-fetch-site", HeaderValue::from_static("cross-site"));
        assert!(Origins::check_site(&Method::GET, &headers, false).is_err());
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
