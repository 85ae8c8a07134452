//! Files of a folder.

use whispeer::bus::Bus;
use whispeer_gateway::{Gateway, Settings};

use crate::http::{Answer, ask};

async fn get(path: &str) -> Answer {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("index.html", "<p>hello"),
        ("chat.html", "<p>chat"),
        (".env", "secret"),
        ("a b.html", "<p>a and b"),
        ("grün.html", "<p>green"),
        ("100%.html", "<p>all"),
    ];
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let bus = Bus::builder().start().unwrap();
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap());
    settings.pages = Some(folder.path().to_owned());
    let gateway = Gateway::start(&bus, settings).await.unwrap();
    ask(gateway.local_addr(), "GET", path, &[], b"").await
}

#[tokio::test]
async fn they_are_served_with_their_types() {
    let answer = get("/chat.html").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "<p>chat"));
    assert!(answer.head.contains("content-type: text/html"), "{answer:?}");
    assert_eq!(get("/").await.body, "<p>hello");
}

#[tokio::test]
async fn their_names_may_have_any_characters() {
    for (path, body) in [
        ("/a%20b.html", "<p>a and b"),
        ("/gr%C3%BCn.html", "<p>green"),
        ("/100%25.html", "<p>all"),
        ("/%63hat.html", "<p>chat"),
    ] {
        let answer = get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{path}");
    }
}

#[tokio::test]
async fn nothing_else_is() {
    for path in [
        "/.env",
        "/%2eenv",
        "/../Cargo.toml",
        "/..%2fCargo.toml",
        "/%2e%2e%2fCargo.toml",
        "/%2E%2E/Cargo.toml",
        "/x%2F..%2Fchat.html",
        "/%2Fetc%2Fhostname",
        "/..%5cCargo.toml",
        "/chat.html%00",
        "/%ff.html",
        "/none.html",
    ] {
        let answer = get(path).await;
        assert_eq!((answer.status, &answer.json()["status"]), (404, &404.into()), "{path}");
    }
}

#[tokio::test]
async fn what_the_gateway_answers_itself_goes_before_them() {
    assert_eq!(get("/healthz").await.body, "ok");
}
