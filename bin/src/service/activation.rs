//! Sockets that a service manager has made and passed on: the protocol of `sd_listen_fds`.
//!
//! `LISTEN_FDS` says how many there are, from descriptor 3 on, `LISTEN_PID` whom they are for, and
//! `LISTEN_FDNAMES` how they are called.

use std::env::{self, VarError};
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;
use whispeer::transport::PassedSocket;

use super::assignment::NetworkSocket;
use crate::failure::{FAILED, Failure};

/// Sockets that are taken from a service manager; more are taken for a mistake.
const SOCKETS: usize = 64;

/// The descriptor of the first one.
const FIRST: usize = 3;

/// The sockets that were passed to this process.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    pub(crate) unix: Vec<UnixListener>,
    pub(crate) network: Vec<NetworkSocket>,
}

/// One of them, by its kind.
enum Socket {
    Unix(UnixListener),
    Network(PassedSocket),
}

impl Passed {
    /// Takes them over, once. To be called before the process has a second thread: it changes the
    /// environment, so that no other process takes them for its own.
    ///
    /// # Errors
    /// What was passed cannot be listened on. A bus that ignored it would leave clients waiting that have
    /// connected already.
    pub(crate) fn take() -> anyhow::Result<Self> {
        let names = env::var("LISTEN_FDNAMES").ok();
        let pid = env::var("LISTEN_PID").ok();
        let count = match env::var("LISTEN_FDS") {
            Ok(count) => count,
            Err(VarError::NotPresent) => return Ok(Self::default()),
            Err(VarError::NotUnicode(_)) => String::new(),
        };
        if pid.and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
            // They were for the process that has started this one.
            tracing::debug!("LISTEN_FDS is not for this process, as LISTEN_PID says");
            return Ok(Self::default());
        }
        let names = names_of(&count, names.as_deref())?;
        let mut descriptors = ListenFd::from_env();
        let mut passed = Self::default();
        for (index, name) in names.into_iter().enumerate() {
            match take(&mut descriptors, index) {
                Some(Socket::Unix(listener)) => passed.unix.push(listener),
                Some(Socket::Network(socket)) => {
                    passed.network.push(NetworkSocket { descriptor: FIRST + index, name, socket });
                }
                None => return Err(unusable(FIRST + index, &name)),
            }
        }
        Ok(passed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.unix.is_empty() && self.network.is_empty()
    }
}

/// Takes one descriptor over, so that it is not passed on to further processes. Each attempt leaves alone what is of
/// another kind.
fn take(descriptors: &mut ListenFd, index: usize) -> Option<Socket> {
    if let Ok(Some(listener)) = descriptors.take_unix_listener(index) {
        return Some(Socket::Unix(listener));
    }
    if let Ok(Some(listener)) = descriptors.take_tcp_listener(index) {
        return Some(Socket::Network(listener.into()));
    }
    match descriptors.take_udp_socket(index) {
        Ok(Some(socket)) => Some(Socket::Network(socket.into())),
        _ => None,
    }
}

/// The names of the sockets, as many as there are.
fn names_of(count: &str, names: Option<&str>) -> anyhow::Result<Vec<String>> {
    let number = count.parse().ok().filter(|number| (1..=SOCKETS).contains(number));
    let Some(number) = number else {
        let failure = Failure::new(FAILED, format!("LISTEN_FDS is \"{count}\""));
        return Err(failure
            .help(format!("a service manager sets it to the number of sockets, 1 to {SOCKETS}"))
            .into());
    };
    let Some(names) = names else { return Ok(vec!["unknown".to_owned(); number]) };
    let names: Vec<_> = names.split(':').map(ToOwned::to_owned).collect();
    if names.len() != number {
        let text = format!("LISTEN_FDNAMES has {} names, and LISTEN_FDS says {number} sockets", names.len());
        let failure = Failure::new(FAILED, text);
        return Err(failure.help("a service manager sets both alike").into());
    }
    Ok(names)
}

fn unusable(descriptor: usize, name: &str) -> anyhow::Error {
    let text = format!(
        "the service manager has passed descriptor {descriptor} ({name}), which is no stream socket of Unix or TCP, and \
         none of UDP"
    );
    let help =
        "in its .socket unit, say what the bus listens on by ListenStream=, or for QUIC by ListenDatagram=";
    Failure::new(FAILED, text).help(help).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_number_of_sockets_have_to_agree() {
        assert_eq!(names_of("2", Some("bus:other")).unwrap(), ["bus", "other"]);
        assert_eq!(names_of("2", None).unwrap().len(), 2);
        for (count, names) in
            [("2", Some("bus")), ("0", None), ("", None), ("-1", None), ("65", None), ("x", None)]
        {
            assert!(names_of(count, names).is_err(), "{count} {names:?}");
        }
    }
}
