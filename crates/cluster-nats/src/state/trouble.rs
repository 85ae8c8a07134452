//! Why NATS is not reached, in words for who has to do something about it.

use async_nats::ServerAddr;

use crate::limits;

/// What kind of trouble it is, the one that people have to see to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Nobody answers, or not in time: that may pass.
    Unreachable,
    /// The two do not agree on TLS.
    Tls,
    /// The server does not let the bus in.
    Refused,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) kind: Kind,
    pub(super) text: String,
}

impl Trouble {
    /// What the client says of one attempt.
    pub(super) fn new(said: &str) -> Self {
        let lower = said.to_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let (kind, what_to_do) = if has(&["authorization", "authentication", "failed signing"]) {
            (
                Kind::Refused,
                "; check the user, token, credentials or NKey of the bus, and whether NATS knows them",
            )
        } else if has(&["certificate", "tls", "handshake", "invalid peer", "unknownca", "corrupt message"]) {
            (
                Kind::Tls,
                "; check that both speak TLS, the file with the CA, the server's name, and the bus's own certificate",
            )
        } else {
            (Kind::Unreachable, "")
        };
        let said: String =
            said.chars().filter(|letter| !letter.is_control()).take(limits::LINK_ERROR_CHARACTERS).collect();
        Self { kind, text: said + what_to_do }
    }

    /// The worst of what is known of servers.
    pub(super) fn of_servers<'a>(
        servers: impl Iterator<Item = (&'a ServerAddr, Option<&'a str>)>,
    ) -> Option<Self> {
        let troubles = servers.filter_map(|(address, said)| Some((Self::new(said?), address)));
        let (trouble, address) = troubles.max_by_key(|(trouble, _)| trouble.kind)?;
        let text = format!("{}: {}", crate::settings::shown(address), trouble.text);
        Some(Self { text, ..trouble })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_have_to_see_to_is_told_apart_from_what_may_pass() {
        for (said, kind) in [
            ("authorization violation: nats: authorization violation", Kind::Refused),
            ("IO error: nats: User Authentication Expired", Kind::Refused),
            ("IO error: invalid peer certificate: UnknownIssuer", Kind::Tls),
            ("TLS error: no name", Kind::Tls),
            ("IO error: Connection refused (os error 111)", Kind::Unreachable),
            ("timed out", Kind::Unreachable),
        ] {
            assert_eq!(Trouble::new(said).kind, kind, "{said}");
        }
        let trouble = Trouble::new("authorization violation");
        assert!(trouble.text.contains("check the user"), "{}", trouble.text);
    }

    #[test]
    fn what_a_server_says_is_cut_and_cannot_forge_lines_of_a_log() {
        let trouble = Trouble::new(&"a\nb".repeat(10_000));
        assert_eq!(trouble.text.chars().count(), limits::LINK_ERROR_CHARACTERS);
        assert!(!trouble.text.contains('\n'));
    }
}
