//! `whispeer info`: shows the state of a bus.

pub(super) mod cluster;

use std::fmt::Write as _;
use std::time::SystemTime;

use bytes::Bytes;
use clap::Args;
use serde::de::DeserializeOwned;
use whispeer::bus::{
    BusStats, Dropped, LinkStats, Rows, ServedStats, SessionStats, StreamStats, SubscriptionStats,
};
use whispeer::json;

use crate::connection::{BusChoice, BusOptions, Connection};
use crate::failure::{FAILED, Failure};
use crate::output::{self, Align, Table};
use crate::quantity::{human_count, human_duration, human_size};

const EXAMPLES: &str = "\
Examples:
  whispeer info
  whispeer info --cluster
  whispeer info --json | jq '.subscriptions.rows[] | select(.lagging)'

Only the user that the bus runs as may ask.";

/// Show sessions, subscriptions, served topics, streams, queues and drops of a bus
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Info {
    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Show all buses that this one is joined with
    #[arg(long)]
    cluster: bool,

    #[command(flatten)]
    pub(crate) bus: BusOptions,
}

/// The topics that the bus answers on, by the name of what it tells there.
const TOPICS: [(&str, &str); 5] = [
    ("bus", "$bus/stats"),
    ("sessions", "$bus/sessions"),
    ("subscriptions", "$bus/subscriptions"),
    ("served", "$bus/served"),
    ("streams", "$bus/streams"),
];

impl Info {
    pub(crate) async fn run(self, bus: &BusChoice) -> anyhow::Result<()> {
        let connection = bus.connect("info").await?;
        if self.cluster {
            let answer = cluster::ask(&connection).await?;
            return output::print(if self.json {
                cluster::json(&answer)
            } else {
                cluster::render(&cluster::read(&answer)?).into()
            });
        }
        if self.json {
            let mut text = b"{".to_vec();
            for (index, (name, topic)) in TOPICS.iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                json::push_json_string(name, &mut text);
                text.push(b':');
                let answer = connection.client.request_bytes(topic, Bytes::new()).await;
                json::push_json(&connection.check(answer)?, &mut text);
            }
            text.extend_from_slice(b"}\n");
            return output::print(text);
        }
        output::print(Snapshot::ask(&connection).await?.render())
    }
}

/// All that a bus tells about itself, asked one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) bus: BusStats,
    pub(crate) sessions: Rows<SessionStats>,
    pub(crate) subscriptions: Rows<SubscriptionStats>,
    pub(crate) served: Rows<ServedStats>,
    pub(crate) streams: Rows<StreamStats>,
}

impl Snapshot {
    pub(crate) async fn ask(connection: &Connection) -> anyhow::Result<Self> {
        Ok(Self {
            bus: ask(connection, "$bus/stats").await?,
            sessions: ask(connection, "$bus/sessions").await?,
            subscriptions: ask(connection, "$bus/subscriptions").await?,
            served: ask(connection, "$bus/served").await?,
            streams: ask(connection, "$bus/streams").await?,
        })
    }

    fn render(&self) -> String {
        let mut text = render_bus(&self.bus);
        section(&mut text, "Sessions", self.sessions.left_out, &sessions(&self.sessions.rows));
        section(
            &mut text,
            "Subscriptions",
            self.subscriptions.left_out,
            &subscriptions(&self.subscriptions.rows),
        );
        section(&mut text, "Served topics", self.served.left_out, &served(&self.served.rows));
        section(&mut text, "Streams", self.streams.left_out, &streams(&self.streams.rows));
        text
    }
}

pub(super) async fn ask<T: DeserializeOwned>(connection: &Connection, topic: &str) -> anyhow::Result<T> {
    let answer = connection.check(connection.client.request_bytes(topic, Bytes::new()).await)?;
    rmp_serde::from_slice(&answer).map_err(|error| {
        let failure = Failure::new(FAILED, format!("the answer on {topic} is not understood: {error}"));
        failure.help("use matching releases of this command and of the bus").into()
    })
}

/// That the bus has a stream of this name, where it can be told.
pub(super) async fn check_stream(connection: &Connection, name: &str) -> anyhow::Result<()> {
    // Who may not ask for the streams may still read this one.
    let Ok(answer) = connection.client.request_bytes("$bus/streams", Bytes::new()).await else {
        return Ok(());
    };
    let Ok(streams) = rmp_serde::from_slice::<Rows<StreamStats>>(&answer) else { return Ok(()) };
    if streams.left_out > 0 || streams.rows.iter().any(|stream| stream.name == name) {
        return Ok(());
    }
    let failure = Failure::new(FAILED, format!("there is no stream \"{name}\""));
    Err(failure.help("`whispeer info` shows the streams of the bus").into())
}

fn render_bus(bus: &BusStats) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<14} {value}");
    };
    let draining = if bus.draining { ", draining" } else { "" };
    line(
        "bus",
        format!("{:016x}, version {}, up {}{draining}", bus.bus_id, bus.version, human_duration(bus.uptime)),
    );
    line("addresses", bus.addresses.join(", "));
    if let Some(until) = bus.certificate_until {
        let left = until.duration_since(SystemTime::now());
        line(
            "certificate",
            left.map_or_else(|_| "has ended".into(), |left| format!("ends in {}", human_duration(left))),
        );
    }
    line(
        "sessions",
        format!(
            "{} now, {} so far, {} cut off",
            human_count(bus.sessions as u64),
            human_count(bus.sessions_total),
            human_count(bus.sessions_cut_off)
        ),
    );
    line("subscriptions", human_count(bus.subscriptions as u64));
    line("served topics", human_count(bus.served_topics as u64));
    // What subscriptions and servings take.
    line(
        "tables",
        format!("{} of {}", human_size(bus.table_bytes as u64), human_size(bus.table_budget as u64)),
    );
    line(
        "queued",
        format!("{} of {}", human_size(bus.queued_bytes as u64), human_size(bus.byte_budget as u64)),
    );
    line(
        "parked",
        format!("{} ({})", human_count(bus.parked_messages as u64), human_size(bus.parked_bytes as u64)),
    );
    line(
        "published",
        format!(
            "{} ({}), {} failed",
            human_count(bus.published),
            human_size(bus.published_bytes),
            human_count(bus.failed_publishes)
        ),
    );
    line("delivered", format!("{} ({})", human_count(bus.delivered), human_size(bus.delivered_bytes)));
    line("dropped", dropped(&bus.dropped));
    line(
        "requests",
        format!(
            "{}, {} in flight, {} of them waiting, {} failed",
            human_count(bus.requests),
            human_count(bus.requests_in_flight as u64),
            human_count(bus.requests_waiting as u64),
            human_count(bus.failed_requests)
        ),
    );
    for link in &bus.links {
        line(&link.name, link_state(link));
    }
    text
}

/// How a link to another system is. What it says of itself is no better than what a client says.
fn link_state(link: &LinkStats) -> String {
    let mut text = format!("{} for {}", name_or_dash(&link.state), human_duration(link.since));
    for more in [&link.peer, &link.error].into_iter().flatten() {
        let _ = write!(text, ", {}", name_or_dash(more));
    }
    let count = |name: &str| human_count(link.counts.get(name).copied().unwrap_or_default());
    let _ = write!(
        text,
        "; {} messages in, {} out, {} times lost",
        count("in_messages"),
        count("out_messages"),
        count("disconnects")
    );
    text
}

pub(super) fn section(text: &mut String, title: &str, left_out: usize, table: &Option<Table>) {
    let Some(table) = table else { return };
    let _ = write!(text, "\n{title}\n{}", table.render());
    if left_out > 0 {
        let _ = writeln!(text, "… and {} more", human_count(left_out as u64));
    }
}

fn sessions(rows: &[SessionStats]) -> Option<Table> {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("ID", Right),
        ("NAME", Left),
        ("WHO", Left),
        ("VIA", Left),
        ("SUBS", Right),
        ("SERVES", Right),
        ("REQUESTS", Right),
        ("QUEUED", Right),
        ("PUBLISHED", Right),
        ("DELIVERED", Right),
        ("DROPPED", Left),
    ]);
    for row in rows {
        table.row(vec![
            row.id.to_string(),
            name_or_dash(&row.name),
            row.principal.to_string(),
            match row.connected {
                true => row.transport.clone(),
                false => format!("{}, away", row.transport),
            },
            human_count(row.subscriptions as u64),
            human_count(row.servings as u64),
            human_count(row.requests_in_flight as u64),
            human_size((row.queued_bytes + row.parked_bytes) as u64),
            human_count(row.published),
            human_count(row.delivered),
            dropped(&row.dropped),
        ]);
    }
    (!rows.is_empty()).then_some(table)
}

fn subscriptions(rows: &[SubscriptionStats]) -> Option<Table> {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("SESSION", Right),
        ("PATTERN", Left),
        ("GROUP", Left),
        ("POLICY", Left),
        ("MATCHED", Right),
        ("DELIVERED", Right),
        ("PARKED", Right),
        ("CREDIT", Right),
        ("DROPPED", Left),
        ("STATE", Left),
    ]);
    for row in rows {
        table.row(vec![
            row.session.to_string(),
            name_or_dash(&row.pattern),
            name_or_dash(row.group.as_deref().unwrap_or_default()),
            row.policy.clone(),
            human_count(row.matched),
            human_count(row.delivered),
            human_count(row.parked),
            row.credit.to_string(),
            dropped(&row.dropped),
            if row.lagging { "lagging".into() } else { "live".into() },
        ]);
    }
    (!rows.is_empty()).then_some(table)
}

fn served(rows: &[ServedStats]) -> Option<Table> {
    use Align::{Left, Right};
    let mut table = Table::new(&[("TOPIC", Left), ("GROUP", Left), ("SESSIONS", Left), ("WAITING", Right)]);
    for row in rows {
        let sessions: Vec<_> = row.sessions.iter().map(u64::to_string).collect();
        table.row(vec![
            name_or_dash(&row.topic),
            name_or_dash(row.group.as_deref().unwrap_or_default()),
            sessions.join(","),
            human_count(row.waiting as u64),
        ]);
    }
    (!rows.is_empty()).then_some(table)
}

/// What is wrong with a stream, or cannot be relied on.
fn stream_state(row: &StreamStats) -> String {
    match (&row.problem, row.forgotten_ids) {
        (Some(problem), _) => problem.clone(),
        (None, 0) => "ok".to_owned(),
        (None, forgotten) => format!("{} ids forgotten early", human_count(forgotten)),
    }
}

fn streams(rows: &[StreamStats]) -> Option<Table> {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("NAME", Left),
        ("PATTERNS", Left),
        ("STORAGE", Left),
        ("MESSAGES", Right),
        ("BYTES", Right),
        ("FIRST", Right),
        ("NEXT", Right),
        ("DELAYED", Right),
        ("DEAD", Right),
        ("STATE", Left),
    ]);
    for row in rows {
        table.row(vec![
            row.name.clone(),
            row.patterns.join(" "),
            row.storage.clone(),
            human_count(row.messages),
            human_size(row.bytes),
            row.first.to_string(),
            row.next.to_string(),
            human_count(row.delayed),
            human_count(row.dead_letters),
            stream_state(row),
        ]);
    }
    (!rows.is_empty()).then_some(table)
}

/// What was dropped, by reason, or 0. Names come from the bus, not from clients.
pub(crate) fn dropped(dropped: &Dropped) -> String {
    if dropped.is_empty() {
        return "0".into();
    }
    let reasons: Vec<_> =
        dropped.iter().map(|(reason, count)| format!("{} {reason}", human_count(*count))).collect();
    reasons.join(", ")
}

/// A name that a client chose: without the control characters that could rule a terminal.
pub(crate) fn name_or_dash(name: &str) -> String {
    if name.is_empty() {
        return "-".into();
    }
    name.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_name_cannot_rule_the_terminal() {
        assert_eq!(name_or_dash("a\x1b[2Jb"), "a\u{fffd}[2Jb");
        assert_eq!(name_or_dash(""), "-");
    }

    #[test]
    fn the_end_of_the_certificate_is_shown_where_there_is_one() {
        let mut bus = BusStats::default();
        assert!(!render_bus(&bus).contains("certificate"));
        bus.certificate_until = Some(SystemTime::now() + std::time::Duration::from_secs(90 * 60));
        assert!(render_bus(&bus).contains("certificate    ends in 1h"), "{}", render_bus(&bus));
        bus.certificate_until = Some(SystemTime::UNIX_EPOCH);
        assert!(render_bus(&bus).contains("certificate    has ended"));
    }

    #[test]
    fn a_link_tells_its_state_and_why_it_cannot_be_used() {
        let mut bus = BusStats::default();
        let error = Some("nobody\nlistens".to_owned());
        bus.links =
            vec![LinkStats { name: "nats".into(), state: "away".into(), error, ..LinkStats::default() }];
        let text = render_bus(&bus);
        assert!(text.contains("nats           away for 0"), "{text}");
        assert!(text.contains("nobody\u{fffd}listens; 0 messages in, 0 out, 0 times lost"), "{text}");
    }

    #[test]
    fn a_stream_says_what_cannot_be_relied_on() {
        let mut row = StreamStats::default();
        assert_eq!(stream_state(&row), "ok");
        row.forgotten_ids = 12;
        assert_eq!(stream_state(&row), "12 ids forgotten early");
        row.problem = Some("the disk is full".to_owned());
        assert_eq!(stream_state(&row), "the disk is full");
    }

    #[test]
    fn an_idle_bus_has_no_tables() {
        let empty = Snapshot {
            bus: BusStats::default(),
            sessions: Rows { rows: Vec::new(), left_out: 0 },
            subscriptions: Rows { rows: Vec::new(), left_out: 0 },
            served: Rows { rows: Vec::new(), left_out: 0 },
            streams: Rows { rows: Vec::new(), left_out: 0 },
        };
        let text = empty.render();
        assert!(text.contains("dropped        0"), "{text}");
        assert!(!text.contains("Sessions\n"), "{text}");
    }
}
