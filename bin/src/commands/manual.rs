//! `whispeer man`: manual pages.

use clap::Args;
use clap_mangen::Man;

use crate::failure::Failure;
use crate::{arguments, output};

const EXAMPLES: &str = "\
Examples:
  whispeer man > whispeer.1
  whispeer man sub | man -l -
  whispeer man certs server | man -l -";

/// Print the manual page, or that of a subcommand
#[derive(Debug, Args)]
#[command(name = "man", after_help = EXAMPLES)]
pub(crate) struct Manual {
    /// The subcommand, and where it has some, that of the subcommand
    #[arg(value_name = "SUBCOMMAND")]
    subcommands: Vec<String>,
}

impl Manual {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut command = arguments::command();
        command.build();
        let mut name = command.get_name().to_owned();
        for subcommand in &self.subcommands {
            let found = command.find_subcommand(subcommand).filter(|found| !found.is_hide_set());
            let Some(found) = found.cloned() else {
                let failure =
                    Failure::usage(format!("there is no subcommand {}", self.subcommands.join(" ")));
                let help = format!("`{} --help` lists them", name.replace('-', " "));
                return Err(failure.help(help).into());
            };
            name = format!("{name}-{subcommand}");
            command = found.name(name.clone());
        }
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        output::print(page)
    }
}
