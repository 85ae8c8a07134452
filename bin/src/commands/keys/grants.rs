//! Keys that are handed over: identities, pins and grants.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use whispeer::BusResult;
use whispeer::engine::encryption::{
    Accepted, Fingerprint, GrantError, GrantOptions, Identity, Keyring, PublicIdentity,
};
use whispeer::limits::GRANT_BYTES;

use super::{files, usage};
use crate::failure::{FAILED, Failure, shell_word};
use crate::{input, output};

const GRANT_EXAMPLES: &str = "\
Examples:
  whispeer keys grant team.keys --identity me.id --to \"$(cat bob.pub)\" --output bob.grant
  whispeer keys rotate team.keys && whispeer keys grant team.keys --identity me.id | whispeer pub --raw team/keys

A grant holds the key that is sent with, sealed to each member, and is signed. Nobody else can read the key, so the grant
may go by any way: the bus, mail, a web page. Members take it with `whispeer keys accept`.";

const ACCEPT_EXAMPLES: &str = "\
Examples:
  whispeer keys accept team.keys --identity bob.id bob.grant
  whispeer sub --raw --count 1 team/keys | whispeer keys accept team.keys --identity bob.id";

/// Make an identity, to which keys can be granted and which grants them
#[derive(Debug, Args)]
pub(super) struct MakeIdentity {
    /// The file to make; only you can read it
    file: PathBuf,
}

/// Let somebody hand out keys: compare the fingerprint with its owner first
#[derive(Debug, Args)]
pub(super) struct Pin {
    /// The keyring
    file: PathBuf,

    /// The public line of who may, as `whispeer keys show` tells it there
    #[arg(value_parser = public)]
    public: PublicIdentity,

    /// Pattern of the topics whose keys it may hand out, and those of narrower patterns [default: all]
    #[arg(long, value_name = "PATTERN")]
    topics: Option<String>,
}

/// Take no more grants of somebody; the keys that came stay
#[derive(Debug, Args)]
pub(super) struct Unpin {
    /// The keyring
    file: PathBuf,

    /// Whose, by fingerprint, as `whispeer keys show` tells it
    #[arg(value_parser = fingerprint)]
    granter: Fingerprint,

    /// Pattern that it was pinned for [default: that for all topics]
    #[arg(long, value_name = "PATTERN")]
    topics: Option<String>,
}

/// Let go of a pattern that has no keys any more
#[derive(Debug, Args)]
pub(super) struct Forget {
    /// The keyring
    file: PathBuf,

    /// The pattern; its topics have the keys of wider ones then
    pattern: String,
}

impl Forget {
    pub(super) fn run(self) -> anyhow::Result<()> {
        files::change(&self.file, |keyring| keyring.forget(&self.pattern).map_err(usage))?;
        let (shown, pattern) = (self.file.display(), &self.pattern);
        output::notice(format_args!("{shown} has nothing of its own for \"{pattern}\" any more"));
        Ok(())
    }
}

/// What grants have in common.
#[derive(Debug, Args)]
struct Options {
    /// Your identity, which signs
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,

    /// Pattern of the topics that the key is for [default: all that no pattern is for]
    #[arg(long, value_name = "PATTERN")]
    topics: Option<String>,

    /// Retire all other keys of these topics, here and at each member
    #[arg(long)]
    retire_older: bool,

    /// Number the grant higher than this, where this keyring does not know of an earlier one
    #[arg(long, value_name = "GENERATION")]
    above: Option<u64>,

    /// Where to write the grant [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Hand the key that is sent with to members, old and new
#[derive(Debug, Args)]
#[command(after_help = GRANT_EXAMPLES)]
pub(super) struct Grant {
    /// The keyring, which remembers its members
    file: PathBuf,

    /// Public line of a further member; may be given several times
    #[arg(long = "to", value_name = "PUBLIC", value_parser = public)]
    members: Vec<PublicIdentity>,

    #[command(flatten)]
    options: Options,
}

/// Remove a member: make a new key, and a grant of it for the others
#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The keyring
    file: PathBuf,

    /// The member, by fingerprint, as `whispeer keys show` tells it
    #[arg(value_parser = fingerprint)]
    member: Fingerprint,

    #[command(flatten)]
    options: Options,
}

/// Take a key that was granted to you; it encrypts from now on
#[derive(Debug, Args)]
#[command(after_help = ACCEPT_EXAMPLES)]
pub(super) struct Accept {
    /// The keyring, in which the granter has to be pinned
    file: PathBuf,

    /// The grant [default: standard input]
    grant: Option<PathBuf>,

    /// Your identity, to which it was granted
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
}

impl MakeIdentity {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let identity = Identity::generate().map_err(usage)?;
        let help = "choose another name; what was granted to an identity opens with that one alone";
        files::create(&self.file, &identity.to_toml(), help)?;
        let shown = shell_word(&self.file.display().to_string());
        output::notice(format_args!(
            "{shown} is a secret; give others the line below, and let them compare {}",
            identity.public().fingerprint()
        ));
        output::print(format!("{}\n", identity.public()))
    }
}

impl Pin {
    pub(super) fn run(self) -> anyhow::Result<()> {
        files::change(&self.file, |keyring| {
            keyring.pin(self.topics.as_deref(), &self.public).map_err(usage)
        })?;
        output::notice(format_args!(
            "{} takes keys for {} from {}; make sure that its owner tells you the same",
            self.file.display(),
            pinned_topics(self.topics.as_deref()),
            self.public.fingerprint()
        ));
        Ok(())
    }
}

impl Unpin {
    pub(super) fn run(self) -> anyhow::Result<()> {
        files::change(&self.file, |keyring| {
            keyring.unpin(self.topics.as_deref(), &self.granter).map_err(usage)
        })?;
        let topics = pinned_topics(self.topics.as_deref());
        output::notice(format_args!(
            "{} takes no more keys for {topics} from {}",
            self.file.display(),
            self.granter
        ));
        Ok(())
    }
}

impl Options {
    fn grant_options(&self) -> GrantOptions {
        let mut options = GrantOptions::new();
        if let Some(pattern) = &self.topics {
            options = options.topics(pattern);
        }
        if self.retire_older {
            options = options.retire_older();
        }
        self.above.map_or(options.clone(), |generation| options.above(generation))
    }

    /// Makes a grant, and puts it where it belongs once the keyring is stored.
    fn make(
        &self,
        file: &Path,
        grant: impl FnOnce(&Keyring, &Identity, &GrantOptions) -> BusResult<Vec<u8>>,
    ) -> anyhow::Result<Keyring> {
        if self.output.is_none() && io::stdout().is_terminal() {
            let failure = Failure::usage("a grant is binary, and standard output is a terminal");
            return Err(failure.help("name a file with --output, or pipe it on").into());
        }
        if let Some(output) = &self.output {
            files::check_output(output)?;
        }
        let identity = files::read_identity(&self.identity)?;
        let (grant, keyring) = files::change(file, |keyring| {
            Ok((grant(keyring, &identity, &self.grant_options()).map_err(usage)?, keyring.clone()))
        })?;
        match &self.output {
            Some(output) => files::write_grant(output, &grant)?,
            None => output::print(grant)
                .context("cannot write the grant; the keyring has noted it, so make another one")?,
        }
        Ok(keyring)
    }

    /// What became of it, in words.
    fn tell(&self, keyring: &Keyring) {
        let grants = keyring.grants();
        let is_this = |pattern: Option<&str>| pattern == self.topics.as_deref().map(canonical).as_deref();
        for last in grants.iter().filter(|last| is_this(last.pattern.as_ref().map(AsRef::as_ref))) {
            let to = match last.members.len() {
                0 => "nobody, as none is left".to_owned(),
                1 => "1 member".to_owned(),
                count => format!("{count} members"),
            };
            output::notice(format_args!(
                "granted {} to {to}: number {} for {}",
                last.key,
                last.generation,
                granted_topics(self.topics.as_deref())
            ));
        }
    }
}

impl Grant {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let keyring = self
            .options
            .make(&self.file, |keyring, identity, options| keyring.grant(identity, &self.members, options))?;
        self.options.tell(&keyring);
        Ok(())
    }
}

impl Revoke {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let keyring = self
            .options
            .make(&self.file, |keyring, identity, options| keyring.revoke(identity, &self.member, options))?;
        self.options.tell(&keyring);
        for last in keyring.grants() {
            if last.members.iter().any(|member| member.fingerprint() == self.member) {
                let topics = granted_topics(last.pattern.as_ref().map(AsRef::as_ref));
                output::notice(format_args!("{} still has the key for {topics}", self.member));
            }
        }
        Ok(())
    }
}

impl Accept {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let identity = files::read_identity(&self.identity)?;
        let bytes = self.read().await?;
        let accepted = files::change(&self.file, |keyring| {
            accept(keyring, &identity, &bytes).map_err(|error| Failure::new(FAILED, error.to_string()).into())
        })?;
        let topics = granted_topics(accepted.pattern.as_ref().map(AsRef::as_ref));
        let shown = self.file.display();
        match accepted.is_new {
            true => output::notice(format_args!("{shown} encrypts with {} for {topics}", accepted.key)),
            false => output::notice(format_args!("{shown} has {} for {topics} already", accepted.key)),
        }
        for key in &accepted.retired {
            output::notice(format_args!("{shown} opens nothing more with {key}"));
        }
        Ok(())
    }

    async fn read(&self) -> anyhow::Result<Vec<u8>> {
        let Some(file) = &self.grant else {
            if io::stdin().is_terminal() {
                let failure = Failure::usage("a grant is binary, and standard input is a terminal");
                return Err(failure.help("name its file, or pipe it in").into());
            }
            return input::read_at_most(GRANT_BYTES + 1).await;
        };
        // A larger one is refused, whatever it is.
        files::read_some(file, GRANT_BYTES + 1)
    }
}

/// Takes a grant, also with the newline that `whispeer sub --raw` puts behind it. Without that it is no whole grant, and
/// whatever is refused changes nothing.
fn accept(keyring: &Keyring, identity: &Identity, bytes: &[u8]) -> Result<Accepted, GrantError> {
    match (keyring.accept(identity, bytes), bytes.strip_suffix(b"\n")) {
        (Err(GrantError::Malformed { .. }), Some(bytes)) => keyring.accept(identity, bytes),
        (accepted, _) => accepted,
    }
}

fn public(text: &str) -> Result<PublicIdentity, String> {
    text.parse().map_err(|error: whispeer::BusError| error.to_string())
}

fn fingerprint(text: &str) -> Result<Fingerprint, String> {
    text.parse().map_err(|error: whispeer::engine::encryption::NoFingerprint| error.to_string())
}

/// A pattern as the keyring writes it.
fn canonical(pattern: &str) -> String {
    whispeer::TopicPattern::new(pattern).map_or_else(|_| pattern.to_owned(), |pattern| pattern.to_string())
}

pub(super) fn granted_topics(pattern: Option<&str>) -> String {
    pattern.map_or_else(|| "all topics without a key of their own".to_owned(), str::to_owned)
}

pub(super) fn pinned_topics(pattern: Option<&str>) -> String {
    pattern.map_or_else(|| "all topics".to_owned(), str::to_owned)
}
