//! What joins the bus to others over NATS.

pub(crate) use whispeer_cluster_nats::NatsCluster as NatsLink;
use whispeer_cluster_nats::requests::LeaseSettings;
use whispeer_cluster_nats::{NatsError, NatsSettings};

use crate::failure::Failure;
use crate::settings::{Configuration, NatsChoice};

/// Copies of a stream that NATS can keep.
const MOST_REPLICAS: usize = 5;

/// Opens the link that the configuration asks for. It does not wait for NATS.
///
/// # Errors
/// What is wrong with its settings, and what to do about it.
pub(crate) async fn open(configuration: &Configuration) -> anyhow::Result<Option<NatsLink>> {
    let Some(settings) = settings(&configuration.nats)? else { return Ok(None) };
    let host = rustix::system::uname();
    let settings = settings.name(name(&configuration.listen, &host.nodename().to_string_lossy()));
    Ok(Some(NatsLink::open(&settings).await.map_err(|error| explain(&error))?))
}

/// What a bus is called among others, that listens there at this host: `my_bus@host`.
fn name(listen: &[String], host: &str) -> String {
    let Some(first) = listen.first() else { return host.to_owned() };
    let bus = first.rsplit('/').find(|part| !part.is_empty()).unwrap_or(first);
    format!("{}@{host}", bus.strip_prefix("unix:").unwrap_or(bus))
}

/// The settings that a configuration asks for; `None` without a server.
///
/// # Errors
/// What is wrong with them, and what to do about it.
pub(crate) fn settings(chosen: &NatsChoice) -> anyhow::Result<Option<NatsSettings>> {
    let Some(url) = &chosen.url else {
        let files = [
            ("nats.credentials", &chosen.credentials),
            ("nats.nkey", &chosen.nkey),
            ("nats.ca", &chosen.ca),
            ("nats.cert", &chosen.cert),
            ("nats.key", &chosen.key),
        ];
        return match files.into_iter().find(|(_, path)| path.is_some()) {
            None => Ok(None),
            Some((key, _)) => {
                let failure = Failure::usage(format!("{key} is given, and no server of NATS"));
                Err(failure.help("name one with --nats URL, such as nats://localhost:4222").into())
            }
        };
    };
    let settings = NatsSettings::new(url.reveal()).and_then(|settings| settings.prefix(&chosen.prefix));
    let mut settings = settings.map_err(|error| explain(&error))?;
    if let Some(path) = &chosen.credentials {
        settings = settings.credentials_file(path);
    }
    if let Some(path) = &chosen.nkey {
        settings = settings.nkey_file(path);
    }
    if let Some(path) = &chosen.ca {
        settings = settings.ca_file(path);
    }
    match (&chosen.cert, &chosen.key) {
        (Some(certificate), Some(key)) => settings = settings.identity_files(certificate, key),
        (None, None) => {}
        (given, _) => {
            let (key, flag) =
                if given.is_none() { ("nats.cert", "--nats-cert") } else { ("nats.key", "--nats-key") };
            let failure = Failure::usage(format!("{key} is missing: a certificate and its key go together"));
            return Err(failure.help(format!("give {flag} FILE")).into());
        }
    }
    let leases = match chosen.lease_replicas {
        0 => None,
        replicas @ ..=MOST_REPLICAS => Some(LeaseSettings { replicas, ..LeaseSettings::default() }),
        other => {
            let failure = Failure::usage(format!(
                "nats.lease_replicas is {other}, and NATS keeps {MOST_REPLICAS} copies at the most"
            ));
            return Err(failure.help("give --nats-lease-replicas 1, 3 or 5, or 0 for no leases").into());
        }
    };
    Ok(Some(settings.leases(leases).batches(chosen.batch)))
}

pub(crate) fn explain(error: &NatsError) -> Failure {
    Failure::usage(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Servers;

    #[test]
    fn a_bus_is_called_by_where_it_listens_and_its_host() {
        let called = |address: &str| name(&[address.to_owned()], "shop-1");
        assert_eq!(called("my_bus"), "my_bus@shop-1");
        assert_eq!(called("unix:my_bus"), "my_bus@shop-1");
        assert_eq!(called("unix:/run/whispeer/orders"), "orders@shop-1");
        assert_eq!(called("tls://0.0.0.0:7000/"), "0.0.0.0:7000@shop-1");
        assert_eq!(name(&[], "shop-1"), "shop-1");
    }

    fn refused(chosen: &NatsChoice) -> String {
        settings(chosen).unwrap_err().to_string()
    }

    #[test]
    fn there_is_no_link_without_a_server_and_what_is_given_for_one_is_missed() {
        assert!(settings(&NatsChoice::default()).unwrap().is_none());
        let alone = NatsChoice { nkey: Some("bus.nk".into()), ..NatsChoice::default() };
        assert!(refused(&alone).contains("nats.nkey is given, and no server"));
    }

    #[test]
    fn what_is_wrong_with_settings_is_told() {
        let local = NatsChoice { url: Some(Servers::new("nats://localhost")), ..NatsChoice::default() };
        assert_eq!(settings(&local).unwrap().unwrap().subjects().prefix(), "whispeer");
        assert!(refused(&NatsChoice { prefix: "a..b".into(), ..local.clone() }).contains("no prefix"));
        assert!(settings(&NatsChoice { lease_replicas: 0, ..local.clone() }).is_ok());
        assert!(refused(&NatsChoice { lease_replicas: 6, ..local.clone() }).contains("5 copies"));
        let half = NatsChoice { cert: Some("bus.pem".into()), ..local };
        assert!(refused(&half).contains("nats.key is missing"));
    }
}
