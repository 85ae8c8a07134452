//! What these measurements share: a gateway in this process, and its clients in another one, which is this program again.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use whispeer::prelude::*;
use whispeer_gateway::settings::Turbine;
use whispeer_gateway::{Gateway, Settings};

/// What `serve` allocates with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEY: &str = "a secret for measurements, known to all";

/// The errors of a measurement.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A gateway that speaks Turbine and bounds nothing that is measured.
pub(crate) async fn gateway(bus: &BusHandle) -> Outcome<Gateway> {
    let mut settings = Settings::new("127.0.0.1:0".parse()?);
    settings.max_connections = 100_000;
    settings.rate = 10_000_000;
    settings.turbine = Some(Turbine::new(KEY, "a key of the API for measurements"));
    Ok(Gateway::start(bus, settings).await?)
}

/// A token that restricts nothing.
pub(crate) fn token() -> Outcome<String> {
    let exp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 24 * 60 * 60;
    let claims = json!({"sub": "measurement", "exp": exp, "channels": []});
    Ok(encode(&Header::default(), &claims, &EncodingKey::from_secret(KEY.as_bytes()))?)
}

/// Lets this process have as many files open as it may.
pub(crate) fn raise_file_limit() -> Outcome {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// This program once more, as the clients, with lines to and from it.
pub(crate) struct Clients {
    child: Child,
    to: ChildStdin,
    pub(crate) from: BufReader<ChildStdout>,
}

impl Clients {
    pub(crate) fn start(address: SocketAddr, count: usize) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["clients", &address.to_string(), &count.to_string(), &token()?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take().ok_or("it has no input")?;
        let from = BufReader::new(child.stdout.take().ok_or("it has no output")?);
        Ok(Self { child, to, from })
    }

    /// Lets it go on.
    pub(crate) fn proceed(&mut self) -> Outcome {
        Ok(self.to.write_all(b"\n")?)
    }

    /// Its next line.
    pub(crate) fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        if line.is_empty() { Err("the clients have ended".into()) } else { Ok(line.trim().to_owned()) }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
