//! `whispeer certs init`, `server` and `client`: what makes certificates.

use std::path::Path;

use clap::Args;

use super::KeyChoice;
use crate::certificates::authority::{Authority, Issued, Profile};
use crate::certificates::folder::{AUTHORITY, Folder, REVOCATIONS};
use crate::certificates::key::PrivateKey;
use crate::certificates::names::{Kind, MOST_SERVER_NAMES, Name, check_client, check_file};
use crate::certificates::revocations::Revocations;
use crate::certificates::{date, usage};
use crate::failure::Failure;
use crate::output;

/// Days that a CA holds: ten years, so that it is not in the way of development.
const AUTHORITY_DAYS: u32 = 3_650;

/// Days that a certificate holds. Browsers and Apple's systems take server certificates of at most 398,
/// the hour before they were made included.
pub(super) const LEAF_DAYS: u32 = 397;

/// Days that may be asked for: a century, which every system can still count.
pub(super) const MOST_DAYS: i64 = 36_500;

/// The names of a bus that is used from its own host.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Characters of a CA's name: as many as a common name may have.
const LONGEST_AUTHORITY_NAME: usize = 64;

const INIT_EXAMPLES: &str = "\
Examples:
  whispeer certs init
  whispeer certs init --name \"Ann's CA\" --days 365

Makes ca.pem, which is shown to others; ca.key, which is not; and crl.pem, the list of what is revoked.";

/// Make a development CA
#[derive(Debug, Args)]
#[command(after_help = INIT_EXAMPLES)]
pub(super) struct Init {
    /// The CA's name [default: whispeer development CA, and eight random digits]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// How many days it holds; certificates hold no longer than their CA
    #[arg(long, default_value_t = AUTHORITY_DAYS, value_parser = days(), value_name = "DAYS")]
    days: u32,

    #[command(flatten)]
    key: KeyChoice,

    /// Replace the CA that is there; nobody trusts its certificates any more who trusts the new one
    #[arg(long)]
    force: bool,
}

impl Init {
    pub(super) fn run(self, folder: &Path) -> anyhow::Result<()> {
        if self.name.as_ref().is_some_and(|name| {
            name.trim().is_empty()
                || name.chars().count() > LONGEST_AUTHORITY_NAME
                || name.contains(char::is_control)
        }) {
            let failure = Failure::usage("this cannot be the name of a CA");
            return Err(failure.help(format!("use 1 to {LONGEST_AUTHORITY_NAME} characters")).into());
        }
        let folder = Folder::make(folder)?;
        let files = [
            folder.certificate_path(AUTHORITY),
            folder.key_path(AUTHORITY),
            folder.certificate_path(REVOCATIONS),
        ];
        let replaces = files.iter().any(|file| file.exists());
        if !self.force {
            let help = format!(
                "make certificates with it (`{}`), or replace it with --force: then every certificate of it \
                 has to be made anew",
                usage::command(folder.path(), "server")
            );
            folder.refuse_existing(&files, &help)?;
        }
        let authority = Authority::create(self.name, self.key.algorithm(), self.days)?;
        let list = authority.sign_revocations(&Revocations::default())?;
        folder.write(&[
            folder.private(AUTHORITY, &authority.key.pem()),
            folder.public(AUTHORITY, &authority.text),
            folder.public(REVOCATIONS, &list),
        ])?;
        output::notice(format_args!(
            "made a CA: {}, {} and {}, valid until {}",
            folder.certificate_path(AUTHORITY).display(),
            folder.key_path(AUTHORITY).display(),
            folder.certificate_path(REVOCATIONS).display(),
            date(authority.details.not_after),
        ));
        let mut text = usage::of_authority(&folder);
        if replaces {
            text.push_str(&usage::of_replaced_authority(&folder));
        }
        output::print(text)
    }
}

const SERVER_EXAMPLES: &str = "\
Examples:
  whispeer certs server                                for localhost, 127.0.0.1 and ::1
  whispeer certs server bus.example.com localhost 192.0.2.7
  whispeer certs server '*.example.com' --as wildcard  into wildcard.pem and wildcard.key

Clients take the certificate only for the names that it lists.";

/// Make a certificate for a bus
#[derive(Debug, Args)]
#[command(after_help = SERVER_EXAMPLES)]
pub(super) struct Server {
    /// Host names and IP addresses by which clients reach it [default: localhost 127.0.0.1 ::1]
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// The name of the files that are written
    #[arg(long = "as", default_value = usage::SERVER, value_name = "FILE")]
    file: String,

    #[command(flatten)]
    leaf: Leaf,
}

impl Server {
    pub(super) fn run(self, folder: &Path) -> anyhow::Result<()> {
        check_file(&self.file)?;
        let names = self.names()?;
        let common_name = names.first().map_or_else(String::new, ToString::to_string);
        let profile = Profile {
            kind: Kind::Server,
            // A longer one than 64 characters is not allowed there, and nobody needs it.
            common_name: if common_name.len() > 64 { self.file.clone() } else { common_name },
            names,
            days: self.leaf.days,
        };
        let folder = self.leaf.make(folder, &self.file, &profile)?;
        output::print(usage::of_server(&folder, &self.file, &profile.names))
    }

    fn names(&self) -> anyhow::Result<Vec<Name>> {
        if self.names.len() > MOST_SERVER_NAMES {
            let failure = Failure::usage(format!("these are more than {MOST_SERVER_NAMES} names"));
            return Err(failure.help("make several certificates, with --as FILE").into());
        }
        let mut names = Vec::new();
        let given = self.names.iter().map(String::as_str);
        let given: Vec<&str> = if self.names.is_empty() { LOCAL_NAMES.to_vec() } else { given.collect() };
        for text in given {
            let name = Name::of_server(text)?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }
}

const CLIENT_EXAMPLES: &str = "\
Examples:
  whispeer certs client alice
  whispeer certs client billing-service --days 30

The bus knows the client by this name: it reads the URI whispeer:NAME among the alternative names of the
certificate's subject, or the subject's common name where there is no such URI.";

/// Make a certificate for a client
#[derive(Debug, Args)]
#[command(after_help = CLIENT_EXAMPLES)]
pub(super) struct Client {
    /// Who it is
    name: String,

    #[command(flatten)]
    leaf: Leaf,
}

impl Client {
    pub(super) fn run(self, folder: &Path) -> anyhow::Result<()> {
        check_client(&self.name)?;
        let profile = Profile {
            kind: Kind::Client,
            common_name: self.name.clone(),
            names: vec![Name::of_client(&self.name)],
            days: self.leaf.days,
        };
        let folder = self.leaf.make(folder, &self.name, &profile)?;
        output::print(usage::of_client(&folder, &self.name))
    }
}

/// What server and client certificates have in common.
#[derive(Debug, Args)]
struct Leaf {
    /// How many days it holds
    #[arg(long, default_value_t = LEAF_DAYS, value_parser = days(), value_name = "DAYS")]
    days: u32,

    #[command(flatten)]
    key: KeyChoice,

    /// Replace the files if they are there; what they held stays valid unless it is revoked first
    #[arg(long)]
    force: bool,
}

impl Leaf {
    fn make(&self, folder: &Path, name: &str, profile: &Profile) -> anyhow::Result<Folder> {
        let folder = Folder::open(folder)?;
        let files = [folder.certificate_path(name), folder.key_path(name)];
        if !self.force {
            let help = format!(
                "renew it with `{}`, or replace it with --force",
                usage::command(folder.path(), &format!("renew {name}"))
            );
            folder.refuse_existing(&files, &help)?;
        }
        let authority = Authority::load(&folder)?;
        let key = PrivateKey::generate(self.key.algorithm())?;
        let issued = authority.issue(&folder, profile, &key)?;
        folder.write(&[folder.private(name, &key.pem()), folder.public(name, &issued.text)])?;
        tell("made", &folder, name, profile, &issued);
        Ok(folder)
    }
}

/// Says on standard error what was written.
pub(super) fn tell(done: &str, folder: &Folder, name: &str, profile: &Profile, issued: &Issued) {
    let names: Vec<_> = profile.names.iter().map(ToString::to_string).collect();
    output::notice(format_args!(
        "{done} {} and {} for {}, valid until {}",
        folder.certificate_path(name).display(),
        folder.key_path(name).display(),
        names.join(", "),
        date(issued.not_after),
    ));
    if issued.shortened {
        output::notice(format_args!("this is when the CA expires; no certificate of it holds longer"));
    }
}

/// Reads a number of days.
pub(super) fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=MOST_DAYS)
}
