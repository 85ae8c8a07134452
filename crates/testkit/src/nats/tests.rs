use super::probe::Probe;
use super::{NatsServer, available, versions};

const SETTINGS: &str =
    r#"{"name":"kept","subjects":["kept"],"storage":"file","retention":"limits","discard":"old"}"#;

#[tokio::test]
async fn a_server_greets_and_two_of_them_have_different_addresses() {
    if !available() {
        return;
    }
    for version in versions() {
        let (one, other) = (version.clone().start().await, version.clone().start().await);
        assert_ne!(one.url(), other.url());
        Probe::connect(one.address()).unwrap();
        Probe::connect(other.address()).unwrap();
        assert!(one.log().contains(&version.version()), "{}", one.log());
    }
}

#[tokio::test]
async fn a_server_that_is_killed_refuses_and_comes_back_with_its_address_and_its_store() {
    if !available() {
        return;
    }
    for version in versions() {
        let server = version.jetstream().start().await;
        let mut probe = Probe::connect(server.address()).unwrap();
        probe.agreed("$JS.API.STREAM.CREATE.kept", SETTINGS).unwrap();
        let stored = probe.agreed("kept", "a message").unwrap();
        assert!(stored.contains("\"seq\":"), "{stored}");

        server.kill();
        assert!(Probe::greeted(server.address()).is_err());

        server.restart().await;
        let mut probe = Probe::connect(server.address()).unwrap();
        let info = probe.agreed("$JS.API.STREAM.INFO.kept", "").unwrap();
        assert!(info.contains("\"messages\":") && !info.contains("\"messages\":0"), "{info}");
    }
}

#[tokio::test]
async fn the_lines_of_a_test_get_into_the_configuration() {
    if !available() {
        return;
    }
    for version in versions() {
        let server = version.config("authorization { user: alice, password: secret }").start().await;
        let refused = Probe::connect(server.address()).unwrap_err();
        assert!(refused.to_string().contains("Authorization Violation"), "{refused}");
        assert_eq!(
            server.url_with("tls", "alice:secret@"),
            format!("tls://alice:secret@{}", server.address())
        );
    }
}

#[test]
fn a_server_that_does_not_start_says_why() {
    if !available() {
        return;
    }
    for version in versions() {
        let why = NatsServer::try_launch(version.config("nonsense {"), None).unwrap_err();
        assert!(why.contains("Parse error"), "{why}");
    }
}

#[tokio::test]
async fn a_server_that_stands_still_answers_when_it_goes_on() {
    if !available() {
        return;
    }
    let server = NatsServer::start().await;
    server.pause();
    let address = server.address();
    let asked = tokio::task::spawn_blocking(move || Probe::connect(address).is_ok());
    server.resume();
    assert!(asked.await.unwrap());
    server.lame_duck();
    server.says("Entering lame duck mode").await;
    server.stop();
    assert!(Probe::greeted(address).is_err());
}

#[tokio::test]
async fn the_nodes_of_a_cluster_are_one_and_stay_so_when_one_is_killed_and_comes_back() {
    if !available() {
        return;
    }
    for version in versions() {
        let cluster = version.start_cluster(3).await;
        assert_eq!(cluster.urls().len(), 3);
        let replicated = SETTINGS.replace("\"kept\",\"sub", "\"kept\",\"num_replicas\":3,\"sub");
        let mut probe = Probe::connect(cluster[0].address()).unwrap();
        probe.agreed("$JS.API.STREAM.CREATE.kept", &replicated).unwrap();
        let stored = probe.agreed("kept", "a message").unwrap();
        assert!(stored.contains("\"seq\":"), "{stored}");

        cluster[1].kill();
        cluster.restart(1).await;
        cluster.settled().await;
        let mut probe = Probe::connect(cluster[1].address()).unwrap();
        let info = probe.agreed("$JS.API.STREAM.INFO.kept", "").unwrap();
        assert!(info.contains("\"messages\":") && !info.contains("\"messages\":0"), "{info}");
    }
}
