//! A program in Python that has nothing but NATS's client takes part, as docs/PROTOCOL.md says.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use whispeer::client::{Event, PublishOptions, RequestOptions};
use whispeer_testkit::nats::{self, NatsServer};
use whispeer_testkit::tools;

use crate::joined::{Joined, PATIENCE, PREFIX, soon};

/// The program, which ends with this.
struct Peer {
    _program: Child,
    orders: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    async fn start(url: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/nats_peer.py");
        let mut program = Command::new("python3")
            .args([script, url, PREFIX])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (orders, said) = (program.stdin.take().unwrap(), program.stdout.take().unwrap());
        let mut peer = Self { _program: program, orders, lines: BufReader::new(said).lines() };
        assert_eq!(peer.says().await, "ready");
        peer
    }

    async fn says(&mut self) -> String {
        soon("a line of the program", self.lines.next_line()).await.unwrap().expect("the program runs")
    }

    async fn tell(&mut self, order: &str) {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn a_program_in_python_sees_and_sends_messages_asks_and_answers() {
    if !nats::available() || !tools::has_module("nats") {
        return;
    }
    let server = NatsServer::start().await;
    let nats = async_nats::connect(server.url()).await.unwrap();
    let bus = Joined::new(&server.url()).await;
    let mut news = bus.client.subscribe_bytes("news/*").await.unwrap();
    let twice = |payload: bytes::Bytes| async move { Ok([&payload[..], &payload[..]].concat().into()) };
    let _serving = bus.client.handle_bytes("twice", twice).await.unwrap();
    bus.wants(1, &nats).await;
    let mut peer = Peer::start(&server.url()).await;

    let options = PublishOptions::default().header("kind", "whispeer");
    bus.client.publish_bytes_with("news/here", "of a bus", options).await.unwrap();
    assert_eq!(peer.says().await, format!("message {PREFIX}.t.news.here whispeer of a bus"));

    peer.tell(&format!("publish {PREFIX}.t.news.there of Python")).await;
    assert_eq!(
        peer.says().await,
        format!("message {PREFIX}.t.news.there python of Python"),
        "it hears itself"
    );
    let mut came = Vec::new();
    while came.len() < 2 {
        match soon("a message", news.next_event()).await.unwrap() {
            Event::Message(message) => {
                let text = String::from_utf8(message.value.to_vec()).unwrap();
                came.push((message.topic.to_string(), message.headers.find("kind").map(str::to_owned), text));
            }
            other => panic!("{other:?}"),
        }
    }
    let expected = [("news/here", "whispeer", "of a bus"), ("news/there", "python", "of Python")];
    assert_eq!(came, expected.map(|(topic, kind, text)| (topic.into(), Some(kind.into()), text.into())));

    peer.tell(&format!("ask {PREFIX}.r.twice 21")).await;
    assert_eq!(peer.says().await, "answer 2121");
    let options = RequestOptions::default().timeout(PATIENCE);
    let answer = bus.client.request_bytes_with("price", "apples".into(), options).await.unwrap();
    assert_eq!(answer, "42 for apples");
}
