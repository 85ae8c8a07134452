//! Peers whose identity the bus's own process has checked: they have the rights of the roles that it grants.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};
use whispeer::auth::{AuthSettings, Policy, Principal};
use whispeer::bus::Streams;
use whispeer::client::PublishOptions;
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::store::{MemoryStore, Name, Store, StreamSettings};
use whispeer::transport::{Peer, memory_pair};
use whispeer_testkit::wait::{eventually, now_or_never, soon};

const HOUR: Duration = Duration::from_secs(60 * 60);

const POLICY: &str = r#"
[roles.reader]
subscribe.allow = ["news/**", "log/**"]

[roles.author]
publish.allow = ["news/**", "log/**"]
"#;

fn policy(text: &str) -> Policy {
    Policy::new(&toml::from_str::<AuthSettings>(text).unwrap()).unwrap()
}

fn without(role: &str) -> Policy {
    let mut settings: AuthSettings = toml::from_str(POLICY).unwrap();
    settings.roles.remove(role).unwrap();
    Policy::new(&settings).unwrap()
}

fn guarded() -> BusHandle {
    Bus::builder().policy(policy(POLICY)).start().unwrap()
}

/// Who is known by the name `alice` to a gateway that calls itself `turbine`.
fn alice() -> Peer {
    Peer::new(Principal::Token { issuer: "turbine".into(), subject: "alice".into() }, "turbine")
}

fn connect(bus: &BusHandle, peer: Peer) -> Client {
    connect_by(bus, peer, Client::builder())
}

fn connect_by(bus: &BusHandle, peer: Peer, builder: whispeer::client::ClientBuilder) -> Client {
    let (bus_end, client_end) = memory_pair();
    bus.attach(bus_end, peer).unwrap();
    builder.connect_link(client_end).unwrap()
}

fn later(time: Duration) -> PublishOptions {
    PublishOptions::default().deliver_in(time)
}

#[track_caller]
fn denied<T: Debug>(result: BusResult<T>) -> String {
    match result {
        Err(BusError::Denied { what }) => what,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn they_may_do_what_their_roles_allow_together_and_nothing_else() {
    let bus = guarded();
    let reader = connect(&bus, alice().granted(["reader"]));
    let mut news = reader.subscribe_bytes("news/*").await.unwrap();
    denied(reader.publish_bytes("news/local", "").await);
    let author = connect(&bus, alice().granted(["author".to_owned()]));
    assert_eq!(author.publish_bytes("news/local", "hello").await.unwrap(), 1);
    assert_eq!(soon("the news", news.recv()).await.unwrap().1, "hello");
    denied(author.subscribe_bytes("news/*").await);
    let both = connect(&bus, alice().granted(["reader", "author"]));
    both.subscribe_bytes("news/*").await.unwrap();
    both.publish_bytes("news/local", "").await.unwrap();
    denied(both.publish_bytes("elsewhere", "").await);
    denied(both.request_bytes("$bus/stats", "".into()).await);
    let nobody = connect(&bus, alice().granted([""; 0]));
    denied(nobody.subscribe_bytes("news/*").await);
    // What is granted counts, and not what the principal would have without.
    let local = connect(&bus, Peer::new(Principal::Local, "turbine").granted(["reader"]));
    denied(local.publish_bytes("news/local", "").await);
    denied(local.request_bytes("$bus/stats", "".into()).await);
}

#[tokio::test]
async fn a_bus_without_authentication_gives_them_what_it_gives_everybody_and_not_its_administration() {
    let bus = Bus::builder().start().unwrap();
    for peer in [alice(), Peer::new(Principal::Local, "turbine")] {
        let client = connect(&bus, peer.granted(["whatever"]));
        let mut own = client.subscribe_bytes("a/**").await.unwrap();
        client.publish_bytes("a/b", "hello").await.unwrap();
        assert_eq!(soon("a message", own.recv()).await.unwrap().1, "hello");
        denied(client.request_bytes("$bus/stats", "".into()).await);
        denied(client.subscribe_bytes("$bus/**").await);
    }
}

/// Keeps the lines of the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("whispeer::auth")
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut lines = self.0.lock().unwrap();
        event.record(&mut Line(&mut lines));
        lines.push('\n');
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn a_role_that_the_policy_does_not_have_is_named_in_the_log_and_refuses_the_session() {
    let log = Log::default();
    let _kept = tracing::subscriber::set_default(log.clone());
    let bus = guarded();
    let told = denied(connect(&bus, alice().granted(["reader", "editor"])).ping().await);
    assert!(told.contains("its log says why") && !told.contains("editor"), "{told}");
    let lines = log.0.lock().unwrap().clone();
    assert!(lines.contains(r#"the role "editor", which the policy does not have"#), "{lines}");
    assert!(lines.contains(r#"token "alice" of "turbine""#), "{lines}");

    let many = vec!["reader"; limits::ROLES_PER_PRINCIPAL];
    connect(&bus, alice().granted(many.clone())).ping().await.unwrap();
    denied(connect(&bus, alice().granted(many.into_iter().chain(["reader"]))).ping().await);
    let lines = log.0.lock().unwrap().clone();
    assert!(lines.contains("more than the limit"), "{lines}");
    eventually("only one session is left at most", || bus.stats().sessions <= 1).await;
}

#[tokio::test]
async fn a_new_policy_gives_them_the_new_rights_of_their_roles_and_ends_them_with_a_role() {
    let bus = guarded();
    let client = connect(&bus, alice().granted(["reader"]));
    let mut news = client.subscribe_bytes("news/*").await.unwrap();
    bus.set_policy(policy(r#"roles.reader.publish.allow = ["news/**"]"#));
    assert!(soon("the end of the subscription", news.recv()).await.is_none());
    assert!(matches!(news.close_reason(), Some(BusError::Denied { .. })));
    client.publish_bytes("news/local", "").await.unwrap();
    bus.set_policy(without("reader"));
    let reason = soon("the end of the session", client.closed()).await;
    assert!(matches!(reason, BusError::Denied { .. }), "{reason}");
}

#[tokio::test]
async fn a_bus_that_gets_a_policy_asks_for_their_roles_then() {
    let bus = Bus::builder().start().unwrap();
    let (known, unknown) =
        (connect(&bus, alice().granted(["reader"])), connect(&bus, alice().granted(["editor"])));
    known.publish_bytes("news/local", "").await.unwrap();
    unknown.ping().await.unwrap();
    bus.set_policy(policy(POLICY));
    assert!(matches!(soon("its end", unknown.closed()).await, BusError::Denied { .. }));
    denied(known.publish_bytes("news/local", "").await);
    known.subscribe_bytes("news/*").await.unwrap();
    bus.set_policy(Policy::open());
    known.publish_bytes("elsewhere", "").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_they_ask_to_be_published_later_is_published_by_their_roles_of_that_time() {
    let log = StreamSettings::new(Name::new("log").unwrap(), vec![TopicPattern::new("log/**").unwrap()]);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let start = async |policy: Policy| {
        let streams = Streams::open(Arc::clone(&store), [log.clone()]).await.unwrap();
        Bus::builder().policy(policy).streams(streams).start().unwrap()
    };
    let bus = start(policy(POLICY)).await;
    let author = connect(&bus, alice().granted(["author"]));
    let mut all = Client::new_memory(&bus.connector()).unwrap().subscribe_bytes("**").await.unwrap();
    for topic in ["log/a", "news/a"] {
        author.publish_bytes_with(topic, topic, later(HOUR)).await.unwrap();
    }
    author.publish_bytes_with("log/b", "log/b", later(2 * HOUR)).await.unwrap();
    author.publish_bytes_with("log/c", "log/c", later(3 * HOUR)).await.unwrap();
    author.close().await.unwrap();
    let mut taken = [all.recv().await.unwrap().1, all.recv().await.unwrap().1];
    taken.sort();
    assert_eq!(taken, ["log/a", "news/a"]);
    bus.stop().await;

    // What is kept in a store goes on with another process.
    let bus = start(policy(POLICY)).await;
    let mut all = Client::new_memory(&bus.connector()).unwrap().subscribe_bytes("**").await.unwrap();
    assert_eq!(all.recv().await.unwrap().1, "log/b");
    bus.set_policy(without("author"));
    tokio::time::sleep(2 * HOUR).await;
    assert_eq!(bus.stats().lapsed, 1);
    assert!(now_or_never(all.recv()).await.is_none());
}

/// The session of somebody who was granted something for two hours ends then.
async fn ends_in_time(bus: BusHandle) {
    let start = Instant::now();
    let client = connect(&bus, alice().granted_until(["author"], SystemTime::now() + 2 * HOUR));
    client.publish_bytes("news/local", "").await.unwrap();
    let told = denied(client.publish_bytes_with("news/local", "", later(3 * HOUR)).await);
    assert!(told.contains("ends before the message is due"), "{told}");
    client.publish_bytes_with("news/local", "", later(HOUR)).await.unwrap();
    let endless = connect(&bus, alice().granted_until(["author"], None));
    let reason = client.closed().await;
    assert!(matches!(&reason, BusError::Denied { what } if what.contains("has expired")), "{reason}");
    let lasted = start.elapsed();
    assert!(lasted > 2 * HOUR - Duration::from_secs(1) && lasted < 2 * HOUR + Duration::from_secs(60));
    assert_eq!((bus.stats().lapsed, bus.stats().delayed_messages), (0, 0));
    let ended = connect(&bus, alice().granted_until(["author"], SystemTime::now()));
    denied(ended.ping().await);
    tokio::time::sleep(2 * HOUR).await;
    endless.ping().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn their_sessions_end_at_the_time_that_is_said() {
    ends_in_time(guarded()).await;
}

#[tokio::test(start_paused = true)]
async fn their_sessions_end_also_on_a_bus_without_authentication() {
    ends_in_time(Bus::builder().start().unwrap()).await;
}

#[tokio::test]
async fn their_wills_are_published_by_their_roles() {
    let bus = guarded();
    let reader = connect(&bus, alice().granted(["reader"]));
    let mut news = reader.subscribe_bytes("news/*").await.unwrap();
    let (bus_end, client_end) = memory_pair();
    bus.attach(bus_end, alice().granted(["author"])).unwrap();
    let (mut doomed, _) = whispeer_testkit::raw::RawPeer::welcomed(client_end).await.unwrap();
    let will = whispeer::proto::Header::new(whispeer::proto::Kind::Will, 1, 0);
    doomed.send(&will, "news/alice", b"gone").await.unwrap();
    let answer = doomed.receive().await.unwrap().unwrap();
    assert_eq!(answer.header.kind, whispeer::proto::Kind::Accepted);
    drop(doomed);
    assert_eq!(soon("the will", news.recv()).await.unwrap().1, "gone");
}

#[tokio::test]
async fn nothing_is_granted_to_who_was_not_granted_it() {
    let bus = guarded();
    // The same name, for which nobody vouches.
    denied(connect(&bus, alice()).ping().await);
    let network = || Peer::new(Principal::Network { address: ([192, 0, 2, 1], 7).into() }, "turbine");
    denied(connect(&bus, network()).ping().await);
    #[cfg(feature = "auth")]
    {
        use whispeer::auth::{Credentials, SigningKey, TokenAlgorithm, TokenIssuer};

        // Nor has it who makes a token of that name, or shows one over a link to which something is granted.
        let key = SigningKey::generate(TokenAlgorithm::HS256).unwrap();
        let forged = TokenIssuer::new(key, "turbine", "bus").unwrap();
        let forged = || Credentials::token(forged.issue("alice", &["author".into()], HOUR).unwrap());
        for peer in [network(), alice(), alice().granted(["reader"])] {
            denied(connect_by(&bus, peer, Client::builder().credentials(forged())).ping().await);
        }
    }
}
