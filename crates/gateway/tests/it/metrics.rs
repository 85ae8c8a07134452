//! `/metrics`: for whom, and what.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use whispeer::bus::Bus;
use whispeer_gateway::{Gateway, Settings};
use whispeer_testkit::tools::has_module;

use crate::http::{Answer, ask};

async fn scrape(token: Option<&str>, shown: &[(&str, &str)]) -> Answer {
    let bus = Bus::builder().start().unwrap();
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap());
    settings.metrics_token = token.map(Into::into);
    let gateway = Gateway::start(&bus, settings).await.unwrap();
    let headers: Vec<_> =
        shown.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    ask(gateway.local_addr(), "GET", "/healthz", &[], b"").await;
    ask(gateway.local_addr(), "GET", "/metrics", &headers, b"").await
}

#[tokio::test]
async fn it_tells_of_the_bus_and_of_the_gateway() {
    let text = scrape(None, &[]).await.body;
    for line in [
        "whispeer_bus_draining 0",
        r#"whispeer_http_requests_total{route="/healthz",method="GET",status="200"} 1"#,
        r#"whispeer_http_request_seconds_count{route="/healthz"} 1"#,
        "whispeer_gateway_connections 1",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn it_asks_for_the_token_if_there_is_one() {
    let with = async |shown: &[(&str, &str)]| scrape(Some("open sesame"), shown).await.status;
    assert_eq!(with(&[]).await, 401);
    assert_eq!(with(&[("authorization", "Bearer open")]).await, 401);
    assert_eq!(with(&[("authorization", "open sesame")]).await, 401);
    assert_eq!(with(&[("authorization", "Bearer open sesame")]).await, 200);
}

/// The names of the gateway's families in the queries of the dashboard.
fn asked_for() -> BTreeSet<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/grafana/whispeer.json");
    let text = std::fs::read_to_string(file).unwrap();
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let ours = |word: &&str| word.starts_with("whispeer_gateway_") || word.starts_with("whispeer_http_");
    words.filter(ours).map(|word| word.trim_end_matches("_bucket").to_owned()).collect()
}

#[tokio::test]
async fn what_the_dashboard_asks_of_the_gateway_is_there() {
    let text = scrape(None, &[]).await.body;
    let names = asked_for();
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        let family = format!("# TYPE {name} ");
        assert!(text.contains(&family), "{name} is missing in\n{text}");
    }
}

/// The families that Python's parser finds in a text, with how many samples each has.
fn parsed(format: &str, text: &str) -> Vec<(String, usize)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/it/metrics_peer.py");
    let mut python = Command::new("python3")
        .arg(script)
        .arg(format)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let ended = python.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}\n{text}", String::from_utf8_lossy(&ended.stderr));
    let written = String::from_utf8(ended.stdout).unwrap();
    let family = |line: &str| {
        let (name, _) = line.split_once(' ').unwrap();
        (name.to_owned(), line.rsplit(' ').next().unwrap().parse().unwrap())
    };
    written.lines().map(family).collect()
}

#[tokio::test]
async fn the_parsers_of_python_accept_what_is_served() {
    if !has_module("prometheus_client") {
        return;
    }
    for (format, accept) in [("text", "text/plain"), ("openmetrics", "application/openmetrics-text")] {
        let text = scrape(None, &[("accept", accept)]).await.body;
        let families = parsed(format, &text);
        let types = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
        assert_eq!(families.len(), types, "{families:?}");
        for name in ["whispeer_http_request_seconds", "whispeer_gateway_connections"] {
            let samples = families.iter().find(|(family, _)| family == name).map(|(_, samples)| *samples);
            assert!(samples.is_some_and(|samples| samples > 0), "{name} is missing in {families:?}");
        }
    }
}
