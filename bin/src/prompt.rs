//! A password, from a terminal or a pipe.

use std::io::{self, BufRead, IsTerminal, Read, StdinLock, Write};
use std::thread;

use anyhow::Context;
use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use tokio::sync::oneshot;
use whispeer::auth::Secret;
use whispeer::limits::PASSWORD_BYTES;

use crate::failure::Failure;

/// Asks for a new password, twice and without showing it, if standard input is a terminal; else reads it from
/// the only line of standard input.
pub(crate) async fn new_password() -> anyhow::Result<Secret> {
    if !io::stdin().is_terminal() {
        return line(only_line).await;
    }
    // Dropped when the command is interrupted as well: the terminal shows again what is typed.
    let _hidden = Hidden::hide().context("cannot keep the terminal from showing the password")?;
    let password = ask("New password: ").await?;
    let again = ask("Once more: ").await?;
    if password.reveal() != again.reveal() {
        return Err(Failure::usage("the two passwords are not the same").help("try again").into());
    }
    Ok(password)
}

/// Asks for the password of a user, without showing it.
pub(crate) async fn password(user: &str) -> anyhow::Result<Secret> {
    if !io::stdin().is_terminal() {
        let failure = Failure::usage(format!("the password of user {user:?} is missing"));
        return Err(failure.help("give --password-file FILE, or set WHISPEER_PASSWORD").into());
    }
    let _hidden = Hidden::hide().context("cannot keep the terminal from showing the password")?;
    ask(&format!("Password of {user:?}: ")).await
}

async fn ask(question: &str) -> anyhow::Result<Secret> {
    let mut terminal = io::stderr();
    // There is nobody to ask when standard error is gone, and the line may come all the same.
    let _ = terminal.write_all(question.as_bytes()).and_then(|()| terminal.flush());
    let answer = line(first_line).await;
    let _ = terminal.write_all(b"\n");
    answer
}

/// Reads a line without its end, by a thread, since a read cannot be abandoned.
async fn line(read: fn(&mut StdinLock<'static>) -> anyhow::Result<Secret>) -> anyhow::Result<Secret> {
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new().name("input".into()).spawn(move || {
        // Nobody waits for it when the command was interrupted.
        let _ = sender.send(read(&mut io::stdin().lock()));
    })?;
    receiver.await.context("the thread that reads the input has failed")?
}

fn first_line(input: &mut impl BufRead) -> anyhow::Result<Secret> {
    // With the end of the line, and all at once: no copy is left behind by growing.
    let most = PASSWORD_BYTES + 2;
    let mut text = String::with_capacity(most + 1);
    let read = input.take(most as u64 + 1).read_line(&mut text);
    let mut password = Secret::new(text);
    match read {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(Failure::usage("the password is not UTF-8").into());
        }
        read => read.context("cannot read the password")?,
    };
    let text = password.reveal();
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.len() != text.len() {
        password = Secret::new(line);
    }
    Ok(password)
}

/// The first line if there is no other. One that is too long is left to whoever says so.
fn only_line(input: &mut impl BufRead) -> anyhow::Result<Secret> {
    let password = first_line(input)?;
    if password.reveal().len() <= PASSWORD_BYTES && !input.fill_buf()?.is_empty() {
        return Err(Failure::usage("the password has more than one line").into());
    }
    Ok(password)
}

/// Keeps the terminal from showing what is typed, until it is dropped.
struct Hidden {
    before: Termios,
}

impl Hidden {
    fn hide() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        // What was typed before the question is no answer to it.
        termios::tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that has gone shows nothing.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_before_its_end_and_nothing_else_is_cut() {
        for (text, expected) in [
            ("secret\n", "secret"),
            ("secret\r\n", "secret"),
            ("secret", "secret"),
            (" se cret \r", " se cret \r"),
            ("one\ntwo\n", "one"),
            ("", ""),
        ] {
            assert_eq!(first_line(&mut text.as_bytes()).unwrap().reveal(), expected);
        }
        assert!(first_line(&mut &b"\xff\n"[..]).is_err());
        assert!(only_line(&mut &b"one\ntwo\n"[..]).is_err());
    }

    #[test]
    fn no_more_is_read_than_a_password_may_have() {
        let mut endless = io::BufReader::new(io::repeat(b'a'));
        assert_eq!(only_line(&mut endless).unwrap().reveal().len(), PASSWORD_BYTES + 3);
    }
}
