//! What a policy lets sessions do, from whatever they are known by, and how it changes while they live.

use std::future::{Ready, ready};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use whispeer::auth::{
    Credentials, Policy, Principal, SigningKey, TokenAlgorithm, TokenIssuer, hash_password,
};
use whispeer::bus::{Settings, StopRequest};
use whispeer::client::{ClientEvent, ManyOptions, Reconnect};
use whispeer::prelude::*;
use whispeer::proto::{Capabilities, Hello, Resume};
use whispeer::transport::{
    ClientAuth, ClientTls, ConnectOptions, Peer, ServerTls, connect_with, memory_pair,
};
use whispeer::{Address, limits};
use whispeer_testkit::certificates::Certificates;
use whispeer_testkit::raw::RawPeer;
use whispeer_testkit::relay::Relay;
use whispeer_testkit::wait;

async fn soon<T>(future: impl Future<Output = T>) -> T {
    wait::soon("what is next", future).await
}

pub(crate) const PASSWORD: &str = "correct horse";

/// Its hash at next to no cost, for tests of many checks.
pub(crate) const CHEAP: &str =
    "$argon2id$v=19$m=8,t=1,p=1$c2l4dGVlbiBieXRlcy4uLg$455F/Q/0V4QgHpuquY8a/sPkc4MTJwOUEWuW/ZpQx7Y";

/// A bus that knows alice by her password, the certificate of alice, and who has a token of `login`.
struct Ground {
    bus: BusHandle,
    hash: String,
    key: SigningKey,
    made: Certificates,
}

/// Users read and ask, certificates publish and serve, tokens name their roles.
const POLICY: &str = r#"
[auth.roles.reader]
subscribe.allow = ["sensors/**"]
subscribe.deny = ["sensors/*/raw"]
request.allow = ["sensors/*/calibrate"]

[auth.roles.sensor]
publish.allow = ["sensors/**"]
serve.allow = ["sensors/*/calibrate"]

[auth.roles.operator]
administer = true

[[auth.users]]
name = "alice"
password = "HASH"
roles = ["reader"]

[[auth.certificates]]
name = "alice"
roles = ["sensor"]

[[auth.issuers]]
issuer = "login"
audience = "bus"
algorithm = "HS256"
key = "KEY"
roles = ["reader", "operator"]
"#;

impl Ground {
    fn new() -> Self {
        let made = Certificates::new();
        let hash = hash_password(&PASSWORD.into()).unwrap();
        let key = SigningKey::generate(TokenAlgorithm::HS256).unwrap();
        let tls = ServerTls::pem(made.server.pem(), made.server.key_pem())
            .client_ca_pem(made.authority.pem())
            .client_auth(ClientAuth::Optional);
        let bus = Bus::builder()
            .policy(policy(POLICY, &hash, &key))
            .tls(tls)
            .listen(&"tls://localhost:0".parse().unwrap())
            .listen(&"tcp://localhost:0".parse().unwrap())
            .start()
            .unwrap();
        Self { bus, hash, key, made }
    }

    /// Replaces something in the policy.
    fn change(&self, from: &str, to: &str) {
        assert!(POLICY.contains(from));
        self.bus.set_policy(policy(&POLICY.replace(from, to), &self.hash, &self.key));
    }

    fn address(&self, index: usize) -> String {
        self.bus.local_addrs()[index].to_string()
    }

    async fn connect(&self, credentials: Credentials) -> BusResult<Client> {
        let tls = ClientTls::new().ca_pem(self.made.authority.pem());
        Client::builder().tls(tls).credentials(credentials).connect(&self.address(0)).await
    }

    async fn alice(&self) -> Client {
        self.connect(Credentials::password("alice", PASSWORD)).await.unwrap()
    }

    /// Who has the certificate.
    async fn sensor(&self) -> Client {
        let (pem, key) = (self.made.client.pem(), self.made.client.key_pem());
        let tls = ClientTls::new().ca_pem(self.made.authority.pem()).identity_pem(pem, key);
        Client::builder().tls(tls).connect(&self.address(0)).await.unwrap()
    }

    fn token(&self, role: &str, lifetime: Duration) -> Credentials {
        let key = SigningKey::parse(self.key.to_text().reveal()).unwrap();
        let issuer = TokenIssuer::new(key, "login", "bus").unwrap();
        Credentials::token(issuer.issue("bob", &[role.to_owned()], lifetime).unwrap())
    }

    async fn bob(&self, role: &str) -> Client {
        self.connect(self.token(role, Duration::from_secs(600))).await.unwrap()
    }
}

fn policy(text: &str, hash: &str, key: &SigningKey) -> Policy {
    Policy::from_toml(&text.replace("HASH", hash).replace("KEY", key.to_text().reveal().trim())).unwrap()
}

fn denied<T: std::fmt::Debug>(result: BusResult<T>) -> String {
    match result {
        Err(BusError::Denied { what }) => what,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_may_do_what_his_roles_allow_and_nothing_else() {
    let ground = Ground::new();
    let (alice, sensor) = (ground.alice().await, ground.sensor().await);
    let mut subscription = alice.subscribe_bytes("sensors/kitchen").await.unwrap();
    assert_eq!(sensor.publish_bytes("sensors/kitchen", "21").await.unwrap(), 1);
    assert_eq!(soon(subscription.recv()).await.unwrap().1, "21");
    let mut serving = sensor.serve_bytes("sensors/kitchen/calibrate").await.unwrap();
    let asking = alice.clone();
    let asked =
        tokio::spawn(async move { asking.request_bytes("sensors/kitchen/calibrate", "0".into()).await });
    let (_, id, _) = soon(serving.recv()).await.unwrap();
    sensor.respond_bytes(id, "done".into()).await.unwrap();
    assert_eq!(soon(asked).await.unwrap().unwrap(), "done");

    let what = denied(alice.publish_bytes("sensors/kitchen", "99").await);
    assert!(what.contains("publishing to \"sensors/kitchen\""), "{what}");
    for pattern in ["**", "sensors/*/raw", "sensors/kitchen/*", "alarms", "$bus/stats"] {
        denied(alice.subscribe_bytes(pattern).await);
    }
    denied(alice.serve_bytes("sensors/kitchen/calibrate").await);
    denied(alice.request_bytes("$bus/stats", "".into()).await);
    denied(alice.request_bytes("other", "".into()).await);
    denied(sensor.subscribe_bytes("sensors/kitchen").await);
    for topic in ["alarms", "**", "sensors"] {
        match sensor.publish_bytes(topic, "x").await {
            Ok(_) => assert_eq!(topic, "sensors"),
            refused => {
                denied(refused);
            }
        }
    }
    assert!(matches!(sensor.publish_bytes("$bus/stats", "x").await, Err(BusError::ReservedTopic { .. })));
}

#[tokio::test]
async fn a_pipelined_publisher_learns_what_was_denied_when_it_flushes() {
    let ground = Ground::new();
    let sensor = ground.sensor().await;
    let mut subscription =
        Client::new_memory(&ground.bus.connector()).unwrap().subscribe_bytes("**").await.unwrap();
    let allowed = sensor.publisher_bytes("sensors/kitchen").unwrap();
    let forbidden = sensor.publisher_bytes("alarms/fire").unwrap();
    for _ in 0..100 {
        allowed.send(&"21".into()).await.unwrap();
        forbidden.send(&"!".into()).await.unwrap();
    }
    allowed.flush().await.unwrap();
    denied(forbidden.flush().await);
    for _ in 0..100 {
        assert_eq!(soon(subscription.recv()).await.unwrap().0.as_str(), "sensors/kitchen");
    }
}

#[tokio::test]
async fn sessions_are_called_by_what_they_have_proven() {
    let ground = Ground::new();
    let _clients = (ground.alice().await, ground.sensor().await, ground.bob("reader").await);
    let mut names: Vec<_> =
        ground.bus.sessions().iter().map(|session| session.principal.to_string()).collect();
    names.sort();
    assert_eq!(names, [r#"certificate "alice""#, r#"token "bob" of "login""#, r#"user "alice""#]);
    assert!(ground.bus.sessions().iter().any(
        |session| session.principal == Principal::Token { issuer: "login".into(), subject: "bob".into() }
    ));
}

#[tokio::test]
async fn an_operator_may_ask_the_bus_about_itself() {
    let ground = Ground::new();
    let operator = ground.bob("operator").await;
    operator.request_bytes("$bus/stats", "".into()).await.unwrap();
    denied(operator.publish_bytes("sensors/kitchen", "1").await);
}

#[tokio::test]
async fn who_shows_nothing_or_something_wrong_is_not_let_in_and_not_told_what_was_wrong() {
    let ground = Ground::new();
    let refusals = [
        ground.connect(Credentials::password("alice", "wrong horse")).await,
        ground.connect(Credentials::password("nobody", PASSWORD)).await,
        ground.connect(Credentials::token("eyJ.e30.c2ln")).await,
    ]
    .map(denied);
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:?}");
    let tls = ClientTls::new().ca_pem(ground.made.authority.pem());
    denied(Client::builder().tls(tls).connect(&ground.address(0)).await);
    assert_eq!(ground.bus.stats().sessions, 0);
}

#[cfg(unix)]
#[tokio::test]
async fn who_guesses_is_told_to_wait_and_does_not_keep_out_whom_he_guesses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let key = SigningKey::generate(TokenAlgorithm::HS256).unwrap();
    let bus = Bus::builder()
        .policy(policy(POLICY, CHEAP, &key))
        .listen(&"tcp://localhost:0".parse().unwrap())
        .listen_unix(&path)
        .start()
        .unwrap();
    let network = bus.local_addrs().iter().find(|address| matches!(address, Address::Tcp(_)));
    let (network, local) = (network.unwrap().to_string(), path.to_str().unwrap());
    let connect = async |address: &str, user: &str, password: &str| {
        Client::builder().credentials(Credentials::password(user, password)).connect(address).await
    };
    connect(local, "alice", PASSWORD).await.unwrap();

    let mut told = Vec::new();
    for user in ["alice", "nobody"] {
        let mut refused = connect(&network, user, "a guess that is wrong").await;
        let mut guesses = 1;
        while matches!(refused, Err(BusError::Denied { .. })) {
            refused = connect(&network, user, "a guess that is wrong").await;
            guesses += 1;
        }
        assert!(guesses > limits::GUESSES_OF_A_NAME, "{guesses}");
        let Err(BusError::Overloaded { what }) = refused else { panic!("{refused:?}") };
        told.push(what.trim_end_matches(|last: char| !last.is_alphabetic() || last == 's').to_owned());
    }
    assert!(told.iter().all(|what| *what == told[0] && what.contains("looked at in")), "{told:?}");
    // She comes from where she has come from before.
    connect(local, "alice", PASSWORD).await.unwrap();
}

#[tokio::test]
async fn a_new_policy_narrows_what_lives_and_ends_who_is_no_longer_let_in() {
    let ground = Ground::new();
    let (alice, sensor) = (ground.alice().await, ground.sensor().await);
    let mut kept = alice.subscribe_bytes("sensors/kitchen").await.unwrap();
    let mut lost = alice.subscribe_bytes("sensors/cellar").await.unwrap();
    let mut serving = sensor.serve_bytes("sensors/kitchen/calibrate").await.unwrap();
    // Topics that come again are cached with their right.
    for _ in 0..5 {
        sensor.publish_bytes("sensors/kitchen", "21").await.unwrap();
        sensor.publish_bytes("sensors/cellar", "12").await.unwrap();
    }
    ground.change(r#"subscribe.allow = ["sensors/**"]"#, r#"subscribe.allow = ["sensors/kitchen"]"#);
    while soon(lost.recv()).await.is_some() {}
    assert!(matches!(lost.close_reason(), Some(BusError::Denied { .. })), "{:?}", lost.close_reason());
    sensor.publish_bytes("sensors/kitchen", "last").await.unwrap();
    while soon(kept.recv()).await.unwrap().1 != "last" {}
    denied(alice.subscribe_bytes("sensors/cellar").await);

    ground.change(r#"publish.allow = ["sensors/**"]"#, r#"publish.allow = ["sensors/cellar"]"#);
    denied(sensor.publish_bytes("sensors/kitchen", "22").await);
    sensor.publish_bytes("sensors/cellar", "13").await.unwrap();
    ground.change(r#"serve.allow = ["sensors/*/calibrate"]"#, "");
    assert!(soon(serving.recv()).await.is_none());
    assert!(matches!(serving.close_reason(), Some(BusError::Denied { .. })));

    ground.change(
        r#"name = "alice"
password"#,
        r#"name = "carol"
password"#,
    );
    assert!(matches!(soon(alice.closed()).await, BusError::Denied { .. }));
    sensor.ping().await.unwrap();
}

#[tokio::test]
async fn a_session_ends_with_its_token() {
    let ground = Ground::new();
    // A token counts for half a minute longer than it says, for clocks; this one ended almost that long ago.
    let key = SigningKey::parse(ground.key.to_text().reveal()).unwrap();
    let issuer = TokenIssuer::new(key, "login", "bus").unwrap();
    let token = issuer.issue("bob", &["reader".to_owned()], Duration::from_secs(1)).unwrap();
    let policy = policy(POLICY, &ground.hash, &ground.key);
    let nobody = Principal::Network { address: ([192, 0, 2, 1], 1).into() };
    let identity = policy.authenticate(&nobody, Some(&Credentials::token(token))).await.unwrap();
    let left = identity.expires.unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(left > Duration::from_secs(25) && left < Duration::from_secs(35), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_lives_as_long_as_its_token_which_may_be_for_longer_than_it_is_waited_for_in_one_go() {
    let ground = Ground::new();
    let issuer =
        TokenIssuer::new(SigningKey::parse(ground.key.to_text().reveal()).unwrap(), "login", "bus").unwrap();
    let lasts = Duration::from_secs(5 * 60 * 60);
    let token = issuer.issue("bob", &["reader".to_owned()], lasts).unwrap();
    let (bus_end, client_end) = memory_pair();
    let nobody = Principal::Network { address: ([192, 0, 2, 1], 1).into() };
    ground.bus.attach(bus_end, Peer::new(nobody, "memory")).unwrap();
    let client = Client::builder().credentials(Credentials::token(token)).connect_link(client_end).unwrap();
    client.ping().await.unwrap();
    let start = tokio::time::Instant::now();
    let reason = client.closed().await;
    assert!(matches!(&reason, BusError::Denied { what } if what.contains("has expired")), "{reason}");
    // And half a minute, for clocks.
    let after = start.elapsed();
    assert!(after > lasts && after < lasts + Duration::from_secs(60), "{after:?}");
}

/// What gives each of these in turn, and then the last one again.
fn in_turn(
    given: Vec<BusResult<Credentials>>,
) -> impl Fn() -> Ready<BusResult<Credentials>> + Send + Sync + 'static {
    let asked = AtomicUsize::new(0);
    move || {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        ready(given[number.min(given.len() - 1)].clone())
    }
}

fn soon_back() -> Reconnect {
    let mut reconnect = Reconnect::default();
    reconnect.first_delay = Duration::from_millis(5);
    reconnect
}

#[tokio::test]
async fn a_client_whose_session_ends_with_its_credentials_comes_back_with_others_if_it_has_a_source() {
    let ground = Ground::new();
    let unreadable = BusError::Disconnected { reason: "no token yet".into() };
    let alice = || Ok(Credentials::password("alice", PASSWORD));
    // She is still shown once, and refused; then the source fails.
    let source = in_turn(vec![
        alice(),
        alice(),
        Err(unreadable),
        Ok(ground.token("reader", Duration::from_secs(600))),
    ]);
    let tls = ClientTls::new().ca_pem(ground.made.authority.pem());
    let client = Client::builder().tls(tls).credentials_from(source).reconnect(soon_back());
    let client = client.connect(&ground.address(0)).await.unwrap();
    let mut events = client.events();
    let mut subscription = client.subscribe_bytes("sensors/kitchen").await.unwrap();
    assert!(matches!(ground.bus.sessions()[0].principal, Principal::User { .. }));

    ground.change("name = \"alice\"\npassword", "name = \"carol\"\npassword");
    let lost = soon(events.recv()).await;
    assert!(matches!(&lost, Some(ClientEvent::Disconnected { .. })), "{lost:?}");
    let back = soon(events.recv()).await;
    assert!(matches!(&back, Some(ClientEvent::Reconnected { resumed: false })), "{back:?}");
    client.ping().await.unwrap();
    assert!(matches!(ground.bus.sessions()[0].principal, Principal::Token { .. }));
    // What it had subscribed to is asked for again, as who it is now.
    ground.sensor().await.publish_bytes("sensors/kitchen", "21").await.unwrap();
    assert_eq!(soon(subscription.recv()).await.unwrap().1, "21");
}

#[tokio::test]
async fn a_session_that_goes_on_has_the_rights_of_what_was_shown_last() {
    let ground = Ground::new();
    let lifetime = Duration::from_secs(600);
    let source = in_turn(vec![Ok(ground.token("reader", lifetime)), Ok(ground.token("operator", lifetime))]);
    let Address::Tcp(endpoint) = &ground.bus.local_addrs()[1] else { panic!("no TCP") };
    let relay = Relay::to(endpoint.port()).await.unwrap();
    let client = Client::builder().credentials_from(source).reconnect(soon_back());
    let client = client.connect(&format!("tcp://127.0.0.1:{}", relay.port())).await.unwrap();
    let mut events = client.events();
    let mut subscription = client.subscribe_bytes("sensors/kitchen").await.unwrap();
    let session = ground.bus.sessions()[0].id;

    relay.cut();
    soon(events.recv()).await;
    let back = soon(events.recv()).await;
    assert!(matches!(&back, Some(ClientEvent::Reconnected { resumed: true })), "{back:?}");
    assert!(soon(subscription.recv()).await.is_none(), "an operator may not read");
    assert!(matches!(subscription.close_reason(), Some(BusError::Denied { .. })));
    denied(client.subscribe_bytes("sensors/cellar").await);
    assert_eq!(ground.bus.sessions()[0].id, session);
}

#[tokio::test]
async fn only_an_administrator_stops_a_bus_whatever_patterns_allow() {
    let mut ground = Ground::new();
    let all = "request.allow = [\"$bus/**\", \"sensors/*/calibrate\"]";
    ground.change("request.allow = [\"sensors/*/calibrate\"]", all);
    let alice = ground.alice().await;
    alice.request_bytes("$bus/stats", "".into()).await.unwrap();
    let stop = StopRequest { grace_ms: 0 }.to_bytes();
    denied(alice.request_bytes("$bus/stop", stop.clone()).await);
    for pattern in ["$bus/*", "$bus/**"] {
        denied(alice.request_many_bytes(pattern, stop.clone(), ManyOptions::default()).await);
    }
    let operator = ground.connect(ground.token("operator", Duration::from_secs(60))).await.unwrap();
    operator.request_bytes("$bus/stop", stop).await.unwrap();
    soon(ground.bus.join()).await;
}

#[tokio::test]
async fn what_does_not_wait_for_a_connection_cannot_ask_a_source() {
    let ground = Ground::new();
    let client = Client::builder().credentials_from(in_turn(vec![Ok(Credentials::token("x"))]));
    let refused = client.connect_memory(&ground.bus.connector()).unwrap_err();
    assert!(
        matches!(&refused, BusError::InvalidSettings(what) if what.contains("credentials_from")),
        "{refused}"
    );
}

#[tokio::test]
async fn credentials_are_never_sent_to_another_host_as_they_are() {
    let ground = Ground::new();
    // To this host they are.
    let alice = || Client::builder().credentials(Credentials::password("alice", PASSWORD));
    alice().connect(&ground.address(1)).await.unwrap().ping().await.unwrap();

    // An address of this host that others can reach, if it has one; nothing is sent to find out.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let own = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr());
    let Some(own) = own.ok().filter(|own| !own.ip().is_loopback()) else { return };
    let hash = hash_password(&PASSWORD.into()).unwrap();
    let bus = Bus::builder()
        .policy(policy(POLICY, &hash, &ground.key))
        .listen(&format!("tcp://{}:0", own.ip()).parse().unwrap())
        .start()
        .unwrap();
    let refused = alice().connect(&bus.local_addrs()[0].to_string()).await.unwrap_err();
    assert!(refused.to_string().contains("credentials are not sent"), "{refused}");
    wait::eventually("it was left before it said anything", || bus.stats().sessions_cut_off == 1).await;
}

#[tokio::test]
async fn nobody_has_more_connections_than_one_may_have_and_others_have_theirs() {
    let ground = Ground::new();
    ground.bus.apply(&Settings { max_sessions_per_principal: 2, ..Settings::default() }).unwrap();
    let first = ground.alice().await;
    let _second = ground.alice().await;
    let third = ground.connect(Credentials::password("alice", PASSWORD)).await;
    assert!(matches!(third, Err(BusError::LimitReached { .. })), "{third:?}");
    ground.sensor().await.ping().await.unwrap();
    first.close().await.unwrap();
    wait::eventually("her place is free", || ground.bus.sessions().len() < 3).await;
    ground.alice().await.ping().await.unwrap();
}

#[tokio::test]
async fn nobody_goes_on_with_the_session_of_another_though_he_has_its_secret() {
    let ground = Ground::new();
    let link = async || {
        let mut options = ConnectOptions::default();
        options.tls = ClientTls::new().ca_pem(ground.made.authority.pem());
        connect_with(&ground.address(0).parse().unwrap(), &options).await.unwrap()
    };
    let hello = |credentials: &Credentials, resume| Hello {
        capabilities: Capabilities::RESUME,
        credentials: Some(credentials.into()),
        resume,
        ..Hello::default()
    };
    let alice = Credentials::password("alice", PASSWORD);
    let other = ground.token("reader", Duration::from_secs(600));
    let (_peer, welcome) = RawPeer::greeted(link().await, &hello(&alice, None)).await.unwrap();
    let resume =
        || Some(Resume { session: welcome.session, token: welcome.resume_token.clone(), received: 0 });
    let (_thief, answer) = RawPeer::greeted(link().await, &hello(&other, resume())).await.unwrap();
    assert!(!answer.resumed && answer.session != welcome.session);
    let (_alice, answer) = RawPeer::greeted(link().await, &hello(&alice, resume())).await.unwrap();
    assert!(answer.resumed && answer.session == welcome.session);
}
