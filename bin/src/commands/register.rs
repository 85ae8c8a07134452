//! `whispeer register` and `whispeer unregister`: buses with names.

use clap::Args;
use whispeer::Address;

use crate::failure::Failure;
use crate::output;
use crate::registry::{Registry, check_name};

const EXAMPLES: &str = "\
Examples:
  whispeer register home /run/user/1000/my_bus --default
  whispeer sub --addr @home 'news/**'
  whispeer pub news/local '\"rain\"'       uses the default

Names are kept in buses.toml in $XDG_CONFIG_HOME/whispeer or ~/.config/whispeer.";

/// Give a bus a name, to use as @NAME
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Register {
    /// The name; one that is registered is replaced
    name: String,

    /// The address, as --addr takes it
    address: String,

    /// Use this bus when no other is given
    #[arg(long)]
    default: bool,
}

impl Register {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let name = self.name.strip_prefix('@').unwrap_or(&self.name).to_owned();
        check_name(&name)?;
        let address = match self.address.parse().map_err(|error| Failure::of_bus(&error, &self.address))? {
            // The name has to mean the same in every folder.
            Address::Unix(path) => Address::Unix(std::path::absolute(path)?).to_string(),
            Address::Memory(_) => {
                return Err(
                    Failure::usage(format!("{} cannot be reached by other processes", self.address)).into()
                );
            }
            network => network.to_string(),
        };
        Registry::update(|registry| {
            registry.buses.insert(name.clone(), address.clone());
            if self.default {
                registry.default = Some(name.clone());
            }
            Ok(())
        })?;
        let default = if self.default { ", the default" } else { "" };
        output::notice(format_args!("@{name} is {address}{default}"));
        Ok(())
    }
}

/// Forget a bus's name
#[derive(Debug, Args)]
pub(crate) struct Unregister {
    /// The name
    name: String,
}

impl Unregister {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let name = self.name.strip_prefix('@').unwrap_or(&self.name);
        Registry::update(|registry| {
            registry.find(name)?;
            registry.buses.remove(name);
            if registry.default.as_deref() == Some(name) {
                registry.default = None;
            }
            Ok(())
        })
    }
}
