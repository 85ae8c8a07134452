//! The CA: signing certificates and the list of revocations.

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use super::details::{Details, Serial};
use super::folder::{AUTHORITY, Folder, REVOCATIONS};
use super::key::{Algorithm, PrivateKey};
use super::names::{Kind, Name};
use super::revocations::Revocations;
use super::{date, usage};
use crate::failure::{FAILED, Failure};

/// How long before it is made a certificate begins to hold, so that hosts whose clocks lag take it at once.
const BACKDATED: Duration = Duration::HOUR;

/// What a certificate is to say.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    pub(crate) kind: Kind,
    pub(crate) common_name: String,
    pub(crate) names: Vec<Name>,
    pub(crate) days: u32,
}

/// A certificate with the text of its file.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) text: String,
    pub(crate) not_after: OffsetDateTime,
    /// Whether it holds for less time than was asked for, as its CA does.
    pub(crate) shortened: bool,
}

/// A CA that can sign.
#[derive(Debug)]
pub(crate) struct Authority {
    pub(crate) details: Details,
    pub(crate) text: String,
    pub(crate) key: PrivateKey,
}

impl Authority {
    /// Makes a CA that signs certificates of servers and clients, but no CA below it.
    pub(crate) fn create(name: Option<String>, algorithm: Algorithm, days: u32) -> anyhow::Result<Self> {
        let key = PrivateKey::generate(algorithm)?;
        let serial = Serial::random()?;
        // Two CAs of one name would be mixed up by those who look for a CA by its name.
        let name = name.unwrap_or_else(|| {
            let distinct: String = serial.to_string().chars().take(8).collect();
            format!("whispeer development CA {distinct}")
        });
        let now = OffsetDateTime::now_utc();
        let mut parameters = CertificateParams::default();
        parameters.not_before = now - BACKDATED;
        parameters.not_after = now + Duration::days(days.into());
        parameters.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
        parameters.distinguished_name = subject(&name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.use_authority_key_identifier_extension = true;
        let certificate = parameters.self_signed(key.pair()).context("cannot sign the CA's certificate")?;
        let details = Details::read(certificate.der())?;
        Ok(Self { details, text: certificate.pem(), key })
    }

    /// Reads the CA of a folder.
    pub(crate) fn load(folder: &Folder) -> anyhow::Result<Self> {
        let (details, text) = folder.authority()?;
        let path = folder.key_path(AUTHORITY);
        let Some(key_text) = folder.read_key(AUTHORITY)? else {
            let failure =
                Failure::new(FAILED, format!("the key of the CA, {}, is not there", path.display()));
            return Err(failure
                .help("bring it back from where it is kept; without it nothing can be signed")
                .into());
        };
        let key =
            PrivateKey::from_pem(&key_text).with_context(|| format!("cannot use {}", path.display()))?;
        if key.public() != details.public_key {
            let certificate = folder.certificate_path(AUTHORITY);
            anyhow::bail!(
                "{} does not fit {}: one of them is of another CA",
                path.display(),
                certificate.display()
            );
        }
        Ok(Self { details, text, key })
    }

    /// Signs a certificate for the key.
    pub(crate) fn issue(
        &self,
        folder: &Folder,
        profile: &Profile,
        key: &PrivateKey,
    ) -> anyhow::Result<Issued> {
        let now = OffsetDateTime::now_utc();
        let end = self.details.not_after;
        if end <= now {
            let failure = Failure::new(FAILED, format!("the CA has expired on {}", date(end)));
            let help = format!(
                "make a new one with `{}`, then all of its certificates with `{}`",
                usage::command(folder.path(), "init --force"),
                usage::command(folder.path(), "renew --all --force")
            );
            return Err(failure.help(help).into());
        }
        let wanted = now + Duration::days(profile.days.into());
        let mut parameters = CertificateParams::default();
        parameters.not_before = now - BACKDATED;
        parameters.not_after = wanted.min(end);
        parameters.serial_number = Some(SerialNumber::from_slice(Serial::random()?.as_bytes()));
        parameters.distinguished_name = subject(&profile.common_name);
        parameters.subject_alt_names = alternative_names(&profile.names)?;
        parameters.is_ca = IsCa::ExplicitNoCa;
        // All of the key exchanges that are offered sign; none encrypts to the certificate's key.
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = match profile.kind {
            Kind::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Kind::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Kind::Authority | Kind::Other => anyhow::bail!("only servers and clients get certificates"),
        };
        parameters.use_authority_key_identifier_extension = true;
        let certificate =
            parameters.signed_by(key.pair(), &self.issuer()?).context("cannot sign the certificate")?;
        Ok(Issued { text: certificate.pem(), not_after: parameters.not_after, shortened: wanted > end })
    }

    /// The list of revocations that the folder has; an empty one where there is none.
    pub(crate) fn revocations(&self, folder: &Folder) -> anyhow::Result<Revocations> {
        folder.revocations(&self.details)
    }

    /// Signs the list of revocations and gives the text of its file.
    pub(crate) fn sign_revocations(&self, revocations: &Revocations) -> anyhow::Result<String> {
        let now = OffsetDateTime::now_utc();
        let identifier = self.details.key_identifier.clone();
        let parameters = CertificateRevocationListParams {
            this_update: now,
            // The list is handed over as a file. One that expired would shut out all clients of a bus, and
            // tell nobody of a newer list.
            next_update: self.details.not_after.max(now + Duration::DAY),
            crl_number: SerialNumber::from(revocations.number.saturating_add(1)),
            issuing_distribution_point: None,
            revoked_certs: revocations.parameters(),
            key_identifier_method: identifier.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified),
        };
        let list = parameters.signed_by(&self.issuer()?);
        list.and_then(|list| list.pem()).with_context(|| format!("cannot sign {REVOCATIONS}.pem"))
    }

    fn issuer(&self) -> anyhow::Result<Issuer<'_, &KeyPair>> {
        Issuer::from_ca_cert_der(&self.details.encoded, self.key.pair())
            .context("the CA's certificate cannot be used for signing")
    }
}

fn subject(common_name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    subject
}

fn alternative_names(names: &[Name]) -> anyhow::Result<Vec<SanType>> {
    let names = names.iter().map(|name| {
        Ok(match name {
            Name::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            Name::Address(address) => SanType::IpAddress(*address),
            Name::Uri(uri) => SanType::URI(uri.as_str().try_into()?),
            Name::Other => anyhow::bail!("a name of this form cannot be written into a certificate"),
        })
    });
    names.collect()
}
