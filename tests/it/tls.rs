//! What is peculiar to TLS: its versions, who speaks none, and what the wire shows.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use whispeer::Address;
use whispeer::prelude::*;
use whispeer::transport::{ClientTls, ServerTls};
use whispeer_testkit::certificates::{CLIENT, Certificates};

use crate::certified::{Ground, asking, builder, server};

fn ground(tls: impl FnOnce(&Certificates) -> ServerTls) -> Ground {
    Ground::new("tls", tls)
}

#[tokio::test]
async fn tls_1_2_is_spoken_only_where_both_sides_allow_it() {
    let old = |made: &Certificates| ClientTls::new().ca_pem(made.authority.pem()).tls12(true);
    let modern = ground(server);
    // 1.3 is preferred where both know it.
    modern.connect(old(&modern.made)).await.unwrap().ping().await.unwrap();
    let lenient = ground(|made| server(made).tls12(true));
    lenient.connect(lenient.trusting()).await.unwrap().ping().await.unwrap();
    lenient.connect(old(&lenient.made)).await.unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn who_speaks_no_tls_is_refused_in_words_on_either_side() {
    let ground = ground(server);
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
    let made = Certificates::new();
    let tls = || {
        let (pem, key) = (made.client.pem(), made.client.key_pem());
        ClientTls::new().ca_pem(made.authority.pem()).identity_pem(pem, key)
    };
    let bus =
        builder("tls", asking(&made)).listen(&"wss://localhost:0/bus".parse().unwrap()).start().unwrap();
    for address in bus.local_addrs() {
        let (scheme, port, path) = match address {
            Address::Tls(endpoint) => ("tls", endpoint.port(), ""),
            Address::WebSocket(address) => ("wss", address.endpoint().port(), "/bus"),
            _ => continue,
        };
        let (port, seen) = tapped(port);
        let client = Client::builder().name("whisperer").tls(tls());
        talk(client.connect(&format!("{scheme}://localhost:{port}{path}")).await.unwrap()).await;
        for text in [TOPIC, SECRET, "whisperer", CLIENT] {
            assert!(!shows(&seen, text), "{scheme}: {text}");
        }
        assert!(seen.lock().unwrap().len() > 1_000, "{scheme} went by the tap");
    }
    // The tap would have shown it.
    let bus = listen_and_serve_tcp("localhost:0").await.unwrap();
    let Address::Tcp(endpoint) = &bus.local_addrs()[0] else { panic!("it comes first") };
    let (port, seen) = tapped(endpoint.port());
    talk(Client::connect(&format!("tcp://localhost:{port}")).await.unwrap()).await;
    assert!(shows(&seen, SECRET) && shows(&seen, TOPIC));
}

#[tokio::test]
async fn a_client_is_let_in_while_a_thousand_others_are_silent() {
    let ground = ground(asking);
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
