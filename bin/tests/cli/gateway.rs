//! `whispeer serve http://…`: the real binary, to programs of others.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};
use whispeer::Client;
use whispeer_testkit::tools::{has, has_module, has_node_module, node_modules};

use crate::support::{Place, Running, serve};

/// The secret that tokens of the Turbine dialect are signed with here.
const KEY: &str = "the secret that these tests sign tokens with";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A token of the Turbine dialect.
fn token(change: &Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({"sub": "user-123", "exp": now + 3600, "channels": []});
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(&claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn a_command_that_is_given_the_address_of_http_is_told_that_of_the_bus() {
    let place = Place::new();
    let (_bus, address) = served(&place, &[]);
    let refused = place.run(&["pub", "--addr", &address, "greetings", "1"]);
    assert_eq!(refused.code(), 2, "{refused:?}");
    let instead = format!("ws://{}/bus", address.strip_prefix("http://").unwrap());
    for told in [&instead, "help: give the address of the bus at the gateway, such as --addr ws://"] {
        assert!(refused.errors.contains(told), "{refused:?}");
    }
    // As it is told, it works.
    place.run(&["pub", "--addr", &instead, "greetings", "1"]).success();
}

/// Serves with both dialects; gives the address of HTTP.
fn served(place: &Place, more: &[&str]) -> (Running, String) {
    place.write("turbine.key", KEY);
    place.write("api.keys", "the key of these tests' API\n");
    place.write("popsub.key", "the secret that these tests' PopSub signs with");
    let hash = place.run_with_input(&["passwd"], b"password\n").success();
    place.write("users.toml", &format!("[[users]]\nname = \"admin\"\npassword = \"{}\"\n", hash.trim()));
    let own = [
        "serve",
        "unix:my_bus",
        "http://127.0.0.1:0",
        "--turbine-key",
        "turbine.key",
        "--turbine-api-keys",
        "api.keys",
        "--popsub-key",
        "popsub.key",
        "--popsub-users",
        "users.toml",
    ];
    serve(place, &[&own[..], more].concat())
}

/// The transcripts of a dialect.
fn transcripts(dialect: &str) -> Vec<PathBuf> {
    let folder = root().join("crates/gateway/tests/transcripts").join(dialect);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Plays each of the transcripts to a bus of its own, as what is said of one may be left behind by another.
fn play(player: &[&str], dialect: &str) {
    for transcript in transcripts(dialect) {
        let place = Place::new();
        let more: &[&str] = match &*transcript.file_stem().unwrap().to_string_lossy() {
            "patterns" => &["--turbine-max-subscriptions", "3", "--turbine-patterns"],
            "delivery" => &["--popsub-replay-of", "short=2,never=0"],
            _ => &["--turbine-max-subscriptions", "3", "--popsub-max-subscriptions", "2"],
        };
        let (_bus, address) = served(&place, more);
        let ended = Command::new(player[0])
            .args(&player[1..])
            .arg(&address)
            .arg(&transcript)
            .arg(format!("TOKEN={}", token(&json!({}))))
            .arg(format!(
                "LISTED={}",
                token(&json!({"channels": ["chat:lobby", "notifications:user-123", "rooms/**"]}))
            ))
            .arg(format!("EXPIRED={}", token(&json!({"exp": 1}))))
            .arg("API_KEY=the key of these tests' API")
            .env("NODE_MODULES", node_modules())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{}: {said}", transcript.display());
    }
}

fn python(dialect: &str) {
    let script = root().join("crates/gateway/tests/players/play.py");
    if has_module("websockets.sync.client") {
        play(&["python3", script.to_str().unwrap()], dialect);
    }
}

fn node(dialect: &str) {
    let script = root().join("crates/gateway/tests/players/play.mjs");
    if has("node") && has_node_module("ws") {
        play(&["node", script.to_str().unwrap()], dialect);
    }
}

#[test]
fn the_websockets_of_python_speak_turbine() {
    python("turbine");
}

#[test]
fn the_ws_of_node_speaks_turbine() {
    node("turbine");
}

#[test]
fn the_websockets_of_python_speak_popsub() {
    python("popsub");
}

#[test]
fn the_ws_of_node_speaks_popsub() {
    node("popsub");
}

#[test]
fn what_is_to_be_tried_out_has_secrets_that_are_printed_and_no_others() {
    let place = Place::new();
    let mut bus = place.start(&["serve", "http://127.0.0.1:0", "--dev"]);
    let word = |line: String| line.split_whitespace().last().unwrap().to_owned();
    let key = word(bus.wait_for("x-api-key"));
    let token = word(bus.wait_for("turbine: token"));
    let password = word(bus.wait_for("popsub: user \"dev\""));
    assert_eq!(token.split('.').count(), 3);
    let mut again = place.start(&["serve", "http://127.0.0.1:0", "--dev"]);
    assert_ne!(key, word(again.wait_for("x-api-key")));
    assert_ne!(password, word(again.wait_for("popsub: user \"dev\"")));
    for address in ["http://0.0.0.0:0", "http://[::]:0"] {
        let refused = place.run(&["serve", address, "--dev", "--allow-anyone"]);
        assert_eq!(refused.code(), 2, "{refused:?}");
    }
}

#[test]
fn other_hosts_are_not_let_in_where_nobody_is_asked_who_he_is() {
    let place = Place::new();
    let refused = place.run(&["serve", "http://0.0.0.0:0"]);
    assert_eq!(refused.code(), 2, "{refused:?}");
    assert!(refused.errors.contains("--policy") && refused.errors.contains("--allow-anyone"), "{refused:?}");
}

#[test]
fn a_short_secret_is_refused_with_how_to_make_one_and_not_shown() {
    let place = Place::new();
    place.write("turbine.key", "devsecret");
    let refused = place.run(&["serve", "http://127.0.0.1:0", "--turbine-key", "turbine.key"]);
    assert_eq!(refused.code(), 2, "{refused:?}");
    assert!(refused.errors.contains("openssl rand") && !refused.errors.contains("devsecret"), "{refused:?}");
}

#[test]
fn a_keyring_that_cannot_be_read_is_refused_with_how_to_make_one() {
    let place = Place::new();
    let refused = place.run(&["serve", "http://127.0.0.1:0", "--gateway-keyring", "team.keys"]);
    assert_eq!(refused.code(), 2, "{refused:?}");
    for said in ["gateway.keyring", "team.keys", "whispeer keys new"] {
        assert!(refused.errors.contains(said), "{refused:?}");
    }
}

#[test]
fn what_the_keyring_of_the_gateway_is_for_becomes_json_and_its_secret_is_shown_nowhere() {
    let place = Place::new();
    place.run(&["keys", "new", "team.keys"]).success();
    let keyring = ["--gateway-keyring", "team.keys", "--gateway-keyring-topics", "orders/**"];
    let (_bus, address) = served(&place, &keyring);
    let mut stream = TcpStream::connect(address.strip_prefix("http://").unwrap()).unwrap();
    write!(stream, "GET /api/v1/subscribe?pattern=** HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let mut data = || loop {
        let line = lines.next().expect("the stream goes on");
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str::<Value>(data).unwrap();
        }
    };
    assert_eq!(data()["patterns"], json!(["**"]));
    for topic in ["orders/7", "other"] {
        place
            .run(&["--addr", "unix:my_bus", "pub", "--keyring", "team.keys", topic, "{\"pears\":3}"])
            .success();
    }
    assert_eq!(data()["payload"], json!({"pears": 3}));
    assert!(data()["payload"]["$sealed"].is_string());
}

#[test]
fn the_variables_of_popsub_say_where_it_listens_and_its_secret() {
    let place = Place::new();
    place.write(
        ".env",
        "SERVER_JWT_SECRET=\"the secret that these tests' PopSub signs with\"\nSERVER_PORT=0\n",
    );
    let mut bus = Running::new(
        place.command(&["serve", "unix:my_bus"]).env("SERVER_HOST", "127.0.0.1").spawn().unwrap(),
    );
    bus.wait_for("popsub has no users");
    let ready = bus.wait_for("ready on");
    assert!(ready.contains("http://127.0.0.1:"), "{ready}");
}

#[test]
fn what_is_answered_is_logged_as_a_json_object_a_line_where_that_is_asked_for() {
    let place = Place::new();
    let logged = ["serve", "http://127.0.0.1:0", "--log", "info", "--log-format", "json"];
    let (mut bus, address) = serve(&place, &logged);
    let stream = std::net::TcpStream::connect(address.strip_prefix("http://").unwrap()).unwrap();
    let request =
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-request-id: abc-1\r\nconnection: close\r\n\r\n";
    std::io::Write::write_all(&mut &stream, request.as_bytes()).unwrap();
    let line: Value = serde_json::from_str(&bus.wait_for("answered")).unwrap();
    assert_eq!((&line["message"], &line["status"]), (&json!("answered"), &json!(200)), "{line}");
    assert_eq!(
        (&line["span"]["id"], &line["span"]["route"]),
        (&json!("abc-1"), &json!("/healthz")),
        "{line}"
    );
}

/// Two pages in a browser talk to each other, and to a service in Rust.
#[test]
fn pages_chat_with_each_other_and_with_a_service() {
    let browser = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").stdin(Stdio::null()).output().is_ok());
    if !has(browser.unwrap_or("chromium")) || !has("node") || !has_node_module("playwright-core") {
        return;
    }
    let place = Place::new();
    let pages = root().join("examples/chat");
    let (_bus, address) = served(&place, &["--gateway-pages", pages.to_str().unwrap()]);
    let _service = Service::start(place.path("my_bus"));
    let shot = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chat.png");
    let ended = Command::new("node")
        .arg(root().join("bin/tests/cli/chat.mjs"))
        .args([browser.unwrap(), &address, "admin", "password"])
        .arg(&shot)
        .env("NODE_MODULES", node_modules())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(std::fs::metadata(shot).unwrap().len() > 1000);
}

/// What `examples/15_chat_service.rs` does, until it is dropped.
struct Service(tokio::runtime::Runtime);

impl Service {
    fn start(address: PathBuf) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(Client::new_unix(&address)).unwrap();
        let mut lines = runtime.block_on(client.subscribe_bytes("chat")).unwrap();
        runtime.spawn(async move {
            let mut count = 0;
            while let Some((_, payload)) = lines.recv().await {
                let line: Value = rmp_serde::from_slice(&payload).unwrap();
                if line["from"] == "service" {
                    continue;
                }
                count += 1;
                if line["text"] == "how many?" {
                    let answer = json!({"from": "service", "text": format!("{count} lines so far")});
                    client.publish_bytes("chat", rmp_serde::to_vec_named(&answer).unwrap()).await.unwrap();
                }
            }
        });
        Self(runtime)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let empty = tokio::runtime::Builder::new_current_thread().build().unwrap();
        std::mem::replace(&mut self.0, empty).shutdown_background();
    }
}
