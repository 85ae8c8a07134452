//! How to use what was made: all lines that name an option of `whispeer serve` or of a client stand here.

use std::path::Path;

use super::details::Details;
use super::folder::{AUTHORITY, Folder, REVOCATIONS};
use super::names::{Kind, Name};
use crate::failure::shell_word;

/// The folder that is used when none is given.
pub(crate) const FOLDER: &str = "certs";

/// The name of a server certificate's files when none is given.
pub(crate) const SERVER: &str = "server";

/// The port in the examples.
const PORT: u16 = 4242;

/// Options of `whispeer serve`.
const SERVE_CERTIFICATE: &str = "--tls-cert";
const SERVE_KEY: &str = "--tls-key";
const SERVE_CLIENT_AUTHORITY: &str = "--tls-client-ca";
const SERVE_REVOCATIONS: &str = "--tls-crl";

/// Options of every command that connects to a bus.
const CLIENT_AUTHORITY: &str = "--ca";
const CLIENT_CERTIFICATE: &str = "--cert";
const CLIENT_KEY: &str = "--key";

/// A command line of `whispeer certs` for this folder, such as `init`.
pub(crate) fn command(folder: &Path, arguments: &str) -> String {
    if folder == Path::new(FOLDER) {
        return format!("whispeer certs {arguments}");
    }
    let folder = shell_word(&folder.to_string_lossy());
    format!("whispeer certs --dir {folder} {arguments}")
}

/// What to do with a new CA.
pub(crate) fn of_authority(folder: &Folder) -> String {
    let path = folder.path();
    let key = folder.key_path(AUTHORITY);
    format!(
        "Make certificates with it:\n  {}\n  {}\n  {}\n\n\
         Whoever has {} can make certificates that all of you trust: keep it to yourself.\n",
        command(path, "server"),
        command(path, "server bus.example.com 192.0.2.7"),
        command(path, "client alice"),
        key.display(),
    )
}

/// What to do when there is a new CA in the place of another one.
pub(crate) fn of_replaced_authority(folder: &Folder) -> String {
    format!(
        "\nMake the certificates of the CA before anew:\n  {}\n",
        command(folder.path(), "renew --all --force")
    )
}

/// How a bus and its clients use a server's certificate.
pub(crate) fn of_server(folder: &Folder, name: &str, names: &[Name]) -> String {
    let serve = Line::new("whispeer serve")
        .word(&listening_address(names))
        .next_line()
        .option(SERVE_CERTIFICATE, &folder.certificate_path(name))
        .option(SERVE_KEY, &folder.key_path(name))
        .next_line()
        .option(SERVE_CLIENT_AUTHORITY, &folder.certificate_path(AUTHORITY))
        .option(SERVE_REVOCATIONS, &folder.certificate_path(REVOCATIONS));
    let client = client_line(folder, &address(names), "NAME");
    format!(
        "Start the bus:\n{serve}\nConnect to it, with what `{}` makes:\n{client}",
        command(folder.path(), "client NAME")
    )
}

/// How a client uses its certificate.
pub(crate) fn of_client(folder: &Folder, name: &str) -> String {
    let server = folder.certificate(SERVER).ok().flatten();
    let names =
        server.map_or_else(
            Vec::new,
            |(details, _): (Details, _)| {
                if details.kind == Kind::Server { details.names } else { Vec::new() }
            },
        );
    format!("Connect with it:\n{}", client_line(folder, &address(&names), name))
}

/// How a bus learns of what was revoked.
pub(crate) fn of_revocation(folder: &Folder) -> String {
    let list =
        Line::new("whispeer serve ...").option(SERVE_REVOCATIONS, &folder.certificate_path(REVOCATIONS));
    format!(
        "A bus refuses what is revoked when it has the list; a running one reads it again on SIGHUP:\n{list}"
    )
}

fn client_line(folder: &Folder, address: &str, name: &str) -> String {
    Line::new("whispeer info --addr")
        .word(address)
        .next_line()
        .option(CLIENT_AUTHORITY, &folder.certificate_path(AUTHORITY))
        .option(CLIENT_CERTIFICATE, &folder.certificate_path(name))
        .option(CLIENT_KEY, &folder.key_path(name))
        .to_string()
}

/// Where a bus with these names listens: on this host alone, or on all of its addresses.
fn listening_address(names: &[Name]) -> String {
    if names.iter().all(Name::is_loopback) { address(names) } else { format!("tls://[::]:{PORT}") }
}

/// Where a bus with these names is reached.
fn address(names: &[Name]) -> String {
    let host = names.iter().find_map(|name| match name {
        Name::Dns(name) => Some(name.strip_prefix("*.").map_or(name.clone(), |rest| format!("bus.{rest}"))),
        Name::Address(address) if address.is_ipv6() => Some(format!("[{address}]")),
        Name::Address(address) => Some(address.to_string()),
        Name::Uri(_) | Name::Other => None,
    });
    format!("tls://{}:{PORT}", host.as_deref().unwrap_or("localhost"))
}

/// A command line as it can be pasted into a shell, over several lines.
#[derive(Debug)]
struct Line(String);

impl Line {
    fn new(command: &str) -> Self {
        Self(format!("  {command}"))
    }

    fn word(mut self, word: &str) -> Self {
        self.0.push(' ');
        self.0.push_str(&shell_word(word));
        self
    }

    fn option(self, option: &str, path: &Path) -> Self {
        self.word(option).word(&path.to_string_lossy())
    }

    fn next_line(mut self) -> Self {
        self.0.push_str(" \\\n   ");
        self
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(formatter, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Name> {
        names.iter().map(|name| Name::of_server(name).unwrap()).collect()
    }

    #[test]
    fn a_certificate_for_this_host_alone_is_shown_listening_on_it_alone() {
        let local = names(&["localhost", "127.0.0.1", "::1"]);
        assert_eq!(listening_address(&local), "tls://localhost:4242");
        let public = names(&["bus.example.com", "127.0.0.1"]);
        assert_eq!(listening_address(&public), "tls://[::]:4242");
        assert_eq!(address(&public), "tls://bus.example.com:4242");
        assert_eq!(address(&names(&["*.example.com"])), "tls://bus.example.com:4242");
        assert_eq!(address(&names(&["2001:db8::7"])), "tls://[2001:db8::7]:4242");
    }

    #[test]
    fn lines_can_be_pasted_into_a_shell() {
        let folder = Folder::look(Path::new("my certs"));
        let text = of_server(&folder, "server", &names(&["bus.example.com"]));
        assert!(text.contains("whispeer serve 'tls://[::]:4242' \\\n"), "{text}");
        assert!(
            text.contains(" --tls-cert 'my certs/server.pem' --tls-key 'my certs/server.key' \\\n"),
            "{text}"
        );
        assert!(text.contains("`whispeer certs --dir 'my certs' client NAME`"), "{text}");
    }
}
