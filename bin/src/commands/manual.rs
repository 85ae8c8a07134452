//! `whispeer man`: manual pages.

use clap::Args;
use clap_mangen::Man;

use crate::failure::Failure;
use crate::{arguments, output};

const EXAMPLES: &str = "\
Examples:
  whispeer man > whispeer.1
  whispeer man sub | man -l -";

/// Print the manual page, or that of a subcommand
#[derive(Debug, Args)]
#[command(name = "man", after_help = EXAMPLES)]
pub(crate) struct Manual {
    /// The subcommand
    subcommand: Option<String>,
}

impl Manual {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut command = arguments::command();
        command.build();
        if let Some(name) = &self.subcommand {
            let found = command.find_subcommand(name).filter(|found| !found.is_hide_set());
            let Some(found) = found.cloned() else {
                let failure = Failure::usage(format!("there is no subcommand {name}"));
                return Err(failure.help("`whispeer --help` lists them").into());
            };
            command = found.name(format!("whispeer-{name}"));
        }
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        output::print(page)
    }
}
