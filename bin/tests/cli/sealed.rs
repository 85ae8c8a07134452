//! Another program, in Python, takes part in what clients have compressed and encrypted. It knows docs/PROTOCOL.md and
//! nothing of ours.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use whispeer::client::Event;
use whispeer::engine::Engines;
use whispeer::engine::compression::Compression;
use whispeer::engine::encryption::{Algorithm, Encryption, Keyring, Padding, SigningIdentity};
use whispeer::{Client, ErrorReply};

use crate::support::{Place, Running, has_module};

/// What Python needs, the modules of docs/check_sealed.py included.
const MODULES: &str = "cryptography, lz4.block, msgpack, nacl, zstandard";
/// Ways in which Python seals: three ciphers, three ways to compress, with and without padding and signature.
const WAYS: usize = 36;
const ALGORITHMS: [(Algorithm, &str); 3] = [
    (Algorithm::XChaCha20Poly1305, "XChaCha20-Poly1305"),
    (Algorithm::ChaCha20Poly1305, "ChaCha20-Poly1305"),
    (Algorithm::Aes256Gcm, "AES-256-GCM"),
];

/// A place with a keyring and a bus, or nothing where Python lacks what it needs.
fn ground() -> Option<(Place, Running)> {
    has_module(MODULES).then(|| {
        let place = Place::new();
        place.run(&["keys", "new", "team.keys"]).success();
        let bus = place.bus("bus");
        (place, bus)
    })
}

/// The Python program, and what it says.
struct Peer {
    running: Running,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    fn start(place: &Place, what: &[&str]) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new("python3");
        command.arg(folder.join("tests/cli/sealed_peer.py")).arg(folder.join("../docs"));
        command.args([place.path("bus"), place.path("team.keys")]).args(what);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = Running::new(command.spawn().unwrap());
        let lines = running.stdout().lines();
        Self { running, lines }
    }

    /// One that has said that it is ready.
    fn ready(place: &Place, what: &[&str], word: &str) -> Self {
        let mut peer = Self::start(place, what);
        match peer.lines.next() {
            Some(line) => assert_eq!(line.unwrap(), format!("\"{word}\"")),
            None => panic!("{:?}", peer.running.end()),
        }
        peer
    }

    /// All that it says until it ends, which it has to do well.
    fn said(self) -> Vec<Value> {
        let said = self.lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        self.running.end().success();
        said
    }
}

fn keyring(place: &Place) -> Keyring {
    Keyring::read(&place.path("team.keys")).unwrap()
}

/// What all sign with; Python knows it.
fn identity() -> SigningIdentity {
    SigningIdentity::from_bytes(&[3; 32])
}

async fn client(place: &Place, engines: Engines) -> Client {
    let address = place.path("bus");
    Client::builder().engines(engines).connect(address.to_str().unwrap()).await.unwrap()
}

/// A value that compresses.
fn value() -> Value {
    json!({"text": "the eagle has landed ".repeat(30), "numbers": [1, 2.5, null]})
}

fn packed(value: &Value) -> Bytes {
    rmp_serde::to_vec(value).unwrap().into()
}

#[test]
fn python_opens_what_clients_publish_and_seals_it_to_the_same_bytes() {
    let Some((place, _bus)) = ground() else { return };
    let compressions = [
        (Compression::new(), json!("zstd")),
        (Compression::lz4(), json!("lz4")),
        (Compression::none(), json!("stored")),
    ];
    let mut expected = Vec::new();
    let count = (3 * 3 * 3 * 2 + 3).to_string();
    let peer = Peer::ready(&place, &["receive", "news/**", &count], "subscribed");
    Runtime::new().unwrap().block_on(async {
        for (algorithm, name) in ALGORITHMS {
            for (compression, compressed) in &compressions {
                for padding in [Padding::None, Padding::Padme, Padding::PowersOfTwo] {
                    for signer in [None, Some(identity())] {
                        let encryption = Encryption::new(&keyring(&place)).unwrap();
                        let mut encryption = encryption.algorithm(algorithm).padding(padding);
                        let public = signer.as_ref().map(|signer| signer.public().to_string());
                        if let Some(signer) = signer {
                            encryption = encryption.sign(signer);
                        }
                        let engines = Engines::new().with(encryption).with(compression.clone());
                        let client = client(&place, engines).await;
                        client.publish_bytes("news/today", packed(&value())).await.unwrap();
                        client.close().await.unwrap();
                        expected.push(json!({
                            "topic": "news/today", "payload": value(), "algorithm": name,
                            "compression": compressed, "padded": padding != Padding::None, "signer": public,
                        }));
                    }
                }
            }
        }
    });
    for (option, compressed) in
        [(None, Value::Null), (Some("--compress"), json!("zstd")), (Some("--compress=lz4"), json!("lz4"))]
    {
        let text = value().to_string();
        let publish = ["pub", "--addr", "bus", "--keyring", "team.keys", "news", &text];
        place.run(&publish.into_iter().chain(option).collect::<Vec<_>>()).success();
        expected.push(json!({
            "topic": "news", "payload": value(), "algorithm": "XChaCha20-Poly1305",
            "compression": compressed, "padded": false, "signer": null,
        }));
    }
    assert_eq!(peer.said(), expected);
}

#[test]
fn clients_open_what_python_publishes() {
    let Some((place, _bus)) = ground() else { return };
    let count = WAYS.to_string();
    let subscribe = ["sub", "--addr", "bus", "--keyring", "team.keys", "--json", "--count", &count, "news/*"];
    let mut subscriber = place.start(&subscribe);
    subscriber.wait_for("subscribed");
    let signers = Runtime::new().unwrap().block_on(async {
        let encryption = Encryption::new(&keyring(&place)).unwrap();
        let member = client(&place, Engines::new().with(encryption).reading(Compression::none())).await;
        let mut news = member.subscribe_bytes("news/*").await.unwrap();
        let peer = Peer::start(&place, &["publish", "news/today", &value().to_string()]);
        assert_eq!(peer.said(), [json!(WAYS)]);
        let mut signers = Vec::new();
        for _ in 0..WAYS {
            match news.next_event().await {
                Some(Event::Message(message)) => {
                    assert_eq!(message.value, packed(&value()));
                    signers.push(message.signer);
                }
                other => panic!("{other:?}"),
            }
        }
        signers
    });
    let signer = identity().public().to_bytes();
    assert_eq!(signers, [None, Some(signer)].repeat(WAYS / 2));
    let read = subscriber.end().success();
    assert_eq!(read.lines().count(), WAYS);
    for line in read.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["topic"], &line["payload"]), (&json!("news/today"), &value()));
    }
}

#[test]
fn python_answers_what_clients_ask() {
    let Some((place, _bus)) = ground() else { return };
    let _peer = Peer::ready(&place, &["serve", "questions/one", "100"], "serving");
    let ask = |value: &str| {
        let member = ["--addr", "bus", "--keyring", "team.keys", "--compress"];
        place.run(&[&["req"][..], &member, &["questions/one", value]].concat())
    };
    Runtime::new().unwrap().block_on(async {
        for (algorithm, _) in ALGORITHMS {
            let encryption = Encryption::new(&keyring(&place)).unwrap().algorithm(algorithm);
            let encryption = encryption.padding(Padding::Padme).sign(identity());
            let asker = client(&place, Engines::new().with(encryption).with(Compression::new())).await;
            for _ in 0..WAYS / 3 {
                let answer = asker.request_bytes("questions/one", packed(&value())).await.unwrap();
                assert_eq!(answer, packed(&value()));
            }
            let mut answers =
                asker.request_stream_bytes("questions/one", packed(&json!("count"))).await.unwrap();
            for number in 0..3 {
                assert_eq!(answers.recv().await.unwrap().unwrap(), packed(&json!(number)));
            }
            assert!(answers.recv().await.is_none());
        }
    });
    let answer: Value = serde_json::from_str(&ask(&value().to_string()).success()).unwrap();
    assert_eq!(answer, value());
    let failed = ask("\"fail\"");
    assert!(failed.code() != 0 && failed.errors.contains("no more (tired)"), "{failed:?}");
}

#[test]
fn clients_answer_what_python_asks() {
    let Some((place, _bus)) = ground() else { return };
    let mut server = place.start(&[
        "reply",
        "--addr",
        "bus",
        "--keyring",
        "team.keys",
        "--compress",
        "echo",
        "--exec",
        "cat",
    ]);
    server.wait_for("serving");
    let answers = Peer::start(&place, &["ask", "echo", &value().to_string()]).said();
    assert_eq!(answers.len(), WAYS);
    for answer in answers {
        assert_eq!((&answer["payload"], &answer["compression"]), (&value(), &json!("zstd")));
    }
    // Its threads go on while Python is waited for.
    let runtime = Runtime::new().unwrap();
    for (algorithm, name) in ALGORITHMS {
        let encryption = Encryption::new(&keyring(&place)).unwrap().algorithm(algorithm);
        let encryption = encryption.padding(Padding::PowersOfTwo).sign(identity());
        let engines = Engines::new().with(encryption).with(Compression::lz4().threshold(0));
        let server = runtime.block_on(client(&place, engines));
        let failing = |_| async { Err(ErrorReply::new("tired", "no more")) };
        let _handling = runtime.block_on(server.handle_bytes("fails", failing)).unwrap();
        let said = Peer::start(&place, &["fail", "fails", "1"]).said();
        assert_eq!(said, [json!({"code": "REPLIED", "text": "tired\0no more"})]);

        let mut serving = runtime.block_on(server.serve_bytes("counts")).unwrap();
        let counting = runtime.spawn(async move {
            let (_, id, asked) = serving.recv().await.unwrap();
            let mut answers = server.respond_stream_bytes(id).unwrap();
            for _ in 0..3 {
                answers.send(&asked).await.unwrap();
            }
            answers.finish().unwrap();
            server
        });
        let answer = json!({
            "payload": value(), "algorithm": name, "compression": "lz4", "padded": true,
            "signer": identity().public().to_string(),
        });
        let said = Peer::start(&place, &["stream", "counts", &value().to_string()]).said();
        assert_eq!(said, [answer.clone(), answer.clone(), answer]);
        let server = runtime.block_on(counting).unwrap();
        runtime.block_on(server.close()).unwrap();
    }
}
