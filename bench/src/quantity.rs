//! What figures count, and how they are written.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// The median of a run's round trips.
    Nanoseconds,
    /// Answers or deliveries.
    PerSecond,
    /// Resident memory of a connection.
    Bytes,
}

impl Unit {
    /// Whether the smaller of two figures is the better one.
    pub fn is_less_better(self) -> bool {
        match self {
            Self::Nanoseconds | Self::Bytes => true,
            Self::PerSecond => false,
        }
    }
}

/// A figure with a unit in which it reads well.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: Unit,
}

impl Display for Quantity {
    fn fmt(&self, output: &mut Formatter<'_>) -> fmt::Result {
        const THOUSAND: f64 = 1e3;
        const MILLION: f64 = 1e6;
        const KIBIBYTE: f64 = 1024.0;
        let (divisor, name) = match self.unit {
            Unit::Nanoseconds if self.value < MILLION => (THOUSAND, "µs"),
            Unit::Nanoseconds => (MILLION, "ms"),
            Unit::PerSecond if self.value < MILLION => (THOUSAND, "k"),
            Unit::PerSecond => (MILLION, "M"),
            Unit::Bytes => (KIBIBYTE, "KiB"),
        };
        let value = self.value / divisor;
        write!(output, "{value:.*} {name}", places(value))
    }
}

/// Decimal places that leave three significant digits.
fn places(value: f64) -> usize {
    match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
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
    }
}
