//! Log lines on standard error.

use std::fmt;
use std::io;

use tracing_subscriber::EnvFilter;

use crate::output;

/// The variable of the environment that says what is logged.
const VARIABLE: &str = "WHISPEER_LOG";

/// What is logged by default.
const DEFAULT: &str = "warn";

/// The log of this process.
pub(crate) struct Logging {
    verbose: u8,
    replace: Box<dyn Fn(EnvFilter) + Send + Sync>,
}

impl Logging {
    /// Starts to log: warnings, unless `-v`, given so many times, or the environment ask for more.
    pub(crate) fn start(verbose: u8) -> Self {
        let given = level(verbose).map(ToOwned::to_owned).or_else(|| std::env::var(VARIABLE).ok());
        let filter = given.filter(|given| !given.is_empty()).and_then(|given| EnvFilter::try_new(given).ok());
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter.unwrap_or_else(|| EnvFilter::new(DEFAULT)))
            .with_writer(io::stderr)
            .with_ansi(output::colourful(&io::stderr()))
            .with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        // It fails only when nothing is logged any more.
        let replace = Box::new(move |filter| drop(handle.reload(filter)));
        Self { verbose, replace }
    }

    /// What `-v` asks for, and how it was given.
    pub(crate) fn asked(&self) -> (&'static str, Option<String>) {
        let flag = ["-v", "-v", "-vv"].get(usize::from(self.verbose)).copied().unwrap_or("-vvv");
        (flag, level(self.verbose).map(ToOwned::to_owned))
    }

    /// Logs what passes this filter, which has been checked, from now on.
    pub(crate) fn set(&self, filter: &str) {
        match EnvFilter::try_new(filter) {
            Ok(filter) => (self.replace)(filter),
            Err(error) => tracing::warn!(%error, "not a filter of what to log: {filter}"),
        }
    }
}

impl fmt::Debug for Logging {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Logging").field("verbose", &self.verbose).finish_non_exhaustive()
    }
}

fn level(verbose: u8) -> Option<&'static str> {
    match verbose {
        0 => None,
        1 => Some("info"),
        2 => Some("debug"),
        _ => Some("trace"),
    }
}
