//! What pages of browsers may ask, send and read.

use whispeer::auth::Policy;
use whispeer::client::Event;

use super::support::{Answer, Served, ask};

const APP: (&str, &str) = ("origin", "https://app.example.com");
const STRANGE: (&str, &str) = ("origin", "https://evil.example");

async fn served(rate: u32) -> Served {
    let set = |settings: &mut whispeer_gateway::Settings| {
        settings.origins = vec![APP.1.into()];
        settings.rate = rate;
    };
    Served::with(Policy::open(), set).await
}

async fn preflight(served: &Served, origin: (&str, &str), headers: &str) -> Answer {
    let asked = [
        origin,
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", headers),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "cors"),
        ("sec-fetch-dest", "empty"),
    ];
    ask(served.address(), "OPTIONS", "/api/v1/publish", &asked, b"").await
}

/// The words of a header, in small letters.
fn words(answer: &Answer, name: &str) -> Vec<String> {
    let all =
        answer.headers.iter().filter(|(other, _)| other == name).flat_map(|(_, value)| value.split(','));
    all.map(|word| word.trim().to_ascii_lowercase()).collect()
}

#[tokio::test]
async fn a_page_sends_the_headers_of_its_messages() {
    let served = served(10_000).await;
    let mut messages = served.client.subscribe_bytes("greetings/*").await.unwrap();
    let answer = preflight(&served, APP, "authorization,content-type,cookie,whispeer-header-shop").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some(APP.1));
    assert_eq!(words(&answer, "access-control-allow-methods"), ["get", "post"]);
    let expected = ["authorization", "content-type", "whispeer-header-shop"];
    assert_eq!(words(&answer, "access-control-allow-headers"), expected);
    assert_eq!(answer.header("access-control-max-age"), Some("7200"));
    assert!(words(&answer, "vary").contains(&"access-control-request-headers".to_owned()));

    let headers = [APP, ("sec-fetch-site", "cross-site"), ("whispeer-header-shop", "7")];
    let answer = served.post("/api/v1/publish?topic=greetings/hello", &headers, "1").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(APP.1)));
    let Some(Event::Message(message)) = messages.next_event().await else { panic!("it has come") };
    assert_eq!(message.headers.find("shop"), Some("7"));
}

#[tokio::test]
async fn a_page_that_is_not_listed_is_refused_before_it_asks() {
    let served = served(10_000).await;
    for answer in [
        preflight(&served, STRANGE, "content-type").await,
        served.get("/healthz", &[STRANGE]).await,
        served.get("/healthz", &[("origin", "null")]).await,
    ] {
        assert_eq!(answer.problem(), (403, "origin".into()));
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
}

#[tokio::test]
async fn a_page_reads_why_it_is_refused_and_what_it_is_to_do() {
    let served = served(1).await;
    assert_eq!(served.get("/healthz", &[APP]).await.status, 200);
    let wrong = served.get("/healthz", &[APP, ("host", "evil.example")]).await;
    assert_eq!(wrong.problem(), (421, "host".into()));
    let missing = served.get("/api/v1/history", &[APP]).await;
    assert_eq!(missing.problem(), (400, "parameters".into()));
    let often = served.get("/healthz", &[APP]).await;
    assert_eq!(often.problem().0, 429);
    assert!(often.header("retry-after").is_some());
    for answer in [wrong, missing, often] {
        assert_eq!(answer.header("access-control-allow-origin"), Some(APP.1), "{answer:?}");
        let readable = words(&answer, "access-control-expose-headers");
        assert_eq!(readable, ["x-request-id", "retry-after", "www-authenticate"]);
        assert!(answer.header("x-request-id").is_some());
    }
    // What the page would ask next it may ask, or it could not read that either.
    assert_eq!(preflight(&served, APP, "content-type").await.status, 200);
}

#[tokio::test]
async fn other_sites_embed_nothing_and_link_to_pages_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("chat.html"), "<p>chat").unwrap();
    let set = |settings: &mut whispeer_gateway::Settings| {
        settings.origins = vec![APP.1.into()];
        settings.pages = Some(folder.path().to_owned());
    };
    let served = Served::with(Policy::open(), set).await;
    let (api, page) = ("/api/v1/history?pattern=orders/**", "/chat.html");
    let cases = [
        // Links, and what is typed in.
        ("cross-site", "navigate", "document", api, 403),
        ("cross-site", "navigate", "document", "/metrics", 403),
        ("cross-site", "navigate", "document", page, 200),
        ("same-site", "navigate", "document", page, 200),
        ("none", "navigate", "document", api, 200),
        // Frames, pictures and scripts.
        ("cross-site", "navigate", "iframe", page, 403),
        ("cross-site", "no-cors", "image", api, 403),
        ("cross-site", "no-cors", "script", page, 403),
        ("same-site", "no-cors", "script", api, 403),
        // The gateway's own pages.
        ("same-origin", "no-cors", "script", page, 200),
        ("same-origin", "cors", "empty", api, 200),
    ];
    for (site, mode, dest, path, status) in cases {
        let said = [("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)];
        let answer = served.get(path, &said).await;
        assert_eq!(answer.status, status, "{site} {mode} {dest} {path}");
        if status == 403 {
            assert_eq!(answer.problem().1, "site");
        }
        // A page that is listed and says so may read all.
        assert_eq!(served.get(path, &[&said[..], &[APP]].concat()).await.status, 200);
    }
    assert!(words(&served.get(page, &[]).await, "vary").contains(&"sec-fetch-site".to_owned()));
}
