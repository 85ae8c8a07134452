//! `whispeer info --cluster`: all buses that one is joined with.

use bytes::Bytes;
use whispeer::BusError;
use whispeer::bus::ClusterStats;
use whispeer::json::push_json;

use super::{dropped, name_or_dash};
use crate::connection::Connection;
use crate::failure::{FAILED, Failure};
use crate::output::{Align, Table};
use crate::quantity::{human_count, human_duration, human_size};

/// Where a bus that is joined with others tells how all are.
const TOPIC: &str = "$bus/cluster";

/// Asks how all buses are; the answer is as it came.
pub(in crate::commands) async fn ask(connection: &Connection) -> anyhow::Result<Bytes> {
    match connection.client.request_bytes(TOPIC, Bytes::new()).await {
        Err(BusError::NoServer { .. }) => {
            let failure = Failure::new(FAILED, "this bus is not joined with others");
            Err(failure
                .help("`whispeer serve --nats URL` joins it to all that have the same servers of NATS")
                .into())
        }
        answer => connection.check(answer),
    }
}

/// # Errors
/// That it is of another release.
pub(in crate::commands) fn read(answer: &[u8]) -> anyhow::Result<ClusterStats> {
    rmp_serde::from_slice(answer).map_err(|error| {
        let failure = Failure::new(FAILED, format!("the answer on {TOPIC} is not understood: {error}"));
        failure.help("use matching releases of this command and of the bus").into()
    })
}

pub(super) fn json(answer: &Bytes) -> Vec<u8> {
    let mut text = Vec::new();
    push_json(answer, &mut text);
    text.push(b'\n');
    text
}

pub(super) fn render(cluster: &ClusterStats) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("BUS", Left),
        ("NAME", Left),
        ("VERSION", Left),
        ("UP", Right),
        ("LINK", Left),
        ("SESSIONS", Right),
        ("SUBS", Right),
        ("SERVES", Right),
        ("QUEUED", Right),
        ("PUBLISHED", Right),
        ("DELIVERED", Right),
        ("DROPPED", Left),
    ]);
    for bus in &cluster.buses {
        let stats = &bus.stats;
        let links = stats.links.iter().map(|link| name_or_dash(&link.state)).collect::<Vec<_>>().join(", ");
        table.row(vec![
            format!("{:016x}", bus.id),
            name_or_dash(&bus.name),
            format!("{}{}", stats.version, if stats.draining { ", draining" } else { "" }),
            human_duration(stats.uptime),
            name_or_dash(&links),
            human_count(stats.sessions as u64),
            human_count(stats.subscriptions as u64),
            human_count(stats.served_topics as u64),
            human_size(stats.queued_bytes as u64),
            human_count(stats.published),
            human_count(stats.delivered),
            dropped(&stats.dropped),
        ]);
    }
    let mut text = table.render();
    for id in &cluster.silent {
        text.push_str(&format!("{id:016x}  has not answered within a second\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use whispeer::bus::ClusterBus;

    use super::*;

    #[test]
    fn all_buses_are_shown_and_those_that_do_not_answer() {
        let bus = ClusterBus { id: 7, name: "shop\n1".into(), ..ClusterBus::default() };
        let text = render(&ClusterStats { buses: vec![bus], silent: vec![8] });
        assert!(text.contains("0000000000000007  shop\u{fffd}1"), "{text}");
        assert!(text.contains("\n0000000000000008  has not answered"), "{text}");
    }
}
