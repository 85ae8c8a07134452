//! A client of NATS that knows just enough to see whether a server is there, and whether a cluster is one.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::wait::PATIENCE;

/// How long an answer may take before the question is put again: interest takes a moment to get around.
const ASKED_AGAIN: Duration = Duration::from_millis(50);

/// As much for an answer of JetStream, which a majority has to agree on first.
const JETSTREAM_ASKED_AGAIN: Duration = Duration::from_millis(500);

/// The stream that shows that JetStream keeps as many replicas as asked.
const STREAM: &str = "testkit-probe";

/// A connection without a name, in plain text.
#[derive(Debug)]
pub(super) struct Probe {
    lines: BufReader<TcpStream>,
    /// How many questions it has put.
    asked: u64,
}

impl Probe {
    /// Connects and reads the greeting, which begins with `INFO`.
    pub(super) fn greeted(address: SocketAddr) -> std::io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut probe = Self { lines: BufReader::new(socket), asked: 0 };
        let greeting = probe.line()?;
        if greeting.starts_with("INFO ") { Ok(probe) } else { Err(std::io::Error::other(greeting)) }
    }

    /// As [`Probe::greeted`], and is a client afterwards.
    pub(super) fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let mut probe = Self::greeted(address)?;
        probe.send("CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"testkit\",\"version\":\"1\"}\r\nPING\r\n")?;
        match probe.line()?.as_str() {
            "PONG" => Ok(probe),
            other => Err(std::io::Error::other(format!("no client without a name is let in: {other}"))),
        }
    }

    /// Waits until a message published at `from` arrives here.
    pub(super) fn reached_from(&mut self, from: &mut Self, name: &str) -> std::io::Result<()> {
        let subject = format!("testkit.probe.{name}");
        self.send(&format!("SUB {subject} 1\r\n"))?;
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            from.send(&format!("PUB {subject} 0\r\n\r\n"))?;
            if self.message(ASKED_AGAIN)?.is_some() {
                return self.unsubscribe(1);
            }
        }
        Err(ErrorKind::TimedOut.into())
    }

    /// Waits until JetStream takes a stream of `replicas` replicas, which is removed again.
    pub(super) fn replicated(&mut self, replicas: usize) -> std::io::Result<()> {
        let settings = format!(
            "{{\"name\":\"{STREAM}\",\"subjects\":[\"{STREAM}\"],\"num_replicas\":{replicas},\"storage\":\"memory\",\
             \"retention\":\"limits\",\"discard\":\"old\",\"max_consumers\":-1,\"max_msgs\":-1,\"max_bytes\":-1}}"
        );
        self.agreed(&format!("$JS.API.STREAM.CREATE.{STREAM}"), &settings)?;
        self.agreed(&format!("$JS.API.STREAM.DELETE.{STREAM}"), "")?;
        Ok(())
    }

    /// Asks until the answer is no error: who has to answer may not be chosen yet.
    pub(super) fn agreed(&mut self, subject: &str, body: &str) -> std::io::Result<String> {
        let until = Instant::now() + PATIENCE;
        let mut last = "no answer".to_owned();
        while Instant::now() < until {
            let Some(answer) = self.asked(subject, body)? else { continue };
            // A removal whose answer was late finds nothing the second time.
            if !answer.contains("\"error\"") || answer.contains("stream not found") {
                return Ok(answer);
            }
            last = answer;
            std::thread::yield_now();
        }
        Err(std::io::Error::other(format!("{subject}: {last}")))
    }

    /// Asks once.
    pub(super) fn asked(&mut self, subject: &str, body: &str) -> std::io::Result<Option<String>> {
        // Late answers to what was asked before, here or by another probe, are not taken for this one's.
        self.asked += 1;
        let own = self.lines.get_ref().local_addr()?.port();
        let answer = format!("testkit.answer.{own}.{}", self.asked);
        self.send(&format!("SUB {answer} 2\r\nPUB {subject} {answer} {}\r\n{body}\r\n", body.len()))?;
        let message = self.message(JETSTREAM_ASKED_AGAIN)?;
        self.unsubscribe(2)?;
        Ok(message)
    }

    /// Ends a subscription, and takes what came for it meanwhile.
    fn unsubscribe(&mut self, id: u8) -> std::io::Result<()> {
        self.send(&format!("UNSUB {id}\r\nPING\r\n"))?;
        self.lines.get_ref().set_read_timeout(Some(PATIENCE))?;
        while self.line()? != "PONG" {}
        Ok(())
    }

    /// The next message's payload, if it comes in time.
    fn message(&mut self, within: Duration) -> std::io::Result<Option<String>> {
        self.lines.get_ref().set_read_timeout(Some(within))?;
        loop {
            let line = match self.line() {
                Ok(line) => line,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            // Once its head is there, the rest is about to come.
            self.lines.get_ref().set_read_timeout(Some(PATIENCE))?;
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("MSG") => {
                    let size = words.last().and_then(|size| size.parse::<usize>().ok()).unwrap_or_default();
                    let mut payload = vec![0; size + 2];
                    self.lines.read_exact(&mut payload)?;
                    return Ok(Some(String::from_utf8_lossy(&payload[..size]).into_owned()));
                }
                Some("PING") => self.send("PONG\r\n")?,
                _ => {}
            }
            self.lines.get_ref().set_read_timeout(Some(within))?;
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn send(&mut self, text: &str) -> std::io::Result<()> {
        self.lines.get_mut().write_all(text.as_bytes())
    }
}
