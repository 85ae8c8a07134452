//! The first word of the command line: a subcommand, or the address of a bus to start.
//!
//! `whispeer my_bus` means `whispeer serve my_bus`. A word that is nearly a subcommand is more likely
//! a slip than a socket's name, and a bus started by mistake would be a quiet surprise: it is refused
//! with both spellings.

use std::ffi::OsString;

use crate::arguments;
use crate::failure::{Failure, shell_word};

/// Options that stand before a subcommand and take a value.
const WITH_VALUE: &[&str] = &["--addr"];

/// Puts `serve` before the first word where that is what is meant.
pub(crate) fn resolve(mut words: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let command = arguments::command();
    let serve = command.find_subcommand("serve");
    let is_serve_option = |word: &str| {
        let name = word.trim_start_matches('-').split('=').next().unwrap_or_default();
        serve.is_some_and(|serve| serve.get_arguments().any(|argument| argument.get_long() == Some(name)))
    };
    let mut at = 1;
    while let Some(word) = words.get(at) {
        let text = word.to_string_lossy();
        if WITH_VALUE.contains(&&*text) {
            at += 2;
        } else if text.starts_with("--") && is_serve_option(&text) {
            break;
        } else if text.starts_with('-') {
            at += 1;
        } else {
            break;
        }
    }
    let Some(word) = words.get(at).map(|word| word.to_string_lossy().into_owned()) else { return Ok(words) };
    let known = |name: &str| name == "help" || command.find_subcommand(name).is_some();
    if known(&word) {
        return Ok(words);
    }
    let names =
        command.get_subcommands().filter(|command| !command.is_hide_set()).map(|command| command.get_name());
    if let Some(meant) = names.filter(|name| is_close(&word, name)).min_by_key(|name| distance(&word, name)) {
        let failure =
            Failure::usage(format!("\"{word}\" is not a subcommand; did you mean `whispeer {meant}`?"));
        let forced = shell_word(&word);
        return Err(failure
            .help(format!("to start a bus on a socket named \"{word}\": `whispeer serve {forced}`"))
            .into());
    }
    words.insert(at, "serve".into());
    Ok(words)
}

/// Whether the word is so near to the subcommand that it is taken for a slip: one edit away from a
/// short name, two from one of five letters and more. An option is none. At two edits most three-letter words would be
/// near `sub` or `pub`, `bus` among them.
fn is_close(word: &str, name: &str) -> bool {
    let allowed = if name.len() < 5 { 1 } else { 2 };
    word.len() > 1 && !word.starts_with('-') && distance(word, name) <= allowed
}

/// How many letters have to be added, removed, replaced or swapped with their neighbour.
pub(crate) fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut before_last = vec![0; other.len() + 1];
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (row, letter) in one.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, candidate) in other.iter().enumerate() {
            let replaced = last[column] + usize::from(letter != candidate);
            let mut best = replaced.min(last[column + 1] + 1).min(current[column] + 1);
            let swapped = row > 0 && column > 0 && one[row - 1] == *candidate && *letter == other[column - 1];
            if swapped {
                best = best.min(before_last[column - 1] + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(line: &str) -> Result<String, String> {
        let words = line.split(' ').map(OsString::from).collect();
        let words = resolve(words).map_err(|error| error.to_string())?;
        Ok(words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_bare_word_or_path_starts_a_bus() {
        assert_eq!(resolved("whispeer my_bus").unwrap(), "whispeer serve my_bus");
        assert_eq!(resolved("whispeer unix:a b").unwrap(), "whispeer serve unix:a b");
        assert_eq!(resolved("whispeer bus").unwrap(), "whispeer serve bus");
        assert_eq!(resolved("whispeer --mode 0660 my_bus").unwrap(), "whispeer serve --mode 0660 my_bus");
        assert_eq!(resolved("whispeer -v my_bus").unwrap(), "whispeer -v serve my_bus");
        assert_eq!(resolved("whispeer --config a.toml").unwrap(), "whispeer serve --config a.toml");
    }

    #[test]
    fn subcommands_and_options_are_left_alone() {
        for line in
            ["whispeer sub a", "whispeer serve inof", "whispeer", "whispeer --help", "whispeer --addr a info"]
        {
            assert_eq!(resolved(line).unwrap(), line);
        }
    }

    #[test]
    fn a_word_close_to_a_subcommand_is_refused_with_both_spellings() {
        for (word, meant) in [("inof", "info"), ("sbu", "sub"), ("benhc", "bench"), ("regster", "register")] {
            let error = resolved(&format!("whispeer {word}")).unwrap_err();
            assert!(error.contains(&format!("`whispeer {meant}`")), "{error}");
        }
    }

    #[test]
    fn a_swap_counts_as_one_edit() {
        assert_eq!(distance("inof", "info"), 1);
        assert_eq!(distance("", "ls"), 2);
        assert_eq!(distance("sub", "sub"), 0);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
