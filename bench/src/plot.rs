//! Draws the measurements of a family as one SVG: for each measurement an axis, and on it a dot for
//! each subject with a line from the least to the greatest figure.
//!
//! The axes are logarithmic, because limits and peers differ by orders of magnitude; so there are
//! dots and not bars, whose lengths would say something else. Colours follow the reader's scheme,
//! and stand on a background of their own, so that they are legible where the scheme is not known.

use std::fmt::Write;

use crate::markdown::ranked;
use crate::plan::Family;
use crate::quantity::{Quantity, Unit};
use crate::report::{CaseSummary, Spread};
use crate::subject::Standing;

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 16.0;
/// Width of the names at the left.
const NAMES: f64 = 262.0;
/// Width of the figures at the right.
const FIGURES: f64 = 84.0;
const ROW: f64 = 21.0;
/// Height of a family's title.
const HEAD: f64 = 40.0;
/// Height of a measurement's title.
const TITLE: f64 = 30.0;
/// Height of an axis with its labels.
const AXIS: f64 = 42.0;

/// A label takes so much; labels that would touch are left out.
const LABEL: f64 = 52.0;

/// How far an axis goes on beyond the outermost figures, as a factor.
const SPARE: f64 = 1.15;

/// Plain rules, because not every viewer knows variables; those for a dark ground come second.
const STYLE: &str = "\
  text { font: 12px system-ui, -apple-system, \"Segoe UI\", Helvetica, Arial, sans-serif; }\n\
  .family { font-size: 16px; font-weight: 600; } .title, .strong { font-weight: 600; }\n\
  .right { text-anchor: end; } .middle { text-anchor: middle; }\n\
  .ground { fill: #ffffff; } text { fill: #1f2328; } text.faint { fill: #59636e; }\n\
  .grid { stroke: #d1d9e0; }\n\
  .whispeer { fill: #0969da; stroke: #0969da; } .peer { fill: #9a6700; stroke: #9a6700; }\n\
  .limit { fill: #ffffff; stroke: #818b98; }\n\
  @media (prefers-color-scheme: dark) {\n\
    .ground { fill: #0d1117; } text { fill: #f0f6fc; } text.faint { fill: #9198a1; }\n\
    .grid { stroke: #30363d; }\n\
    .whispeer { fill: #58a6ff; stroke: #58a6ff; } .peer { fill: #d29922; stroke: #d29922; }\n\
    .limit { fill: #0d1117; stroke: #8b949e; } }\n";

/// The plot of the measurements of a family.
pub fn draw(family: Family, cases: &[&CaseSummary]) -> String {
    let cases: Vec<_> = cases
        .iter()
        .filter_map(|case| Some((*case, Axis::of(case)?)))
        .collect();
    let height = HEAD
        + cases
            .iter()
            .map(|(case, _)| TITLE + shown(case).len() as f64 * ROW + AXIS)
            .sum::<f64>();
    let mut drawing = Drawing::default();
    drawing.add(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<title>{}</title>\n\
         <style>\n{STYLE}</style>\n\
         <rect class=\"ground\" width=\"100%\" height=\"100%\" rx=\"8\"/>",
        escaped(family.title())
    ));
    drawing.text(MARGIN, 26.0, "family", family.title());
    drawing.key();
    let mut top = HEAD;
    for (case, axis) in &cases {
        top = drawing.case(case, axis, top);
    }
    drawing.add(format_args!("</svg>"));
    drawing.svg
}

/// The subjects that have a figure, the best first.
fn shown(case: &CaseSummary) -> Vec<(&'static str, Standing, Spread)> {
    ranked(case)
        .into_iter()
        .filter_map(|subject| Some((subject.title, subject.standing, case.main(subject)?)))
        .filter(|(_, _, figure)| figure.minimum > 0.0)
        .collect()
}

/// A logarithmic axis.
#[derive(Debug, Clone, Copy)]
struct Axis {
    from: f64,
    to: f64,
}

impl Axis {
    fn of(case: &CaseSummary) -> Option<Self> {
        let figures = shown(case);
        let from = figures
            .iter()
            .map(|(_, _, figure)| figure.minimum)
            .min_by(f64::total_cmp)?;
        let to = figures
            .iter()
            .map(|(_, _, figure)| figure.maximum)
            .max_by(f64::total_cmp)?;
        Some(Self {
            from: from / SPARE,
            to: to * SPARE,
        })
    }

    /// Where a figure lies, from the left of the drawing.
    fn place(self, figure: f64) -> f64 {
        let part = (figure / self.from).ln() / (self.to / self.from).ln();
        let left = MARGIN + NAMES;
        left + part * (WIDTH - MARGIN - FIGURES - left)
    }

    /// The figures that have a line: 1, 2 and 5 times powers of ten.
    fn ticks(self) -> Vec<f64> {
        let first = self.from.log10().floor() as i32;
        let last = self.to.log10().ceil() as i32;
        (first..=last)
            .flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)))
            .filter(|tick| (self.from..=self.to).contains(tick))
            .collect()
    }
}

#[derive(Debug, Default)]
struct Drawing {
    svg: String,
}

impl Drawing {
    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.svg, "{element}");
    }

    fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{}</text>",
            escaped(text)
        ));
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64), width: f64) {
        self.add(format_args!(
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" \
             stroke-width=\"{width}\"/>",
            from.0, from.1, to.0, to.1
        ));
    }

    fn dot(&mut self, class: &str, x: f64, y: f64) {
        self.add(format_args!(
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" stroke-width=\"1.5\"/>"
        ));
    }

    /// What the colours mean.
    fn key(&mut self) {
        let mut x = WIDTH - MARGIN - 300.0;
        for (class, name) in [
            ("whispeer", "whispeer"),
            ("peer", "other systems"),
            ("limit", "limits"),
        ] {
            self.dot(class, x, 22.0);
            self.text(x + 10.0, 26.0, "faint", name);
            x += 34.0 + 7.0 * name.len() as f64;
        }
    }

    /// Draws a measurement below `top`, and says where it ends.
    fn case(&mut self, case: &CaseSummary, axis: &Axis, top: f64) -> f64 {
        let subjects = shown(case);
        self.text(MARGIN, top + 19.0, "title", &case.title);
        let first = top + TITLE;
        let bottom = first + subjects.len() as f64 * ROW;
        self.axis(case, axis, first, bottom);
        for ((name, standing, figure), number) in subjects.into_iter().zip(0..) {
            let y = first + (f64::from(number) + 0.5) * ROW;
            self.subject(case, axis, y, (name, standing, figure));
        }
        bottom + AXIS
    }

    fn subject(
        &mut self,
        case: &CaseSummary,
        axis: &Axis,
        y: f64,
        (name, standing, figure): (&str, Standing, Spread),
    ) {
        let (class, weight) = match standing {
            Standing::Whispeer => ("whispeer", "strong"),
            Standing::Peer | Standing::Direct => ("peer", ""),
            Standing::Limit => ("limit", "faint"),
        };
        let below = y + 4.0;
        let names = MARGIN + NAMES - 12.0;
        self.text(names, below, &format!("right {weight}"), name);
        let (least, most) = (axis.place(figure.minimum), axis.place(figure.maximum));
        self.line(class, (least, y), (most, y), 2.0);
        self.dot(class, axis.place(figure.median), y);
        let quantity = Quantity::of(case.metric, figure.median).to_string();
        let right = WIDTH - MARGIN;
        self.text(right, below, &format!("right {weight}"), &quantity);
    }

    fn axis(&mut self, case: &CaseSummary, axis: &Axis, top: f64, bottom: f64) {
        let ticks = axis.ticks();
        for tick in &ticks {
            let x = axis.place(*tick);
            self.line("grid", (x, top), (x, bottom + 3.0), 1.0);
        }
        for tick in labelled(*axis, &ticks) {
            let quantity = Quantity::of(case.metric, tick).round();
            self.text(axis.place(tick), bottom + 15.0, "faint middle", &quantity);
        }
        let unit = case.metric.unit();
        let better = if unit.is_less_better() {
            "less is better"
        } else {
            "more is better"
        };
        let what = match unit {
            Unit::PerSecond => "per second",
            _ => case.metric.title(),
        };
        let middle = f64::midpoint(axis.place(axis.from), axis.place(axis.to));
        let text = format!("{what}, {better} (logarithmic)");
        self.text(middle, bottom + 30.0, "faint middle", &text);
    }
}

/// The ticks that have room for a label: powers of ten come first.
fn labelled(axis: Axis, ticks: &[f64]) -> Vec<f64> {
    let (powers, others): (Vec<f64>, Vec<f64>) = ticks
        .iter()
        .partition(|tick| tick.log10().fract().abs() < f64::EPSILON);
    let mut labelled = Vec::<f64>::new();
    for tick in powers.into_iter().chain(others) {
        let is_free = |other: &f64| (axis.place(tick) - axis.place(*other)).abs() >= LABEL;
        if labelled.iter().all(is_free) {
            labelled.push(tick);
        }
    }
    labelled
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn a_plot_names_each_subject_with_its_figure_and_unit() {
        let case = example();
        let svg = draw(case.family, &[&case]);
        for text in ["whispeer", "NATS", "2.00 M", "1.50 M", "per second"] {
            assert!(svg.contains(&format!(">{text}")), "{text} in {svg}");
        }
        assert!(!svg.contains(">Redis<"));
        assert!(svg.contains("prefers-color-scheme: dark"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }

    #[test]
    fn an_axis_places_figures_by_their_logarithms() {
        let axis = Axis {
            from: 1.0,
            to: 100.0,
        };
        let middle = f64::midpoint(axis.place(1.0), axis.place(100.0));
        assert!((axis.place(10.0) - middle).abs() < 1e-9);
        assert_eq!(axis.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
    }

    #[test]
    fn powers_of_ten_have_labels_before_others() {
        let axis = Axis { from: 0.9, to: 1e7 };
        let labels = labelled(axis, &axis.ticks());
        assert!(
            (0..=7).all(|power| labels.contains(&10_f64.powi(power))),
            "{labels:?}"
        );
    }
}
