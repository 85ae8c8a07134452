//! What whispeer is to reach in a measurement.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::quantity::{Quantity, Unit};

/// What whispeer is to reach in a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "value")]
pub enum Target {
    /// At least that many times the limit's figure in the same round.
    RatioAtLeast(f64),
    /// At most that many times the limit's figure in the same round.
    RatioAtMost(f64),
    /// At least that figure.
    AtLeast(f64),
    /// At most that figure.
    AtMost(f64),
}

impl Target {
    /// Whether it is met by `figure`, or by `ratio`, which is that of figure and limit.
    pub fn is_met(self, figure: f64, ratio: f64) -> bool {
        match self {
            Self::RatioAtLeast(target) => ratio >= target,
            Self::RatioAtMost(target) => ratio <= target,
            Self::AtLeast(target) => figure >= target,
            Self::AtMost(target) => figure <= target,
        }
    }

    /// The target for readers, in a measurement that counts `unit`.
    pub fn written(self, unit: Unit) -> impl Display {
        Written { target: self, unit }
    }
}

struct Written {
    target: Target,
    unit: Unit,
}

impl Display for Written {
    fn fmt(&self, output: &mut Formatter<'_>) -> fmt::Result {
        let unit = self.unit;
        match self.target {
            Target::RatioAtLeast(ratio) => write!(output, "at least {ratio} ×"),
            Target::RatioAtMost(ratio) => write!(output, "at most {ratio} ×"),
            Target::AtLeast(value) => write!(output, "at least {}", Quantity { value, unit }),
            Target::AtMost(value) => write!(output, "at most {}", Quantity { value, unit }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_of_the_limit_is_met_by_the_ratio_alone() {
        assert!(Target::RatioAtLeast(0.3).is_met(1.0, 0.3));
        assert!(!Target::RatioAtMost(1.5).is_met(1.0, 1.6));
    }

    #[test]
    fn an_absolute_target_is_met_by_the_figure_alone() {
        assert!(Target::AtLeast(1_500_000.0).is_met(1_600_000.0, 0.1));
        assert!(!Target::AtMost(10_240.0).is_met(10_241.0, 0.1));
    }
}
