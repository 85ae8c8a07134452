//! What figures count, and how they are written.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::load::measured::Metric;

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Times of single operations.
    Nanoseconds,
    /// Operations.
    PerSecond,
    /// Memory or storage.
    Bytes,
    /// Times of whole tasks.
    Seconds,
    /// A part of something.
    Share,
}

impl Unit {
    /// Whether the smaller of two figures is the better one.
    pub fn is_less_better(self) -> bool {
        match self {
            Self::Nanoseconds | Self::Bytes | Self::Seconds => true,
            Self::PerSecond | Self::Share => false,
        }
    }
}

/// A figure with a unit in which it reads well.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    value: f64,
    unit: Unit,
}

impl Quantity {
    /// A figure of `metric`.
    pub fn of(metric: Metric, value: f64) -> Self {
        Self {
            value,
            unit: metric.unit(),
        }
    }
}

impl Quantity {
    /// As [`Display`], without zeroes at the end: for round figures.
    pub fn round(self) -> String {
        let (value, name) = self.scaled();
        let digits = format!("{value:.*}", places(value));
        let digits = match digits.split_once('.') {
            Some(_) => digits.trim_end_matches('0').trim_end_matches('.'),
            None => &digits,
        };
        format!("{digits} {name}")
    }

    /// The value in a unit in which it reads well, and that unit.
    fn scaled(self) -> (f64, &'static str) {
        const THOUSAND: f64 = 1e3;
        const MILLION: f64 = 1e6;
        const KIBIBYTE: f64 = 1024.0;
        const MEBIBYTE: f64 = KIBIBYTE * KIBIBYTE;
        let (divisor, name) = match self.unit {
            Unit::Nanoseconds if self.value < MILLION => (THOUSAND, "µs"),
            Unit::Nanoseconds => (MILLION, "ms"),
            Unit::PerSecond if self.value < MILLION => (THOUSAND, "k"),
            Unit::PerSecond => (MILLION, "M"),
            Unit::Bytes if self.value < MEBIBYTE => (KIBIBYTE, "KiB"),
            Unit::Bytes => (MEBIBYTE, "MiB"),
            Unit::Seconds => (1.0, "s"),
            Unit::Share => (0.01, "%"),
        };
        (self.value / divisor, name)
    }
}

impl Display for Quantity {
    fn fmt(&self, output: &mut Formatter<'_>) -> fmt::Result {
        let (value, name) = self.scaled();
        write!(output, "{value:.*} {name}", places(value))
    }
}

/// Decimal places that leave three significant digits.
fn places(value: f64) -> usize {
    // What would be rounded up to the next power of ten has its places.
    match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_keep_three_digits() {
        let written = |value, unit| Quantity { value, unit }.to_string();
        assert_eq!(written(451.0, Unit::Nanoseconds), "0.45 µs");
        assert_eq!(written(27_531.0, Unit::Nanoseconds), "27.5 µs");
        assert_eq!(written(4_123_456.0, Unit::PerSecond), "4.12 M");
        assert_eq!(written(62_000.0, Unit::PerSecond), "62.0 k");
        assert_eq!(written(10_240.0, Unit::Bytes), "10.0 KiB");
        assert_eq!(written(0.11, Unit::Seconds), "0.11 s");
        assert_eq!(written(0.9999, Unit::Share), "100 %");
    }

    #[test]
    fn round_quantities_have_no_zeroes_at_the_end() {
        let round = |value, unit| Quantity { value, unit }.round();
        assert_eq!(round(2_000.0, Unit::Nanoseconds), "2 µs");
        assert_eq!(round(500.0, Unit::Nanoseconds), "0.5 µs");
        assert_eq!(round(100_000.0, Unit::PerSecond), "100 k");
    }
}
