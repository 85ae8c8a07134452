//! The configuration file.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{Configuration, Setting, Source, streams};
use crate::failure::{FAILED, Failure};
use crate::first_word::distance;

/// Bytes of the largest file that is read. A larger one is no configuration.
const FILE_LIMIT: u64 = 1024 * 1024;

/// How often others may have got the key wrong for the right one to be suggested.
const NEAR: usize = 3;

/// Reads the file into a configuration. Returns the source of each setting that stands in it, by its place in the table.
///
/// # Errors
/// All that is wrong with it, each with its line.
pub(super) fn read(
    path: &Path,
    table: &[Setting],
    into: &mut Configuration,
) -> anyhow::Result<Vec<(usize, Source)>> {
    let cannot = |error: std::io::Error| {
        Failure::new(FAILED, format!("cannot read the configuration file {}: {error}", path.display()))
    };
    let file = File::open(path).map_err(cannot)?;
    let mut text = String::new();
    let length = file.take(FILE_LIMIT + 1).read_to_string(&mut text).map_err(cannot)?;
    if length as u64 > FILE_LIMIT {
        let failure = Failure::usage(format!("{} has more than {FILE_LIMIT} bytes", path.display()));
        return Err(failure.help("a configuration is smaller: check that the right file is named").into());
    }
    let mut reading = Reading { path, text: &text, table, into, sources: Vec::new(), problems: Vec::new() };
    match DeTable::parse(&text) {
        Ok(document) => reading.table("", document.get_ref()),
        Err(error) => reading.problem(error.span().unwrap_or_default(), error.message()),
    }
    let Reading { sources, mut problems, .. } = reading;
    if problems.is_empty() {
        return Ok(sources);
    }
    problems.sort_by_key(|(line, _)| *line);
    let problems: Vec<_> = problems.into_iter().map(|(_, problem)| problem).collect();
    let help = "`whispeer config --example` prints a file with every setting";
    Err(Failure::usage(problems.join("\n       ")).help(help).into())
}

/// The table of the file in which a policy may stand.
const POLICY_TABLE: &str = "auth";

struct Reading<'a> {
    path: &'a Path,
    text: &'a str,
    table: &'a [Setting],
    into: &'a mut Configuration,
    sources: Vec<(usize, Source)>,
    /// With the line of each.
    problems: Vec<(usize, String)>,
}

impl Reading<'_> {
    /// Reads a table whose keys begin with `prefix`.
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            let inside = format!("{name}.");
            if name == POLICY_TABLE && matches!(value.get_ref(), DeValue::Table(_)) {
                if table.contains_key("policy") {
                    let text =
                        "[auth] and the key \"policy\" both say who may do what; leave one of them out";
                    self.problem(key.span(), text);
                }
                self.policy_within(key.span());
                continue;
            }
            if name == streams::TABLE {
                self.streams(key.span(), value.get_ref());
                continue;
            }
            match (self.table.iter().position(|setting| setting.key == name), value.get_ref()) {
                (Some(index), value) => self.setting(index, key.span(), value),
                (None, DeValue::Table(table))
                    if self.table.iter().any(|setting| setting.key.starts_with(&inside)) =>
                {
                    self.table(&inside, table);
                }
                (None, _) => self.unknown(&name, key.span()),
            }
        }
    }

    /// Who may do what stands in this file, and is read where it is needed.
    fn policy_within(&mut self, at: Range<usize>) {
        self.into.policy = Some(PathBuf::from(self.path));
        let source = Source::File { path: PathBuf::from(self.path), line: self.line(&at) };
        let index = self.table.iter().position(|setting| setting.key == "policy");
        self.sources.extend(index.map(|index| (index, source)));
    }

    /// Reads the tables of streams.
    fn streams(&mut self, at: Range<usize>, value: &DeValue<'_>) {
        let DeValue::Table(table) = value else {
            let text = "streams: expected tables, such as [streams.orders]";
            return self.problem(at, text);
        };
        match streams::read(table, |at| self.line(at)) {
            Ok(choices) => self.into.streams = choices,
            Err(problems) => problems.into_iter().for_each(|(at, text)| self.problem(at, &text)),
        }
    }

    fn setting(&mut self, index: usize, at: Range<usize>, value: &DeValue<'_>) {
        let Some(setting) = self.table.get(index) else { return };
        let base = self.path.parent().unwrap_or(Path::new(""));
        match setting.kind.read_toml(self.into, value, base) {
            Ok(()) => {
                let source = Source::File { path: PathBuf::from(self.path), line: self.line(&at) };
                self.sources.push((index, source));
            }
            Err(reason) => {
                let problem = format!("{}: expected {}, {reason}", setting.key, setting.kind.expected());
                self.problem(at, &problem);
            }
        }
    }

    fn unknown(&mut self, name: &str, at: Range<usize>) {
        let asked = name.replace('-', "_");
        let near = self.table.iter().map(|setting| setting.key).min_by_key(|key| distance(&asked, key));
        let near = near.filter(|key| distance(&asked, key) <= NEAR.min(key.len() / 2));
        let suggestion = near.map(|key| format!("; did you mean \"{key}\"?")).unwrap_or_default();
        self.problem(at, &format!("unknown key \"{name}\"{suggestion}"));
    }

    fn problem(&mut self, at: Range<usize>, text: &str) {
        let line = self.line(&at);
        self.problems.push((line, format!("{}:{line}: {text}", self.path.display())));
    }

    fn line(&self, at: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..at.start).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }
}
