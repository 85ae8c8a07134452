//! `whispeer certs`: makes, renews, revokes and shows development certificates.

mod issue;
mod renew;
mod revoke;
mod show;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::certificates::folder::{AUTHORITY, Folder};
use crate::certificates::key::Algorithm;
use crate::certificates::usage::FOLDER;
use crate::failure::{FAILED, Failure};

const EXAMPLES: &str = "\
Examples:
  whispeer certs init                              a CA of your own, in certs/
  whispeer certs server                            for a bus on this host
  whispeer certs server bus.example.com 192.0.2.7  for one that others reach
  whispeer certs client alice
  whispeer certs show
  whispeer certs renew --all --within 30           what expires within 30 days
  whispeer certs revoke alice

Keys are readable by you alone. Keep them out of version control: a .gitignore in the folder does so.";

/// Make certificates for development: a CA of your own, servers and clients
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Certs {
    /// The folder that certificates and keys lie in
    #[arg(long, global = true, default_value = FOLDER, value_name = "FOLDER")]
    dir: PathBuf,

    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Init(issue::Init),
    Server(issue::Server),
    Client(issue::Client),
    Renew(renew::Renew),
    Revoke(revoke::Revoke),
    Show(show::Show),
}

impl Certs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::Init(init) => init.run(&self.dir),
            What::Server(server) => server.run(&self.dir),
            What::Client(client) => client.run(&self.dir),
            What::Renew(renew) => renew.run(&self.dir),
            What::Revoke(revoke) => revoke.run(&self.dir),
            What::Show(show) => show.run(&self.dir),
        }
    }
}

/// Which key a new certificate gets.
#[derive(Debug, Args)]
struct KeyChoice {
    /// Make an Ed25519 key instead of ECDSA P-256; browsers do not take it
    #[arg(long)]
    ed25519: bool,
}

impl KeyChoice {
    fn algorithm(&self) -> Algorithm {
        if self.ed25519 { Algorithm::Ed25519 } else { Algorithm::EcdsaP256 }
    }
}

/// The error that there is no such certificate, with those that there are.
fn absent(folder: &Folder, name: &str) -> anyhow::Error {
    let names: Vec<String> =
        folder.names().unwrap_or_default().into_iter().filter(|name| name != AUTHORITY).collect();
    let there = if names.is_empty() { "none yet".to_owned() } else { names.join(", ") };
    let path = folder.certificate_path(name);
    Failure::new(FAILED, format!("there is no certificate {}", path.display()))
        .help(format!("there are: {there}"))
        .into()
}
