//! Starting the binary, waiting for what it says, and ending it, all within a time limit.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use whispeer_testkit::tools::{has, has_module};

/// How long anything may take before a test fails; far beyond what it takes on a loaded machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Lines of standard error that wait to be looked at.
const LINES: usize = 4096;

/// A folder of its own, with what a user's surroundings would be.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The binary in this folder; no setting of the real user reaches it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.furnish(Command::new(env!("CARGO_BIN_EXE_whispeer")), arguments)
    }

    /// The same, by a command that runs the binary somewhere else.
    pub(crate) fn furnish(&self, mut command: Command, arguments: &[&str]) -> Command {
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("XDG_CONFIG_HOME", self.folder.path().join("config"))
            .env("XDG_STATE_HOME", self.folder.path().join("state"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["WHISPEER_", "LISTEN_", "NATS_", "NOTIFY_", "OTEL_", "WATCHDOG_", "STATE_DIRECTORY"]
                .iter()
                .any(|ours| text.starts_with(ours))
            {
                command.env_remove(&name);
            }
        }
        command
    }

    /// Writes a file in this folder.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Running::new(self.command(arguments).spawn().unwrap())
    }

    pub(crate) fn start_with_input(&self, arguments: &[&str]) -> Running {
        Running::new(self.command(arguments).stdin(Stdio::piped()).spawn().unwrap())
    }

    /// Starts a bus and waits until it is ready.
    pub(crate) fn bus(&self, name: &str) -> Running {
        let mut bus = self.start(&["serve", name]);
        bus.wait_for("ready on");
        bus
    }

    /// Runs the binary to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).end()
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let mut running = self.start_with_input(arguments);
        let mut stdin = running.stdin();
        let input = input.to_vec();
        let writer = thread::spawn(move || {
            // A command that ends early closes the pipe.
            let _ = stdin.write_all(&input);
        });
        let ended = running.end();
        writer.join().unwrap();
        ended
    }
}

/// A process that runs. It is killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    errors: Receiver<String>,
    said: String,
}

/// A process that has ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Ended {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by a signal: {self:?}"))
    }

    /// What it printed, after it ended well.
    pub(crate) fn success(self) -> String {
        assert_eq!(self.status.code(), Some(0), "{self:?}");
        self.output
    }
}

impl Running {
    pub(crate) fn new(mut child: Child) -> Self {
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, errors) = sync_channel(LINES);
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, errors, said: String::new() }
    }

    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub(crate) fn stdout(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.child.stdout.take().unwrap())
    }

    /// Waits until it says this on standard error.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let until = Instant::now() + LIMIT;
        loop {
            match self.errors.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.said.push_str(&line);
                    self.said.push('\n');
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("not said in time: {text:?}; only {:?}", self.said),
                Err(RecvTimeoutError::Disconnected) => panic!("ended without {text:?}: {:?}", self.said),
            }
        }
    }

    /// Whether a line that has been waited past says this.
    pub(crate) fn has_said(&self, text: &str) -> bool {
        self.said.contains(text)
    }

    /// What it has said, if it has ended though nobody asked it to.
    pub(crate) fn has_ended(&mut self) -> Option<String> {
        self.child.try_wait().unwrap()?;
        while let Ok(line) = self.errors.recv_timeout(LIMIT) {
            self.said.push_str(&line);
            self.said.push('\n');
        }
        Some(std::mem::take(&mut self.said))
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The number of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits until it ends by itself.
    pub(crate) fn end(mut self) -> Ended {
        let stdout = self.child.stdout.take();
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stdout) = stdout {
                stdout.read_to_end(&mut bytes).unwrap();
            }
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let status = self.wait();
        let output = reader.join().unwrap();
        let mut errors = std::mem::take(&mut self.said);
        while let Ok(line) = self.errors.recv_timeout(LIMIT) {
            errors.push_str(&line);
            errors.push('\n');
        }
        Ended { status, output, errors }
    }

    /// How it has ended, if it has.
    pub(crate) fn has_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "did not end in time; it said {:?}", self.said);
            // The standard library cannot wait for a process with a time limit; nothing depends on
            // how long this pause is.
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A real text of more than ten thousand lines: the files of this repository, one after the other and
/// as often as it takes.
pub(crate) fn long_text() -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = vec![root.join("Cargo.lock"), root.join("Cargo.toml")];
    let mut folders = vec![root.join("src"), root.join("bin")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "toml") {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut text = Vec::new();
    while text.iter().filter(|byte| **byte == b'\n').count() <= 10_000 {
        for file in files.iter().filter(|file| file.exists()) {
            text.extend_from_slice(&std::fs::read(file).unwrap());
            if text.last() != Some(&b'\n') {
                text.push(b'\n');
            }
        }
    }
    text
}

/// A place with a CA, a server `server`, and the clients `alice` and, revoked, `mallory`.
pub(crate) fn with_certificates() -> Place {
    let place = Place::new();
    for arguments in
        [&["init"][..], &["server"], &["client", "alice"], &["client", "mallory"], &["revoke", "mallory"]]
    {
        place.run(&[&["certs"][..], arguments].concat()).success();
    }
    place
}

/// Starts a bus and finds out where it listens.
pub(crate) fn serve(place: &Place, arguments: &[&str]) -> (Running, String) {
    let mut bus = place.start(arguments);
    let line = bus.wait_for("ready on");
    let address = line.split_whitespace().last().unwrap().to_owned();
    (bus, address)
}
