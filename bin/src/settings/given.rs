//! What was given on the command line and in the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::kind::Kind;
use super::{Configuration, SETTINGS, Setting};
use crate::first_word::distance;

/// The flag, and the variable, that name the configuration file.
pub(super) const FILE_FLAG: &str = "config";
pub(super) const FILE_VARIABLE: &str = "WHISPEER_CONFIG";

/// Variables of this project's that are no settings.
const OTHER_VARIABLES: [&str; 2] = [FILE_VARIABLE, crate::connection::ADDRESS_VARIABLE];

/// The flags of all settings, as they were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Given {
    pub(super) file: Option<PathBuf>,
    /// By the setting's key: the flag as it was written, and its values.
    pub(super) values: BTreeMap<&'static str, (String, Vec<String>)>,
}

impl Given {
    /// Nothing but this file.
    #[cfg(feature = "sqlite")]
    pub(crate) fn of_file(file: Option<PathBuf>) -> Self {
        Self { file, ..Self::default() }
    }

    /// Makes up a flag that was not given, as `-v` and `--addr` do.
    pub(crate) fn or(mut self, key: &'static str, flag: &str, value: Option<String>) -> Self {
        if let Some(value) = value {
            self.values.entry(key).or_insert_with(|| (flag.to_owned(), vec![value]));
        }
        self
    }

    /// Whether a setting was given.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }
}

impl Args for Given {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new(FILE_FLAG)
            .long(FILE_FLAG)
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help(format!("Read settings from this file [env: {FILE_VARIABLE}]"));
        SETTINGS.iter().fold(command.arg(file), |command, setting| match setting.kind {
            Kind::Switch(_) => command.args(switches(setting)),
            Kind::Addresses(_) => command.arg(positional(setting)),
            _ => command.arg(flag(setting)),
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Self { file: matches.get_one::<PathBuf>(FILE_FLAG).cloned(), ..Self::default() };
        for setting in SETTINGS {
            let value = match setting.kind {
                Kind::Switch(_) => switched(setting, matches),
                Kind::Addresses(_) => words(setting, matches).map(|words| ("command line".to_owned(), words)),
                _ => words(setting, matches).map(|words| (format!("--{}", setting.flag()), words)),
            };
            if let Some(value) = value {
                given.values.insert(setting.key, value);
            }
        }
        Ok(given)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn flag(setting: &'static Setting) -> Arg {
    let flag = Arg::new(setting.key)
        .long(setting.flag())
        .value_name(setting.kind.value_name())
        .value_parser(Checked(setting))
        .help(help(setting));
    // A list goes on with a comma, and with the flag again.
    if setting.kind.is_list() { flag.action(ArgAction::Append).value_delimiter(',') } else { flag }
}

/// A list is what stands on the command line without a flag.
fn positional(setting: &'static Setting) -> Arg {
    Arg::new(setting.key)
        .value_name(setting.kind.value_name())
        .action(ArgAction::Append)
        .num_args(0..)
        .help(setting.about)
}

/// A switch has two flags, so that each can be said over what stands elsewhere; the last one counts.
fn switches(setting: &'static Setting) -> [Arg; 2] {
    let on = setting.kind.show(&Configuration::default()) == true;
    let (flag, no) = (setting.flag(), format!("no-{}", setting.flag()));
    let arg = |name: &str, other: &str| {
        Arg::new(name.to_owned())
            .long(name.to_owned())
            .action(ArgAction::SetTrue)
            .overrides_with(other.to_owned())
    };
    let default = |on: bool| if on { " [default]" } else { "" };
    [
        arg(&flag, &no).help(format!("{}{}", setting.about, default(on))),
        arg(&no, &flag).help(format!("The opposite of --{flag}{}", default(!on))),
    ]
}

fn help(setting: &Setting) -> String {
    let default = setting.kind.show(&Configuration::default());
    let default = match (setting.example, &default) {
        (Some((_, default)), _) => default.to_owned(),
        (None, serde_json::Value::Null) => return setting.about.to_owned(),
        (None, serde_json::Value::String(text)) => text.clone(),
        (None, other) => other.to_string(),
    };
    format!("{} [default: {default}]", setting.about)
}

fn words(setting: &Setting, matches: &ArgMatches) -> Option<Vec<String>> {
    let words: Vec<String> = matches.get_many::<String>(setting.key)?.cloned().collect();
    (!words.is_empty()).then_some(words)
}

fn switched(setting: &Setting, matches: &ArgMatches) -> Option<(String, Vec<String>)> {
    let (flag, no) = (setting.flag(), format!("no-{}", setting.flag()));
    [(flag, "true"), (no, "false")]
        .into_iter()
        .find(|(name, _)| matches.get_flag(name))
        .map(|(name, value)| (format!("--{name}"), vec![value.to_owned()]))
}

/// Refuses what the setting cannot be, where the flag can be named.
#[derive(Clone)]
struct Checked(&'static Setting);

impl TypedValueParser for Checked {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, clap::Error> {
        let Some(word) = value.to_str() else {
            return Err(clap::Error::new(ErrorKind::InvalidUtf8).with_cmd(command));
        };
        let kind = self.0.kind;
        let check = move |word: &str| -> Result<String, String> {
            kind.read_words(&mut Configuration::default(), &[word.to_owned()])?;
            Ok(word.to_owned())
        };
        check.parse_ref(command, arg, word.as_ref())
    }
}

/// The variables of the environment that can be settings, as they were when the process began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of this process. An empty variable counts as one that is not set.
    pub(crate) fn of_process() -> Self {
        Self::of(std::env::vars_os())
    }

    fn of(variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let ours = variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let is_other = |name: &str| SETTINGS.iter().any(|setting| setting.other_variable == Some(name));
        let ours = ours
            .filter(|(name, value)| (name.starts_with("WHISPEER_") || is_other(name)) && !value.is_empty());
        Self(ours.map(|(name, value)| (name, value.to_string_lossy().into_owned())).collect())
    }

    /// The value of a variable.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// What is given for a setting, and by which variable. In a list a comma stands between values.
    pub(super) fn values(&self, setting: &Setting) -> Option<(String, Vec<String>)> {
        let names = [Some(setting.variable()), setting.other_variable.map(str::to_owned)];
        let (name, value) =
            names.into_iter().flatten().find_map(|name| Some((name.clone(), self.find(&name)?)))?;
        let words = match setting.kind.is_list() {
            true => value.split(',').map(|word| word.trim().to_owned()).collect(),
            false => vec![value.to_owned()],
        };
        Some((name, words))
    }

    /// Variables that are nearly the name of a setting, and that name. Others may be there for other reasons:
    /// some systems describe the services around a process by such names.
    pub(crate) fn slips(&self) -> Vec<(&str, String)> {
        let names: Vec<_> = SETTINGS.iter().map(Setting::variable).collect();
        let known = |name: &str| {
            OTHER_VARIABLES.contains(&name)
                || !name.starts_with("WHISPEER_")
                || crate::connection::FILE_VARIABLES.contains(&name)
                || names.iter().any(|known| known == name)
        };
        self.0
            .keys()
            .filter(|name| !known(name))
            .filter_map(|name| {
                let near = names.iter().min_by_key(|known| distance(name, known))?;
                (distance(name, near) <= 2).then(|| (name.as_str(), near.clone()))
            })
            .collect()
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self::of(variables.into_iter().map(|(name, value)| (name.into(), value.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(line: &str) -> Result<Given, clap::Error> {
        let command = Given::augment_args(Command::new("serve")).no_binary_name(true);
        let matches = command.try_get_matches_from(line.split_whitespace())?;
        Given::from_arg_matches(&matches)
    }

    #[test]
    fn flags_are_kept_with_how_they_were_written() {
        let given = given("a b --frame-limit 1MiB --no-block --config x.toml").unwrap();
        assert_eq!(given.file, Some("x.toml".into()));
        assert_eq!(given.values["listen"], ("command line".to_owned(), vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(given.values["frame_limit"], ("--frame-limit".to_owned(), vec!["1MiB".to_owned()]));
        assert_eq!(given.values["block"], ("--no-block".to_owned(), vec!["false".to_owned()]));
        assert!(!given.has("grace"));
    }

    #[test]
    fn a_list_goes_on_with_a_comma_or_with_its_flag_again() {
        let given = given("--websocket-hosts a,b --websocket-hosts c").unwrap();
        let (flag, words) = &given.values["websocket.hosts"];
        assert_eq!(
            (flag.as_str(), &words[..]),
            ("--websocket-hosts", &["a", "b", "c"].map(String::from)[..])
        );
    }

    #[test]
    fn the_last_of_a_pair_of_switches_counts() {
        assert_eq!(given("--no-block --block").unwrap().values["block"].0, "--block");
        assert_eq!(given("--block --no-block").unwrap().values["block"].0, "--no-block");
    }

    #[test]
    fn a_value_that_cannot_be_is_refused_where_it_stands() {
        let error = given("--frame-limit 12parsecs").unwrap_err().to_string();
        assert!(error.contains("--frame-limit <SIZE>") && error.contains("no unit of size"), "{error}");
    }

    #[test]
    fn a_variable_that_is_nearly_a_setting_is_noticed_and_others_are_not() {
        let environment = Environment::from([
            ("WHISPEER_FRAME_LIMT", "1"),
            ("WHISPEER_PORT", "tcp://10.0.0.1"),
            ("WHISPEER_ADDR", "a"),
            ("WHISPEER_GRACE", "1s"),
            ("WHISPEER_MODE", ""),
            ("PATH", "/bin"),
        ]);
        assert_eq!(environment.slips(), [("WHISPEER_FRAME_LIMT", "WHISPEER_FRAME_LIMIT".to_owned())]);
        assert_eq!(environment.find("WHISPEER_MODE"), None);
    }
}
