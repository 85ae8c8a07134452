//! What whispeer is to reach in a measurement.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::load::measured::Metric;
use crate::quantity::Quantity;
use crate::subject::Subject;

/// What whispeer is to reach in a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Target {
    /// The figure that is to be reached.
    pub metric: Metric,
    /// Whether it is a least or a most.
    pub is_least: bool,
    /// How much.
    pub bound: Bound,
}

/// How much is to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// So many times what this subject shows in the same round.
    Times(f64, Subject),
    /// This figure.
    Figure(f64),
}

impl Target {
    /// At least `factor` times what `subject` shows.
    pub fn times_at_least(metric: Metric, factor: f64, subject: Subject) -> Self {
        Self {
            metric,
            is_least: true,
            bound: Bound::Times(factor, subject),
        }
    }

    /// At most `factor` times what `subject` shows.
    pub fn times_at_most(metric: Metric, factor: f64, subject: Subject) -> Self {
        Self {
            is_least: false,
            ..Self::times_at_least(metric, factor, subject)
        }
    }

    /// At least `figure`.
    pub fn at_least(metric: Metric, figure: f64) -> Self {
        Self {
            metric,
            is_least: true,
            bound: Bound::Figure(figure),
        }
    }

    /// At most `figure`.
    pub fn at_most(metric: Metric, figure: f64) -> Self {
        Self {
            is_least: false,
            ..Self::at_least(metric, figure)
        }
    }

    /// The subject that it is held against.
    pub fn against(self) -> Option<Subject> {
        match self.bound {
            Bound::Times(_, subject) => Some(subject),
            Bound::Figure(_) => None,
        }
    }

    /// Whether it is met by `reached`, which is a ratio or a figure, as the bound is.
    pub fn is_met(self, reached: f64) -> bool {
        let (Bound::Times(bound, _) | Bound::Figure(bound)) = self.bound;
        if self.is_least {
            reached >= bound
        } else {
            reached <= bound
        }
    }

    /// What was reached, as the target is written.
    pub fn written(self, reached: f64) -> String {
        match self.bound {
            Bound::Times(..) => format!("{reached:.2} ×"),
            Bound::Figure(_) => Quantity::of(self.metric, reached).to_string(),
        }
    }
}

impl Display for Target {
    fn fmt(&self, output: &mut Formatter<'_>) -> fmt::Result {
        let word = if self.is_least { "at least" } else { "at most" };
        let metric = self.metric.title();
        match self.bound {
            Bound::Times(factor, subject) => {
                write!(output, "{metric}: {word} {factor} × {}", subject.title())
            }
            Bound::Figure(figure) => {
                write!(
                    output,
                    "{metric}: {word} {}",
                    Quantity::of(self.metric, figure)
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_at_its_bound() {
        let least = Target::times_at_least(Metric::Rate, 0.5, Subject::FrameRelay);
        assert!(least.is_met(0.5) && !least.is_met(0.49));
        let most = Target::at_most(Metric::Connection, 5120.0);
        assert!(most.is_met(5120.0) && !most.is_met(5121.0));
    }

    #[test]
    fn targets_read_as_sentences_do() {
        let least = Target::times_at_least(Metric::Rate, 0.5, Subject::FrameRelay);
        assert_eq!(
            least.to_string(),
            "per second: at least 0.5 × frame relay, one thread"
        );
        let most = Target::at_most(Metric::Connection, 5120.0);
        assert_eq!(most.to_string(), "a connection: at most 5.00 KiB");
    }
}
