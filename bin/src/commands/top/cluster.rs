//! `whispeer top --cluster`: all buses that one is joined with.

use std::time::{Duration, Instant};

use crossterm::event::KeyEvent;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row};
use whispeer::bus::{BusStats, ClusterStats};

use super::{Live, Rates, scroll, table};
use crate::commands::info::{cluster, dropped, name_or_dash};
use crate::connection::Connection;
use crate::quantity::{human_count, human_size};

/// What is on the screen.
pub(super) struct ClusterView {
    earlier: ClusterStats,
    now: ClusterStats,
    at: Instant,
    time: Duration,
    scrolled: usize,
}

impl Live for ClusterView {
    type Told = ClusterStats;

    async fn ask(connection: &Connection) -> anyhow::Result<ClusterStats> {
        cluster::read(&cluster::ask(connection).await?)
    }

    fn new(told: ClusterStats, at: Instant) -> Self {
        Self { earlier: told.clone(), now: told, at, time: Duration::from_secs(1), scrolled: 0 }
    }

    fn update(&mut self, told: ClusterStats, at: Instant) {
        self.earlier = std::mem::replace(&mut self.now, told);
        self.time = at.duration_since(self.at);
        self.at = at;
    }

    fn press(&mut self, key: KeyEvent) -> bool {
        scroll(&mut self.scrolled, self.now.buses.len().saturating_sub(1), key)
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let [head, body] = Layout::vertical([Constraint::Length(3), Constraint::Fill(1)]).areas(frame.area());
        let mut rows: Vec<_> =
            self.now.buses.iter().map(|bus| (self.rates(bus.id, &bus.stats), bus)).collect();
        let all: f64 = rows.iter().map(|(rates, _)| rates.published).sum();
        let delivered: f64 = rows.iter().map(|(rates, _)| rates.delivered).sum();
        let sessions: usize = rows.iter().map(|(_, bus)| bus.stats.sessions).sum();
        let silent = match self.now.silent.len() {
            0 => String::new(),
            count => format!("   {count} SILENT"),
        };
        let lines = vec![
            Line::from(format!(
                "{} buses   {} sessions   published {}/s   delivered {}/s{silent}",
                rows.len(),
                human_count(sessions as u64),
                human_count(all.round() as u64),
                human_count(delivered.round() as u64),
            ))
            .style(Style::new().add_modifier(Modifier::BOLD)),
            Line::from("q ends, arrows scroll").style(Style::new().add_modifier(Modifier::DIM)),
        ];
        frame.render_widget(Paragraph::new(lines), head);
        rows.sort_by(|(one, first), (other, second)| {
            let busy = |rates: &Rates| rates.published + rates.delivered;
            busy(other).total_cmp(&busy(one)).then(first.id.cmp(&second.id))
        });
        let cells = rows.iter().skip(self.scrolled).take(usize::from(body.height)).map(|(rates, bus)| {
            Row::new([
                format!("{:016x}", bus.id),
                name_or_dash(&bus.name),
                human_count(bus.stats.sessions as u64),
                human_count(bus.stats.subscriptions as u64),
                human_count(rates.published.round() as u64),
                human_count(rates.delivered.round() as u64),
                human_size(bus.stats.queued_bytes as u64),
                dropped(&bus.stats.dropped),
            ])
        });
        let widths =
            [17, 20, 10, 10, 12, 12, 10].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
        let headings = ["BUS", "NAME", "SESSIONS", "SUBS", "PUB/s", "DELIV/s", "QUEUED", "DROPPED"];
        frame.render_widget(table(cells, widths, headings, " buses ".into()), body);
    }
}

impl ClusterView {
    /// The rates of a bus; none where it has just come.
    fn rates(&self, id: u64, now: &BusStats) -> Rates {
        let earlier = self.earlier.buses.iter().find(|bus| bus.id == id);
        earlier.map_or_else(Rates::default, |bus| Rates::between(&bus.stats, now, self.time))
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use whispeer::bus::ClusterBus;

    use super::*;

    fn told(published: u64) -> ClusterStats {
        let mut stats = BusStats::default();
        stats.published = published;
        let bus = ClusterBus { id: 7, name: "shop-1".into(), stats };
        ClusterStats { buses: vec![bus], silent: vec![8] }
    }

    #[test]
    fn rates_of_each_bus_are_per_second_and_silent_ones_are_counted() {
        let start = Instant::now();
        let mut view = ClusterView::new(told(1_000), start);
        view.update(told(5_000), start + Duration::from_secs(2));
        let mut terminal = Terminal::new(TestBackend::new(120, 10)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let screen = terminal.backend().to_string();
        assert!(
            screen.contains("1 SILENT") && screen.contains("2,000") && screen.contains("shop-1"),
            "{screen}"
        );
    }
}
