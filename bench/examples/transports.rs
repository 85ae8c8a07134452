//! What each transport costs beside a raw relay on the same kind of socket, in one run.
//!
//! The relay passes on what it reads and looks at nothing. Its clients and whispeer's do the same work: a
//! request of 16 bytes and its answer, one at a time; and messages of 1 KiB from one to another, written 64 KiB
//! at a time. All are threads of one process, over the loopback. Rounds of all take turns; the medians are shown.
//!
//! ```sh
//! cd bench && cargo run --release --example transports -- 5
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that fails has nothing to say"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};
use tokio::runtime::{Builder, Runtime};
use tungstenite::protocol::WebSocket;
use tungstenite::{Message, accept, client};
use whispeer::transport::{ClientTls, ServerTls};
use whispeer::{Bus, Client};

/// Requests that are measured in a round, behind a tenth as many that are not.
const REQUESTS: usize = 20_000;
/// How long messages are sent in a round.
const SENDING: Duration = Duration::from_millis(1500);
const SIZE: usize = 1024;
const CHUNK: usize = 64 * 1024;

/// A connection that blocks.
trait Pipe: Send {
    /// Fills some of the buffer; 0 is the end.
    fn read_some(&mut self, buffer: &mut [u8]) -> usize;
    fn write(&mut self, bytes: &[u8]);

    fn read_exactly(&mut self, mut buffer: &mut [u8]) {
        while !buffer.is_empty() {
            let count = self.read_some(buffer);
            assert!(count > 0);
            buffer = &mut buffer[count..];
        }
    }
}

struct Bytes<S>(S);

impl<S: Read + Write + Send> Pipe for Bytes<S> {
    fn read_some(&mut self, buffer: &mut [u8]) -> usize {
        self.0.read(buffer).unwrap_or(0)
    }

    fn write(&mut self, bytes: &[u8]) {
        // Whoever reads may be done.
        let _ = self.0.write_all(bytes).and_then(|()| self.0.flush());
    }
}

struct Messages<S> {
    socket: WebSocket<S>,
    left: tungstenite::Bytes,
}

impl<S: Read + Write + Send> Pipe for Messages<S> {
    fn read_some(&mut self, buffer: &mut [u8]) -> usize {
        if self.left.is_empty() {
            match self.socket.read() {
                Ok(message) => self.left = message.into_data(),
                Err(_) => return 0,
            }
        }
        let count = buffer.len().min(self.left.len());
        buffer[..count].copy_from_slice(&self.left.split_to(count));
        count
    }

    fn write(&mut self, bytes: &[u8]) {
        let _ = self.socket.send(Message::binary(bytes.to_vec()));
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Tcp,
    Tls,
    WebSocket,
}

/// The certificate of this host.
struct Certificate {
    pem: String,
    key_pem: String,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Certificate {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (pem, key_pem) = (made.cert.pem(), made.signing_key.serialize_pem());
        Self {
            pem,
            key_pem,
            server: Arc::new(server),
            client: Arc::new(client),
        }
    }

    fn accepted(&self, kind: Kind, stream: TcpStream) -> Box<dyn Pipe> {
        stream.set_nodelay(true).unwrap();
        match kind {
            Kind::Tcp => Box::new(Bytes(stream)),
            Kind::Tls => {
                let connection = ServerConnection::new(Arc::clone(&self.server)).unwrap();
                Box::new(Bytes(StreamOwned::new(connection, stream)))
            }
            Kind::WebSocket => Box::new(Messages {
                socket: accept(stream).unwrap(),
                left: tungstenite::Bytes::new(),
            }),
        }
    }

    fn connected(&self, kind: Kind, port: u16) -> Box<dyn Pipe> {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        match kind {
            Kind::Tcp => Box::new(Bytes(stream)),
            Kind::Tls => {
                let name = ServerName::try_from("localhost").unwrap();
                let connection = ClientConnection::new(Arc::clone(&self.client), name).unwrap();
                Box::new(Bytes(StreamOwned::new(connection, stream)))
            }
            Kind::WebSocket => {
                let (socket, _) = client(format!("ws://localhost:{port}/"), stream).unwrap();
                Box::new(Messages {
                    socket,
                    left: tungstenite::Bytes::new(),
                })
            }
        }
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The median of round trips through the relay, in microseconds.
fn relay_request(kind: Kind, certificate: &Arc<Certificate>) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let own = Arc::clone(certificate);
    let relay = thread::spawn(move || {
        let mut one = own.accepted(kind, listener.accept().unwrap().0);
        let mut other = own.accepted(kind, listener.accept().unwrap().0);
        let mut buffer = vec![0; CHUNK];
        loop {
            for turn in 0..2 {
                let (from, to) = if turn == 0 {
                    (&mut one, &mut other)
                } else {
                    (&mut other, &mut one)
                };
                let count = from.read_some(&mut buffer);
                if count == 0 {
                    return;
                }
                to.write(&buffer[..count]);
            }
        }
    });
    let own = Arc::clone(certificate);
    let mut requester = own.connected(kind, port);
    let server = thread::spawn(move || {
        let mut server = own.connected(kind, port);
        let mut buffer = [0; 16];
        for _ in 0..REQUESTS + REQUESTS / 10 {
            server.read_exactly(&mut buffer);
            server.write(&buffer);
        }
    });
    let mut times = Vec::with_capacity(REQUESTS);
    let mut buffer = [7; 16];
    for turn in 0..REQUESTS + REQUESTS / 10 {
        let start = Instant::now();
        requester.write(&buffer);
        requester.read_exactly(&mut buffer);
        if turn >= REQUESTS / 10 {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    server.join().unwrap();
    drop(requester);
    relay.join().unwrap();
    median(times)
}

/// Messages of 1 KiB a second through the relay.
fn relay_one_to_one(kind: Kind, certificate: &Arc<Certificate>) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let own = Arc::clone(certificate);
    let relay = thread::spawn(move || {
        let mut publisher = own.accepted(kind, listener.accept().unwrap().0);
        let mut subscriber = own.accepted(kind, listener.accept().unwrap().0);
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = publisher.read_some(&mut buffer);
            if count == 0 {
                return;
            }
            subscriber.write(&buffer[..count]);
        }
    });
    let own = Arc::clone(certificate);
    let mut publisher = own.connected(kind, port);
    let (first, begun) = std::sync::mpsc::channel();
    let receiving = thread::spawn(move || {
        // TLS begins with what is written first.
        let mut subscriber = own.connected(kind, port);
        first.send(()).unwrap();
        let (mut buffer, mut bytes, mut start, mut end) = (vec![0; CHUNK], 0, None, Instant::now());
        loop {
            let count = subscriber.read_some(&mut buffer);
            if count == 0 {
                break;
            }
            end = Instant::now();
            start.get_or_insert(end);
            bytes += count;
        }
        (bytes / SIZE) as f64 / end.duration_since(start.unwrap()).as_secs_f64()
    });
    begun.recv().unwrap();
    let (start, chunk) = (Instant::now(), vec![7; CHUNK]);
    while start.elapsed() < SENDING {
        publisher.write(&chunk);
    }
    drop(publisher);
    relay.join().unwrap();
    receiving.join().unwrap()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn whispeer_client(address: &str, certificate: &Certificate) -> Client {
    Client::builder()
        .tls(ClientTls::new().ca_pem(certificate.pem.as_str()))
        .connect(address)
        .await
        .unwrap()
}

fn whispeer_request(address: &str, certificate: &Arc<Certificate>) -> f64 {
    let (ready, serving) = std::sync::mpsc::channel();
    let (own, at) = (Arc::clone(certificate), address.to_owned());
    let server = thread::spawn(move || {
        runtime().block_on(async {
            let client = whispeer_client(&at, &own).await;
            let mut requests = client.serve_bytes("echo").await.unwrap();
            ready.send(()).unwrap();
            for _ in 0..REQUESTS + REQUESTS / 10 {
                let (_, id, payload) = requests.recv().await.unwrap();
                client.respond_bytes(id, payload).await.unwrap();
            }
            client.close().await.unwrap();
        });
    });
    serving.recv().unwrap();
    let p50 = runtime().block_on(async {
        let client = whispeer_client(address, certificate).await;
        let mut times = Vec::with_capacity(REQUESTS);
        for turn in 0..REQUESTS + REQUESTS / 10 {
            let start = Instant::now();
            client
                .request_bytes("echo", [7; 16].to_vec().into())
                .await
                .unwrap();
            if turn >= REQUESTS / 10 {
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
        }
        client.close().await.unwrap();
        median(times)
    });
    server.join().unwrap();
    p50
}

fn whispeer_one_to_one(address: &str, certificate: &Arc<Certificate>) -> f64 {
    let (ready, subscribed) = std::sync::mpsc::channel();
    let (own, at) = (Arc::clone(certificate), address.to_owned());
    let receiving = thread::spawn(move || {
        runtime().block_on(async {
            let client = whispeer_client(&at, &own).await;
            let mut subscription = client.subscribe_bytes("bulk").await.unwrap();
            ready.send(()).unwrap();
            let (mut count, mut start, mut end) = (0_u64, None, Instant::now());
            loop {
                let (_, payload) = subscription.recv().await.unwrap();
                if payload.is_empty() {
                    break;
                }
                end = Instant::now();
                start.get_or_insert(end);
                count += 1;
            }
            assert_eq!(subscription.gaps(), 0);
            client.close().await.unwrap();
            count as f64 / end.duration_since(start.unwrap()).as_secs_f64()
        })
    });
    subscribed.recv().unwrap();
    runtime().block_on(async {
        let client = whispeer_client(address, certificate).await;
        let (publisher, payload) = (
            client.publisher_bytes("bulk").unwrap(),
            vec![7; SIZE].into(),
        );
        let start = Instant::now();
        while start.elapsed() < SENDING {
            for _ in 0..64 {
                publisher.send(&payload).await.unwrap();
            }
        }
        publisher.send(&Vec::new().into()).await.unwrap();
        publisher.flush().await.unwrap();
        client.close().await.unwrap();
    });
    receiving.join().unwrap()
}

fn main() {
    let rounds: usize = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(3);
    let certificate = Arc::new(Certificate::new());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let home = Builder::new_current_thread().enable_all().build().unwrap();
    let bus = {
        let _entered = home.enter();
        let mut builder = Bus::builder().workers(cores).tls(ServerTls::pem(
            certificate.pem.as_str(),
            certificate.key_pem.as_str(),
        ));
        for scheme in ["tcp", "tls", "ws", "wss", "quic"] {
            builder = builder.listen(&format!("{scheme}://localhost:0").parse().unwrap());
        }
        builder.start().unwrap()
    };
    let addresses: Vec<String> = bus.local_addrs().iter().map(ToString::to_string).collect();
    // The supervisor accepts on it.
    thread::spawn(move || home.block_on(std::future::pending::<()>()));
    let at = |scheme: &str| {
        addresses
            .iter()
            .find(|address| address.starts_with(scheme))
            .unwrap()
            .as_str()
    };

    let rows = [
        ("TCP", "tcp://", Some(Kind::Tcp)),
        ("TLS", "tls://", Some(Kind::Tls)),
        ("WebSocket", "ws://", Some(Kind::WebSocket)),
        ("WebSocket over TLS", "wss://", None),
        ("QUIC", "quic://", None),
    ];
    let mut found = vec![[const { Vec::new() }; 4]; rows.len()];
    for _ in 0..rounds {
        for ((_, scheme, relay), found) in rows.iter().zip(&mut found) {
            found[0].push(whispeer_request(at(scheme), &certificate));
            found[2].push(whispeer_one_to_one(at(scheme), &certificate));
            if let Some(kind) = relay {
                found[1].push(relay_request(*kind, &certificate));
                found[3].push(relay_one_to_one(*kind, &certificate));
            }
        }
    }
    println!("| transport | request p50 | raw relay | ratio | 1→1, 1 KiB | raw relay | ratio |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for ((name, _, relay), found) in rows.iter().zip(found) {
        let [request, relay_request, messages, relay_messages] = found;
        let ratios = |ours: &[f64], theirs: &[f64]| {
            median(
                ours.iter()
                    .zip(theirs)
                    .map(|(ours, theirs)| ours / theirs)
                    .collect(),
            )
        };
        let (micros, per_second) = (
            |us: f64| format!("{us:.1} µs"),
            |rate: f64| format!("{:.0} k/s", rate / 1e3),
        );
        let beside = |ours: &[f64], theirs: &[f64], shown: &dyn Fn(f64) -> String| match relay {
            Some(_) => [
                shown(median(theirs.to_vec())),
                format!("{:.2} ×", ratios(ours, theirs)),
            ],
            None => [String::new(), String::new()],
        };
        let [relay_p50, ratio] = beside(&request, &relay_request, &micros);
        let [relay_rate, share] = beside(&messages, &relay_messages, &per_second);
        println!(
            "| {name} | {} | {relay_p50} | {ratio} | {} | {relay_rate} | {share} |",
            micros(median(request)),
            per_second(median(messages))
        );
    }
}
