//! `/metrics`: for whom, and what.

use std::collections::BTreeSet;
use std::path::Path;

use whispeer::bus::Bus;
use whispeer_gateway::{Gateway, Settings};

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
