//! `whispeer certs show`: what is in the folder.

use std::path::Path;

use clap::Args;
use serde::Serialize;
use time::{Duration, OffsetDateTime};

use super::absent;
use crate::certificates::details::Details;
use crate::certificates::folder::{AUTHORITY, Folder, KeyState};
use crate::certificates::revocations::Revocations;
use crate::certificates::{date, timestamp, usage};
use crate::failure::shell_word;
use crate::output::{self, Align, Table};

const EXAMPLES: &str = "\
Examples:
  whispeer certs show
  whispeer certs show server alice
  whispeer certs show --json | jq -r '.[] | select(.days_left < 30) | .name'

The fingerprint is the SHA-256 sum of the certificate, as in `openssl x509 -fingerprint -sha256`.";

/// Show certificates: their names, when they expire, their fingerprints
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Show {
    /// Which: names, or paths of files [default: all that are in the folder]
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A certificate as `--json` has it.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    kind: String,
    certificate: String,
    /// The common name of the subject.
    subject: Option<String>,
    names: Vec<String>,
    serial: String,
    not_before: String,
    not_after: String,
    /// Whole days; negative when it has expired.
    days_left: i64,
    state: &'static str,
    key: &'static str,
    algorithm: Option<String>,
    fingerprint_sha256: String,
    #[serde(skip)]
    expires: String,
}

impl Show {
    pub(super) fn run(self, folder: &Path) -> anyhow::Result<()> {
        let folder = Folder::look(folder);
        let (authority, _) = folder.authority()?;
        let revocations = folder.revocations(&authority)?;
        let mut rows = Vec::new();
        if self.names.is_empty() {
            let others = folder.names()?.into_iter().filter(|name| name != AUTHORITY);
            for name in std::iter::once(AUTHORITY.to_owned()).chain(others) {
                match folder.certificate(&name) {
                    Ok(Some((details, _))) => {
                        rows.push(row(&folder, name, &details, &authority, &revocations))
                    }
                    Ok(None) => {}
                    Err(error) => output::notice(format_args!("{error:#}")),
                }
            }
        }
        for typed in &self.names {
            let name = folder.name_of(typed)?;
            let Some((details, _)) = folder.certificate(&name)? else { return Err(absent(&folder, &name)) };
            rows.push(row(&folder, name, &details, &authority, &revocations));
        }
        for row in rows.iter().filter(|row| row.key == KeyState::Exposed.as_str()) {
            let path = shell_word(&folder.key_path(&row.name).to_string_lossy());
            output::notice(format_args!("others may read the key of {}: `chmod 600 {path}`", row.name));
        }
        if self.json {
            let mut text = serde_json::to_string_pretty(&rows)?;
            text.push('\n');
            return output::print(text);
        }
        let renewable =
            rows.iter().any(|row| row.name != AUTHORITY && row.state == EXPIRES_SOON || row.state == EXPIRED);
        output::print(render(rows))?;
        if renewable {
            output::notice(format_args!(
                "renew what expires with `{}`",
                usage::command(folder.path(), &format!("renew --all --within {SOON_DAYS}"))
            ));
        }
        Ok(())
    }
}

/// From how many days before it expires a certificate is shown as one that has to be renewed.
const SOON_DAYS: i64 = 30;

const EXPIRED: &str = "expired";
const EXPIRES_SOON: &str = "expires soon";

fn row(
    folder: &Folder,
    name: String,
    details: &Details,
    authority: &Details,
    revocations: &Revocations,
) -> Row {
    let left = details.not_after - OffsetDateTime::now_utc();
    Row {
        kind: details.kind.to_string(),
        certificate: folder.certificate_path(&name).display().to_string(),
        subject: details.common_name.clone(),
        names: details.names.iter().map(ToString::to_string).collect(),
        serial: details.serial.to_string(),
        not_before: timestamp(details.not_before),
        not_after: timestamp(details.not_after),
        days_left: left.whole_seconds().div_euclid(Duration::DAY.whole_seconds()),
        state: state(details, authority, revocations, left),
        key: folder.key_state(&name, details).as_str(),
        algorithm: details.algorithm.map(|algorithm| algorithm.to_string()),
        fingerprint_sha256: details.fingerprint(),
        expires: date(details.not_after),
        name,
    }
}

/// What matters most about a certificate: what makes it useless first.
fn state(details: &Details, authority: &Details, revocations: &Revocations, left: Duration) -> &'static str {
    if !details.is_signed_by(authority) {
        "of another CA"
    } else if revocations.contains(&details.serial) {
        "revoked"
    } else if left <= Duration::ZERO {
        EXPIRED
    } else if details.not_before > OffsetDateTime::now_utc() {
        "not yet valid"
    } else if left <= Duration::days(SOON_DAYS) {
        EXPIRES_SOON
    } else {
        "valid"
    }
}

fn render(rows: Vec<Row>) -> String {
    use Align::Left;
    let mut table = Table::new(&[
        ("NAME", Left),
        ("KIND", Left),
        ("FOR", Left),
        ("KEY", Left),
        ("EXPIRES", Left),
        ("STATE", Left),
        ("SHA-256", Left),
    ]);
    for row in rows {
        // A CA has no names but its subject's.
        let names = if row.names.is_empty() {
            row.subject.unwrap_or_else(|| "-".to_owned())
        } else {
            row.names.join(", ")
        };
        table.row(vec![
            row.name,
            row.kind,
            names,
            row.key.to_owned(),
            row.expires,
            row.state.to_owned(),
            row.fingerprint_sha256,
        ]);
    }
    table.render()
}
