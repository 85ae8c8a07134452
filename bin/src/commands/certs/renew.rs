//! `whispeer certs renew`: the same names for another while.

use std::path::Path;

use clap::Args;
use rcgen::RevocationReason;
use time::{Duration, OffsetDateTime};

use super::absent;
use super::issue::{LEAF_DAYS, MOST_DAYS, days, tell};
use crate::certificates::authority::{Authority, Profile};
use crate::certificates::details::Details;
use crate::certificates::folder::{AUTHORITY, Folder, REVOCATIONS};
use crate::certificates::key::{Algorithm, PrivateKey};
use crate::certificates::names::{Kind, Name};
use crate::certificates::usage;
use crate::failure::{FAILED, Failure};
use crate::output;

const EXAMPLES: &str = "\
Examples:
  whispeer certs renew server
  whispeer certs renew certs/alice.pem --keep-key
  whispeer certs renew --all --within 30   what expires within 30 days
  whispeer certs renew alice --revoke      the old one is refused from now on

The new certificate has the names of the old one and holds as many days. A bus reads it on SIGHUP.";

/// Make certificates anew, with the same names and new keys
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Renew {
    /// Which: a server's or client's name, or the path of its file
    #[arg(value_name = "NAME", required_unless_present = "all")]
    names: Vec<String>,

    /// All certificates of this CA that are in the folder
    #[arg(long, conflicts_with = "names")]
    all: bool,

    /// Leave out what holds for more days than this
    #[arg(long, value_parser = days(), value_name = "DAYS")]
    within: Option<u32>,

    /// How many days the new ones hold [default: as many as the old ones]
    #[arg(long, value_parser = days(), value_name = "DAYS")]
    days: Option<u32>,

    /// Keep the keys
    #[arg(long)]
    keep_key: bool,

    /// Revoke the old ones
    #[arg(long)]
    revoke: bool,

    /// Also what was made by another CA, such as the one before `init --force`
    #[arg(long)]
    force: bool,
}

/// A certificate that is to be made anew.
struct Renewal {
    name: String,
    old: Details,
    of_this_authority: bool,
    profile: Profile,
}

impl Renew {
    pub(super) fn run(self, folder: &Path) -> anyhow::Result<()> {
        let folder = Folder::open(folder)?;
        let authority = Authority::load(&folder)?;
        // All are looked at before the first is written.
        let renewals =
            if self.all { self.all(&folder, &authority)? } else { self.named(&folder, &authority)? };
        let due = renewals.into_iter().filter(|renewal| self.is_due(&renewal.old));
        let mut count = 0;
        for renewal in due {
            self.renew(&folder, &authority, &renewal)?;
            count += 1;
        }
        if count == 0 {
            output::notice(format_args!("there is nothing to renew"));
        }
        Ok(())
    }

    fn named(&self, folder: &Folder, authority: &Authority) -> anyhow::Result<Vec<Renewal>> {
        let mut renewals: Vec<Renewal> = Vec::new();
        for typed in &self.names {
            let name = folder.name_of(typed)?;
            if renewals.iter().any(|renewal| renewal.name == name) {
                continue;
            }
            let Some((old, _)) = folder.certificate(&name)? else { return Err(absent(folder, &name)) };
            let renewal = self.plan(folder, name, old, authority)?;
            if !renewal.of_this_authority && !self.force {
                let path = folder.certificate_path(&renewal.name);
                let failure = Failure::new(FAILED, format!("{} is of another CA", path.display()));
                return Err(failure.help("make it anew by this CA with --force").into());
            }
            renewals.push(renewal);
        }
        Ok(renewals)
    }

    fn all(&self, folder: &Folder, authority: &Authority) -> anyhow::Result<Vec<Renewal>> {
        let mut renewals = Vec::new();
        for name in folder.names()?.into_iter().filter(|name| name != AUTHORITY) {
            let path = folder.certificate_path(&name);
            let renewal = match folder.certificate(&name) {
                Ok(Some((old, _))) => self.plan(folder, name, old, authority),
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            match renewal {
                Ok(renewal) if renewal.of_this_authority || self.force => renewals.push(renewal),
                Ok(_) => output::notice(format_args!("left out {}: it is of another CA", path.display())),
                Err(error) => output::notice(format_args!("left out {}: {error:#}", path.display())),
            }
        }
        Ok(renewals)
    }

    fn plan(
        &self,
        folder: &Folder,
        name: String,
        old: Details,
        authority: &Authority,
    ) -> anyhow::Result<Renewal> {
        match old.kind {
            Kind::Server | Kind::Client => {}
            Kind::Authority => {
                let failure = Failure::usage(format!("{name} is a CA, which cannot be renewed"));
                return Err(failure
                    .help(format!(
                        "make another one with `{}`",
                        usage::command(folder.path(), "init --force")
                    ))
                    .into());
            }
            Kind::Other => {
                let failure =
                    Failure::new(FAILED, format!("{name} is neither a server's nor a client's certificate"));
                return Err(failure.help("renew it where it was made").into());
            }
        }
        if old.names.contains(&Name::Other) {
            let failure = Failure::new(FAILED, format!("{name} has a name of a form that is not made here"));
            return Err(failure.help("renew it where it was made").into());
        }
        let profile = Profile {
            kind: old.kind,
            common_name: old.common_name.clone().unwrap_or_else(|| name.clone()),
            names: old.names.clone(),
            days: self.days.unwrap_or_else(|| whole_days(old.not_after - old.not_before)),
        };
        Ok(Renewal { of_this_authority: old.is_signed_by(&authority.details), name, old, profile })
    }

    fn is_due(&self, old: &Details) -> bool {
        let left = old.not_after - OffsetDateTime::now_utc();
        self.within.is_none_or(|days| left <= Duration::days(days.into()))
    }

    fn renew(&self, folder: &Folder, authority: &Authority, renewal: &Renewal) -> anyhow::Result<()> {
        let Renewal { name, old, profile, .. } = renewal;
        let key = if self.keep_key {
            kept_key(folder, name, old)?
        } else {
            PrivateKey::generate(old.algorithm.unwrap_or(Algorithm::EcdsaP256))?
        };
        let issued = authority.issue(folder, profile, &key)?;
        if self.keep_key {
            folder.write(&[folder.public(name, &issued.text)])?;
        } else {
            folder.write(&[folder.private(name, &key.pem()), folder.public(name, &issued.text)])?;
        }
        tell("renewed", folder, name, profile, &issued);
        if self.revoke && renewal.of_this_authority {
            let mut revocations = authority.revocations(folder)?;
            let reason = Some(RevocationReason::Superseded);
            if revocations.add(old.serial.clone(), reason, OffsetDateTime::now_utc()) {
                folder.write(&[folder.public(REVOCATIONS, &authority.sign_revocations(&revocations)?)])?;
            }
            output::notice(format_args!("revoked the old one, {}", old.serial));
        }
        Ok(())
    }
}

fn kept_key(folder: &Folder, name: &str, old: &Details) -> anyhow::Result<PrivateKey> {
    let path = folder.key_path(name);
    let key = folder.read_key(name)?.map(|text| PrivateKey::from_pem(&text)).transpose();
    match key {
        Ok(Some(key)) if key.public() == old.public_key => Ok(key),
        Ok(Some(_)) => Err(format!("{} does not fit its certificate", path.display())),
        Ok(None) => Err(format!("{} is not there", path.display())),
        Err(error) => Err(format!("cannot use {}: {error}", path.display())),
    }
    .map_err(|message| Failure::new(FAILED, message).help("make a new key: leave out --keep-key").into())
}

/// What a certificate holds, as it was asked for: without the time before it was made.
fn whole_days(length: Duration) -> u32 {
    u32::try_from(length.whole_days().clamp(1, MOST_DAYS)).unwrap_or(LEAF_DAYS)
}
