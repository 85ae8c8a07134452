//! `whispeer certs revoke`: what is refused before it expires.

use std::path::Path;

use clap::{Args, ValueEnum};
use rcgen::RevocationReason;
use time::OffsetDateTime;

use super::absent;
use crate::certificates::authority::Authority;
use crate::certificates::details::Serial;
use crate::certificates::folder::{Folder, REVOCATIONS};
use crate::certificates::names::Kind;
use crate::certificates::usage;
use crate::failure::{FAILED, Failure};
use crate::output;

const EXAMPLES: &str = "\
Examples:
  whispeer certs revoke alice
  whispeer certs revoke certs/alice.pem --reason key-compromise
  whispeer certs revoke --serial 5f3a…     one whose file is gone; `show` has the numbers

The files stay. `whispeer certs renew alice` makes a new certificate for the same name.";

/// Revoke certificates: a bus that has the list refuses them
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Revoke {
    /// Which: a server's or client's name, or the path of its file
    #[arg(value_name = "NAME", required_unless_present = "serials")]
    names: Vec<String>,

    /// A serial number, in hexadecimal digits; can be given more than once
    #[arg(long = "serial", value_parser = Serial::parse, value_name = "SERIAL")]
    serials: Vec<Serial>,

    /// Why, as it stands in the list [default: nothing is said]
    #[arg(long, value_enum, value_name = "REASON")]
    reason: Option<Reason>,
}

/// Reasons that apply to certificates of servers and clients.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Reason {
    /// Somebody else may have the key
    KeyCompromise,
    /// A newer certificate is used instead
    Superseded,
    /// The server or client is no more
    CessationOfOperation,
    /// It belongs to somebody else now
    AffiliationChanged,
    /// It may no longer do what it did
    PrivilegeWithdrawn,
}

impl From<Reason> for RevocationReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::KeyCompromise => Self::KeyCompromise,
            Reason::Superseded => Self::Superseded,
            Reason::CessationOfOperation => Self::CessationOfOperation,
            Reason::AffiliationChanged => Self::AffiliationChanged,
            Reason::PrivilegeWithdrawn => Self::PrivilegeWithdrawn,
        }
    }
}

impl Revoke {
    pub(super) fn run(self, folder: &Path) -> anyhow::Result<()> {
        let folder = Folder::open(folder)?;
        let authority = Authority::load(&folder)?;
        let mut revoked = Vec::new();
        for typed in &self.names {
            revoked.push(named(&folder, &authority, typed)?);
        }
        revoked.extend(self.serials.into_iter().map(|serial| (serial.to_string(), serial)));

        let mut revocations = authority.revocations(&folder)?;
        let (reason, now) = (self.reason.map(RevocationReason::from), OffsetDateTime::now_utc());
        let mut changed = false;
        let mut told = Vec::new();
        for (what, serial) in revoked {
            let added = revocations.add(serial.clone(), reason, now);
            changed |= added;
            told.push(match added {
                true => format!("revoked {what}, serial number {serial}"),
                false => format!("{what} was revoked before"),
            });
        }
        if changed {
            folder.write(&[folder.public(REVOCATIONS, &authority.sign_revocations(&revocations)?)])?;
        }
        for line in told {
            output::notice(format_args!("{line}"));
        }
        output::print(usage::of_revocation(&folder))
    }
}

/// The serial number of a certificate in the folder, which has to be one of this CA.
fn named(folder: &Folder, authority: &Authority, typed: &str) -> anyhow::Result<(String, Serial)> {
    let name = folder.name_of(typed)?;
    let Some((details, _)) = folder.certificate(&name)? else { return Err(absent(folder, &name)) };
    let path = folder.certificate_path(&name);
    if details.kind == Kind::Authority {
        let failure =
            Failure::usage(format!("{} is a CA, which no list of its own can revoke", path.display()));
        return Err(failure.help("make another one, and trust that one in its place").into());
    }
    if !details.is_signed_by(&authority.details) {
        let failure = Failure::new(FAILED, format!("{} is of another CA", path.display()));
        return Err(failure.help("only the CA that made a certificate can revoke it").into());
    }
    Ok((path.display().to_string(), details.serial))
}
