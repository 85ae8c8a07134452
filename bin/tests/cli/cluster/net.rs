//! Hosts with a network between them: network namespaces, a bridge, and links that can be cut and slowed down.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Whether hosts can be made here: that takes `ip` and `tc`, which can be installed, and root's rights, which no one can give himself. Where
/// those are missing the test says that it is skipped, in CI as well.
pub(crate) fn available() -> bool {
    let tools =
        whispeer_testkit::tools::has_with("ip", "-V") && whispeer_testkit::tools::has_with("tc", "-V");
    if !tools {
        return false;
    }
    let probe = format!("wsp{}-probe", std::process::id());
    let is_allowed = ip(&["netns", "add", &probe])
        && ip(&["-n", &probe, "link", "add", "one", "type", "veth", "peer", "name", "other"])
        && ip(&["-n", &probe, "link", "add", "bridge", "type", "bridge"])
        && tc(&probe, "one", &SLOW);
    ip(&["netns", "del", &probe]);
    if !is_allowed {
        // Past what captures the output of tests that pass.
        let said =
            std::io::stdout().write_all(b"SKIPPED: needs root, with network namespaces and tc's tbf\n");
        said.unwrap();
    }
    is_allowed
}

/// Little at a time, and what waits for too long is dropped.
const SLOW: [&str; 7] = ["tbf", "rate", "512kbit", "burst", "8kb", "latency", "400ms"];

fn tc(host: &str, device: &str, shape: &[&str]) -> bool {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", host, "tc", "qdisc", "add", "dev", device, "root"]).args(shape);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn ip(arguments: &[&str]) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn must(arguments: &[&str]) {
    assert!(ip(arguments), "ip {}", arguments.join(" "));
}

/// Some hosts, which go when it is dropped.
pub(crate) struct Net {
    hub: String,
    hosts: Vec<String>,
}

impl Net {
    /// So many hosts that reach each other.
    pub(crate) fn new(count: usize) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |what: &str| format!("wsp{}-{number}-{what}", std::process::id());
        let net = Self { hub: name("hub"), hosts: (0..count).map(|host| name(&host.to_string())).collect() };
        must(&["netns", "add", &net.hub]);
        must(&["-n", &net.hub, "link", "add", "bridge", "type", "bridge"]);
        must(&["-n", &net.hub, "link", "set", "bridge", "up"]);
        for (index, host) in net.hosts.iter().enumerate() {
            must(&["netns", "add", host]);
            let port = format!("port{index}");
            must(&[
                "-n", &net.hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", host,
            ]);
            must(&["-n", &net.hub, "link", "set", &port, "master", "bridge", "up"]);
            must(&["-n", host, "addr", "add", &format!("{}/24", net.address(index)), "dev", "eth0"]);
            must(&["-n", host, "link", "set", "eth0", "up"]);
            must(&["-n", host, "link", "set", "lo", "up"]);
        }
        net
    }

    /// The address of a host.
    pub(crate) fn address(&self, host: usize) -> String {
        format!("10.77.0.{}", host + 1)
    }

    /// A program that runs at a host.
    pub(crate) fn command(&self, host: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.hosts[host], program]);
        command
    }

    /// Cuts a host off.
    pub(crate) fn cut(&self, host: usize) {
        must(&["-n", &self.hub, "link", "set", &format!("port{host}"), "down"]);
    }

    /// Joins it again.
    pub(crate) fn join(&self, host: usize) {
        must(&["-n", &self.hub, "link", "set", &format!("port{host}"), "up"]);
    }

    /// Lets little leave a host at a time, and drops what waits for too long.
    pub(crate) fn slow_down(&self, host: usize) {
        assert!(tc(&self.hosts[host], "eth0", &SLOW), "tc {}", SLOW.join(" "));
    }

    /// As fast as it was.
    pub(crate) fn speed_up(&self, host: usize) {
        let status = self.command(host, "tc").args(["qdisc", "del", "dev", "eth0", "root"]).status();
        assert!(status.unwrap().success(), "tc qdisc del");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in self.hosts.iter().chain([&self.hub]) {
            ip(&["netns", "del", name]);
        }
    }
}
