//! Requests: times of round trips one at a time, and the rate of many at once.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;

use super::Phases;
use super::client::Requester;
use super::measured::{Measured, Metric};
use super::message::{SMALLEST_BYTES, write_message};
use crate::address::Address;

/// Decimal digits kept of each recorded time; three keep the error below 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Makes requests with `outstanding` of them under way: one at a time to measure their times, or
/// several to measure the rate of their answers.
///
/// # Errors
/// When the bus cannot be reached, or an answer is not the request's.
pub async fn request<R: Requester>(
    address: &Address,
    payload_bytes: usize,
    outstanding: u64,
    phases: Phases,
) -> Result<Measured> {
    let requester = R::connect(address).await?;
    if outstanding == 1 {
        return one_at_a_time(phases, async |sequence| {
            ask(&requester, payload_bytes, sequence).await
        })
        .await;
    }
    let answers = RefCell::new(Answers::new(phases));
    let measured = Cell::new(None);
    let is_over = Cell::new(false);
    let askers = (0..outstanding).map(async |asker| -> Result<()> {
        let mut sequence = asker;
        while !is_over.get() {
            ask(&requester, payload_bytes, sequence).await?;
            sequence += outstanding;
            if let Some(result) = answers.borrow_mut().add(1) {
                measured.set(Some(result));
                is_over.set(true);
            }
        }
        Ok(())
    });
    try_join_all(askers).await?;
    measured
        .into_inner()
        .context("no request was answered in time")
}

async fn ask<R: Requester>(requester: &R, payload_bytes: usize, sequence: u64) -> Result<()> {
    let mut request = vec![0; payload_bytes.max(SMALLEST_BYTES)];
    write_message(&mut request, 0, sequence);
    let request = Bytes::from(request);
    let same = requester
        .request(request.clone(), |answer| *answer == *request)
        .await?;
    ensure!(same, "request {sequence} got the answer to another");
    Ok(())
}

/// Calls `round_trip` again and again, one at a time, and records how long each call takes once
/// the warm-up is over. The argument is the number of the call.
///
/// # Errors
/// The first error of a round trip, or when none completed in time.
pub async fn one_at_a_time(
    phases: Phases,
    mut round_trip: impl AsyncFnMut(u64) -> Result<()>,
) -> Result<Measured> {
    let mut times = Histogram::<u64>::new(SIGNIFICANT_DIGITS)?;
    let counted_from = Instant::now() + phases.warm_up;
    let until = counted_from + phases.measure;
    let mut sequence = 0;
    let mut begun = Instant::now();
    while begun < until {
        round_trip(sequence).await?;
        sequence += 1;
        let ended = Instant::now();
        if begun >= counted_from {
            times.record(nanoseconds(begun, ended))?;
        }
        begun = ended;
    }
    let mut measured = Measured::latency(&times)?;
    measured.operations = sequence;
    Ok(measured)
}

fn nanoseconds(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}

/// Counts answers from the end of the warm-up to the end of the measured time.
#[derive(Debug)]
pub struct Answers {
    warm: Instant,
    until: Instant,
    counted_from: Option<(Instant, u64)>,
    total: u64,
}

impl Answers {
    /// A count that begins now.
    pub fn new(phases: Phases) -> Self {
        let warm = Instant::now() + phases.warm_up;
        Self {
            warm,
            until: warm + phases.measure,
            counted_from: None,
            total: 0,
        }
    }

    /// Adds `count` answers and gives the result once the measured time is over.
    pub fn add(&mut self, count: u64) -> Option<Measured> {
        self.total += count;
        let now = Instant::now();
        match self.counted_from {
            None if now >= self.warm => self.counted_from = Some((now, self.total)),
            Some((from, before)) if now >= self.until => {
                let seconds = now.duration_since(from).as_secs_f64();
                let rate = (self.total - before) as f64 / seconds;
                let mut measured = Measured::of(Metric::Rate, rate);
                measured.operations = self.total;
                return Some(measured);
            }
            _ => {}
        }
        None
    }
}
