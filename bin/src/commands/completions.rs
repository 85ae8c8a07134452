//! `whispeer completions`: what shells complete.

use clap::Args;
use clap_complete::Shell;

use crate::{arguments, output};

const EXAMPLES: &str = "\
Examples:
  whispeer completions bash > ~/.local/share/bash-completion/completions/whispeer
  whispeer completions zsh > ~/.zfunc/_whispeer
  whispeer completions fish > ~/.config/fish/completions/whispeer.fish";

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut arguments::command(), "whispeer", &mut script);
        output::print(script)
    }
}
