//! Standard output and standard error.
//!
//! Results go to standard output, all else to standard error. What goes on for long is written by a
//! thread of its own: a reader that stops reading then stops what is printed, and not the connection
//! to the bus.

use std::fmt::{Arguments, Write as _};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

#[cfg(target_os = "linux")]
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

/// Bytes that are gathered before they are written, unless there is a pause.
const BLOCK: usize = 64 * 1024;

/// Blocks on their way to the writing thread. More would only delay what a slow reader sees.
const BLOCKS: usize = 2;

/// Says something to the user on standard error, behind the program's name.
pub(crate) fn notice(text: Arguments<'_>) {
    // There is nobody left to tell when standard error is gone.
    let _ = io::stderr().lock().write_all(format!("whispeer: {text}\n").as_bytes());
}

/// Whether colour is welcome on this stream.
pub(crate) fn colourful(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes a whole result to standard output.
pub(crate) fn print(text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_ref())?;
    stdout.flush()?;
    Ok(())
}

/// Standard output for results that come one by one.
///
/// What was written is handed to the thread by [`flush`](Self::flush), or when a block is full.
#[derive(Debug)]
pub(crate) struct Output {
    buffer: Vec<u8>,
    blocks: Option<mpsc::Sender<Block>>,
    /// Taken once the result is known.
    written: Option<oneshot::Receiver<io::Result<()>>>,
    reader: Option<Arc<pipe::Sender>>,
}

/// What is to be written, and who is told when it is.
type Block = (Vec<u8>, Option<oneshot::Sender<()>>);

impl Output {
    /// Starts the thread that writes. It ends with the last block, or with the first error; one that
    /// is stuck in a write does not keep the process from ending.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let (sender, receiver) = mpsc::channel(BLOCKS);
        let (done, written) = oneshot::channel();
        thread::Builder::new().name("output".into()).spawn(move || {
            // Nobody waits for the result when the command was interrupted.
            let _ = done.send(write_blocks(receiver));
        })?;
        Ok(Self {
            buffer: Vec::with_capacity(BLOCK),
            blocks: Some(sender),
            written: Some(written),
            reader: watch_reader(),
        })
    }

    /// Where the next result is to be added.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Hands over a full block.
    ///
    /// # Errors
    /// Why nothing can be written any more; a closed pipe is an [`io::ErrorKind::BrokenPipe`].
    pub(crate) async fn flush_if_full(&mut self) -> anyhow::Result<()> {
        if self.buffer.len() < BLOCK {
            return Ok(());
        }
        self.flush().await
    }

    /// Hands over what is there.
    ///
    /// # Errors
    /// As [`flush_if_full`](Self::flush_if_full).
    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.hand_over(None).await }
    }

    /// Hands over what is there, and waits until that and all before it is written.
    ///
    /// # Errors
    /// As [`flush_if_full`](Self::flush_if_full).
    pub(crate) async fn write(&mut self) -> anyhow::Result<()> {
        let (told, written) = oneshot::channel();
        self.hand_over(Some(told)).await?;
        // A thread that has not written it says why.
        if written.await.is_ok() { Ok(()) } else { self.result().await }
    }

    async fn hand_over(&mut self, told: Option<oneshot::Sender<()>>) -> anyhow::Result<()> {
        let block = std::mem::replace(&mut self.buffer, Vec::with_capacity(BLOCK));
        let sent = match &self.blocks {
            Some(blocks) => blocks.send((block, told)).await.is_ok(),
            None => false,
        };
        if sent { Ok(()) } else { self.result().await }
    }

    /// Writes all that is left and waits until it is written.
    ///
    /// # Errors
    /// As [`flush_if_full`](Self::flush_if_full).
    pub(crate) async fn finish(mut self) -> anyhow::Result<()> {
        self.flush().await?;
        // Without a sender the thread writes what it has and ends.
        self.blocks = None;
        self.result().await
    }

    /// Waits until nothing can be written any more: a write has failed, or the reader has gone.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        let reader = self.reader.clone();
        let failed = tokio::select! {
            result = self.result() => result.err(),
            () = reader_gone(reader.as_ref()) => None,
        };
        // Without an error there is nobody to write to, or the thread was told to end.
        failed.unwrap_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe).into())
    }

    async fn result(&mut self) -> anyhow::Result<()> {
        let Some(written) = &mut self.written else {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        };
        let result = written.await;
        self.written = None;
        match result {
            Ok(written) => Ok(written?),
            Err(_) => anyhow::bail!("the thread that writes the output has failed"),
        }
    }
}

/// Standard output, watched for the end of its reader; `None` where that is no pipe.
fn watch_reader() -> Option<Arc<pipe::Sender>> {
    let stdout = io::stdout().as_fd().try_clone_to_owned().ok()?;
    // Unchecked, since a check would make the pipe non-blocking for all processes that share it.
    pipe::Sender::from_owned_fd_unchecked(stdout).ok().map(Arc::new)
}

/// Waits until nobody reads standard output. Systems that do not tell say so at the next write.
#[cfg(target_os = "linux")]
async fn reader_gone(pipe: Option<&Arc<pipe::Sender>>) {
    match pipe {
        Some(pipe) if pipe.ready(Interest::ERROR).await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

#[cfg(not(target_os = "linux"))]
async fn reader_gone(_pipe: Option<&Arc<pipe::Sender>>) {
    std::future::pending().await
}

fn write_blocks(mut blocks: mpsc::Receiver<Block>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    while let Some((block, told)) = blocks.blocking_recv() {
        stdout.write_all(&block)?;
        stdout.flush()?;
        if let Some(told) = told {
            // Whoever wanted to know may have been interrupted.
            let _ = told.send(());
        }
    }
    Ok(())
}

/// A table for people: columns as wide as they have to be, numbers to the right.
#[derive(Debug)]
pub(crate) struct Table {
    headings: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

/// On which side a column is flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

impl Table {
    pub(crate) fn new(headings: &[(&'static str, Align)]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as text, headings first, a line each.
    pub(crate) fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|column| {
                let cells =
                    self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
                let heading = self.headings.get(column).map_or(0, |(heading, _)| heading.len());
                cells.max().unwrap_or(0).max(heading)
            })
            .collect();
        let mut text = String::new();
        let headings = self.headings.iter().map(|(heading, _)| *heading);
        self.line(&mut text, headings, &widths);
        for row in &self.rows {
            self.line(&mut text, row.iter().map(String::as_str), &widths);
        }
        text
    }

    fn line<'a>(&self, text: &mut String, cells: impl Iterator<Item = &'a str>, widths: &[usize]) {
        let mut line = String::new();
        for ((cell, (_, align)), width) in cells.zip(&self.headings).zip(widths) {
            let _ = match align {
                Align::Left => write!(line, "{cell:<width$}  "),
                Align::Right => write!(line, "{cell:>width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&[("topic", Align::Left), ("n", Align::Right)]);
        table.row(vec!["a".into(), "12".into()]);
        table.row(vec!["news/local".into(), "3".into()]);
        assert_eq!(table.render(), "topic        n\na           12\nnews/local   3\n");
    }
}
