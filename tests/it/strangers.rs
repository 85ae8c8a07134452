//! Links within the process at whose other end is somebody from a network: what he shows is checked as over TCP.

use std::time::Duration;

use whispeer::auth::{Credentials, Policy, Principal, SigningKey, TokenAlgorithm, TokenIssuer};
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::transport::Peer;

use crate::rights::{CHEAP, PASSWORD};

const POLICY: &str = r#"
[auth.roles.reader]
subscribe.allow = ["news/**"]

[[auth.users]]
name = "alice"
password = "HASH"
roles = ["reader"]

[[auth.issuers]]
issuer = "login"
audience = "bus"
algorithm = "HS256"
key = "KEY"
roles = ["reader"]
"#;

struct Ground {
    bus: BusHandle,
    issuer: TokenIssuer,
}

impl Ground {
    fn new() -> Self {
        let key = SigningKey::generate(TokenAlgorithm::HS256).unwrap();
        let policy = POLICY.replace("HASH", CHEAP).replace("KEY", key.to_text().reveal().trim());
        let bus = Bus::builder().policy(Policy::from_toml(&policy).unwrap()).start().unwrap();
        Self { bus, issuer: TokenIssuer::new(key, "login", "bus").unwrap() }
    }

    /// Connects for somebody who has connected to a gateway from there.
    async fn connect(&self, address: &str, credentials: Option<Credentials>) -> BusResult<Client> {
        let peer = Peer::new(Principal::Network { address: address.parse().unwrap() }, "ws");
        let link = self.bus.view().connect(peer)?;
        let builder = Client::builder().no_reconnect();
        let client = match credentials {
            Some(credentials) => builder.credentials(credentials).connect_link(link)?,
            None => builder.connect_link(link)?,
        };
        client.ping().await?;
        Ok(client)
    }

    async fn enter(&self, address: &str, user: &str, password: &str) -> BusResult<Client> {
        self.connect(address, Some(Credentials::password(user, password))).await
    }

    fn token(&self, role: &str) -> Credentials {
        Credentials::token(self.issuer.issue("bob", &[role.into()], Duration::from_secs(60)).unwrap())
    }
}

fn is_denied(result: &BusResult<Client>) -> bool {
    matches!(result, Err(BusError::Denied { .. }))
}

#[tokio::test]
async fn a_password_and_a_token_are_checked_and_give_what_they_give_elsewhere() {
    let ground = Ground::new();
    let alice = ground.enter("192.0.2.1:1", "alice", PASSWORD).await.unwrap();
    let bob = ground.connect("192.0.2.1:2", Some(ground.token("reader"))).await.unwrap();
    for client in [&alice, &bob] {
        client.subscribe_bytes("news/*").await.unwrap();
        let refused = client.publish_bytes("news/local", "").await;
        assert!(matches!(refused, Err(BusError::Denied { .. })), "{refused:?}");
    }
    let known: Vec<_> =
        ground.bus.sessions().into_iter().map(|session| (session.principal, session.transport)).collect();
    let user = Principal::User { name: "alice".into() };
    let token = Principal::Token { issuer: "login".into(), subject: "bob".into() };
    assert_eq!(known, [(user, "ws".into()), (token, "ws".into())]);

    assert!(is_denied(&ground.connect("192.0.2.1:3", None).await), "who shows nothing is a stranger");
    assert!(is_denied(&ground.connect("192.0.2.1:3", Some(ground.token("operator"))).await));
    assert!(is_denied(&ground.connect("192.0.2.1:3", Some(Credentials::token("no token"))).await));
    assert!(is_denied(&ground.enter("192.0.2.1:3", "alice", "a guess that is wrong").await));
}

#[tokio::test]
async fn guesses_are_slowed_down_by_the_address_that_they_come_from_and_nobody_else_is() {
    let ground = Ground::new();
    let mut denied = 0;
    let refused = loop {
        // Each from another port and for another name, so that only the address is the same.
        let address = format!("192.0.2.1:{}", 1000 + denied);
        let refused = ground.enter(&address, &format!("user {denied}"), "a guess that is wrong").await;
        if !is_denied(&refused) {
            break refused;
        }
        denied += 1;
    };
    assert_eq!(denied, limits::GUESSES_OF_A_SOURCE + 1);
    assert!(matches!(refused, Err(BusError::Overloaded { .. })), "{refused:?}");
    let right = ground.enter("192.0.2.1:9", "alice", PASSWORD).await;
    assert!(matches!(right, Err(BusError::Overloaded { .. })), "the right one is not looked at: {right:?}");
    ground.enter("192.0.2.2:9", "alice", PASSWORD).await.unwrap();
    // A token cannot be guessed.
    ground.connect("192.0.2.1:9", Some(ground.token("reader"))).await.unwrap();
}
