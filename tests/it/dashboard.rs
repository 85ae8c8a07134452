//! The dashboard asks for nothing that nobody shows.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use whispeer::plugin::Logging;
use whispeer::prelude::*;
use whispeer::store::{SqliteOptions, SqliteStore, Store};
use whispeer_testkit::dashboard;

use crate::metrics::Shown;
use crate::orders::streams_on;

/// All queries of the dashboard, one a line.
fn queries() -> String {
    fn gather(value: &serde_json::Value, queries: &mut String) {
        match value {
            serde_json::Value::Array(values) => values.iter().for_each(|value| gather(value, queries)),
            serde_json::Value::Object(entries) => {
                for (key, value) in entries {
                    match value {
                        serde_json::Value::String(text)
                            if ["expr", "query", "definition"].contains(&&**key) =>
                        {
                            queries.push_str(text);
                            queries.push('\n');
                        }
                        value => gather(value, queries),
                    }
                }
            }
            _ => {}
        }
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/grafana/whispeer.json");
    let dashboard: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let mut queries = String::new();
    gather(&dashboard, &mut queries);
    queries
}

#[tokio::test]
async fn each_metric_of_the_dashboard_is_one_of_the_bus_or_of_the_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let file = SqliteStore::open(&folder.path().join("db"), SqliteOptions::new()).unwrap();
    let store: Arc<dyn Store> = Arc::new(file);
    let builder = Bus::builder().streams(streams_on(&store).await);
    let bus = builder.plugin(Logging::new()).start().unwrap();
    let text = Shown::of(&bus).text();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let shown: BTreeSet<_> = samples.map(|line| line.split(['{', ' ']).next().unwrap()).collect();
    let asked = dashboard::names(&queries());
    assert!(asked.len() > 40, "{asked:?}");
    for name in &asked {
        let is_of_gateway = dashboard::is_of(name, &dashboard::GATEWAY);
        assert!(is_of_gateway || shown.contains(name.as_str()), "nobody shows {name}");
    }
    for family in dashboard::GATEWAY {
        assert!(asked.iter().any(|name| dashboard::is_of(name, &[family])), "nothing is made of {family}");
    }
    bus.stop().await;
}
