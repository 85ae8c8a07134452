//! Plays transcripts; their form is told in `tests/transcripts/README.md`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::http::{Answer, ask};

/// How long anything that has to come may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Plays a transcript.
///
/// # Panics
/// At the first line that goes otherwise, with what came instead.
pub(crate) async fn play(address: SocketAddr, transcript: &str, variables: &[(&str, &str)]) {
    let known = variables.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value)));
    let mut player =
        Player { address, known: known.collect(), sockets: BTreeMap::new(), answer: None, pings: 0 };
    for (number, line) in transcript.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let step = timeout(PATIENCE, Box::pin(player.step(line))).await;
        step.unwrap_or_else(|_| Err("nothing came in time".into()))
            .unwrap_or_else(|fault| panic!("line {}: {line}\n{fault}", number + 1));
    }
}

struct Player {
    address: SocketAddr,
    known: BTreeMap<String, Value>,
    sockets: BTreeMap<String, Socket>,
    answer: Option<Answer>,
    pings: u32,
}

enum Socket {
    Open { stream: Box<WebSocketStream<MaybeTlsStream<TcpStream>>>, has_ping: bool },
    Refused(u16),
}

impl Player {
    async fn step(&mut self, line: &str) -> Result<(), String> {
        if let Some(expected) = line.strip_prefix('=') {
            return self.check_answer(expected.trim());
        }
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let name = first.trim_end_matches(|mark: char| !mark.is_ascii_digit() && !mark.is_ascii_lowercase());
        if first.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return self.ask(first, rest).await;
        }
        let (name, mark) = match first.strip_suffix(">x") {
            Some(name) => (name, ">x"),
            None => (name, &first[name.len()..]),
        };
        match mark {
            "+" => self.open(name, rest).await,
            ">" => {
                let text = self.filled(rest);
                self.send(name, Message::text(text)).await
            }
            ">x" => {
                let digits =
                    rest.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
                let bytes: Result<Vec<u8>, _> = digits.map(|pair| u8::from_str_radix(pair, 16)).collect();
                self.send(name, Message::binary(bytes.map_err(|error| error.to_string())?)).await
            }
            "<" => {
                let text = self.text(name).await?;
                self.check(rest, &text)
            }
            "." => self.check_silent(name).await,
            "!" => self.check_closed(name, rest).await,
            "-" => match self.sockets.remove(name) {
                Some(Socket::Open { mut stream, .. }) => {
                    stream.close().await.map_err(|error| error.to_string())
                }
                _ => Err("it is not open".into()),
            },
            _ => Err("this line means nothing".into()),
        }
    }

    async fn open(&mut self, name: &str, rest: &str) -> Result<(), String> {
        let (path, headers) = rest.split_once(' ').unwrap_or((rest, "{}"));
        let url = format!("ws://{}{path}", self.address);
        let mut request = url.into_client_request().map_err(|error| error.to_string())?;
        for (header, value) in headers_of(&self.filled(headers))?.0 {
            let header: http::HeaderName = header.parse().map_err(|_| format!("{header:?} is no header"))?;
            request
                .headers_mut()
                .insert(header, value.parse().map_err(|_| format!("{value:?} is no value"))?);
        }
        let socket = match connect_async(request).await {
            Ok((stream, _)) => Socket::Open { stream: Box::new(stream), has_ping: path == "/ws" },
            Err(Error::Http(response)) => Socket::Refused(response.status().as_u16()),
            Err(error) => return Err(error.to_string()),
        };
        self.sockets.insert(name.to_owned(), socket);
        Ok(())
    }

    fn stream(&mut self, name: &str) -> Result<&mut WebSocketStream<MaybeTlsStream<TcpStream>>, String> {
        match self.sockets.get_mut(name) {
            Some(Socket::Open { stream, .. }) => Ok(stream),
            Some(Socket::Refused(status)) => Err(format!("it was refused with status {status}")),
            None => Err(format!("there is no socket {name:?}")),
        }
    }

    async fn send(&mut self, name: &str, message: Message) -> Result<(), String> {
        self.stream(name)?.send(message).await.map_err(|error| error.to_string())
    }

    /// What comes next and is no control frame, if it is text.
    async fn text(&mut self, name: &str) -> Result<String, String> {
        loop {
            match self.stream(name)?.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => return Err(format!("there came {other:?}")),
            }
        }
    }

    async fn check_silent(&mut self, name: &str) -> Result<(), String> {
        self.pings += 1;
        let id = format!("ping {}", self.pings);
        let Some(Socket::Open { has_ping, .. }) = self.sockets.get(name) else {
            return Err("it is not open".into());
        };
        if *has_ping {
            let ping = serde_json::json!({"id": id, "method": "ping"});
            self.send(name, Message::text(ping.to_string())).await?;
            let text = self.text(name).await?;
            let is_pong = serde_json::from_str(&text).is_ok_and(|value: Value| value["id"] == *id);
            return if is_pong { Ok(()) } else { Err(format!("there came {text}")) };
        }
        self.send(name, Message::Ping(id.into())).await?;
        match self.stream(name)?.next().await {
            Some(Ok(Message::Pong(_))) => Ok(()),
            other => Err(format!("there came {other:?}")),
        }
    }

    async fn check_closed(&mut self, name: &str, code: &str) -> Result<(), String> {
        let code: u16 = code.trim().parse().map_err(|_| format!("{code:?} is no code"))?;
        let found = match self.sockets.get(name) {
            Some(Socket::Refused(status)) => *status,
            _ => loop {
                match self.stream(name)?.next().await {
                    Some(Ok(Message::Close(Some(frame)))) => break frame.code.into(),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    other => return Err(format!("there came {other:?}")),
                }
            },
        };
        self.sockets.remove(name);
        if found == code { Ok(()) } else { Err(format!("the code is {found}")) }
    }

    async fn ask(&mut self, method: &str, rest: &str) -> Result<(), String> {
        let (path, rest) = rest.split_once(' ').unwrap_or((rest, "{}"));
        let filled = self.filled(rest);
        let (headers, body) = headers_of(&filled)?;
        self.answer = Some(ask(self.address, method, path, &headers, body.as_bytes()).await);
        Ok(())
    }

    fn check_answer(&mut self, expected: &str) -> Result<(), String> {
        let (status, body) = expected.split_once(' ').unwrap_or((expected, ""));
        let answer = self.answer.take().ok_or("nothing was asked")?;
        if status.parse() != Ok(answer.status) {
            return Err(format!("the status is {}: {}", answer.status, answer.body));
        }
        if body.is_empty() { Ok(()) } else { self.check(body, &answer.body) }
    }

    /// What came as it was expected, or why not.
    fn check(&mut self, expected: &str, found: &str) -> Result<(), String> {
        let fits = match (serde_json::from_str(expected), serde_json::from_str(found)) {
            (Ok(expected), Ok(found)) => self.fits(&expected, &found),
            (Err(_), _) => expected == found,
            (Ok(_), Err(_)) => false,
        };
        if fits { Ok(()) } else { Err(format!("there came {found}")) }
    }

    fn fits(&mut self, expected: &Value, found: &Value) -> bool {
        match (expected, found) {
            (Value::String(text), _) if text == "$*" => true,
            (Value::String(text), _) if is_variable(text) => match self.known.get(&text[1..]) {
                Some(known) => known == found,
                None => {
                    self.known.insert(text[1..].to_owned(), found.clone());
                    true
                }
            },
            (Value::String(expected), Value::String(found)) => self.filled_in_string(expected) == *found,
            (Value::Array(expected), Value::Array(found)) => {
                expected.len() == found.len()
                    && expected.iter().zip(found).all(|(expected, found)| self.fits(expected, found))
            }
            (Value::Object(expected), Value::Object(found)) => {
                expected.len() == found.len()
                    && expected
                        .iter()
                        .all(|(key, expected)| found.get(key).is_some_and(|found| self.fits(expected, found)))
            }
            _ => expected == found,
        }
    }

    /// A text that is sent, with what is known in its place. A name that another one begins with comes after that.
    fn filled(&self, text: &str) -> String {
        self.known.iter().rev().fold(text.to_owned(), |text, (name, value)| {
            let whole = text.replace(&format!("\"${name}\""), &value.to_string());
            whole.replace(&format!("${name}"), &plain(value))
        })
    }

    fn filled_in_string(&self, text: &str) -> String {
        let fill =
            |text: String, (name, value): (&String, &Value)| text.replace(&format!("${name}"), &plain(value));
        self.known.iter().rev().fold(text.to_owned(), fill)
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn is_variable(text: &str) -> bool {
    text.strip_prefix('$').is_some_and(|name| {
        name.starts_with(|first: char| first.is_ascii_alphabetic())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

type Headers = Vec<(String, String)>;

/// An object of headers, and what stands behind it.
fn headers_of(text: &str) -> Result<(Headers, &str), String> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<BTreeMap<String, String>>();
    let headers = values.next().ok_or("headers are missing")?.map_err(|error| error.to_string())?;
    let end = values.byte_offset();
    Ok((headers.into_iter().collect(), text[end..].trim()))
}
