//! `whispeer dict`: dictionaries for compression.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tokio::sync::oneshot;
use whispeer::engine::compression::{Compression, Dictionary};
use whispeer::engine::{Content, Context, Engine, MessageKind};
use whispeer::json;
use whispeer::limits::DICTIONARY_SAMPLES;

use crate::failure::{Failure, shell_word};
use crate::quantity::{exact_size, human_count, human_size};
use crate::{output, quantity};

const EXAMPLES: &str = "\
Examples:
  whispeer sub --count 5000 'orders/**' | whispeer dict train --lines --output orders.dict
  whispeer dict train --output orders.dict samples/*.json";

/// Make dictionaries, with which small messages compress well
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Dict {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Train(Train),
}

impl Dict {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::Train(train) => train.run().await,
        }
    }
}

const TRAIN_EXAMPLES: &str = "\
Examples:
  whispeer sub --count 5000 'orders/**' | whispeer dict train --lines --output orders.dict
  whispeer dict train --output orders.dict samples/*.json
  whispeer dict train --raw --size 32KiB --output frames.dict frames/*

Each sample is a message. It is read as JSON and becomes MessagePack, as in `whispeer pub`; with --raw its bytes
are taken as they are. There should be a thousand or so, all together about a hundred times as large as the
dictionary. One in ten is held out, and shows what the dictionary gains on messages that it does not know.

Both sides need the dictionary, to write and to read with. It holds pieces of the samples; so only you can read the
file.";

/// Permission bits of a dictionary's file.
const MODE: u32 = 0o600;

/// One sample in so many is not trained from.
const HELD_OUT: usize = 10;

/// Bytes of samples from which on training takes so long that it is announced.
const LONG: usize = 8 * 1024 * 1024;

/// Train a dictionary from samples
#[derive(Debug, Args)]
#[command(after_help = TRAIN_EXAMPLES)]
struct Train {
    /// Files with a sample each
    #[arg(value_name = "SAMPLE", required_unless_present = "lines", conflicts_with = "lines")]
    samples: Vec<PathBuf>,

    /// Take each line of standard input as a sample
    #[arg(long)]
    lines: bool,

    /// Take the bytes of samples as they are
    #[arg(long)]
    raw: bool,

    /// The file that is made
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Bytes that the dictionary has at most
    #[arg(long, value_parser = quantity::memory, default_value = "16KiB", value_name = "SIZE")]
    size: usize,
}

/// What training has given.
struct Trained {
    dictionary: Dictionary,
    /// How many samples it was trained from.
    from: usize,
    held_out: usize,
    gain: Gain,
}

/// Bytes of the samples that were held out.
#[derive(Debug, Default)]
struct Gain {
    plain: u64,
    without: u64,
    with: u64,
}

impl Train {
    async fn run(self) -> anyhow::Result<()> {
        // Before the work, which may take long; the file is not replaced afterwards either.
        if self.output.exists() {
            return Err(exists(&self.output));
        }
        let file = self.output.clone();
        // A thread of its own, so that an interrupt need not wait for it.
        let (sender, receiver) = oneshot::channel();
        thread::Builder::new().name("train".into()).spawn(move || {
            // Nobody waits for it when the command was interrupted.
            let _ = sender.send(self.train());
        })?;
        let trained = receiver.await.context("the thread that trains has failed")??;
        write(&file, trained.dictionary.as_bytes())?;
        output::notice(format_args!(
            "made {}: dictionary {} of {}, from {} samples",
            shell_word(&file.display().to_string()),
            trained.dictionary.id(),
            human_size(trained.dictionary.as_bytes().len() as u64),
            human_count(trained.from as u64),
        ));
        output::print(trained.gain.text(trained.held_out))
    }

    fn train(self) -> anyhow::Result<Trained> {
        let samples = if self.lines { self.read_lines() } else { self.read_files() }?;
        let total: usize = samples.iter().map(Vec::len).sum();
        if total >= LONG {
            output::notice(format_args!("training from {} of samples", human_size(total as u64)));
        }
        let indexed = samples.into_iter().enumerate();
        let (held_out, training): (Vec<_>, Vec<_>) =
            indexed.partition(|(index, _)| index % HELD_OUT == HELD_OUT - 1);
        let training: Vec<Vec<u8>> = training.into_iter().map(|(_, sample)| sample).collect();
        let dictionary = Dictionary::train(&training, self.size)?;
        let without = Compression::new();
        let with = Compression::new().dictionary(dictionary.clone());
        let mut gain = Gain::default();
        for (_, sample) in &held_out {
            gain.plain += sample.len() as u64;
            gain.without += compressed(&without, sample)?;
            gain.with += compressed(&with, sample)?;
        }
        Ok(Trained { dictionary, from: training.len(), held_out: held_out.len(), gain })
    }

    fn read_files(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut samples = Vec::with_capacity(self.samples.len());
        let mut left = DICTIONARY_SAMPLES;
        for file in &self.samples {
            let mut text = Vec::new();
            let shown = shell_word(&file.display().to_string());
            let opened = File::open(file).with_context(|| format!("cannot open {shown}"))?;
            let read = opened.take(left as u64 + 1).read_to_end(&mut text);
            read.with_context(|| format!("cannot read {shown}"))?;
            left = left.checked_sub(text.len()).ok_or_else(too_much)?;
            samples.push(self.sample(&text, &shown)?);
        }
        Ok(samples)
    }

    fn read_lines(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        if io::stdin().is_terminal() {
            output::notice(format_args!("reading samples from the terminal; end them with Ctrl-D"));
        }
        let mut samples = Vec::new();
        // One byte more than is allowed shows that there is more.
        let mut input = io::stdin().lock().take(DICTIONARY_SAMPLES as u64 + 1);
        let mut line = Vec::new();
        loop {
            line.clear();
            if input.read_until(b'\n', &mut line).context("cannot read standard input")? == 0 {
                break;
            }
            if input.limit() == 0 {
                return Err(too_much());
            }
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            samples.push(self.sample(text, &format!("line {}", samples.len() + 1))?);
        }
        Ok(samples)
    }

    /// The payload that a text stands for.
    fn sample(&self, text: &[u8], shown: &str) -> anyhow::Result<Vec<u8>> {
        if self.raw {
            return Ok(text.to_vec());
        }
        json::from_json(text).map(Into::into).map_err(|error| {
            let failure = Failure::usage(format!("{shown} is {error}"));
            failure.help("to take the bytes of samples as they are, add --raw").into()
        })
    }
}

impl Gain {
    fn text(&self, count: usize) -> String {
        if count == 0 {
            return format!("no samples were held out to try it on: that takes {HELD_OUT}\n");
        }
        let share = |bytes: u64| 100.0 * bytes as f64 / self.plain.max(1) as f64;
        format!(
            "held out    {} samples, {}\nwithout it  {} ({:.0} %)\nwith it     {} ({:.0} %)\n",
            human_count(count as u64),
            human_size(self.plain),
            human_size(self.without),
            share(self.without),
            human_size(self.with),
            share(self.with),
        )
    }
}

/// Bytes of a sample as it would be sent.
fn compressed(engine: &Compression, bytes: &[u8]) -> anyhow::Result<u64> {
    let mut output = Vec::new();
    let context = Context::new("", MessageKind::Publish);
    engine.seal(&context, Content { tag: 0, bytes }, &mut output)?;
    Ok(output.len() as u64)
}

/// Writes a file that was not there.
fn write(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut opened = match OpenOptions::new().write(true).create_new(true).mode(MODE).open(file) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(exists(file)),
        opened => opened.with_context(|| format!("cannot make {}", file.display()))?,
    };
    let written = opened.write_all(bytes).and_then(|()| opened.sync_all());
    if written.is_err() {
        // Half a dictionary is none.
        let _ = fs::remove_file(file);
    }
    written.with_context(|| format!("cannot write {}", file.display()))
}

fn exists(file: &Path) -> anyhow::Error {
    let failure = Failure::usage(format!("{} is there already", file.display()));
    let help =
        "choose another name, or remove it first: what was compressed with it then cannot be read any more";
    failure.help(help).into()
}

fn too_much() -> anyhow::Error {
    let most = exact_size(DICTIONARY_SAMPLES as u64);
    Failure::usage(format!("the samples have more than {most}")).help("take fewer, picked at random").into()
}
