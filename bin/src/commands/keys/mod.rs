//! `whispeer keys`: keyrings for encrypted payloads.

mod files;
mod grants;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use whispeer::engine::encryption::{Identity, Key, KeyId, Keyring};

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

A keyring is a secret that all members of a group share. Hand its file over in a way that nobody else can read, or hand
keys over by grants, which may go by any way:
  whispeer keys identity me.id                         each has one; its line is public
  whispeer keys pin team.keys whispeer-id-1:...        members: whose grants to take
  whispeer keys grant team.keys --identity me.id --to whispeer-id-1:... | whispeer pub --raw team/keys
  whispeer sub --raw --count 1 team/keys | whispeer keys accept team.keys --identity me.id
  whispeer keys revoke team.keys 1c20-4c11-... --identity me.id | whispeer pub --raw team/keys";

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
    Add(Add),
    Rotate(Rotate),
    Retire(Retire),
    Identity(grants::MakeIdentity),
    Pin(grants::Pin),
    Unpin(grants::Unpin),
    Forget(grants::Forget),
    Grant(grants::Grant),
    Accept(grants::Accept),
    Revoke(grants::Revoke),
}

/// Make a keyring with one key
#[derive(Debug, Args)]
struct New {
    /// The file to make; only you can read it
    file: PathBuf,

    /// Pattern of the topics that the key is for [default: all]
    #[arg(long, value_name = "PATTERN")]
    topics: Option<String>,

    /// Without a key, to be granted some
    #[arg(long, conflicts_with = "topics")]
    empty: bool,
}

/// Show what is in a keyring or an identity, and nothing secret
#[derive(Debug, Args)]
struct Show {
    /// The keyring or the identity
    file: PathBuf,
}

/// Add a new key that only opens what arrives, so that all can have it before it is sent with
#[derive(Debug, Args)]
struct Add {
    /// The keyring
    file: PathBuf,

    /// Pattern of the topics that the key is for [default: all that no pattern is for]
    #[arg(long, value_name = "PATTERN")]
    topics: Option<String>,
}

/// Encrypt with a new key from now on; the old ones still open what arrives
#[derive(Debug, Args)]
struct Rotate {
    /// The keyring
    file: PathBuf,

    /// Pattern of the topics that the key is for [default: all that no pattern is for]
    #[arg(long, value_name = "PATTERN")]
    topics: Option<String>,

    /// A key that the keyring has already, by its id, instead of a new one
    #[arg(long, value_name = "ID", value_parser = key_id, conflicts_with = "topics")]
    to: Option<KeyId>,
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
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::New(new) => new.run(),
            What::Show(show) => show.run(),
            What::Add(add) => add.run(),
            What::Rotate(rotate) => rotate.run(),
            What::Retire(retire) => retire.run(),
            What::Identity(identity) => identity.run(),
            What::Pin(pin) => pin.run(),
            What::Unpin(unpin) => unpin.run(),
            What::Forget(forget) => forget.run(),
            What::Grant(grant) => grant.run(),
            What::Accept(accept) => accept.run().await,
            What::Revoke(revoke) => revoke.run(),
        }
    }
}

impl New {
    fn run(self) -> anyhow::Result<()> {
        let keyring = Keyring::new();
        let id = match self.empty {
            true => None,
            false => Some(rotate(&keyring, self.topics.as_deref())?),
        };
        let help = "add a key to it with `whispeer keys rotate`, or choose another name";
        files::create(&self.file, &keyring.to_toml(), help)?;
        let shown = shell_word(&self.file.display().to_string());
        match id {
            Some(id) => output::notice(format_args!(
                "{shown} has the key {id}; whoever has the file can read and write"
            )),
            None => output::notice(format_args!(
                "{shown} has no key; pin who may grant you some with `whispeer keys pin`"
            )),
        }
        Ok(())
    }
}

impl Show {
    fn run(self) -> anyhow::Result<()> {
        match files::read(&self.file) {
            Ok(keyring) => output::print(shown(&keyring)),
            // What is no keyring may be an identity; if it is neither, the first reason is told.
            Err(error) => match Identity::read(&self.file) {
                Ok(identity) => output::print(format!(
                    "fingerprint  {}\npublic       {}\n",
                    identity.public().fingerprint(),
                    identity.public()
                )),
                Err(_) => Err(error),
            },
        }
    }
}

/// Tables of all that a keyring has; those of what it has not are left out.
fn shown(keyring: &Keyring) -> String {
    let mut keys = Table::new(&[("KEY", Align::Left), ("USE", Align::Left), ("TOPICS", Align::Left)]);
    for key in keyring.keys() {
        let purpose = if key.is_sending { "send and read" } else { "read" };
        let topics = key.pattern.map_or_else(|| "all others".to_owned(), |pattern| pattern.to_string());
        keys.row(vec![key.id.to_string(), purpose.to_owned(), topics]);
    }
    for id in keyring.retired() {
        keys.row(vec![id.to_string(), "retired".to_owned(), "-".to_owned()]);
    }
    let mut text = keys.render();
    let pins = keyring.pins();
    if !pins.is_empty() {
        let mut table = Table::new(&[("GRANTER", Align::Left), ("TOPICS", Align::Left)]);
        for pin in pins {
            let topics = grants::pinned_topics(pin.pattern.as_ref().map(AsRef::as_ref));
            table.row(vec![pin.granter.fingerprint().to_string(), topics]);
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    let granted = keyring.grants();
    if !granted.is_empty() {
        let mut table =
            Table::new(&[("GENERATION", Align::Right), ("KEY", Align::Left), ("TOPICS", Align::Left)]);
        let mut members = Table::new(&[("MEMBER", Align::Left), ("TOPICS", Align::Left)]);
        let mut has_members = false;
        for last in granted {
            let topics = last.pattern.map_or_else(|| "all others".to_owned(), |pattern| pattern.to_string());
            table.row(vec![last.generation.to_string(), last.key.to_string(), topics.clone()]);
            for member in last.members {
                has_members = true;
                members.row(vec![member.fingerprint().to_string(), topics.clone()]);
            }
        }
        text.push('\n');
        text.push_str(&table.render());
        if has_members {
            text.push('\n');
            text.push_str(&members.render());
        }
    }
    text
}

impl Add {
    fn run(self) -> anyhow::Result<()> {
        let id = files::change(&self.file, |keyring| {
            let key = Key::generate().map_err(usage)?;
            let added = match self.topics.as_deref() {
                Some(pattern) => keyring.add_for(pattern, key),
                None => keyring.add(key),
            };
            added.map_err(usage)
        })?;
        let shown = self.file.display();
        output::notice(format_args!(
            "{shown} reads with {id}; when all have it, `whispeer keys rotate FILE --to {id}` sends with it"
        ));
        Ok(())
    }
}

impl Rotate {
    fn run(self) -> anyhow::Result<()> {
        let id = files::change(&self.file, |keyring| match self.to {
            Some(id) => keyring.send_with(id).map(|()| id).map_err(usage),
            None => rotate(keyring, self.topics.as_deref()),
        })?;
        let shown = self.file.display();
        let advice = match self.to {
            Some(_) => "",
            None => "; give it to all members before they need it",
        };
        output::notice(format_args!("{shown} encrypts with {id} from now on{advice}"));
        Ok(())
    }
}

impl Retire {
    fn run(self) -> anyhow::Result<()> {
        files::change(&self.file, |keyring| keyring.retire(self.id).map_err(usage))?;
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

/// Has a keyring send with a new key.
fn rotate(keyring: &Keyring, topics: Option<&str>) -> anyhow::Result<KeyId> {
    let key = Key::generate().map_err(usage)?;
    let added = match topics {
        Some(pattern) => keyring.rotate_for(pattern, key),
        None => keyring.rotate(key),
    };
    added.map_err(usage)
}
