//! `whispeer req`: asks.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use whispeer::BusError;
use whispeer::client::{Headers, ManyOptions, RequestOptions};
use whispeer::json;

use crate::connection::{BusChoice, BusOptions, Connection, SealingOptions};
use crate::failure::{Failure, NO_SERVER, code_of};
use crate::input;
use crate::output::{self, Output};
use crate::payload;
use crate::quantity;

const EXAMPLES: &str = "\
Examples:
  whispeer req time                               ask without a value (null)
  whispeer req users/find '{\"name\": \"Alice\"}'     ask with a JSON value
  whispeer req --stdin resize --raw < photo.jpg > small.jpg
  whispeer req --many 0 'node/*/status'           ask all that serve such a topic
  whispeer req --stream logs/tail                 print answers as they come

With --many a line is {\"topic\": TOPIC, \"answer\": VALUE}; errors of single servers go to standard error.";

/// Make a request and print the answer
#[derive(Debug, Args)]
#[command(name = "req", after_help = EXAMPLES)]
pub(crate) struct Request {
    /// The topic; with --many a pattern
    topic: String,

    /// The value, as JSON; null if there is none
    #[arg(allow_hyphen_values = true)]
    value: Option<String>,

    /// Read the value from standard input
    #[arg(long, conflicts_with = "value")]
    stdin: bool,

    /// How long to wait for the answer, or the last one
    #[arg(long, value_parser = quantity::duration, default_value = "5s", value_name = "TIME")]
    timeout: Duration,

    /// Ask all that serve a topic meeting the pattern, until COUNT have answered (0: all)
    #[arg(long, value_name = "COUNT")]
    many: Option<usize>,

    /// Expect a stream of answers
    #[arg(long, conflicts_with = "many")]
    stream: bool,

    /// Send and print bytes as they are, instead of JSON
    #[arg(long)]
    raw: bool,

    /// Send a header along; may be given several times
    #[arg(long = "header", value_parser = quantity::header, value_name = "NAME=VALUE")]
    headers: Vec<(String, String)>,

    #[command(flatten)]
    sealing: SealingOptions,

    #[command(flatten)]
    pub(crate) bus: BusOptions,
}

impl Request {
    pub(crate) async fn run(self, bus: &BusChoice) -> anyhow::Result<()> {
        let payload = match &self.value {
            Some(value) => payload::from_text(value.as_bytes(), self.raw)?,
            None if self.stdin => payload::from_text(&input::read_all().await?, self.raw)?,
            None if self.raw => Bytes::new(),
            None => json::from_json(b"null")?,
        };
        let connection = bus.connect_sealing("req", &self.sealing).await?;
        if let Some(count) = self.many {
            return self.ask_many(&connection, payload, count).await;
        }
        if self.stream {
            return self.ask_stream(&connection, payload).await;
        }
        let answer = connection.client.request_bytes_with(&self.topic, payload, self.options()).await;
        let mut text = Vec::new();
        self.push(&connection.check(answer)?, &mut text);
        if !self.raw {
            text.push(b'\n');
        }
        output::print(text)
    }

    /// Answers are printed with a newline each, since several follow each other.
    async fn ask_stream(&self, connection: &Connection, payload: Bytes) -> anyhow::Result<()> {
        let asked = connection.client.request_stream_bytes_with(&self.topic, payload, self.options());
        let mut answers = connection.check(asked.await)?;
        let mut output = Output::start()?;
        let mut outcome = Ok(());
        while let Some(answer) = answers.recv().await {
            match answer {
                Ok(answer) => {
                    self.push(&answer, output.buffer());
                    output.buffer().push(b'\n');
                    output.flush().await?;
                }
                Err(error) => outcome = Err(connection.failure(&error)),
            }
        }
        output.finish().await?;
        outcome
    }

    async fn ask_many(&self, connection: &Connection, payload: Bytes, count: usize) -> anyhow::Result<()> {
        let mut options = ManyOptions::default().timeout(self.timeout).headers(self.headers());
        if count > 0 {
            options = options.count(count);
        }
        let answers =
            connection.check(connection.client.request_many_bytes(&self.topic, payload, options).await)?;
        if answers.is_empty() {
            let failure = Failure::new(NO_SERVER, format!("no answer from a server of \"{}\"", self.topic));
            return Err(failure
                .help("see what is served with `whispeer info`, or allow more time with --timeout")
                .into());
        }
        let mut text = Vec::new();
        let mut failed: Option<BusError> = None;
        let mut failures = 0_u64;
        for answer in answers {
            match answer {
                Ok((_, answer)) if self.raw => {
                    text.extend_from_slice(&answer);
                    text.push(b'\n');
                }
                Ok((topic, answer)) => {
                    text.extend_from_slice(b"{\"topic\":");
                    json::push_json_string(topic.as_str(), &mut text);
                    text.extend_from_slice(b",\"answer\":");
                    json::push_json(&answer, &mut text);
                    text.extend_from_slice(b"}\n");
                }
                Err(error) => {
                    output::notice(format_args!("{error}"));
                    failures += 1;
                    failed = Some(error);
                }
            }
        }
        output::print(text)?;
        match failed {
            None => Ok(()),
            Some(error) => {
                Err(Failure::new(code_of(&error), format!("{failures} of the servers failed")).into())
            }
        }
    }

    fn headers(&self) -> Headers {
        self.headers.iter().cloned().collect()
    }

    fn options(&self) -> RequestOptions {
        RequestOptions::default().timeout(self.timeout).headers(self.headers())
    }

    fn push(&self, answer: &[u8], text: &mut Vec<u8>) {
        if self.raw {
            text.extend_from_slice(answer);
        } else {
            json::push_json(answer, text);
        }
    }
}
