//! The machine and the software of a run, for readers of its figures.

use std::process::Command;

use serde::Serialize;

/// The lock file of the measurements, which names the versions that were built.
const LOCK_FILE: &str = include_str!("../Cargo.lock");

/// The crates of the peers' clients, and of the peers that have no program.
const PEER_CLIENTS: [&str; 7] = [
    "async-nats",
    "redis",
    "rumqttc",
    "zenoh",
    "tarpc",
    "tonic",
    "iceoryx2",
];

/// Where the measurements were built.
const SOURCE: &str = env!("CARGO_MANIFEST_DIR");

/// What a run's figures depend on.
#[derive(Debug, Serialize)]
pub struct Environment {
    /// The day of the run, in UTC.
    pub date: String,
    /// The model of the processors.
    pub processor: String,
    /// Processors that the run could use.
    pub processors: usize,
    /// Main memory that the kernel manages, in GiB.
    pub memory: String,
    /// The kernel's name and release.
    pub kernel: String,
    /// The compiler.
    pub rustc: String,
    /// The commit that was measured, with `-dirty` where files differed from it.
    pub commit: String,
    /// Names and versions of what was measured.
    pub versions: Vec<(&'static str, String)>,
}

impl Environment {
    /// What can be found out here; what cannot says so. `programs` are those that were found, with
    /// their versions.
    pub fn here(programs: Vec<(&'static str, String)>) -> Self {
        let clients: &[&str] = if cfg!(feature = "peers") {
            &PEER_CLIENTS
        } else {
            &[]
        };
        let crates = ["whispeer", "tokio", "t2_bus"].iter().chain(clients);
        let versions = crates
            .map(|name| {
                (
                    *name,
                    locked_version(LOCK_FILE, name).unwrap_or_else(unknown),
                )
            })
            .chain(programs)
            .collect();
        Self {
            date: output("date", &["-u", "+%Y-%m-%d"]),
            processor: named_value("/proc/cpuinfo", "model name"),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory(&named_value("/proc/meminfo", "MemTotal")),
            kernel: output("uname", &["-sr"]),
            rustc: output("rustc", &["--version"]),
            // The runner may be started from anywhere; the commit is that of its source.
            commit: output("git", &["-C", SOURCE, "describe", "--always", "--dirty"]),
            versions,
        }
    }
}

/// What a program says on its first line.
fn output(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .and_then(|text| text.lines().next().map(ToOwned::to_owned))
        .unwrap_or_else(unknown)
}

/// The value of the first line `name : value` of a file.
fn named_value(file: &str, name: &str) -> String {
    std::fs::read_to_string(file)
        .ok()
        .and_then(|text| {
            let (_, value) = text
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(found, _)| found.trim() == name)?;
            Some(value.trim().to_owned())
        })
        .unwrap_or_else(unknown)
}

/// What the kernel says in `kB`, which are KiB, for readers.
fn memory(kernel_says: &str) -> String {
    const KIBIBYTES_A_GIBIBYTE: f64 = 1024.0 * 1024.0;
    kernel_says
        .strip_suffix(" kB")
        .and_then(|number| number.parse::<f64>().ok())
        .map_or_else(unknown, |kibibytes| {
            format!("{:.1} GiB", kibibytes / KIBIBYTES_A_GIBIBYTE)
        })
}

fn locked_version(lock_file: &str, name: &str) -> Option<String> {
    let mut lines = lock_file.lines();
    lines.find(|line| line.strip_prefix("name = ") == Some(&format!("\"{name}\"")))?;
    let version = lines.next()?.strip_prefix("version = ")?;
    Some(version.trim_matches('"').to_owned())
}

fn unknown() -> String {
    "unknown".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_written_in_gibibytes() {
        assert_eq!(memory("24684092 kB"), "23.5 GiB");
        assert_eq!(memory("much"), "unknown");
    }

    #[test]
    fn the_version_of_a_package_stands_below_its_name() {
        let lock_file = "[[package]]\nname = \"tokio-util\"\nversion = \"0.7.1\"\n\n\
                         [[package]]\nname = \"tokio\"\nversion = \"1.48.0\"\n";
        assert_eq!(
            locked_version(lock_file, "tokio").as_deref(),
            Some("1.48.0")
        );
        assert_eq!(locked_version(lock_file, "nats"), None);
    }
}
