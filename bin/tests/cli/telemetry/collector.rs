//! A collector: OTLP over HTTP, as far as these tests need it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
pub(super) use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::support::Place;

pub(super) const SERVER: i32 = SpanKind::Server as i32;
pub(super) const CLIENT: i32 = SpanKind::Client as i32;
pub(super) const PRODUCER: i32 = SpanKind::Producer as i32;
pub(super) const ERROR: i32 = StatusCode::Error as i32;

/// Exports that wait to be looked at.
const EXPORTS: usize = 1024;

/// What it does with what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    Takes,
    /// It reads, and never answers.
    Silent,
    /// It says once that it does not know who asks, and takes what comes then.
    RefusesFirst,
}

/// All that it got.
#[derive(Debug, Default)]
pub(super) struct Exported {
    pub(super) spans: Vec<Span>,
    pub(super) resource: Vec<KeyValue>,
    pub(super) scope: String,
    pub(super) path: String,
    pub(super) heads: String,
}

/// A connection, whatever is spoken below HTTP.
trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

pub(super) struct Collector {
    address: SocketAddr,
    got: Receiver<(String, Vec<u8>)>,
    end: Arc<AtomicBool>,
}

impl Collector {
    pub(super) fn start(behaviour: Behaviour) -> Self {
        Self::start_with(behaviour, |stream| Box::new(stream))
    }

    /// One that speaks TLS, with a certificate for `localhost` in this place.
    pub(super) fn start_tls(place: &Place) -> Self {
        let read = |name: &str| std::fs::read(place.path(name)).unwrap();
        let (certificate, key) = (read("certs/server.pem"), read("certs/server.key"));
        let chain = CertificateDer::pem_slice_iter(&certificate).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(&key).unwrap();
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .unwrap();
        let config = Arc::new(config);
        Self::start_with(Behaviour::Takes, move |stream| {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            Box::new(rustls::StreamOwned::new(connection, stream))
        })
    }

    fn start_with(
        behaviour: Behaviour,
        speak: impl Fn(TcpStream) -> Box<dyn Stream> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, got) = sync_channel(EXPORTS);
        let end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&end);
        thread::spawn(move || {
            let mut behaviour = behaviour;
            for stream in listener.incoming().map_while(Result::ok) {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                serve(speak(stream), &mut behaviour, &sender);
            }
        });
        Self { address, got, end }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn tls_endpoint(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Ends it; whoever exports to it has ended before.
    pub(super) fn stop(self) -> Exported {
        self.end.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address).unwrap());
        let mut all = Exported::default();
        for (head, body) in &self.got {
            let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
            assert!(head.contains("content-type: application/x-protobuf"), "{head}");
            all.path = head.split(' ').nth(1).unwrap().to_owned();
            all.heads.push_str(&head);
            for of_resource in request.resource_spans {
                all.resource = of_resource.resource.unwrap().attributes;
                for of_scope in of_resource.scope_spans {
                    all.scope = of_scope.scope.unwrap().name;
                    all.spans.extend(of_scope.spans);
                }
            }
        }
        all
    }
}

/// Serves a connection to its end.
fn serve(stream: Box<dyn Stream>, behaviour: &mut Behaviour, got: &SyncSender<(String, Vec<u8>)>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        let answer = match *behaviour {
            Behaviour::Takes => {
                got.send((head, body)).unwrap();
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
            }
            Behaviour::RefusesFirst => {
                *behaviour = Behaviour::Takes;
                "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"
            }
            Behaviour::Silent => continue,
        };
        let stream = reader.get_mut();
        if stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}

/// An attribute, as text.
pub(super) fn attribute(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    let value = found.and_then(|attribute| attribute.value.as_ref()?.value.clone());
    match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{name} is {other:?} in {attributes:?}"),
    }
}

/// Bytes as a trace context has them.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
