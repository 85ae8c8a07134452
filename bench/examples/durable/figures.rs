//! What rounds have shown, and how it is written.

use anyhow::{Context, Result};

/// A figure of each round.
#[derive(Debug, Clone, Default)]
pub struct Series(Vec<f64>);

impl Series {
    pub fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// This one by another of the same rounds.
    pub fn by(&self, other: &Self) -> Self {
        let pairs = self.0.iter().zip(&other.0);
        Self(pairs.map(|(one, other)| one / other).collect())
    }

    /// The median, the least and the most.
    ///
    /// # Errors
    /// When there was no round.
    pub fn spread(&self) -> Result<Spread> {
        let mut figures = self.0.clone();
        figures.sort_by(f64::total_cmp);
        let spread = || {
            // Of an even number of rounds, halfway between the two in the middle.
            let half = figures.len() / 2;
            let upper = *figures.get(half)?;
            let lower = *figures.get(half - usize::from(figures.len() % 2 == 0))?;
            Some(Spread {
                median: f64::midpoint(lower, upper),
                least: *figures.first()?,
                most: *figures.last()?,
            })
        };
        spread().context("there was no round")
    }
}

/// How far figures of rounds are apart.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// As `median (least–most)`.
    pub fn shown(&self, show: impl Fn(f64) -> String) -> String {
        let Self {
            median,
            least,
            most,
        } = *self;
        format!("{} ({}–{})", show(median), show(least), show(most))
    }
}

/// A whole number, by thousands.
pub fn count(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How many times.
pub fn times(figure: f64) -> String {
    match figure {
        figure if figure < 9.995 => format!("{figure:.2} ×"),
        figure => format!("{figure:.1} ×"),
    }
}

/// Nanoseconds.
pub fn time(figure: f64) -> String {
    match figure {
        figure if figure < 1e6 => format!("{:.0} µs", figure / 1e3),
        figure => format!("{:.2} ms", figure / 1e6),
    }
}
