//! `whispeer keys`: keyrings for encrypted payloads.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use whispeer::engine::encryption::{Key, KeyId, Keyring};

use crate::failure::{Failure, shell_word};
use crate::output::{self, Align, Table};

const EXAMPLES: &str = "\
Examples:
  whispeer keys new team.keys
  whispeer sub --keyring team.keys 'news/**'
  whispeer pub --keyring team.keys news/local '\"rain\"'
  whispeer keys rotate team.keys                       new messages have another key
  whispeer keys rotate team.keys --topics 'board/**'   a key of its own for these topics
  whispeer keys retire team.keys 9c5d21f0a7b3e846      and the old one opens nothing more

A keyring is a secret that all members of a group share. Hand its file over in a way that nobody else can read; the bus
never sees it.";

/// Make and change the keyrings with which payloads are encrypted
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Keys {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    New(New),
    Show(Show),
    Rotate(Rotate),
    Retire(Retire),
}

/// Make a keyring with one key
#[derive(Debug, Args)]
struct New {
    /// The file to make; only you can read it
    file: PathBuf,

    /// Pattern of the topics that the key is for [default: all]
    #[arg(long, value_name = "PATTERN")]
    topics: Option<String>,
}

/// Show which keys there are, and nothing secret
#[derive(Debug, Args)]
struct Show {
    /// The keyring
    file: PathBuf,
}

/// Encrypt with a new key from now on; the old ones still open what arrives
#[derive(Debug, Args)]
struct Rotate {
    /// The keyring
    file: PathBuf,

    /// Pattern of the topics that the key is for [default: all that no pattern is for]
    #[arg(long, value_name = "PATTERN")]
    topics: Option<String>,
}

/// Open nothing more that is encrypted with a key
#[derive(Debug, Args)]
struct Retire {
    /// The keyring
    file: PathBuf,

    /// The key's id, as `whispeer keys show` tells it
    #[arg(value_parser = key_id)]
    id: KeyId,
}

impl Keys {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::New(new) => new.run(),
            What::Show(show) => show.run(),
            What::Rotate(rotate) => rotate.run(),
            What::Retire(retire) => retire.run(),
        }
    }
}

impl New {
    fn run(self) -> anyhow::Result<()> {
        let keyring = Keyring::new();
        let id = add(&keyring, self.topics.as_deref())?;
        let _lock = lock(&self.file)?;
        if self.file.exists() {
            let failure = Failure::usage(format!("{} is there already", self.file.display()));
            return Err(failure
                .help("add a key to it with `whispeer keys rotate`, or choose another name")
                .into());
        }
        store(&keyring, &self.file)?;
        let shown = shell_word(&self.file.display().to_string());
        output::notice(format_args!("{shown} has the key {id}; whoever has the file can read and write"));
        Ok(())
    }
}

impl Show {
    fn run(self) -> anyhow::Result<()> {
        let keyring = read(&self.file)?;
        let mut table = Table::new(&[("KEY", Align::Left), ("USE", Align::Left), ("TOPICS", Align::Left)]);
        for key in keyring.keys() {
            let purpose = if key.is_sending { "send and read" } else { "read" };
            let topics = key.pattern.map_or_else(|| "all others".to_owned(), |pattern| pattern.to_string());
            table.row(vec![key.id.to_string(), purpose.to_owned(), topics]);
        }
        for id in keyring.retired() {
            table.row(vec![id.to_string(), "retired".to_owned(), "-".to_owned()]);
        }
        output::print(table.render())
    }
}

impl Rotate {
    fn run(self) -> anyhow::Result<()> {
        let _lock = lock(&self.file)?;
        let keyring = read(&self.file)?;
        let id = add(&keyring, self.topics.as_deref())?;
        store(&keyring, &self.file)?;
        output::notice(format_args!(
            "{} encrypts with {id} from now on; give it to all members before they need it",
            self.file.display()
        ));
        Ok(())
    }
}

impl Retire {
    fn run(self) -> anyhow::Result<()> {
        let _lock = lock(&self.file)?;
        let keyring = read(&self.file)?;
        keyring.retire(self.id).map_err(usage)?;
        store(&keyring, &self.file)?;
        output::notice(format_args!("{} opens nothing more with {}", self.file.display(), self.id));
        Ok(())
    }
}

fn key_id(text: &str) -> Result<KeyId, String> {
    text.parse().map_err(|_| format!("expected {} hexadecimal digits", 2 * KeyId::LEN))
}

fn usage(error: impl std::fmt::Display) -> anyhow::Error {
    Failure::usage(error.to_string()).into()
}

fn add(keyring: &Keyring, topics: Option<&str>) -> anyhow::Result<KeyId> {
    let key = Key::generate().map_err(usage)?;
    let added = match topics {
        Some(pattern) => keyring.rotate_for(pattern, key),
        None => keyring.rotate(key),
    };
    added.map_err(usage)
}

fn read(file: &Path) -> anyhow::Result<Keyring> {
    Keyring::read(file).map_err(usage)
}

fn folder(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Keeps others from changing a keyring of this folder at the same time.
fn lock(file: &Path) -> anyhow::Result<File> {
    let folder = folder(file);
    let at_folder = || format!("cannot use {}", folder.display());
    let lock = File::open(folder).with_context(at_folder)?;
    lock.lock().with_context(at_folder)?;
    Ok(lock)
}

/// Replaces the file in one step, so that a reader sees the old keyring or the new one.
fn store(keyring: &Keyring, file: &Path) -> anyhow::Result<()> {
    let at_file = || format!("cannot write {}", file.display());
    // A temporary file has mode 0600, and keeps it when it is renamed.
    let mut written = tempfile::NamedTempFile::new_in(folder(file)).with_context(at_file)?;
    written.write_all(keyring.to_toml().as_bytes()).with_context(at_file)?;
    written.as_file().sync_all().with_context(at_file)?;
    // A link that the user put there leads to the file that is meant.
    let target = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    written.persist(target).map_err(|error| error.error).with_context(at_file)?;
    Ok(())
}
