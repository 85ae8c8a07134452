//! Strangers on every listener: a good client gets in all the while, and what they cost is given back.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use whispeer::client::Client;
use whispeer::transport::ClientTls;

use crate::support::{LIMIT, Place, Running, with_certificates};

/// How long a good client may take to connect, whatever others do.
const SOON: Duration = Duration::from_secs(1);

/// How often a good client may try, as others may keep the machine busy.
const ATTEMPTS: usize = 3;

/// Times that a drop falls on a bus while strangers are there.
const DROPS: usize = 4;

/// Connections of strangers at each address who say something. Those of four transports are fewer together than the
/// handshakes that a bus has under way at a time.
const STRANGERS: usize = 200;

/// Those who say nothing.
const SILENT: usize = 1000;

/// What strangers say over streams: nothing, garbage, HTTP, and the beginnings of handshakes.
const SAYINGS: [&[u8]; 7] = [
    b"",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /bus HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x32\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00",
    b"\x16\x03\x03\x40\x01",
];

/// What they say in datagrams, each filled up with zeros to its length: packets of versions that nobody speaks, of version
/// 1 that nobody can decrypt, of connections that there are not, and none at all.
const DATAGRAMS: [(&[u8], usize); 6] = [
    (b"", 0),
    (b"\xff\xff\xff\xff", 60),
    (b"\xc0\xba\xba\xba\xba\x08\x01\x02\x03\x04\x05\x06\x07\x08\x00", 1200),
    (b"\xc3\x00\x00\x00\x01\x08\x01\x02\x03\x04\x05\x06\x07\x08\x00\x00\x44\x9e", 1200),
    (b"\xc3\x00\x00\x00\x01\x08\x01\x02\x03", 40),
    (b"\x40\x01\x02\x03\x04\x05\x06\x07\x08", 100),
];

/// KiB by which the memory of a bus may differ from one round of strangers to another, by where free memory happens to lie.
/// Each round has thousands of strangers, so a few KiB of each that were kept would be more.
const GROWTH: usize = 12 * 1024;

/// A bus with a listener of each kind.
struct Target {
    bus: Running,
    addresses: Vec<String>,
    socket: PathBuf,
    ca: PathBuf,
    runtime: Runtime,
}

impl Target {
    fn start(place: &Place, handshake_timeout: &str) -> Self {
        let mut arguments = vec!["serve", "bus"];
        arguments.extend(["tcp://localhost:0", "tls://localhost:0", "ws://localhost:0/bus"]);
        arguments.extend(["wss://localhost:0/bus", "quic://localhost:0"]);
        arguments.extend(["--tls-cert", "certs/server.pem", "--tls-key", "certs/server.key"]);
        arguments.extend(["--handshake-timeout", handshake_timeout]);
        let mut bus = place.start(&arguments);
        let line = bus.wait_for("ready on");
        let (socket, ca) = (place.path("bus"), place.path("certs/ca.pem"));
        let addresses = line.split_once("ready on ").unwrap().1.split(", ");
        let addresses = addresses.map(|address| match address {
            "unix:bus" => format!("unix:{}", socket.display()),
            address => address.to_owned(),
        });
        let addresses: Vec<_> = addresses.collect();
        assert_eq!(addresses.len(), 6);
        Self { bus, addresses, socket, ca, runtime: Runtime::new().unwrap() }
    }

    /// Somebody who has connected, if that is what one does there.
    fn stranger(&self, address: &str) -> Box<dyn Write> {
        if address.starts_with("unix:") {
            return Box::new(UnixStream::connect(&self.socket).unwrap());
        }
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port(address)));
        if address.starts_with("quic:") {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.connect(to).unwrap();
            return Box::new(Datagrams(socket));
        }
        Box::new(TcpStream::connect(to).unwrap())
    }

    /// Those at one address, each of whom has said what strangers say in turn. The bus may have had enough of one already.
    fn strangers(&self, address: &str) -> Vec<Box<dyn Write>> {
        (0..STRANGERS)
            .map(|turn| {
                let mut stranger = self.stranger(address);
                let _ = match address.starts_with("quic:") {
                    false => stranger.write(SAYINGS[turn % SAYINGS.len()]),
                    true => {
                        let (beginning, length) = DATAGRAMS[turn % DATAGRAMS.len()];
                        let mut datagram = beginning.to_vec();
                        datagram.resize(length, 0);
                        stranger.write(&datagram)
                    }
                };
                stranger
            })
            .collect()
    }

    /// Those who have begun a handshake in earnest, and hear no more of it.
    fn halfway(&self, openings: &Openings) -> Vec<Box<dyn Write>> {
        let mut halfway = Vec::new();
        for address in &self.addresses {
            let said = match address.split(':').next() {
                Some("tls" | "wss") => &openings.streams,
                Some("quic") => &openings.datagrams,
                _ => continue,
            };
            for opening in said {
                let mut stranger = self.stranger(address);
                let _ = stranger.write(opening);
                halfway.push(stranger);
            }
        }
        halfway
    }

    /// Those whose TLS is done, and who ask for no WebSocket, or not for all of it.
    fn half_over_tls(&self) -> Vec<Box<dyn Write>> {
        let address = self.addresses.iter().find(|address| address.starts_with("wss:")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = Arc::new(builder.unwrap().with_root_certificates(roots).with_no_client_auth());
        SAYINGS
            .iter()
            .map(|saying| {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port(address))).unwrap();
                let name = ServerName::try_from("localhost").unwrap();
                let tls = ClientConnection::new(Arc::clone(&config), name).unwrap();
                let mut stream = StreamOwned::new(tls, stream);
                stream.write_all(saying).unwrap();
                stream.flush().unwrap();
                Box::new(stream) as Box<dyn Write>
            })
            .collect()
    }

    /// Makes sure that a good client gets in soon at each address.
    fn greet_all(&self) {
        for address in &self.addresses {
            self.greet(address);
        }
    }

    fn greet(&self, address: &str) {
        let mut took = Vec::new();
        for _ in 0..ATTEMPTS {
            let before = Instant::now();
            self.runtime.block_on(async {
                let tls = ClientTls::new().ca_file(&self.ca);
                let client = Client::builder().tls(tls).connect(address).await.unwrap();
                client.ping().await.unwrap();
            });
            took.push(before.elapsed());
            if before.elapsed() < SOON {
                return;
            }
        }
        panic!("{address}: a good client took {took:?}");
    }

    /// KiB of memory that the bus has.
    fn memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.bus.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn end(self) {
        self.bus.signal("TERM");
        assert!(self.bus.end().status.success());
    }
}

fn port(address: &str) -> u16 {
    let (_, after) = address.rsplit_once(':').unwrap();
    after.split('/').next().unwrap().parse().unwrap()
}

/// A write is a datagram.
struct Datagrams(UdpSocket);

impl Write for Datagrams {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The first words of clients of this project, as they are sent to somebody who does not answer.
struct Openings {
    streams: Vec<Vec<u8>>,
    datagrams: Vec<Vec<u8>>,
}

impl Openings {
    /// So many of each.
    fn collect(count: usize, ca: &Path) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let tls = format!("tls://localhost:{}", listener.local_addr().unwrap().port());
        let quic = format!("quic://127.0.0.1:{}", socket.local_addr().unwrap().port());
        let runtime = Runtime::new().unwrap();
        let mut clients = JoinSet::new();
        for address in [tls, quic] {
            for _ in 0..count {
                let (address, tls) = (address.clone(), ClientTls::new().ca_file(ca));
                let client = async move { Client::builder().tls(tls).connect(&address).await.map(drop) };
                clients.spawn_on(client, runtime.handle());
            }
        }
        let streams = (0..count).map(|_| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut said = vec![0; 4096];
            let length = stream.read(&mut said).unwrap();
            said.truncate(length);
            said
        });
        let streams = streams.collect();
        let mut datagrams: Vec<Vec<u8>> = Vec::new();
        let mut from = Vec::new();
        while datagrams.len() < count {
            let mut said = vec![0; 4096];
            let (length, sender) = socket.recv_from(&mut said).unwrap();
            said.truncate(length);
            // Who hears nothing says it again.
            if !from.contains(&sender) {
                from.push(sender);
                datagrams.push(said);
            }
        }
        Self { streams, datagrams }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn strangers_hold_nobody_up_and_leave_no_memory_behind() {
    let place = with_certificates();
    let target = Target::start(&place, "1s");
    let openings = Openings::collect(20, &target.ca);
    let mut after = Vec::new();
    for _ in 0..5 {
        let mut strangers: Vec<_> =
            target.addresses.iter().flat_map(|address| target.strangers(address)).collect();
        strangers.extend(target.halfway(&openings));
        strangers.extend(target.half_over_tls());
        for drop in 0..DROPS {
            for (turn, stranger) in strangers.iter_mut().enumerate().filter(|(turn, _)| turn % 3 == 0) {
                let _ = stranger.write(&[turn as u8, drop as u8]);
            }
            target.greet_all();
        }
        drop(strangers);
        target.greet_all();
        after.push(target.memory());
    }
    // What the first ones have taken is used again for the others.
    let (first, last) = (after[0], after[after.len() - 1]);
    assert!(last < first + GROWTH, "KiB of memory after each round of strangers: {after:?}");
    target.end();
}

/// Lets this process have as many connections as the test takes; `false` where it may not.
fn may_have(connections: usize) -> bool {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What it may have is seen below.
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.is_none_or(|limit| limit >= connections as u64 + 500)
}

#[cfg(target_os = "linux")]
#[test]
fn a_thousand_who_say_nothing_hold_nobody_up() {
    assert!(may_have(SILENT), "the system lets this process have too few open files");
    let place = with_certificates();
    let target = Target::start(&place, "30s");
    let openings = Openings::collect(SILENT / 4, &target.ca);
    let mut after = Vec::new();
    for _ in 0..2 {
        for address in &target.addresses {
            let mut silent: Vec<_> = (0..SILENT).map(|_| target.stranger(address)).collect();
            if address.starts_with("quic:") {
                // Who says nothing at all is not there.
                for (stranger, opening) in silent.iter_mut().zip(&openings.datagrams) {
                    stranger.write_all(opening).unwrap();
                }
            }
            target.greet_all();
            // Longer than one may be at it while others wait.
            thread::sleep(SOON);
            target.greet_all();
            drop(silent);
            target.greet(address);
        }
        after.push(target.memory());
    }
    assert!(after[1] < after[0] + GROWTH, "KiB of memory after each round: {after:?}");
    target.end();
}
