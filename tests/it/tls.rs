//! What is peculiar to TLS: who is let in, who is trusted, and what the wire shows.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use whispeer::Address;
use whispeer::auth::Principal;
use whispeer::bus::BusBuilder;
use whispeer::prelude::*;
use whispeer::transport::{ClientAuth, ClientTls, ServerTls};
use whispeer_testkit::certificates::{CLIENT, Certificates, Identity};

/// A bus over TLS, and what its clients may show.
struct Ground {
    made: Certificates,
    bus: BusHandle,
}

/// The bus's side, with its certificate alone.
fn server(made: &Certificates) -> ServerTls {
    ServerTls::pem(made.server.pem(), made.server.key_pem())
}

/// The bus's side, asking for certificates.
fn asking(made: &Certificates) -> ServerTls {
    server(made).client_ca_pem(made.authority.pem()).revocations_pem(made.revocations.pem())
}

fn builder(tls: ServerTls) -> BusBuilder {
    Bus::builder().tls(tls).listen(&"tls://localhost:0".parse().unwrap())
}

impl Ground {
    fn new(tls: impl FnOnce(&Certificates) -> ServerTls) -> Self {
        let made = Certificates::new();
        let bus = builder(tls(&made)).start().unwrap();
        Self { made, bus }
    }

    fn port(&self) -> u16 {
        let Address::Tls(endpoint) = &self.bus.local_addrs()[0] else { panic!("it comes first") };
        endpoint.port()
    }

    fn address(&self) -> String {
        self.bus.local_addrs()[0].to_string()
    }

    /// A client that trusts the right CA.
    fn trusting(&self) -> ClientTls {
        ClientTls::new().ca_pem(self.made.authority.pem())
    }

    fn showing(&self, identity: &Identity) -> ClientTls {
        self.trusting().identity_pem(identity.pem(), identity.key_pem())
    }

    async fn connect(&self, tls: ClientTls) -> BusResult<Client> {
        Client::builder().tls(tls).connect(&self.address()).await
    }

    async fn refusal(&self, tls: ClientTls) -> String {
        self.connect(tls).await.expect_err("it is refused").to_string()
    }
}

#[tokio::test]
async fn a_client_that_trusts_the_bus_is_let_in_and_has_proven_nothing() {
    let ground = Ground::new(server);
    let client = ground.connect(ground.trusting()).await.unwrap();
    client.ping().await.unwrap();
    let session = &ground.bus.sessions()[0];
    assert_eq!(session.transport, "tls");
    assert!(matches!(session.principal, Principal::Network { .. }), "{:?}", session.principal);
}

#[tokio::test]
async fn a_bus_is_refused_that_is_not_who_the_address_says() {
    let ground = Ground::new(server);
    let unknown = ground.refusal(ClientTls::new().ca_pem(ground.made.stranger.pem())).await;
    assert!(unknown.contains("its CA is not trusted") && unknown.contains("--ca"), "{unknown}");
    for (identity, reason) in [
        (&ground.made.elsewhere_server, "not for the name"),
        (&ground.made.expired_server, "expired"),
        (&ground.made.strange_server, "CA is not trusted"),
        (&ground.made.client, "not made for this use"),
    ] {
        let bus = builder(ServerTls::pem(identity.pem(), identity.key_pem())).start().unwrap();
        let address = bus.local_addrs()[0].to_string();
        let error = Client::builder().tls(ground.trusting()).connect(&address).await.unwrap_err();
        assert!(matches!(error, BusError::Connect { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn a_client_is_known_by_the_name_in_its_certificate() {
    let ground = Ground::new(asking);
    let client = ground.connect(ground.showing(&ground.made.client)).await.unwrap();
    client.ping().await.unwrap();
    let name = CLIENT.to_owned();
    assert_eq!(ground.bus.sessions()[0].principal, Principal::Certificate { name });
}

#[tokio::test]
async fn who_shows_no_certificate_or_a_bad_one_is_not_let_in_and_told_why() {
    let ground = Ground::new(asking);
    let made = &ground.made;
    let none = ground.refusal(ground.trusting()).await;
    assert!(none.contains("asks for a certificate") && none.contains("--cert"), "{none}");
    for (identity, reason) in [
        (&made.expired_client, "expired"),
        (&made.future_client, "does not hold yet"),
        (&made.revoked_client, "revoked"),
        (&made.strange_client, "does not trust the CA"),
        (&made.server, "not made for this use"),
    ] {
        let refusal = ground.refusal(ground.showing(identity)).await;
        assert!(refusal.contains(reason), "{reason}: {refusal}");
    }
    assert_eq!(ground.bus.stats().sessions, 0);
}

#[tokio::test]
async fn where_certificates_are_optional_who_shows_none_has_proven_nothing_and_a_bad_one_is_refused() {
    let ground = Ground::new(|made| asking(made).client_auth(ClientAuth::Optional));
    ground.connect(ground.trusting()).await.unwrap().ping().await.unwrap();
    assert!(matches!(ground.bus.sessions()[0].principal, Principal::Network { .. }));
    ground.refusal(ground.showing(&ground.made.revoked_client)).await;
    ground.refusal(ground.showing(&ground.made.strange_client)).await;
}

#[tokio::test]
async fn other_hosts_reach_a_bus_that_asks_for_certificates_and_no_other() {
    let made = Certificates::new();
    let everywhere = |tls| Bus::builder().tls(tls).listen(&"tls://0.0.0.0:0".parse().unwrap()).start();
    everywhere(asking(&made)).map(drop).unwrap();
    for tls in [server(&made), asking(&made).client_auth(ClientAuth::Optional)] {
        let refused = everywhere(tls).map(drop).unwrap_err().to_string();
        assert!(refused.contains("client_ca_file") && refused.contains("--allow-anyone"), "{refused}");
    }
}

#[tokio::test]
async fn a_bus_does_not_start_with_files_that_cannot_be_used() {
    let made = Certificates::new();
    let refused = |tls| match builder(tls).start().map(drop) {
        Err(error @ BusError::InvalidSettings(_)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let other_key = refused(ServerTls::pem(made.server.pem(), made.client.key_pem()));
    assert!(other_key.contains("its key is not the one"), "{other_key}");
    assert!(refused(ServerTls::files("nowhere.pem", "nowhere.key")).contains("nowhere.pem"));
    assert!(refused(server(&made).client_ca_pem("")).contains("BEGIN CERTIFICATE"));
    let without = Bus::builder().listen(&"tls://localhost:0".parse().unwrap()).start().map(drop);
    assert!(without.unwrap_err().to_string().contains("--tls-cert"));
}

#[tokio::test]
async fn certificates_are_read_again_without_ending_connections() {
    let made = Certificates::new();
    let files = made.files();
    let tls = ServerTls::files(&files.server.certificate, &files.server.key)
        .client_ca_file(&files.authority)
        .revocations_file(&files.revocations);
    let ground = Ground { bus: builder(tls).start().unwrap(), made };
    let before = ground.connect(ground.showing(&ground.made.client)).await.unwrap();

    // A bad file changes nothing, and is named.
    std::fs::write(&files.revocations, "nonsense").unwrap();
    let error = ground.bus.reload().unwrap_err().to_string();
    assert!(error.contains("crl.pem") && error.contains("BEGIN X509 CRL"), "{error}");
    ground.refusal(ground.showing(&ground.made.revoked_client)).await;

    // Another client is revoked, and the bus has a new certificate.
    let list = ground.made.authority.revoke(&[&ground.made.revoked_client, &ground.made.client]);
    std::fs::write(&files.revocations, list.pem()).unwrap();
    let renewed = ground.made.authority.server(&["localhost", "127.0.0.1", "renewed.example"]);
    std::fs::write(&files.server.certificate, renewed.pem()).unwrap();
    std::fs::write(&files.server.key, renewed.key_pem()).unwrap();
    ground.bus.reload().unwrap();
    let refusal = ground.refusal(ground.showing(&ground.made.client)).await;
    assert!(refusal.contains("revoked"), "{refusal}");
    let newcomer = ground.made.authority.client("newcomer");
    ground.connect(ground.showing(&newcomer)).await.unwrap().ping().await.unwrap();
    before.ping().await.expect("who was there stays");
}

#[tokio::test]
async fn tls_1_2_is_spoken_only_where_both_sides_allow_it() {
    let made = Certificates::new();
    let old = |made: &Certificates| ClientTls::new().ca_pem(made.authority.pem()).tls12(true);
    let modern = Ground { bus: builder(server(&made)).start().unwrap(), made };
    // 1.3 is preferred where both know it.
    modern.connect(old(&modern.made)).await.unwrap().ping().await.unwrap();
    let lenient = Ground::new(|made| server(made).tls12(true));
    lenient.connect(lenient.trusting()).await.unwrap().ping().await.unwrap();
    lenient.connect(old(&lenient.made)).await.unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn who_speaks_no_tls_is_refused_in_words_on_either_side() {
    let ground = Ground::new(server);
    let plain = Client::connect(&format!("tcp://localhost:{}", ground.port())).await.unwrap_err();
    assert!(plain.to_string().contains("tls://"), "{plain}");
    let bus = listen_and_serve_tcp("localhost:0").await.unwrap();
    let address = bus.local_addrs()[0].to_string().replace("tcp://", "tls://");
    let error = Client::builder().tls(ground.trusting()).connect(&address).await.unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error}");
}

/// Passes bytes on in both directions, one connection at a time, and keeps a copy of them.
fn tapped(port: u16) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&seen);
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let bus = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let pass = |mut from: TcpStream, mut to: TcpStream| {
                let copy = Arc::clone(&copy);
                thread::spawn(move || {
                    let mut buffer = [0; 16 * 1024];
                    while let Ok(count @ 1..) = from.read(&mut buffer) {
                        copy.lock().unwrap().extend_from_slice(&buffer[..count]);
                        if to.write_all(&buffer[..count]).is_err() {
                            break;
                        }
                    }
                });
            };
            pass(client.try_clone().unwrap(), bus.try_clone().unwrap());
            pass(bus, client);
        }
    });
    (own, seen)
}

/// Whether the tapped bytes show `text`.
fn shows(seen: &Mutex<Vec<u8>>, text: &str) -> bool {
    seen.lock().unwrap().windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn the_wire_carries_no_plaintext() {
    const TOPIC: &str = "announcements/of/the/day";
    const SECRET: &str = "the eagle has landed";
    async fn talk(client: Client) {
        let mut subscription = client.subscribe_bytes(TOPIC).await.unwrap();
        client.publish_bytes(TOPIC, SECRET).await.unwrap();
        assert_eq!(subscription.recv().await.unwrap().1, SECRET);
        client.close().await.unwrap();
    }
    let ground = Ground::new(asking);
    let (port, seen) = tapped(ground.port());
    let tls = ground.showing(&ground.made.client);
    talk(
        Client::builder()
            .name("whisperer")
            .tls(tls)
            .connect(&format!("tls://localhost:{port}"))
            .await
            .unwrap(),
    )
    .await;
    for text in [TOPIC, SECRET, "whisperer", CLIENT] {
        assert!(!shows(&seen, text), "{text}");
    }
    assert!(!seen.lock().unwrap().is_empty());
    // The tap would have shown it.
    let bus = listen_and_serve_tcp("localhost:0").await.unwrap();
    let Address::Tcp(endpoint) = &bus.local_addrs()[0] else { panic!("it comes first") };
    let (port, seen) = tapped(endpoint.port());
    talk(Client::connect(&format!("tcp://localhost:{port}")).await.unwrap()).await;
    assert!(shows(&seen, SECRET) && shows(&seen, TOPIC));
}

#[tokio::test]
async fn a_client_is_let_in_while_a_thousand_others_are_silent() {
    let ground = Ground::new(asking);
    let silent: Vec<TcpStream> = (0..1000)
        .map(|turn| {
            let mut stream = TcpStream::connect(("127.0.0.1", ground.port())).unwrap();
            // Some say nothing, some what is no TLS, some the beginning of a handshake.
            let said: &[u8] = match turn % 3 {
                0 => b"",
                1 => b"\x16\x03\x01\x02",
                _ => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            };
            stream.write_all(said).unwrap();
            stream
        })
        .collect();
    let connected = ground.connect(ground.showing(&ground.made.client));
    let client = tokio::time::timeout(Duration::from_secs(5), connected).await.unwrap().unwrap();
    client.ping().await.unwrap();
    drop(silent);
}
