//! How many file descriptors the process may have: each connection takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::settings::Configuration;

/// Descriptors beside those of connections: standard streams, listeners, the runtime's own, and files such as certificates
/// while they are read.
const RESERVE: u64 = 64;

/// Descriptors of one thread that serves connections: with what it waits for events, and is woken.
const PER_WORKER: u64 = 4;

/// Connections that suffice where nobody has said how many there will be.
const ENOUGH: u64 = 4096;

/// What the system allows this process. `None` stands for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptors(Option<u64>);

impl Descriptors {
    /// Raises the limit in force to the one that may be asked for. The lower one is there for programs that cannot deal
    /// with high numbers.
    pub(crate) fn raise() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current == maximum {
            tracing::debug!(limit = shown(current), "open files");
            return Self(current);
        }
        match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            Ok(()) => {
                tracing::debug!(
                    limit = shown(maximum),
                    before = shown(current),
                    "open files: raised the limit"
                );
                Self(maximum)
            }
            Err(error) => {
                tracing::debug!(limit = shown(current), %error, "open files: cannot raise the limit");
                Self(current)
            }
        }
    }

    /// What is to be said if not all connections of this configuration can be had at a time; `chosen` when somebody has
    /// said how many these are.
    pub(crate) fn warning(self, configuration: &Configuration, chosen: bool) -> Option<String> {
        let limit = self.0?;
        let wanted = configuration.bus.max_sessions;
        let workers = u64::try_from(configuration.workers).unwrap_or(u64::MAX);
        let room = limit.saturating_sub(RESERVE).saturating_sub(workers.saturating_mul(PER_WORKER));
        if u64::try_from(wanted).is_ok_and(|wanted| wanted <= room) || (!chosen && room >= ENOUGH) {
            return None;
        }
        Some(format!(
            "max_connections is {wanted}, and this process may have {limit} open files, which is enough for {room} \
             (those over QUIC need none): others will have to wait. Allow it more (LimitNOFILE= in the unit file, \
             `ulimit -Hn` in a shell), or lower max_connections"
        ))
    }
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_warned_of_that_has_no_room_for_all_connections_beside_the_rest() {
        let mut configuration = Configuration { workers: 2, ..Configuration::default() };
        configuration.bus.max_sessions = 1000;
        let warning = |limit| Descriptors(limit).warning(&configuration, true);
        assert_eq!(warning(None), None);
        assert_eq!(warning(Some(1000 + RESERVE + 2 * PER_WORKER)), None);
        let said = warning(Some(999 + RESERVE + 2 * PER_WORKER)).unwrap();
        assert!(said.contains("max_connections is 1000") && said.contains("enough for 999"), "{said}");
        assert!(warning(Some(1)).unwrap().contains("enough for 0"));
        configuration.bus.max_sessions = 1_000_000;
        let by_default = |limit| Descriptors(Some(limit)).warning(&configuration, false);
        assert_eq!(by_default(20_000), None);
        assert!(by_default(1024).is_some(), "few, whatever was chosen");
    }
}
