//! The receiving end of streams of messages: proves that each message came exactly once and in
//! order, counts deliveries without those of the warm-up, and times them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::measured::{Measured, Metric};
use super::message::Message;
use super::window::Progress;
use crate::clock;

/// Decimal digits kept of each recorded time; three keep the error below 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;

/// What is expected of the messages of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expecting {
    /// Each once, in order.
    Ordered,
    /// Each once, in order, and how late after it was due.
    Timed,
    /// Each once. For messages that come through several subscriptions of a client, between which
    /// no bus promises an order.
    Unordered,
}

/// The warm-up of all subscriptions of a process, which begins with the first message to any.
#[derive(Debug, Clone)]
pub struct WarmUp {
    nanoseconds: u64,
    begun: Arc<OnceLock<u64>>,
}

impl WarmUp {
    /// A warm-up that lasts for `duration`.
    pub fn new(duration: Duration) -> Self {
        Self {
            nanoseconds: u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
            begun: Arc::default(),
        }
    }

    /// Whether it is over; the first call begins it.
    fn is_over(&self, now: u64) -> bool {
        let begun = *self.begun.get_or_init(|| now);
        now.saturating_sub(begun) >= self.nanoseconds
    }
}

/// What came next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A message, and there are more to come.
    Message,
    /// The last of all messages.
    End,
}

/// One subscription's count.
#[derive(Debug)]
pub struct Receiver {
    expecting: Expecting,
    warm_up: WarmUp,
    first_stream: u16,
    streams: Vec<Stream>,
    open: usize,
    total: u64,
    counted_from: Option<(u64, u64)>,
    ended: u64,
    latencies: Option<Histogram<u64>>,
    /// Where a publisher looks that is held back, and the number of this subscription there.
    progress: Option<(Arc<Progress>, usize)>,
}

#[derive(Debug, Clone, Default)]
struct Stream {
    /// How many came.
    count: u64,
    /// The sum of their numbers, and of their squares: two messages that stand for two others do
    /// not have both.
    sum: u64,
    squares: u64,
    announced: Option<u64>,
}

impl Stream {
    fn is_complete(&self) -> bool {
        self.announced == Some(self.count)
    }
}

impl Receiver {
    /// A receiver of `streams` streams, of which the first has the number `first_stream`.
    ///
    /// # Errors
    /// When there is no memory for the times.
    pub fn new(
        expecting: Expecting,
        first_stream: u16,
        streams: u16,
        warm_up: WarmUp,
    ) -> Result<Self> {
        let latencies = (expecting == Expecting::Timed)
            .then(|| Histogram::new(SIGNIFICANT_DIGITS))
            .transpose()?;
        Ok(Self {
            expecting,
            warm_up,
            first_stream,
            streams: vec![Stream::default(); usize::from(streams)],
            open: usize::from(streams),
            total: 0,
            counted_from: None,
            ended: 0,
            latencies,
            progress: None,
        })
    }

    /// Tells `progress` what has come, as subscription number `subscription`.
    pub fn telling(mut self, progress: Option<&Arc<Progress>>, subscription: usize) -> Self {
        self.progress = progress.map(|progress| (Arc::clone(progress), subscription));
        self
    }

    /// Takes the next message.
    ///
    /// # Errors
    /// When it is not one that may come next, or the end of its stream comes too early.
    pub fn accept(&mut self, payload: &[u8]) -> Result<Step> {
        let message = Message::read(payload)?;
        match message {
            Message::Numbered {
                stream,
                sequence,
                second,
            } => {
                if self.expecting != Expecting::Timed {
                    message.check()?;
                }
                self.accept_numbered(stream, sequence)?;
                self.count(second)?;
            }
            Message::End { stream, count } => self.accept_end(stream, count)?,
        }
        if self.open > 0 {
            return Ok(Step::Message);
        }
        self.ended = clock::nanoseconds();
        Ok(Step::End)
    }

    fn accept_numbered(&mut self, number: u16, sequence: u64) -> Result<()> {
        let in_any_order = self.expecting == Expecting::Unordered;
        let stream = self.stream(number)?;
        if !in_any_order && sequence != stream.count {
            bail!(
                "message {sequence} of stream {number} arrived where {} was due",
                stream.count
            );
        }
        stream.count += 1;
        let count = stream.count;
        if in_any_order {
            stream.sum = stream.sum.wrapping_add(sequence);
            stream.squares = stream.squares.wrapping_add(sequence.wrapping_mul(sequence));
            if stream.is_complete() {
                check_sums(stream)?;
                self.open -= 1;
            }
        }
        if let Some((progress, subscription)) = &self.progress {
            progress.note(*subscription, number, count)?;
        }
        Ok(())
    }

    fn accept_end(&mut self, number: u16, count: u64) -> Result<()> {
        let in_any_order = self.expecting == Expecting::Unordered;
        let stream = self.stream(number)?;
        ensure!(
            stream.announced.replace(count).is_none(),
            "stream {number} ended twice"
        );
        if stream.is_complete() {
            if in_any_order {
                check_sums(stream)?;
            }
            self.open -= 1;
        } else if !in_any_order || stream.count > count {
            bail!(
                "{count} messages of stream {number} were sent and {} arrived",
                stream.count
            );
        }
        Ok(())
    }

    fn stream(&mut self, number: u16) -> Result<&mut Stream> {
        let index = usize::from(number.wrapping_sub(self.first_stream));
        self.streams
            .get_mut(index)
            .with_context(|| format!("a message of stream {number} arrived, which is another's"))
    }

    /// Counts a delivery. The clock is read only while the warm-up lasts, or for times.
    #[inline]
    fn count(&mut self, due: u64) -> Result<()> {
        self.total += 1;
        if self.counted_from.is_none() {
            let now = clock::nanoseconds();
            if self.warm_up.is_over(now) {
                self.counted_from = Some((now, self.total));
            }
        } else if let Some(latencies) = &mut self.latencies {
            latencies.record(clock::nanoseconds().saturating_sub(due))?;
        }
        Ok(())
    }
}

/// Fails unless the numbers that came are 0, 1, … up to the last.
fn check_sums(stream: &Stream) -> Result<()> {
    let (mut sum, mut squares) = (0_u64, 0_u64);
    for number in 0..stream.count {
        sum = sum.wrapping_add(number);
        squares = squares.wrapping_add(number.wrapping_mul(number));
    }
    ensure!(
        (sum, squares) == (stream.sum, stream.squares),
        "as many messages arrived as were sent, and some of them twice"
    );
    Ok(())
}

/// What all subscriptions of a subscriber showed together: the rate from the first count to the
/// last end, and the times.
///
/// # Errors
/// When all streams ended during the warm-up.
pub fn measured(receivers: Vec<Receiver>) -> Result<Measured> {
    let (mut counted, mut total) = (0, 0);
    let (mut from, mut ended) = (u64::MAX, 0);
    let mut latencies: Option<Histogram<u64>> = None;
    for receiver in receivers {
        // A subscription that had all of its messages during the warm-up counts for nothing.
        if let Some((begun, before)) = receiver.counted_from {
            counted += receiver.total - before;
            from = from.min(begun);
        }
        total += receiver.total;
        ended = ended.max(receiver.ended);
        match (&mut latencies, receiver.latencies) {
            (Some(all), Some(latencies)) => all.add(latencies)?,
            (none, latencies) => *none = latencies,
        }
    }
    ensure!(counted > 0, "all streams ended during the warm-up");
    let elapsed = Duration::from_nanos(ended.saturating_sub(from));
    let mut measured = match latencies {
        Some(latencies) => Measured::latency(&latencies)?,
        None => Measured::default(),
    };
    measured.set(Metric::Rate, counted as f64 / elapsed.as_secs_f64());
    measured.operations = total;
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::message::{SMALLEST_BYTES, write_due, write_end, write_message};

    fn receiver(expecting: Expecting, streams: u16) -> Receiver {
        Receiver::new(expecting, 0, streams, WarmUp::new(Duration::ZERO)).unwrap()
    }

    fn message(stream: u16, sequence: u64) -> [u8; SMALLEST_BYTES] {
        let mut payload = [0; SMALLEST_BYTES];
        write_message(&mut payload, stream, sequence);
        payload
    }

    fn end(stream: u16, count: u64) -> [u8; SMALLEST_BYTES] {
        let mut payload = [0; SMALLEST_BYTES];
        write_end(&mut payload, stream, count);
        payload
    }

    #[test]
    fn a_complete_run_is_accepted() {
        let mut receiver = receiver(Expecting::Ordered, 1);
        assert_eq!(receiver.accept(&message(0, 0)).unwrap(), Step::Message);
        assert_eq!(receiver.accept(&message(0, 1)).unwrap(), Step::Message);
        assert_eq!(receiver.accept(&end(0, 2)).unwrap(), Step::End);
    }

    #[test]
    fn a_lost_message_is_noticed() {
        let mut receiver = receiver(Expecting::Ordered, 1);
        receiver.accept(&message(0, 0)).unwrap();
        assert!(receiver.accept(&message(0, 2)).is_err());
    }

    #[test]
    fn a_doubled_message_is_noticed() {
        let mut receiver = receiver(Expecting::Ordered, 1);
        receiver.accept(&message(0, 0)).unwrap();
        assert!(receiver.accept(&message(0, 0)).is_err());
    }

    #[test]
    fn a_message_lost_just_before_the_end_is_noticed() {
        let mut receiver = receiver(Expecting::Ordered, 1);
        receiver.accept(&message(0, 0)).unwrap();
        assert!(receiver.accept(&end(0, 2)).is_err());
    }

    #[test]
    fn streams_are_ordered_each_by_itself_and_the_last_of_them_ends_all() {
        let mut receiver = receiver(Expecting::Ordered, 2);
        receiver.accept(&message(1, 0)).unwrap();
        receiver.accept(&message(0, 0)).unwrap();
        receiver.accept(&message(1, 1)).unwrap();
        assert_eq!(receiver.accept(&end(1, 2)).unwrap(), Step::Message);
        assert_eq!(receiver.accept(&end(0, 1)).unwrap(), Step::End);
    }

    #[test]
    fn a_message_of_anothers_stream_is_noticed() {
        assert!(
            receiver(Expecting::Ordered, 1)
                .accept(&message(1, 0))
                .is_err()
        );
    }

    #[test]
    fn without_an_order_the_last_message_may_come_after_the_end() {
        let mut receiver = receiver(Expecting::Unordered, 1);
        receiver.accept(&message(0, 1)).unwrap();
        assert_eq!(receiver.accept(&end(0, 2)).unwrap(), Step::Message);
        assert_eq!(receiver.accept(&message(0, 0)).unwrap(), Step::End);
    }

    #[test]
    fn without_an_order_a_doubled_message_does_not_stand_for_a_lost_one() {
        let mut receiver = receiver(Expecting::Unordered, 1);
        receiver.accept(&message(0, 1)).unwrap();
        receiver.accept(&message(0, 1)).unwrap();
        assert!(receiver.accept(&end(0, 2)).is_err());
    }

    #[test]
    fn lateness_is_counted_from_when_a_message_was_due() {
        const LATE: u64 = 1_000_000_000;
        let mut receiver = receiver(Expecting::Timed, 1);
        let mut payload = [0; SMALLEST_BYTES];
        for sequence in 0..3 {
            write_due(&mut payload, 0, sequence, clock::nanoseconds() - LATE);
            receiver.accept(&payload).unwrap();
        }
        receiver.accept(&end(0, 3)).unwrap();
        let measured = measured(vec![receiver]).unwrap();
        let median = measured.figure(Metric::P50).unwrap();
        assert!((LATE as f64..2.0 * LATE as f64).contains(&median));
    }
}
