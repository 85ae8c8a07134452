//! What an error says on standard error, and the exit code it becomes.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use whispeer::{BusError, ErrorClass};

use crate::output;

/// Something failed while it ran.
pub(crate) const FAILED: u8 = 1;
/// The command cannot work as it was written.
pub(crate) const USAGE: u8 = 2;
/// No bus was reached, or the connection to it was lost.
pub(crate) const NO_BUS: u8 = 3;
/// Nobody serves the topic.
pub(crate) const NO_SERVER: u8 = 4;
/// The time allowed has passed.
pub(crate) const TIMED_OUT: u8 = 5;
/// The server answered with an error.
pub(crate) const REPLIED_ERROR: u8 = 6;
/// A running bus has the address.
pub(crate) const IN_USE: u8 = 7;

/// The exit codes, for `--help` and the manual.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  success, also when interrupted or when standard output was closed
  1  failure while running
  2  the command line, a topic or a value is not valid
  3  no bus was reached, or the connection was lost
  4  nobody serves the topic
  5  timed out
  6  the server answered with an error
  7  a running bus has the address already";

/// An error with what to do about it, and an exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    help: Option<String>,
}

impl Failure {
    /// The command cannot work as it was written.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None }
    }

    /// The text that gave this error is not the address of any bus.
    pub(crate) fn of_address(error: &BusError) -> Self {
        Self::usage(match error {
            BusError::Connect { address, reason, .. } => format!("\"{address}\" is no address: {reason}"),
            error => error.to_string(),
        })
    }

    /// Adds what to type next.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The failure that an error of the bus at `address` is to the person who typed the command.
    pub(crate) fn of_bus(error: &BusError, address: &str) -> Self {
        let failure = Self::new(code_of(error), without_hint(error));
        match error {
            BusError::Connect { .. } => failure.help(format!(
                "start a bus there with `whispeer serve {}`, or choose another with --addr ADDR or WHISPEER_ADDR",
                shell_word(address)
            )),
            BusError::NoServer { topic } => failure.help(format!(
                "serve it with `whispeer reply {} VALUE`, or see what is served with `whispeer info`",
                shell_word(topic)
            )),
            BusError::AddressInUse { .. } => {
                failure.help("see who uses it with `whispeer info --addr ADDR`, or serve on another address")
            }
            BusError::Denied { .. } => failure.help(
                "show who you are with --token-file, --user, or --cert and --key; on a Unix socket, the user that the bus \
                 runs as may do all",
            ),
            BusError::AlreadyServed { .. } => {
                failure.help("share the topic with --group NAME, or replace the server with --take-over")
            }
            BusError::TimedOut { .. } => failure.help("allow more time with --timeout, such as --timeout 30s"),
            BusError::NotDurable { .. } => failure.help(
                "name it in a stream of the bus, `[streams.NAME]` in its file; `whispeer info` shows those that there are",
            ),
            BusError::FrameTooLarge { .. } => {
                failure.help("start the bus with a larger limit, such as `whispeer serve ADDR --frame-limit 64MiB`")
            }
            _ => failure,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// What the error says, without how to start a bus: the help says it as it has to be typed.
fn without_hint(error: &BusError) -> String {
    let text = error.to_string();
    match (error, text.split_once("; start a bus with")) {
        (BusError::Connect { .. }, Some((text, _))) => text.to_owned(),
        _ => text,
    }
}

/// The exit code for an error of the bus.
pub(crate) fn code_of(error: &BusError) -> u8 {
    match error {
        BusError::NoServer { .. } => NO_SERVER,
        BusError::TimedOut { what, .. } if what.starts_with("connecting") => NO_BUS,
        BusError::TimedOut { .. } => TIMED_OUT,
        BusError::Replied(_) => REPLIED_ERROR,
        BusError::AddressInUse { .. } => IN_USE,
        BusError::Listen { .. } => FAILED,
        BusError::InvalidTopic(_) | BusError::ReservedTopic { .. } | BusError::InvalidSettings(_) => USAGE,
        error if error.class() == ErrorClass::Link => NO_BUS,
        _ => FAILED,
    }
}

/// Tells the error on standard error and gives the exit code.
///
/// Output that nobody reads any more is success.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(is_closed_pipe) {
        return ExitCode::SUCCESS;
    }
    let failure = error.downcast_ref::<Failure>();
    let code = match (failure, error.downcast_ref::<BusError>()) {
        (Some(failure), _) => failure.code,
        (None, Some(error)) => code_of(error),
        (None, None) => FAILED,
    };
    let (red, cyan, plain) =
        if output::colourful(&io::stderr()) { ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m") } else { ("", "", "") };
    let mut text = format!("{red}error:{plain} {error:#}\n");
    if let Some(help) = failure.and_then(|failure| failure.help.as_ref()) {
        text.push_str(&format!("{cyan}help:{plain} {help}\n"));
    }
    // There is nobody left to tell when standard error is gone.
    let _ = io::stderr().lock().write_all(text.as_bytes());
    ExitCode::from(code)
}

fn is_closed_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The word as it has to be typed in a shell.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./:@%+=,".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell_where_they_need_to_be() {
        assert_eq!(shell_word("my_bus"), "my_bus");
        assert_eq!(shell_word("a b"), "'a b'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn a_closed_pipe_deep_in_the_chain_is_success() {
        let error = anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe)).context("cannot write");
        assert_eq!(report(&error), ExitCode::SUCCESS);
    }
}
