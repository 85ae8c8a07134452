//! Log lines on standard error.

use std::fmt;
use std::io;

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt as lines, reload};

use crate::output;

/// The variable of the environment that says what is logged.
const VARIABLE: &str = "WHISPEER_LOG";

/// What is logged by default.
const DEFAULT: &str = "warn,async_nats=off";

/// Lines as people read them.
pub(crate) const TEXT: &str = "text";

/// A JSON object a line, for programs.
pub(crate) const JSON: &str = "json";

/// Who decides what is logged, and below.
type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;

/// Who writes it.
type Written = Box<dyn Layer<Filtered> + Send + Sync>;

/// The log of this process.
pub(crate) struct Logging {
    verbose: u8,
    filter: reload::Handle<EnvFilter, Registry>,
    format: reload::Handle<Written, Filtered>,
}

impl Logging {
    /// Starts to log: warnings, unless `-v`, given so many times, or the environment ask for more.
    pub(crate) fn start(verbose: u8) -> Self {
        let given = level(verbose).map(ToOwned::to_owned).or_else(|| std::env::var(VARIABLE).ok());
        let filter = given.filter(|given| !given.is_empty()).and_then(|given| filter(&given).ok());
        let filter = filter.unwrap_or_else(|| EnvFilter::new(DEFAULT));
        let (filter, filter_handle) = reload::Layer::new(filter);
        let (format, format_handle) = reload::Layer::new(written(TEXT));
        tracing_subscriber::registry().with(filter).with(format).init();
        Self { verbose, filter: filter_handle, format: format_handle }
    }

    /// What `-v` asks for, and how it was given.
    pub(crate) fn asked(&self) -> (&'static str, Option<String>) {
        let flag = ["-v", "-v", "-vv"].get(usize::from(self.verbose)).copied().unwrap_or("-vvv");
        (flag, level(self.verbose).map(ToOwned::to_owned))
    }

    /// Logs what passes this filter, which has been checked, from now on.
    pub(crate) fn set(&self, filter: &str) {
        match self::filter(filter) {
            // It fails only when nothing is logged any more.
            Ok(filter) => drop(self.filter.reload(filter)),
            Err(error) => tracing::warn!(%error, "not a filter of what to log: {filter}"),
        }
    }
}

impl Logging {
    /// Writes what is logged from now on in this form: [`TEXT`] or [`JSON`].
    pub(crate) fn set_format(&self, format: &str) {
        // As above.
        drop(self.format.reload(written(format)));
    }
}

/// The filter that was asked for. The client of NATS logs each attempt to connect, errors among them, where the bus's own lines say once how
/// the link is: it is left out unless it is named.
fn filter(asked: &str) -> Result<EnvFilter, ParseError> {
    const CLIENT: &str = "async_nats";
    if asked.contains(CLIENT) {
        EnvFilter::try_new(asked)
    } else {
        EnvFilter::try_new(format!("{asked},{CLIENT}=off"))
    }
}

/// What writes lines of this form.
fn written(format: &str) -> Written {
    let lines = lines::layer().with_writer(io::stderr);
    match format {
        JSON => lines.json().flatten_event(true).with_span_list(false).boxed(),
        _ => lines.with_ansi(output::colourful(&io::stderr())).boxed(),
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
