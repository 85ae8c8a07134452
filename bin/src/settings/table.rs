//! The table of all settings.

use super::kind::Kind;
use super::{StoreChoice, Tls};
use crate::logging;

/// A setting of `whispeer serve`.
pub(crate) struct Setting {
    /// Its name in the file. A dot stands for a table: `tls.cert` is `cert` in `[tls]`.
    pub(crate) key: &'static str,
    /// What it is, in one line; the help of its flag.
    pub(crate) about: &'static str,
    /// What is to be known beside, for the example; lines of at most 96 characters.
    pub(crate) more: &'static [&'static str],
    /// What its value is, and where it stands in a configuration.
    pub(crate) kind: Kind,
    /// Another variable that it is known by elsewhere, which counts where its own is not set.
    pub(crate) other_variable: Option<&'static str>,
    /// A value to show in the example where the default says nothing, or differs from one machine to the
    /// next, and how to say what the default is.
    pub(crate) example: Option<(&'static str, &'static str)>,
    /// When a new value in the file takes effect.
    pub(crate) change: Change,
}

/// When a new value takes effect after the file has been reread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// At once.
    Now,
    /// For connections that are made from then on.
    NewConnections,
    /// When the bus is started again.
    Restart,
}

impl Setting {
    pub(super) const fn new(key: &'static str, about: &'static str, kind: Kind) -> Self {
        Self { key, about, more: &[], kind, other_variable: None, example: None, change: Change::Restart }
    }

    const fn more(mut self, more: &'static [&'static str]) -> Self {
        self.more = more;
        self
    }

    const fn also(mut self, variable: &'static str) -> Self {
        self.other_variable = Some(variable);
        self
    }

    const fn example(mut self, value: &'static str, default: &'static str) -> Self {
        self.example = Some((value, default));
        self
    }

    const fn change(mut self, change: Change) -> Self {
        self.change = change;
        self
    }

    /// Its flag, without the dashes: `tls.cert` and `frame_limit` are `tls-cert` and `frame-limit`. The URL of a table is the table's own:
    /// `nats.url` is `nats`.
    pub(crate) fn flag(&self) -> String {
        self.key.strip_suffix(".url").unwrap_or(self.key).replace(['.', '_'], "-")
    }

    /// Its variable of the environment.
    pub(crate) fn variable(&self) -> String {
        format!("WHISPEER_{}", self.key.replace('.', "_").to_ascii_uppercase())
    }
}

/// The settings, in the order in which they are shown.
pub(crate) static SETTINGS: &[Setting] = &[
    Setting::new(
        "listen",
        "Where to listen: a socket's path, {tcp,tls,quic,http}://HOST:PORT, {ws,wss}://HOST:PORT/PATH or @NAME",
        Kind::Addresses(|all| &mut all.listen),
    )
    .more(&["In the environment a comma stands between addresses."])
    .example(r#"["unix:my_bus"]"#, "WHISPEER_ADDR, or what the service manager passes"),
    Setting::new(
        "mode",
        "Permission bits of the sockets, in octal; whoever may write to a socket may connect",
        Kind::Mode(|all| &mut all.mode),
    )
    .more(&["A socket that the service manager has made keeps the mode that it was made with."]),
    Setting::new(
        "allow_anyone",
        "Listen on addresses that other hosts can reach, although nobody is asked who he is",
        Kind::Switch(|all| &mut all.allow_anyone),
    ),
    Setting::new(
        "policy",
        "File that says who may do what; see docs/AUTHENTICATION.md",
        Kind::Path(|all| &mut all.policy),
    )
    .more(&["It may also stand in this file, under [auth]. SIGHUP reads it again, and sessions follow it."])
    .example(r#""/etc/whispeer/policy.toml""#, "none, and nobody is asked who he is"),
    Setting::new(
        "grace",
        "How long to let clients finish when asked to end",
        Kind::Time(|all| &mut all.grace),
    )
    .change(Change::Now),
    Setting::new(
        "log",
        "What to log on standard error: error, warn, info, debug, trace, or filters such as whispeer=debug",
        Kind::Filter(|all| &mut all.log),
    )
    .change(Change::Now)
    .more(&["-v stands for info, -vv for debug, -vvv for trace."]),
    Setting::new(
        "log_format",
        "How to log: lines of text, or a JSON object a line",
        Kind::Choice(&[logging::TEXT, logging::JSON], |all| &mut all.log_format),
    )
    .change(Change::Now),
    Setting::new(
        "telemetry.endpoint",
        "OpenTelemetry collector that gets spans of requests by HTTP, as OTLP over HTTP",
        Kind::Url(|all| &mut all.telemetry_endpoint),
    )
    .more(&[
        "It goes before OTEL_EXPORTER_OTLP_ENDPOINT as a flag or variable, and behind it in this file.",
        "Headers for it, in which there are secrets, stand in OTEL_EXPORTER_OTLP_HEADERS alone.",
    ])
    .example(r#""http://localhost:4318""#, "OTEL_EXPORTER_OTLP_ENDPOINT, or nothing is exported"),
    Setting::new("workers", "Threads that serve connections", Kind::Count(|all| &mut all.workers))
        .example("4", "one for each core")
        .more(&["With 0, connections are served on the process's main thread."]),
    Setting::new(
        "tls.cert",
        "Certificate of the bus, in PEM, with those that lead from it to its CA",
        Kind::Path(|all| &mut all.tls.cert),
    )
    .more(&["`whispeer certs` makes certificates. SIGHUP reads the files again, and needs no other name."])
    .example(r#""/etc/whispeer/server.pem""#, "none, and no TLS"),
    Setting::new("tls.key", "Private key of the certificate, in PEM", Kind::Path(|all| &mut all.tls.key))
        .example(r#""/etc/whispeer/server.key""#, "none"),
    Setting::new(
        "tls.client_ca",
        "CA whose certificates clients have to show, in PEM",
        Kind::Path(|all| &mut all.tls.client_ca),
    )
    .example(r#""/etc/whispeer/ca.pem""#, "none, and clients are not asked"),
    Setting::new(
        "tls.client_auth",
        "Whether clients have to show a certificate, where there is a CA to check them by",
        Kind::Choice(&[Tls::REQUIRED, Tls::OPTIONAL], |all| &mut all.tls.client_auth),
    ),
    Setting::new(
        "tls.crl",
        "List of revoked certificates of clients, in PEM",
        Kind::Path(|all| &mut all.tls.crl),
    )
    .example(r#""/etc/whispeer/crl.pem""#, "none"),
    Setting::new(
        "tls.min_version",
        "Oldest version of TLS that is spoken",
        Kind::Choice(&[Tls::VERSION_1_3, Tls::VERSION_1_2], |all| &mut all.tls.min_version),
    ),
    Setting::new(
        "websocket.origins",
        "Origins of web pages that may connect by WebSocket",
        Kind::Words(|all| &mut all.websocket.origins),
    )
    .more(&["Programs that are no browsers send no origin, and are let in."])
    .example(r#"["https://app.example.com"]"#, "none, and no page of a browser is let in"),
    Setting::new(
        "websocket.hosts",
        "Names of the bus that requests by WebSocket may be addressed to",
        Kind::Words(|all| &mut all.websocket.hosts),
    )
    .more(&["IP addresses, localhost and the host that is listened on need not be listed."])
    .example(r#"["bus.example.com"]"#, "none but these"),
    Setting::new(
        "dev",
        "Speak all dialects at http:// addresses, with secrets that are drawn at the start and printed",
        Kind::Switch(|all| &mut all.gateway.dev),
    )
    .more(&["For trying things out on one's own machine: http:// addresses have to be of the loopback then."]),
    Setting::new(
        "gateway.origins",
        "Origins of web pages that may use http:// addresses",
        Kind::Words(|all| &mut all.gateway.origins),
    )
    .more(&["On the loopback, pages that the gateway serves itself need not be listed."])
    .example(r#"["https://app.example.com"]"#, "none but its own on the loopback"),
    Setting::new(
        "gateway.hosts",
        "Names of the gateway that requests by HTTP may be addressed to",
        Kind::Words(|all| &mut all.gateway.hosts),
    )
    .more(&["IP addresses, localhost and hosts of listed origins need not be listed."])
    .example(r#"["bus.example.com"]"#, "none but these"),
    Setting::new(
        "gateway.pages",
        "Folder whose files are served at http:// addresses",
        Kind::Path(|all| &mut all.gateway.pages),
    )
    .example(r#""/srv/pages""#, "none"),
    Setting::new(
        "gateway.max_connections",
        "Connections by HTTP",
        Kind::Count(|all| &mut all.gateway.max_connections),
    ),
    Setting::new(
        "gateway.max_connections_per_address",
        "Connections by HTTP of one address, of one /64 with IPv6, the loopback aside",
        Kind::Count(|all| &mut all.gateway.max_connections_per_address),
    ),
    Setting::new(
        "gateway.body_limit",
        "Largest body of a request by HTTP, and largest message on a WebSocket",
        Kind::Size(|all| &mut all.gateway.body_limit),
    ),
    Setting::new(
        "gateway.bodies_limit",
        "All bodies and messages together that are being received by HTTP",
        Kind::Size(|all| &mut all.gateway.bodies_limit),
    ),
    Setting::new(
        "gateway.rate",
        "Requests by HTTP and messages of one address in a second",
        Kind::Count(|all| &mut all.gateway.rate),
    )
    .more(&["Twice as many may come at once."]),
    Setting::new(
        "gateway.request_timeout",
        "How long a request by HTTP may take",
        Kind::Time(|all| &mut all.gateway.request_timeout),
    ),
    Setting::new(
        "gateway.metrics_token",
        "File with the bearer token that /metrics asks for",
        Kind::Path(|all| &mut all.gateway.metrics_token),
    )
    .example(r#""/etc/whispeer/metrics.token""#, "none, and it is served to this host alone"),
    Setting::new(
        "gateway.keyring",
        "Keyring with which encrypted payloads become JSON, and what comes by HTTP is encrypted",
        Kind::Path(|all| &mut all.gateway.keyring),
    )
    .more(&["Whoever may subscribe by HTTP then reads them. `whispeer keys` makes keyrings."])
    .example(r#""/etc/whispeer/team.keys""#, "none, and they pass as they are"),
    Setting::new(
        "gateway.keyring_topics",
        "Patterns of the topics that the keyring is for",
        Kind::Words(|all| &mut all.gateway.keyring_topics),
    )
    .more(&["What is encrypted on others passes as it is."]),
    Setting::new(
        "turbine.key",
        "File with the secret that signs tokens of the Turbine dialect (HS256); it is spoken at /ws then",
        Kind::Path(|all| &mut all.turbine.key),
    )
    .more(&["At least 32 bytes: `openssl rand -base64 32`. The line is the secret, as text."])
    .example(r#""/etc/whispeer/turbine.key""#, "none, and it is not spoken"),
    Setting::new(
        "turbine.audience",
        "What its tokens have to be made out to",
        Kind::Words(|all| &mut all.turbine.audience),
    )
    .example(r#"["turbine"]"#, "nothing"),
    Setting::new(
        "turbine.api_keys",
        "File with the keys that POST /api/publish asks for, a line each",
        Kind::Path(|all| &mut all.turbine.api_keys),
    )
    .example(r#""/etc/whispeer/turbine-api.keys""#, "none, and nobody publishes there"),
    Setting::new(
        "turbine.roles",
        "Roles of the policy that its sessions have",
        Kind::Words(|all| &mut all.turbine.roles),
    )
    .example(r#"["turbine"]"#, "none; a bus without a policy asks for none"),
    Setting::new(
        "turbine.publish_roles",
        "Roles of the policy that POST /api/publish has",
        Kind::Words(|all| &mut all.turbine.publish_roles),
    )
    .example(r#"["turbine-publisher"]"#, "none; a bus without a policy asks for none"),
    Setting::new(
        "turbine.patterns",
        "Let its channels be patterns with wildcards",
        Kind::Switch(|all| &mut all.turbine.patterns),
    ),
    Setting::new(
        "turbine.max_subscriptions",
        "Subscriptions of one of its sessions",
        Kind::Count(|all| &mut all.turbine.max_subscriptions),
    ),
    Setting::new(
        "turbine.buffer",
        "Messages that wait for one of its sessions and channels; more are dropped, and counted",
        Kind::Count(|all| &mut all.turbine.buffer),
    ),
    Setting::new(
        "popsub.key",
        "File with the secret that signs tokens of the PopSub dialect (HS256); it is spoken at /popsub then",
        Kind::Path(|all| &mut all.popsub.key),
    )
    .more(&["SERVER_JWT_SECRET, in the environment or in .env, is the secret itself."])
    .example(r#""/etc/whispeer/popsub.key""#, "none, and it is not spoken"),
    Setting::new(
        "popsub.users",
        "File with those who may log in to it: tables [[users]] with name, password and roles",
        Kind::Path(|all| &mut all.popsub.users),
    )
    .more(&["The password is a hash; `whispeer passwd` makes it."])
    .example(r#""/etc/whispeer/popsub-users.toml""#, "none, and nobody can"),
    Setting::new(
        "popsub.roles",
        "Roles of the policy that its users have who have none of their own",
        Kind::Words(|all| &mut all.popsub.roles),
    )
    .example(r#"["popsub"]"#, "none; a bus without a policy asks for none"),
    Setting::new("popsub.at_root", "Speak it at / as well", Kind::Switch(|all| &mut all.popsub.at_root)),
    Setting::new(
        "popsub.token_lifetime",
        "How long a token is good that a login gives",
        Kind::Time(|all| &mut all.popsub.token_lifetime),
    ),
    Setting::new(
        "popsub.replay",
        "Messages of a topic that a new subscriber gets first",
        Kind::Count(|all| &mut all.popsub.replay),
    ),
    Setting::new(
        "popsub.replay_of",
        "The same of single topics, as TOPIC=COUNT",
        Kind::Words(|all| &mut all.popsub.replay_of),
    )
    .example(r#"["chat=100"]"#, "none, and it is the same for all"),
    Setting::new(
        "popsub.replay_bytes",
        "Bytes that are kept for that, of all topics",
        Kind::Size(|all| &mut all.popsub.replay_bytes),
    ),
    Setting::new(
        "popsub.ack_timeout",
        "How long a subscriber may take to acknowledge before a message is sent again",
        Kind::Time(|all| &mut all.popsub.ack_timeout),
    ),
    Setting::new(
        "popsub.retries",
        "How many times it is sent again",
        Kind::Count(|all| &mut all.popsub.retries),
    ),
    Setting::new(
        "popsub.max_subscriptions",
        "Subscriptions of one of its sessions",
        Kind::Count(|all| &mut all.popsub.max_subscriptions),
    ),
    Setting::new(
        "popsub.buffer",
        "Messages that wait for one of its sessions and topics; more are dropped, and counted",
        Kind::Count(|all| &mut all.popsub.buffer),
    ),
    Setting::new(
        "nats.url",
        "Servers of NATS over which the bus is joined to others, as nats:// or tls://HOST:PORT",
        Kind::Servers(|all| &mut all.nats.url),
    )
    .more(&[
        "One server of a cluster is enough; a comma stands between several.",
        "USER:PASSWORD@ or TOKEN@ before the host says who the bus is there.",
        "A bus starts without NATS, and joins when it is there.",
    ])
    .also("NATS_URL")
    .example(r#""nats://localhost:4222""#, "none, and the bus is alone"),
    Setting::new(
        "nats.prefix",
        "What all subjects of the joined buses begin with at NATS",
        Kind::Word(|all| &mut all.nats.prefix),
    )
    .more(&["Buses with different prefixes do not hear each other."])
    .also("NATS_PREFIX"),
    Setting::new(
        "nats.credentials",
        "File with the credentials of the bus at NATS, as nsc writes it",
        Kind::Path(|all| &mut all.nats.credentials),
    )
    .example(r#""/etc/whispeer/bus.creds""#, "none"),
    Setting::new(
        "nats.nkey",
        "File with the seed of the bus's NKey",
        Kind::Path(|all| &mut all.nats.nkey),
    )
    .example(r#""/etc/whispeer/bus.nk""#, "none"),
    Setting::new(
        "nats.ca",
        "CA whose certificates servers of NATS have to show, in PEM",
        Kind::Path(|all| &mut all.nats.ca),
    )
    .example(r#""/etc/whispeer/nats-ca.pem""#, "those of the system"),
    Setting::new(
        "nats.cert",
        "Certificate that the bus shows to NATS, in PEM",
        Kind::Path(|all| &mut all.nats.cert),
    )
    .example(r#""/etc/whispeer/nats-client.pem""#, "none"),
    Setting::new("nats.key", "Private key of that certificate, in PEM", Kind::Path(|all| &mut all.nats.key))
        .example(r#""/etc/whispeer/nats-client.key""#, "none"),
    Setting::new(
        "nats.batch",
        "Send messages of one topic that follow each other closely to NATS as one",
        Kind::Switch(|all| &mut all.nats.batch),
    )
    .more(&[
        "Small messages take a fraction of the time then. Each bus reads them; programs that know",
        "nothing but NATS do not. Nothing waits for it.",
    ]),
    Setting::new(
        "nats.replicas",
        "On how many servers of NATS streams lie with storage = \"jetstream\": 1, 3 or 5",
        Kind::Count(|all| &mut all.nats.replicas),
    )
    .more(&[
        "With 3 one server may be lost, with 5 two. It counts for the first bus that keeps a stream under",
        "the prefix; what is there stays as it is, and is changed at NATS.",
    ]),
    Setting::new(
        "nats.lease_replicas",
        "Copies that NATS keeps of which bus is the only one to serve a topic",
        Kind::Count(|all| &mut all.nats.lease_replicas),
    )
    .more(&[
        "3 to outlive one server of a cluster. It counts for who makes the bucket, the first bus.",
        "0 for none: then each bus decides by itself who is the only server of a topic.",
    ]),
    Setting::new(
        "store.folder",
        "Folder in which streams are kept that outlive the bus",
        Kind::Path(|all| &mut all.store.folder),
    )
    .more(&["One bus at a time has it. It is made for its owner alone where it is missing."])
    .example(
        r#""/var/lib/whispeer""#,
        "$STATE_DIRECTORY, $XDG_STATE_HOME/whispeer or ~/.local/state/whispeer",
    ),
    Setting::new(
        "store.durability",
        "What becomes of acknowledged messages of streams if the machine loses its power",
        Kind::Choice(&[StoreChoice::SURVIVES_POWER_LOSS, StoreChoice::POWER_LOSS_LOSES_THE_LATEST], |all| {
            &mut all.store.durability
        }),
    )
    .more(&[
        "The latest are those of the last seconds. If the bus alone ends, however it does, none is lost.",
    ]),
    Setting::new(
        "frame_limit",
        "Largest frame: a payload with its topic and headers",
        Kind::Size(|all| &mut all.bus.frame_limit),
    ),
    Setting::new(
        "byte_budget",
        "Bytes that all queues together may hold",
        Kind::Size(|all| &mut all.bus.byte_budget),
    ),
    Setting::new(
        "table_budget",
        "Bytes that all subscriptions and servings may take; one connection may take a quarter",
        Kind::Size(|all| &mut all.bus.table_budget),
    ),
    Setting::new(
        "block_limit",
        "How long a subscription without room may hold a publisher up",
        Kind::Time(|all| &mut all.bus.block_limit),
    ),
    Setting::new(
        "block",
        "Let subscriptions hold publishers up (policy block); otherwise they are refused",
        Kind::Switch(|all| &mut all.bus.allow_block),
    )
    .change(Change::Now)
    .more(&["Those that there are go on."]),
    Setting::new(
        "publish_window",
        "Messages, and bytes, that a session may have published and not yet resolved",
        Kind::Window(|all| &mut all.bus.publish_window),
    ),
    Setting::new("max_connections", "Connections", Kind::Count(|all| &mut all.bus.max_sessions))
        .change(Change::NewConnections)
        .more(&["Those beyond a lowered limit stay."]),
    Setting::new(
        "max_connections_per_address",
        "Connections of one address of a network, of one /64 with IPv6, the loopback aside",
        Kind::Count(|all| &mut all.bus.max_sessions_per_address),
    )
    .change(Change::NewConnections),
    Setting::new(
        "max_connections_per_principal",
        "Connections of one user of this host, or of somebody by a name that he has proven",
        Kind::Count(|all| &mut all.bus.max_sessions_per_principal),
    )
    .change(Change::NewConnections),
    Setting::new(
        "max_consumers_per_principal",
        "Durable consumers, and groups, that one principal may make in a stream, where there is a policy",
        Kind::Count(|all| &mut all.bus.max_consumers_per_principal),
    )
    .change(Change::Now)
    .more(&["Those beyond a lowered limit stay."]),
    Setting::new(
        "max_subscriptions",
        "Subscriptions of one connection",
        Kind::Count(|all| &mut all.bus.max_subscriptions),
    ),
    Setting::new(
        "max_servings",
        "Topics that one connection may serve",
        Kind::Count(|all| &mut all.bus.max_servings),
    )
    .change(Change::Now)
    .more(&["Those beyond a lowered limit stay."]),
    Setting::new(
        "max_requests",
        "Unanswered requests of one connection",
        Kind::Count(|all| &mut all.bus.max_requests),
    ),
    Setting::new(
        "request_bytes",
        "Bytes of unanswered requests of one connection",
        Kind::Size(|all| &mut all.bus.request_bytes),
    ),
    Setting::new(
        "keep_alive",
        "How often each side gives a sign of life",
        Kind::Time(|all| &mut all.bus.keep_alive),
    )
    .change(Change::NewConnections)
    .more(&["Three times that long without one ends a connection."]),
    Setting::new(
        "stall_limit",
        "How long a client may leave everything unread before it is cut off",
        Kind::Time(|all| &mut all.bus.stall_limit),
    )
    .change(Change::Now),
    Setting::new(
        "resume_limit",
        "How long a session whose connection over a network broke waits for its client; 0 for not at all",
        Kind::Time(|all| &mut all.bus.resume_limit),
    )
    .change(Change::Now),
    Setting::new(
        "handshake_timeout",
        "How long a client may take to introduce itself",
        Kind::Time(|all| &mut all.bus.handshake_timeout),
    )
    .change(Change::NewConnections),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use whispeer::bus::Bus;

    use super::super::Configuration;
    use super::*;

    #[test]
    fn no_two_settings_share_a_flag_or_a_variable() {
        let flags: HashSet<_> = SETTINGS.iter().map(Setting::flag).collect();
        let variables: HashSet<_> = SETTINGS.iter().map(Setting::variable).collect();
        assert_eq!((flags.len(), variables.len()), (SETTINGS.len(), SETTINGS.len()));
        for setting in SETTINGS {
            let word = |character: char| character.is_ascii_lowercase() || "_.".contains(character);
            assert!(setting.key.chars().all(word), "{}", setting.key);
            assert!(setting.more.iter().all(|line| line.len() <= 96), "{}", setting.key);
        }
    }

    #[test]
    fn a_setting_in_a_table_has_a_flag_and_a_variable_of_one_word() {
        let setting = Setting::new("tls.client_ca", "", Kind::Count(|all| &mut all.workers));
        assert_eq!(setting.flag(), "tls-client-ca");
        assert_eq!(setting.variable(), "WHISPEER_TLS_CLIENT_CA");
    }

    /// The binary's own settings are changed by the binary.
    fn is_own(setting: &Setting) -> bool {
        ["listen", "dev", "mode", "allow_anyone", "policy", "grace", "log", "log_format", "workers"]
            .contains(&setting.key)
            || ["tls.", "websocket.", "gateway.", "turbine.", "popsub.", "store.", "telemetry.", "nats."]
                .iter()
                .any(|table| setting.key.starts_with(table))
    }

    #[tokio::test]
    async fn the_table_and_the_bus_agree_on_what_can_change_while_it_runs() {
        let of_the_bus = SETTINGS.iter().filter(|setting| !is_own(setting));
        for setting in of_the_bus {
            let bus = Bus::builder().start().unwrap();
            let mut changed = Configuration::default();
            match setting.kind {
                Kind::Size(place) | Kind::Count(place) => *place(&mut changed) -= 1,
                Kind::Time(place) => *place(&mut changed) *= 2,
                Kind::Switch(place) => *place(&mut changed) = !*place(&mut changed),
                Kind::Window(place) => place(&mut changed).0 -= 1,
                _ => panic!("{}: say here how to change it", setting.key),
            }
            let applied = bus.apply(&changed.bus).unwrap();
            let expected = match setting.change {
                Change::Restart => (0, 1),
                Change::Now | Change::NewConnections => (1, 0),
            };
            assert_eq!((applied.now.len(), applied.at_restart.len()), expected, "{}", setting.key);
        }
    }
}
