//! What was found, as tables.

use std::fmt::Write as _;

use anyhow::Result;

use crate::environment::Environment;
use crate::figures::{Series, count, time, times};
use crate::load::InFlight;
use crate::{Found, Publishes};

/// What is told of how late messages come.
pub const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];

/// What is to be reached: times JetStream's rate; with 64 under way, times the rate of syncs or publishes a second, whichever is
/// lower; messages of a replay a second.
const TIMES_JETSTREAM: f64 = 10.0;
const TIMES_SYNCS: f64 = 20.0;
const PUBLISHES: f64 = 25_000.0;
const REPLAYED: f64 = 500_000.0;

/// Everything that there is to tell.
pub struct Report<'a> {
    pub found: &'a Found,
    pub environment: &'a Environment,
    pub file_system: &'a str,
    pub rounds: u32,
    pub messages: u64,
    /// Whether the bus was the `whispeer` program.
    pub is_program: bool,
}

impl Report<'_> {
    /// As Markdown.
    ///
    /// # Errors
    /// When nothing was measured.
    pub fn written(&self) -> Result<String> {
        let mut text = String::new();
        self.run(&mut text)?;
        self.disk(&mut text)?;
        self.publishes(&mut text)?;
        self.replays(&mut text)?;
        self.times(&mut text)?;
        self.targets(&mut text)?;
        Ok(text)
    }

    fn run(&self, text: &mut String) -> Result<()> {
        let Environment {
            date,
            processor,
            processors,
            memory,
            kernel,
            rustc,
            commit,
            versions,
        } = self.environment;
        let named = ["whispeer", "tokio", "async-nats", "nats-server"];
        let versions: Vec<_> = versions
            .iter()
            .filter(|(name, _)| named.contains(name))
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        let bus = match self.is_program {
            true => "the `whispeer` program",
            false => "a process with the library's bus",
        };
        writeln!(
            text,
            "{date}, commit {commit}; {processor}, {processors} processors, {memory}; {kernel}; {rustc}; {}. The files are on \
             {}. The bus is {bus}. Medians of {} rounds, with minimum–maximum.\n",
            versions.join(", "),
            self.file_system,
            self.rounds
        )?;
        Ok(())
    }

    fn disk(&self, text: &mut String) -> Result<()> {
        let Found {
            appends,
            overwrites,
            ..
        } = self.found;
        writeln!(text, "| the disk alone | a second |\n|---|--:|")?;
        for (name, series) in [
            ("write of 100 B at the end of a file, `fdatasync`", appends),
            ("write of 100 B within a file, `fdatasync`", overwrites),
        ] {
            writeln!(text, "| {name} | {} |", series.spread()?.shown(count))?;
        }
        Ok(())
    }

    fn publishes(&self, text: &mut String) -> Result<()> {
        writeln!(
            text,
            "\n| publishes under way | syncs of the disk, a second | whispeer, a second | times those syncs | JetStream, a second | \
             whispeer is |\n|---|--:|--:|--:|--:|--:|"
        )?;
        for (in_flight, found) in InFlight::ALL.iter().zip(&self.found.publishes) {
            let Publishes {
                syncs,
                ours,
                theirs,
            } = found;
            let beside = match theirs.spread() {
                Ok(spread) => {
                    let ratio = ours.by(theirs).spread()?.shown(times);
                    format!("{} | {ratio}", spread.shown(count))
                }
                Err(_) => "no `nats-server` |".to_owned(),
            };
            writeln!(
                text,
                "| {in_flight} | {} | {} | {} | {beside} |",
                syncs.spread()?.shown(count),
                ours.spread()?.shown(count),
                ours.by(syncs).spread()?.shown(times),
            )?;
        }
        match self.found.their_syncs {
            Some(syncs) => writeln!(
                text,
                "\nJetStream makes {syncs:.2} calls of `fsync` for each publish, one at a time, as `strace` counts them."
            )?,
            None => writeln!(
                text,
                "\nJetStream's syncs were not counted: no `strace`, or no server."
            )?,
        }
        Ok(())
    }

    fn replays(&self, text: &mut String) -> Result<()> {
        let Found {
            from_disk,
            from_memory,
            ..
        } = self.found;
        writeln!(
            text,
            "\n| replay of {} messages | a second |\n|---|--:|",
            count(self.messages as f64)
        )?;
        for (name, series) in [
            ("of a bus that was just started, from the disk", from_disk),
            ("again", from_memory),
        ] {
            writeln!(text, "| {name} | {} |", series.spread()?.shown(count))?;
        }
        Ok(())
    }

    fn times(&self, text: &mut String) -> Result<()> {
        writeln!(
            text,
            "\n| from due to delivered, at messages a second | p50 | p99 | p99.9 |\n|---|--:|--:|--:|"
        )?;
        write!(text, "| {} |", self.found.timed.spread()?.shown(count))?;
        for series in &self.found.times {
            write!(text, " {} |", series.spread()?.shown(time))?;
        }
        writeln!(text)?;
        Ok(())
    }

    fn targets(&self, text: &mut String) -> Result<()> {
        writeln!(
            text,
            "\n| measurement | whispeer is to reach | reached | met |\n|---|---|--:|---|"
        )?;
        let of_each = InFlight::ALL.iter().zip(&self.found.publishes);
        for (in_flight, found) in of_each.clone() {
            let goal = format!("at least {TIMES_JETSTREAM:.0} × JetStream");
            let name = format!("publishes under way: {in_flight}");
            let ratio = found.ours.by(&found.theirs);
            match ratio.spread() {
                Ok(_) => target(text, &name, &goal, &ratio, times, TIMES_JETSTREAM)?,
                Err(_) => writeln!(text, "| {name} | {goal} | no `nats-server` | |")?,
            }
        }
        for (in_flight, found) in of_each.filter(|(in_flight, _)| in_flight.count() == 64) {
            let least = PUBLISHES.min(TIMES_SYNCS * found.syncs.spread()?.median);
            let goal = format!(
                "at least {}, as {TIMES_SYNCS:.0} × the syncs or {}",
                count(least),
                count(PUBLISHES)
            );
            let name = format!("publishes under way: {in_flight}");
            target(text, &name, &goal, &found.ours, count, least)?;
        }
        let Found {
            from_disk,
            from_memory,
            ..
        } = self.found;
        let goal = format!("at least {}", count(REPLAYED));
        target(
            text,
            "replay, from the disk",
            &goal,
            from_disk,
            count,
            REPLAYED,
        )?;
        target(text, "replay, again", &goal, from_memory, count, REPLAYED)
    }
}

fn target(
    text: &mut String,
    name: &str,
    goal: &str,
    reached: &Series,
    show: fn(f64) -> String,
    least: f64,
) -> Result<()> {
    let spread = reached.spread()?;
    let met = match spread.median >= least {
        true => "yes",
        false => "**no**",
    };
    writeln!(text, "| {name} | {goal} | {} | {met} |", spread.shown(show))?;
    Ok(())
}
