//! `whispeer passwd`: hashes passwords.

use anyhow::Context;
use clap::Args;
use whispeer::auth;

use crate::{output, prompt};

const EXAMPLES: &str = "\
Examples:
  whispeer passwd                                    ask for it, and print its hash
  whispeer passwd --user alice --role reader         print the entry for whispeer.toml
  pwgen -s 20 1 | tee alice.txt | whispeer passwd    from a pipe

The hash is Argon2id with the parameters that OWASP recommends. It does not tell the password; keep it to
yourself all the same.";

/// Hash a password for the configuration of a bus
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Passwd {
    /// Print the entry for this user instead of the hash alone
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// A role of the user; may be given several times
    #[arg(long = "role", value_name = "ROLE", requires = "user")]
    roles: Vec<String>,
}

impl Passwd {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let password = prompt::new_password().await?;
        let hashed = tokio::task::spawn_blocking(move || auth::hash_password(&password));
        let hash = hashed.await.context("the password was not hashed")??;
        output::print(match self.user {
            None => format!("{hash}\n"),
            Some(user) => {
                let roles = self.roles.into_iter().map(toml::Value::String).collect();
                format!(
                    "[[auth.users]]\nname = {}\npassword = {}\nroles = {}\n",
                    toml::Value::String(user),
                    toml::Value::String(hash),
                    toml::Value::Array(roles)
                )
            }
        })
    }
}
