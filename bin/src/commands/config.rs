//! `whispeer config`: what `whispeer serve` would run with.

use clap::Args;

use crate::logging::Logging;
use crate::output;
use crate::settings::{Effective, Environment, Given, example};

use super::serve;

const EXAMPLES: &str = "\
Examples:
  whispeer config --example > whispeer.toml
  whispeer config --config whispeer.toml              check a file, and see what would be in force
  whispeer config --json | jq .settings.frame_limit

It takes the flags of `whispeer serve`, and reads the same file and variables. A bus that runs is not
asked. Without --config and WHISPEER_CONFIG no file is read. What [auth] says is not shown.";

/// Print the settings of `serve` and where each comes from
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Config {
    /// Print one JSON object
    #[arg(long, conflicts_with = "example")]
    json: bool,

    /// Print a commented file with every setting and its default
    #[arg(long)]
    example: bool,

    #[command(flatten)]
    given: Given,
}

impl Config {
    pub(crate) fn run(self, before: Option<String>, logging: &Logging) -> anyhow::Result<()> {
        if self.example {
            return output::print(example());
        }
        let environment = Environment::of_process();
        let given = serve::complete(self.given, before, logging)?;
        let effective = Effective::load(&given, &environment)?;
        serve::warn(&effective);
        output::print(if self.json { effective.json() } else { effective.text() })
    }
}
