//! What the description of the API says, and that it is so.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::support::{Served, bearer_for};

/// The operations that there are.
const OPERATIONS: [(&str, &str); 9] = [
    ("GET", "/api/v1/consumers"),
    ("GET", "/api/v1/history"),
    ("GET", "/api/v1/sessions"),
    ("GET", "/api/v1/streams"),
    ("GET", "/api/v1/subscribe"),
    ("GET", "/api/v1/topics"),
    ("POST", "/api/v1/publish"),
    ("POST", "/api/v1/request"),
    ("POST", "/api/v1/ticket"),
];

#[tokio::test]
async fn every_operation_is_described_with_all_that_can_be_answered() {
    let served = Served::open().await;
    let answer = served.get("/api/openapi.json", &[]).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let document = answer.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            for status in ["200", "400", "401", "403", "421", "429", "500", "503", "504"] {
                assert!(responses.contains_key(status), "{method} {path}: {status}");
            }
            let takes_a_body = operation.get("requestBody").is_some();
            for status in ["408", "413", "415"] {
                assert_eq!(responses.contains_key(status), takes_a_body, "{method} {path}: {status}");
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(parameter["description"].is_string(), "{method} {path}: {parameter}");
                assert!(parameter["schema"]["type"].is_string(), "{method} {path}: {parameter}");
            }
            described.insert((method.to_uppercase(), path.clone()));
        }
    }
    let expected = OPERATIONS.map(|(method, path)| (method.to_owned(), path.to_owned()));
    assert_eq!(described, BTreeSet::from(expected));
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    assert_eq!(schemes.keys().collect::<Vec<_>>(), ["basic", "bearer"]);
    all_references_lead_somewhere(&document, &document);
}

fn all_references_lead_somewhere(document: &Value, part: &Value) {
    match part {
        Value::Object(parts) => {
            if let Some(reference) = parts.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            parts.values().for_each(|part| all_references_lead_somewhere(document, part));
        }
        Value::Array(parts) => parts.iter().for_each(|part| all_references_lead_somewhere(document, part)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_answered_that_is_not_described_and_no_input_breaks_the_server() {
    if !has("schemathesis") {
        return;
    }
    let served = Served::closed().await;
    served.store("orders/1", 1..=3).await;
    let _echo = served.client.handle_bytes("echo", |asked| async { Ok(asked) }).await.unwrap();
    let roles = ["admin", "reader", "writer"];
    let shown = bearer_for("admin", &roles, std::time::Duration::from_secs(3_600));

    let answered = run(&served, Some(&shown)).await;
    for (method, path) in OPERATIONS {
        let statuses = answered.get(&(method.into(), path.into()));
        assert!(statuses.is_some_and(|statuses| statuses.contains(&200)), "{method} {path}: {statuses:?}");
    }
    let answered = run(&served, None).await;
    for operation in OPERATIONS {
        let statuses = &answered[&(operation.0.to_owned(), operation.1.to_owned())];
        assert!(statuses.contains(&401) && !statuses.contains(&200), "{operation:?}: {statuses:?}");
    }
    assert_eq!(served.get("/healthz", &[]).await.status, 200);
}

/// Lets schemathesis ask, and tells by what statuses each operation was answered.
async fn run(served: &Served, shown: Option<&str>) -> BTreeMap<(String, String), BTreeSet<u64>> {
    let folder = tempfile::tempdir().unwrap();
    let (config, report) = (folder.path().join("schemathesis.toml"), folder.path().join("report.har"));
    // A stream of events ends at once, as nobody waits for more; that nobody serves a topic, does not answer in time or
    // answers with an error is no fault of the gateway.
    let text = r#"
        [[operations]]
        include-path = "/api/v1/subscribe"
        parameters = { "query.duration" = 0 }

        [[operations]]
        include-path = "/api/v1/request"
        checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 502, 503, 504]
    "#;
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new("schemathesis");
    command.arg("--config-file").arg(&config).arg("run");
    command.args(["--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--workers", "1"]);
    let examples = std::env::var("WHISPEER_EXAMPLES").unwrap_or_else(|_| "20".into());
    command.args(["--seed", "7", "--max-examples", &examples, "--request-timeout", "20", "--no-color"]);
    command.args(["--report", "har", "--report-har-path"]).arg(&report).current_dir(folder.path());
    if let Some(shown) = shown {
        command.arg("--header").arg(format!("Authorization: {shown}"));
    }
    command.arg(format!("http://{}/api/openapi.json", served.address())).stdin(Stdio::null());
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{told}\n{}", String::from_utf8_lossy(&ended.stderr));
    statuses(&report)
}

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,unsupported_method,allow_header_conformance,negative_data_rejection,ignored_auth,missing_required_header";

fn statuses(report: &Path) -> BTreeMap<(String, String), BTreeSet<u64>> {
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let mut statuses: BTreeMap<_, BTreeSet<u64>> = BTreeMap::new();
    for entry in report["log"]["entries"].as_array().unwrap() {
        let (request, response) = (&entry["request"], &entry["response"]);
        let url: http::Uri = request["url"].as_str().unwrap().parse().unwrap();
        let operation = (request["method"].as_str().unwrap().to_owned(), url.path().to_owned());
        statuses.entry(operation).or_default().extend(response["status"].as_u64());
    }
    statuses
}

/// Whether a tool is installed that a test needs. Where it is not, the test says so and has nothing to do; CI has to have it.
pub(super) fn has(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").stdin(Stdio::null()).output().is_ok();
    if !there {
        let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!is_ci, "{tool} is missing, which .ci/run installs");
        // Past what captures the output of tests that pass.
        std::io::stdout().write_all(format!("SKIPPED: needs {tool}\n").as_bytes()).unwrap();
    }
    there
}
