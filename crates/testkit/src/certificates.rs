//! Certificates for tests, made when a test runs: no key is ever kept.
//!
//! [`Certificates`] is what a test of TLS needs, in memory; [`Certificates::files`] writes it into a
//! temporary folder for what takes paths, such as the binary or `openssl`. [`Authority`] makes more.
//!
//! | field | what it is, and what has to become of it |
//! |---|---|
//! | `authority` | the CA that both ends trust |
//! | `server` | of `localhost`, `127.0.0.1` and `::1`: accepted |
//! | `expired_server` | the same names, past its time: refused |
//! | `elsewhere_server` | of `elsewhere.example`: refused when connecting to this host |
//! | `client` | `alice`: accepted |
//! | `expired_client` | past its time: refused |
//! | `future_client` | before its time: refused |
//! | `revoked_client` | in the list of revocations: refused where there is the list |
//! | `stranger` | a CA that nobody trusts |
//! | `strange_server`, `strange_client` | signed by it: refused |
//! | `revocations` | the list of `authority` |
//!
//! ```
//! use whispeer_testkit::certificates::{Certificates, Purpose, verify};
//!
//! let made = Certificates::new();
//! let files = made.files();
//! assert!(files.server.certificate.ends_with("server.pem"));
//! // What rustls will decide can be asked without a connection.
//! let authority = made.authority.certificate();
//! assert!(verify(made.client.certificate(), authority, Purpose::Client, None).is_ok());
//! assert!(verify(made.strange_client.certificate(), authority, Purpose::Client, None).is_err());
//! ```

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime,
};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, KeyUsage, RevocationOptionsBuilder,
    anchor_from_trusted_cert, ring,
};

/// The names of this host, which servers' certificates have unless they are made for others.
pub const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The name of the client whose certificate is good.
pub const CLIENT: &str = "alice";

/// All that a test of TLS needs; the module's table says what each is for.
#[derive(Debug)]
#[non_exhaustive]
pub struct Certificates {
    /// The CA that both ends trust.
    pub authority: Authority,
    /// Of this host.
    pub server: Identity,
    /// Of this host, until yesterday.
    pub expired_server: Identity,
    /// Of `elsewhere.example`.
    pub elsewhere_server: Identity,
    /// [`CLIENT`].
    pub client: Identity,
    /// A client until yesterday.
    pub expired_client: Identity,
    /// A client from tomorrow on.
    pub future_client: Identity,
    /// A client whose certificate is revoked.
    pub revoked_client: Identity,
    /// A CA that nobody trusts.
    pub stranger: Authority,
    /// Of this host, signed by the stranger.
    pub strange_server: Identity,
    /// [`CLIENT`], signed by the stranger.
    pub strange_client: Identity,
    /// The list that has the revoked client.
    pub revocations: Revocations,
}

impl Certificates {
    /// Makes all of them, which takes some milliseconds.
    #[must_use]
    pub fn new() -> Self {
        let (authority, stranger) = (Authority::new("test CA"), Authority::new("strange CA"));
        let revoked_client = authority.client("mallory");
        Self {
            server: authority.server(&LOCAL_NAMES),
            expired_server: authority.server_within(&LOCAL_NAMES, Validity::Expired),
            elsewhere_server: authority.server(&["elsewhere.example"]),
            client: authority.client(CLIENT),
            expired_client: authority.client_within("expired", Validity::Expired),
            future_client: authority.client_within("future", Validity::Future),
            strange_server: stranger.server(&LOCAL_NAMES),
            strange_client: stranger.client(CLIENT),
            revocations: authority.revoke(&[&revoked_client]),
            revoked_client,
            authority,
            stranger,
        }
    }

    /// Writes them into a temporary folder of their own, named as the fields are.
    #[must_use]
    pub fn files(&self) -> CertificateFiles {
        let folder = TempDir::new().unwrap();
        let path = folder.path();
        CertificateFiles {
            authority: write(path, "ca.pem", self.authority.pem(), PUBLIC),
            server: self.server.write_to(path, "server"),
            expired_server: self.expired_server.write_to(path, "expired_server"),
            elsewhere_server: self.elsewhere_server.write_to(path, "elsewhere_server"),
            client: self.client.write_to(path, "client"),
            expired_client: self.expired_client.write_to(path, "expired_client"),
            future_client: self.future_client.write_to(path, "future_client"),
            revoked_client: self.revoked_client.write_to(path, "revoked_client"),
            stranger: write(path, "stranger.pem", self.stranger.pem(), PUBLIC),
            strange_server: self.strange_server.write_to(path, "strange_server"),
            strange_client: self.strange_client.write_to(path, "strange_client"),
            revocations: write(path, "crl.pem", self.revocations.pem(), PUBLIC),
            folder,
        }
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

/// [`Certificates`] as files. They are removed when this is dropped.
#[derive(Debug)]
#[non_exhaustive]
pub struct CertificateFiles {
    /// `ca.pem`.
    pub authority: PathBuf,
    /// `server.pem` and `server.key`; the others likewise.
    pub server: IdentityFiles,
    /// Of this host, until yesterday.
    pub expired_server: IdentityFiles,
    /// Of `elsewhere.example`.
    pub elsewhere_server: IdentityFiles,
    /// [`CLIENT`].
    pub client: IdentityFiles,
    /// A client until yesterday.
    pub expired_client: IdentityFiles,
    /// A client from tomorrow on.
    pub future_client: IdentityFiles,
    /// A client whose certificate is revoked.
    pub revoked_client: IdentityFiles,
    /// `stranger.pem`, a CA that nobody trusts.
    pub stranger: PathBuf,
    /// Of this host, signed by the stranger.
    pub strange_server: IdentityFiles,
    /// [`CLIENT`], signed by the stranger.
    pub strange_client: IdentityFiles,
    /// `crl.pem`, the list that has the revoked client.
    pub revocations: PathBuf,
    folder: TempDir,
}

impl CertificateFiles {
    /// The folder that they lie in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// When a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// From yesterday until tomorrow.
    Now,
    /// Until yesterday.
    Expired,
    /// From tomorrow on.
    Future,
    /// From yesterday until so many seconds from now, cut to whole ones.
    Seconds(u8),
}

impl Validity {
    fn bounds(self) -> (OffsetDateTime, OffsetDateTime) {
        let now = OffsetDateTime::now_utc();
        let (from, until) = match self {
            Self::Now => (-Duration::DAY, Duration::DAY),
            Self::Expired => (-2 * Duration::DAY, -Duration::DAY),
            Self::Future => (Duration::DAY, 2 * Duration::DAY),
            Self::Seconds(count) => (-Duration::DAY, Duration::seconds(count.into())),
        };
        (now + from, now + until)
    }
}

/// A CA that signs whatever a test wants.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// Makes a CA whose subject has this common name. Each has a key of its own.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut parameters = parameters(name, Validity::Now);
        // What it signs may be refused for its own time, and not for that of its CA.
        parameters.not_before = OffsetDateTime::now_utc() - Duration::days(30);
        parameters.not_after = OffsetDateTime::now_utc() + Duration::days(30);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        Self { pem: issuer.pem(), issuer }
    }

    /// The CA's certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.issuer.der()
    }

    /// The CA's certificate as the text of a file.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Makes a server with these DNS names and IP addresses.
    #[must_use]
    pub fn server(&self, names: &[&str]) -> Identity {
        self.server_within(names, Validity::Now)
    }

    /// Makes a server that is one at the given time only.
    #[must_use]
    pub fn server_within(&self, names: &[&str], validity: Validity) -> Identity {
        let common_name = names.first().copied().unwrap_or("server");
        let names = names.iter().map(|name| match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*name).try_into().unwrap()),
        });
        self.sign(common_name, names.collect(), ExtendedKeyUsagePurpose::ServerAuth, validity)
    }

    /// Makes a client with a name, as `whispeer certs client` does: the common name of its subject, and the
    /// URI `whispeer:NAME` among its alternative names.
    #[must_use]
    pub fn client(&self, name: &str) -> Identity {
        self.client_within(name, Validity::Now)
    }

    /// Makes a client that is one at the given time only.
    #[must_use]
    pub fn client_within(&self, name: &str, validity: Validity) -> Identity {
        let uri = SanType::URI(format!("whispeer:{name}").try_into().unwrap());
        self.sign(name, vec![uri], ExtendedKeyUsagePurpose::ClientAuth, validity)
    }

    /// Makes a client that has a common name, and alternative names only as they are given here: DNS names
    /// or, where there is a colon in it, URIs.
    #[must_use]
    pub fn client_with_names(&self, common_name: &str, names: &[&str]) -> Identity {
        let names = names.iter().map(|name| match name.contains(':') {
            true => SanType::URI((*name).try_into().unwrap()),
            false => SanType::DnsName((*name).try_into().unwrap()),
        });
        self.sign(common_name, names.collect(), ExtendedKeyUsagePurpose::ClientAuth, Validity::Now)
    }

    /// Signs the list of all that is revoked.
    #[must_use]
    pub fn revoke(&self, revoked: &[&Identity]) -> Revocations {
        let now = OffsetDateTime::now_utc();
        let revoked = revoked.iter().map(|identity| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&identity.serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + Duration::DAY,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap();
        Revocations { pem: list.pem().unwrap(), list: list.into() }
    }

    fn sign(
        &self,
        common_name: &str,
        names: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
        validity: Validity,
    ) -> Identity {
        let serial = random_serial();
        let mut parameters = parameters(common_name, validity);
        parameters.serial_number = Some(SerialNumber::from_slice(&serial));
        parameters.subject_alt_names = names;
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![usage];
        parameters.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        Identity { pem: certificate.pem(), certificate: certificate.into(), key, serial }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A certificate with its key.
pub struct Identity {
    certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
    serial: [u8; 16],
}

impl Identity {
    /// The certificate. Its CA signs it directly, so it is the whole chain.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate as the text of a file.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The key, as rustls takes it.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// The key as the text of a file.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The serial number: positive, without leading zeros.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// Writes `NAME.pem` and `NAME.key` into a folder; what was there is replaced.
    pub fn write_to(&self, folder: &Path, name: &str) -> IdentityFiles {
        IdentityFiles {
            certificate: write(folder, &format!("{name}.pem"), self.pem(), PUBLIC),
            key: write(folder, &format!("{name}.key"), &self.key_pem(), PRIVATE),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Identity").field("serial", &self.serial).finish_non_exhaustive()
    }
}

/// The files of an [`Identity`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate, in PEM.
    pub certificate: PathBuf,
    /// The key, in PEM; with mode 0600.
    pub key: PathBuf,
}

/// A list of revocations.
#[derive(Debug)]
pub struct Revocations {
    list: CertificateRevocationListDer<'static>,
    pem: String,
}

impl Revocations {
    /// The list, as rustls takes it.
    #[must_use]
    pub fn list(&self) -> &CertificateRevocationListDer<'static> {
        &self.list
    }

    /// The list as the text of a file.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }
}

/// The same text in PEM with one letter changed in what encodes the signature, which is at the end.
#[must_use]
pub fn damaged(pem: &str) -> String {
    let end = pem.find("-----END").unwrap();
    let mut letters = pem[..end].char_indices().rev().filter(|(_, letter)| letter.is_ascii_alphanumeric());
    let (at, letter) = letters.nth(8).unwrap();
    let other = if letter == 'A' { "B" } else { "A" };
    [&pem[..at], other, &pem[at + 1..]].concat()
}

/// What a certificate is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// By a server, to those that connect.
    Server,
    /// By a client, to whom it connects.
    Client,
}

/// Decides as rustls does whether a certificate is good now: signed by the CA, within its time, for the
/// purpose, and not in the list.
///
/// # Errors
/// Why it is not.
pub fn verify(
    certificate: &CertificateDer<'_>,
    authority: &CertificateDer<'_>,
    purpose: Purpose,
    revocations: Option<&CertificateRevocationListDer<'_>>,
) -> Result<(), webpki::Error> {
    let lists: Vec<CertRevocationList<'_>> = revocations
        .map(|list| BorrowedCertRevocationList::from_der(list).map(CertRevocationList::from))
        .transpose()?
        .into_iter()
        .collect();
    let lists: Vec<&CertRevocationList<'_>> = lists.iter().collect();
    let revocation = RevocationOptionsBuilder::new(&lists).ok().map(RevocationOptionsBuilder::build);
    let usage = match purpose {
        Purpose::Server => KeyUsage::server_auth(),
        Purpose::Client => KeyUsage::client_auth(),
    };
    EndEntityCert::try_from(certificate)?
        .verify_for_usage(
            &[ring::ECDSA_P256_SHA256, ring::ED25519],
            &[anchor_from_trusted_cert(authority)?],
            &[],
            UnixTime::now(),
            usage,
            revocation,
            None,
        )
        .map(|_| ())
}

/// Who may read a certificate.
const PUBLIC: u32 = 0o644;

/// Who may read a key.
const PRIVATE: u32 = 0o600;

fn parameters(common_name: &str, validity: Validity) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    (parameters.not_before, parameters.not_after) = validity.bounds();
    parameters.serial_number = Some(SerialNumber::from_slice(&random_serial()));
    parameters.distinguished_name = Default::default();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters
}

/// Positive, and of the same length whatever was drawn.
fn random_serial() -> [u8; 16] {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).unwrap();
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

/// Writes a file that never exists with wider rights.
fn write(folder: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = folder.join(name);
    let _ = fs::remove_file(&path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    path
}
