//! All settings together, with where each comes from.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use whispeer::BusError;
use whispeer::store::StreamSettings;

use super::file;
use super::given::{FILE_VARIABLE, Given};
use super::kind::toml_text;
use super::streams::StreamDifference;
use super::{Change, Configuration, Environment, SETTINGS, Setting, Source, Storage, StreamChoice};
use crate::connection::ADDRESS_VARIABLE;
use crate::failure::Failure;
use crate::output::{Align, Table};

/// The permission bit by which others than a file's owner and group may read it.
const EVERYBODY_READS: u32 = 0o004;

/// The values of all settings, and their sources.
#[derive(Clone)]
pub(crate) struct Effective {
    pub(crate) configuration: Configuration,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// What the user should know, though it is no error.
    pub(crate) warnings: Vec<String>,
    /// What is as it was asked for, and may surprise all the same.
    pub(crate) notes: Vec<String>,
    table: &'static [Setting],
    /// For each setting of the table.
    sources: Vec<Source>,
}

/// A setting whose value in the file is not the one in force.
pub(crate) struct Difference {
    index: usize,
    pub(crate) setting: &'static Setting,
    pub(crate) before: String,
    pub(crate) now: String,
}

impl Effective {
    /// Puts flags, environment and file together: a flag goes before a variable, that before the file, and
    /// the file before the default.
    ///
    /// # Errors
    /// What is wrong, and where it stands.
    pub(crate) fn load(given: &Given, environment: &Environment) -> anyhow::Result<Self> {
        Self::load_by(SETTINGS, given, environment)
    }

    fn load_by(table: &'static [Setting], given: &Given, environment: &Environment) -> anyhow::Result<Self> {
        let mut all = Self {
            configuration: Configuration::default(),
            file: given.file.clone().or_else(|| environment.find(FILE_VARIABLE).map(PathBuf::from)),
            warnings: Vec::new(),
            notes: Vec::new(),
            table,
            sources: vec![Source::Default; table.len()],
        };
        if let Some(address) = environment.find(ADDRESS_VARIABLE) {
            // The bus that clients use is the one to start, unless something says more.
            let listen = table.iter().position(|setting| setting.key == "listen");
            if let Some(index) = listen {
                all.set(index, &[address.to_owned()], Source::Environment(ADDRESS_VARIABLE.to_owned()))?;
            }
        }
        if let Some(path) = all.file.clone() {
            all.read_file(&path)?;
        }
        let within = all.policy_within();
        for (index, setting) in table.iter().enumerate() {
            if let Some((name, words)) = environment.values(setting) {
                all.set(index, &words, Source::Environment(name))?;
            }
            if let Some((flag, words)) = given.values.get(setting.key) {
                all.set(index, words, Source::Flag(flag.clone()))?;
            }
        }
        if let Some(place) = within.filter(|_| all.policy_within().is_none()) {
            let by = all.source("policy");
            all.notes.push(format!("{by} says who may do what, in place of [auth] in {place}"));
        }
        all.check_storage()?;
        all.warn_of_key();
        all.configuration.bus.check().map_err(|error| all.explain(&error))?;
        for (name, meant) in environment.slips() {
            all.warnings.push(format!("{name} is no setting; did you mean {meant}?"));
        }
        Ok(all)
    }

    /// A stream that JetStream keeps needs NATS.
    fn check_storage(&self) -> anyhow::Result<()> {
        let nats = &self.configuration.nats;
        let replicas = nats.replicas;
        if ![1, 3, 5].contains(&replicas) {
            let source = self.source("nats.replicas");
            let text = format!("{source}: nats.replicas is {replicas}; it can be 1, 3 or 5");
            return Err(Failure::usage(text).into());
        }
        let mut streams = self.configuration.streams.iter();
        let kept_there = streams.find(|choice| choice.storage == Storage::JetStream);
        let Some(choice) = kept_there.filter(|_| nats.url.is_none()) else { return Ok(()) };
        let place = match (&self.file, choice.line_of_storage()) {
            (Some(path), Some(line)) => format!("{}:{line}: ", path.display()),
            _ => String::new(),
        };
        let name = &choice.settings.name;
        let text = format!(
            "{place}streams.{name}.storage: \"jetstream\" keeps the stream at NATS, and no server of NATS is named"
        );
        let help = "name one: url = \"nats://localhost:4222\" in [nats], --nats URL or NATS_URL";
        Err(Failure::usage(text).help(help).into())
    }

    fn read_file(&mut self, path: &Path) -> anyhow::Result<()> {
        for (index, source) in file::read(path, self.table, &mut self.configuration)? {
            self.place(index, source);
        }
        Ok(())
    }

    /// Where in the file of settings a policy stands, if it does.
    fn policy_within(&self) -> Option<Source> {
        let within = self.file.is_some() && self.configuration.policy == self.file;
        within.then(|| self.source("policy").clone())
    }

    /// A key that everybody can read is none; one that is not there is told when it is needed.
    fn warn_of_key(&mut self) {
        let Some(key) = &self.configuration.tls.key else { return };
        let open =
            fs::metadata(key).is_ok_and(|metadata| metadata.permissions().mode() & EVERYBODY_READS != 0);
        if open {
            let word = crate::failure::shell_word(&key.to_string_lossy());
            self.warnings.push(format!("everybody can read the key of the bus; `chmod o= {word}` ends that"));
        }
    }

    fn set(&mut self, index: usize, words: &[String], source: Source) -> anyhow::Result<()> {
        let Some(setting) = self.table.get(index) else { return Ok(()) };
        if let Err(reason) = setting.kind.read_words(&mut self.configuration, words) {
            let (expected, found) = (setting.kind.expected(), setting.kind.shown_words(words));
            let text = format!("{source}: expected {expected}, found \"{found}\": {reason}");
            return Err(Failure::usage(text).into());
        }
        self.place(index, source);
        Ok(())
    }

    fn place(&mut self, index: usize, source: Source) {
        if let Some(place) = self.sources.get_mut(index) {
            *place = source;
        }
    }

    /// Where the value of a setting comes from.
    pub(crate) fn source(&self, key: &str) -> &Source {
        let index = self.table.iter().position(|setting| setting.key == key);
        index.and_then(|index| self.sources.get(index)).unwrap_or(&Source::Default)
    }

    /// Says which settings a bus refuses, by the names that they have here.
    fn explain(&self, error: &BusError) -> Failure {
        let text = error.to_string();
        let (field, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let key = match field {
            "max_sessions" => "max_connections",
            "max_sessions_per_address" => "max_connections_per_address",
            "max_sessions_per_principal" => "max_connections_per_principal",
            field => field,
        };
        let named = self.table.iter().any(|setting| setting.key == key);
        Failure::usage(match (named, self.source(key)) {
            (true, Source::Default) => format!("{key} {rest}"),
            (true, source) => format!("{source}: {key} {rest}"),
            (false, _) => text,
        })
    }

    /// The settings, each as it would be written in a file, and its source. None is a secret: keys, passwords and policies
    /// stand in files that settings name.
    fn rows(&self) -> impl Iterator<Item = (&'static Setting, Value, &Source)> {
        self.table
            .iter()
            .zip(&self.sources)
            .map(|(setting, source)| (setting, setting.kind.show(&self.configuration), source))
    }

    /// The settings of streams, likewise.
    fn stream_rows(&self) -> impl Iterator<Item = (String, Value, Source)> {
        let place = |line: Option<usize>| match (&self.file, line) {
            (Some(path), Some(line)) => Source::File { path: path.clone(), line },
            _ => Source::Default,
        };
        let rows = self.configuration.streams.iter().flat_map(StreamChoice::rows);
        rows.map(move |(key, value, line)| (key, value, place(line)))
    }

    /// All rows, with the names of the settings.
    fn all_rows(&self) -> impl Iterator<Item = (String, Value, Source)> {
        let rows =
            self.rows().map(|(setting, value, source)| (setting.key.to_owned(), value, source.clone()));
        rows.chain(self.stream_rows())
    }

    /// As a table for people.
    pub(crate) fn text(&self) -> String {
        let mut table =
            Table::new(&[("SETTING", Align::Left), ("VALUE", Align::Left), ("FROM", Align::Left)]);
        for (key, value, source) in self.all_rows() {
            let value = if value.is_null() { "-".to_owned() } else { toml_text(&value) };
            table.row(vec![key, value, source.to_string()]);
        }
        table.render()
    }

    /// As JSON for programs.
    pub(crate) fn json(&self) -> String {
        let mut settings = Map::new();
        for (key, value, source) in self.all_rows() {
            let place = (source != Source::Default).then(|| source.to_string());
            let entry = json!({ "value": value, "source": source.name(), "place": place });
            settings.insert(key, entry);
        }
        let mut text = json!({ "file": self.file, "settings": settings }).to_string();
        text.push('\n');
        text
    }

    /// The settings that `newer` has other values for.
    pub(crate) fn differences(&self, newer: &Self) -> Vec<Difference> {
        let shown = |(_, value, _): &(&Setting, Value, &Source)| toml_text(value);
        let rows = self.rows().zip(newer.rows()).enumerate();
        rows.filter(|(_, (before, now))| before.1 != now.1)
            .map(|(index, (before, now))| Difference {
                index,
                setting: before.0,
                before: shown(&before),
                now: shown(&now),
            })
            .collect()
    }

    /// What `newer` says otherwise of streams.
    pub(crate) fn stream_differences(&self, newer: &Self) -> Vec<StreamDifference> {
        let find = |all: &Self, choice: &StreamChoice| {
            let mut streams = all.configuration.streams.iter();
            streams.find(|other| other.settings.name == choice.settings.name).cloned()
        };
        let mut differences = Vec::new();
        for choice in &self.configuration.streams {
            match find(newer, choice) {
                Some(newer) => differences.extend(choice.differences(&newer)),
                None => differences.push(choice.appeared(false)),
            }
        }
        let added = newer.configuration.streams.iter().filter(|choice| find(self, choice).is_none());
        differences.extend(added.map(|choice| choice.appeared(true)));
        differences
    }

    /// A stream has these bounds from now on.
    pub(crate) fn take_stream(&mut self, settings: &StreamSettings) {
        let mut streams = self.configuration.streams.iter_mut();
        if let Some(choice) = streams.find(|choice| choice.settings.name == settings.name) {
            choice.settings = settings.clone();
        }
    }

    /// Takes over the value that `newer` has for a setting.
    pub(crate) fn take(&mut self, difference: &Difference, newer: &Self) {
        difference.setting.kind.copy(&newer.configuration, &mut self.configuration);
        if let Some(source) = newer.sources.get(difference.index) {
            self.place(difference.index, source.clone());
        }
    }
}

impl Difference {
    /// What becomes of it, for the user.
    pub(crate) fn describe(&self) -> String {
        let mut text =
            format!("{} is {} in the configuration, was {}: ", self.setting.key, self.now, self.before);
        let _ = write!(
            text,
            "{}",
            match self.setting.change {
                Change::Now => "applied",
                Change::NewConnections => "applied to new connections",
                Change::Restart => "needs a restart",
            }
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::kind::Kind;
    use super::*;

    /// Settings as the bus has none of today.
    static OTHERS: &[Setting] = &[
        Setting::new("listen", "", Kind::Addresses(|all| &mut all.listen)),
        Setting::new("tls.cert", "", Kind::Path(|all| &mut all.tls.cert)),
    ];

    fn file(text: &str) -> (tempfile::TempDir, Given) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whispeer.toml");
        fs::write(&path, text).unwrap();
        (folder, Given { file: Some(path), ..Given::default() })
    }

    fn error(text: &str) -> String {
        let (folder, given) = file(text);
        let Err(error) = Effective::load(&given, &Environment::default()) else { panic!("{text} was read") };
        error.to_string().replace(&*folder.path().to_string_lossy(), "etc")
    }

    #[test]
    fn a_flag_goes_before_a_variable_that_before_the_file_and_that_before_the_default() {
        let (_folder, given) = file("max_requests = 1\nmax_servings = 1\n\nmax_subscriptions = 1\n");
        let environment =
            Environment::from([("WHISPEER_MAX_SERVINGS", "2"), ("WHISPEER_MAX_SUBSCRIPTIONS", "2")]);
        let given = given.or("max_subscriptions", "--max-subscriptions", Some("3".into()));
        let all = Effective::load(&given, &environment).unwrap();
        let bus = &all.configuration.bus;
        assert_eq!((bus.max_requests, bus.max_servings, bus.max_subscriptions), (1, 2, 3));
        let sources = ["max_requests", "max_servings", "max_subscriptions", "max_connections"];
        let names = sources.map(|key| all.source(key).name());
        assert_eq!(names, ["file", "environment", "flag", "default"]);
        let Source::File { line, .. } = all.source("max_requests") else { panic!() };
        assert_eq!(*line, 1);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_line_key_and_what_was_expected() {
        assert_eq!(
            error("# a comment\nframe_limt = 1\nblock = \"yes\"\n"),
            "etc/whispeer.toml:2: unknown key \"frame_limt\"; did you mean \"frame_limit\"?\n       \
             etc/whispeer.toml:3: block: expected true or false, found \"yes\""
        );
        assert_eq!(
            error("grace = \"soon\""),
            "etc/whispeer.toml:1: grace: expected a time, such as \"500ms\" or a number of seconds, found \
             \"soon\": \"soon\" is no unit of time; write ms, s, m, h or d, such as 500ms"
        );
        assert!(error("frame-limit = 1").contains("did you mean \"frame_limit\"?"));
        assert!(error("colour = 1").ends_with("unknown key \"colour\""));
        assert!(error("[grace]\nx = 1").contains("grace: expected a time"));
        assert!(error("[toll]\ncert = 1").contains(":1: unknown key \"toll\""));
        assert!(error("mode = 0o660").contains("octal permission bits as a string"));
        assert!(error("max_requests = -1").contains("found the number -1"));
        assert!(error("listen = [\"carrier://pigeon\"]").contains("whispeer.toml:1: listen: "));
        assert!(error("a = 1\n\na = 2").starts_with("etc/whispeer.toml:3: duplicate key"));
        assert!(error("\n= 1").starts_with("etc/whispeer.toml:2: "));
    }

    #[test]
    fn values_that_do_not_fit_together_are_told_by_their_keys_and_sources() {
        assert_eq!(
            error("max_connections = 0"),
            "etc/whispeer.toml:1: max_connections is 0; it can be 1 to 4294967295"
        );
        assert!(error("frame_limit = \"1GiB\"").starts_with("byte_budget "));
        let environment = Environment::from([("WHISPEER_MAX_SERVINGS", "many")]);
        let error = Effective::load(&Given::default(), &environment).err().unwrap().to_string();
        assert_eq!(
            error,
            "WHISPEER_MAX_SERVINGS: expected a number, such as 1024, found \"many\": write a whole number, \
             such as 1024"
        );
    }

    #[test]
    fn a_relative_socket_in_a_file_lies_beside_the_file() {
        let (folder, given) = file("listen = [\"bus\", \"unix:/run/bus\", \"@home\", \"mem:x\"]");
        let all = Effective::load(&given, &Environment::from([("WHISPEER_ADDR", "other")])).unwrap();
        let beside = format!("unix:{}", folder.path().join("bus").display());
        assert_eq!(all.configuration.listen, [beside.as_str(), "unix:/run/bus", "@home", "mem:x"]);
    }

    #[test]
    fn the_environment_lists_addresses_with_commas_and_falls_back_to_the_clients_bus() {
        let listen =
            |environment| Effective::load(&Given::default(), &environment).unwrap().configuration.listen;
        assert_eq!(
            listen(Environment::from([("WHISPEER_LISTEN", "a, b"), ("WHISPEER_ADDR", "c")])),
            ["a", "b"]
        );
        assert_eq!(listen(Environment::from([("WHISPEER_ADDR", "c")])), ["c"]);
    }

    #[test]
    fn every_setting_can_be_a_variable() {
        for setting in SETTINGS {
            let value = match setting.kind.show(&Configuration::default()) {
                Value::String(text) => text,
                Value::Array(_) => "a,b".to_owned(),
                Value::Null => setting.example.map_or("", |(value, _)| value.trim_matches('"')).to_owned(),
                other => other.to_string(),
            };
            let environment = Environment::from([(setting.variable().as_str(), value.as_str())]);
            let all = Effective::load(&Given::default(), &environment).unwrap();
            assert_eq!(*all.source(setting.key), Source::Environment(setting.variable()));
            assert_eq!(environment.slips(), []);
        }
    }

    #[test]
    fn a_key_that_everybody_can_read_is_warned_of() {
        let (folder, given) = file("tls.key = \"bus.key\"");
        let path = folder.path().join("bus.key");
        let warnings = || Effective::load(&given, &Environment::default()).unwrap().warnings;
        assert_eq!(warnings(), [""; 0], "it is not there, which is not told here");
        fs::write(&path, "a key").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let warning = warnings().remove(0);
        assert!(warning.contains("chmod o=") && warning.contains("bus.key"), "{warning}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(warnings(), [""; 0]);
    }

    #[test]
    fn the_path_of_a_file_begins_beside_the_configuration_and_elsewhere_at_the_working_folder() {
        let (folder, given) = file("tls.cert = \"bus.pem\"");
        let load = |given, environment| Effective::load_by(OTHERS, given, &environment).unwrap();
        let by_file = load(&given, Environment::default());
        assert_eq!(by_file.configuration.tls.cert, Some(folder.path().join("bus.pem")));
        let by_variable = load(&given, Environment::from([("WHISPEER_TLS_CERT", "other.pem")]));
        assert_eq!(by_variable.configuration.tls.cert, Some("other.pem".into()));
        assert!(load(&Given::default(), Environment::default()).text().contains("tls.cert  -"));
    }

    #[test]
    fn what_is_taken_over_differs_no_longer() {
        let (folder, given) = file("grace = 1");
        let mut running = Effective::load(&given, &Environment::default()).unwrap();
        fs::write(folder.path().join("whispeer.toml"), "grace = 2\nmode = \"0660\"").unwrap();
        let newer = Effective::load(&given, &Environment::default()).unwrap();
        let differences = running.differences(&newer);
        let keys: Vec<_> = differences.iter().map(|difference| difference.setting.key).collect();
        assert_eq!(keys, ["mode", "grace"]);
        running.take(&differences[1], &newer);
        assert_eq!(running.configuration.grace.as_secs(), 2);
        assert_eq!(running.differences(&newer).len(), 1);
    }
}
