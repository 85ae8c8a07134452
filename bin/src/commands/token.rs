//! `whispeer token`: makes tokens and the keys of their issuers.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use whispeer::auth::{SigningKey, TokenAlgorithm, TokenIssuer};

use crate::failure::{Failure, shell_word};
use crate::{output, quantity};

const EXAMPLES: &str = "\
Examples:
  whispeer token --new-key login.key > login.pub     the bus gets login.pub, the issuer keeps login.key
  whispeer token --key login.key --issuer login --audience my_bus --subject alice --role reader
  whispeer token --key login.key --public-key        print the public key again

The bus has to know the issuer, by an entry like this in its configuration:
  [[auth.issuers]]
  issuer = \"login\"
  audience = \"my_bus\"
  algorithm = \"EdDSA\"
  key_file = \"login.pub\"
  roles = [\"reader\"]

Whoever has a token is who it says until it expires. It is printed on standard output and nowhere else.";

/// Permission bits of a key's file.
const KEY_MODE: u32 = 0o600;

/// Make a token, or the key of an issuer of tokens
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Token {
    /// The key of the issuer
    #[arg(long, value_name = "FILE", required_unless_present = "new_key")]
    key: Option<PathBuf>,

    /// Who issues the token
    #[arg(long, value_name = "NAME", required_unless_present_any = ["new_key", "public_key"])]
    issuer: Option<String>,

    /// Whom the token is for: the audience that the bus expects of this issuer
    #[arg(long, value_name = "NAME", required_unless_present_any = ["new_key", "public_key"])]
    audience: Option<String>,

    /// Whom the token stands for
    #[arg(long, value_name = "NAME", required_unless_present_any = ["new_key", "public_key"])]
    subject: Option<String>,

    /// A role, among those that the issuer may give; may be given several times [default: the issuer's default]
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,

    /// How long the token is valid
    #[arg(long, value_parser = quantity::duration, default_value = "1h", value_name = "TIME")]
    expires: Duration,

    /// Make a new key, which only you can read, and print its public key
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "issuer", "audience", "subject", "roles", "expires"])]
    new_key: Option<PathBuf>,

    /// How tokens are signed with the new key
    #[arg(long, value_enum, ignore_case = true, default_value = "EdDSA", conflicts_with = "key")]
    algorithm: Algorithm,

    /// Print the public key, for the bus
    #[arg(long, conflicts_with_all = ["new_key", "issuer", "audience", "subject", "roles", "expires"])]
    public_key: bool,
}

/// How tokens are signed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Algorithm {
    /// With a private key; the bus needs the public one only
    #[value(name = "EdDSA")]
    EdDsa,
    /// With a secret that the bus needs too
    #[value(name = "HS256")]
    Hs256,
}

impl Token {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if let Some(file) = &self.new_key {
            return new_key(file, self.algorithm);
        }
        let file = self.key.as_deref().unwrap_or(Path::new(""));
        let key = SigningKey::read(file)?;
        warn_if_others_can_read(file);
        if self.public_key {
            let Some(public) = key.public_text() else {
                let failure = Failure::usage(format!("{} is a secret for HS256", file.display()));
                return Err(failure.help("give the bus the secret itself; it has no public key").into());
            };
            return output::print(public);
        }
        let [issuer, audience, subject] =
            [self.issuer, self.audience, self.subject].map(Option::unwrap_or_default);
        let token = TokenIssuer::new(key, &issuer, &audience)?.issue(&subject, &self.roles, self.expires)?;
        output::print(format!("{}\n", token.reveal()))
    }
}

fn new_key(file: &Path, algorithm: Algorithm) -> anyhow::Result<()> {
    let key = SigningKey::generate(match algorithm {
        Algorithm::EdDsa => TokenAlgorithm::EdDSA,
        Algorithm::Hs256 => TokenAlgorithm::HS256,
    })?;
    write_key(file, key.to_text().reveal())?;
    let shown = shell_word(&file.display().to_string());
    match key.public_text() {
        Some(public) => {
            output::notice(format_args!(
                "{shown} is the private key; the bus needs the public one, printed here"
            ));
            output::print(public)
        }
        None => {
            output::notice(format_args!("{shown} is a secret; the bus needs it too (`key_file`)"));
            Ok(())
        }
    }
}

/// Writes a file that nobody else can read at any time, and that was not there.
fn write_key(file: &Path, text: &str) -> anyhow::Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(KEY_MODE).open(file);
    let mut opened = match opened {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let failure = Failure::usage(format!("{} is there already", file.display()));
            let help =
                "choose another name, or remove it first: tokens that were made with it then count no more";
            return Err(failure.help(help).into());
        }
        opened => opened.with_context(|| format!("cannot make {}", file.display()))?,
    };
    let written = opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all());
    if written.is_err() {
        // Half a key is none.
        let _ = fs::remove_file(file);
    }
    written.with_context(|| format!("cannot write {}", file.display()))
}

fn warn_if_others_can_read(file: &Path) {
    let open = fs::metadata(file).is_ok_and(|metadata| metadata.mode() & 0o077 != 0);
    if open {
        let shown = shell_word(&file.display().to_string());
        output::notice(format_args!("others may read the key: `chmod 600 {shown}` keeps it to yourself"));
    }
}
