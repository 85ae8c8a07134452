//! The guide's lines of curl, as they stand there.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::described::has;
use super::support::{Served, bearer_for};

/// What stands for anything, in what is expected.
const ANYTHING: &str = "…";

/// A command of the guide and what it answers.
struct Example {
    command: String,
    answer: String,
}

/// The examples of a text: each block of `sh` that asks by curl, and the block behind it.
fn examples(text: &str) -> Vec<Example> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((kind.to_owned(), block.join("\n")));
        }
    }
    let asks = |(kind, block): &&(String, String)| kind == "sh" && block.contains("curl");
    let mut examples = Vec::new();
    for (index, (_, command)) in blocks.iter().enumerate().filter(|(_, block)| asks(block)) {
        let (kind, answer) = &blocks[index + 1];
        assert!(matches!(kind.as_str(), "json" | "text"), "no answer stands behind {command}");
        examples.push(Example { command: command.clone(), answer: answer.clone() });
    }
    examples
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_line_of_the_guide_answers_what_stands_behind_it() {
    if !has("curl") || !has("bash") {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/gateway/http-api.md");
    let examples = examples(&std::fs::read_to_string(path).unwrap());
    assert!(examples.len() >= 12, "{}", examples.len());
    let served = Served::closed().await;
    let _echo = served.client.handle_bytes("echo", |asked| async { Ok(asked) }).await.unwrap();
    let url = format!("http://{}", served.address());
    let shown = bearer_for("alice", &["admin"], std::time::Duration::from_secs(3_600));
    let token = shown.strip_prefix("Bearer ").unwrap().to_owned();
    for Example { command, answer } in examples {
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &command]).stdin(Stdio::null());
        shell.env("URL", &url).env("TOKEN", &token).env("ALICE", super::support::ALICE);
        let ended = tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap();
        let told = String::from_utf8(ended.stdout).unwrap();
        let trouble = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{command}\n{told}\n{trouble}");
        assert!(is_as_expected(&told, &answer), "{command}\nanswered\n{told}\nand not\n{answer}\n{trouble}");
    }
}

fn is_as_expected(told: &str, expected: &str) -> bool {
    match (serde_json::from_str(told), serde_json::from_str(expected)) {
        (Ok(told), Ok(expected)) => is_as_json(&told, &expected),
        _ => {
            let lines = |text: &str| text.trim_end().lines().map(str::to_owned).collect::<Vec<_>>();
            let (told, expected) = (lines(told), lines(expected));
            told.len() == expected.len()
                && told.iter().zip(&expected).all(|(told, expected)| is_as_text(told, expected))
        }
    }
}

fn is_as_json(told: &Value, expected: &Value) -> bool {
    match (told, expected) {
        (_, Value::String(expected)) if expected == ANYTHING => true,
        (Value::String(told), Value::String(expected)) => is_as_text(told, expected),
        (Value::Object(told), Value::Object(expected)) => {
            told.len() == expected.len()
                && expected
                    .iter()
                    .all(|(key, value)| told.get(key).is_some_and(|told| is_as_json(told, value)))
        }
        (Value::Array(told), Value::Array(expected)) => {
            // An ellipsis at the end is for more of them.
            let (expected, has_more) = match expected.split_last() {
                Some((last, expected)) if last == ANYTHING && !expected.is_empty() => (expected, true),
                _ => (&expected[..], false),
            };
            (told.len() == expected.len() || (has_more && told.len() > expected.len()))
                && told.iter().zip(expected).all(|(told, expected)| is_as_json(told, expected))
        }
        (told, expected) => told == expected,
    }
}

/// Whether a line is as another, in which an ellipsis stands for anything.
fn is_as_text(told: &str, expected: &str) -> bool {
    let mut parts = expected.split(ANYTHING);
    let Some(mut rest) = parts.next().and_then(|first| told.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}
