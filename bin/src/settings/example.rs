//! The commented file.

use std::fmt::Write as _;

use super::kind::{Kind, toml_text};
use super::{Change, Configuration, SETTINGS, Setting, streams};

const INTRODUCTION: &str = "\
# Settings of `whispeer serve`, each with its default. Take away the # before those to change.
#
# A flag goes before a variable of the environment, that before this file, and this file before the
# default. `whispeer config` prints what is in force, and where it comes from. Relative paths begin at
# the folder of this file. Sizes are numbers of bytes, or strings with a unit (KiB, MiB, GiB, kB, MB, GB);
# times are numbers of seconds, or strings with a unit (us, ms, s, m, h).
#
# On SIGHUP the bus reads this file again, and says what it has applied and what needs a restart.
";

/// A file with every setting and its default, in a comment each.
pub(crate) fn example() -> String {
    let mut text = INTRODUCTION.to_owned();
    let default = Configuration::default();
    for setting in SETTINGS {
        let _ = write!(text, "\n# {}.\n", setting.about);
        for line in setting.more {
            let _ = writeln!(text, "# {line}");
        }
        if let Some((_, default)) = setting.example {
            let _ = writeln!(text, "# Default: {default}.");
        }
        let reload = match setting.change {
            Change::Now => "Can be changed while the bus runs",
            Change::NewConnections => "Can be changed while the bus runs, for new connections",
            Change::Restart => "Needs a restart",
        };
        let _ = writeln!(text, "# {}\n# {reload}.", other_ways(setting));
        let value = match setting.example {
            Some((value, _)) => value.to_owned(),
            None => toml_text(&setting.kind.show(&default)),
        };
        let _ = writeln!(text, "#{} = {value}", setting.key);
    }
    text.push_str(streams::EXAMPLE);
    text
}

fn other_ways(setting: &Setting) -> String {
    let (flag, mut variable) = (setting.flag(), setting.variable());
    if let Some(other) = setting.other_variable {
        variable += &format!(" or {other}");
    }
    match setting.kind {
        Kind::Switch(_) => format!("Flags --{flag} and --no-{flag}, variable {variable}."),
        Kind::Addresses(_) => format!("Arguments ADDR, variable {variable}."),
        _ => format!("Flag --{flag}, variable {variable}."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{Effective, Environment, Given};
    use super::*;

    fn load(text: &str) -> Effective {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whispeer.toml");
        fs::write(&path, text).unwrap();
        let given = Given { file: Some(path), ..Given::default() };
        Effective::load(&given, &Environment::default()).unwrap()
    }

    #[test]
    fn the_example_loads_as_it_is_and_says_the_defaults_without_its_comment_signs() {
        let text = example();
        assert_eq!(load(&text).configuration, Configuration::default());
        let said: String = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => format!("{setting}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let loaded = load(&said);
        for setting in SETTINGS {
            assert_eq!(loaded.source(setting.key).name(), "file", "{} is missing", setting.key);
            if setting.example.is_none() {
                let default = setting.kind.show(&Configuration::default());
                assert_eq!(setting.kind.show(&loaded.configuration), default, "{}", setting.key);
            }
        }
        assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
    }
}
