//! `whispeer reply`: answers requests.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use whispeer::client::{Request, ServeOptions};
use whispeer::{BusError, BusResult, ErrorReply, json, limits};

use crate::connection::{BusChoice, BusOptions, Connection, SealingOptions};
use crate::interrupts::Interrupts;
use crate::output;
use crate::payload;

/// Bytes that are read of a command's output: the default frame limit. More is answered with an error.
const OUTPUT_LIMIT: u64 = limits::FRAME_LIMIT as u64;

/// Bytes of a command's standard error that go into an error reply; the rest is read and dropped.
const ERROR_OUTPUT_LIMIT: usize = limits::ERROR_TEXT_LIMIT;

/// How long a command may go on after its output has ended, before it is killed.
const EXIT_GRACE: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  whispeer reply health '\"ok\"'                     the same answer to every request
  whispeer reply sum --exec jq add                 the request's JSON on standard input, JSON back
  whispeer reply time --text --exec date           standard output as a string
  whispeer reply resize --raw --exec convert - -resize 50% -
  whispeer reply --jobs 4 --group workers build --exec ./build.sh

All that follows --exec belongs to the command; it is run once per request, with the topic in
WHISPEER_TOPIC. When it fails, the requester gets an error with the code exit_N and what the command
wrote to standard error; when the requester gives up, it is killed with all that it started.";

/// Answer requests, with a fixed value or by a command
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Reply {
    /// The topic to serve
    topic: String,

    /// The answer, as JSON
    #[arg(allow_hyphen_values = true, required_unless_present = "exec", conflicts_with = "exec")]
    value: Option<String>,

    /// Run this command for each request
    #[arg(long, num_args = 1.., allow_hyphen_values = true, value_names = ["COMMAND", "ARGUMENT"])]
    exec: Vec<String>,

    /// Requests to work on at a time
    #[arg(short, long, default_value_t = 4, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=4096))]
    jobs: u32,

    /// End after that many requests
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Take and give bytes as they are, instead of JSON
    #[arg(long, conflicts_with = "text")]
    raw: bool,

    /// Answer with the command's output as a string, without its last newline
    #[arg(long, requires = "exec")]
    text: bool,

    /// Share the topic with the other members of a group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,

    /// Replace the server that is there
    #[arg(long, conflicts_with = "group")]
    take_over: bool,

    #[command(flatten)]
    sealing: SealingOptions,

    #[command(flatten)]
    pub(crate) bus: BusOptions,
}

impl Reply {
    pub(crate) async fn run(self, bus: &BusChoice, interrupts: Interrupts) -> anyhow::Result<()> {
        let answer = match &self.value {
            Some(value) => Answer::Fixed(payload::from_text(value.as_bytes(), self.raw)?),
            None => Answer::Command { words: self.exec.clone(), form: self.form() },
        };
        let connection = bus.connect_sealing("reply", &self.sealing).await?;
        let outcome = self.serve(&connection, &answer, &interrupts).await;
        if outcome.is_ok() {
            connection.check(connection.client.close().await)?;
        }
        outcome
    }

    async fn serve(
        &self,
        connection: &Connection,
        answer: &Answer,
        interrupts: &Interrupts,
    ) -> anyhow::Result<()> {
        let mut options = ServeOptions::default();
        if matches!(answer, Answer::Command { .. }) {
            // Requests that wait here could be answered by another member of the group.
            options = options.window(self.jobs, limits::WINDOW_BYTES);
        }
        if let Some(group) = &self.group {
            options = options.group(group);
        }
        if self.take_over {
            options = options.take_over();
        }
        let mut serving = connection.check(connection.client.serve_bytes_with(&self.topic, options).await)?;
        output::notice(format_args!("serving {}", self.topic));

        let jobs = usize::try_from(self.jobs).unwrap_or(usize::MAX);
        let mut running = JoinSet::new();
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut draining = false;
        while left > 0 {
            if running.len() >= jobs {
                running.join_next().await;
                continue;
            }
            let request = tokio::select! {
                request = serving.next_request() => request,
                Some(_) = running.join_next(), if !running.is_empty() => continue,
                () = interrupts.first(), if !draining => {
                    draining = true;
                    connection.check(serving.drain().await)?;
                    continue;
                }
            };
            let Some(request) = request else {
                // Requests at work can be answered when another server took over.
                while running.join_next().await.is_some() {}
                return if draining { Ok(()) } else { Err(connection.ended(serving.close_reason())) };
            };
            left -= 1;
            let (connection, answer) = (connection.clone(), answer.clone());
            match &answer {
                Answer::Fixed(_) => respond(&connection, request, &answer).await,
                Answer::Command { .. } => {
                    running.spawn(async move { respond(&connection, request, &answer).await });
                }
            }
        }
        while running.join_next().await.is_some() {}
        Ok(())
    }

    fn form(&self) -> Form {
        match (self.raw, self.text) {
            (true, _) => Form::Bytes,
            (false, true) => Form::Text,
            (false, false) => Form::Json,
        }
    }
}

/// Where answers come from.
#[derive(Debug, Clone)]
enum Answer {
    Fixed(Bytes),
    Command { words: Vec<String>, form: Form },
}

/// What a command reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    /// Reads JSON and writes text.
    Text,
    Bytes,
}

/// Answers one request. Only the requester is told of a failure: the next one may go well.
async fn respond(connection: &Connection, request: Request<Bytes>, answer: &Answer) {
    let client = &connection.client;
    let Request { topic, id, value, .. } = request;
    let answered: BusResult<()> = match answer {
        Answer::Fixed(payload) => client.respond_bytes(id, payload.clone()).await,
        Answer::Command { words, form } => {
            let done = tokio::select! {
                done = run_command(words, *form, topic.as_str(), &value) => done,
                // Dropping the future kills the command.
                () = id.cancelled() => return,
            };
            match done {
                Ok(payload) => client.respond_bytes(id, payload).await,
                Err(error) => client.respond_error(id, error).await,
            }
        }
    };
    match answered {
        Ok(()) | Err(BusError::Cancelled) => {}
        Err(error) => output::notice(format_args!("cannot answer a request to {topic}: {error}")),
    }
}

async fn run_command(words: &[String], form: Form, topic: &str, request: &[u8]) -> Result<Bytes, ErrorReply> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(ErrorReply::new("exec", "no command was given"));
    };
    let failed =
        |what: &str, error: std::io::Error| ErrorReply::new("exec", format!("{what} {program}: {error}"));
    let mut child = Command::new(program)
        .args(arguments)
        .env("WHISPEER_TOPIC", topic)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed("cannot run", error))?;
    let group = Group::of(&child);
    let input = match form {
        Form::Bytes => request.to_vec(),
        Form::Json | Form::Text => {
            let mut text = json::to_json(request).into_bytes();
            text.push(b'\n');
            text
        }
    };
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A command that does not read its input may still have an answer.
            let _ = stdin.write_all(&input).await;
        }
    };
    let ((), written, complaint) = tokio::join!(write, read_output(stdout), read_complaint(stderr));
    let written = written.map_err(|error| failed("cannot read from", error))?;
    let status = match tokio::time::timeout(EXIT_GRACE, child.wait()).await {
        Ok(status) => {
            group.ended();
            status.map_err(|error| failed("cannot wait for", error))?
        }
        Err(_) => {
            return Err(ErrorReply::new("exec", format!("{program} closed its output and did not end")));
        }
    };
    if !status.success() {
        return Err(failure_of(status, &complaint));
    }
    if written.len() as u64 > OUTPUT_LIMIT {
        return Err(ErrorReply::new(
            "output_too_large",
            format!("{program} wrote more than {OUTPUT_LIMIT} bytes"),
        ));
    }
    encode(written, form, program)
}

/// The processes that a command has started, itself included. They are killed when it is dropped: a shell
/// that is killed alone leaves behind what it waits for.
struct Group(Option<Pid>);

impl Group {
    /// Of a child that leads a group of its own.
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// The command has ended by itself, and its number may go to another: what it left running is left.
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // None of them may be there any more.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

fn encode(written: Vec<u8>, form: Form, program: &str) -> Result<Bytes, ErrorReply> {
    match form {
        Form::Bytes => Ok(written.into()),
        Form::Json => json::from_json(&written).map_err(|error| {
            let hint = "--text answers with the output as a string, --raw with its bytes";
            ErrorReply::new("invalid_output", format!("{program} wrote what is {error}; {hint}"))
        }),
        Form::Text => {
            let text = String::from_utf8(written).map_err(|_| {
                ErrorReply::new("invalid_output", format!("{program} wrote what is not UTF-8"))
            })?;
            let mut payload = Vec::new();
            payload::push_string(text.strip_suffix('\n').unwrap_or(&text), &mut payload);
            Ok(payload.into())
        }
    }
}

fn failure_of(status: ExitStatus, complaint: &[u8]) -> ErrorReply {
    let code = status.code().map_or_else(|| "killed".to_owned(), |code| format!("exit_{code}"));
    let complaint = String::from_utf8_lossy(complaint);
    let complaint = complaint.trim();
    if complaint.is_empty() {
        return ErrorReply::new(code, format!("the command ended with {status}"));
    }
    ErrorReply::new(code, complaint)
}

/// Reads at most one byte more than an answer may have; a command that writes on finds a closed pipe.
async fn read_output(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut written = Vec::new();
    if let Some(stream) = stream {
        stream.take(OUTPUT_LIMIT + 1).read_to_end(&mut written).await?;
    }
    Ok(written)
}

/// Reads everything, so that the command is never stuck, and keeps the beginning.
async fn read_complaint(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else { return kept };
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        let room = ERROR_OUTPUT_LIMIT - kept.len();
        kept.extend_from_slice(chunk.get(..length.min(room)).unwrap_or_default());
    }
    kept
}
