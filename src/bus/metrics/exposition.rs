//! A registry in the two text formats that Prometheus reads.
//!
//! `prometheus-client` writes OpenMetrics. The older format is made of that: a counter is named with its `_total` there, an info is a
//! gauge, and units, exemplars and the end mark are not known.

use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// The content type of OpenMetrics.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The content type of the older text format, which all scrapers read.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What an HTTP server answers a scraper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposition {
    /// The header `Content-Type`: [`OPENMETRICS`] or [`TEXT`].
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

/// Writes what a registry has, in the format that the header `Accept` of a request prefers: OpenMetrics where it is named with a weight that is no
/// lower than that of plain text, else the older text format, which also who names nothing gets.
///
/// The answer depends on the header, so it is to be sent with `Vary: Accept` where something may cache it. It is made at once: what
/// the registry has asks the bus, which takes a moment for each session.
///
/// # Errors
/// What a metric of the registry says that cannot be encoded. Those of the bus always can.
///
/// # Examples
/// ```
/// use prometheus_client::registry::Registry;
/// use whispeer::bus::metrics::{OPENMETRICS, TEXT, expose};
///
/// let registry = Registry::default();
/// let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
/// assert_eq!(expose(&registry, Some(accept))?.content_type, OPENMETRICS);
/// assert_eq!(expose(&registry, Some("*/*"))?.content_type, TEXT);
/// # Ok::<(), std::fmt::Error>(())
/// ```
pub fn expose(registry: &Registry, accept: Option<&str>) -> Result<Exposition, fmt::Error> {
    let mut body = String::new();
    encode(&mut body, registry)?;
    Ok(match prefers_openmetrics(accept.unwrap_or_default()) {
        true => Exposition { content_type: OPENMETRICS, body },
        false => Exposition { content_type: TEXT, body: older(&body) },
    })
}

/// Whether a header `Accept` wants OpenMetrics rather than plain text. What of it is malformed is passed over.
fn prefers_openmetrics(accept: &str) -> bool {
    let (mut openmetrics, mut text) = (0.0_f32, 0.0_f32);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut weight, mut version) = (Some(1.0), None);
        for part in parts {
            match part.split_once('=').map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim())) {
                Some((key, value)) if key == "q" => {
                    weight = value.parse().ok().filter(|weight| *weight <= 1.0)
                }
                Some((key, value)) if key == "version" => version = Some(value.trim_matches('"')),
                _ => {}
            }
        }
        let Some(weight) = weight else { continue };
        match (&*name, version) {
            ("application/openmetrics-text", None | Some("1.0.0")) => openmetrics = openmetrics.max(weight),
            ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => text = text.max(weight),
            _ => {}
        }
    }
    openmetrics > 0.0 && openmetrics >= text
}

/// The older format of what is written as OpenMetrics by `prometheus-client`, whose families begin with their help and type, in this order.
fn older(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        if let Some(named) = line.strip_prefix("# HELP ") {
            help = named.split_once(' ');
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, told)) = help.take().filter(|(named, _)| *named == name) {
                text.extend(["# HELP ", name, suffix, " ", told, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([without_exemplar(line), "\n"]);
        }
    }
    text
}

/// A sample without what follows its value behind ` # `. The same within a label's value is a part of that.
fn without_exemplar(sample: &str) -> &str {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, character) in sample.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = is_quoted,
            '"' => is_quoted = !is_quoted,
            '#' if !is_quoted => return sample[..at].trim_end(),
            _ => {}
        }
    }
    sample
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::{ConstCounter, Counter};
    use prometheus_client::metrics::exemplar::CounterWithExemplar;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::info::Info;
    use prometheus_client::registry::Unit;

    use super::*;

    #[test]
    fn who_names_openmetrics_gets_it_unless_he_would_rather_have_text() {
        for accept in [
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; Version=\"1.0.0\"",
            "application/openmetrics-text; version=1.0.0; charset=utf-8; q=0.1",
            "text/plain;q=0.3, application/openmetrics-text;q=0.3",
            // What Prometheus sends.
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;\
             version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        ] {
            assert!(prefers_openmetrics(accept), "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/plain",
            "text/html, application/xml;q=0.9, */*;q=0.8",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=high",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=0.2, text/plain;q=0.8",
            "application/openmetrics-text;q=0.2, */*",
            ";;,,;q=1,=",
        ] {
            assert!(!prefers_openmetrics(accept), "{accept}");
        }
    }

    #[test]
    fn the_older_format_knows_other_names_and_no_units_exemplars_or_ends() {
        let mut registry = Registry::default();
        registry.register("info", "What it is", Info::new([("version", "1")]));
        registry.register_with_unit("sent", "What was sent", Unit::Bytes, ConstCounter::new(7_u64));
        let gauges = Family::<[(&str, &str); 1], Gauge>::default();
        gauges.get_or_create(&[("name", "a \\ # \"{b}\" # {")]).set(3);
        registry.register("room", "What is left", gauges);
        let seen = CounterWithExemplar::<[(&str, &str); 1]>::default();
        seen.inc_by(2, Some([("trace_id", "abc")]), None);
        registry.register("seen", "What was seen", seen);
        let counter = Counter::<u64>::default();
        registry.register("taken", "What was taken", counter);
        let expected = [
            "# HELP info_info What it is.",
            "# TYPE info_info gauge",
            "info_info{version=\"1\"} 1",
            "# HELP sent_bytes_total What was sent.",
            "# TYPE sent_bytes_total counter",
            "sent_bytes_total 7",
            "# HELP room What is left.",
            "# TYPE room gauge",
            "room{name=\"a \\\\ # \\\"{b}\\\" # {\"} 3",
            "# HELP seen_total What was seen.",
            "# TYPE seen_total counter",
            "seen_total 2",
            "# HELP taken_total What was taken.",
            "# TYPE taken_total counter",
            "taken_total 0",
        ];
        let shown = expose(&registry, None).unwrap();
        assert_eq!(shown.body.lines().collect::<Vec<_>>(), expected);
        assert_eq!(shown.content_type, TEXT);
    }

    #[test]
    fn openmetrics_is_as_it_was_written() {
        let mut registry = Registry::default();
        registry.register("taken", "What was taken", ConstCounter::new(7_u64));
        let shown = expose(&registry, Some("application/openmetrics-text")).unwrap();
        assert_eq!(shown.content_type, OPENMETRICS);
        assert_eq!(shown.body, "# HELP taken What was taken.\n# TYPE taken counter\ntaken_total 7\n# EOF\n");
    }
}
