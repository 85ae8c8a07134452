//! What the processes have noted, in one file and in the order in which it happened.
//!
//! Each line is written at once, behind the end of the file. Whoever is killed may leave a part of one, so that a line
//! begins with a line feed and ends with a mark.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

/// What one line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noted {
    /// This number is about to be published.
    Sent(u64),
    /// It has been acknowledged.
    Stored(u64),
    /// Nobody can tell whether it has been stored.
    Unknown(u64),
    /// A message was handed over.
    Got(Got),
    /// It is to come again.
    Refused(u64),
    /// Its acknowledgement is kept.
    Acked(u64),
    /// Whether its acknowledgement is kept cannot be told.
    Unsure(u64),
}

/// A message that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) sequence: u64,
    /// Somebody may have had it before.
    pub(super) is_marked: bool,
    pub(super) content: Content,
}

/// What a message says: whose it is, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) publisher: u64,
    pub(super) number: u64,
}

impl Content {
    /// A payload that says so, and has some length beside.
    pub(super) fn payload(self) -> String {
        let padding = if self.number.is_multiple_of(40) { 5_000 } else { self.number % 90 };
        format!("{} {} {}", self.publisher, self.number, "x".repeat(padding as usize))
    }

    /// What a payload says.
    pub(super) fn of(payload: &[u8]) -> Self {
        let text = std::str::from_utf8(payload).unwrap();
        let mut words = text.split(' ').map_while(|word| word.parse().ok());
        let content = Self { publisher: words.next().unwrap(), number: words.next().unwrap() };
        assert_eq!(content.payload(), text, "it has come whole");
        content
    }
}

impl fmt::Display for Noted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(number) => write!(formatter, "sent {number}"),
            Self::Stored(number) => write!(formatter, "stored {number}"),
            Self::Unknown(number) => write!(formatter, "unknown {number}"),
            Self::Got(Got { sequence, is_marked, content: Content { publisher, number } }) => {
                write!(formatter, "got {sequence} {} {publisher} {number}", u8::from(*is_marked))
            }
            Self::Refused(sequence) => write!(formatter, "refused {sequence}"),
            Self::Acked(sequence) => write!(formatter, "acked {sequence}"),
            Self::Unsure(sequence) => write!(formatter, "unsure {sequence}"),
        }
    }
}

impl Noted {
    fn parse(words: &[&str]) -> Option<Self> {
        let (verb, numbers) = words.split_first()?;
        let numbers: Vec<u64> = numbers.iter().map(|word| word.parse().ok()).collect::<Option<_>>()?;
        Some(match (*verb, &numbers[..]) {
            ("sent", [number]) => Self::Sent(*number),
            ("stored", [number]) => Self::Stored(*number),
            ("unknown", [number]) => Self::Unknown(*number),
            ("got", [sequence, marked, publisher, number]) => {
                let content = Content { publisher: *publisher, number: *number };
                Self::Got(Got { sequence: *sequence, is_marked: *marked == 1, content })
            }
            ("refused", [sequence]) => Self::Refused(*sequence),
            ("acked", [sequence]) => Self::Acked(*sequence),
            ("unsure", [sequence]) => Self::Unsure(*sequence),
            _ => return None,
        })
    }
}

/// The end of the journal, for one process.
pub(super) struct Pen {
    file: File,
    name: String,
}

impl Pen {
    pub(super) fn new(path: &Path, name: String) -> Self {
        Self { file: OpenOptions::new().append(true).open(path).unwrap(), name }
    }

    pub(super) fn note(&mut self, noted: Noted) {
        self.file.write_all(format!("\n{} {noted} .", self.name).as_bytes()).unwrap();
    }
}

/// The journal, for who checks it.
pub(super) struct Journal {
    file: File,
    /// What has been read and may not be all of a line.
    rest: Vec<u8>,
    names: HashMap<String, usize>,
    /// How many lines there are of each role.
    counts: HashMap<String, usize>,
    /// Who has noted what: the process, as an index by order of appearance.
    pub(super) lines: Vec<(usize, Noted)>,
}

impl Journal {
    /// Makes the file.
    pub(super) fn new(path: &Path) -> Self {
        File::create(path).unwrap();
        let file = File::open(path).unwrap();
        Self { file, rest: Vec::new(), names: HashMap::new(), counts: HashMap::new(), lines: Vec::new() }
    }

    /// Reads what has been noted meanwhile.
    pub(super) fn read_on(&mut self) {
        self.file.read_to_end(&mut self.rest).unwrap();
        let bytes = std::mem::take(&mut self.rest);
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = line.strip_suffix(b"\n");
            match text.unwrap_or(line).strip_suffix(b" .") {
                Some(whole) => self.add(std::str::from_utf8(whole).unwrap()),
                // More of it may come.
                None if text.is_none() => self.rest = line.to_vec(),
                None => {}
            }
        }
    }

    fn add(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let noted = Noted::parse(&words[1..]).unwrap_or_else(|| panic!("a line: {line:?}"));
        let next = self.names.len();
        let process = *self.names.entry(words[0].to_owned()).or_insert(next);
        *self.counts.entry(role(words[0]).to_owned()).or_default() += 1;
        self.lines.push((process, noted));
    }

    /// How many lines there are of a role.
    pub(super) fn count(&self, role: &str) -> usize {
        self.counts.get(role).copied().unwrap_or_default()
    }

    /// The process of this name and number, if it has noted anything.
    pub(super) fn process(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// What was noted by processes of these roles, in order, each with its process.
    pub(super) fn of<'a>(&'a self, roles: &[&str]) -> impl Iterator<Item = (usize, Noted)> + use<'a> {
        let own = self.names.iter().filter(|(name, _)| roles.contains(&role(name)));
        let processes: Vec<usize> = own.map(|(_, process)| *process).collect();
        self.lines.iter().copied().filter(move |(process, _)| processes.contains(process))
    }
}

/// The role of a process.
fn role(name: &str) -> &str {
    name.split_once('#').map_or(name, |(role, _)| role)
}
