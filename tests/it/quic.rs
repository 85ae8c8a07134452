//! What is peculiar to QUIC: who is let in, what hostile datagrams do, and what a bad network does.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;
use whispeer::Address;
use whispeer::auth::Principal;
use whispeer::bus::Settings;
use whispeer::limits::HANDSHAKES;
use whispeer::prelude::*;
use whispeer::transport::{ClientTls, ServerTls};
use whispeer_testkit::certificates::Certificates;
use whispeer_testkit::datagrams::{Relay, Weather};

use crate::certified::{Ground, asking, builder, server};

/// How long a good client may take to connect, whatever others do.
const PATIENCE: Duration = Duration::from_secs(5);

fn ground(tls: impl FnOnce(&Certificates) -> ServerTls) -> Ground {
    Ground::new("quic", tls)
}

impl Ground {
    /// A trusting client by another port, such as a relay's.
    async fn connect_by(&self, port: u16) -> BusResult<Client> {
        Client::builder().tls(self.trusting()).connect(&format!("quic://127.0.0.1:{port}")).await
    }

    /// Somebody who speaks QUIC and is no client of whispeer; `change` is what he does otherwise.
    fn stranger(&self, change: impl FnOnce(&mut rustls::ClientConfig)) -> quinn::Endpoint {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.made.authority.certificate().to_vec())).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"whispeer/1".to_vec()];
        change(&mut config);
        let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let crypto = QuicClientConfig::try_from(config).unwrap();
        let mut client = quinn::ClientConfig::new(Arc::new(crypto));
        // He stays until he is sent away, however long others keep the machine busy.
        let mut transport = quinn::TransportConfig::default();
        transport.keep_alive_interval(Some(Duration::from_secs(3)));
        client.transport_config(Arc::new(transport));
        endpoint.set_default_client_config(client);
        endpoint
    }

    fn call(&self, stranger: &quinn::Endpoint) -> quinn::Connecting {
        stranger.connect((Ipv4Addr::LOCALHOST, self.port()).into(), "localhost").unwrap()
    }
}

#[tokio::test]
async fn a_certificate_without_a_name_is_told_as_the_end_of_the_connection() {
    // TLS itself has nothing against it.
    let ground = ground(asking);
    let nameless = ground.made.authority.client_with_names("", &[]);
    let refusal = ground.refusal(ground.showing(&nameless)).await;
    assert!(refusal.contains("closed the connection"), "{refusal}");
    assert_eq!(ground.bus.stats().sessions, 0);
}

#[tokio::test]
async fn a_certificate_that_is_read_again_is_shown_from_then_on() {
    let made = Certificates::new();
    let files = made.files();
    let tls = ServerTls::files(&files.server.certificate, &files.server.key);
    let ground = Ground { bus: builder("quic", tls).start().unwrap(), made };
    let renewed = ground.made.authority.server(&["localhost", "127.0.0.1", "renewed.example"]);
    std::fs::write(&files.server.certificate, renewed.pem()).unwrap();
    std::fs::write(&files.server.key, renewed.key_pem()).unwrap();
    ground.bus.reload().unwrap();
    let shown = ground.call(&ground.stranger(|_| {})).await.unwrap().peer_identity().unwrap();
    let shown = shown.downcast::<Vec<CertificateDer<'static>>>().unwrap();
    assert_eq!(shown[0].as_ref(), renewed.certificate().as_ref());
}

#[tokio::test]
async fn a_bus_on_all_addresses_is_reached_over_both_versions_of_ip() {
    let made = Certificates::new();
    let address = "quic://[::]:0".parse().unwrap();
    let bus = Bus::builder().tls(server(&made)).listen(&address).allow_anyone().start().unwrap();
    let Address::Quic(endpoint) = &bus.local_addrs()[0] else { panic!("it comes first") };
    for host in ["127.0.0.1", "[::1]", "localhost"] {
        let tls = ClientTls::new().ca_pem(made.authority.pem());
        let address = format!("quic://{host}:{}", endpoint.port());
        let client = Client::builder().tls(tls).connect(&address).await.unwrap();
        client.ping().await.unwrap();
        let Principal::Network { address } = &bus.sessions()[0].principal else {
            panic!("nothing is proven")
        };
        assert_eq!(address.is_ipv4(), host == "127.0.0.1" || address.ip().to_string() == "127.0.0.1");
        client.close().await.unwrap();
        while !bus.sessions().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn the_port_of_a_bus_that_has_stopped_is_free() {
    let ground = ground(server);
    let address = ground.bus.local_addrs()[0].clone();
    let client =
        Client::builder().tls(ground.trusting()).no_reconnect().connect(&address.to_string()).await.unwrap();
    let second = Bus::builder().tls(server(&ground.made)).listen(&address).start().map(drop).unwrap_err();
    assert!(matches!(second, BusError::AddressInUse { .. }), "{second:?}");
    ground.bus.stop().await;
    let again = Bus::builder().tls(server(&ground.made)).listen(&address).start().unwrap();
    assert_eq!(again.local_addrs()[0], address);
    let ended = client.ping().await.unwrap_err();
    assert!(matches!(ended, BusError::Closed { .. }), "the goodbye has arrived: {ended:?}");
}

#[tokio::test]
async fn a_client_that_closes_is_gone_at_once() {
    let ground = ground(server);
    let client = ground.connect(ground.trusting()).await.unwrap();
    client.publish_bytes("a/topic", "content").await.unwrap();
    client.close().await.unwrap();
    let gone = async {
        while !ground.bus.sessions().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(1), gone).await.expect("nobody waits for a sign of life");
    assert_eq!(ground.bus.stats().sessions_cut_off, 0);
}

#[tokio::test]
async fn a_client_too_many_is_told_so() {
    let made = Certificates::new();
    let settings = Settings { max_sessions: 1, ..Settings::default() };
    let bus = builder("quic", server(&made)).settings(settings).start().unwrap();
    let ground = Ground { made, bus };
    let first = ground.connect(ground.trusting()).await.unwrap();
    let second = ground.connect(ground.trusting()).await.unwrap_err();
    first.ping().await.unwrap();
    assert!(matches!(second, BusError::LimitReached { .. }), "{second:?}");
}

#[test]
fn what_a_client_has_sent_before_its_runtime_ends_has_arrived() {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let bus = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ground = ground(server);
            tell.send((ground.bus.local_addrs()[0].to_string(), ground.trusting())).unwrap();
            let listening = Client::new_memory(&ground.bus.connector()).unwrap();
            let mut subscription = listening.subscribe_bytes("last/words").await.unwrap();
            let (_, content) = timeout(PATIENCE, subscription.recv()).await.unwrap().unwrap();
            assert_eq!(content, "farewell");
            let gone = async {
                while ground.bus.sessions().iter().any(|session| session.transport == "quic") {
                    tokio::task::yield_now().await;
                }
            };
            timeout(PATIENCE, gone).await.expect("the goodbye has arrived");
        });
    });
    let (address, tls) = told.recv().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::builder().tls(tls).connect(&address).await.unwrap();
        while client.publish_bytes("last/words", "farewell").await.unwrap() == 0 {}
        client.close().await.unwrap();
    });
    drop(runtime);
    bus.join().unwrap();
}

#[tokio::test]
async fn where_nobody_listens_there_is_no_answer() {
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let patience = Duration::from_millis(100);
    let address = format!("quic://127.0.0.1:{free}");
    let tls = ClientTls::new().ca_pem(Certificates::new().authority.pem());
    let error = Client::builder().tls(tls).connect_timeout(patience).connect(&address).await.unwrap_err();
    assert!(matches!(error, BusError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn who_does_not_ask_for_whispeer_is_refused() {
    let ground = ground(server);
    for protocols in [vec![], vec![b"h3".to_vec()]] {
        let stranger = ground.stranger(|config| config.alpn_protocols = protocols);
        let refused = ground.call(&stranger).await.unwrap_err().to_string();
        assert!(refused.contains("120"), "no_application_protocol: {refused}");
    }
}

#[tokio::test]
async fn there_is_no_early_data_and_no_resumption() {
    let ground = ground(server);
    let stranger = ground.stranger(|config| config.enable_early_data = true);
    for _ in 0..2 {
        let early = ground.call(&stranger).into_0rtt();
        let connection = early.map(drop).expect_err("nothing is known of an earlier time").await.unwrap();
        // Tickets would come with the first answer.
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(b"no frame, but an end").await.unwrap();
        connection.closed().await;
    }
}

#[tokio::test]
async fn a_connection_has_one_stream() {
    let ground = ground(server);
    let connection = ground.call(&ground.stranger(|_| {})).await.unwrap();
    let _first = connection.open_bi().await.unwrap();
    assert!(timeout(Duration::from_millis(50), connection.open_bi()).await.is_err());
    assert!(timeout(Duration::from_millis(50), connection.open_uni()).await.is_err());
    assert!(connection.max_datagram_size().is_none());
}

#[tokio::test]
async fn the_wire_carries_no_plaintext() {
    let ground = ground(server);
    let relay = Relay::to(ground.port(), Weather::default()).await.unwrap();
    let client = ground.connect_by(relay.port()).await.unwrap();
    let mut subscription = client.subscribe_bytes("announcements/of/the/day").await.unwrap();
    client.publish_bytes("announcements/of/the/day", "the eagle has landed").await.unwrap();
    assert_eq!(subscription.recv().await.unwrap().1, "the eagle has landed");
    for text in ["announcements", "eagle", "WSPR"] {
        assert!(!relay.has_seen(text), "{text}");
    }
    assert!(relay.bytes_seen() > 2 * 1200, "what begins a connection is that large");
}

#[tokio::test]
async fn over_a_bad_network_all_arrives_in_order() {
    const MESSAGES: u32 = 3000;
    let ground = ground(server);
    let weather = Weather { lost: 20, overtaken: 50, delay: Duration::from_millis(1), one_way: false };
    let relay = Relay::to(ground.port(), weather).await.unwrap();
    let (there, back) = (ground.connect_by(relay.port()), ground.connect_by(relay.port()));
    let (publisher, subscriber) = tokio::join!(there, back);
    let (publisher, subscriber) = (publisher.unwrap(), subscriber.unwrap());
    let mut subscription = subscriber.subscribe_bytes("numbers").await.unwrap();
    let published = async {
        let numbers = publisher.publisher_bytes("numbers").unwrap();
        for number in 0..MESSAGES {
            // Some fill packets, some are many in one.
            let mut content = number.to_le_bytes().to_vec();
            content.resize(if number % 7 == 0 { 3000 } else { 40 }, 0);
            numbers.send(&content.into()).await.unwrap();
        }
        publisher.close().await.unwrap();
    };
    let received = async {
        let mut expected = 0;
        while expected < MESSAGES {
            let received = subscription.recv().await;
            let (_, content) = received.unwrap_or_else(|| panic!("ended: {:?}", subscription.close_reason()));
            assert_eq!(content[..4], expected.to_le_bytes());
            expected += 1;
        }
    };
    timeout(Duration::from_secs(60), async { tokio::join!(published, received) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn over_a_bad_network_requests_of_many_threads_are_answered_soon() {
    let ground = ground(server);
    let weather = Weather { lost: 50, overtaken: 50, delay: Duration::from_millis(1), one_way: false };
    let relay = Relay::to(ground.port(), weather).await.unwrap();
    let server = ground.connect(ground.trusting()).await.unwrap();
    let mut serving = server.serve_bytes("echo").await.unwrap();
    let answering = tokio::spawn(async move {
        while let Some((_, id, content)) = serving.recv().await {
            server.respond_bytes(id, content).await.unwrap();
        }
    });
    let client = ground.connect_by(relay.port()).await.unwrap();
    let mut asking = tokio::task::JoinSet::new();
    for task in 0..8_u32 {
        let client = client.clone();
        asking.spawn(async move {
            for turn in 0..50_u32 {
                let content = [task.to_le_bytes(), turn.to_le_bytes()].concat();
                // Far less than the signs of life, which would send what is left in any case.
                let answer = timeout(PATIENCE, client.request_bytes("echo", content.clone().into())).await;
                assert_eq!(answer.unwrap().unwrap(), content);
            }
        });
    }
    while let Some(asked) = asking.join_next().await {
        asked.unwrap();
    }
    answering.abort();
}

#[tokio::test]
async fn datagrams_of_garbage_do_no_harm() {
    let ground = ground(server);
    let client = ground.connect(ground.trusting()).await.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", ground.port())).unwrap();
    let mut drawn = 1_u32;
    for size in 0..1500 {
        let mut garbage = Vec::with_capacity(size);
        for _ in 0..size {
            drawn = drawn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            garbage.push(drawn.to_be_bytes()[0]);
        }
        // Every other one begins as an Initial packet of version 1 does.
        for (place, byte) in [0xc3, 0, 0, 0, 1, 8].into_iter().enumerate().take(size * (size % 2)) {
            garbage[place] = byte;
        }
        // A full socket of the other side loses some, as it should.
        let _ = socket.send(&garbage);
    }
    client.ping().await.unwrap();
    timeout(PATIENCE, ground.connect(ground.trusting())).await.unwrap().unwrap().ping().await.unwrap();
    assert_eq!(ground.bus.stats().sessions, 2);
}

#[tokio::test]
async fn a_client_is_let_in_while_a_thousand_others_begin_and_hear_nothing() {
    let ground = ground(asking);
    // What they send arrives, and no answer does: so it is with addresses that are made up.
    let weather = Weather { one_way: true, ..Weather::default() };
    let relay = Relay::to(ground.port(), weather).await.unwrap();
    let stranger = ground.stranger(|_| {});
    let silent: Vec<_> = (0..1000)
        .map(|_| stranger.connect((Ipv4Addr::LOCALHOST, relay.port()).into(), "localhost").unwrap())
        .collect();
    while relay.bytes_seen() < 1_000_000 {
        tokio::task::yield_now().await;
    }
    let connected = ground.connect(ground.showing(&ground.made.client));
    timeout(PATIENCE, connected).await.unwrap().unwrap().ping().await.unwrap();
    drop(silent);
}

#[tokio::test]
async fn a_client_is_let_in_while_others_hold_every_place_of_a_handshake() {
    let made = Certificates::new();
    // All of them shall be there still, however long their handshakes take here.
    let settings = Settings { handshake_timeout: Duration::from_secs(120), ..Settings::default() };
    let bus = builder("quic", server(&made)).settings(settings).start().unwrap();
    let ground = Ground { made, bus };
    let stranger = ground.stranger(|_| {});
    // They do all of the handshake, and open no stream.
    let mut silent = Vec::new();
    while silent.len() < HANDSHAKES {
        // On a machine that is busy with other things a handshake may take too long for the caller.
        match ground.call(&stranger).await {
            Err(quinn::ConnectionError::TimedOut) => {}
            called => silent.push(called.unwrap()),
        }
    }
    let connected = ground.connect(ground.trusting());
    timeout(PATIENCE, connected).await.unwrap().unwrap().ping().await.unwrap();
    // One that no datagram reached in time was not sent away for anybody else's sake.
    let sent_away = silent
        .iter()
        .filter_map(quinn::Connection::close_reason)
        .filter(|reason| *reason != quinn::ConnectionError::TimedOut);
    assert!(sent_away.count() <= 1, "one of them had to go at the most");
}
