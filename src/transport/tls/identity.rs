//! The name that a client's certificate gives it.

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use crate::error::BusError;

/// What a URI among a certificate's alternative names begins with that tells the name of a client.
const SCHEME: &str = "whispeer:";

/// Bytes of the longest name: of a common name (RFC 5280, `ub-common-name`).
const LONGEST: usize = 64;

/// The name of a client whose certificate has been verified: what follows `whispeer:` in the URI among its
/// alternative names that begins with it, and where there is none, its subject's common name. There must be
/// exactly one.
pub(super) fn name(certificate: &CertificateDer<'_>) -> Result<String, BusError> {
    let refuse = |reason: &str| {
        Err(BusError::Denied { what: format!("the client's certificate gives it no name: {reason}") })
    };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return refuse("it cannot be read");
    };
    let Ok(alternatives) = parsed.subject_alternative_name() else {
        return refuse("its alternative names cannot be read");
    };
    let alternatives = alternatives.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let mut uris = alternatives.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(SCHEME),
        _ => None,
    });
    let name = match (uris.next(), uris.next()) {
        (Some(name), None) => name.to_owned(),
        (Some(_), Some(_)) => return refuse("more than one alternative name begins with \"whispeer:\""),
        (None, _) => {
            let mut common = parsed.subject().iter_common_name().map(|name| name.as_str());
            match (common.next(), common.next()) {
                (Some(Ok(name)), None) => name.to_owned(),
                (None, _) => return refuse("it has neither a URI \"whispeer:NAME\" nor a common name"),
                _ => return refuse("its common name is not one text"),
            }
        }
    };
    if name.is_empty() || name.len() > LONGEST || name.chars().any(char::is_control) {
        return refuse("the name is empty, longer than 64 bytes, or has control characters");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use whispeer_testkit::certificates::Authority;

    use super::*;

    fn name_of(common_name: &str, alternatives: &[&str]) -> Result<String, String> {
        let identity = Authority::new("ca").client_with_names(common_name, alternatives);
        name(identity.certificate()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_uri_goes_before_the_common_name() {
        assert_eq!(name_of("bob", &["whispeer:alice"]), Ok("alice".into()));
        assert_eq!(name_of("bob", &["https://example.com", "whispeer:alice"]), Ok("alice".into()));
        assert_eq!(name_of("bob", &["alice.example.com"]), Ok("bob".into()));
    }

    #[test]
    fn who_has_no_name_or_two_is_refused() {
        for (common_name, alternatives) in [
            ("bob", &["whispeer:alice", "whispeer:carol"][..]),
            ("bob", &["whispeer:"]),
            ("", &[]),
            (&"x".repeat(65), &[]),
            ("a\u{7}b", &[]),
        ] {
            assert!(name_of(common_name, alternatives).is_err(), "{common_name} {alternatives:?}");
        }
    }
}
