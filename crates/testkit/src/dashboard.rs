//! The metrics that the dashboard of the project asks for (`packaging/grafana/whispeer.json`).

use std::collections::BTreeSet;

/// Metrics of the gateway that the dashboard asks for, by the names of their families, without `_total`, `_bucket` and the like: the
/// library does not have them, so the gateway's own tests have to find them in what it shows. All others are the bus's.
pub const GATEWAY: [&str; 6] = [
    "whispeer_http_requests",
    "whispeer_http_request_seconds",
    "whispeer_gateway_sockets",
    "whispeer_gateway_messages",
    "whispeer_gateway_dropped",
    "whispeer_gateway_refused",
];

/// The names of all metrics in a text, which may be queries or what is shown to a scraper.
///
/// # Examples
/// ```
/// use whispeer_testkit::dashboard::names;
///
/// let names = names("sum by (reason) (rate(whispeer_bus_dropped_messages_total{job=~\"$job\"}[5m]))");
/// assert!(names.iter().eq(["whispeer_bus_dropped_messages_total"]));
/// ```
#[must_use]
pub fn names(text: &str) -> BTreeSet<String> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words = text.split(|character| !is_part(character));
    words.filter(|word| word.starts_with("whispeer_")).map(str::to_owned).collect()
}

/// Whether this is a sample of one of these families.
#[must_use]
pub fn is_of(sample: &str, families: &[&str]) -> bool {
    let parts = ["", "_total", "_bucket", "_sum", "_count", "_info"];
    families.iter().any(|family| parts.iter().any(|part| sample.strip_suffix(part) == Some(*family)))
}
