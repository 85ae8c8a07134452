//! The certificates for tests are what they say, in the eyes of the library that rustls asks.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::os::unix::fs::PermissionsExt;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use webpki::{EndEntityCert, Error};
use whispeer_testkit::certificates::{
    Authority, CLIENT, Certificates, Identity, LOCAL_NAMES, Purpose, verify,
};

fn has_name(server: &Identity, name: &str) -> bool {
    let certificate = EndEntityCert::try_from(server.certificate()).unwrap();
    certificate.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap()).is_ok()
}

#[test]
fn good_certificates_are_accepted_for_their_own_purpose_alone() {
    let made = Certificates::new();
    let (server, client) = (made.server.certificate(), made.client.certificate());
    let list = Some(made.revocations.list());
    assert_eq!(verify(server, made.authority.certificate(), Purpose::Server, list), Ok(()));
    assert_eq!(verify(client, made.authority.certificate(), Purpose::Client, list), Ok(()));
    assert!(matches!(
        verify(server, made.authority.certificate(), Purpose::Client, None),
        Err(Error::RequiredEkuNotFoundContext(_))
    ));
    assert!(matches!(
        verify(client, made.authority.certificate(), Purpose::Server, None),
        Err(Error::RequiredEkuNotFoundContext(_))
    ));
}

#[test]
fn the_others_are_refused_for_the_reason_that_they_were_made_for() {
    let made = Certificates::new();
    let client = |identity: &Identity| {
        verify(
            identity.certificate(),
            made.authority.certificate(),
            Purpose::Client,
            Some(made.revocations.list()),
        )
    };
    assert!(matches!(client(&made.expired_client), Err(Error::CertExpired { .. })));
    assert!(matches!(client(&made.future_client), Err(Error::CertNotValidYet { .. })));
    assert_eq!(client(&made.revoked_client), Err(Error::CertRevoked));
    assert_eq!(client(&made.strange_client), Err(Error::UnknownIssuer));
    let server = |identity: &Identity| {
        verify(identity.certificate(), made.authority.certificate(), Purpose::Server, None)
    };
    assert!(matches!(server(&made.expired_server), Err(Error::CertExpired { .. })));
    assert_eq!(server(&made.strange_server), Err(Error::UnknownIssuer));
    assert_eq!(server(&made.elsewhere_server), Ok(()));
}

#[test]
fn servers_have_their_names_and_no_others() {
    let made = Certificates::new();
    for name in LOCAL_NAMES {
        assert!(has_name(&made.server, name), "{name}");
        assert!(!has_name(&made.elsewhere_server, name), "{name}");
    }
    assert!(has_name(&made.elsewhere_server, "elsewhere.example"));
    assert!(!has_name(&made.server, "elsewhere.example"));
}

#[test]
fn a_revoked_certificate_is_good_where_nobody_has_the_list() {
    let made = Certificates::new();
    assert_eq!(
        verify(made.revoked_client.certificate(), made.authority.certificate(), Purpose::Client, None),
        Ok(())
    );
}

#[test]
fn files_hold_what_is_in_memory_and_keys_are_private() {
    let made = Certificates::new();
    let files = made.files();
    let folder = files.folder().to_owned();
    assert_eq!(CertificateDer::from_pem_file(&files.authority).unwrap(), *made.authority.certificate());
    assert_eq!(CertificateDer::from_pem_file(&files.client.certificate).unwrap(), *made.client.certificate());
    let key = PrivatePkcs8KeyDer::from_pem_file(&files.client.key).unwrap();
    assert_eq!(key.secret_pkcs8_der(), made.client.key().secret_der());
    let mode = files.client.key.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(files);
    assert!(!folder.exists());
}

#[test]
fn debug_output_shows_no_key() {
    let identity = Authority::new("ca").client(CLIENT);
    let shown = format!("{identity:?}");
    assert!(!shown.contains("key") && !shown.contains("PRIVATE"), "{shown}");
}
