//! Standard input.
//!
//! It is read by a thread of its own, since a read from a terminal or a pipe cannot be abandoned.

use std::io::{self, BufRead, IsTerminal, Read};
use std::thread;

use anyhow::Context;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use whispeer::limits;

use crate::failure::Failure;
use crate::output;
use crate::payload;

/// Bytes of the longest value or line: no bus can be set to take a larger frame.
const VALUE_LIMIT: usize = limits::FRAME_LIMIT_MAX;

/// Bytes of standard input that are read at a time.
const CHUNK: usize = 64 * 1024;

/// Chunks of lines that wait to be sent.
const CHUNKS: usize = 2;

/// Reads all of standard input.
pub(crate) async fn read_all() -> anyhow::Result<Vec<u8>> {
    if io::stdin().is_terminal() {
        output::notice(format_args!("reading the value from the terminal; end it with Ctrl-D"));
    }
    let text = read_at_most(VALUE_LIMIT + 1).await?;
    if text.len() > VALUE_LIMIT {
        return Err(too_long("the value"));
    }
    Ok(text)
}

/// Reads standard input to its end, or so many bytes of it.
pub(crate) async fn read_at_most(most: usize) -> anyhow::Result<Vec<u8>> {
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new().name("input".into()).spawn(move || {
        let mut text = Vec::new();
        let read = io::stdin().lock().take(most as u64).read_to_end(&mut text);
        // Nobody waits for it when the command was interrupted.
        let _ = sender.send(read.map(|_| text));
    })?;
    let text = receiver.await.context("the thread that reads the input has failed")?;
    text.context("cannot read standard input")
}

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineForm {
    /// A MessagePack string.
    String,
    /// Its bytes as they are.
    Bytes,
}

/// Payloads of the lines of standard input, chunk by chunk, as soon as they are there.
///
/// A line ends with `\n`, which is not part of it; the last one may lack it.
#[derive(Debug)]
pub(crate) struct Lines {
    chunks: mpsc::Receiver<anyhow::Result<Vec<Bytes>>>,
}

impl Lines {
    /// Starts the thread that reads.
    pub(crate) fn start(form: LineForm) -> anyhow::Result<Self> {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        thread::Builder::new().name("input".into()).spawn(move || {
            let input = io::BufReader::with_capacity(CHUNK, io::stdin().lock());
            if let Err(error) = read_lines(input, form, |lines| sender.blocking_send(Ok(lines)).is_ok()) {
                // Nobody waits for it when the command was interrupted.
                let _ = sender.blocking_send(Err(error));
            }
        })?;
        Ok(Self { chunks })
    }

    /// The next payloads; `None` at the end of the input.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Option<anyhow::Result<Vec<Bytes>>> {
        self.chunks.recv().await
    }
}

/// Gives the payloads of all lines to `send`, those of one read at a time, until it returns false.
fn read_lines(
    mut input: impl BufRead,
    form: LineForm,
    mut send: impl FnMut(Vec<Bytes>) -> bool,
) -> anyhow::Result<()> {
    let mut packer = Packer { form, line: 0, data: Vec::new(), ends: Vec::new() };
    let packed = pack_lines(&mut input, &mut packer, &mut send);
    // The lines before one that cannot be sent are sent all the same.
    if !packer.ends.is_empty() {
        send(packer.take());
    }
    packed
}

fn pack_lines(
    input: &mut impl BufRead,
    packer: &mut Packer,
    send: &mut impl FnMut(Vec<Bytes>) -> bool,
) -> anyhow::Result<()> {
    let mut begun = Vec::new();
    loop {
        let available = match input.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("cannot read standard input"),
        };
        let length = available.len();
        if length == 0 {
            break;
        }
        let mut pieces = available.split(|byte| *byte == b'\n');
        // There is always a last piece, which has no end yet.
        let unfinished = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            if begun.is_empty() {
                packer.push(piece)?;
            } else {
                begun.extend_from_slice(piece);
                packer.push(&begun)?;
                begun.clear();
            }
        }
        begun.extend_from_slice(unfinished);
        if begun.len() > VALUE_LIMIT {
            return Err(too_long(&format!("line {}", packer.line + 1)));
        }
        input.consume(length);
        if !packer.ends.is_empty() && !send(packer.take()) {
            return Ok(());
        }
    }
    if begun.is_empty() { Ok(()) } else { packer.push(&begun) }
}

/// Puts the payloads of many lines into one piece of memory.
struct Packer {
    form: LineForm,
    line: u64,
    data: Vec<u8>,
    ends: Vec<usize>,
}

impl Packer {
    fn push(&mut self, line: &[u8]) -> anyhow::Result<()> {
        self.line += 1;
        match self.form {
            LineForm::Bytes => self.data.extend_from_slice(line),
            LineForm::String => match std::str::from_utf8(line) {
                Ok(text) => payload::push_string(text, &mut self.data),
                Err(_) => {
                    let failure =
                        Failure::usage(format!("line {} is not UTF-8 and cannot be a string", self.line));
                    return Err(failure.help("to send lines as their bytes, add --raw").into());
                }
            },
        }
        self.ends.push(self.data.len());
        Ok(())
    }

    fn take(&mut self) -> Vec<Bytes> {
        let data = Bytes::from(std::mem::take(&mut self.data));
        let mut start = 0;
        let payloads = self.ends.drain(..).map(|end| data.slice(std::mem::replace(&mut start, end)..end));
        payloads.collect()
    }
}

fn too_long(what: &str) -> anyhow::Error {
    Failure::usage(format!("{what} has more than {VALUE_LIMIT} bytes, the most that a frame can have")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(text: &[u8], capacity: usize) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        let input = io::BufReader::with_capacity(capacity, text);
        read_lines(input, LineForm::Bytes, |chunk| {
            lines.extend(chunk.iter().map(|line| line.to_vec()));
            true
        })
        .unwrap();
        lines
    }

    #[test]
    fn lines_are_the_same_wherever_reads_end() {
        let text = b"first\n\nthird is longer\r\nlast without end";
        let expected: Vec<&[u8]> = vec![b"first", b"", b"third is longer\r", b"last without end"];
        for capacity in 1..text.len() + 2 {
            assert_eq!(lines_of(text, capacity), expected, "reads of {capacity} bytes");
        }
    }

    #[test]
    fn an_end_of_line_at_the_end_begins_no_line() {
        assert_eq!(lines_of(b"one\n", 64), [b"one"]);
        assert!(lines_of(b"", 64).is_empty());
    }

    #[test]
    fn a_line_that_is_not_utf8_is_named_and_those_before_it_are_sent() {
        let mut sent = 0;
        let error = read_lines(&b"fine\n\xff\n"[..], LineForm::String, |lines| {
            sent += lines.len();
            true
        })
        .unwrap_err();
        assert_eq!(sent, 1, "what comes before it is sent");
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
