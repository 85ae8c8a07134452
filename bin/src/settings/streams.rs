//! Streams: the tables `[streams.NAME]` of the file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde_json::Value;
use toml::de::{DeTable, DeValue};
use whispeer::TopicPattern;
use whispeer::store::{Name, Retention, StreamSettings};

use super::kind::found;
use crate::first_word::distance;
use crate::quantity;

/// The table of the file in which the tables of streams stand.
pub(super) const TABLE: &str = "streams";

/// What can be said of a stream, in the order in which it is shown.
const KEYS: [&str; 11] = [
    "patterns",
    "storage",
    "max_age",
    "max_messages",
    "max_bytes",
    "max_topic_messages",
    "max_topic_bytes",
    "known_for",
    "known_messages",
    "max_dead_letters",
    "max_dead_letter_bytes",
];

/// What can change while the bus runs: those that come behind these.
const FIXED: [&str; 2] = ["patterns", "storage"];

/// The tables as the commented file has them.
pub(super) const EXAMPLE: &str = "
# Streams: topics whose messages are kept, so that they can be read again. Each has a table of its own, at the
# end of the file, and nowhere else. A topic is in one stream at the most; its messages go live when they are
# stored. What is over a bound goes, the oldest first; without bounds all is kept.
# Patterns and storage need a restart, all else can be changed while the bus runs.
#[streams.orders]
# The topics. Always to be given.
#patterns = [\"orders/**\"]
# Where messages are kept: \"sqlite\", a file in store.folder; \"jetstream\", at the servers of nats.url, where
# all buses with the same nats.prefix share the stream; or \"memory\", which ends with the bus.
# Default: \"sqlite\".
#storage = \"sqlite\"
# How long they are kept, how many, and how many bytes of them. Default: no bound.
#max_age = \"720h\"
#max_messages = 10000000
#max_bytes = \"4GiB\"
# The same of each topic; 1 message keeps the last value. Default: no bound.
#max_topic_messages = 100000
#max_topic_bytes = \"256MiB\"
# How long a message is known again that its publisher sends a second time. Default: \"2m\".
#known_for = \"2m\"
# And how many messages are known at the most: those that came last. 1048576 are two minutes at 8,700 a
# second; with more, they are known for a shorter time. Each counts as 100 bytes towards max_bytes, and all of
# them take a quarter of it at the most. Default: 1048576.
#known_messages = 1048576
# How many dead letters are kept beside it (messages that no consumer could deal with), and how many bytes.
# Default: 100000 and \"256MiB\".
#max_dead_letters = 100000
#max_dead_letter_bytes = \"256MiB\"
";

/// Where a stream's messages are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Storage {
    /// In a file.
    #[default]
    Sqlite,
    /// In the process.
    Memory,
    /// At NATS, for all buses that are joined there.
    JetStream,
}

impl Storage {
    const ALL: [Self; 3] = [Self::Sqlite, Self::Memory, Self::JetStream];

    const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Memory => "memory",
            Self::JetStream => "jetstream",
        }
    }
}

/// A stream of the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StreamChoice {
    pub(crate) settings: StreamSettings,
    pub(crate) storage: Storage,
    /// The lines of the keys that stand in the file.
    lines: BTreeMap<&'static str, usize>,
}

/// A setting of a stream whose value in the file is not the one in force.
pub(crate) struct StreamDifference {
    text: String,
    /// The settings to apply, if it can be.
    pub(crate) applies: Option<StreamSettings>,
}

impl StreamDifference {
    /// What becomes of it, for the user.
    pub(crate) fn describe(&self) -> String {
        let what = if self.applies.is_some() { "applied" } else { "needs a restart" };
        format!("{}: {what}", self.text)
    }
}

/// What is wrong, and where it stands.
pub(super) type Problem = (Range<usize>, String);

impl StreamChoice {
    /// Reads the table of a stream; `line` tells the line of a place.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub(super) fn read(
        name: &str,
        at: &Range<usize>,
        value: &DeValue<'_>,
        line: impl Fn(&Range<usize>) -> usize,
    ) -> Result<Self, Vec<Problem>> {
        let own = match Name::new(name) {
            Ok(own) => own,
            Err(error) => return Err(vec![(at.clone(), error.to_string())]),
        };
        let DeValue::Table(table) = value else {
            let text = format!("{TABLE}.{name}: expected a table, found {}", found(value));
            return Err(vec![(at.clone(), text)]);
        };
        let settings = StreamSettings::new(own, Vec::new());
        let mut choice = Self { settings, storage: Storage::default(), lines: BTreeMap::new() };
        let mut problems = Vec::new();
        for (key, value) in table {
            let Some(known) = KEYS.into_iter().find(|known| *known == key.get_ref()) else {
                problems.push((key.span(), unknown(name, key.get_ref())));
                continue;
            };
            match choice.set(known, value.get_ref()) {
                Ok(()) => drop(choice.lines.insert(known, line(&key.span()))),
                Err(reason) => problems.push((key.span(), format!("{TABLE}.{name}.{known}: {reason}"))),
            }
        }
        if !table.contains_key("patterns") {
            let text = format!("{TABLE}.{name}: its topics are missing; write patterns = [\"{name}/**\"]");
            problems.push((at.clone(), text));
        }
        if problems.is_empty() { Ok(choice) } else { Err(problems) }
    }

    fn set(&mut self, key: &str, value: &DeValue<'_>) -> Result<(), String> {
        let retention = &mut self.settings.retention;
        match key {
            "patterns" => self.settings.patterns = patterns(value)?,
            "storage" => self.storage = storage(value)?,
            "max_age" => retention.age = Some(time(value)?),
            "max_messages" => retention.messages = Some(count(value)?),
            "max_bytes" => retention.bytes = Some(size(value)?),
            "max_topic_messages" => retention.topic_messages = Some(count(value)?),
            "max_topic_bytes" => retention.topic_bytes = Some(size(value)?),
            "known_messages" => self.settings.known_messages = count(value)?,
            "max_dead_letters" => self.settings.dead_letters.messages = Some(count(value)?),
            "max_dead_letter_bytes" => self.settings.dead_letters.bytes = Some(size(value)?),
            _ => self.settings.known_for = time(value)?,
        }
        Ok(())
    }

    /// What stands against having both: a name and a topic that are in both.
    pub(super) fn conflict(&self, other: &Self) -> Option<String> {
        let (one, two) = (&self.settings, &other.settings);
        let meeting = |pattern: &TopicPattern| two.patterns.iter().find(|other| other.meets(pattern));
        let (own, met) = one.patterns.iter().find_map(|own| Some((own, meeting(own)?)))?;
        Some(format!(
            "{TABLE}.{}: \"{own}\" meets \"{met}\" of the stream \"{}\"; a topic belongs to one stream at the most",
            one.name, two.name
        ))
    }

    /// Its settings, each with its full name, as it would be written in a file, and its line, if it stands there.
    pub(super) fn rows(&self) -> impl Iterator<Item = (String, Value, Option<usize>)> {
        KEYS.into_iter().map(|key| {
            let line = self.lines.get(key).copied();
            (format!("{TABLE}.{}.{key}", self.settings.name), self.show(key), line)
        })
    }

    fn show(&self, key: &str) -> Value {
        let Retention { age, messages, bytes, topic_messages, topic_bytes, .. } = self.settings.retention;
        let time = |time: Duration| Value::from(quantity::exact_duration(time));
        let size = |bytes: u64| Value::from(quantity::exact_size(bytes));
        let shown = match key {
            "patterns" => {
                Some(self.settings.patterns.iter().map(|pattern| pattern.as_str()).collect::<Vec<_>>().into())
            }
            "storage" => Some(self.storage.name().into()),
            "max_age" => age.map(time),
            "max_messages" => messages.map(Value::from),
            "max_bytes" => bytes.map(size),
            "max_topic_messages" => topic_messages.map(Value::from),
            "max_topic_bytes" => topic_bytes.map(size),
            "known_messages" => Some(self.settings.known_messages.into()),
            "max_dead_letters" => self.settings.dead_letters.messages.map(Value::from),
            "max_dead_letter_bytes" => self.settings.dead_letters.bytes.map(size),
            _ => Some(time(self.settings.known_for)),
        };
        shown.unwrap_or(Value::Null)
    }

    /// The line that says where it is kept.
    pub(super) fn line_of_storage(&self) -> Option<usize> {
        self.lines.get("storage").copied()
    }

    /// What becomes of the settings that `newer` has otherwise.
    pub(super) fn differences(&self, newer: &Self) -> Vec<StreamDifference> {
        // What cannot change is left as it is.
        let mut settings = newer.settings.clone();
        settings.patterns.clone_from(&self.settings.patterns);
        let different = KEYS.into_iter().filter(|key| self.show(key) != newer.show(key));
        different
            .map(|key| {
                let written = |value: Value| match value {
                    Value::Null => "without a bound".to_owned(),
                    value => super::kind::toml_text(&value),
                };
                let (now, before) = (written(newer.show(key)), written(self.show(key)));
                let name = &self.settings.name;
                let text = format!("{TABLE}.{name}.{key} is {now} in the configuration, was {before}");
                StreamDifference { text, applies: (!FIXED.contains(&key)).then(|| settings.clone()) }
            })
            .collect()
    }

    /// It is in the configuration and was not before, or the other way round.
    pub(super) fn appeared(&self, is_new: bool) -> StreamDifference {
        let what = if is_new { "is new in" } else { "is no longer in" };
        let text = format!("the stream \"{}\" {what} the configuration", self.settings.name);
        StreamDifference { text, applies: None }
    }
}

fn unknown(name: &str, key: &str) -> String {
    let near = KEYS.into_iter().min_by_key(|known| distance(key, known));
    let near = near.filter(|known| distance(key, known) <= known.len() / 2);
    let suggestion = near.map(|known| format!("; did you mean \"{known}\"?")).unwrap_or_default();
    format!("unknown key \"{TABLE}.{name}.{key}\"{suggestion}")
}

/// Refuses what is not of the right kind.
fn expected(what: &str, value: &DeValue<'_>) -> String {
    format!("expected {what}, found {}", found(value))
}

fn patterns(value: &DeValue<'_>) -> Result<Vec<TopicPattern>, String> {
    let wrong = || expected("a list of topics, such as [\"orders/**\"]", value);
    let DeValue::Array(words) = value else { return Err(wrong()) };
    if words.is_empty() {
        return Err(wrong());
    }
    let pattern = |word: &str| TopicPattern::new(word).map_err(|error| error.to_string());
    words.iter().map(|word| pattern(word.get_ref().as_str().ok_or_else(wrong)?)).collect()
}

fn storage(value: &DeValue<'_>) -> Result<Storage, String> {
    Storage::ALL
        .into_iter()
        .find(|storage| value.as_str() == Some(storage.name()))
        .ok_or_else(|| expected("\"sqlite\", \"memory\" or \"jetstream\"", value))
}

/// A number in decimal digits, or a string, as it is written.
fn word<'a>(value: &'a DeValue<'_>) -> Option<&'a str> {
    match value {
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str()),
        DeValue::Float(number) => Some(number.as_str()),
        value => value.as_str(),
    }
}

fn time(value: &DeValue<'_>) -> Result<Duration, String> {
    let wrong = || expected("a time, such as \"24h\" or a number of seconds", value);
    let time = quantity::duration(word(value).ok_or_else(wrong)?);
    time.map_err(|error| format!("{}: {error}", wrong()))
}

fn size(value: &DeValue<'_>) -> Result<u64, String> {
    let wrong = || expected("a size, such as \"1GiB\" or a number of bytes", value);
    let size = quantity::size(word(value).ok_or_else(wrong)?);
    size.map_err(|error| format!("{}: {error}", wrong()))
}

fn count(value: &DeValue<'_>) -> Result<u64, String> {
    let wrong = || expected("a number of messages, such as 100000", value);
    let DeValue::Integer(number) = value else { return Err(wrong()) };
    u64::from_str_radix(number.as_str(), number.radix()).map_err(|_| wrong())
}

/// Whether two tables name streams that cannot both be there; the second is the one to tell of.
pub(super) fn conflicts(choices: &[(Range<usize>, StreamChoice)]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, (at, choice)) in choices.iter().enumerate() {
        let others = choices.iter().take(index);
        let conflict = others.filter_map(|(_, other)| choice.conflict(other)).next();
        problems.extend(conflict.map(|text| (at.clone(), text)));
    }
    problems
}

/// Reads the table in which the tables of streams stand.
pub(super) fn read(
    table: &DeTable<'_>,
    line: impl Fn(&Range<usize>) -> usize,
) -> Result<Vec<StreamChoice>, Vec<Problem>> {
    let (mut choices, mut problems) = (Vec::new(), Vec::new());
    for (name, value) in table {
        match StreamChoice::read(name.get_ref(), &name.span(), value.get_ref(), &line) {
            Ok(choice) => choices.push((name.span(), choice)),
            Err(more) => problems.extend(more),
        }
    }
    // In the order of the file, so that what is told of is what was added.
    choices.sort_by_key(|(at, _)| at.start);
    problems.extend(conflicts(&choices));
    if problems.is_empty() {
        return Ok(choices.into_iter().map(|(_, choice)| choice).collect());
    }
    Err(problems)
}

#[cfg(test)]
mod tests {
    use super::super::{Effective, Environment, Given};

    fn load(text: &str) -> anyhow::Result<Effective> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whispeer.toml");
        std::fs::write(&path, text).unwrap();
        let given = Given { file: Some(path), ..Given::default() };
        let loaded = Effective::load(&given, &Environment::default());
        loaded.map_err(|error| {
            anyhow::anyhow!(error.to_string().replace(&*folder.path().to_string_lossy(), "etc"))
        })
    }

    fn refused(text: &str) -> String {
        let Err(error) = load(text) else { panic!("{text} was read") };
        error.to_string()
    }

    const ORDERS: &str = "[streams.orders]\npatterns = [\"orders/**\"]\n";

    #[test]
    fn a_stream_is_read_with_its_bounds_and_shown_as_it_would_be_written() {
        let text = format!(
            "{ORDERS}storage = \"memory\"\nmax_age = \"7d\"\nmax_bytes = \"1GiB\"\nmax_topic_messages = 1\nknown_messages = 5\nmax_dead_letter_bytes = \"8MiB\"\n"
        );
        let all = load(&text).unwrap();
        let [orders] = &all.configuration.streams[..] else { panic!("there is one") };
        let retention = orders.settings.retention;
        assert_eq!(retention.age.unwrap().as_secs(), 7 * 86_400);
        assert_eq!((retention.bytes, retention.topic_messages), (Some(1 << 30), Some(1)));
        assert_eq!((retention.messages, retention.topic_bytes), (None, None));
        assert_eq!(orders.settings.known_messages, 5);
        let dead_letters = orders.settings.dead_letters;
        assert_eq!((dead_letters.messages, dead_letters.bytes), (Some(100_000), Some(8 << 20)));
        let text = all.text();
        for row in [
            "streams.orders.patterns",
            "[\"orders/**\"]",
            "\"memory\"",
            "\"168h\"",
            "\"1GiB\"",
            ":5",
            "\"2m\"",
        ] {
            assert!(text.contains(row), "{row}: {text}");
        }
        let json: serde_json::Value = serde_json::from_str(&all.json()).unwrap();
        assert_eq!(json["settings"]["streams.orders.max_topic_messages"]["value"], 1);
        assert_eq!(json["settings"]["streams.orders.max_messages"]["source"], "default");
    }

    #[test]
    fn what_is_wrong_with_a_stream_is_told_with_line_key_and_what_was_expected() {
        let all = refused(&format!("{ORDERS}storage = \"tape\"\nmax_message = 5\nmax_age = true\n"));
        assert_eq!(
            all,
            "etc/whispeer.toml:3: streams.orders.storage: expected \"sqlite\", \"memory\" or \"jetstream\", found \"tape\"\n       \
             etc/whispeer.toml:4: unknown key \"streams.orders.max_message\"; did you mean \"max_messages\"?\n       \
             etc/whispeer.toml:5: streams.orders.max_age: expected a time, such as \"24h\" or a number of seconds, found true"
        );
        assert!(
            refused("[streams.orders]\nmax_age = 1").contains(":1: streams.orders: its topics are missing")
        );
        assert!(refused("[streams.orders]\npatterns = []").contains("expected a list of topics"));
        assert!(refused("[streams.orders]\npatterns = [\"a b\"]").contains(":2: streams.orders.patterns: "));
        assert!(refused("[streams.\"a b\"]\npatterns = [\"a\"]").contains("is no name for a stream"));
        assert!(refused("[streams]\norders = 1").contains(":2: streams.orders: expected a table"));
        assert!(refused("streams = 1").contains("streams: expected tables"));
    }

    #[test]
    fn a_topic_that_two_streams_would_have_is_told_where_the_second_stands() {
        let text = format!("{ORDERS}[streams.all]\npatterns = [\"*/new\"]\n");
        assert_eq!(
            refused(&text),
            "etc/whispeer.toml:3: streams.all: \"*/new\" meets \"orders/**\" of the stream \"orders\"; a topic belongs to \
             one stream at the most"
        );
    }

    #[test]
    fn bounds_can_be_changed_while_the_bus_runs_and_topics_cannot() {
        let before = load(&format!("{ORDERS}max_age = \"1h\"\n[streams.old]\npatterns = [\"old\"]")).unwrap();
        let now = "[streams.orders]\npatterns = [\"orders/*\"]\nmax_messages = 5\n[streams.new]\npatterns = [\"new\"]";
        let differences = before.stream_differences(&load(now).unwrap());
        let told: Vec<_> = differences.iter().map(super::StreamDifference::describe).collect();
        assert_eq!(
            told,
            [
                "streams.orders.patterns is [\"orders/*\"] in the configuration, was [\"orders/**\"]: needs a restart",
                "streams.orders.max_age is without a bound in the configuration, was \"1h\": applied",
                "streams.orders.max_messages is 5 in the configuration, was without a bound: applied",
                "the stream \"old\" is no longer in the configuration: needs a restart",
                "the stream \"new\" is new in the configuration: needs a restart",
            ]
        );
        let applied = differences[1].applies.as_ref().unwrap();
        assert_eq!(applied.patterns[0].as_str(), "orders/**");
        assert_eq!((applied.retention.age, applied.retention.messages), (None, Some(5)));
    }
}
