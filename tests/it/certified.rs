//! What holds on every transport with certificates: who is let in, who is trusted, what follows when files are read
//! again, and when a certificate ends.

use whispeer::Address;
use whispeer::auth::Principal;
use whispeer::bus::BusBuilder;
use whispeer::client::{ClientEvent, Reconnect};
use whispeer::prelude::*;
use whispeer::transport::{ClientAuth, ClientTls, ServerTls};
use whispeer_testkit::certificates::{
    Authority, CLIENT, CertificateFiles, Certificates, Identity, LOCAL_NAMES, Validity, damaged,
};
use whispeer_testkit::relay::Relay;
use whispeer_testkit::wait::{eventually, soon};

/// A bus with certificates, and what its clients may show.
pub(crate) struct Ground {
    pub(crate) made: Certificates,
    pub(crate) bus: BusHandle,
}

/// The bus's side, with its certificate alone.
pub(crate) fn server(made: &Certificates) -> ServerTls {
    ServerTls::pem(made.server.pem(), made.server.key_pem())
}

/// The bus's side, asking for certificates.
pub(crate) fn asking(made: &Certificates) -> ServerTls {
    server(made).client_ca_pem(made.authority.pem()).revocations_pem(made.revocations.pem())
}

pub(crate) fn builder(scheme: &str, tls: ServerTls) -> BusBuilder {
    Bus::builder().tls(tls).listen(&format!("{scheme}://localhost:0").parse().unwrap())
}

impl Ground {
    pub(crate) fn new(scheme: &str, tls: impl FnOnce(&Certificates) -> ServerTls) -> Self {
        let made = Certificates::new();
        let bus = builder(scheme, tls(&made)).start().unwrap();
        Self { made, bus }
    }

    pub(crate) fn address(&self) -> String {
        self.bus.local_addrs()[0].to_string()
    }

    pub(crate) fn port(&self) -> u16 {
        match &self.bus.local_addrs()[0] {
            Address::Tls(endpoint) | Address::Quic(endpoint) => endpoint.port(),
            other => panic!("{other} comes first"),
        }
    }

    /// A client that trusts the right CA.
    pub(crate) fn trusting(&self) -> ClientTls {
        ClientTls::new().ca_pem(self.made.authority.pem())
    }

    pub(crate) fn showing(&self, identity: &Identity) -> ClientTls {
        self.trusting().identity_pem(identity.pem(), identity.key_pem())
    }

    pub(crate) async fn connect(&self, tls: ClientTls) -> BusResult<Client> {
        Client::builder().tls(tls).connect(&self.address()).await
    }

    pub(crate) async fn refusal(&self, tls: ClientTls) -> String {
        self.connect(tls).await.expect_err("it is refused").to_string()
    }
}

on_each!([tls, quic]: {
    a_client_that_trusts_the_bus_is_let_in_and_has_proven_nothing,
    a_bus_is_refused_that_is_not_who_the_address_says,
    a_client_is_known_by_the_name_in_its_certificate,
    who_shows_no_certificate_or_a_bad_one_is_not_let_in_and_told_why,
    where_certificates_are_optional_who_shows_none_has_proven_nothing_and_a_bad_one_is_refused,
    other_hosts_reach_a_bus_that_asks_for_certificates_and_no_other,
    a_bus_does_not_start_with_files_that_cannot_be_used,
    a_list_of_revocations_that_would_keep_everybody_out_is_refused_and_harms_nobody,
    a_bus_neither_starts_with_a_certificate_outside_its_time_nor_takes_one_later,
    certificates_are_read_again_without_ending_connections,
    a_session_whose_certificate_is_revoked_is_told_so_and_ends,
    a_certificate_that_nobody_asked_for_ends_its_session_all_the_same,
    a_session_ends_with_the_ca_that_its_certificate_is_of,
    a_session_ends_with_its_certificate,
});

async fn a_client_that_trusts_the_bus_is_let_in_and_has_proven_nothing(scheme: &str) {
    let ground = Ground::new(scheme, server);
    let client = ground.connect(ground.trusting()).await.unwrap();
    client.ping().await.unwrap();
    let session = &ground.bus.sessions()[0];
    assert_eq!(session.transport, scheme);
    assert!(matches!(session.principal, Principal::Network { .. }), "{:?}", session.principal);
}

async fn a_bus_is_refused_that_is_not_who_the_address_says(scheme: &str) {
    let ground = Ground::new(scheme, server);
    let unknown = ground.refusal(ClientTls::new().ca_pem(ground.made.stranger.pem())).await;
    assert!(unknown.contains("its CA is not trusted") && unknown.contains("--ca"), "{unknown}");
    for (identity, reason) in [
        (&ground.made.elsewhere_server, "not for the name"),
        (&ground.made.strange_server, "CA is not trusted"),
        (&ground.made.client, "not made for this use"),
    ] {
        let bus = builder(scheme, ServerTls::pem(identity.pem(), identity.key_pem())).start().unwrap();
        let address = bus.local_addrs()[0].to_string();
        let error = Client::builder().tls(ground.trusting()).connect(&address).await.unwrap_err();
        assert!(matches!(error, BusError::Connect { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

/// A bus that was started with a good certificate, and is still there when it ends.
#[tokio::test]
async fn a_bus_is_refused_whose_certificate_has_ended() {
    let ground = Ground::new("tls", |made| {
        let brief = made.authority.server_within(&LOCAL_NAMES, Validity::Seconds(2));
        ServerTls::pem(brief.pem(), brief.key_pem())
    });
    let until = ground.bus.stats().certificate_until.unwrap();
    let refusal = loop {
        if let Err(refusal) = ground.connect(ground.trusting()).await {
            break refusal.to_string();
        }
    };
    assert!(refusal.contains("expired") && std::time::SystemTime::now() >= until, "{refusal}");
}

async fn a_client_is_known_by_the_name_in_its_certificate(scheme: &str) {
    let ground = Ground::new(scheme, asking);
    let client = ground.connect(ground.showing(&ground.made.client)).await.unwrap();
    client.ping().await.unwrap();
    let name = CLIENT.to_owned();
    assert_eq!(ground.bus.sessions()[0].principal, Principal::Certificate { name });
}

async fn who_shows_no_certificate_or_a_bad_one_is_not_let_in_and_told_why(scheme: &str) {
    let ground = Ground::new(scheme, asking);
    let made = &ground.made;
    let none = ground.refusal(ground.trusting()).await;
    assert!(none.contains("asks for a certificate") && none.contains("--cert"), "{none}");
    for (identity, reason) in [
        (&made.expired_client, "expired"),
        (&made.future_client, "does not hold yet"),
        (&made.revoked_client, "revoked"),
        (&made.strange_client, "does not trust the CA"),
        (&made.server, "not made for this use"),
    ] {
        let refusal = ground.refusal(ground.showing(identity)).await;
        assert!(refusal.contains(reason), "{reason}: {refusal}");
    }
    assert_eq!(ground.bus.stats().sessions, 0);
}

async fn where_certificates_are_optional_who_shows_none_has_proven_nothing_and_a_bad_one_is_refused(
    scheme: &str,
) {
    let ground = Ground::new(scheme, |made| asking(made).client_auth(ClientAuth::Optional));
    ground.connect(ground.trusting()).await.unwrap().ping().await.unwrap();
    assert!(matches!(ground.bus.sessions()[0].principal, Principal::Network { .. }));
    ground.refusal(ground.showing(&ground.made.revoked_client)).await;
    ground.refusal(ground.showing(&ground.made.strange_client)).await;
}

async fn other_hosts_reach_a_bus_that_asks_for_certificates_and_no_other(scheme: &str) {
    let made = Certificates::new();
    let everywhere =
        |tls| Bus::builder().tls(tls).listen(&format!("{scheme}://0.0.0.0:0").parse().unwrap()).start();
    everywhere(asking(&made)).map(drop).unwrap();
    for tls in [server(&made), asking(&made).client_auth(ClientAuth::Optional)] {
        let refused = everywhere(tls).map(drop).unwrap_err().to_string();
        assert!(refused.contains("client_ca_file") && refused.contains("--allow-anyone"), "{refused}");
    }
}

async fn a_bus_does_not_start_with_files_that_cannot_be_used(scheme: &str) {
    let made = Certificates::new();
    let refused = |tls| match builder(scheme, tls).start().map(drop) {
        Err(error @ BusError::InvalidSettings(_)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let other_key = refused(ServerTls::pem(made.server.pem(), made.client.key_pem()));
    assert!(other_key.contains("its key is not the one"), "{other_key}");
    assert!(refused(ServerTls::files("nowhere.pem", "nowhere.key")).contains("nowhere.pem"));
    assert!(refused(server(&made).client_ca_pem("")).contains("BEGIN CERTIFICATE"));
    let without =
        Bus::builder().listen(&format!("{scheme}://localhost:0").parse().unwrap()).start().map(drop);
    assert!(without.unwrap_err().to_string().contains("--tls-cert"));
}

async fn a_list_of_revocations_that_would_keep_everybody_out_is_refused_and_harms_nobody(scheme: &str) {
    let (ground, files) = with_files(scheme, |tls| tls);
    let made = &ground.made;
    let client = ground.connect(ground.showing(&made.client)).await.unwrap();
    let own = made.revocations.pem();
    let both = [made.authority.pem(), made.stranger.pem()].concat();
    let newer = made.authority.revoke(&[&made.revoked_client, &made.client]);
    for (authorities, list, reason) in [
        (made.authority.pem(), made.stranger.revoke(&[]).pem(), "\"CN=strange CA\" is none of the CAs in"),
        (made.authority.pem(), &*[own, made.stranger.revoke(&[]).pem()].concat(), "is none of the CAs in"),
        (made.authority.pem(), Authority::new("test CA").revoke(&[]).pem(), "not signed by \"CN=test CA\""),
        (made.authority.pem(), &*damaged(own), "not signed by \"CN=test CA\""),
        (&both, own, "the CA \"CN=strange CA\" in"),
        (made.authority.pem(), &*[own, newer.pem()].concat(), "two lists of \"CN=test CA\""),
        (made.authority.pem(), "", "BEGIN X509 CRL"),
    ] {
        let tls = server(made).client_ca_pem(authorities).revocations_pem(list);
        let at_start = builder(scheme, tls).start().map(drop).unwrap_err();
        assert!(matches!(&at_start, BusError::InvalidSettings(what) if what.contains(reason)), "{at_start}");

        std::fs::write(&files.authority, authorities).unwrap();
        std::fs::write(&files.revocations, list).unwrap();
        let later = ground.bus.reload().unwrap_err();
        assert!(matches!(&later, BusError::InvalidSettings(what) if what.contains(reason)), "{later}");
        ground.connect(ground.showing(&made.client)).await.unwrap().ping().await.unwrap();
        assert!(ground.refusal(ground.showing(&made.revoked_client)).await.contains("revoked"));
    }
    client.ping().await.expect("who was there stays");
}

async fn a_bus_neither_starts_with_a_certificate_outside_its_time_nor_takes_one_later(scheme: &str) {
    let (ground, files) = with_files(scheme, |tls| tls);
    let until = ground.bus.stats().certificate_until;
    let future = ground.made.authority.server_within(&LOCAL_NAMES, Validity::Future);
    for (identity, reason) in
        [(&ground.made.expired_server, "it has expired"), (&future, "it does not hold before")]
    {
        let tls = ServerTls::pem(identity.pem(), identity.key_pem());
        let at_start = builder(scheme, tls).start().map(drop).unwrap_err();
        assert!(matches!(&at_start, BusError::InvalidSettings(what) if what.contains(reason)), "{at_start}");

        std::fs::write(&files.server.certificate, identity.pem()).unwrap();
        std::fs::write(&files.server.key, identity.key_pem()).unwrap();
        let later = ground.bus.reload().unwrap_err().to_string();
        assert!(later.contains("server.pem") && later.contains(reason), "{later}");
        ground.connect(ground.showing(&ground.made.client)).await.unwrap().ping().await.unwrap();
        assert_eq!(ground.bus.stats().certificate_until, until);
    }
}

async fn certificates_are_read_again_without_ending_connections(scheme: &str) {
    let (ground, files) = with_files(scheme, |tls| tls);
    let before = ground.connect(ground.showing(&ground.made.authority.client("before"))).await.unwrap();

    // A bad file changes nothing, and is named.
    std::fs::write(&files.revocations, "nonsense").unwrap();
    let error = ground.bus.reload().unwrap_err().to_string();
    assert!(error.contains("crl.pem") && error.contains("BEGIN X509 CRL"), "{error}");
    ground.refusal(ground.showing(&ground.made.revoked_client)).await;

    // Another client is revoked, and the bus has a new certificate.
    let list = ground.made.authority.revoke(&[&ground.made.revoked_client, &ground.made.client]);
    std::fs::write(&files.revocations, list.pem()).unwrap();
    let renewed = ground.made.authority.server(&["localhost", "127.0.0.1", "renewed.example"]);
    std::fs::write(&files.server.certificate, renewed.pem()).unwrap();
    std::fs::write(&files.server.key, renewed.key_pem()).unwrap();
    ground.bus.reload().unwrap();
    let refusal = ground.refusal(ground.showing(&ground.made.client)).await;
    assert!(refusal.contains("revoked"), "{refusal}");
    let newcomer = ground.made.authority.client("newcomer");
    ground.connect(ground.showing(&newcomer)).await.unwrap().ping().await.unwrap();
    before.ping().await.expect("who was there stays");
}

/// A bus that reads its files, and the files.
fn with_files(scheme: &str, options: impl FnOnce(ServerTls) -> ServerTls) -> (Ground, CertificateFiles) {
    let made = Certificates::new();
    let files = made.files();
    let tls = ServerTls::files(&files.server.certificate, &files.server.key)
        .client_ca_file(&files.authority)
        .revocations_file(&files.revocations);
    (Ground { bus: builder(scheme, options(tls)).start().unwrap(), made }, files)
}

/// Has these revoked, with the one that always is.
fn revoke(ground: &Ground, files: &CertificateFiles, revoked: &[&Identity]) {
    let revoked = [&[&ground.made.revoked_client], revoked].concat();
    std::fs::write(&files.revocations, ground.made.authority.revoke(&revoked).pem()).unwrap();
    ground.bus.reload().unwrap();
}

async fn denied(client: &Client) -> String {
    match soon("the end of the session", client.closed()).await {
        BusError::Denied { what } => what,
        other => panic!("{other:?}"),
    }
}

async fn a_session_whose_certificate_is_revoked_is_told_so_and_ends(scheme: &str) {
    let (ground, files) = with_files(scheme, |tls| tls);
    let alice = ground.connect(ground.showing(&ground.made.client)).await.unwrap();
    let bob = ground.connect(ground.showing(&ground.made.authority.client("bob"))).await.unwrap();
    let mut subscription = alice.subscribe_bytes("news").await.unwrap();
    assert_eq!(bob.publish_bytes("news", "the last").await.unwrap(), 1);

    revoke(&ground, &files, &[&ground.made.client]);
    let what = denied(&alice).await;
    assert!(what.contains("no longer good: it is revoked"), "{what}");
    assert_eq!(soon("what was delivered", subscription.recv()).await.unwrap().1, "the last");
    assert!(matches!(subscription.close_reason(), Some(BusError::Denied { .. })));
    assert_eq!(bob.publish_bytes("news", "nobody reads this").await.unwrap(), 0);
    assert_eq!(ground.bus.stats().sessions, 1);
}

async fn a_certificate_that_nobody_asked_for_ends_its_session_all_the_same(scheme: &str) {
    let (ground, files) = with_files(scheme, |tls| tls.client_auth(ClientAuth::Optional));
    let anonymous = ground.connect(ground.trusting()).await.unwrap();
    let alice = ground.connect(ground.showing(&ground.made.client)).await.unwrap();
    revoke(&ground, &files, &[&ground.made.client]);
    denied(&alice).await;
    anonymous.ping().await.unwrap();
}

async fn a_session_ends_with_the_ca_that_its_certificate_is_of(scheme: &str) {
    let (ground, files) = with_files(scheme, |tls| tls);
    let alice = ground.connect(ground.showing(&ground.made.client)).await.unwrap();
    let both = [ground.made.authority.pem(), ground.made.stranger.pem()].concat();
    std::fs::write(&files.authority, both).unwrap();
    let lists = [ground.made.revocations.pem(), ground.made.stranger.revoke(&[]).pem()].concat();
    std::fs::write(&files.revocations, lists).unwrap();
    ground.bus.reload().unwrap();
    let strange = ground.connect(ground.showing(&ground.made.strange_client)).await.unwrap();
    alice.ping().await.unwrap();

    std::fs::write(&files.authority, ground.made.stranger.pem()).unwrap();
    std::fs::write(&files.revocations, ground.made.stranger.revoke(&[]).pem()).unwrap();
    ground.bus.reload().unwrap();
    let what = denied(&alice).await;
    assert!(what.contains("its CA is not trusted any more"), "{what}");
    strange.ping().await.unwrap();
}

async fn a_session_ends_with_its_certificate(scheme: &str) {
    let ground = Ground::new(scheme, asking);
    let brief = ground.made.authority.client_within("brief", Validity::Seconds(2));
    let client = ground.connect(ground.showing(&brief)).await.unwrap();
    let what = denied(&client).await;
    assert!(what.contains("it has expired"), "{what}");
    ground.refusal(ground.showing(&brief)).await;
}

/// Puts another certificate into the files of the client.
fn show_from_now_on(files: &CertificateFiles, identity: &Identity) {
    std::fs::write(&files.client.certificate, identity.pem()).unwrap();
    std::fs::write(&files.client.key, identity.key_pem()).unwrap();
}

#[tokio::test]
async fn a_session_that_goes_on_lives_by_the_certificate_that_was_shown_last() {
    let (ground, files) = with_files("tls", |tls| tls);
    let relay = Relay::to(ground.port()).await.unwrap();
    let mut reconnect = Reconnect::default();
    reconnect.first_delay = std::time::Duration::from_millis(5);
    let tls = ground.trusting().identity_files(&files.client.certificate, &files.client.key);
    let client = Client::builder().tls(tls).reconnect(reconnect);
    let client = client.connect(&format!("tls://localhost:{}", relay.port())).await.unwrap();
    client.ping().await.unwrap();
    let mut events = client.events();
    let mut next = async || soon("what happens to the connection", events.recv()).await;
    let session = ground.bus.sessions()[0].id;

    let renewed = ground.made.authority.client(CLIENT);
    show_from_now_on(&files, &renewed);
    relay.cut();
    assert!(matches!(next().await, Some(ClientEvent::Disconnected { .. })));
    let back = next().await;
    assert!(matches!(&back, Some(ClientEvent::Reconnected { resumed: true })), "{back:?}");

    // Sessions are looked at in their order.
    let witness = ground.made.authority.client("witness");
    let witnessing = ground.connect(ground.showing(&witness)).await.unwrap();
    revoke(&ground, &files, &[&ground.made.client, &witness]);
    denied(&witnessing).await;
    client.ping().await.unwrap();
    assert_eq!(ground.bus.sessions()[0].id, session);

    // A client that reads files comes back with what they hold then.
    let newest = ground.made.authority.client(CLIENT);
    show_from_now_on(&files, &newest);
    revoke(&ground, &files, &[&ground.made.client, &renewed]);
    let lost = next().await;
    let Some(ClientEvent::Disconnected { reason }) = lost else { panic!("{lost:?}") };
    assert!(reason.to_string().contains("no longer good: it is revoked"), "{reason}");
    let back = next().await;
    assert!(matches!(&back, Some(ClientEvent::Reconnected { resumed: false })), "{back:?}");
    client.ping().await.unwrap();
    assert_ne!(ground.bus.sessions()[0].id, session);
}

#[tokio::test]
async fn a_session_whose_client_is_away_ends_with_its_certificate_and_cannot_be_come_back_to() {
    let (ground, files) = with_files("tls", |tls| tls.client_auth(ClientAuth::Optional));
    let relay = Relay::to(ground.port()).await.unwrap();
    let tls = ground.trusting().identity_files(&files.client.certificate, &files.client.key);
    let mut reconnect = Reconnect::default();
    reconnect.first_delay = std::time::Duration::from_millis(5);
    let client = Client::builder().tls(tls).reconnect(reconnect);
    let client = client.connect(&format!("tls://localhost:{}", relay.port())).await.unwrap();
    client.ping().await.unwrap();
    let mut events = client.events();

    relay.refuse();
    assert!(matches!(soon("the loss", events.recv()).await, Some(ClientEvent::Disconnected { .. })));
    assert_eq!(ground.bus.stats().sessions, 1, "it waits for its client");
    revoke(&ground, &files, &[&ground.made.client]);
    eventually("it waits no longer", || ground.bus.stats().sessions == 0).await;

    show_from_now_on(&files, &ground.made.authority.client(CLIENT));
    relay.pass();
    let back = soon("the return", events.recv()).await;
    assert!(matches!(&back, Some(ClientEvent::Reconnected { resumed: false })), "{back:?}");
}

#[tokio::test]
async fn over_websocket_a_session_ends_with_its_certificate_as_well() {
    a_session_whose_certificate_is_revoked_is_told_so_and_ends("wss").await;
}
