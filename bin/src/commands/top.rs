//! `whispeer top`: a live view of a bus.

mod cluster;

use std::io::{self, IsTerminal};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table};
use tokio::sync::mpsc;
use whispeer::bus::BusStats;

use self::cluster::ClusterView;
use super::info::{Snapshot, dropped, name_or_dash};
use crate::connection::{BusChoice, BusOptions, Connection};
use crate::failure::Failure;
use crate::quantity::{self, human_count, human_duration, human_size};

const EXAMPLES: &str = "\
Examples:
  whispeer top
  whispeer top --interval 200ms
  whispeer top --cluster

Keys: q or Esc ends, the arrows and page keys scroll. The busiest come first.";

/// Keys that were pressed and wait to be handled.
const KEYS: usize = 16;

/// The least time between two questions: each one counts every session.
const INTERVAL_MIN: Duration = Duration::from_millis(50);

/// Rows that a page key scrolls.
const PAGE: usize = 10;

/// Watch rates, sessions, subscriptions and drops of a bus
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Top {
    /// Watch all buses that this one is joined with
    #[arg(long)]
    cluster: bool,

    /// How often to ask the bus
    #[arg(long, value_parser = quantity::duration, default_value = "1s", value_name = "TIME")]
    interval: Duration,

    #[command(flatten)]
    pub(crate) bus: BusOptions,
}

impl Top {
    pub(crate) async fn run(self, bus: &BusChoice) -> anyhow::Result<()> {
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            let failure = Failure::usage("`top` needs a terminal");
            return Err(failure
                .help("for other uses, `whispeer info` and `whispeer info --json` print once")
                .into());
        }
        let connection = bus.connect_for("top", Duration::from_secs(5)).await?;
        let interval = self.interval.max(INTERVAL_MIN);
        match self.cluster {
            true => watch::<ClusterView>(&connection, interval).await,
            false => watch::<View>(&connection, interval).await,
        }
    }
}

/// Something on the screen that changes.
trait Live: Sized {
    /// What it shows, as it is at a moment.
    type Told;

    async fn ask(connection: &Connection) -> anyhow::Result<Self::Told>;

    fn new(told: Self::Told, at: Instant) -> Self;

    fn update(&mut self, told: Self::Told, at: Instant);

    /// Takes a key; false if it ends the view.
    fn press(&mut self, key: KeyEvent) -> bool;

    fn draw(&self, frame: &mut Frame<'_>);
}

async fn watch<L: Live>(connection: &Connection, interval: Duration) -> anyhow::Result<()> {
    let mut view = L::new(L::ask(connection).await?, Instant::now());
    let mut keys = read_keys()?;
    let mut screen = Screen::open()?;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        screen.terminal.draw(|frame| view.draw(frame)).context("cannot draw on the terminal")?;
        tokio::select! {
            _ = ticks.tick() => view.update(L::ask(connection).await?, Instant::now()),
            key = keys.recv() => match key {
                Some(Event::Key(key)) if view.press(key) => {}
                Some(Event::Resize(..)) => {}
                Some(Event::Key(_)) | None => return Ok(()),
                Some(_) => {}
            },
        }
    }
}

/// Takes a key that scrolls up to the `last` row, or ends the view, which is false.
fn scroll(scrolled: &mut usize, last: usize, key: KeyEvent) -> bool {
    if key.kind == KeyEventKind::Release {
        return true;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        // In raw mode the terminal hands this over instead of sending the signal.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Down | KeyCode::Char('j') => *scrolled = (*scrolled + 1).min(last),
        KeyCode::Up | KeyCode::Char('k') => *scrolled = scrolled.saturating_sub(1),
        KeyCode::PageDown => *scrolled = (*scrolled + PAGE).min(last),
        KeyCode::PageUp => *scrolled = scrolled.saturating_sub(PAGE),
        KeyCode::Home => *scrolled = 0,
        _ => {}
    }
    true
}

/// The terminal, which gets back its own look however the command ends.
struct Screen {
    terminal: ratatui::DefaultTerminal,
}

impl Screen {
    fn open() -> anyhow::Result<Self> {
        Ok(Self { terminal: ratatui::try_init().context("cannot take over the terminal")? })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Starts the thread that waits for keys; it ends with the process.
fn read_keys() -> anyhow::Result<mpsc::Receiver<Event>> {
    let (sender, receiver) = mpsc::channel(KEYS);
    thread::Builder::new().name("keys".into()).spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Per second, over the last interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Rates {
    published: f64,
    published_bytes: f64,
    delivered: f64,
    delivered_bytes: f64,
    dropped: f64,
    requests: f64,
}

impl Rates {
    fn between(before: &BusStats, after: &BusStats, time: Duration) -> Self {
        let rate =
            |before: u64, after: u64| after.saturating_sub(before) as f64 / time.as_secs_f64().max(1e-3);
        Self {
            published: rate(before.published, after.published),
            published_bytes: rate(before.published_bytes, after.published_bytes),
            delivered: rate(before.delivered, after.delivered),
            delivered_bytes: rate(before.delivered_bytes, after.delivered_bytes),
            dropped: rate(before.dropped.values().sum(), after.dropped.values().sum()),
            requests: rate(before.requests, after.requests),
        }
    }
}

/// What is on the screen.
struct View {
    earlier: Snapshot,
    now: Snapshot,
    at: Instant,
    time: Duration,
    scrolled: usize,
}

impl Live for View {
    type Told = Snapshot;

    async fn ask(connection: &Connection) -> anyhow::Result<Snapshot> {
        Snapshot::ask(connection).await
    }

    fn new(snapshot: Snapshot, at: Instant) -> Self {
        Self { earlier: snapshot.clone(), now: snapshot, at, time: Duration::from_secs(1), scrolled: 0 }
    }

    fn update(&mut self, snapshot: Snapshot, at: Instant) {
        self.earlier = std::mem::replace(&mut self.now, snapshot);
        self.time = at.duration_since(self.at);
        self.at = at;
    }

    fn press(&mut self, key: KeyEvent) -> bool {
        let rows = self.now.sessions.rows.len().max(self.now.subscriptions.rows.len());
        scroll(&mut self.scrolled, rows.saturating_sub(1), key)
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let [head, sessions, subscriptions] =
            Layout::vertical([Constraint::Length(6), Constraint::Fill(2), Constraint::Fill(3)])
                .areas(frame.area());
        self.draw_head(frame, head);
        self.draw_sessions(frame, sessions);
        self.draw_subscriptions(frame, subscriptions);
    }
}

impl View {
    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect) {
        let bus = &self.now.bus;
        let rates = Rates::between(&self.earlier.bus, &self.now.bus, self.time);
        let per_second = |rate: f64| format!("{}/s", human_count(rate.round() as u64));
        let bytes = |rate: f64| format!("{}/s", human_size(rate.round() as u64));
        let draining = if bus.draining { "   DRAINING" } else { "" };
        let dropped_now =
            if rates.dropped > 0.0 { format!(" ({})", per_second(rates.dropped)) } else { String::new() };
        let lines = vec![
            Line::from(format!(
                "whispeer {}   {}   up {}{draining}",
                bus.version,
                bus.addresses.first().map_or("", String::as_str),
                human_duration(bus.uptime)
            ))
            .style(Style::new().add_modifier(Modifier::BOLD)),
            Line::from(format!(
                "published {:>14}  {:>12}   delivered {:>14}  {:>12}",
                per_second(rates.published),
                bytes(rates.published_bytes),
                per_second(rates.delivered),
                bytes(rates.delivered_bytes)
            )),
            Line::from(format!(
                "requests  {:>14}  {:>5} in flight   served topics {}",
                per_second(rates.requests),
                bus.requests_in_flight,
                human_count(bus.served_topics as u64)
            )),
            Line::from(format!(
                "queued    {:>14} of {}   dropped {}{dropped_now}",
                human_size(bus.queued_bytes as u64),
                human_size(bus.byte_budget as u64),
                dropped(&bus.dropped)
            )),
            Line::from("q ends, arrows scroll").style(Style::new().add_modifier(Modifier::DIM)),
        ];
        frame.render_widget(Paragraph::new(lines), area);
    }

    fn draw_sessions(&self, frame: &mut Frame<'_>, area: Rect) {
        let before = |id: u64| self.earlier.sessions.rows.iter().find(|row| row.id == id);
        let mut rows: Vec<(u64, u64, _)> = Vec::with_capacity(self.now.sessions.rows.len());
        for row in &self.now.sessions.rows {
            let (published, delivered) = before(row.id).map_or((0, 0), |before| {
                (
                    row.published.saturating_sub(before.published),
                    row.delivered.saturating_sub(before.delivered),
                )
            });
            rows.push((self.rate(published), self.rate(delivered), row));
        }
        rows.sort_by_key(|(published, delivered, row)| (std::cmp::Reverse(published + delivered), row.id));
        let cells = rows.iter().skip(self.scrolled).take(usize::from(area.height)).map(
            |(published, delivered, row)| {
                Row::new([
                    row.id.to_string(),
                    name_or_dash(&row.name),
                    row.principal.to_string(),
                    human_count(*published),
                    human_count(*delivered),
                    human_size((row.queued_bytes + row.parked_bytes) as u64),
                    row.requests_in_flight.to_string(),
                    dropped(&row.dropped),
                ])
            },
        );
        let widths =
            [6, 20, 28, 12, 12, 10, 8].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
        let headings = ["ID", "NAME", "WHO", "PUB/s", "DELIV/s", "QUEUED", "REQS", "DROPPED"];
        let title = format!(" {} sessions ", human_count(self.now.bus.sessions as u64));
        frame.render_widget(table(cells, widths, headings, title), area);
    }

    fn draw_subscriptions(&self, frame: &mut Frame<'_>, area: Rect) {
        let key = |row: &whispeer::bus::SubscriptionStats| (row.session, row.id);
        let earlier: std::collections::HashMap<_, _> =
            self.earlier.subscriptions.rows.iter().map(|row| (key(row), row.delivered)).collect();
        let mut rows: Vec<(u64, _)> = Vec::with_capacity(self.now.subscriptions.rows.len());
        for row in &self.now.subscriptions.rows {
            let before = earlier.get(&key(row)).copied().unwrap_or(row.delivered);
            rows.push((self.rate(row.delivered.saturating_sub(before)), row));
        }
        rows.sort_by_key(|(rate, row)| (std::cmp::Reverse(*rate), key(row)));
        let cells = rows.iter().skip(self.scrolled).take(usize::from(area.height)).map(|(rate, row)| {
            let style =
                if row.lagging { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
            Row::new([
                row.session.to_string(),
                name_or_dash(&row.pattern),
                name_or_dash(row.group.as_deref().unwrap_or_default()),
                row.policy.clone(),
                human_count(*rate),
                human_count(row.parked),
                row.credit.to_string(),
                if row.lagging {
                    format!("{} LAGGING", dropped(&row.dropped))
                } else {
                    dropped(&row.dropped)
                },
            ])
            .style(style)
        });
        let widths =
            [8, 32, 14, 12, 12, 8, 8].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
        let headings = ["SESSION", "PATTERN", "GROUP", "POLICY", "DELIV/s", "PARKED", "CREDIT", "DROPPED"];
        let title = format!(" {} subscriptions ", human_count(self.now.bus.subscriptions as u64));
        frame.render_widget(table(cells, widths, headings, title), area);
    }

    fn rate(&self, count: u64) -> u64 {
        (count as f64 / self.time.as_secs_f64().max(1e-3)).round() as u64
    }
}

fn table<'a>(
    rows: impl Iterator<Item = Row<'a>>,
    widths: impl Iterator<Item = Constraint>,
    headings: [&'a str; 8],
    title: String,
) -> Table<'a> {
    let headings = Row::new(headings.map(Cell::from)).style(Style::new().add_modifier(Modifier::BOLD));
    Table::new(rows, widths).header(headings).block(Block::new().borders(Borders::TOP).title(title))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use whispeer::bus::Rows;

    use super::*;

    fn snapshot(published: u64) -> Snapshot {
        let mut bus = BusStats::default();
        bus.published = published;
        bus.dropped.insert("lagging".into(), 3);
        bus.addresses.push("unix:/run/my_bus".into());
        Snapshot {
            bus,
            sessions: Rows { rows: Vec::new(), left_out: 0 },
            subscriptions: Rows { rows: Vec::new(), left_out: 0 },
            served: Rows { rows: Vec::new(), left_out: 0 },
            streams: Rows { rows: Vec::new(), left_out: 0 },
        }
    }

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn rates_are_per_second_of_the_interval() {
        let start = Instant::now();
        let mut view = View::new(snapshot(1_000), start);
        view.update(snapshot(5_000), start + Duration::from_secs(2));
        let screen = drawn(&view, 120, 30);
        assert!(screen.contains("2,000/s"), "{screen}");
        assert!(screen.contains("unix:/run/my_bus"), "{screen}");
        assert!(screen.contains("3 lagging"), "{screen}");
    }

    #[test]
    fn it_draws_on_any_size_of_screen() {
        let view = View::new(snapshot(0), Instant::now());
        for (width, height) in [(1, 1), (10, 3), (300, 100)] {
            drawn(&view, width, height);
        }
    }

    #[test]
    fn q_escape_and_control_c_end_it() {
        let mut view = View::new(snapshot(0), Instant::now());
        assert!(!view.press(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE)));
        assert!(!view.press(KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE)));
        assert!(!view.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(view.press(KeyEvent::new(KeyCode::Down, KeyModifiers::NONE)));
    }
}
