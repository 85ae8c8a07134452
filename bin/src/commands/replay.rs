//! `whispeer replay`: prints what a stream has kept.

use std::pin::pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use clap::Args;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use whispeer::client::{Event, GapReason, Message, Position, Start, SubscribeOptions, Subscription};
use whispeer::json;

use super::subscribe::push_members;
use crate::connection::{BusChoice, BusOptions, Connection, SealingOptions};
use crate::interrupts::Interrupts;
use crate::output::{self, Output};
use crate::quantity::{self, human_count};

const EXAMPLES: &str = "\
Examples:
  whispeer replay 'orders/**'                  all that is kept, the oldest first
  whispeer replay 'orders/**' --last 10
  whispeer replay 'orders/**' --since 15m      what was published in the last quarter of an hour
  whispeer replay 'orders/**' --since 2026-05-01T08:00:00Z --json | jq .payload
  whispeer replay 'price/*' --last-per-topic   the last value of each topic
  whispeer replay 'orders/**' --from 1200 --limit 100
  whispeer replay 'orders/**' --last 10 --follow

A line is printed for each message: its sequence in the stream, when it was published, its topic, and
its payload as JSON, as `whispeer sub` prints it; with --json it is {\"sequence\": NUMBER, \"time\": TIME,
\"topic\": TOPIC, \"headers\": [[NAME, VALUE], ...], \"payload\": VALUE}. Times are of UTC.

It ends when all is printed that was there when it began, unless it is to follow. All topics have to be
in one stream of the bus; `whispeer info` shows which there are.";

/// Print what a stream has kept
#[derive(Debug, Args)]
#[command(name = "replay", after_help = EXAMPLES)]
pub(crate) struct Replay {
    /// Which topics: with the wildcards * (one fragment) and ** (any number)
    #[arg(value_name = "PATTERN")]
    pattern: String,

    #[command(flatten)]
    begin: Begin,

    /// Go on with what is published from then on
    #[arg(short, long)]
    follow: bool,

    /// End after that many messages
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Print each payload's bytes as they are, and a newline
    #[arg(long, conflicts_with = "json")]
    raw: bool,

    /// Print objects with sequence, time, topic, headers and payload
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    sealing: SealingOptions,

    #[command(flatten)]
    pub(crate) bus: BusOptions,
}

/// Where to begin.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Begin {
    /// Begin with the oldest message [default]
    #[arg(long)]
    all: bool,

    /// Begin with this sequence
    #[arg(long, value_name = "SEQUENCE")]
    from: Option<u64>,

    /// Begin with what was published then, or so long ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<SystemTime>,

    /// Begin with the last so many messages of these topics
    #[arg(long, value_name = "COUNT")]
    last: Option<u64>,

    /// Begin with the last message of each topic
    #[arg(long)]
    last_per_topic: bool,
}

impl Begin {
    fn start(&self) -> Start {
        match self {
            Self { from: Some(sequence), .. } => Start::From(*sequence),
            Self { since: Some(time), .. } => {
                let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                Start::Since(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Self { last: Some(count), .. } => Start::Last(*count),
            Self { last_per_topic: true, .. } => Start::LastPerTopic,
            Self { .. } => Start::All,
        }
    }
}

impl Replay {
    pub(crate) async fn run(self, bus: &BusChoice, interrupts: Interrupts) -> anyhow::Result<()> {
        let connection = bus.connect_sealing("replay", &self.sealing).await?;
        let subscribed = connection.client.subscribe_bytes_with(&self.pattern, self.options()).await;
        let mut stored = connection.check(subscribed)?;
        let mut output = Output::start()?;
        let printed = self.print(&connection, &mut stored, &mut output, &interrupts).await;
        let written = output.finish().await;
        if printed.is_ok()
            && let (Some(next), Some(end)) = (stored.next_sequence(), stored.end_sequence())
            && next < end
        {
            output::notice(format_args!("there is more; go on with --from {next}"));
        }
        drop(stored);
        // What was printed was printed; that the connection is gone no longer matters.
        let _ = connection.client.close().await;
        printed.and(written)
    }

    fn options(&self) -> SubscribeOptions {
        let options = SubscribeOptions::default().start(self.begin.start());
        match self.follow {
            true => options,
            false => options.limit(self.limit.unwrap_or(u32::MAX), u64::MAX),
        }
    }

    async fn print(
        &self,
        connection: &Connection,
        stored: &mut Subscription<Bytes>,
        output: &mut Output,
        interrupts: &Interrupts,
    ) -> anyhow::Result<()> {
        let mut left = self.limit;
        let mut interrupted = pin!(interrupts.first());
        // Without following, the bus ends it at the limit and says with that where to go on, which may come behind the last message.
        while !(self.follow && left == Some(0)) {
            let event = tokio::select! {
                biased;
                event = stored.next_event() => event,
                // Whoever reads the output should see what there is before a pause.
                () = std::future::ready(()), if !output.buffer().is_empty() => {
                    output.flush().await?;
                    continue;
                }
                error = output.failed() => return Err(error),
                () = &mut interrupted => return Ok(()),
            };
            match event {
                Some(event) => self.push(event, output.buffer(), &mut left),
                None if stored.next_sequence().is_some() => return Ok(()),
                None => {
                    let reason = connection.client.close_reason().or_else(|| stored.close_reason());
                    return Err(connection.ended(reason));
                }
            }
            output.flush_if_full().await?;
        }
        Ok(())
    }

    fn push(&self, event: Event<Bytes>, text: &mut Vec<u8>, left: &mut Option<u32>) {
        match event {
            Event::Message(message) => {
                self.push_message(&message, text);
                *left = left.map(|left| left.saturating_sub(1));
            }
            Event::Gap { reason: GapReason::Recreated, .. } => {
                output::notice(format_args!("gap: the stream is not the one that was there before"));
            }
            Event::Gap { count, reason } => output::notice(format_args!(
                "gap: {} messages are no longer there ({})",
                human_count(count),
                reason.name()
            )),
            Event::Undecodable { error, .. } => output::notice(format_args!("{error}")),
            _ => {}
        }
    }

    fn push_message(&self, message: &Message<Bytes>, text: &mut Vec<u8>) {
        if self.raw {
            text.extend_from_slice(&message.value);
            text.push(b'\n');
            return;
        }
        let (sequence, time) = message.position.map_or((0, String::new()), written);
        if self.json {
            text.extend_from_slice(format!("{{\"sequence\":{sequence},\"time\":\"{time}\",").as_bytes());
            push_members(message, text);
            text.extend_from_slice(b"}\n");
        } else {
            text.extend_from_slice(format!("{sequence} {time} {} ", message.topic).as_bytes());
            json::push_json(&message.value, text);
            text.push(b'\n');
        }
    }
}

/// A position as it is printed: `7` and `2026-05-01T08:00:00.250Z`.
fn written(position: Position) -> (u64, String) {
    let since = i64::try_from(position.time).ok().map(time::Duration::milliseconds);
    let moment = since.and_then(|since| OffsetDateTime::UNIX_EPOCH.checked_add(since));
    let time = moment.and_then(|moment| moment.format(&Rfc3339).ok());
    // A time that no calendar has was written by nobody's clock.
    (position.sequence, time.unwrap_or_else(|| position.time.to_string()))
}

/// Reads a moment: `2026-05-01T08:00:00Z`, the day `2026-05-01`, or how long ago it is, `15m`.
fn moment(text: &str) -> Result<SystemTime, String> {
    let whole = match text.len() {
        10 if text.as_bytes().get(4) == Some(&b'-') => format!("{text}T00:00:00Z"),
        _ => text.to_owned(),
    };
    if let Ok(moment) = OffsetDateTime::parse(&whole, &Rfc3339) {
        return Ok(moment.into());
    }
    let wrong = |_| {
        "write a moment such as 2026-05-01T08:00:00Z or 2026-05-01, or how long ago it is, such as 15m"
            .to_owned()
    };
    let ago: Duration = quantity::duration(text).map_err(wrong)?;
    Ok(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(text: &str) -> u128 {
        moment(text).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()
    }

    #[test]
    fn a_moment_is_a_time_a_day_or_how_long_ago_it_is() {
        assert_eq!(milliseconds("1970-01-02T00:00:01.5Z"), 86_401_500);
        assert_eq!(milliseconds("1970-01-02T01:00:00+01:00"), 86_400_000);
        assert_eq!(milliseconds("1970-01-02"), 86_400_000);
        let since = moment("2h").unwrap();
        let ago = SystemTime::now().duration_since(since).unwrap().as_secs();
        assert!((7_200..7_260).contains(&ago), "{ago}");
        for wrong in ["yesterday", "2026-13-01", "2026-05-01 08:00"] {
            assert!(moment(wrong).unwrap_err().contains("write a moment"), "{wrong}");
        }
    }

    #[test]
    fn a_time_is_written_as_it_can_be_read_again() {
        let (sequence, time) = written(Position::new(7, 1_700_000_000_250, true));
        assert_eq!((sequence, time.as_str()), (7, "2023-11-14T22:13:20.25Z"));
        assert_eq!(milliseconds(&time), 1_700_000_000_250);
        assert_eq!(written(Position::new(1, u64::MAX, true)).1, u64::MAX.to_string());
    }
}
