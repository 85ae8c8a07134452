//! A pattern as the steps that matching takes.

use super::validate::{RESERVED_MARK, fragments};
use crate::limits::MAX_TOPIC_FRAGMENTS;

/// Most steps of a valid pattern: one for each fragment, and one more for the case that [`Steps`] adds.
pub(super) const MAX_STEPS: usize = MAX_TOPIC_FRAGMENTS + 1;

/// What a pattern asks of the next fragment or fragments of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// This very fragment.
    Literal(&'a str),
    /// Any one fragment.
    One,
    /// Any number of fragments, also none.
    Many,
}

/// The steps of a valid pattern in a form that means the same and is easier to match.
///
/// - A run of wildcards becomes its `*` followed by at most one `**`: `**/*/**` is `*/**`. After
///   [`Step::Many`] there is only a literal or the end.
/// - A `**` at the start before a literal that begins with `$` becomes `*/**`, since no wildcard stands
///   before the first fragment of a reserved topic: `**/$a` accepts `x/$a`, not `$a`. A pattern that is
///   not reserved thus never takes a first fragment that is.
///
/// Two such sequences, both from reserved or both from other patterns, can be matched with no further
/// thought of `$`.
#[derive(Clone, Debug)]
pub(super) struct Steps<'a> {
    fragments: std::str::Split<'a, char>,
    at_start: bool,
    ones: usize,
    many: bool,
    literal: Option<&'a str>,
}

impl<'a> Steps<'a> {
    #[inline]
    pub(super) fn new(pattern: &'a str) -> Self {
        Self { fragments: fragments(pattern), at_start: true, ones: 0, many: false, literal: None }
    }

    /// Reads on after a `**` until the run of wildcards ends.
    fn read_run(&mut self) {
        self.many = true;
        for fragment in self.fragments.by_ref() {
            match fragment {
                "*" | "+" => self.ones += 1,
                "**" => {}
                literal => {
                    self.literal = Some(literal);
                    break;
                }
            }
        }
        let before_mark =
            self.literal.is_some_and(|literal| literal.as_bytes().first() == Some(&RESERVED_MARK));
        if self.at_start && self.ones == 0 && before_mark {
            self.ones = 1;
        }
        self.at_start = false;
    }

    /// The next step of a run that was read ahead.
    fn next_of_run(&mut self) -> Option<Step<'a>> {
        if self.ones > 0 {
            self.ones -= 1;
            return Some(Step::One);
        }
        if self.many {
            self.many = false;
            return Some(Step::Many);
        }
        self.literal.take().map(Step::Literal)
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = Step<'a>;

    #[inline]
    fn next(&mut self) -> Option<Step<'a>> {
        if let Some(step) = self.next_of_run() {
            return Some(step);
        }
        let step = match self.fragments.next()? {
            "*" | "+" => Step::One,
            "**" => {
                self.read_run();
                return self.next_of_run();
            }
            literal => Step::Literal(literal),
        };
        self.at_start = false;
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pattern: &str) -> String {
        let steps: Vec<&str> = Steps::new(pattern)
            .map(|step| match step {
                Step::Literal(literal) => literal,
                Step::One => "*",
                Step::Many => "**",
            })
            .collect();
        steps.join("/")
    }

    #[test]
    fn a_run_of_wildcards_becomes_its_single_ones_and_one_double() {
        for (pattern, steps) in [
            ("", ""),
            ("a/b", "a/b"),
            ("a/+/b", "a/*/b"),
            ("**", "**"),
            ("**/**", "**"),
            ("**/*", "*/**"),
            ("a/*/**/*/**/b", "a/*/*/**/b"),
            ("a/**/b/**/*", "a/**/b/*/**"),
        ] {
            assert_eq!(written(pattern), steps, "{pattern}");
        }
    }

    #[test]
    fn a_double_wildcard_before_a_reserved_mark_takes_a_fragment_at_the_start_only() {
        for (pattern, steps) in [
            ("**/$a", "*/**/$a"),
            ("**/**/$a", "*/**/$a"),
            ("**/*/$a", "*/**/$a"),
            ("**/a/**/$a", "**/a/**/$a"),
            ("*/**/$a", "*/**/$a"),
            ("$a/**/$b", "$a/**/$b"),
        ] {
            assert_eq!(written(pattern), steps, "{pattern}");
        }
    }
}
